"""What the stages of a run recorded, as records; each stands in ``state/<stage>.json`` and is read again by others.

The files lie in the run directory and may have been altered: a field of another type is said by file and name before
anything is computed from it. A field with a default may be missing in the file of an older release.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, ClassVar, TypeVar

import msgspec

from dcfast.rundir.summary import Summary
from dcfast.rundir.training_summary import TrainingSummary  # noqa: F401  (one of SUMMARIES)
from dcfast.storage.json_files import read_json
from dcfast.storage.records import DECIMAL, Count, Record, as_record, read_record

_MEND = "the file was altered: remove it, and run the same command again without --from, which makes it anew"
Decimal = Annotated[str, msgspec.Meta(pattern=DECIMAL)]
"""A number as text, exact."""
Models = dict[str, str | dict[str, str | int]]
"""What the verdicts of a filter depend on besides the metadata: the expression, models and lists in use."""
R = TypeVar("R", bound=Record)
T = TypeVar("T")


class WorldSummary(Summary):
    stage: ClassVar[str] = "world"
    spec: dict[str, float]
    rows: Count
    samples: Count
    evalsets: Count


class IndexSummary(Summary):
    """Counts of the pool; ``with_uid`` are samples with a usable uid, ``rows_with_uid`` the records of the index."""

    stage: ClassVar[str] = "index"
    samples: Count
    shards: Count = 0
    members: Count = 0
    bytes: Count = 0
    with_uid: Count = 0
    damaged_shards: Count = 0
    strays: Count = 0
    segments: Count = 0
    rows_with_uid: Count = 0
    notes: list[str] = []


class ComparedSet(Record):
    """The signatures of an evaluation set; ``damage``: (file, what may hide images of it)."""

    name: str
    pictures: Count = 0
    unreadable: Count = 0
    flat: Count = 0
    damage: list[tuple[str, str]] = []


class SignaturesSummary(Summary):
    """``decoded``: whether images were; ``status``: how decoding went -> samples."""

    stage: ClassVar[str] = "signatures"
    decoded: bool = False
    pictures: Count = 0
    flat: Count = 0
    status: dict[str, Count] = {}
    evalsets: list[ComparedSet] = []
    notes: list[str] = []


class TeacherSummary(Summary, omit_defaults=True):
    stage: ClassVar[str] = "teacher"
    model: str
    samples: Count
    samples_seen: Count | None
    recipe: dict[str, int | float | str | bool | None]
    loss_last: float | None
    content_hash: str
    held_out: bool | None = None


class FeatureModelSummary(Record):
    """A model whose columns stand under ``prefixes``."""

    key: str
    prefixes: list[str]
    name: str
    content_hash: str | None
    dim: Count


class FeaturesSummary(Summary):
    stage: ClassVar[str] = "features"
    models: list[FeatureModelSummary]
    by_teacher: list[str] = []
    samples: Count = 0
    status: dict[str, Count] = {}
    rows: Count = 0
    rows_found: Count = 0
    scored: dict[str, Count] = {}


class DecontaminateSummary(Summary):
    """``available``: whether there were evaluation sets; ``max_distance`` None: there were none.

    ``sets``: whose pictures were looked for.   ``published``: rows of metadata with a descriptor that was compared.
    """

    stage: ClassVar[str] = "decontaminate"
    available: bool
    uids: Count
    samples: Count = 0
    content: Count = 0
    flat: Count = 0
    evidence_rows: Count = 0
    max_distance: Annotated[int, msgspec.Meta(ge=0, le=64)] | None = None
    max_distance_256: Annotated[int, msgspec.Meta(ge=0, le=255)] | None = None
    sets: list[str] = []
    published: Count = 0
    notes: list[str] = []


class DedupSummary(Summary):
    """Duplicates of the pool.

    Attributes:
        methods: strongest evidence first.   older: names of the pools that it was compared with.   keep: the rule.
        samples, readable, flat, flat256: of the pool's images, flat by 64 and by 256 bits.
        embedded, invalid_embeddings: of semantic.
        groups, duplicates, uids: groups of copies; samples that are dropped, and their uids.
        links: dropped samples by the method that ties them.   of_older: dropped for a sample of an older pool.
        repeats: copies that have the uid of one that stays.   largest_group: samples.   steps: of a chain, at most.
        chained: samples that stay because only a chain ties them to the kept one of their group.
    """

    stage: ClassVar[str] = "dedup"
    methods: list[str]
    keep: str
    duplicates: Count
    uids: Count
    older: list[str] = []
    samples: Count = 0
    readable: Count = 0
    flat: Count = 0
    flat256: Count = 0
    embedded: Count = 0
    invalid_embeddings: Count = 0
    groups: Count = 0
    links: dict[str, Count] = {}
    of_older: Count = 0
    repeats: Count = 0
    chained: Count = 0
    largest_group: Count = 0
    steps: Count = 0
    notes: list[str] = []


class KeptCopies(Record):
    """Kept samples that are copies of evaluation images: all, and of each set that was compared."""

    samples: Count
    evalsets: dict[str, Count]


class ClusterCounts(Record, omit_defaults=True):
    """Of a cluster set: k-means over ``points``, where it was made here; clusters, those a target's image is in;
    metadata rows that were asked about, and those inside."""

    points: Count | None = None
    clusters: Count | None = None
    iterations: Count | None = None
    mean_squared_distance: float | None = None
    chosen: Count | None = None
    rows_asked: Count | None = None
    rows_inside: Count | None = None


class SampledCopies(Record):
    """What ``sample(...)`` drew: ``copies`` of ``uids``, among ``candidates`` uids that pass the rest; ``most`` of one.

    ``by_copies``: (copies, uids), rising from 0; the last may be of 1,000 and more.
    """

    candidates: Count
    uids: Count
    copies: Count
    most: Count
    by_copies: list[tuple[Count, Count]]


class FilterSummary(Summary):
    """``subset`` is None where the pool has no shards yet; ``thresholds``: key -> number as text; ``sampled``: left out
    where nothing is drawn; ``unasked``: metadata rows whose image nobody asked for when the pool was acquired."""

    stage: ClassVar[str] = "filter"
    filter: str
    fates: dict[str, Count]
    subset: Count | None
    thresholds: dict[str, Decimal] | None
    models: Models
    clusters: dict[str, ClusterCounts] = {}
    metadata_rows: Count = 0
    malformed_uids: Count = 0
    metadata_outcomes: dict[str, Count] = {}
    subset_metadata: Count | None = None
    contaminated: KeptCopies | None = None
    reasons: dict[str, Count] = {}
    damage: list[tuple[str, str]] = []
    damaged_shards: Count = 0
    repeated_in_pool: Count = 0
    repeated_in_metadata: Count = 0
    notes: list[str] = []
    sampled: SampledCopies | msgspec.UnsetType = msgspec.UNSET
    unasked: Count = 0


class ReshardSummary(Summary):
    stage: ClassVar[str] = "reshard"
    output_shards: Count
    samples: Count = 0
    missing: Count = 0
    tar_bytes: Count = 0


class VerifySummary(Summary):
    """``ok`` where every payload agrees with its source and the fates add up; else ``problems``.

    ``other_copies``: rows of the fates whose copies are not those of the subset; left out where none were drawn.
    """

    stage: ClassVar[str] = "verify"
    ok: bool
    problems: list[str] = []
    contaminated_in_subset: Count = 0
    shards: Count = 0
    written: Count = 0
    members: Count = 0
    payload_bytes: Count = 0
    mismatches: Count = 0
    rows: Count = 0
    sample_rows: Count = 0
    kept: Count = 0
    missing: Count = 0
    without_fate: Count = 0
    without_reason: Count = 0
    kept_outside_subset: Count = 0
    copies: Count = 0
    other_copies: Count | msgspec.UnsetType = msgspec.UNSET


class EvaluateSummary(Summary):
    """``available``: whether there were evaluation sets; ``scores`` and ``chance`` by set; ``limit``: of pictures of
    each set, where one was asked for; ``non_standard``: what of the recipe is not the scale's own."""

    stage: ClassVar[str] = "evaluate"
    available: bool = False
    scores: dict[str, float | None] = {}
    chance: dict[str, float | None] = {}
    checkpoint: str | None = None
    model: str = ""
    results: str = ""
    averages: dict[str, float | None] = {}
    own_average: float | None = None
    missing: list[str] = []
    failed: dict[str, str] = {}
    partial: list[str] = []
    unlisted: list[str] = []
    pictures: Count = 0
    unreadable: Count = 0
    notes: list[str] = []
    limit: Count | None = None
    non_standard: str | None = None


class ReportSummary(Summary):
    """``report``: the page."""

    stage: ClassVar[str] = "report"
    kept: Count
    standard: bool
    pictures: Count
    pairs: Count
    report: str = "report.html"


SUMMARIES = {kind.stage: kind for kind in Summary.__subclasses__()}
"""By stage."""


def read_summary(path: Path, kind: type[R]) -> R:
    """A record of a run directory.

    Raises:
        FileNotFoundError: it is not there.   CorruptDataError: it is no JSON object, or a field is missing or of
        another type; names file and field.
    """
    return read_record(path, kind, advice=_MEND)


def find_summary(path: Path, kind: type[T]) -> T | None:
    """The same where it is there; None where there is no file, or what is in it is no JSON object or an empty one.

    Raises CorruptDataError: a field is missing or of another type; names file and field.
    """
    try:
        value = read_json(path, names=True)
    except (OSError, ValueError):
        return None
    return as_record(value, kind, str(path), _MEND) if isinstance(value, dict) and value else None


def equals_json(path: Path, value: object) -> bool:
    """Whether a file holds this JSON value; what cannot be read does not."""
    try:
        return bool(read_json(path, names=True) == value)
    except (FileNotFoundError, ValueError):
        return False
