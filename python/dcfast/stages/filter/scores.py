"""Part of stage ``filter``: every source of scores becomes a column beside the metadata, each by its own maker."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from dcfast.filters.score_sources import (
    ArrayScore,
    ColumnScore,
    ContrastScore,
    DensityScore,
    MixedScore,
    ScoreFile,
    ScoreSource,
    SemanticScore,
    TargetScore,
    WithinScore,
    with_parts,
)
from dcfast.process.libraries import require_library
from dcfast.rundir.run_dir import Run
from dcfast.stages.filter.contrast import arrays_of, make_contrast
from dcfast.stages.filter.embeddings import check_arrays, image_array
from dcfast.stages.filter.mixed import check_column, make_copied, make_mixed, make_within
from dcfast.stages.filter.score_arrays import check_by_row, is_by_row, make_by_row
from dcfast.stages.filter.score_columns import ScoreColumns
from dcfast.stages.filter.score_files import check_score_file, make_file_scores
from dcfast.stages.filter.semantic import make_density, make_semantic
from dcfast.stages.filter.targets import check_target, make_target_scores
from dcfast.stages.runner import Do


def check_scores(run: Run, sources: Sequence[ScoreSource]) -> None:
    """Looks for what sources need, before any work.

    Raises:
        PoolError, CorruptDataError, FilterError: a file or an array is not what it must be.   OSError: it is not there.
        MissingDependencyError: a source is made with torch, which is not there.
    """
    for source in with_parts(sources):
        if isinstance(source, ScoreFile):
            if is_by_row(source):
                check_by_row(run, source)
            else:
                check_score_file(source)
        elif isinstance(source, ArrayScore):
            check_column(run, source)
        elif isinstance(source, ContrastScore):
            check_arrays(run, source.key, source.arch, arrays_of(source))
        elif isinstance(source, TargetScore):
            check_target(run, source)
        elif isinstance(source, (SemanticScore, DensityScore)):
            require_library("torch", f"filter {source.key}")
            check_arrays(run, source.key, source.arch, [image_array(source.arch)])


def make_scores(run: Run, do: Do, sources: Iterable[ScoreSource]) -> list[ScoreColumns]:
    """The columns of all sources, in their order; parts of them are made first and once.

    What is made already for another filter of this run is not made again: pieces and paths go by the sources' keys.
    """
    sources = list(sources)
    made: dict[str, ScoreColumns] = {}
    for source in with_parts(sources):
        made[source.key] = _made(run, do, source, made)
    return [made[source.key] for source in sources]


def _made(run: Run, do: Do, source: ScoreSource, made: Mapping[str, ScoreColumns]) -> ScoreColumns:
    if isinstance(source, ScoreFile):
        return make_by_row(run, do, source) if is_by_row(source) else make_file_scores(run, do, source)
    if isinstance(source, (ColumnScore, ArrayScore)):
        return make_copied(run, do, source)
    if isinstance(source, ContrastScore):
        return make_contrast(run, do, source)
    if isinstance(source, TargetScore):
        return make_target_scores(run, do, source)
    if isinstance(source, SemanticScore):
        return make_semantic(run, do, source)
    if isinstance(source, DensityScore):
        return make_density(run, do, source)
    if isinstance(source, WithinScore):
        return make_within(run, do, source, made)
    if isinstance(source, MixedScore):
        return make_mixed(run, do, source, made)
    raise TypeError(f"no scores are made of a {type(source).__name__}; give a source of dcfast.filters.score_sources")
