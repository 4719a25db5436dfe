"""Runs all benches, one process after the other, and rewrites the README's table: ``python -m bench``.

The options are those of each bench. The last line is one JSON object with the bars of all. A bench that fails does
not stop the others; the exit status then is 1, and the table stays as it was.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from bench import harness, readme
from bench.bars import Value

BENCHES = (
    *("bench_tar_index", "bench_uid_set", "bench_hashing", "bench_random_access", "bench_reshard", "bench_loss"),
    *("bench_filters", "bench_similarity", "bench_phash", "bench_dedup", "bench_scores", "bench_sampling"),
    *("bench_hamming", "bench_kmeans", "bench_pool_dataset", "bench_acquire", "bench_decode", "bench_loader"),
    *("bench_remote", "bench_checkpoint", "bench_features"),
)


def run_bench(name: str, argv: Sequence[str]) -> dict[str, Value] | None:
    """Runs one bench with its output shown as it comes; the bars of its last line, or None where it failed."""
    command = [sys.executable, "-m", f"bench.{name}", *argv]
    last = ""
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=harness.REPO_ROOT) as child:
        assert child.stdout is not None
        for line in child.stdout:
            sys.stdout.write(line)
            sys.stdout.flush()
            last = line
    if child.returncode != 0:
        print(f"{name} FAILED with exit status {child.returncode}", flush=True)
        return None
    values: dict[str, Value] = json.loads(last)
    return values


def main(argv: Sequence[str] | None = None) -> int:
    arguments = list(sys.argv[1:] if argv is None else argv)
    options = harness.parse_options("__main__", arguments, __doc__)
    began = time.monotonic()
    bars: dict[str, Value] = {}
    failed = []
    for name in BENCHES:
        print(f"=== {name}", flush=True)
        values = run_bench(name, arguments)
        if values is None:
            failed.append(name)
        bars |= values or {}
    results = Path(options.results).resolve()
    print(f"=== all benches in {time.monotonic() - began:.0f} s; rows in {results}")
    # quick rows, or rows elsewhere, say nothing about the README's machine
    if not failed and not options.quick and results == harness.REPO_ROOT / "bench" / "results":
        readme.main([])
    print(json.dumps(bars), flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
