"""The side of a search that is used again and again, prepared once."""

from __future__ import annotations

from dcfast.similarity.operands import Invalid, Metric, Rows, RowsLike, as_rows, check_invalid, check_metric


class Database:
    """(m, d) rows to search in, accepted wherever a database is.

    Args:
        array: rows as of ``topk``. Not copied: leave it unchanged for as long as this is used.
        metric: "ip", "cos" or "l2": that of searches which name none.
        invalid: what rows that are not finite (zero, for "cos") are: an error, or rows that match nothing.
    Raises:
        TypeError, ValueError: as of ``topk``.
    """

    def __init__(self, array: RowsLike, metric: Metric = "ip", *, invalid: Invalid = "raise") -> None:
        self.metric = check_metric(metric)
        self.rows: Rows = as_rows(array, "database")
        self.skips = check_invalid(invalid)

    def __len__(self) -> int:
        return self.rows.count

    @property
    def shape(self) -> tuple[int, int]:
        return self.rows.count, self.rows.width


def as_database(values: RowsLike | Database, metric: Metric | None, name: str, invalid: Invalid) -> Database:
    """A database, prepared or not; ValueError where a prepared one has another metric than asked for."""
    if not isinstance(values, Database):
        made = Database(values, metric or "ip", invalid=invalid)
        made.rows = as_rows(values, name)
        return made
    if metric is not None and check_metric(metric) != values.metric:
        raise ValueError(
            f"{name} was prepared for {values.metric!r} and metric is {metric!r}: leave metric out, or make "
            f"Database(array, metric={metric!r})"
        )
    return values
