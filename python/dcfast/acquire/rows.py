"""The rows of a list that one shard has: what is asked for, under which keys."""

from __future__ import annotations

import math
from array import array
from bisect import bisect_left
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from dcfast.errors import PoolError
from dcfast.index.metadata import column_matches, open_metadata
from dcfast.uids import load_subset, uid_isin, uid_parse

if TYPE_CHECKING:
    import pyarrow as pa

    from dcfast.storage.parquet import ParquetFile

NEEDED = ("url", "text")
COLUMNS = ("uid", "url", "text", "face_bboxes", "sha256", "key")
"""What is read of a list; the last three where it has them."""
SHARD_DIGITS = 8
MOST_CHARACTERS, MOST_BOXES = 65_536, 1_000
"""Of a text and of the boxes of a row: a list is a stranger's, and all rows of a shard are held."""
Boxes = npt.NDArray[np.float64]


class Row(NamedTuple):
    """One row of a list.

    Attributes:
        number: its place in the list's file.   key: of its sample.
        boxes: of faces, as the list has them; None where it has no such column, or null.
        sha256: that the list expects; None where it expects none.
        problem: what is wrong with it, for a row that is not fetched; what was too long is None then.
    """

    number: int
    key: str
    uid: str | None
    url: str | None
    caption: str | None
    boxes: list[list[float]] | None
    sha256: str | None
    problem: str = ""


class Rows:
    """Rows in the order of their numbers, held as bytes, each made anew when it is looked at.

    Memory: 60 bytes a row and its texts; as objects it would be 1 kB. Cost: a microsecond a row that is made.
    """

    def __init__(self, rows: Iterable[Row] = ()) -> None:
        self.numbers: array[int] = array("q")
        self._packed: list[bytes] = []
        for row in rows:
            self.add(row)

    def add(self, row: Row) -> None:
        """A row behind the last; its number is higher."""
        self.numbers.append(row.number)
        self._packed.append(msgspec.msgpack.encode(row))

    def of(self, number: int) -> Row:
        """The row of a number that is among them."""
        return self._made(self._packed[bisect_left(self.numbers, number)])

    def __len__(self) -> int:
        """How many."""
        return len(self._packed)

    def __iter__(self) -> Iterator[Row]:
        """All, in order."""
        return map(self._made, self._packed)

    @staticmethod
    def _made(packed: bytes) -> Row:
        return Row(*msgspec.msgpack.decode(packed))


def key_of(shard: int, row: int, shard_size: int) -> str:
    """img2dataset's key of a row of a shard: 12 digits at 10,000 rows a shard."""
    digits = max(1, math.ceil(math.log10(shard_size)))
    return f"{shard * 10**digits + row:0{digits + SHARD_DIGITS}d}"


@dataclass(frozen=True)
class RowRange:
    """Where the rows of a shard stand.

    Attributes:
        table: the list's file.   first, count: rows in it.
        shard: whose keys the rows have; None: they have their own.
        subset: file of the uids that are wanted; None for all.
    """

    table: str
    first: int
    count: int
    shard: int | None
    shard_size: int
    uid_from: str
    subset: str | None

    def read(self) -> tuple[pa.Schema, Rows]:
        """The schema of the columns that were read, and the rows that are wanted, in order.

        Memory: ``Rows``, and a batch of the list.
        PoolError, CorruptDataError, OSError: the list or the subset cannot be read.
        """
        import pyarrow as pa

        rows = Rows()
        at = self.first
        with open_metadata(self.table, self.uid_from) as file:
            columns = [name for name in COLUMNS if name in file.schema.names]
            schema = pa.schema([file.schema.field(name) for name in columns])
            subset = None if self.subset is None else load_subset(self.subset, check=False)  # as it was at the start
            for batch in _batches(file, columns, self.first, self.count):
                numbers, batch = np.arange(at, at + len(batch)), batch.select(columns)
                at += len(batch)
                if subset is not None:
                    uids, valid = uid_parse(batch.column("uid"), errors="mask")
                    wanted = valid & uid_isin(uids, subset, check=False, threads=1)
                    batch, numbers = batch.filter(pa.array(wanted)), numbers[wanted]
                table = pa.Table.from_batches([batch])
                for number, values in zip(numbers.tolist(), _dicts(table), strict=True):
                    rows.add(self._row(number, values))
        if at != self.first + self.count:
            raise PoolError(
                f"{self.table} has no rows {self.first} to {self.first + self.count}: it was changed; bring it back"
            )
        return schema, rows

    def _row(self, number: int, values: dict[str, object]) -> Row:
        key = _text(values.get("key"))
        if self.shard is not None or key is None:
            key = key_of(self.shard or 0, number - self.first, self.shard_size)
        texts = {name: _text(values.get(name)) for name in ("uid", "url", "text", "sha256")}
        boxes = values.get("face_bboxes")
        boxes = boxes if isinstance(boxes, list) else None
        problem = ""
        for name, text in texts.items():
            if text is not None and len(text) > MOST_CHARACTERS:
                problem, texts[name] = f"its {name} has more than {MOST_CHARACTERS:,} characters", None
        if boxes is not None and len(boxes) > MOST_BOXES:
            problem, boxes = f"it has more than {MOST_BOXES:,} face boxes", None
        return Row(number, key, texts["uid"], texts["url"], texts["text"], boxes, texts["sha256"], problem)


def _dicts(table: pa.Table) -> Iterator[dict[str, object]]:
    """The rows; their texts as bytes, since lists hold such as are no UTF-8."""
    import pyarrow as pa

    for i, name in enumerate(table.schema.names):
        column = table.column(i)
        if column_matches("text", column.type):
            if pa.types.is_dictionary(column.type):
                column = column.cast(column.type.value_type)
            table = table.set_column(i, name, column.cast(pa.large_binary()))
    for batch in table.to_batches(max_chunksize=1024):
        yield from batch.to_pylist()


def _text(value: object) -> str | None:
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return value if isinstance(value, str) else None


def _batches(file: ParquetFile, columns: list[str], first: int, count: int) -> Iterator[pa.RecordBatch]:
    """The rows from ``first`` on; row groups before and behind are not read."""
    ends = np.cumsum(file.group_rows)
    groups = [g for g, end in enumerate(ends) if end > first and end - file.group_rows[g] < first + count]
    if not groups:
        return
    at = int(ends[groups[0]]) - file.group_rows[groups[0]]
    for batch in file.batches(columns, groups=groups):
        begin, end = max(first - at, 0), min(first + count - at, len(batch))
        if begin < end:
            yield batch.slice(begin, end - begin)
        at += len(batch)
        if at >= first + count:
            return
