"""What comes of the cells of a study, and what ``study.json`` says of them all (docs/study.md)."""

from __future__ import annotations

from dcfast.rundir.settings import Settings
from dcfast.storage.records import Count, Record

CellId = tuple[str, int, str]
"""Scale, seed and label of a cell."""


class CellResult(Record, kw_only=True):
    """What came of a cell.

    Attributes:
        filter: its expression.
        kept, rows: metadata rows.
        contaminated: kept samples that are copies of evaluation pictures; None where they were not counted.
        tasks, chance: key of a set -> main metric, and that of a guess.
        unscored: keys of the sets without a main metric.
        failed_sets: key -> why the set could not be scored.
        score: the mean of ``tasks``.
    """

    filter: str
    notes: list[str]
    kept: Count
    rows: Count
    samples_seen: Count | None
    contaminated: Count | None = None
    tasks: dict[str, float]
    chance: dict[str, float] = {}
    unscored: list[str] = []
    failed_sets: dict[str, str] = {}
    score: float | None


class StudyCell(CellResult, kw_only=True):
    """A cell: ``score`` is the mean of the sets that all cells have, ``score_of_all`` that of its own."""

    scale: str
    seed: int
    label: str
    score_of_all: float | None


class Compared(Record):
    """Keys of the sets that all cells with scores have, and of each other one the cells that lack it."""

    compared: list[str]
    cells: int
    left_out: dict[str, list[CellId]]


class Spread(Record):
    """Mean and standard deviation of a sample (n - 1); None where there are too few values."""

    mean: float | None
    deviation: float | None


class FilterRow(Record):
    """A filter at a scale, over its seeds: ``kept`` is the mean share of rows, ``contaminated`` a mean number, and
    ``missing`` are the seeds of the study that it has no score on."""

    scale: str
    filter: str
    expressions: list[str]
    seeds: list[int]
    scores: dict[str, float]
    mean: float | None
    deviation: float | None
    kept: float | None
    contaminated: float | None
    samples_seen: list[int | None]
    tasks: dict[str, Spread]
    missing: list[int] = []


class Difference(Record, omit_defaults=True):
    """Of two filters on the same seeds: the difference of the means, ``clear`` where it is above the bar."""

    difference: float | None
    bar: float | None
    clear: bool | None
    paired_deviation: float | None = None
    seeds_won: int | None = None
    means: tuple[float, float] | None = None
    deviations: tuple[float, float] | None = None


class AboveChance(Record):
    """Sets with a known chance; those above it, and by more than two standard deviations; keys of the others."""

    tasks: int
    above: int
    clearly: int
    at_or_below: list[str]


class Verdict(Record, omit_defaults=True):
    """The filter with the best mean on some seeds (``chosen_by``), and how it does against no_filter on others.

    ``random`` is the same of random against no_filter over all of these seeds; ``note`` says why nothing is confirmed.
    """

    scale: str
    choose: list[int]
    confirm: list[int]
    chosen_by: dict[str, float]
    best: str | None
    confirmed: Difference | None
    random: Difference | None
    above_chance: AboveChance | None
    note: str | None = None


class RankCorrelation(Record):
    scales: tuple[str, str]
    filters: int
    rho: float | None


class Failure(Record):
    """A cell that did not end well, and what it said last."""

    cell: str
    message: str


class Study(Record):
    version: int
    settings: Settings
    filters: dict[str, str]
    scales: list[str]
    seeds: list[int]
    tasks: Compared
    cells: list[StudyCell]
    table: list[FilterRow]
    verdicts: list[Verdict]
    rank_correlation: list[RankCorrelation]
    failed: list[Failure]
