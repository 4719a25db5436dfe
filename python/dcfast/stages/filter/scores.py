"""Part of stage ``filter``: every source of scores becomes a column beside the metadata, each by its own maker."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from dcfast.filters.score_sources import ScoreFile, ScoreSource, with_parts
from dcfast.rundir.run_dir import Run
from dcfast.stages.filter.score_columns import ScoreColumns
from dcfast.stages.filter.score_files import check_score_file, make_file_scores
from dcfast.stages.runner import Do


def check_scores(run: Run, sources: Sequence[ScoreSource]) -> None:
    """Looks for what sources need, before any work.

    Raises:
        PoolError, CorruptDataError, FilterError: a file or an array is not what it must be.   OSError: it is not there.
    """
    del run
    for source in with_parts(sources):
        if isinstance(source, ScoreFile):
            check_score_file(source)


def make_scores(run: Run, do: Do, sources: Iterable[ScoreSource]) -> list[ScoreColumns]:
    """The columns of all sources, in their order; parts of them are made first and once.

    What is made already for another filter of this run is not made again: pieces and paths go by the sources' keys.
    """
    sources = list(sources)
    made: dict[str, ScoreColumns] = {}
    for source in with_parts(sources):
        made[source.key] = _made(run, do, source)
    return [made[source.key] for source in sources]


def _made(run: Run, do: Do, source: ScoreSource) -> ScoreColumns:
    if isinstance(source, ScoreFile):
        return make_file_scores(run, do, source)
    raise TypeError(f"no scores are made of a {type(source).__name__}; give a source of dcfast.filters.score_sources")
