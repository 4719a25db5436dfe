"""Where a score of every metadata row comes from: files, columns, embeddings, and mixtures of these.

A source is what the expression says of a score, without a limit: ``s_cliploss(l14, shuffles=10, seed=0)``. Stage
``filter`` makes of each source one column a metadata file (``rundir.layout.score_path`` of its key; NaN for a row
without a score), once for all terms, limits and fractions that ask for it (``stages/filter/score_columns.py``).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

from dcfast.filters.tokens import quoted, spelled


class ScoreSource(Protocol):
    """A score of every row of the metadata; equal sources have equal keys."""

    @property
    def key(self) -> str:
        """Canonical text, as it may stand as a part of ``mix``; also ``Quantile.column`` and the name of the score."""

    @property
    def parts(self) -> tuple[ScoreSource, ...]:
        """Sources that must be made before it."""


def with_parts(sources: Iterable[ScoreSource]) -> Iterator[ScoreSource]:
    """The sources and the parts that they are made of, parts first, each key once."""
    seen: set[str] = set()

    def walk(source: ScoreSource) -> Iterator[ScoreSource]:
        if source.key not in seen:
            seen.add(source.key)
            for part in source.parts:
                yield from walk(part)
            yield source

    for source in sources:
        yield from walk(source)


@dataclass(frozen=True)
class ScoreFile:
    """Scores of one's own: a parquet, npz or npy file, or a folder of them.

    Attributes:
        column: of a parquet file the column, of an npz the array, of a structured npy the field.
    """

    path: str
    column: str = "score"
    parts: tuple[ScoreSource, ...] = ()

    @property
    def key(self) -> str:
        return f"score({quoted(self.path)}{'' if self.column == 'score' else f', column={spelled(self.column)}'})"


@dataclass(frozen=True)
class ColumnScore:
    """A column of numbers of the metadata."""

    name: str
    parts: tuple[ScoreSource, ...] = ()

    @property
    def key(self) -> str:
        return f"column({spelled(self.name)})"


@dataclass(frozen=True)
class ArrayScore:
    """An array (rows,) of the npz beside each metadata file."""

    name: str
    parts: tuple[ScoreSource, ...] = ()

    @property
    def key(self) -> str:
        return f"array({spelled(self.name)})"


@dataclass(frozen=True)
class ContrastScore:
    """``s_cliploss``: the pair's inner product less what its picture and caption have with others of a batch."""

    arch: str
    shuffles: int
    seed: int
    temperature: float
    parts: tuple[ScoreSource, ...] = ()

    @property
    def key(self) -> str:
        return f"s_cliploss({self.arch}, shuffles={self.shuffles}, seed={self.seed}, temperature={self.temperature!r})"


@dataclass(frozen=True)
class TargetScore:
    """``normsim`` and ``vas``: how near a picture is to those of a target.

    Attributes:
        method: "normsim" or "vas".
        target: path of an ``.npy`` of image embeddings, or None: the built-in world's clean pictures.
        p: "2" or "inf", of normsim.
    """

    method: str
    arch: str
    target: str | None
    p: str = ""
    parts: tuple[ScoreSource, ...] = ()

    @property
    def key(self) -> str:
        target = "" if self.target is None else f", target={quoted(self.target)}"
        return f"{self.method}({self.arch}{target}{f', p={self.p}' if self.p else ''})"


@dataclass(frozen=True)
class SemanticScore:
    """``semdedup``: 1 - the highest cosine to an item of the cluster that is farther from its centroid."""

    arch: str
    clusters: int
    seed: int
    parts: tuple[ScoreSource, ...] = ()

    @property
    def key(self) -> str:
        return f"semdedup({self.arch}, clusters={self.clusters}, seed={self.seed})"


@dataclass(frozen=True)
class DensityScore:
    """``density``: 1 where density-based pruning keeps the row, else 0.

    Attributes:
        size: "total=N" or "fraction=F": how many rows are kept.
    """

    arch: str
    clusters: int
    size: str
    tau: float
    seed: int
    parts: tuple[ScoreSource, ...] = ()

    @property
    def key(self) -> str:
        return f"density({self.arch}, clusters={self.clusters}, {self.size}, tau={self.tau!r}, seed={self.seed})"


@dataclass(frozen=True)
class WithinScore:
    """``within``: the second part's score of rows that are among the pool's top fraction ``first`` by the first."""

    parts: tuple[ScoreSource, ...]
    first: float

    @property
    def key(self) -> str:
        return f"within({', '.join(part.key for part in self.parts)}, first={self.first!r})"


@dataclass(frozen=True)
class MixedScore:
    """``mix``: a weighted sum of scores, each brought to 0..1 first.

    Attributes:
        weights: of ``parts``.
        normalize: "minmax" or "rank", over the rows of the whole pool that have the score.
    """

    parts: tuple[ScoreSource, ...]
    weights: tuple[float, ...]
    normalize: str

    @property
    def key(self) -> str:
        terms = [
            part.key if weight == 1.0 else f"{weight!r} * {part.key}"
            for weight, part in zip(self.weights, self.parts, strict=True)
        ]
        return f"mix({', '.join(terms)}, normalize={self.normalize})"
