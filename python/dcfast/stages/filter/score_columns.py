"""A score of every row, file by file: what a source of scores has become, and a pass of a threshold search over it.

The face for what stands on scores: ``make_scores`` of ``dcfast.stages.filter.scores`` gives each source's.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dcfast.engine.piece import Nothing, piece
from dcfast.filters import NUM_BINS, QuantileSearch, score_histogram
from dcfast.filters.rules import Numbers
from dcfast.filters.score_sources import ScoreSource
from dcfast.rundir.layout import score_name, score_path
from dcfast.rundir.run_dir import Run
from dcfast.stages.runner import Do
from dcfast.storage.npz import load_array, save_array
from dcfast.storage.records import Count, Record


class Scored(Record):
    """Metadata rows of a piece, those with a score, and the least and the highest, by ``float.hex``, "" for none."""

    rows: Count
    scored: Count
    low: str = ""
    high: str = ""

    @classmethod
    def sum(cls, parts: Iterable[Scored]) -> Scored:
        """Of all parts together."""
        done = list(parts)
        low = [float.fromhex(part.low) for part in done if part.scored]
        high = [float.fromhex(part.high) for part in done if part.scored]
        rows, scored = sum(part.rows for part in done), sum(part.scored for part in done)
        return cls(rows, scored, min(low).hex(), max(high).hex()) if low else cls(rows, scored)


def scored_of(scores: Numbers) -> Scored:
    """Of the scores of a metadata file, NaN for none."""
    known = scores[~np.isnan(scores)]
    if not len(known):
        return Scored(len(scores), 0)
    return Scored(len(scores), len(known), float(known.min()).hex(), float(known.max()).hex())


@dataclass(frozen=True)
class ScoreColumns:
    """The scores of a source, beside the metadata.

    Attributes:
        dtype: of the columns: "float16", "float32" or "float64".
        rows: of the metadata.   scored: rows that have a score, of which the least is ``low`` and the highest ``high``.
        more: what else is to be said of it.
    """

    source: ScoreSource
    dtype: str
    rows: int
    scored: int
    low: float = 0.0
    high: float = 0.0
    more: tuple[str, ...] = ()

    @classmethod
    def of(cls, source: ScoreSource, dtype: str, parts: Iterable[Scored], more: Iterable[str] = ()) -> ScoreColumns:
        """Those whose pieces did these parts."""
        done = Scored.sum(parts)
        low, high = (float.fromhex(text) if text else 0.0 for text in (done.low, done.high))
        return cls(source, dtype, done.rows, done.scored, low, high, tuple(more))

    def paths(self, files: Sequence[str]) -> list[str]:
        """The columns of some metadata files, relative to the run directory: npy, (rows,), NaN where there is none."""
        return [score_path(self.source.key, name) for name in files]

    @property
    def notes(self) -> list[str]:
        """What is to be said of rows without a score."""
        missing = self.rows - self.scored
        notes = list(self.more)
        if missing:
            notes.append(
                f"{self.source.key}: {missing:,} of the {self.rows:,} metadata rows have no score, and it keeps none "
                "of them"
            )
        return notes


def find_threshold(run: Run, do: Do, columns: ScoreColumns, fraction: float) -> QuantileSearch:
    """The search for the threshold of the top fraction of the pool, done, one pass over the columns after the other."""
    search, name = QuantileSearch(fraction, columns.dtype), score_name(columns.source.key)
    groups = [columns.paths(files) for _, files in run.metadata_groups()]
    while not search.done:
        turn = len(search.prefix)
        step = f"filter/threshold-{name}-{fraction!r}-{turn}"
        outputs = [f"state/{step}/{group:05d}.npy" for group in range(len(groups))]
        do(
            score_counts.piece(step, f"{group:05d}", inputs=paths, outputs=[outputs[group]])(
                columns=paths, search=search, output=outputs[group]
            )
            for group, paths in enumerate(groups)
        )
        search.feed(sum((load_array(run.out / output) for output in outputs), np.zeros(NUM_BINS, np.uint64)))
    return search


@piece(native=True)
def score_counts(out: Path, columns: Sequence[str], search: QuantileSearch, output: str) -> Nothing:
    """Piece: one pass of the threshold search over the scores of some metadata files."""
    counts = np.zeros(NUM_BINS, dtype=np.uint64)
    for name in columns:
        counts += score_histogram(load_array(out / name, mmap=True), search.prefix, dtype=search.dtype)
    save_array(out / output, counts)
    return Nothing()
