"""XXH3-128 of all members of a pool: in memory beside the rate at which one thread reads it, and from files beside
the bare reads.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from bench import floors, harness, make_pool, reference
from bench.bars import MEMORY_READ, Value
from bench.harness import Absent, Side, require_equal

Shards = list[tuple[Any, npt.NDArray[np.uint64], npt.NDArray[np.uint64]]]

READ_FLOOR = "floor: one pread a member"


def ours(shards: Shards, threads: int) -> npt.NDArray[Any]:
    """dcfast's hashes of the members of each shard, a path or its bytes."""
    import dcfast

    return np.concatenate([dcfast.hash_members(*shard, threads=threads) for shard in shards])


def with_xxhash(shards: Shards) -> list[bytes]:
    """Python's xxhash over slices of the mapped shards."""
    import xxhash

    found = []
    for data, offset, size in shards:
        view = memoryview(data)
        for begin, length in zip(offset.tolist(), size.tolist(), strict=True):
            found.append(xxhash.xxh3_128_digest(view[begin : begin + length]))
    return found


def with_md5(shards: Shards) -> list[bytes]:
    """What people use today, over the same slices."""
    found = []
    for data, offset, size in shards:
        view = memoryview(data)
        for begin, length in zip(offset.tolist(), size.tolist(), strict=True):
            found.append(hashlib.md5(view[begin : begin + length], usedforsecurity=False).digest())
    return found


def as_uids(digests: list[bytes]) -> npt.NDArray[Any]:
    """Digests, big-endian, as "u8,u8"."""
    words = np.frombuffer(b"".join(digests), ">u8").astype(np.uint64)
    return words.view(np.dtype("u8,u8"))


def time_hashing(bench: harness.Bench, pool: make_pool.Pool) -> None:
    members = reference.pool_members(pool.shards)
    columns = [np.array([row[1:] for row in shard], np.uint64) for shard in members]
    ranges = [(np.ascontiguousarray(c[:, 0]), np.ascontiguousarray(c[:, 1])) for c in columns]
    files: Shards = [(path, *pair) for path, pair in zip(pool.shards, ranges, strict=True)]
    total = sum(int(size.sum()) for _, size in ranges)
    # copies in memory: of mapped files the page faults would be counted too
    memory: Shards = [(np.fromfile(path, np.uint8), *pair) for path, pair in zip(pool.shards, ranges, strict=True)]
    if not harness.version_of("xxhash"):
        raise SystemExit("bench_hashing checks its answers with xxhash: pip install 'dcfast[bench]'")
    digests = with_xxhash(memory)
    expected = as_uids(digests)

    def dcfast(provider: str, shards: Shards, threads: int) -> Side:
        check = partial(require_equal, provider, "hashes", expected=expected)
        return Side(provider, partial(ours, shards, threads), check, threads=threads)

    def floor(provider: str, run: Any, answer: int) -> Side | Absent:
        return Side(provider, run, partial(require_equal, provider, "answer", expected=answer))

    shape = f"{len(expected)} members, {total / 1e6:.0f} MB"
    threads = bench.options.threads
    with harness.WorkDir(bench.options) as work:
        compiled = floors.load(work)
        # as many bytes as are hashed
        words = [data[: int(size.sum()) // 8 * 8].view(np.uint64) for data, _, size in memory]
        word_sum = sum(int(part.sum(dtype=np.uint64)) for part in words) % 2**64
        in_memory: list[Side | Absent] = [
            dcfast("dcfast", memory, 1),
            dcfast(f"dcfast, {threads} threads", memory, threads),
            Absent(MEMORY_READ, compiled)
            if isinstance(compiled, str)
            else floor(MEMORY_READ, lambda: sum(compiled.sum_words(part) for part in words) % 2**64, word_sum),
            Side(
                "Python xxhash",
                lambda: with_xxhash(memory),
                partial(require_equal, "Python xxhash", "hashes", expected=digests),
                versions=harness.version_of("xxhash"),
            ),
            Side(
                "hashlib.md5",
                lambda: with_md5(memory),
                lambda got: require_equal("hashlib.md5", "number of hashes", len(got), len(expected)),
            ),
        ]
        where = f"{shape} in memory"
        bench.compare("hash_members", in_memory, shape=where, dtype="uint8", size_bytes=total, touched=words)
        from_files: list[Side | Absent] = [
            dcfast("dcfast", files, 1),
            dcfast(f"dcfast, {threads} threads", files, threads),
            Absent(READ_FLOOR, compiled)
            if isinstance(compiled, str)
            else floor(READ_FLOOR, lambda: compiled.pread_shards(files, touch=False), total),
        ]
        shape += " in cached files"
        bench.compare("hash_files", from_files, shape=shape, dtype="uint8", size_bytes=total, touched=pool.shards)


def main(argv: Sequence[str] | None = None) -> dict[str, Value]:
    options = harness.parse_options("bench_hashing", argv, __doc__)
    bench = harness.Bench("bench_hashing", options)
    time_hashing(bench, make_pool.make_pool(make_pool.QUICK if options.quick else make_pool.FULL, options.cache))
    return bench.finish()


if __name__ == "__main__":
    main()
    sys.exit(0)
