"""Read 30% of a pool's samples in random order, every byte of every member hashed: dcfast from its index, webdataset
by reading on and skipping, which is all it can do.

Both sides hash with Python's xxhash, member by member, and must find the same hashes; dcfast must give the samples
in the order that was asked.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from bench import floors, harness, make_pool, reference
from bench.bars import WEBDATASET, Value
from bench.floors import Floors
from bench.harness import Absent, Side, require_equal

SAMPLE_FLOOR = "floor: one pread a sample"

Hashes = dict[tuple[str, str], int]


def ours(reader: Any, uids: npt.NDArray[Any]) -> tuple[list[str], Hashes]:
    """The uids in the order they came, and the hash of each member."""
    import xxhash
    from dcfast.access import iterate_uids

    order: list[str] = []
    found: Hashes = {}
    for sample in iterate_uids(reader, uids):
        order.append(sample.uid)
        for ext, content in sample.members.items():
            found[sample.key, ext] = xxhash.xxh3_64_intdigest(content)
    return order, found


def by_skipping(shards: list[str], wanted: set[str]) -> Hashes:
    """webdataset over the whole pool; the samples that are not wanted are dropped by their key."""
    import webdataset
    import xxhash

    found: Hashes = {}
    for sample in webdataset.WebDataset(shards, shardshuffle=False, empty_check=False):
        key = sample["__key__"]
        if key in wanted:
            for ext, content in sample.items():
                if not ext.startswith("__"):
                    found[key, ext] = xxhash.xxh3_64_intdigest(content)
    return found


def _expected(pool: make_pool.Pool, rows: npt.NDArray[np.int64]) -> tuple[list[str], Hashes]:
    """Keys in the asked order, and the hashes, by Python's tarfile and plain reads."""
    import xxhash

    by_shard = zip(pool.shards, reference.pool_members(pool.shards), strict=True)
    members = [(path, *row) for path, shard in by_shard for row in shard]
    keys, hashes = [], {}
    for row in rows.tolist():
        for path, name, offset, size in members[3 * row : 3 * row + 3]:
            key, _, ext = name.partition(".")
            hashes[key, ext] = xxhash.xxh3_64_intdigest(reference.read_at(path, offset, size))
        keys.append(key)
    return keys, hashes


def _floor(pool: make_pool.Pool, rows: npt.NDArray[np.int64], threads: int, compiled: Floors | str) -> Side | Absent:
    """A pread of each sample, in the order asked within each shard, every word of it summed."""
    if isinstance(compiled, str):
        return Absent(SAMPLE_FLOOR, compiled)
    per_shard = []
    for number, shard in enumerate(reference.pool_members(pool.shards)):
        spans = np.array([(a[1], c[1] + c[2]) for a, _, c in zip(*[iter(shard)] * 3, strict=True)], np.uint64)
        here = rows[rows // pool.size.samples == number] % pool.size.samples
        begin, end = np.ascontiguousarray(spans[here, 0]), spans[here, 1]
        per_shard.append((pool.shards[number], begin, np.ascontiguousarray(end - begin)))
    total = sum(int(size.sum()) for _, _, size in per_shard)

    def run() -> int:
        with ThreadPoolExecutor(threads) as workers:
            return sum(workers.map(lambda shard: compiled.pread_ranges(*shard, touch=True), per_shard))

    return Side(SAMPLE_FLOOR, run, lambda got: require_equal(SAMPLE_FLOOR, "bytes read", got, total), threads=threads)


def _ours_side(pool: make_pool.Pool, uids: Any, expected: tuple[list[str], Hashes], work: Path) -> Side | Absent:
    try:
        from dcfast.access import PoolReader
    except ImportError as error:
        return Absent("dcfast", str(error))
    from dcfast.index.build import write_segment

    segment = str(work / "pool.dcx")
    write_segment([(path, os.path.basename(path)) for path in pool.shards], segment)
    reader = PoolReader(pool.shards_dir, [segment])

    def check(answer: tuple[list[str], Hashes]) -> None:
        order, found = answer
        require_equal("dcfast", "order of uids", order, [f"{int(hi):016x}{int(lo):016x}" for hi, lo in uids])
        require_equal("dcfast", "hashes of members", found, expected[1])
        require_equal("dcfast", "order of keys", list(dict.fromkeys(key for key, _ in found)), expected[0])

    return Side("dcfast", lambda: ours(reader, uids), check, threads=4, note="reads ahead in 4 threads")


def time_random_reads(bench: harness.Bench, pool: make_pool.Pool) -> None:
    if not harness.version_of("xxhash"):
        raise SystemExit("bench_random_access hashes with xxhash: pip install 'dcfast[bench]'")
    all_uids = reference.pool_uids(pool.shards)
    rows = np.flatnonzero(np.isin(all_uids, np.load(pool.subset_file)))
    rows = rows[np.random.Generator(np.random.PCG64(5)).permutation(len(rows))]
    uids = all_uids[rows]
    expected = _expected(pool, rows)

    def check_webdataset(found: Hashes) -> None:
        require_equal(WEBDATASET, "hashes of members", found, expected[1])

    with harness.WorkDir(bench.options) as work:
        version = harness.version_of("webdataset")
        wanted = set(expected[0])
        sides = [
            _ours_side(pool, uids, expected, work),
            _floor(pool, rows, bench.options.threads, floors.load(work)),
            Side(WEBDATASET, lambda: by_skipping(pool.shards, wanted), check_webdataset, versions=version)
            if version
            else Absent(WEBDATASET, "not installed"),
        ]
        size = round(pool.tar_bytes * pool.size.fraction)
        shape = f"{len(rows)} of {len(all_uids)} samples, {size / 1e6:.0f} MB"
        bench.compare("random_read", sides, shape=shape, size_bytes=size, touched=pool.shards)


def main(argv: Sequence[str] | None = None) -> dict[str, Value]:
    options = harness.parse_options("bench_random_access", argv, __doc__)
    bench = harness.Bench("bench_random_access", options)
    time_random_reads(bench, make_pool.make_pool(make_pool.QUICK if options.quick else make_pool.FULL, options.cache))
    return bench.finish()


if __name__ == "__main__":
    main()
    sys.exit(0)
