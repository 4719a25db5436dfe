"""Rows that failed, fetched again: into new shards behind the last, under their old keys; nothing is rewritten."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from dcfast.acquire.causes import CAUSES, RETRIED_BY_DEFAULT
from dcfast.acquire.files import shard_paths
from dcfast.acquire.plan import ShardRows, shard_numbers
from dcfast.errors import RunError
from dcfast.process.options import one_of
from dcfast.storage.atomic import atomic_path
from dcfast.storage.parquet import ParquetFile
from dcfast.storage.records import Count, Record

if TYPE_CHECKING:
    import pyarrow as pa

ROUNDS = "state/acquire/retries.json"
LATER = "later"
_ROW_COLUMNS = ("key", "uid", "url", "text", "face_bboxes", "sha256")


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


def plan_round(
    out: Path, causes: Sequence[str], shards: Iterator[int], rounds: Sequence[Round], shard_size: int
) -> Round | None:
    """The next round, its table written; None where no row failed by these causes.

    Args:
        shards: the numbers of the shards of the lists.   rounds: those before.
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
            for group in [*([s.shard for s in one.shards()] for one in reversed(rounds)), shards]:
                keys: list[npt.NDArray[np.int64]] = [seen]
                for shard in group:
                    rows, all_keys = _failed(out, shard, causes, seen, before)
                    keys.append(all_keys)
                    if rows is not None and len(rows):
                        writer = writer or pq.ParquetWriter(temporary, rows.schema, compression="zstd")
                        writer.write_table(rows)
                seen = np.unique(np.concatenate(keys)) if group is not shards else seen
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
    out: Path, shard: int, causes: Sequence[str], seen: npt.NDArray[np.int64], before: Counter[str]
) -> tuple[pa.Table | None, npt.NDArray[np.int64]]:
    """The rows of a shard that failed so, and are not among ``seen``; and the keys of all of its rows."""
    import pyarrow as pa
    import pyarrow.compute as pc

    _, sidecar, _, outcomes = shard_paths(out, shard)
    if not outcomes.exists():  # no row of it was wanted, or another tool made it
        return None, np.zeros(0, np.int64)
    with ParquetFile(outcomes) as file:
        table = file.read(["key", "cause", "expected_sha256"])
    numbers = np.array([int(key) for key in table["key"].to_pylist()], np.int64)
    chosen = np.asarray(pc.is_in(table["cause"], pa.array(causes))) & ~np.isin(numbers, seen)
    if not chosen.any():
        return None, numbers
    with ParquetFile(sidecar) as file:
        rows = file.read()
    if rows["key"].to_pylist() != table["key"].to_pylist():
        raise RunError(f"{outcomes} and {sidecar} are not of the same rows: remove the shard, and it is fetched again")
    mask = pa.array(chosen)
    before.update(Counter(table["cause"].filter(mask).to_pylist()))
    rows = rows.set_column(rows.schema.get_field_index("sha256"), "sha256", table["expected_sha256"])
    rows = rows.rename_columns([{"caption": "text"}.get(name, name) for name in rows.schema.names])
    return rows.select([name for name in _ROW_COLUMNS if name in rows.schema.names]).filter(mask), numbers
