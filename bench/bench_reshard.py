"""Reshard 30% of a pool: the whole process beside DataComp's resharder.py, and in process beside cp of the output.

Every output is read back with Python's tarfile and compared, member by member, with a plain reading of the pool.
Nobody else waits for the disk: dcfast is timed without fsync, and once more with it.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from bench import floors, harness, make_pool, reference
from bench.bars import DATACOMP, Value
from bench.floors import Floors
from bench.harness import Absent, Side, require_equal

CP = "cp of the output"
COPY_FLOOR = "floor: pread and write"

_SCRIPT = (
    "import sys, dcfast\n"
    "pool, out, subset, sync = sys.argv[1:]\n"
    "dcfast.reshard(pool, out, subset, sync=sync == 'sync')\n"
)


def md5(content: bytes) -> bytes:
    return hashlib.md5(content, usedforsecurity=False).digest()


def _checked(provider: str, directory: Path, expected: dict[str, bytes]) -> Callable[[Any], None]:
    def check(_: Any) -> None:
        require_equal(provider, "list of members", reference.written_members(directory, md5), expected)

    return check


def _run(command: Sequence[str], cwd: Path) -> None:
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)} exited with {done.returncode}: {done.stderr[-1000:]}")


def time_shell(bench: harness.Bench, pool: make_pool.Pool, expected: dict[str, bytes], work: Path) -> None:
    def dcfast(provider: str, sync: str, note: str) -> Side:
        out = work / f"shell-{sync}"
        command = [sys.executable, "-c", _SCRIPT, str(pool.shards_dir), str(out), str(pool.subset_file), sync]
        run = partial(_run, command, harness.REPO_ROOT)
        return Side(provider, run, _checked(provider, out, expected), harness.emptied(out), threads=2, note=note)

    sides = [
        dcfast("dcfast", "no-sync", "index and reshard, without fsync, as the peer"),
        dcfast("dcfast, with fsync", "sync", "index and reshard; all files and the directory are fsynced"),
        _datacomp_side(bench, pool, expected, work),
    ]
    shape, size = _shape(pool, expected), _output_bytes(pool)
    bench.compare("reshard_shell", sides, shape=shape, size_bytes=size, touched=pool.shards)


def _datacomp_side(bench: harness.Bench, pool: make_pool.Pool, expected: dict[str, bytes], work: Path) -> Side | Absent:
    options = bench.options
    if not options.datacomp or not options.datacomp_python:
        return Absent(DATACOMP, "pass --datacomp DIR and --datacomp-python PATH")
    script = Path(options.datacomp).resolve() / "resharder.py"
    if not script.is_file():
        return Absent(DATACOMP, f"{script} is not there")
    help_text = subprocess.run([options.datacomp_python, str(script), "--help"], capture_output=True, text=True)
    if help_text.returncode != 0:
        last = (help_text.stderr.strip().splitlines() or ["no message"])[-1]
        return Absent(DATACOMP, f"resharder.py does not start: {last}")
    asked = "import importlib.metadata as m; print(m.version('webdataset'))"
    version = subprocess.run([options.datacomp_python, "-c", asked], capture_output=True, text=True).stdout.strip()
    out = work / "datacomp"
    places = ["-i", str(pool.shards_dir), "-o", str(out), "-s", str(pool.subset_file)]
    command = [options.datacomp_python, str(script), *places, "-j", str(options.threads)]
    return Side(
        DATACOMP,
        partial(_run, command, work),
        _checked(DATACOMP, out, expected),
        harness.emptied(out),
        threads=options.threads,
        versions={"webdataset": version},
    )


def _shape(pool: make_pool.Pool, expected: dict[str, bytes]) -> str:
    samples = pool.size.shards * pool.size.samples
    return f"{len(expected) // 3} of {samples} samples, {_output_bytes(pool) / 1e6:.0f} MB out"


def _output_bytes(pool: make_pool.Pool) -> int:
    return round(pool.tar_bytes * pool.size.fraction)


def time_in_process(
    bench: harness.Bench, pool: make_pool.Pool, expected: dict[str, bytes], work: Path, compiled: Floors | str
) -> None:
    """An output shard a thread, from an index that is there already."""
    import dcfast
    from dcfast.index.build import write_segment

    segment = str(work / "pool.dcx")
    write_segment([(path, os.path.basename(path)) for path in pool.shards], segment)
    subset = np.load(pool.subset_file)
    threads = bench.options.threads
    shard_size = -(-len(subset) // threads)

    def ours(provider: str, sync: bool) -> Side:
        out = work / f"in-process-{sync}"
        options = {"shards_dir": pool.shards_dir, "shard_size": shard_size, "threads": threads, "sync": sync}
        run = partial(dcfast.reshard, [segment], out, subset, **options)
        return Side(provider, run, _checked(provider, out, expected), harness.emptied(out), threads=threads)

    source, copy = work / "in-process-False", work / "copy"
    dcfast.reshard([segment], source, subset, shards_dir=pool.shards_dir, shard_size=shard_size, sync=False)
    kept = work / "to-copy"
    shutil.copytree(source, kept)
    sides = [
        ours("dcfast", False),
        ours("dcfast, with fsync", True),
        Side(
            CP,
            lambda: subprocess.run(["cp", "-r", str(kept), str(copy)], check=True),
            _checked(CP, copy, expected),
            lambda: shutil.rmtree(copy, ignore_errors=True),
            note="cp -r of the output directory",
        ),
        _copy_floor(pool, subset, threads, work, compiled),
    ]
    shape, size = _shape(pool, expected), _output_bytes(pool)
    bench.compare("reshard", sides, shape=shape, size_bytes=size, rounds=7, touched=pool.shards)


def _copy_floor(pool: make_pool.Pool, subset: Any, threads: int, work: Path, compiled: Floors | str) -> Side | Absent:
    """One pread a selected sample, writes of 4 MiB, a file a thread."""
    if isinstance(compiled, str):
        return Absent(COPY_FLOOR, compiled)
    wanted = np.isin(reference.pool_uids(pool.shards), subset)
    spans = []
    for shard, members in enumerate(reference.pool_members(pool.shards)):
        # three members a sample
        spans += [(shard, three[0][1], three[2][1] + three[2][2]) for three in zip(*[iter(members)] * 3, strict=True)]
    file, begin, end = (np.array(column)[wanted] for column in zip(*spans, strict=True))
    parts = np.array_split(np.arange(len(file)), threads)
    out = work / "floor"

    def one(k: int) -> int:
        part = parts[k]
        offset, size = begin[part].astype(np.uint64), (end - begin)[part].astype(np.uint64)
        return compiled.copy_ranges(pool.shards, file[part].astype(np.uint32), offset, size, str(out / f"{k}"))

    def run() -> int:
        with ThreadPoolExecutor(threads) as workers:
            return sum(workers.map(one, range(threads)))

    def check(copied: int) -> None:
        require_equal(COPY_FLOOR, "bytes copied", copied, int((end - begin).sum()))

    return Side(COPY_FLOOR, run, check, harness.emptied(out), threads=threads)


def measure_memory(bench: harness.Bench, pool: make_pool.Pool) -> None:
    """Index and reshard of many shards in a process of its own: each uid stands in many shards."""
    times = 2 if bench.options.quick else 100
    with harness.WorkDir(bench.options) as work:
        make_pool.linked_pool(pool, times, work / "pool")
        subset = np.load(pool.subset_file)
        few = work / "few.npy"
        np.save(few, subset[:: max(1, times // 2) * 2])
        count = len(np.load(few)) * times
        out = work / "out"
        arguments = ["-c", _SCRIPT + "print(len(subset))", str(work / "pool"), str(out), str(few), "no-sync"]
        peak, seconds, _ = harness.peak_memory(arguments)
        written = sum(1 for name in reference.written_members(out, len) if name.endswith(".json"))
        require_equal("dcfast", "number of samples", written, count)
    note = "peak of RssAnon + RssShmem, Python, imports and indexing included"
    shape = f"{times * pool.size.shards} shards, {count} samples written"
    bench.note_memory("memory_reshard", "dcfast", peak, shape=shape, seconds=seconds, note=note)


def main(argv: Sequence[str] | None = None) -> dict[str, Value]:
    options = harness.parse_options("bench_reshard", argv, __doc__)
    bench = harness.Bench("bench_reshard", options)
    pool = make_pool.make_pool(make_pool.QUICK if options.quick else make_pool.FULL, options.cache)
    expected = reference.selected_members(pool.shards, np.load(pool.subset_file), md5)
    with harness.WorkDir(options) as work:
        time_in_process(bench, pool, expected, work, floors.load(work))
        time_shell(bench, pool, expected, work)
    measure_memory(bench, pool)
    return bench.finish()


if __name__ == "__main__":
    main()
    sys.exit(0)
