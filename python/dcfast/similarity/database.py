"""The side of a search that is used again and again, prepared once."""

from __future__ import annotations

import threading
from collections.abc import Iterator

from dcfast._core import similarity as core_similarity
from dcfast.similarity.operands import Invalid, Metric, Rows, RowsLike, as_rows, check_invalid, check_metric, refuse_row

BLOCK_BYTES = 256 << 20
"""Of rows, as given, that are packed together, and of their codes."""
KEPT_BYTES = 2 << 30
"""Of codes, and of rows that had to be read, that a database keeps; of a larger one a block at a time is at hand."""
_CODED, _CODED_BYTES = 64, 68  # numbers that are coded together, and what that takes
_PER_ROW = 32  # scale, error, length and the like, in bytes


class Database:
    """(m, d) rows to search in, accepted wherever a database is.

    Args:
        array: rows as of ``topk``. Not copied: leave it unchanged for as long as this is used.
        metric: "ip", "cos" or "l2": that of searches which name none.
        invalid: what rows that are not finite (zero, for "cos") are: an error, or rows that match nothing.
    Raises:
        TypeError, ValueError: as of ``topk``.

    Memory: codes of 68 bytes for each 64 numbers of a row, begun ones included, and 32 bytes a row, made by the first
    search on the CPU and kept where they fit in 2 GiB; twice as much more for data that 8 bits are too coarse for.
    Blocks are read once and kept where they fit, too. May be used by several threads at a time.
    Example: ``database = Database(points, metric="cos")``, ``topk(queries, database, 3).indices``
    """

    def __init__(self, array: RowsLike, metric: Metric = "ip", *, invalid: Invalid = "raise") -> None:
        self.metric = check_metric(metric)
        self.rows: Rows = as_rows(array, "database")
        self.skips: bool = check_invalid(invalid)
        self._kept: list[tuple[int, core_similarity.PackedDatabase]] | None = None
        self._lock = threading.Lock()
        self.on_devices: dict[tuple[str, bool], object] = {}  # what searches on GPUs keep there

    def __len__(self) -> int:
        return self.rows.count

    @property
    def is_kept(self) -> bool:
        """Whether what is prepared fits in ``KEPT_BYTES``."""
        codes = self.rows.count * self._coded_bytes
        read = 0 if self.rows.in_memory else self.rows.count * self.rows.row_bytes
        return codes + read <= KEPT_BYTES

    @property
    def _coded_bytes(self) -> int:
        return -(-self.rows.width // _CODED) * _CODED_BYTES + _PER_ROW

    def packed(self, threads: int, *, skips: bool) -> Iterator[tuple[int, core_similarity.PackedDatabase]]:
        """(first row, block) of each block in order, prepared when first asked for; ValueError for an invalid row."""
        if not self.is_kept:
            yield from self._blocks(threads, skips)
            return
        with self._lock:
            if self._kept is None:
                self._kept = list(self._blocks(threads, True))
            kept = self._kept
        for begin, block in kept:
            self._check(begin, block, skips)
            yield begin, block

    def _blocks(self, threads: int, skips: bool) -> Iterator[tuple[int, core_similarity.PackedDatabase]]:
        step = max(1, BLOCK_BYTES // max(self.rows.row_bytes, self._coded_bytes))
        for begin in range(0, self.rows.count, step):
            array = self.rows.read(begin, min(self.rows.count, begin + step))
            block = core_similarity.PackedDatabase(array, self.rows.kind, threads)
            self._check(begin, block, skips)
            yield begin, block

    def _check(self, begin: int, block: core_similarity.PackedDatabase, skips: bool) -> None:
        bad = None if self.skips or skips else block.bad_row(self.metric == "cos")
        if bad is not None:
            refuse_row(self.rows.name, begin + bad[0], finite=bad[1])

    @property
    def shape(self) -> tuple[int, int]:
        return self.rows.count, self.rows.width


def as_database(values: RowsLike | Database, metric: Metric | None, name: str, invalid: Invalid) -> Database:
    """A database, prepared or not; ValueError where a prepared one has another metric than asked for."""
    if not isinstance(values, Database):
        rows = as_rows(values, name)  # first: its errors name the argument
        made = Database(values, "ip" if metric is None else metric, invalid=invalid)
        made.rows = rows
        return made
    if metric is not None and check_metric(metric) != values.metric:
        raise ValueError(
            f"{name} was prepared for {values.metric!r} and metric is {metric!r}: leave metric out, or make "
            f"Database(array, metric={metric!r})"
        )
    return values
