"""The metadata with its feature columns: DataComp's parquet and npz of one metadata file, rows in the same order.

Each row finds its sample by uid in the pool index, and takes the embeddings that were made of the sample's segment.
Memory: 12 bytes a row of the file, and the embeddings of 16,384 rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from dcfast.errors import PoolError
from dcfast.features.files import score_column, segment_file
from dcfast.features.pairs import NO_CAPTION, OK
from dcfast.index.metadata import METADATA, open_metadata, parse_uids
from dcfast.index.rows import split_row_ids
from dcfast.storage.atomic import atomic_path
from dcfast.storage.npz import Array, iterate_npz, load_array, npz_arrays, write_npz
from dcfast.storage.parquet import ParquetFile
from dcfast.storage.records import Count, Record
from dcfast.uids.sets import uid_lookup

if TYPE_CHECKING:
    import pyarrow as pa

S = TypeVar("S", bound=np.generic)
Uids = npt.NDArray[np.void]
"""(n,) "u8,u8", or records of the pool index: "u8,u8,u8" with the row id."""
BATCH_ROWS = 16_384
MAX_REPEATS = 16
"""Samples with one uid that are looked at for one that has an embedding."""


class Filled(Record):
    """Columns that one model fills: its key in the segments' files, its prefixes, the width of its embeddings."""

    key: str
    prefixes: list[str]
    dim: Count


class FilledRows(Record):
    """Rows of metadata, those with a sample, and by column those with a score."""

    rows: Count
    found: Count
    scored: dict[str, Count]


class Located(NamedTuple):
    """Where rows of metadata have their sample: segment (-1: none) and place in it."""

    segment: npt.NDArray[np.int32]
    sample: npt.NDArray[np.int64]

    def rows(self, begin: int, end: int) -> Located:
        return Located(self.segment[begin:end], self.sample[begin:end])


class SegmentColumns:
    """The columns of all segments, mapped when first touched; at most 256 files at a time."""

    def __init__(self, root: Path, first_shards: Sequence[int]) -> None:
        self._root = root
        self._first = np.asarray(first_shards, np.int64)
        self.column: Callable[..., npt.NDArray[np.generic]] = lru_cache(maxsize=256)(self._column)

    def _column(self, number: int, what: str, key: str | None = None) -> npt.NDArray[np.generic]:
        return load_array(self._root / segment_file(number, what, key), mmap=True)

    def place(self, rows: npt.NDArray[np.uint64]) -> Located:
        shard, sample = (part.astype(np.int64) for part in split_row_ids(rows))
        number = np.searchsorted(self._first, shard, side="right") - 1
        for n in np.unique(number):
            mine = number == n
            sample[mine] += self.column(int(n), "begin").astype(np.int64)[shard[mine] - self._first[n]]
        return Located(number.astype(np.int32), sample)

    def gather(self, located: Located, what: str, key: str | None, result: npt.NDArray[S]) -> npt.NDArray[S]:
        """A column's rows in the order of ``located``, written over ``result``; not where there is no sample."""
        for n in np.unique(located.segment[located.segment >= 0]):
            mine = np.flatnonzero(located.segment == n)
            result[mine] = self.column(int(n), what, key)[located.sample[mine]]
        return result


def locate_rows(columns: SegmentColumns, records: Uids, uids: Uids, valid: npt.NDArray[np.bool_]) -> Located:
    """The sample of each uid: of several with it, the first that has an embedding.

    Args:
        records: the pool index.   uids: (n,) "u8,u8".   valid: (n,) bool, False for malformed uids.
    """
    first, count = (np.asarray(a) for a in uid_lookup(records, np.ascontiguousarray(uids), threads=1))
    count = np.minimum(np.where(valid, count, 0), MAX_REPEATS)
    owner = np.repeat(np.arange(len(uids)), count)
    inside = np.arange(len(owner)) - np.repeat(np.cumsum(count) - count, count)
    candidates = columns.place(np.ascontiguousarray(records["f2"][np.repeat(first, count) + inside]))
    status = columns.gather(candidates, "status", None, np.full(len(owner), 255, np.uint8))
    rank = np.where(status == OK, 0, np.where(status == NO_CAPTION, 1, 2))
    order = np.lexsort((inside, rank, owner))
    chosen = order[np.unique(owner[order], return_index=True)[1]]
    segment, sample = np.full(len(uids), -1, np.int32), np.zeros(len(uids), np.int64)
    segment[owner[chosen]], sample[owner[chosen]] = candidates.segment[chosen], candidates.sample[chosen]
    return Located(segment, sample)


