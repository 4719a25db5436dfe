#!/bin/sh
# Fuzzes each target for SECONDS on inputs that our own code makes; stops at the first finding, whose input is left
# in BUILD/findings. What was new in the inputs stays in BUILD/corpus for the next run.
#
#   sh tests/fuzz/run.sh BUILD SECONDS [PYTHON]
set -eu
build=$1
seconds=$2
python=${3:-python3}
here=$(dirname "$0")
mkdir -p "$build/findings"
"$python" "$here/make_corpus.py" "$build/seeds"
for target in tar segment text model filter json arrays parquet; do
  mkdir -p "$build/corpus/$target"
  case $target in
    tar | segment | text | model) program="$build/tests/fuzz/fuzz_$target" ;;
    *) program="$python $here/fuzz_python.py $target" ;;
  esac
  # lengths beyond a few blocks come from the seeds
  $program -max_total_time="$seconds" -max_len=32768 -rss_limit_mb=2048 -timeout=20 \
    -print_final_stats=1 -verbosity=0 -artifact_prefix="$build/findings/$target-" \
    "$build/corpus/$target" "$build/seeds/$target" 2>&1 | sed "s/^/$target: /" >"$build/$target.log" || true
  if ! grep -q 'stat::number_of_executed_units' "$build/$target.log" ||
    grep -qE 'SUMMARY|ERROR: |runtime error' "$build/$target.log"; then
    cat "$build/$target.log" >&2
    echo "fuzz: $target failed; its input is in $build/findings" >&2
    exit 1
  fi
  grep -E 'number_of_executed_units|average_exec_per_sec' "$build/$target.log"
done
