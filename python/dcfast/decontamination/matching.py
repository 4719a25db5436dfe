"""The hits of one segment, with evidence: the piece that the stage and the program share.

Memory: the evaluation pictures (``EvalImages``; once a process, for all pieces), 65,536 pool pictures with their
descriptors, and a million pairs (``dcfast.dedup.match``), whatever the sizes of pool and segment.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from dcfast.dedup.evidence import CONTENT, DESCRIPTOR, evidence_schema
from dcfast.dedup.match import JOIN_ROWS, EvalImages, Hits, Limits, all_matches, nearest_hits
from dcfast.engine.piece import piece
from dcfast.index.rows import valid_uid_mask
from dcfast.index.segments import Segment
from dcfast.rundir.layout import EVIDENCE_TABLE, MERGE_BYTES, segment_path, signature_path
from dcfast.rundir.tables import part_path, table_writer
from dcfast.storage.npz import load_array
from dcfast.storage.records import Count, Record
from dcfast.uids.sets import load_subset, merge_runs, open_records, save_subset, uid_format, uid_lookup, uid_unique

if TYPE_CHECKING:
    import pyarrow as pa

Ints = npt.NDArray[np.int64]


class MatchedRows(Record):
    """Of a segment: rows of evidence, samples that are evaluation images, those by content, flat images.

    ``hits``: set -> method -> samples.   ``undescribed``: readable images without a descriptor, by model.
    """

    rows: Count
    samples: Count
    content: Count
    flat: Count
    hits: dict[str, dict[str, Count]] = {}
    undescribed: dict[str, Count] = {}


class ContaminatedUids(Record):
    uids: Count


@lru_cache(maxsize=1)
def _evaluation(states: tuple[tuple[str, int, int], ...]) -> EvalImages:
    return EvalImages([Path(path) for path, _, _ in states])


def open_evaluation(out: Path, against: Sequence[str]) -> EvalImages:
    """The pictures of some signature files, read once a process while the files stay as they are."""
    paths = [os.fspath(out / file) for file in against]
    return _evaluation(tuple((path, (at := os.stat(path)).st_size, at.st_mtime_ns) for path in paths))


def uid_run(number: int) -> str:
    """The sorted uids of the hits of one segment."""
    return f"state/decontaminate/uids/{number:05d}.npy"


@piece(version=3)
def match_segment(
    out: Path,
    number: int,
    against: Sequence[str],
    bits: int | None,
    bits256: int | None,
    scores: dict[str, float],
    described: dict[str, str] | None = None,
    published: dict[str, str] | None = None,
    content: bool = True,
    turned: bool = False,
) -> MatchedRows:
    """Piece: the hits of one segment, with evidence, and the sorted run of their uids.

    Args:
        against: signature files.   bits, bits256, scores, content, turned: see ``Limits``.
        described: name of a model -> npy of the segment's descriptors.
        published: name of a model -> records of the hits of descriptors that were published (``published``).
    Versions: 2: hashes of 256 bits and descriptors; a score. 3: hits of 64 bits are confirmed by 256.
    """
    segment = Segment.open(out / segment_path(number))
    pool = load_array(out / signature_path(number), mmap=True)
    evals = open_evaluation(out, against)
    vectors = {name: load_array(out / path, mmap=True) for name, path in (described or {}).items()}
    known = {name: open_records(out / path) for name, path in (published or {}).items()}
    limits, found, uids = Limits(bits, bits256, scores, content, turned), _Found(), [np.empty(0, "u8,u8")]
    valid = valid_uid_mask(segment)
    with table_writer(out / part_path(EVIDENCE_TABLE, number), evidence_schema()) as writer:
        for begin in range(0, len(pool), JOIN_ROWS):
            block = np.asarray(pool[begin : begin + JOIN_ROWS])
            own = {name: np.asarray(some[begin : begin + JOIN_ROWS]) for name, some in vectors.items()}
            hits = all_matches(evals, block, limits, own)
            rows = np.arange(begin, begin + len(block))
            uid, named = segment.uid[rows], valid[rows]
            hits += [published_hits(evals, name, records, uid, named) for name, records in known.items()]
            hits = [Hits(one.method, one.row + begin, one.picture, one.near) for one in hits]
            found.add(evals, block, own, hits)
            ordered = _ordered(hits)
            if len(ordered.row):
                writer.write_table(_evidence(segment, evals, ordered))
                hit = np.unique(ordered.row)
                uids.append(np.ascontiguousarray(segment.uid[hit[valid[hit]]]))
    save_subset(out / uid_run(number), uid_unique(np.concatenate(uids), threads=1))
    return found.counts()


class _Found:
    """What is counted of a segment's hits."""

    def __init__(self) -> None:
        self.rows = self.samples = self.content = self.flat = 0
        self.hits: dict[str, Counter[str]] = {}
        self.undescribed: Counter[str] = Counter()

    def add(
        self, evals: EvalImages, block: npt.NDArray[np.void], own: dict[str, npt.NDArray[np.floating]], hits: list[Hits]
    ) -> None:
        ok = block["status"] == 0
        self.flat += int((ok & (block["flat"] == 1)).sum())
        self.rows += sum(len(one.row) for one in hits)
        self.samples += len(np.unique(np.concatenate([one.row for one in hits])))
        for one in hits:
            if one.method == CONTENT:
                self.content += len(np.unique(one.row))
            for number, count in zip(*np.unique(evals.set_id[one.picture], return_counts=True), strict=True):
                self.hits.setdefault(evals.sets[int(number)].name, Counter())[one.method] += int(count)
        for name, vectors in own.items():
            self.undescribed[name] += int((ok & ~(np.isfinite(vectors).all(axis=1) & vectors.any(axis=1))).sum())

    def counts(self) -> MatchedRows:
        hits = {name: dict(methods) for name, methods in self.hits.items()}
        undescribed = dict(self.undescribed)
        return MatchedRows(self.rows, self.samples, self.content, self.flat, hits, undescribed)


