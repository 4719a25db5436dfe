"""Rows that failed, fetched again: into new shards behind the last, under their old keys; nothing is rewritten.

A row that a round holds is that round's: where a shard before it is lost and made anew, the row is left out of it
(``fetched_later``), so that no sample stands twice in a pool.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from dcfast.acquire.causes import CAUSES, RETRIED_BY_DEFAULT
from dcfast.acquire.files import shard_paths
from dcfast.acquire.foreign import foreign_failures
from dcfast.acquire.plan import ShardRows, shard_numbers
from dcfast.acquire.rows import Row, RowRange
from dcfast.errors import RunError
from dcfast.process.options import one_of
from dcfast.storage.atomic import atomic_path
from dcfast.storage.parquet import ParquetFile
from dcfast.storage.records import Count, Record, read_record

if TYPE_CHECKING:
    import pyarrow as pa

ROUNDS = "state/acquire/retries.json"
LATER = "later"
_CAUSE = "cause"
"""Of a round's table: why a row had failed."""
_ROW_COLUMNS = ("key", "uid", "url", "text", "face_bboxes", "sha256", _CAUSE)
FETCHED_AGAIN = "fetched again by --retry, in a later shard"
"""``error_message`` of a row that a later round holds."""


class Round(Record):
    """One ``--retry``.

    Attributes:
        causes: that were asked for.   table: the rows, below the pool.   rows: how many.
        first_shard: the number of the first of its shards.
        before: cause -> rows, why they had failed.
    """

    causes: list[str]
    table: str
    rows: Count
    first_shard: Count
    shard_size: Count
    before: dict[str, Count]

    def shards(self) -> Iterator[ShardRows]:
        """The shards of it."""
        for number, first in enumerate(range(0, self.rows, self.shard_size)):
            count = min(self.shard_size, self.rows - first)
            yield ShardRows(self.first_shard + number, self.table, first, count)


def retried_causes(words: Sequence[str]) -> list[str]:
    """The causes that ``--retry`` names. ValueError: it names none that there is."""
    causes: list[str] = []
    for word in words:
        if word == LATER:
            causes += RETRIED_BY_DEFAULT
        else:
            one_of("--retry", word, (*CAUSES, LATER))
            causes.append(word)
    return list(dict.fromkeys(causes))


def read_rounds(out: Path) -> list[Round]:
    """The rounds of a pool. CorruptDataError: they cannot be read."""
    return read_record(out / ROUNDS, list[Round]) if (out / ROUNDS).exists() else []


