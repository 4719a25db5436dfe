"""Part of stage ``dedup``: what is known of the samples that are alike others: where they lie, their uids and sizes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from dcfast.dedup.records import SIGNATURE_DTYPE
from dcfast.errors import PoolError
from dcfast.filters import numbers
from dcfast.index.metadata import open_metadata, parse_uids
from dcfast.index.rows import valid_uid_mask
from dcfast.index.segments import Segment
from dcfast.stages.dedup.pools import PoolPart
from dcfast.storage.npz import load_array
from dcfast.uids.files import UID_DTYPE
from dcfast.uids.sets import uid_format, uid_lookup, uid_sort

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass
class NodeTable:
    """Samples by their numbers, ascending, as columns of n.

    Attributes:
        pool: index among the pools; the last is the run's own.
        uid, has_uid: "u8,u8", zero where there is none; bool.
        signed: SIGNATURE_DTYPE.   row: uint32, in the shard.   shard, key: Arrow strings.
    """

    pool: npt.NDArray[np.int64]
    uid: npt.NDArray[np.void]
    has_uid: npt.NDArray[np.bool_]
    signed: npt.NDArray[np.void]
    row: npt.NDArray[np.uint32]
    shard: pa.Array
    key: pa.Array

    @property
    def pixels(self) -> npt.NDArray[np.float64]:
        """float64, width x height."""
        pixels: npt.NDArray[np.float64] = self.signed["width"].astype(np.float64) * self.signed["height"]
        return pixels

    def texts(self, at: npt.NDArray[np.int64]) -> tuple[pa.Array, pa.Array, pa.Array]:
        """Shard, key and uid of some of them; the uid is null where there is none."""
        import pyarrow as pa
        import pyarrow.compute as pc

        place = pa.array(at)
        uids = uid_format(np.ascontiguousarray(self.uid[at]), threads=1)
        nothing = pa.scalar(None, pa.string())
        return self.shard.take(place), self.key.take(place), pc.if_else(pa.array(self.has_uid[at]), uids, nothing)


def read_nodes(out: Path, parts: Sequence[PoolPart], nodes: npt.NDArray[np.int64]) -> NodeTable:
    """What is known of some samples. Cost: a look at each segment that has one of them."""
    import pyarrow as pa

    count = len(nodes)
    table = NodeTable(
        np.zeros(count, np.int64),
        np.zeros(count, UID_DTYPE),
        np.zeros(count, np.bool_),
        np.zeros(count, SIGNATURE_DTYPE),
        np.zeros(count, np.uint32),
        pa.array([], pa.string()),
        pa.array([], pa.string()),
    )
    shards, keys = [table.shard], [table.key]
    for pool, part in enumerate(parts):
        for number, (begin, samples) in enumerate(zip(part.begins, part.samples, strict=True)):
            first, last = np.searchsorted(nodes, [begin, begin + samples]).tolist()
            if first == last:
                continue
            here, rows = slice(first, last), nodes[first:last] - begin
            segment = Segment.open(out / part.segment(number), verify=False)
            signed = load_array(out / part.signatures(number), mmap=True)
            starts = np.asarray(segment.shard_sample_begin).astype(np.int64)
            shard = np.searchsorted(starts, rows, side="right") - 1
            table.pool[here], table.row[here] = pool, rows - starts[shard]
            table.uid[here], table.has_uid[here] = segment.uid[rows], valid_uid_mask(segment)[rows]
            table.signed[here] = signed[rows]
            shards.append(pa.array(segment.shard_names, pa.string()).take(pa.array(shard)))
            keys.append(segment.keys().take(pa.array(rows)).cast(pa.string()))
    table.shard, table.key = pa.concat_arrays(shards), pa.concat_arrays(keys)
    return table


def read_listed(
    out: Path, files: Sequence[str], column: str, uid_from: str, table: NodeTable
) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.float64]]:
    """(n,) whether a metadata row has a sample's uid; the best score that such rows have, NaN where there is none.

    Args:
        column: of the scores; empty: none are read.
    Cost: a read of one or two columns of the metadata. Memory: 48 bytes a sample, and a batch.
    """
    with_uid = np.ascontiguousarray(table.uid[table.has_uid])
    known = uid_sort(with_uid, threads=1)
    best, there = np.full(len(known), np.nan), np.zeros(len(known), np.bool_)
    for path in (str(out / name) for name in files):
        with open_metadata(path, uid_from) as file:
            for batch in file.batches(["uid", column] if column else ["uid"]):
                uids, valid = parse_uids(batch)
                first, count = uid_lookup(known, uids, threads=1)
                hit = valid & (count > 0)
                there[first[hit]] = True
                if column:
                    np.fmax.at(best, first[hit], _scores(batch, column, path)[hit])
    listed, result = np.zeros(len(table.uid), np.bool_), np.full(len(table.uid), np.nan)
    place = uid_lookup(known, with_uid, threads=1)[0]
    listed[table.has_uid], result[table.has_uid] = there[place], best[place]
    return listed, result


def _scores(batch: pa.RecordBatch, column: str, path: str) -> npt.NDArray[np.float64]:
    at = batch.schema.get_field_index(column)  # -1 where there are several, too
    if at < 0:
        raise PoolError(f"{path} must have the column {column!r} once: write it, or name another (--score)")
    return numbers(batch.column(at)).astype(np.float64)
