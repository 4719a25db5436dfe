#!/bin/bash
# What docs/Dockerfile does, line by line, without docker: both stages in one Debian made by debootstrap. As root.
#
#   bash tests/install/dockerfile.sh [FOLDER]
#
# Where this machine has no CUDA toolkit the wheel is built without the CUDA library: all else is as in the image.
# FOLDER (default: a temporary one) gets up to 9 GB and is removed at the end. Commands stand on one line each there.
set -euo pipefail

if [ -z "${DCFAST_OWN_MOUNTS:-}" ]; then
  exec env DCFAST_OWN_MOUNTS=1 unshare --mount --propagation private bash "$0" "$@"
fi
top=$(realpath "$(dirname "$0")/../..")
folder=$(realpath "${1:-$(mktemp -d -t dcfast-image-XXXXXX)}")
. "$top/tests/install/debian_root.sh"
step "Debian $suite" debian ca-certificates
open_root
# apt's own settings (a proxy); sources are those of debootstrap
cp -r /etc/apt/apt.conf.d /etc/apt/auth.conf.d "$root/etc/apt/" 2>/dev/null || true
for place in $(apt-get indextargets --format '$(SITE)' | sed -nE 's|^file:/*|/|p' | sort -u); do bind "$place"; done

place=/ path=/usr/sbin:/usr/bin:/sbin:/bin stages=0 command=
while read -r word rest; do
  case $word in
    ARG | CMD | \#* | '') ;;
    FROM) stages=$((stages + 1)) place=/ ;;
    ENV) case $rest in PATH=*) path=/opt/dcfast/bin:$path ;; DEBIAN_FRONTEND=*) ;; *) echo "ENV $rest: unknown here" >&2; exit 1 ;; esac ;;
    WORKDIR) place=$rest; mkdir -p "$root$rest" ;;
    COPY)
      case $rest in
        '. .') git -C "$top" ls-files -z | tar -C "$top" --null -T - -c | tar -C "$root$place" -x ;;
        --from=build*) [ -e "$root${rest##* }" ] ;;
        *) echo "COPY $rest: unknown here" >&2; exit 1 ;;
      esac ;;
    RUN) step "stage $stages: ${rest:0:40}" inside "export DEBIAN_FRONTEND=noninteractive PATH=$path; cd $place; { $rest; } >/dev/null" ;;
    ENTRYPOINT) command=$(tr -d '[]",' <<<"$rest") ;;
    *) echo "$word: unknown here" >&2; exit 1 ;;
  esac
done <"$top/docs/Dockerfile"
[ "$stages" = 2 ] && [ -n "$command" ]
step "doctor" inside "PATH=$path $command doctor >doctor.txt"
step "a small run" inside "PATH=$path $command run --quiet --no-train >run.txt"
[ -s "$root/srv/runs/tiny/report.html" ]
echo "the image's lines lead to a report"
