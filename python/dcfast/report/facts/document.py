"""``report.json`` as a record: every number of the report. The page reads it, too."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from msgspec import UNSET, UnsetType

from dcfast.acquire.summary import AcquireSummary
from dcfast.report.facts.contamination import Contamination
from dcfast.report.facts.filter_parts import ClipScores, Overlap, RulesTruth
from dcfast.report.facts.inventory import ListedFile, Timings
from dcfast.report.facts.outcome import Scores
from dcfast.report.facts.samples import GalleryRow, QuarantineRow
from dcfast.report.facts.training import Trainings, Verdict
from dcfast.report.facts.truth import WorldTruth
from dcfast.rundir.summaries import (
    DedupSummary,
    IndexSummary,
    ReshardSummary,
    SampledCopies,
    SignaturesSummary,
    VerifySummary,
)
from dcfast.storage.published import without_places
from dcfast.storage.records import Record, as_record, plain

REPORT_VERSION = 4
STRANGERS = ("gallery", "quarantine", "damage", "contamination", "comparison")
"""Parts of a report that quote samples, in which a slash need not begin a path."""


class RunFacts(Record):
    """``stages``: those that have run."""

    out: str
    scale: str
    pool: str | None
    evalsets: str | None
    built_in_world: bool
    stages: list[str]


class Reason(Record):
    """How many samples have a fate for a reason."""

    fate: str
    reason: str
    count: int


class FilterFacts(Record):
    """``given``: the expression of the settings, None for the default.   ``metadata_outcomes``: reason -> rows.
    ``as_asked``: of a run with ``--acquire``, with what was decided before the download; None of others.
    ``sampled``: left out where no copies were drawn."""

    expression: str | None
    given: str | None
    thresholds: dict[str, str] | None
    metadata_rows: int | None
    malformed_uids: int | None
    language_model: str | dict[str, str | int] | None
    metadata_outcomes: dict[str, int]
    as_asked: str | None = None
    sampled: SampledCopies | UnsetType = UNSET


class Subset(Record):
    """``contaminated``: kept uids that are, None where unknown."""

    uids: int | None
    sha256: str | None
    contaminated: int | None


class Repeated(Record):
    """Repeated uids."""

    in_shards: int
    in_metadata: int


class Quarantine(Record):
    """``rows``: the first of ``total``."""

    total: int
    rows: list[QuarantineRow]


class Damage(Record):
    """Damaged shards, and the first of them: (shard, what is wrong)."""

    shards: int
    listed: list[tuple[str, str]]


class Comparison(Record):
    """The comparison run; ``clean``: share of the kept that the truth calls clean."""

    filter: str | None
    out: str
    uids: int | None
    kept: int | None
    clean: float | None
    timings: Timings


class AskedGallery(Record):
    """The section of the gallery that an expression asked for; ``problem``: why there is none.

    ``matching`` of the ``rows`` of metadata that were looked at pass it, of ``of`` in all (None: not counted).
    """

    expression: str
    rows: int = 0
    of: int | None = None
    matching: int = 0
    problem: str | None = None


class GalleryDraw(Record):
    """What the gallery was drawn from: ``rows`` of ``of`` rows of the fates."""

    rows: int
    of: int
    asked: AskedGallery | None = None


class Report(Record):
    """The parts of a report, as docs/report.md says. A part whose stage has not run is None, in the file ``{}``.

    ``manifest`` is the file as it stands: the report quotes it, and its fields are those of many stages.
    """

    run: RunFacts
    standard: bool
    departures: list[str]
    acquired: AcquireSummary | None
    index: IndexSummary | None
    signatures: SignaturesSummary | None
    fates: dict[str, int]
    reasons: list[Reason]
    filter: FilterFacts
    subset: Subset
    repeated: Repeated
    contamination: Contamination
    dedup: DedupSummary | None
    gallery: dict[str, list[GalleryRow]]
    draw: GalleryDraw
    quarantine: Quarantine
    damage: Damage
    reshard: ReshardSummary | None
    verify: VerifySummary | None
    world: WorldTruth | None
    timings: Timings
    files: list[ListedFile]
    manifest: dict[str, Any] | None
    overlap: Overlap | None
    clip_scores: ClipScores | None
    rules_truth: RulesTruth | None
    look_problem: str | None
    comparison: Comparison | None
    scores: Scores
    training: Trainings
    verdict: Verdict
    notes: list[str]
    source_scores: list[ClipScores] = []
    version: int = REPORT_VERSION

    def without_places(self, places: Iterable[str]) -> Report:
        """The report without the places of this machine; of strangers' texts the run's own ``places`` alone."""
        parts = {
            name: without_places(plain(getattr(self, name)), places, all_texts=name not in STRANGERS)
            for name in Report.__annotations__
        }
        return as_record(parts, Report, "report.json")

    def as_json(self) -> dict[str, object]:
        """What ``report.json`` holds."""
        nullable = ("world", "rules_truth", "look_problem")
        parts = {name: plain(getattr(self, name)) for name in Report.__annotations__}
        return {name: {} if part is None and name not in nullable else part for name, part in parts.items()}
