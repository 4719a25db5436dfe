"""How the pool index grows: pools of made-up uids, up to 10^8 samples, indexed and asked for a million uids each.

    python -m bench.growth            # 10^5 to 10^8: needs 5 GB of disk, and writes docs/growth.svg
    python -m bench.growth --quick    # tiny sizes: a test of this script

The samples have no tars: their uids come from a counter, so that the answer to every look-up is known; all answers are
compared before a time counts. Build and look-up run in a process each, whose memory is watched. Rows go to
``growth.jsonl``: op ``pool_index_build`` and ``pool_index_lookup``, with the number of samples, the peak resident
memory beside mapped files, and the peak with them.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from bench import harness
from bench.harness import REPO_ROOT, require_equal

QUERIES = 1_000_000
QUICK_QUERIES = 5_000
SAMPLES_A_SHARD = 10_000
MOST_SEGMENTS = 4096
SIZES = (100_000, 1_000_000, 10_000_000, 100_000_000)
QUICK_SIZES = (1_000, 20_000)
# the last of every hundred samples has the uid of the one before it
REPEAT = 100


def mix(values: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """splitmix64's finaliser: a permutation of 64-bit numbers that looks random."""
    z = (values + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed: npt.NDArray[np.uint64] = z ^ (z >> np.uint64(31))
    return mixed


def uids_of(samples: npt.NDArray[np.uint64]) -> npt.NDArray[Any]:
    """The uids of samples by number; numbers from 2^40 on are in no pool."""
    number = np.where(samples % np.uint64(REPEAT) == REPEAT - 1, samples - np.uint64(1), samples)
    uids = np.empty(len(number), "u8,u8")
    uids["f0"], uids["f1"] = mix(number), mix(number ^ np.uint64(1 << 63))
    return uids


def row_ids_of(samples: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    size = np.uint64(SAMPLES_A_SHARD)
    ids: npt.NDArray[np.uint64] = samples // size << np.uint64(32) | samples % size
    return ids


class MadeSegment:
    """What ``build_pool_records`` reads of an index segment, made up: neighbouring shards of full size."""

    def __init__(self, first_shard: int, shards: int, samples: int) -> None:
        first = first_shard * SAMPLES_A_SHARD
        self.num_shards = shards
        self.num_samples = min(samples - first, shards * SAMPLES_A_SHARD)
        ends = np.minimum(np.arange(shards + 1) * SAMPLES_A_SHARD, self.num_samples)
        self.shard_sample_begin = ends.astype(np.uint64)
        self.flags = np.zeros(self.num_samples, np.uint16)
        self.uid = uids_of(np.arange(first, first + self.num_samples, dtype=np.uint64))


def layout_of(samples: int) -> list[tuple[int, int]]:
    """(first shard, shards) of each segment, as a pool of this size is cut."""
    shards = -(-samples // SAMPLES_A_SHARD)
    size = 1
    while size * MOST_SEGMENTS < shards:
        size *= 2
    return [(first, min(size, shards - first)) for first in range(0, shards, size)]


def build(folder: Path, samples: int) -> dict[str, Any]:
    """Writes the pool index; its time is that of the whole, making up the uids included."""
    from dcfast.index.pool_index import build_pool_records

    began, began_cpu = time.perf_counter(), time.process_time()
    parts = layout_of(samples)
    made: Any = (MadeSegment(first, shards, samples) for first, shards in parts)
    report = build_pool_records(made, folder / "pool.npy")
    seconds, cpu = time.perf_counter() - began, time.process_time() - began_cpu
    text = {"shards": sum(shards for _, shards in parts), "segments": parts}
    (folder / "index.json").write_text(json.dumps(text))
    require_equal("dcfast", "number of rows", report.rows_out, samples)
    return {"seconds": [seconds], "cpu": [cpu]}


def look_up(folder: Path, samples: int, queries: int) -> dict[str, Any]:
    """Uids in random order, nine of ten in the pool; the first time from disk where the page cache was emptied."""
    from dcfast.index.pool_index import PoolIndex

    rng = np.random.default_rng(samples)
    numbers = rng.integers(0, samples, queries, dtype=np.uint64)
    absent = rng.random(queries) < 0.1
    numbers[absent] += np.uint64(1 << 40)
    asked = uids_of(numbers)
    # the rows of each: itself, or both of a repeated pair that the pool has whole
    last = numbers % np.uint64(REPEAT)
    first = np.where(last == REPEAT - 1, numbers - np.uint64(1), numbers)
    counts = np.where(absent, 0, np.where((last >= REPEAT - 2) & (first + np.uint64(1) < samples), 2, 1))
    within = np.arange(int(counts.sum())) - np.repeat(np.cumsum(counts) - counts, counts)
    expected = row_ids_of(np.repeat(first, counts) + within.astype(np.uint64))

    index = PoolIndex.open(folder)
    times, cpu = [], []
    for turn in range(6):
        began, began_cpu = time.perf_counter(), time.process_time()
        found = index.find(asked)
        times.append(time.perf_counter() - began)
        cpu.append(time.process_time() - began_cpu)
        if turn == 0:
            require_equal("dcfast", "rows of each uid", found.counts, counts.astype(np.int64))
            require_equal("dcfast", "row ids", found.row_ids, expected)
    return {"seconds": times[1:], "cpu": cpu[1:], "cold": times[0]}


def forget_pages(path: Path) -> None:
    """Drops a file from the page cache."""
    with open(path, "rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def measure(step: str, folder: Path, *numbers: int) -> dict[str, Any]:
    """A step in a process of its own: its figures, and its peaks of memory."""
    peak, _, text = harness.peak_memory(["-m", "bench.growth", "--child", step, str(folder), *map(str, numbers)])
    figures: dict[str, Any] = json.loads(text.splitlines()[-1])
    return {**figures, "peak_bytes": peak}


def row_of(op: str, samples: int, shape: str, figures: dict[str, Any], file_bytes: int) -> dict[str, Any]:
    seconds = figures["seconds"]
    low, middle, high = harness.quantiles(seconds)
    return {
        "op": op,
        "provider": "dcfast",
        "shape": shape,
        "samples": samples,
        "reps": len(seconds),
        "median_s": middle,
        "p20_s": low,
        "p80_s": high,
        "cpu_s": statistics.median(figures["cpu"]),
        "cold_s": figures.get("cold"),
        "peak_bytes": figures["peak_bytes"],
        "peak_with_maps_bytes": figures["max_rss"],
        "file_bytes": file_bytes,
        "checked": True,
        "cpu": harness.cpu_name(),
        "gpu": None,
        "threads": os.cpu_count(),
        "versions": harness.versions(),
        "commit": harness.commit(),
        "date_utc": harness.now(),
        "note": "peak_bytes: resident beside mapped files; cpu_s: of all threads; cold_s: first time, no page cache",
    }


def plot(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Time and memory against size, both on logarithmic scales."""
    import matplotlib as mpl

    mpl.use("Agg")
    mpl.rcParams["svg.hashsalt"] = "dcfast"
    from matplotlib import pyplot as plt

    by_op = {op: [r for r in rows if r["op"] == op] for op in ("pool_index_build", "pool_index_lookup")}
    built, asked = by_op["pool_index_build"], by_op["pool_index_lookup"]
    samples = [r["samples"] for r in built]
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    left.plot(samples, [r["median_s"] for r in built], "C0o-", label="build of the pool index")
    left.plot(samples, [r["cpu_s"] for r in built], "C0:", label="its CPU time")
    left.plot(samples, [r["cold_s"] for r in asked], "C1s--", label="1M look-ups, from disk")
    left.plot(samples, [r["median_s"] for r in asked], "C2^-", label="1M look-ups, in page cache")
    left.plot(samples, [r["cpu_s"] for r in asked], "C2:", label="their CPU time")
    left.axhline(1.0, color="grey", linewidth=0.8, linestyle=":")
    left.set(title="time", ylabel="seconds")
    right.plot(samples, [r["file_bytes"] / 1e6 for r in built], "d--", label="pool.npy on disk")
    right.plot(samples, [r["peak_bytes"] / 1e6 for r in built], "o-", label="peak of the build")
    right.plot(samples, [r["peak_bytes"] / 1e6 for r in asked], "^-", label="peak of the look-ups")
    right.set(title="memory, beside mapped files", ylabel="MB")
    for axis in (left, right):
        axis.set(xscale="log", yscale="log", xlabel="samples in the pool")
        axis.grid(alpha=0.3)
        axis.legend()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, format="svg", metadata={"Date": None})
    plt.close(figure)


def run(sizes: Sequence[int], queries: int, results: Path, figure: Path, cache: str | None) -> list[dict[str, Any]]:
    rows = []
    results.mkdir(parents=True, exist_ok=True)
    for samples in sizes:
        with tempfile.TemporaryDirectory(prefix="dcfast-growth-", dir=cache) as name:
            folder = Path(name)
            built = measure("build", folder, samples)
            size = (folder / "pool.npy").stat().st_size
            forget_pages(folder / "pool.npy")
            asked = measure("look_up", folder, samples, queries)
        shape = f"{samples} samples"
        new = [row_of("pool_index_build", samples, shape, built, size)]
        new.append(row_of("pool_index_lookup", samples, f"{shape}, {queries} uids", asked, size))
        rows += new
        with open(results / "growth.jsonl", "a", encoding="utf-8") as file:
            file.writelines(json.dumps(row) + "\n" for row in new)
        warm, mega = statistics.median(asked["seconds"]), 1e-6
        once, busy, most = built["seconds"][0], built["cpu"][0], built["peak_bytes"] * mega
        print(f"{samples:>12,} samples: built in {once:.2f} s, {busy:.2f} s of CPU, {most:.0f} MB;", end=" ")
        busy, most = statistics.median(asked["cpu"]), asked["peak_bytes"] * mega
        print(
            f"{queries:,} look-ups in {warm:.3f} s, {busy:.3f} s of CPU, {most:.0f} MB; from disk {asked['cold']:.2f} s"
        )
        sys.stdout.flush()
    plot(newest(results), figure)
    return rows


def newest(results: Path) -> list[dict[str, Any]]:
    """The last row of each step and size, by size: sizes may have been measured in several runs."""
    lines = (results / "growth.jsonl").read_text(encoding="utf-8").splitlines()
    last = {(row["samples"], row["op"]): row for row in map(json.loads, lines)}
    return [last[key] for key in sorted(last)]


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.growth", description=(__doc__ or "").split("\n")[0])
    add = parser.add_argument
    add("--quick", action="store_true", help="tiny sizes: a test of this script")
    add("--sizes", type=float, nargs="+", help="numbers of samples (default 1e5 to 1e8)")
    add("--results", type=Path, default=REPO_ROOT / "bench" / "results", help="directory of growth.jsonl")
    add("--plot", type=Path, default=REPO_ROOT / "docs" / "growth.svg", help="the plot to write")
    add("--cache", help="where the index is written; default: the directory for temporary files")
    add("--child", nargs="+", help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.child:
        step, folder, *numbers = args.child
        figures = {"build": build, "look_up": look_up}[step](Path(folder), *map(int, numbers))
        max_rss = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        print(json.dumps({**figures, "max_rss": max_rss}))
        return 0
    sizes = [int(n) for n in args.sizes] if args.sizes else QUICK_SIZES if args.quick else SIZES
    rows = run(sizes, QUICK_QUERIES if args.quick else QUERIES, args.results, args.plot, args.cache)
    print(json.dumps({f"{row['op']}_{row['samples']}_s": round(row["median_s"], 4) for row in rows}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
