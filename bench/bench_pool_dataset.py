"""Every sample of a pool by torch's DataLoader, without workers: dcfast's datasets beside webdataset's.

In order, and shuffled: webdataset by its own way, shards in a random order and a buffer; dcfast by blocks in windows
of as many samples, and by random numbers one batch at a time. All give the same samples, every byte of which is hashed.
Decoding is left out: it would be the same work.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from bench import harness, make_pool, reference
from bench.bars import DCFAST_NUMBERS, WEBDATASET_ORDER, WEBDATASET_SHUFFLED, Value
from bench.harness import Absent, Side, WrongAnswerError, require_equal

BATCH = 256
BUFFER = 2048  # samples that webdataset mixes; dcfast's windows have 16 x 128

Read = list[tuple[str, int]]
"""Key, and the hash of all members' hashes, of each sample in the order in which they came."""


def hashed(key: str, members: Iterable[tuple[str, bytes]]) -> tuple[str, int]:
    import xxhash

    whole = xxhash.xxh3_64()
    for ext, content in sorted(members):
        whole.update(ext.encode() + xxhash.xxh3_64_digest(content))
    return key, whole.intdigest()


def of_ours(sample: Any) -> tuple[str, int]:
    return hashed(sample.key, sample.members.items())


def of_theirs(sample: dict[str, Any]) -> tuple[str, int]:
    return hashed(sample["__key__"], ((k, v) for k, v in sample.items() if not k.startswith("__")))


def loaded(dataset: Any, **options: Any) -> Read:
    """The samples of an epoch."""
    from torch.utils.data import DataLoader

    return [row for batch in DataLoader(dataset, batch_size=BATCH, collate_fn=list, **options) for row in batch]


def webdataset_of(shards: list[str], shuffle: int) -> Any:
    import webdataset

    dataset = webdataset.WebDataset(shards, shardshuffle=len(shards) if shuffle else False, empty_check=False)
    return (dataset.shuffle(shuffle) if shuffle else dataset).map(of_theirs)


def _expected(pool: make_pool.Pool) -> Read:
    """By Python's tarfile and plain reads."""
    found = []
    for path, members in zip(pool.shards, reference.pool_members(pool.shards), strict=True):
        samples: dict[str, list[tuple[str, bytes]]] = {}
        for name, offset, size in members:
            key, _, ext = name.partition(".")
            samples.setdefault(key, []).append((ext, reference.read_at(path, offset, size)))
        found += [hashed(key, parts) for key, parts in samples.items()]
    return found


def check_shuffled(provider: str, expected: Read) -> Callable[[Read], None]:
    def check(got: Read) -> None:
        if got == expected:
            raise WrongAnswerError(f"{provider}: the samples come in the order of the pool; expected a random one")
        require_equal(provider, "samples, sorted", sorted(got), expected)

    return check


def check_ordered(provider: str, expected: Read) -> Callable[[Read], None]:
    return lambda got: require_equal(provider, "samples", got, expected)


def _ours(pool: make_pool.Pool, work: Path, expected: Read) -> tuple[list[Side | Absent], list[Side | Absent]]:
    """The sides that shuffle, and those that do not."""
    try:
        from dcfast import PoolDataset, PoolIterableDataset, PoolReader
    except ImportError as error:
        return [Absent("dcfast", str(error))], [Absent("dcfast", str(error))]
    from dcfast.index.build import write_segment

    segment = str(work / "pool.dcx")
    write_segment([(path, os.path.basename(path)) for path in pool.shards], segment)
    reader = PoolReader(pool.shards_dir, [segment])
    by_number = PoolDataset(reader, transform=of_ours)
    windows = PoolIterableDataset(reader, transform=of_ours)
    in_order = PoolIterableDataset(reader, shuffle=False, transform=of_ours)
    shuffled, ordered = check_shuffled("dcfast", expected), check_ordered("dcfast", expected)
    at_random = check_shuffled(DCFAST_NUMBERS, expected)
    return [
        Side("dcfast", lambda: loaded(windows), shuffled, threads=4),
        Side(DCFAST_NUMBERS, lambda: loaded(by_number, shuffle=True), at_random, threads=4),
    ], [Side("dcfast", lambda: loaded(in_order), ordered, threads=4)]


def time_datasets(bench: harness.Bench, pool: make_pool.Pool) -> None:
    if not harness.version_of("xxhash") or not harness.version_of("torch"):
        raise SystemExit("bench_pool_dataset needs torch and xxhash: pip install 'dcfast[train,bench]'")
    expected = _expected(pool)

    def theirs(provider: str, shuffle: int, check: Callable[[str, Read], Callable[[Read], None]]) -> Side | Absent:
        version = harness.version_of("webdataset")
        if not version:
            return Absent(provider, "not installed")
        return Side(
            provider,
            lambda: loaded(webdataset_of(pool.shards, shuffle)),
            check(provider, expected),
            versions=version,
        )

    size = pool.tar_bytes
    shape = f"{len(expected)} samples, {size / 1e6:.0f} MB, batches of {BATCH}"
    with harness.WorkDir(bench.options) as work:
        shuffled, ordered = _ours(pool, work, expected)
        shuffled.append(theirs(WEBDATASET_SHUFFLED, BUFFER, check_shuffled))
        ordered.append(theirs(WEBDATASET_ORDER, 0, check_ordered))
        bench.compare("dataset_shuffled", shuffled, shape=shape, size_bytes=size, touched=pool.shards)
        bench.compare("dataset_ordered", ordered, shape=shape, size_bytes=size, touched=pool.shards)


def main(argv: Sequence[str] | None = None) -> dict[str, Value]:
    options = harness.parse_options("bench_pool_dataset", argv, __doc__)
    bench = harness.Bench("bench_pool_dataset", options)
    time_datasets(bench, make_pool.make_pool(make_pool.QUICK if options.quick else make_pool.FULL, options.cache))
    return bench.finish()


if __name__ == "__main__":
    main()
    sys.exit(0)