class _Ordered:
    """The hits of all methods, by row, method and picture."""

    def __init__(self, row: Ints, picture: Ints, method: npt.NDArray[np.int64], near: npt.NDArray[np.float32]) -> None:
        self.row, self.picture, self.method, self.near = row, picture, method, near
        self.names: list[str] = []


def _ordered(hits: list[Hits]) -> _Ordered:
    hits = sorted(hits, key=lambda one: one.method)
    method = np.repeat(np.arange(len(hits)), [len(one.row) for one in hits])
    row, picture, near = (np.concatenate([one[i] for one in hits]) for i in (1, 2, 3))
    order = np.lexsort((picture, method, row))
    ordered = _Ordered(row[order], picture[order], method[order], near[order])
    ordered.names = [one.method for one in hits]
    return ordered


def _evidence(segment: Segment, evals: EvalImages, hits: _Ordered) -> pa.Table:
    """The rows of evidence of hits in a segment."""
    begin = np.asarray(segment.shard_sample_begin).astype(np.int64)
    shard = np.searchsorted(begin, hits.row, side="right") - 1
    valid = valid_uid_mask(segment)[hits.row]
    sample = {
        "shard": [segment.shard_names[s] for s in shard],
        "row": (hits.row - begin[shard]).astype(np.uint32),
        "key": [segment.key(int(row)) for row in hits.row],
    }
    uids = uid_texts(np.ascontiguousarray(segment.uid[hits.row]), valid)
    names = [hits.names[number] for number in hits.method]
    return evidence_table(sample, uids, evals, names, hits.picture, hits.near)


def uid_texts(uids: npt.NDArray[np.void], valid: npt.NDArray[np.bool_]) -> pa.Array:
    """Arrow strings of uids, null where one is none."""
    import pyarrow as pa
    import pyarrow.compute as pc

    return pc.if_else(pa.array(valid), uid_format(uids, threads=1), pa.scalar(None, pa.string()))


def evidence_table(
    sample: dict[str, object],
    uids: pa.Array,
    evals: EvalImages,
    methods: list[str],
    picture: Ints,
    near: npt.NDArray[np.float32],
) -> pa.Table:
    """Rows of evidence: ``sample`` has the columns shard, row and key; the rest is as of ``Hits``, a row each."""
    import pyarrow as pa

    sets, shards, keys = evals.keys(picture)
    scored = np.array([method.startswith(DESCRIPTOR) for method in methods], np.bool_)
    columns = {
        **sample,
        "uid": uids,
        "evalset": sets,
        "evalset_shard": shards,
        "evalset_key": keys,
        "method": methods,
        "distance": pa.array(np.where(scored, 0, near).astype(np.uint8), mask=scored),
        "score": pa.array(near.astype(np.float32), mask=~scored),
    }
    return pa.table(columns, schema=evidence_schema())


def published_hits(
    evals: EvalImages,
    name: str,
    records: npt.NDArray[np.void],
    uids: npt.NDArray[np.void],
    valid: npt.NDArray[np.bool_],
) -> Hits:
    """The hits of published descriptors among samples: records are of uid and picture << 32 | bits of the score.

    A uid that is in several rows of metadata has records of each; of a sample and set the nearest is the hit.
    """
    first, count = uid_lookup(records, np.ascontiguousarray(uids), threads=1)
    count = np.where(valid, count, 0)
    owner = np.repeat(np.arange(len(uids)), count)
    inside = np.arange(len(owner)) - np.repeat(np.cumsum(count) - count, count)
    picture, near = unpacked(records["f2"][np.repeat(first, count) + inside])
    return nearest_hits(evals, f"{DESCRIPTOR}{name}", owner, picture, near)


def packed(picture: Ints, near: npt.NDArray[np.float32]) -> npt.NDArray[np.uint64]:
    """(n,) u64 of pictures and scores, as records hold them."""
    bits = np.ascontiguousarray(near, "<f4").view("<u4").astype(np.uint64)
    return (picture.astype(np.uint64) << np.uint64(32)) | bits


def unpacked(payload: npt.NDArray[np.uint64]) -> tuple[Ints, npt.NDArray[np.float32]]:
    """What ``packed`` was given."""
    bits = (payload & np.uint64(0xFFFFFFFF)).astype("<u4")
    return (payload >> np.uint64(32)).astype(np.int64), bits.view("<f4")


@piece()
def merge_contaminated(out: Path, runs: Sequence[str]) -> ContaminatedUids:
    """Piece: ``contaminated.npy``, the sorted uids of all hits."""
    merge_runs([out / run for run in runs], out / "contaminated.npy", unique=True, memory_bytes=MERGE_BYTES)
    return ContaminatedUids(len(load_subset(out / "contaminated.npy")))


def counted_hits(matched: Sequence[MatchedRows]) -> dict[str, dict[str, int]]:
    """Set -> method -> samples, of all segments."""
    total: dict[str, Counter[str]] = {}
    for one in matched:
        for name, methods in one.hits.items():
            total.setdefault(name, Counter()).update(methods)
    return {name: dict(sorted(methods.items())) for name, methods in sorted(total.items())}
