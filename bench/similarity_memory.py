"""Peak of memory of a search whose queries are read in blocks: a constant, and what the result takes.

    python -m bench.similarity_memory             # 10^4 to 10^6 queries
    python -m bench.similarity_memory --quick     # tiny sizes: a test of this script

Each size is a process of its own; a peak above ``CONSTANT + BYTES_A_QUERY x queries`` is an error. Rows go to
``similarity_memory.jsonl``.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from bench import harness
from bench.harness import REPO_ROOT

WIDTH, DATABASE, K = 256, 1000, 10
BYTES_A_QUERY = 12 * K
"""The result's scores and indices."""
CONSTANT = 400 << 20
"""Python, NumPy, a block of queries of 64 MiB twice while the next is made, 33 MB a thread."""
SIZES = (10_000, 100_000, 1_000_000)
QUICK_SIZES = (1_000, 5_000)


class MadeRows:
    """Rows made up when they are read."""

    def __init__(self, count: int) -> None:
        self.shape, self.dtype = (count, WIDTH), np.dtype(np.float16)

    def __getitem__(self, rows: slice) -> npt.NDArray[np.float16]:
        begin, end, _ = rows.indices(self.shape[0])
        made = np.empty((end - begin, WIDTH), np.float16)
        for start in range(begin, end, 4096):  # little memory beside the block itself
            number = np.arange(start, min(end, start + 4096), dtype=np.float32)[:, None]
            made[start - begin :][: len(number)] = np.sin(number * np.arange(1, WIDTH + 1, dtype=np.float32))
        return made


def child(count: int) -> None:
    import dcfast

    found = dcfast.topk(MadeRows(count), MadeRows(DATABASE)[0:DATABASE], K, metric="l2", threads=2)
    # the first queries are the database's own rows
    own = found.indices[: min(count, DATABASE), 0]
    print(json.dumps({"right": bool((own == np.arange(len(own))).all()), "rows": len(found.scores)}))


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench.similarity_memory", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--quick", action="store_true", help="tiny sizes: a test of this script")
    parser.add_argument("--results", type=Path, default=REPO_ROOT / "bench" / "results", help="directory of the rows")
    parser.add_argument("--child", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if options.child:
        child(options.child)
        return 0
    rows, status = [], 0
    for count in QUICK_SIZES if options.quick else SIZES:
        peak, _, text = harness.peak_memory(["-m", "bench.similarity_memory", "--child", str(count)])
        answer = json.loads(text)
        if not answer["right"] or answer["rows"] != count:
            raise harness.WrongAnswerError(f"dcfast: wrong answer for {count} queries: {answer}")
        bound = CONSTANT + BYTES_A_QUERY * count
        status |= peak > bound
        rows.append(
            {"op": "topk_memory", "queries": count, "peak_bytes": peak, "bound": bound, "date_utc": harness.now()}
        )
        print(f"{count:>10,} queries: {peak / 1e6:.0f} MB, bound {bound / 1e6:.0f} MB", flush=True)
    options.results.mkdir(parents=True, exist_ok=True)
    with open(options.results / "similarity_memory.jsonl", "a", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
    return status


if __name__ == "__main__":
    sys.exit(main())
