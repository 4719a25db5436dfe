"""Peaks of memory, constant and growth: a search whose queries are read in blocks, and the copies of a pool.

    python -m bench.similarity_memory             # 10^4 to 10^7 rows, and docs/memory.svg: eight minutes
    python -m bench.similarity_memory --quick     # tiny sizes: a test of this script

Each size is a process of its own; a peak above its bound, a constant and some bytes a row, is an error. Rows go to
``similarity_memory.jsonl``.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from bench import bench_dedup, harness
from bench.harness import REPO_ROOT

WIDTH, DATABASE, K = 256, 1000, 10
BYTES_A_QUERY = 12 * K
"""The result's scores and indices."""
CONSTANT = 400 << 20
"""Python, NumPy, a block of queries of 64 MiB twice while the next is made, 33 MB a thread."""
DEDUP_CONSTANT, DEDUP_BYTES_A_ROW = 600 << 20, 40
"""Python and NumPy, two blocks of 2^21 hashes and what joins them; what matches, here two samples of a hundred."""
SIZES = (10_000, 100_000, 1_000_000, 10_000_000)
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


def topk_peak(count: int) -> int:
    peak, _, text = harness.peak_memory(["-m", "bench.similarity_memory", "--child", str(count)])
    answer = json.loads(text)
    if not answer["right"] or answer["rows"] != count:
        raise harness.WrongAnswerError(f"dcfast: wrong answer for {count} queries: {answer}")
    return peak


def dedup_peak(count: int) -> int:
    with tempfile.TemporaryDirectory(prefix="dcfast-memory-") as folder:
        bench_dedup.write(Path(folder), count)
        return harness.peak_memory(["-m", "bench.bench_dedup", "--child", folder, str(count), "perceptual256"])[0]


CASES = {
    "topk_memory": (topk_peak, CONSTANT, BYTES_A_QUERY, "the ten best of so many queries"),
    "dedup_memory": (dedup_peak, DEDUP_CONSTANT, DEDUP_BYTES_A_ROW, "copies among so many signatures of 256 bits"),
}


def plot(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Peaks and bounds against the number of rows."""
    import matplotlib as mpl

    mpl.use("Agg")
    mpl.rcParams["svg.hashsalt"] = "dcfast"
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, len(CASES), figsize=(10, 4), layout="constrained", squeeze=False)
    for axis, (op, (_, constant, a_row, title)) in zip(axes[0], CASES.items(), strict=True):
        own = [row for row in rows if row["op"] == op]
        counts = [row["rows"] for row in own]
        axis.plot(counts, [row["peak_bytes"] / 1e6 for row in own], "o-", label="peak")
        label = f"bound: {constant >> 20} MiB and {a_row} bytes a row"
        axis.plot(counts, [row["bound"] / 1e6 for row in own], "--", label=label)
        axis.set(title=title, xscale="log", xlabel="rows", ylabel="MB", ylim=(0, None))
        axis.grid(alpha=0.3)
        axis.legend()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, format="svg", metadata={"Date": None})
    plt.close(figure)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench.similarity_memory", description=(__doc__ or "").split("\n")[0]
    )
    add = parser.add_argument
    add("--quick", action="store_true", help="tiny sizes: a test of this script")
    add("--results", type=Path, default=REPO_ROOT / "bench" / "results", help="directory of the rows")
    add("--plot", type=Path, default=REPO_ROOT / "docs" / "memory.svg", help="the plot to write")
    add("--child", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if options.child:
        child(options.child)
        return 0
    rows, status = [], 0
    for op, (measure, constant, a_row, _) in CASES.items():
        for count in QUICK_SIZES if options.quick else SIZES:
            peak, bound = measure(count), constant + a_row * count
            status |= peak > bound
            rows.append({"op": op, "rows": count, "peak_bytes": peak, "bound": bound, "date_utc": harness.now()})
            print(f"{op}: {count:>10,} rows: {peak / 1e6:.0f} MB, bound {bound / 1e6:.0f} MB", flush=True)
    options.results.mkdir(parents=True, exist_ok=True)
    with open(options.results / "similarity_memory.jsonl", "a", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
    plot(rows, options.plot)
    return status


if __name__ == "__main__":
    sys.exit(main())