def fetched_later(out: Path, shard: int, rows: Iterable[Row]) -> dict[int, str]:
    """Those rows of a shard that a later ``--retry`` holds: number -> the cause that they had failed by.

    Cost: a read of the keys of each later round.   Memory: a batch of them.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    rounds = [one for one in read_rounds(out) if one.first_shard > shard]
    numbers = {row.key: row.number for row in rows} if rounds else {}
    keys = pa.array(list(numbers), pa.string())
    found: dict[int, str] = {}
    for one in rounds:
        with ParquetFile(out / one.table) as file:
            for batch in file.batches(["key", _CAUSE]):
                batch = batch.filter(pc.is_in(batch["key"], keys))
                for key, cause in zip(batch["key"].to_pylist(), batch[_CAUSE].to_pylist(), strict=True):
                    found.setdefault(numbers[key], cause)  # the first round says why this shard had lost it
    return found


def plan_round(
    out: Path, causes: Sequence[str], shards: Iterable[RowRange], rounds: Sequence[Round], shard_size: int
) -> Round | None:
    """The next round, its table written; None where no row failed by these causes.

    Args:
        shards: where the rows of the lists' shards stand.   rounds: those before.
    Of a row that was fetched several times the last outcome counts. Memory: 8 bytes a row of earlier rounds, a shard.
    """
    import pyarrow.parquet as pq

    number = len(rounds) + 1
    table = f"state/acquire/retry/{number:04d}.parquet"
    taken = shard_numbers(out)
    before: Counter[str] = Counter()
    writer: pq.ParquetWriter | None = None
    seen = np.zeros(0, np.int64)
    with atomic_path(out / table) as temporary:
        try:
            for one in (*reversed(rounds), None):
                keys: list[npt.NDArray[np.int64]] = [seen]
                for shard in shards if one is None else [its.shard for its in one.shards()]:
                    rows, all_keys = _failed(out, shard, causes, seen)
                    if one is not None:
                        keys.append(all_keys)
                    if rows is not None and len(rows):
                        before.update(Counter(rows[_CAUSE].to_pylist()))
                        writer = writer or pq.ParquetWriter(temporary, rows.schema, compression="zstd")
                        writer.write_table(rows.cast(writer.schema))
                seen = np.unique(np.concatenate(keys))
        finally:
            if writer is not None:
                writer.close()
        if writer is None:
            temporary.touch()
    if writer is None:
        (out / table).unlink()
        return None
    first = max([*taken, -1, *(s.shard for one in rounds for s in one.shards())]) + 1
    return Round(list(causes), table, sum(before.values()), first, shard_size, dict(before))


def _failed(
    out: Path, shard: int | RowRange, causes: Sequence[str], seen: npt.NDArray[np.int64]
) -> tuple[pa.Table | None, npt.NDArray[np.int64]]:
    """The rows of a shard that failed so, and are not among ``seen``; and the keys of all of its rows."""
    import pyarrow as pa
    import pyarrow.compute as pc

    of_list = shard if isinstance(shard, RowRange) else None
    _, sidecar, _, outcomes = shard_paths(out, (shard.shard or 0) if isinstance(shard, RowRange) else shard)
    if not outcomes.exists():  # no row of it was wanted, or another tool made it
        rows = None if of_list is None else _foreign(out, of_list, causes, seen)
        return rows, np.zeros(0, np.int64)
    with ParquetFile(outcomes) as file:
        table = file.read(["key", "cause", "expected_sha256"])
    numbers = np.array([int(key) for key in table["key"].to_pylist()], np.int64)
    chosen = np.asarray(pc.is_in(table["cause"], pa.array(causes))) & ~np.isin(numbers, seen)
    if not chosen.any():
        return None, numbers
    with ParquetFile(sidecar) as file:
        names = [{"text": "caption"}.get(name, name) for name in _ROW_COLUMNS]
        rows = file.read([name for name in names if name in file.schema.names])
    if rows["key"].to_pylist() != table["key"].to_pylist():
        raise RunError(f"{outcomes} and {sidecar} are not of the same rows: remove the shard, and it is fetched again")
    rows = rows.set_column(rows.schema.get_field_index("sha256"), "sha256", table["expected_sha256"])
    rows = rows.append_column(_CAUSE, table["cause"])
    rows = rows.rename_columns([{"caption": "text"}.get(name, name) for name in rows.schema.names])
    return rows.select([name for name in _ROW_COLUMNS if name in rows.schema.names]).filter(pa.array(chosen)), numbers


def _foreign(out: Path, shard: RowRange, causes: Sequence[str], seen: npt.NDArray[np.int64]) -> pa.Table | None:
    """The rows of a shard of another tool that failed so, in the columns of ``_failed``."""
    import pyarrow as pa

    held = set(seen.tolist())
    schema, failures = foreign_failures(out, shard)
    found = [(row, why) for row, why in failures if why in causes and int(row.key) not in held]
    if not found:
        return None
    rows, whys = zip(*found, strict=True)
    columns = {
        "key": pa.array([row.key for row in rows], pa.string()),
        "uid": pa.array([row.uid for row in rows], pa.string()),
        "url": pa.array([row.url for row in rows], pa.string()),
        "text": pa.array([row.caption for row in rows], pa.string()),
        "sha256": pa.array([row.sha256 for row in rows], pa.string()),
        _CAUSE: pa.array(whys, pa.string()),
    }
    if "face_bboxes" in schema.names:
        columns["face_bboxes"] = pa.array([row.boxes for row in rows], schema.field("face_bboxes").type)
    names = [name for name in _ROW_COLUMNS if name in columns and (name != "uid" or name in schema.names)]
    return pa.table(columns).select(names)