def _locate_file(columns: SegmentColumns, records: Uids, path: Path, uid_from: str) -> Located:
    parts = [Located(np.empty(0, np.int32), np.empty(0, np.int64))]
    with open_metadata(path, uid_from) as file:
        parts += [locate_rows(columns, records, *parse_uids(b)) for b in file.batches(["uid"], BATCH_ROWS)]
    return Located(np.concatenate([p.segment for p in parts]), np.concatenate([p.sample for p in parts]))


def with_scores(schema: pa.Schema, path: str, names: Iterable[str]) -> pa.Schema:
    """The schema of a metadata file with columns of scores: in place of those it has, else behind its own."""
    import pyarrow as pa

    for name in names:
        at, field = schema.get_all_field_indices(name), pa.field(name, pa.float32())
        if len(at) > 1:
            raise PoolError(
                f"metadata {path} has {len(at)} columns {name!r}, one of which was to be replaced; "
                "rename all but one, or remove them"
            )
        schema = schema.set(at[0], field) if at else schema.append(field)
    return schema


def _write_parquet(
    path: Path, target: Path, columns: SegmentColumns, located: Located, models: Sequence[Filled]
) -> dict[str, int]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    scored = {score_column(prefix): 0 for model in models for prefix in model.prefixes}
    with ParquetFile(path, METADATA) as file:  # the columns under their own names
        schema = with_scores(file.schema, str(path), scored)
        first = 0
        with atomic_path(target) as temporary, pq.ParquetWriter(temporary, schema) as writer:
            for batch in file.batches(rows=BATCH_ROWS):
                # a batch of text or lists ends where a row group does: it may hold fewer rows than were asked for
                part = located.rows(first, first + batch.num_rows)
                first += batch.num_rows
                made = {}
                for model in models:
                    nothing = np.full(len(part.sample), np.nan, np.float32)
                    values = columns.gather(part, "score", model.key, nothing)
                    for prefix in model.prefixes:
                        made[score_column(prefix)] = pa.array(values, pa.float32(), mask=np.isnan(values))
                        scored[score_column(prefix)] += int((~np.isnan(values)).sum())
                # by position: other columns may share a name
                arrays = [made[name] if name in made else batch.column(i) for i, name in enumerate(schema.names)]
                writer.write_batch(pa.record_batch(arrays, schema=schema))
    return scored


def _embeddings(
    columns: SegmentColumns, located: Located, model: Filled, what: str
) -> Iterator[npt.NDArray[np.float16]]:
    for begin in range(0, len(located.sample), BATCH_ROWS):
        part = located.rows(begin, begin + BATCH_ROWS)
        yield columns.gather(part, what, model.key, np.zeros((len(part.sample), model.dim), np.float16))


def write_features(
    metadata: Path,
    target: Path,
    columns: SegmentColumns,
    records: Uids,
    models: Sequence[Filled],
    uid_from: str = "json",
) -> FilledRows:
    """Writes ``target`` (parquet) and the npz beside it for one metadata file.

    The rows and columns of ``metadata`` stay as they are, arrays of an npz beside it too, unless a model fills them.

    Args:
        records: the pool index (uid -> row id).
        uid_from: see ``open_metadata``.
    Raises:
        PoolError: the npz beside the metadata has another number of rows; a column of scores or uids is there twice.
        CorruptDataError: one of the two is damaged.
    """
    located = _locate_file(columns, records, metadata, uid_from)
    scored = _write_parquet(metadata, target, columns, located, models)
    arrays: list[tuple[str, Array, Iterator[npt.NDArray[np.generic]]]] = []
    for model in models:
        array = Array((len(located.sample), model.dim), np.dtype(np.float16))
        for prefix, what in product(model.prefixes, ("img", "txt")):
            arrays.append((f"{prefix}_{what}", array, _embeddings(columns, located, model, what)))
    made = {name for name, _, _ in arrays}
    given = metadata.with_suffix(".npz")
    if given.is_file():
        for name, array in sorted(npz_arrays(given).items()):
            if name in made:
                continue
            if not array.shape or array.shape[0] != len(located.sample):
                raise PoolError(
                    f"{given}: array {name} has shape {array.shape}, but {metadata.name} has "
                    f"{len(located.sample)} rows; download both again"
                )
            arrays.append((name, array, iterate_npz(given, name, BATCH_ROWS)))
    write_npz(target.with_suffix(".npz"), sorted(arrays, key=lambda a: a[0]))
    return FilledRows(len(located.sample), int((located.segment >= 0).sum()), scored)
