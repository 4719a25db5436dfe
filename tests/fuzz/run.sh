#!/bin/sh
# Fuzzes each target for SECONDS on inputs that our own code makes and those that earlier runs kept; stops at the first
# finding, whose input is left in BUILD/findings. What was new in the inputs stays in BUILD/corpus for the next run.
#
#   sh tests/fuzz/run.sh BUILD SECONDS [PYTHON] [keep]
#
# keep: afterwards tests/fuzz/corpora holds the smallest set of inputs that reaches all that was reached; of at most
# 4 KiB each, so that it stays small.
set -eu
build=$1
seconds=$2
python=${3:-python3}
keep=${4:-}
here=$(dirname "$0")
mkdir -p "$build/findings"
"$python" "$here/make_corpus.py" "$build/seeds"
for target in tar segment text model crop filter json arrays parquet; do
  mkdir -p "$build/corpus/$target"
  rm -rf "$build/kept/$target"
  mkdir -p "$build/kept/$target"
  [ ! -e "$here/corpora/$target.tar.xz" ] || "$python" -m tarfile -e "$here/corpora/$target.tar.xz" "$build/kept"
  program="$build/tests/fuzz/fuzz_$target"
  case $target in
    filter | json | arrays | parquet)
      printf '#!/bin/sh\nexec "%s" "%s/fuzz_python.py" "$0" "$@"\n' "$python" "$here" >"$program"
      chmod +x "$program"
      ;;
  esac
  # lengths beyond a few blocks come from the seeds
  $program -max_total_time="$seconds" -max_len=32768 -rss_limit_mb=2048 -timeout=20 \
    -print_final_stats=1 -verbosity=0 -artifact_prefix="$build/findings/$target-" \
    "$build/corpus/$target" "$build/seeds/$target" "$build/kept/$target" 2>&1 |
    sed "s/^/$target: /" >"$build/$target.log" || true
  if ! grep -q 'stat::number_of_executed_units' "$build/$target.log" ||
    grep -qE 'SUMMARY|ERROR: |runtime error' "$build/$target.log"; then
    cat "$build/$target.log" >&2
    echo "fuzz: $target failed; its input is in $build/findings" >&2
    exit 1
  fi
  grep -E 'number_of_executed_units|average_exec_per_sec' "$build/$target.log"
  if [ "$keep" = keep ]; then
    rm -rf "$build/smallest"
    mkdir -p "$build/smallest/$target" "$here/corpora"
    $program -merge=1 -max_len=4096 -verbosity=0 "$build/smallest/$target" "$build/corpus/$target" \
      "$build/seeds/$target" "$build/kept/$target" >"$build/$target-merge.log" 2>&1
    tar --sort=name --mtime=@0 --owner=0 --group=0 --numeric-owner -C "$build/smallest" -cJf \
      "$here/corpora/$target.tar.xz" "$target"
  fi
done
