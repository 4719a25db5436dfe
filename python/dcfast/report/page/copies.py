"""The table of how many uids were drawn how often."""

from __future__ import annotations

from itertools import groupby
from typing import NamedTuple

from dcfast.rundir.summaries import SampledCopies

SINGLE = 16
"""Up to here each number of copies has a row; beyond, a row goes up to twice the number."""


class CopiesRow(NamedTuple):
    """``uids`` that were drawn ``copies`` times: a number, or a range in words."""

    copies: str
    uids: int
    drawn: bool


def drawn_rows(sampled: SampledCopies) -> list[CopiesRow]:
    """The rows of the table, rising."""

    def group(pair: tuple[int, int]) -> int:
        return pair[0] if pair[0] <= SINGLE else SINGLE + (pair[0] - 1).bit_length()

    rows = []
    for _, pairs in groupby(sorted(sampled.by_copies), group):
        some = list(pairs)
        low, high = some[0][0], some[-1][0]
        rows.append(CopiesRow(f"{low:,}" if low == high else f"{low:,} to {high:,}", sum(n for _, n in some), low > 0))
    return rows
