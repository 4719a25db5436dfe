"""What was passed over, and why: counted by reason, with the first of each, so that nothing is lost silently."""

from __future__ import annotations

from collections.abc import Iterable

from dcfast.storage.listing import printable
from dcfast.storage.records import Count, Record


class PassedOver(Record):
    """``counts``: reason -> things; ``first``: reason -> the first of them."""

    counts: dict[str, Count] = {}
    first: dict[str, str] = {}

    @property
    def lines(self) -> list[str]:
        """A sentence for each reason, the commonest first."""
        ordered = sorted(self.counts.items(), key=lambda item: (-item[1], item[0]))
        return [
            f"{count:,} {reason}" + (f" (the first: {self.first[reason]})" if self.first.get(reason) else "")
            for reason, count in ordered
        ]


class Account:
    """Counts what is passed over."""

    def __init__(self) -> None:
        self._counts: dict[str, int] = {}
        self._first: dict[str, str] = {}

    def add(self, reason: str, name: str = "", count: int = 1) -> None:
        """``reason``: what they are, in the plural, and why, as in ``pictures without a caption``."""
        if count > 0:
            self._counts[reason] = self._counts.get(reason, 0) + count
            self._first.setdefault(reason, printable(name))

    def take(self, others: Iterable[PassedOver]) -> None:
        """Adds what others counted, in their order."""
        for other in others:
            for reason, count in other.counts.items():
                self.add(reason, other.first.get(reason, ""), count)

    @property
    def record(self) -> PassedOver:
        return PassedOver(dict(sorted(self._counts.items())), dict(sorted(self._first.items())))
