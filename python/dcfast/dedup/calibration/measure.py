"""Recall, precision and chance hits of each method by threshold, of the pictures of some folders."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

from dcfast.dedup.calibration.chance import Chance, Pairs, Tail, chances, group_counts
from dcfast.dedup.calibration.edits import EDITS, edited
from dcfast.dedup.calibration.methods import (
    DESCRIPTOR,
    PHASH,
    TURNED,
    WIDE,
    Coded,
    Describe,
    Method,
    Vectors,
    blocks,
    nearest,
    of_descriptors,
    of_hashes,
)
from dcfast.dedup.calibration.pictures import Chosen, Place
from dcfast.errors import PoolError
from dcfast.images.costs import BadImage
from dcfast.images.decode import decode_image
from dcfast.images.signatures import Signatures, signatures_of
from dcfast.process.read_ahead import read_ahead
from dcfast.storage.records import Count, Record

if TYPE_CHECKING:
    from PIL.Image import Image

VERSION = 1
ALIKE = 64
"""Pictures of the sample whose 256-bit hashes, turned or not, are this near are not counted as unrelated, but named."""
NAMED = 100
LARGEST_SIDE = 640
"""Larger pictures are made smaller before they are edited: hashes look at fewer pixels still."""
LEAST_PICTURES = 20
DESCRIBED_AT_A_TIME = 64
Distances = npt.NDArray[np.int64]


class AlikePair(Record):
    """Two pictures that are not unrelated; ``distance`` of 256 bits, in the nearest way of turning."""

    distance: Count
    first: str
    second: str


class EditResult(Record):
    """Copies of one kind and strength: what is found within each threshold of the method.

    ``recall``: share of the ``pictures``.  ``false_hits``: of all copies on pictures that are not theirs, nor like it.
    """

    kind: str
    strength: str
    pictures: Count
    median: float
    recall: list[float]
    false_hits: list[Count]


class MethodResult(Record):
    """A method. ``unrelated[d]``: comparisons of unrelated pictures at distance d. Lists by threshold otherwise.

    ``precision``: of the hits of all copies, the share that is their own picture; None where there is no hit.
    """

    name: str
    title: str
    default: int | None
    thresholds: list[int]
    unrelated: list[Count]
    mean: float
    deviation: float
    tail: Tail | None
    chance: list[Chance]
    precision: list[float | None]
    edits: list[EditResult]


class Calibration(Record, kw_only=True):
    """What ``dcfast calibrate`` writes; ``at``: the pictures of a pool and of evaluation sets, for chance hits."""

    version: int = VERSION
    dcfast: str
    seed: int
    at: tuple[int, int]
    pictures: Count
    edited: Count
    unreadable: Count
    flat: Count
    identical: Count
    alike: Count
    alike_pairs: list[AlikePair]
    descriptor: str | None = None
    methods: list[MethodResult]


class Asked(NamedTuple):
    """What to measure: how many pictures are edited, which seed draws, for how many pairs chance is reckoned."""

    edited: int
    seed: int
    at: tuple[int, int]
    threads: int


class _Copies(NamedTuple):
    """The edited copies of one picture, in the order of EDITS."""

    number: int
    signed: Signatures
    encoded: list[bytes]


def calibrate(
    chosen: Chosen,
    asked: Asked,
    *,
    version: str,
    describe: Describe | None = None,
    descriptor: str | None = None,
    progress: Callable[[str], None] = lambda text: None,
) -> Calibration:
    """Measures all methods.

    Args:
        chosen: the pictures; each is another one.
        version: of dcfast, for the record.
        describe, descriptor: a model's descriptors and its name, which make one more method.
        progress: is told, now and then, what is done.
    Raises:
        PoolError: fewer than 20 pictures.
    Memory: 9 KB a picture, 10 MB for each 1,024, and the edited copies of four pictures. Cost: a second for 40 copies;
    for n pictures 10 products of n x n by 256.
    The result is the same for any number of threads.
    """
    if len(chosen.places) < LEAST_PICTURES:
        raise PoolError(
            f"{len(chosen.places)} pictures that are readable, not flat and different; expected {LEAST_PICTURES} or "
            "more: name folders with more pictures"
        )
    numbers = np.random.default_rng([asked.seed, 1]).permutation(len(chosen.places))[: asked.edited]
    methods = [PHASH, WIDE, TURNED] + ([DESCRIPTOR] if describe is not None else [])
    originals = {method.name: of_hashes(method, chosen.signed) for method in (PHASH, WIDE, TURNED)}
    if describe is not None:
        originals[DESCRIPTOR.name] = of_descriptors(_described(chosen.places, describe))
    progress(f"{len(chosen.places)} pictures read")
    alike, alike_distances = _alike(originals[TURNED.name])
    related = _related(alike, len(chosen.places))
    found = _EditTable(methods, len(chosen.places))
    for done, copies in enumerate(_all_copies(chosen.places, sorted(numbers.tolist()), asked), 1):
        described = None if describe is None else describe(copies.encoded)
        for method in methods:
            coded = (
                of_hashes(method, copies.signed)
                if described is None or method is not DESCRIPTOR
                else of_descriptors(described)
            )
            found.add(method, copies.number, nearest(method, coded, originals[method.name]), related[copies.number])
        progress(f"{done} of {len(numbers)} pictures edited")
    results = []
    for method in methods:
        results.append(_result(method, originals[method.name], alike, found, asked.at))
        progress(f"{method.title}: distances of unrelated pictures counted")
    names = [place.name for place in chosen.places]
    nearest_first = np.argsort(alike_distances, kind="stable")[:NAMED]
    return Calibration(
        dcfast=version,
        seed=asked.seed,
        at=asked.at,
        pictures=len(chosen.places),
        edited=found.pictures,
        unreadable=chosen.unreadable,
        flat=chosen.flat,
        identical=chosen.identical,
        alike=len(alike),
        alike_pairs=[AlikePair(int(alike_distances[k]), names[alike[k, 0]], names[alike[k, 1]]) for k in nearest_first],
        descriptor=descriptor,
        methods=results,
    )


def _described(places: Sequence[Place], describe: Describe) -> Vectors:
    parts = []
    for begin in range(0, len(places), DESCRIBED_AT_A_TIME):
        parts.append(describe([place.read() for place in places[begin : begin + DESCRIBED_AT_A_TIME]]))
    return np.concatenate(parts)


def _alike(coded: Coded) -> tuple[Pairs, Distances]:
    """Pairs i < j of pictures within ALIKE bits, in any way of turning, and how far they are; by i, then j."""
    pairs, apart = [np.zeros((0, 2), np.int64)], [np.zeros(0, np.int64)]
    for rows in blocks(len(coded.own)):
        found = nearest(TURNED, coded.rows(rows), coded)
        i, j = np.nonzero(found <= ALIKE)
        later = j > i + rows.start
        pairs.append(np.stack([i[later] + rows.start, j[later]], axis=1))
        apart.append(found[i[later], j[later]])
    return np.concatenate(pairs), np.concatenate(apart)


def _related(alike: Pairs, count: int) -> list[list[int]]:
    """Of each picture those that are alike, itself among them."""
    related = [[i] for i in range(count)]
    for i, j in alike.tolist():
        related[i].append(j)
        related[j].append(i)
    return related


def opened(data: bytes) -> Image:
    """The picture that copies are made of, of at most LARGEST_SIDE pixels a side; raises BadImage."""
    image = decode_image(data)
    image.thumbnail((LARGEST_SIDE, LARGEST_SIDE))
    return image


def _all_copies(places: list[Place], numbers: list[int], asked: Asked) -> Iterator[_Copies]:
    def copies(number: int) -> _Copies | None:
        with suppress(BadImage):  # Pillow is stricter than the core with some
            image = opened(places[number].read())
            encoded = [edited(image, edit, asked.seed, number) for edit in EDITS]
            return _Copies(number, signatures_of(encoded, threads=1, wide=True), encoded)
        return None

    threads = asked.threads or 2
    yield from (made for made in read_ahead(copies, numbers, threads=threads, ahead=threads) if made is not None)


class _EditTable:
    """Distances of edited copies, as they come: to their own pictures, and of the nearest ones to others."""

    def __init__(self, methods: Sequence[Method], count: int) -> None:
        self._own: dict[str, list[Distances]] = {method.name: [] for method in methods}
        self._false: dict[str, Distances] = {
            method.name: np.zeros((len(EDITS), len(method.thresholds)), np.int64) for method in methods
        }
        self.pictures = 0

    def add(self, method: Method, number: int, found: Distances, related: list[int]) -> None:
        """``found``: (edits, pictures) distances; ``number``: whose copies they are; ``related``: no false hits."""
        self._own[method.name].append(found[:, number])
        self.pictures = max(self.pictures, len(self._own[method.name]))
        others = np.delete(found, related, axis=1)
        for k, threshold in enumerate(method.thresholds):
            self._false[method.name][:, k] += (others <= threshold).sum(axis=1)

    def results(self, method: Method) -> tuple[list[EditResult], list[float | None]]:
        own, thresholds = np.array(self._own[method.name]).T, np.array(method.thresholds)
        within = (own[:, :, None] <= thresholds).sum(axis=1)  # (edits, thresholds)
        false = self._false[method.name]
        edits = [
            EditResult(
                kind=edit.kind,
                strength=edit.strength,
                pictures=own.shape[1],
                median=float(np.median(own[k])),
                recall=[round(float(share), 4) for share in within[k] / own.shape[1]],
                false_hits=false[k].tolist(),
            )
            for k, edit in enumerate(EDITS)
        ]
        true_hits, all_hits = within.sum(axis=0), within.sum(axis=0) + false.sum(axis=0)
        precision = [
            round(float(hits / total), 6) if total else None for hits, total in zip(true_hits, all_hits, strict=True)
        ]
        return edits, precision


def _result(method: Method, originals: Coded, alike: Pairs, found: _EditTable, at: tuple[int, int]) -> MethodResult:
    by_group = group_counts(method, originals, alike)
    counts = by_group.sum(axis=(0, 1))
    tail, chance = chances(method, by_group, float(at[0]) * at[1], method.thresholds)
    edits, precision = found.results(method)
    apart, total = np.arange(len(counts)), max(1, int(counts.sum()))
    mean = float((apart * counts).sum() / total)
    return MethodResult(
        name=method.name,
        title=method.title,
        default=method.default,
        thresholds=list(method.thresholds),
        unrelated=counts.tolist(),
        mean=round(mean, 3),
        deviation=round(float(np.sqrt(((apart - mean) ** 2 * counts).sum() / total)), 3),
        tail=tail,
        chance=chance,
        precision=precision,
        edits=edits,
    )
