"""Near copies of a sample's picture in its own pool, by the signatures of the run."""

from __future__ import annotations

import heapq

import numpy as np
import numpy.typing as npt

from dcfast.dedup.records import SIGNATURE_DTYPE
from dcfast.rundir.layout import signature_path
from dcfast.rundir.lookup import Place, SampleLookup
from dcfast.similarity.hamming import hamming_join
from dcfast.storage.npz import load_array
from dcfast.storage.records import Record

MOST_UNASKED = 20_000_000
"""Samples of a pool that is looked through without being asked: there is no index of what looks alike, so that all
signatures are read, 67 bytes each. Of 12.8 billion samples they are 858 GB."""
SHOWN = 12


class NearCopy(Record):
    """``identical``: the very bytes; else ``distance`` bits of 64 between the perceptual hashes."""

    shard: str
    row: int
    key: str
    uid: str | None
    distance: int
    identical: bool
    fate: str | None
    reason: str | None


class NearCopies(Record):
    """The nearest of ``found`` copies among ``looked`` samples; ``problem``: why they were not looked for."""

    found: int = 0
    looked: int = 0
    max_distance: int = 0
    nearest: list[NearCopy] = []
    problem: str | None = None


def near_copies(samples: SampleLookup, place: Place, max_distance: int, *, whole_pool: bool) -> NearCopies:
    """Looks for copies of a sample's picture: identical bytes, or perceptual hashes within ``max_distance`` bits.

    Flat pictures look alike only where their bytes are the same. Memory: the signatures of a segment. Cost: all
    signatures are read, about a second for 20 million.
    """
    if not (samples.out / signature_path(place.segment)).exists():
        return NearCopies(problem="pictures were not signed in this run (--verify-images, or --evalsets DIR)")
    with_uid = len(samples.index)  # nearly all samples: the others are counted as they are read
    if with_uid > MOST_UNASKED and not whole_pool:
        size = f"{with_uid:,} signatures, {SIGNATURE_DTYPE.itemsize * with_uid / 1e9:,.1f} GB"
        return NearCopies(problem=f"not looked for, because all of the pool's {size} would be read (--copies does)")
    signatures = load_array(samples.out / signature_path(place.segment), mmap=True)
    own = np.array(signatures[place.sample])
    if own["status"] != 0:
        return NearCopies(problem="its picture could not be decoded, so that it has no hashes")
    best: list[tuple[int, bool, int, int]] = []  # distance, not identical, segment, sample
    found = looked = 0
    for number in range(samples.num_segments):
        signatures = load_array(samples.out / signature_path(number), mmap=True)
        looked += len(signatures)
        some = _in_segment(signatures, own, max_distance)
        named = [(distance, not same, number, sample) for sample, distance, same in some]
        named = [copy for copy in named if copy[2:] != (place.segment, place.sample)]
        found += len(named)
        best = heapq.nsmallest(SHOWN, [*best, *named])
    places = [_place(samples, number, sample) for _, _, number, sample in best]
    fates = samples.fates(places)
    nearest = [
        NearCopy(p.shard, p.row, samples.key_of(p), samples.uid_of(p), copy[0], not copy[1], fate.fate, fate.reason)
        for p, copy, fate in zip(places, best, fates, strict=True)
    ]
    return NearCopies(found, looked, max_distance, nearest)


def _in_segment(
    signatures: npt.NDArray[np.void], own: npt.NDArray[np.void], max_distance: int
) -> list[tuple[int, int, bool]]:
    """(sample, distance, whether identical) of the copies in a segment."""
    readable = signatures["status"] == 0
    same = readable & (signatures["h0"] == own["h0"]) & (signatures["h1"] == own["h1"])
    copies = {int(sample): (0, True) for sample in np.flatnonzero(same)}
    if not own["flat"]:
        structured = np.flatnonzero(readable & (signatures["flat"] == 0))
        hashes = np.ascontiguousarray(signatures["phash"][structured])
        near = hamming_join(np.atleast_1d(own["phash"]).astype(np.uint64), hashes, max_distance)
        for at, distance in zip(structured[near.ib].tolist(), near.distance.tolist(), strict=True):
            copies.setdefault(at, (distance, False))
    return [(sample, *copy) for sample, copy in sorted(copies.items())]


def _place(samples: SampleLookup, number: int, sample: int) -> Place:
    segment = samples.segment(number)
    begin = np.asarray(segment.shard_sample_begin).astype(np.int64)
    shard = int(np.searchsorted(begin, sample, side="right")) - 1
    return Place(segment.shard_names[shard], int(sample - begin[shard]), number, sample)
