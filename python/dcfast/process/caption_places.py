"""The places that captions of a training come from, as options name them: txt, json:FIELD, parquet:PATH:COLUMN."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal


@dataclass(frozen=True)
class CaptionFrom:
    """One place of captions: ``txt``, ``json:FIELD`` or ``parquet:PATH:COLUMN``.

    Attributes:
        name: the field, or the column.   path: of the parquet.   weight: relative to those of others.
    """

    kind: Literal["txt", "json", "parquet"]
    name: str = ""
    path: str = ""
    weight: float = 1.0

    def __str__(self) -> str:
        """What decides the result: not where a file lies."""
        return self.kind if self.kind == "txt" else f"{self.kind}:{self.name}"

    @property
    def spelled(self) -> str:
        """As an option names it."""
        return f"{self.kind}:{self.path}:{self.name}" if self.kind == "parquet" else str(self)


TXT = CaptionFrom("txt")


def caption_departures(places: Sequence[CaptionFrom]) -> list[str]:
    """In words, what of captions departs from the recipe; empty where it is the member txt alone."""
    names = ", ".join(map(str, places))
    return [] if names == "txt" else [f"captions from {names}"]


def parse_captions(words: Sequence[str], weights: Sequence[float] = ()) -> tuple[CaptionFrom, ...]:
    """What ``--caption-from`` and ``--caption-weights`` say; ValueError where they make no sense."""
    if weights and len(weights) != max(1, len(words)):
        count = max(1, len(words))
        raise ValueError(f"--caption-weights must be {count} numbers, one a --caption-from; got {len(weights)}")
    if not all(0 < weight < float("inf") for weight in weights):
        raise ValueError(f"--caption-weights must be positive numbers; got {list(weights)}")
    named = words or ["txt"]
    found = [_parsed(word, weight) for word, weight in zip(named, weights or [1.0] * len(named), strict=True)]
    if len({(one.kind, one.name, one.path) for one in found}) < len(found):
        raise ValueError(f"--caption-from must name each place once; got {list(words)}")
    return tuple(found)


def _parsed(word: str, weight: float) -> CaptionFrom:
    kind, _, rest = word.partition(":")
    if word == "txt":
        return CaptionFrom("txt", weight=weight)
    if kind == "json" and rest:
        return CaptionFrom("json", rest, weight=weight)
    path, _, column = rest.rpartition(":")
    if kind == "parquet" and path and column:
        return CaptionFrom("parquet", column, path, weight)
    raise ValueError(f"--caption-from must be txt, json:FIELD or parquet:PATH:COLUMN; got {word!r}")


def move_captions(words: Sequence[str] | None, move: Callable[[str], str]) -> list[str] | None:
    """The same places with ``move(path)`` for the path of each parquet; None where it is the member txt alone.

    ValueError where they make no sense.
    """
    places = parse_captions(words or [])
    moved = [replace(place, path=move(place.path)) if place.path else place for place in places]
    return None if places == (TXT,) else [place.spelled for place in moved]


def caption_paths(words: Sequence[str] | None) -> list[str]:
    """The path of each parquet."""
    return [place.path for place in parse_captions(words or []) if place.path]
