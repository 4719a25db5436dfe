#!/bin/bash
# From a Debian with nothing but Python to a report: a root made by debootstrap, a wheel, pip, dcfast run. As root.
#
#   bash tests/install/bare_debian.sh dist/dcfast-0.1.0-cp311-*.whl [FOLDER]
#
# FOLDER (default: a temporary one) gets 1 GB of Debian and up to 7 GB of packages, and is removed at the end; what is
# mounted there is seen by this script alone. Each step's seconds are printed; more than 600 s from wheel to report is
# a failure. RUN_ARGS: more options of `dcfast run`.
set -euo pipefail

if [ -z "${DCFAST_OWN_MOUNTS:-}" ]; then
  exec env DCFAST_OWN_MOUNTS=1 unshare --mount --propagation private bash "$0" "$@"
fi
wheel=$(realpath "$1")
folder=$(realpath "${2:-$(mktemp -d -t dcfast-debian-XXXXXX)}")
. "$(dirname "$0")/debian_root.sh"
step "Debian $suite with python3 and python3-venv alone" debian python3 python3-venv ca-certificates
total=0  # counted from the wheel on
open_root
cp "$wheel" "$root/srv/"

inside 'for tool in cc gcc g++ make cmake git; do ! command -v $tool || exit 1; done'
step "python3 -m venv" inside 'python3 -m venv env'
step "pip install of the wheel with [run]" inside 'env/bin/pip install -qq "$(ls dcfast-*.whl)[run]"'
step "dcfast doctor" inside 'env/bin/dcfast doctor >doctor.txt'
step "dcfast run" inside 'env/bin/dcfast run --quiet $RUN_ARGS >run.txt'
[ -s "$root/srv/runs/tiny/report.html" ]
du -sh "$root/srv/env" | awk '{print "the environment holds " $1}'
echo "from wheel to report: $total s"
[ "$total" -le 600 ] || { echo "wanted: 600 s at most" >&2; exit 1; }
