"""What the benches must show: each bar is a ratio of medians of one comparison, or a peak of memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

Row = dict[str, Any]
Value = float | None


@dataclass(frozen=True)
class Bar:
    """median(over) / median(under) of the rows of ``op``; with sense "least" it must be ``bar`` or more.

    Peaks of memory name their provider in ``over`` and leave ``under`` empty: megabytes. ``ours`` and ``peer`` are
    the providers whose times the table of the README shows, ``floor`` the one that does only what must be done.
    """

    name: str
    bench: str
    work: str
    op: str
    over: str
    under: str
    sense: Literal["least", "most"]
    bar: float | None
    stretch: float | None
    floor: str = ""

    @property
    def ours(self) -> str:
        return self.under if self.under.startswith("dcfast") and not self.over.startswith("dcfast") else self.over

    @property
    def peer(self) -> str:
        return self.over if self.ours == self.under else self.under

    @property
    def unit(self) -> str:
        return "x" if self.under else " MB"

    @property
    def wanted(self) -> str:
        return self._text(self.bar)

    @property
    def stretch_wanted(self) -> str:
        return self._text(self.stretch)

    def _text(self, value: float | None) -> str:
        return "none" if value is None else f"{'>=' if self.sense == 'least' else '<='} {value:g}{self.unit}"

    def is_met(self, value: float) -> bool:
        if self.bar is None:
            return True
        return value >= self.bar if self.sense == "least" else value <= self.bar


DALI = "DALI wds2idx"
DATACOMP = "DataComp resharder.py"
README_WAY = "DataComp's README way"
MEMORY_READ = "floor: read of memory"
PREAD_FLOOR = "floor: one pread a member"

BARS: tuple[Bar, ...] = (
    Bar("tar_index_vs_dali", "bench_tar_index", "index 48,000 members, no uid, 1 thread", "tar_index", DALI, "dcfast", "least", 15, 18, PREAD_FLOOR),
    Bar("tar_index_vs_gnu_tar", "bench_tar_index", "the same beside GNU tar -tv", "tar_index", "GNU tar -tv", "dcfast", "least", 4, None, PREAD_FLOOR),
    Bar("tar_index_vs_pread_floor", "bench_tar_index", "the same beside its floor", "tar_index", "dcfast", PREAD_FLOOR, "most", None, 1.2),
    Bar("tar_index_uid_vs_no_uid", "bench_tar_index", "index with uid from json, beside without", "tar_index", "dcfast, with uid", "dcfast", "most", 2, 1.3),
    Bar("memory_index_mb", "bench_tar_index", "memory: index 800 shards", "memory_index", "dcfast", "", "most", 300, None),
    Bar("uid_sort_vs_numpy", "bench_uid_set", "sort 10M uids", "uid_sort", "np.sort", "dcfast", "least", 20, 30, "floor: count and scatter"),
    Bar("uid_isin_vs_numpy", "bench_uid_set", "membership of 1M uids in 10M", "uid_isin", "np.isin", "dcfast", "least", 100, 400, "floor: merge of sorted"),
    Bar("uid_parse_list_vs_datacomp", "bench_uid_set", "parse 1M uids from a list", "uid_parse_list", README_WAY, "dcfast", "least", 20, 40, "floor: read and write"),
    Bar("uid_parse_arrow_vs_datacomp", "bench_uid_set", "parse 1M uids from an Arrow buffer", "uid_parse_arrow", README_WAY, "dcfast", "least", 100, 300, "floor: read and write"),
    Bar("reshard_shell_vs_datacomp", "bench_reshard", "reshard 30%, whole process", "reshard_shell", DATACOMP, "dcfast", "least", 15, 25),
    Bar("reshard_vs_cp", "bench_reshard", "reshard 30% in process, no fsync, 2 threads", "reshard", "dcfast", "cp of the output", "most", 1.8, 1.2, "floor: pread and write"),
    Bar("memory_reshard_mb", "bench_reshard", "memory: reshard 800 shards", "memory_reshard", "dcfast", "", "most", 300, None),
    Bar("hash_members_vs_memory", "bench_hashing", "XXH3-128 of members, 1 thread", "hash_members", MEMORY_READ, "dcfast", "least", 0.8, 0.95, MEMORY_READ),
    Bar("random_read_vs_webdataset", "bench_random_access", "read 30% shuffled, every byte hashed", "random_read", "webdataset, skipping", "dcfast", "least", 5, 10, "floor: pread of samples"),
)  # fmt: skip


def row_of(rows: Sequence[Row], op: str, provider: str) -> Row | None:
    """The newest row of a provider in an op; rows are in the order they were written."""
    return next((row for row in reversed(rows) if row["op"] == op and row["provider"] == provider), None)


def latest_comparison(rows: Sequence[Row], op: str) -> list[Row]:
    """The rows of the last comparison of an op: those that share its date."""
    of_op = [row for row in rows if row["op"] == op]
    return [row for row in of_op if row["date_utc"] == of_op[-1]["date_utc"]] if of_op else []


def measure(bar: Bar, rows: Sequence[Row]) -> Value:
    """The bar's value in the last comparison; None where a side was absent."""
    compared = latest_comparison(rows, bar.op)
    over = row_of(compared, bar.op, bar.over)
    if not bar.under:
        return None if over is None or over.get("peak_bytes") is None else round(over["peak_bytes"] / 1e6, 1)
    return ratio(over, row_of(compared, bar.op, bar.under))


def ratio(over: Row | None, under: Row | None) -> Value:
    if over is None or under is None or over["median_s"] is None or under["median_s"] is None:
        return None
    return float(f"{over['median_s'] / under['median_s']:.4g}")
