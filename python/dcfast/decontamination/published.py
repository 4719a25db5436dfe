"""The descriptors that DataComp published with its pools: 256 float32 a row, the array ``dedup`` of a metadata's npz.

They are ISC's (``dcfast.models.descriptors``), so no model need run over such a pool. Their rows are those of the
metadata, which names samples by uid; samples are found by these. Memory: 16,384 rows, and the evaluation pictures.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from dcfast.decontamination.matching import (
    MatchedRows,
    evidence_table,
    open_evaluation,
    packed,
    uid_run,
    uid_texts,
    unpacked,
)
from dcfast.dedup.evidence import DESCRIPTOR, evidence_schema
from dcfast.dedup.match import JOIN_ROWS, Hits, descriptor_matches, unit_length, valid_descriptors
from dcfast.dedup.signature_file import read_headers
from dcfast.engine.piece import Nothing, piece
from dcfast.engine.steps import DoesPieces
from dcfast.errors import PoolError
from dcfast.features.files import sibling_npz
from dcfast.index.metadata import open_metadata, parse_uids
from dcfast.index.pool import group_files
from dcfast.models.descriptors import ISC_DIM, ISC_NAME
from dcfast.rundir.layout import EVIDENCE_TABLE, MERGE_BYTES
from dcfast.rundir.tables import part_path, table_writer
from dcfast.storage.npz import iterate_npz, npz_arrays, write_npy
from dcfast.storage.records import Count, Record
from dcfast.uids.files import UID_DTYPE, uid_records
from dcfast.uids.sets import merge_runs, open_records, record_sort, save_records, uid_unique

ARRAY = "dedup"
HITS = "state/decontaminate/published.npy"
"""Sorted records of the hits: uid, and picture and score (``matching.packed``)."""
_ROWS = 16_384


class PublishedRows(Record):
    """Rows of metadata with a descriptor, those whose descriptor is no numbers or zero, and those that are hits.

    ``scaled``: descriptors that were not of unit length.   ``unnamed``: hits of rows without a uid.
    """

    rows: Count
    invalid: Count
    hits: Count
    scaled: Count
    unnamed: Count


class Published(NamedTuple):
    """Name of a model -> records of hits; rows with a descriptor; and what is to be said of the others."""

    files: dict[str, str]
    described: int
    notes: list[str]


def _run(number: int) -> str:
    return f"state/decontaminate/published/{number:05d}.npy"


def has_published(metadata: str) -> bool:
    """Whether descriptors were published with a metadata file. PoolError: of another width, or for other rows."""
    npz = sibling_npz(metadata)
    if not os.path.isfile(npz):
        return False
    array = npz_arrays(npz).get(ARRAY)
    if array is None:
        return False
    with open_metadata(metadata) as file:
        expected = (file.num_rows, ISC_DIM)
    if array.shape != expected or array.dtype.kind != "f":
        raise PoolError(
            f"{npz}: array {ARRAY} is {array.dtype} of shape {array.shape}; expected ISC's descriptors, float32 of "
            f"shape {expected}: download both again, or remove the array"
        )
    return True


def published_files(metadata: Sequence[str]) -> list[str]:
    """Those of metadata files with which descriptors were published. PoolError: see ``has_published``."""
    return [path for path in metadata if has_published(path)]


@piece(version=2)
def match_published(
    out: Path, number: int, metadata: Sequence[str], against: Sequence[str], least: float, uid_from: str
) -> PublishedRows:
    """Piece: the hits of the published descriptors of some metadata files, as a sorted run of records.

    Versions: 2: descriptors are brought to unit length; hits without a uid are counted.
    """
    evals = open_evaluation(out, against)
    rows = invalid = scaled = unnamed = 0
    found = [uid_records(np.empty(0, "u8,u8"), np.empty(0, np.uint64))]
    for path in filter(has_published, metadata):
        for uids, valid, given in _aligned(path, uid_from):
            usable = valid_descriptors(given)
            vectors, off = unit_length(given, usable)
            rows, invalid, scaled = rows + len(vectors), invalid + int((~usable).sum()), scaled + off
            hits: Hits = descriptor_matches(evals, ISC_NAME, vectors, least, np.flatnonzero(usable))
            named = valid[hits.row]
            unnamed += len(np.unique(hits.row[~named]))
            found.append(uid_records(uids[hits.row[named]], packed(hits.picture[named], hits.near[named])))
    records = np.concatenate(found)
    save_records(out / _run(number), record_sort(records, threads=1))
    return PublishedRows(rows, invalid, len(records), scaled, unnamed)


def _aligned(
    metadata: str, uid_from: str
) -> Iterator[tuple[npt.NDArray[np.void], npt.NDArray[np.bool_], npt.NDArray[np.float32]]]:
    """Uids, whether they are any, and descriptors, of the same rows."""
    blocks = iterate_npz(sibling_npz(metadata), ARRAY, _ROWS)
    block = np.empty((0, ISC_DIM), np.float32)
    with open_metadata(metadata, uid_from) as file:
        for batch in file.batches(["uid"], _ROWS):
            uids, valid = parse_uids(batch)
            at = 0
            while at < len(uids):
                if not len(block):
                    block = next(blocks)
                count = min(len(block), len(uids) - at)
                yield uids[at : at + count], valid[at : at + count], block[:count].astype(np.float32)
                block, at = block[count:], at + count


@piece()
def merge_published(out: Path, runs: Sequence[str]) -> Nothing:
    """Piece: the hits of all metadata, sorted by uid."""
    merge_runs([out / run for run in runs], out / HITS, memory_bytes=MERGE_BYTES)
    return Nothing()


def find_published(
    out: Path,
    do: DoesPieces,
    metadata: list[str],
    uid_from: str,
    against: list[str],
    scores: dict[str, float],
) -> Published:
    """The hits of published descriptors, where a pool has them and a signature file has ISC's.

    Args:
        do: does the pieces of a step.   scores: least inner product, by the model's name.
    """
    if ISC_NAME not in scores or not _has_isc(out, against):
        return Published({}, 0, [])
    there = set(published_files(metadata))
    pieces = [
        match_published.piece(
            "decontaminate/published",
            f"{number:05d}",
            inputs=[*files, *(npz for npz in map(sibling_npz, files) if os.path.isfile(npz)), *against],
            outputs=[_run(number)],
        )(number=number, metadata=files, against=against, least=scores[ISC_NAME], uid_from=uid_from)
        for number, (_, files) in enumerate(group_files(metadata))
        if there.intersection(files)
    ]
    if not pieces:
        return Published({}, 0, [])
    counts = do(pieces)
    runs = [one.outputs[0] for one in pieces]
    do([merge_published.piece("decontaminate/merge", "published", inputs=runs, outputs=[HITS])(runs=runs)])
    notes = _notes(counts, len(metadata) - len(there))
    return Published({ISC_NAME: HITS}, sum(c.rows for c in counts), notes)


def _notes(counts: Sequence[PublishedRows], without: int) -> list[str]:
    said = (
        (without, "metadata files have no published descriptors: their samples were not compared by these"),
        (sum(c.invalid for c in counts), "published descriptors are no finite numbers or zero, and match nothing"),
        (sum(c.scaled for c in counts), "published descriptors were not of unit length, and were brought to it"),
        (sum(c.unnamed for c in counts), "rows of metadata without a uid are evaluation pictures by their descriptors"),
    )
    return [f"{count:,} {words}" for count, words in said if count]


def _has_isc(out: Path, against: Sequence[str]) -> bool:
    headers = read_headers([out / path for path in against])
    return any(info.name == ISC_NAME for header in headers for info in header.descriptors)


@piece()
def list_published(out: Path, against: Sequence[str], name: str) -> MatchedRows:
    """Piece: of a pool without shards, the evidence and the uids of the hits of published descriptors."""
    records, evals = open_records(out / HITS), open_evaluation(out, against)
    hits: Counter[tuple[str, str]] = Counter()
    samples, last = 0, None
    with table_writer(out / part_path(EVIDENCE_TABLE, 0), evidence_schema()) as writer:
        for begin in range(0, len(records), JOIN_ROWS):
            block = np.asarray(records[begin : begin + JOIN_ROWS])
            n, uids = len(block), _uids(block)
            distinct = uid_unique(uids, threads=1)
            samples += len(distinct) - int(last is not None and distinct[0] == last)
            last = distinct[-1]
            picture, near = unpacked(block["f2"])
            nothing: dict[str, object] = dict.fromkeys(("shard", "row", "key"), [None] * n)
            texts, method = uid_texts(uids, np.ones(n, np.bool_)), f"{DESCRIPTOR}{name}"
            table = evidence_table(nothing, texts, evals, [method] * n, picture, near)
            writer.write_table(table)
            hits.update((one, method) for one in table.column("evalset").to_pylist())
    found: dict[str, dict[str, int]] = {}
    for (one, method), count in hits.items():
        found.setdefault(one, {})[method] = count
    blocks = (records[begin : begin + JOIN_ROWS] for begin in range(0, len(records), JOIN_ROWS))
    write_npy(out / uid_run(0), (len(records),), UID_DTYPE, map(_uids, blocks))
    return MatchedRows(len(records), samples, 0, 0, found)


def _uids(records: npt.NDArray[np.void]) -> npt.NDArray[np.void]:
    uids = np.empty(len(records), UID_DTYPE)
    uids["f0"], uids["f1"] = records["f0"], records["f1"]
    return uids
