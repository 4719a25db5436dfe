"""Named streams of random numbers: every decision of the world is a function of (seed, name), never of order.

Only ``random.Random.random`` is used of the standard generator, the one method whose sequence Python promises to
keep; everything else is arithmetic on it.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

T = TypeVar("T")


def _digest(key: Iterable[object]) -> bytes:
    return hashlib.blake2b("\x1f".join(map(str, key)).encode(), digest_size=16).digest()


def hex_id(*key: object) -> str:
    """32 lower-case hex digits that are a function of the key."""
    return _digest(key).hex()


class Stream:
    """Random numbers that depend on the key alone."""

    __slots__ = ("random",)

    def __init__(self, *key: object) -> None:
        self.random: Callable[[], float] = random.Random(int.from_bytes(_digest(key), "big")).random  # noqa: S311

    def chance(self, probability: float) -> bool:
        """True with the given probability; always uses one number."""
        return self.random() < probability

    def uniform(self, low: float, high: float) -> float:
        """A number between the two."""
        return low + (high - low) * self.random()

    def integer(self, low: int, high: int) -> int:
        """A whole number from low to high, both included."""
        return low + int(self.random() * (high - low + 1))

    def pick(self, items: Sequence[T]) -> T:
        """One of the items, each as likely."""
        return items[int(self.random() * len(items))]

    def shuffled(self, items: Sequence[T]) -> list[T]:
        """The items in random order (Fisher and Yates)."""
        mixed = list(items)
        for i in range(len(mixed) - 1, 0, -1):
            j = int(self.random() * (i + 1))
            mixed[i], mixed[j] = mixed[j], mixed[i]
        return mixed

    def weighted(self, items: Sequence[tuple[T, float]]) -> T:
        """One of the (item, weight) pairs' items; weights need not sum to one."""
        return _at(self.random() * sum(weight for _, weight in items), items, items[-1][0])

    def first_of(self, rates: Sequence[tuple[T, float]], default: T) -> T:
        """At most one of mutually exclusive events with the given rates, else the default; uses one number."""
        return _at(self.random(), rates, default)


def _at(place: float, items: Sequence[tuple[T, float]], beyond: T) -> T:
    """The item in whose stretch of the line a place lies."""
    for item, length in items:
        place -= length
        if place < 0:
            return item
    return beyond
