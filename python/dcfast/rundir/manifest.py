"""``manifest.json`` as a record: what a run was made of, so that its results can be trusted and repeated."""

from __future__ import annotations

from dcfast.plugins import PluginUse
from dcfast.rundir.settings import Settings
from dcfast.rundir.summaries import (
    EvaluateSummary,
    FeaturesSummary,
    KeptCopies,
    Models,
    SampledCopies,
    TeacherSummary,
)
from dcfast.rundir.training_summary import TrainingSummary
from dcfast.scales import Scale
from dcfast.storage.records import Count, Record


class UidList(Record):
    """A file of uids: how many, and its SHA-256; None where it is gone."""

    uids: Count
    sha256: str | None = None


class Subset(UidList):
    """``subset.npy``; ``contaminated``: samples of it that are copies of evaluation images, None where nothing was
    looked for."""

    contaminated: KeptCopies | None = None


class PoolFiles(Record):
    """``fingerprint``: a hash of names, sizes and mtimes."""

    shards: Count
    metadata_files: Count
    fingerprint: str


class EvalSets(Record):
    names: list[str]
    fingerprint: str


class ComparedRun(Record, omit_defaults=True):
    """The same of the comparison run."""

    filter: str | None = None
    thresholds: dict[str, str] | None = None
    subset: Subset | None = None
    train: TrainingSummary | None = None
    evaluate: EvaluateSummary | None = None
    non_standard: list[str] | None = None


class Manifest(Record, omit_defaults=True):
    """No times are in it, so that the same run writes the same bytes. Parts of stages that have not run are absent.

    Attributes:
        recipe_sha256: hash of ``recipe``, the scale's.
        filter: the run's own; ``filter_as_asked``: of one with ``--acquire``, with what was decided before the
            download.
        sampled: what sample(...) of the filter drew, absent where nothing was drawn.
        subset: absent where there were no shards.
        plugins: those of other packages that the run used, absent where there were none.
        non_standard: why results must not be taken for results of DataComp's; empty for a standard run.
    """

    versions: dict[str, str]
    settings: Settings
    recipe: Scale
    recipe_sha256: str
    pool: PoolFiles
    non_standard: list[str]
    evalsets: EvalSets | None = None
    filter: str | None = None
    filter_as_asked: str | None = None
    thresholds: dict[str, str] | None = None
    models: Models | None = None
    sampled: SampledCopies | None = None
    subset_metadata: UidList | None = None
    subset: Subset | None = None
    contaminated: UidList | None = None
    teacher: TeacherSummary | None = None
    features: FeaturesSummary | None = None
    train: TrainingSummary | None = None
    evaluate: EvaluateSummary | None = None
    compare: ComparedRun | None = None
    plugins: list[PluginUse] | None = None
