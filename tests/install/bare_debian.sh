#!/bin/bash
# From a Debian with nothing but Python to a report: a root made by debootstrap, a wheel, pip, dcfast run. As root.
#
#   bash tests/install/bare_debian.sh dist/dcfast-0.1.0-cp311-*.whl [FOLDER]
#
# FOLDER (default: a temporary one) gets 1 GB of Debian and up to 7 GB of packages, and is removed at the end; what is
# mounted there is seen by this script alone. Each step's seconds are printed; more than 600 s from wheel to report is
# a failure. Packages come from where apt and pip of this machine take theirs. RUN_ARGS: more options of `dcfast run`.
set -euo pipefail

if [ -z "${DCFAST_OWN_MOUNTS:-}" ]; then
  exec env DCFAST_OWN_MOUNTS=1 unshare --mount --propagation private bash "$0" "$@"
fi
wheel=$(realpath "$1")
folder=$(realpath "${2:-$(mktemp -d -t dcfast-debian-XXXXXX)}")
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

command -v debootstrap >/dev/null || { apt-get update -qq && apt-get install -y -qq debootstrap >/dev/null; }
suite=$(. /etc/os-release && echo "$VERSION_CODENAME")
mirror=$(apt-get indextargets --format '$(REPO_URI)' "Created-By: Packages" "Codename: $suite" | head -n 1)
debian() {
  debootstrap --variant=minbase --include=python3,python3-venv,ca-certificates "$suite" "$root" "$mirror" \
    >"$folder/debootstrap.log" || { tail -n 20 "$folder/debootstrap.log"; return 1; }
  rm "$folder/debootstrap.log"
}
step "Debian $suite with python3 and python3-venv alone" debian
total=0  # counted from the wheel on

mount -t proc proc "$root/proc"
mounted+=("$root/proc")
mount --rbind /dev "$root/dev"
mount --make-rslave "$root/dev"
mounted+=("$root/dev")
bind /etc/resolv.conf
bind /etc/hosts
# what pip is told here, and the files and folders that it is told of
told=$(python3 -m pip config list)
{ echo '[global]'; sed -nE "s/^(:env:|global|install)\\.([a-z-]+)='(.*)'$/\\2 = \\3/p" <<<"$told" | awk '!seen[$1]++'; } >"$root/etc/pip.conf"
for place in $(grep -oE "(file://)?/[^ ,']+" <<<"$told" | sed -E 's|^file://||; s|/simple$||' | sort -u); do
  if [ -e "$place" ]; then bind "$place"; fi
done
cp "$wheel" "$root/srv/"

inside() {
  env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/srv LANG=C.UTF-8 RUN_ARGS="${RUN_ARGS:-}" \
    $(env | grep -E '^(https?_proxy|HTTPS?_PROXY|no_proxy|NO_PROXY)=') \
    chroot "$root" sh -ec "cd /srv; $1"
}
inside 'for tool in cc gcc g++ make cmake git; do ! command -v $tool || exit 1; done'
step "python3 -m venv" inside 'python3 -m venv env'
step "pip install of the wheel with [run]" inside 'env/bin/pip install -qq "$(ls dcfast-*.whl)[run]"'
step "dcfast doctor" inside 'env/bin/dcfast doctor >doctor.txt'
step "dcfast run" inside 'env/bin/dcfast run --quiet $RUN_ARGS >run.txt'
[ -s "$root/srv/runs/tiny/report.html" ]
du -sh "$root/srv/env" | awk '{print "the environment holds " $1}'
echo "from wheel to report: $total s"
[ "$total" -le 600 ] || { echo "wanted: 600 s at most" >&2; exit 1; }
