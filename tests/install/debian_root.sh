# A Debian made by debootstrap, to be entered by chroot; sourced, as root, in a mount namespace of its own.
#
# Sets `folder` and `root`; gives `debian`, `open_root`, `bind`, `inside` and `step`. What is mounted goes at the end,
# and the root with it. Packages come from where apt and pip of this machine take theirs.

root=$folder/root
mkdir -p "$root"
mounted=()
finish() {
  for ((i = ${#mounted[@]} - 1; i >= 0; i--)); do umount -R -l "${mounted[$i]}"; done
  rm -rf --one-file-system "$root" "$folder/debootstrap.log"
  rmdir --ignore-fail-on-non-empty "$folder"
}
trap finish EXIT
trap 'exit 143' TERM  # after the step at work: what it still writes would stay

bind() {  # a folder or file of this machine, read-only, at the same place in there
  mkdir -p "$root$(dirname "$1")"
  if [ -d "$1" ]; then mkdir -p "$root$1"; else touch "$root$1"; fi
  mount --bind "$1" "$root$1"
  mounted+=("$root$1")
  mount -o remount,ro,bind "$root$1"
}

total=0
step() {  # a name, and a command: timed
  local name=$1 began=$SECONDS
  shift
  "$@"
  last=$((SECONDS - began))
  total=$((total + last))
  printf '%-52s %4d s\n' "$name" "$last"
}

suite=$(. /etc/os-release && echo "$VERSION_CODENAME")
debian() {  # packages beside the essential ones
  command -v debootstrap >/dev/null || { apt-get update -qq && apt-get install -y -qq debootstrap >/dev/null; }
  local mirror
  mirror=$(apt-get indextargets --format '$(REPO_URI)' "Created-By: Packages" "Codename: $suite" | head -n 1)
  debootstrap --variant=minbase --include="$(IFS=,; echo "$*")" "$suite" "$root" "$mirror" \
    >"$folder/debootstrap.log" || { tail -n 20 "$folder/debootstrap.log"; return 1; }
  rm "$folder/debootstrap.log"
}

open_root() {  # what a process needs in there, and the package indexes of this machine
  mount -t proc proc "$root/proc"
  mounted+=("$root/proc")
  mount --rbind /dev "$root/dev"
  mount --make-rslave "$root/dev"
  mounted+=("$root/dev")
  bind /etc/resolv.conf
  bind /etc/hosts
  # what pip is told here, and the files and folders that it is told of
  local told place
  told=$(python3 -m pip config list)
  { echo '[global]'; sed -nE "s/^(:env:|global|install)\\.([a-z-]+)='(.*)'$/\\2 = \\3/p" <<<"$told" | awk '!seen[$1]++'; } >"$root/etc/pip.conf"
  for place in $(grep -oE "(file://)?/[^ ,']+" <<<"$told" | sed -E 's|^file://||; s|/simple$||' | sort -u); do
    if [ -e "$place" ]; then bind "$place"; fi
  done
}

inside() {
  env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/srv LANG=C.UTF-8 RUN_ARGS="${RUN_ARGS:-}" \
    $(env | grep -E '^(https?_proxy|HTTPS?_PROXY|no_proxy|NO_PROXY)=') \
    chroot "$root" sh -ec "cd /srv; $1"
}
