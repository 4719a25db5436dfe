"""Hamming joins of a million hashes with 100,000 at most 8 bits apart, beside faiss's binary flat index.

Hashes of uniform bits; hashes that crowd as those of real pictures do (each bit is one with a probability of its own,
neighbours depend on each other), a hundredth of them one and the same; 256 bits. A pool with itself, for the record.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from bench import harness
from bench.bars import FAISS_BINARY, Value
from bench.harness import Absent, Side, require_equal

Hashes = npt.NDArray[np.uint64]
Triples = npt.NDArray[np.int64]


def uniform(count: int, words: int, seed: int) -> Hashes:
    shape = (count, words) if words > 1 else (count,)
    return np.random.default_rng(seed).integers(0, 2**64, shape, dtype=np.uint64)


def crowded(count: int, seed: int) -> Hashes:
    """64-bit hashes with skewed bits in chains; a hundredth of them is one hash."""
    rng = np.random.default_rng(seed)
    share = np.random.default_rng(0).uniform(0.25, 0.75, 64)
    bits = rng.random((count, 64)) < share
    follows = rng.random((count, 64)) < 0.3
    for i in range(1, 64):
        bits[:, i] = np.where(follows[:, i], bits[:, i - 1], bits[:, i])
    found = np.packbits(bits, axis=1).view(np.uint64)[:, 0]
    found[rng.permutation(count)[: count // 100]] = 0x5555AAAA33331111
    return found


def planted(a: Hashes, b: Hashes, seed: int) -> None:
    """Makes a thousandth of b near copies of hashes of a, 0 to 10 bits away, in place."""
    rng = np.random.default_rng(seed)
    places = rng.permutation(len(b))[: len(b) // 1000]
    b[places] = a[rng.integers(0, len(a), len(places))]
    words = b.reshape(len(b), -1)
    for turn in range(10):
        some = places[rng.random(len(places)) < turn / 10]
        words[some, rng.integers(0, words.shape[1], len(some))] ^= np.uint64(1) << rng.integers(
            0, 64, len(some), dtype=np.uint64
        )


def ours(a: Hashes, b: Hashes | None, distance: int, threads: int) -> Triples:
    """(pairs, 3): ia, ib, distance."""
    from dcfast.similarity import hamming_join

    return np.stack([column.astype(np.int64) for column in hamming_join(a, b, distance, threads=threads)], axis=1)


def with_faiss(a: Hashes, b: Hashes, distance: int, threads: int) -> Triples:
    import faiss

    faiss.omp_set_num_threads(threads)
    index = faiss.IndexBinaryFlat(64 * b.reshape(len(b), -1).shape[1])
    index.add(b.view(np.uint8).reshape(len(b), -1))
    limits, distances, found = index.range_search(a.view(np.uint8).reshape(len(a), -1), distance + 1)
    rows = np.repeat(np.arange(len(a)), np.diff(limits.astype(np.int64)))
    order = np.lexsort((found, rows))
    return np.stack([rows[order], found[order], distances[order].astype(np.int64)], axis=1)


def time_join(bench: harness.Bench, op: str, a: Hashes, b: Hashes, distance: int) -> None:
    threads = bench.options.threads
    known: list[Triples] = []

    def check(provider: str, got: Triples) -> None:
        known.append(got)
        require_equal(provider, "pairs", got, known[0])

    def side(provider: str, run: Callable[..., Triples], count: int, **about: Any) -> Side:
        return Side(provider, partial(run, a, b, distance, count), partial(check, provider), threads=count, **about)

    sides: list[Side | Absent] = [
        side("dcfast", ours, threads),
        side("dcfast, 1 thread", ours, 1),
    ]
    if versions := harness.version_of("faiss-cpu"):
        sides.append(side(FAISS_BINARY, with_faiss, threads, versions=versions, once=True))
    else:
        sides.append(Absent(FAISS_BINARY, "faiss-cpu is not installed"))
    shape = f"{len(a)} x {len(b)}, {64 * b.reshape(len(b), -1).shape[1]} bits, at most {distance}"
    bench.compare(op, sides, shape=shape, dtype="uint64", size_bytes=a.nbytes + b.nbytes, touched=[a, b])


def time_self_join(bench: harness.Bench, hashes: Hashes, distance: int) -> None:
    threads = bench.options.threads

    def check(got: Triples) -> None:
        both = ours(hashes, hashes, distance, threads)
        require_equal("dcfast", "pairs", got, both[both[:, 0] < both[:, 1]])

    run = partial(ours, hashes, None, distance, threads)
    side = Side("dcfast", run, check, threads=threads)
    bench.compare("hamming_self_join", [side], shape=f"{len(hashes)}, 64 bits, at most {distance}", dtype="uint64")


def main(argv: Sequence[str] | None = None) -> dict[str, Value]:
    options = harness.parse_options("bench_hamming", argv, __doc__)
    bench = harness.Bench("bench_hamming", options)
    shrink = 50 if options.quick else 1
    n, m = 1_000_000 // shrink, 100_000 // shrink
    for op, a, b, distance in (
        ("hamming_join", uniform(n, 1, 1), uniform(m, 1, 2), 8),
        ("hamming_join_crowded", crowded(n, 3), crowded(m, 4), 8),
        ("hamming_join_256", uniform(m, 4, 5), uniform(m, 4, 6), 31),
    ):
        planted(a, b, 7)
        time_join(bench, op, a, b, distance)
    time_self_join(bench, uniform(n, 1, 8), 8)
    return bench.finish()


if __name__ == "__main__":
    main()
    sys.exit(0)
