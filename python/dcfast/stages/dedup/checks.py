"""What a search for duplicates needs, looked at before any work."""

from __future__ import annotations

from pathlib import Path

from dcfast.dedup.edges import SEMANTIC
from dcfast.errors import PoolError
from dcfast.features.files import ARRAY, sibling_npz
from dcfast.features.metadata import with_scores
from dcfast.features.spec import TEACHER, parse_model
from dcfast.filters.term import SCORES
from dcfast.index.metadata import COLUMN_TYPES, column_matches, metadata_schema
from dcfast.index.pool import Pool, pool_uid_rule
from dcfast.models.clip import model_config
from dcfast.rundir.run_dir import Run
from dcfast.stages.dedup.embeddings import embedding_kind
from dcfast.stages.dedup.pools import methods_of


def check_dedup(run: Run) -> None:
    """Looks at the older pools, the npz files and the column of scores; the head of each file is read.

    Raises:
        ValueError: an older pool is the pool itself, or given twice.
        PoolError: a pool cannot be opened, or lacks embeddings or scores that were asked for.
    """
    settings = run.settings
    seen = [str(run.pool_dir)]
    pools = [Pool.open(place, pool_uid_rule(place)) for place in settings.dedup_against or ()]
    for pool in pools:
        if str(pool.root) in seen:
            what = "the pool itself" if str(pool.root) == seen[0] else "given twice"
            raise ValueError(f"--against {pool.root} is {what}: give older pools, each once")
        seen.append(str(pool.root))
    if SEMANTIC in methods_of(settings):
        model = run.features.get("l14") if settings.dedup_embeddings == ARRAY else None
        compared = [*([] if model else [run.pool.metadata]), *(pool.metadata for pool in pools)]
        npzs = [sibling_npz(path) for files in compared for path in files]
        check_embeddings(npzs, settings.dedup_embeddings, model)
    if settings.dedup_keep == "score":
        for path in run.pool.metadata:
            _check_scores(run, path, settings.dedup_score)


def check_embeddings(npzs: list[str], array: str, model: str | None) -> None:
    """Reads the head of each array: all must be there, and as wide as each other and as what ``model`` will make."""
    first, where = None, f"what {model} makes"
    if npzs and model is not None and model != TEACHER:
        first = model_config(parse_model(model)[0])["embed_dim"]
    for npz in npzs:
        width = embedding_kind(Path(npz), array).shape[1]
        if first is None:
            first, where = width, npz
        if width != first:
            raise PoolError(
                f"duplicates by embeddings: {array!r} has {width} columns in {npz}, and {first} in {where}: "
                "compute all of them by one model, or leave the method semantic out"
            )


def _check_scores(run: Run, path: str, column: str) -> None:
    schema = with_scores(metadata_schema(path, run.settings.uid_from), path, [SCORES[name] for name in run.features])
    if schema.names.count(column) != 1:
        raise PoolError(
            f"--keep score needs the column {column!r}, once: {path} has {', '.join(schema.names) or 'no columns'}; "
            "name the column of the scores (--score COLUMN), make it (--features l14=ViT-L-14:openai), or keep by "
            "another rule"
        )
    kind = schema.field(column).type
    if not column_matches("number", kind):
        raise PoolError(
            f"--keep score: column {column!r} of {path} must be {COLUMN_TYPES['number'][0]}; got {kind}: name another"
        )
