"""What can be known to be wrong with a run before hours of work: one place for the run and for ``--dry-run``.

``check_start`` needs no run directory, ``check_work`` looks at one; a run begins when both have returned.
"""

from __future__ import annotations

import logging
import re
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from dcfast.dedup.signature_file import set_names
from dcfast.engine import check_ready
from dcfast.errors import DcfastError, FilterError, PoolError, RunError, UnknownFilterError, nearest
from dcfast.evaluate import check_evalsets
from dcfast.evaluate.tasks import compared_sets
from dcfast.filters import compile_filter
from dcfast.filters.term import CONTAMINATED, HEIGHT, SCORES, TEXT, WIDTH
from dcfast.filters.tokens import spelled
from dcfast.index.metadata import count_metadata_rows, open_metadata
from dcfast.index.pool import list_parquet, metadata_folder
from dcfast.models.clip import require_model
from dcfast.process.caption_places import parse_captions
from dcfast.process.libraries import require_library
from dcfast.process.options import check_options, one_of
from dcfast.rundir.branch import branch_settings, comparison_dir
from dcfast.rundir.run_dir import Run, look_at_run
from dcfast.rundir.settings import NO_COMPARISON, TEACHER, Settings
from dcfast.rundir.stage_table import STAGE_TABLE, STAGES
from dcfast.scales import scale, smaller_batch
from dcfast.stages.dedup.checks import check_dedup
from dcfast.stages.features import check_features
from dcfast.stages.filter.outcomes import check_metadata, resolve_expression
from dcfast.stages.teacher import check_teacher, teacher_model
from dcfast.stages.train import How, trained_as
from dcfast.storage.mirror import Mirror
from dcfast.storage.paths import check_source, is_url
from dcfast.train.caption_table import check_captions
from dcfast.train.dali import require_dali
from dcfast.train.place import place_of
from dcfast.train.reporters import require_reporters

_LOG = logging.getLogger("dcfast.run")


def check_settings(settings: Settings) -> None:
    """Looks for what can be known to be wrong without reading a file.

    Raises:
        ValueError: names the option, what was expected and what came.   MissingDependencyError: decoder ``dali``
            without DALI.
    """
    check_options(settings)
    parse_captions(settings.caption_from or [], settings.caption_weights or [])
    if "samples_seen" in (settings.overrides or {}):
        raise ValueError("overrides: samples_seen is an option of its own (--samples-seen N); leave it out of --set")
    batch = replace(settings, samples_seen=None).recipe().global_batch
    if settings.decoder == "dali" and settings.train:
        require_dali()
    for prefix, model in (settings.features or {}).items():
        one_of("features: the prefix", prefix, tuple(SCORES))
        if not model:
            raise ValueError(f"features: {prefix} needs a model, NAME:PRETRAINED or {TEACHER}")
    if settings.samples_seen is not None and settings.train and settings.samples_seen < batch:
        raise ValueError(
            f"samples_seen must be at least one batch of scale {settings.scale}, {batch}; got {settings.samples_seen}"
        )
    if settings.shards_from is not None:
        check_source(settings.shards_from, "shards_from")
        if settings.pool is None or not is_url(settings.shards_from):
            raise ValueError(
                f"shards_from must be the URL of a given pool's shards; got {settings.shards_from!r}: of a directory "
                "that has both give --pool DIR alone"
            )
    if settings.pool is None:
        if settings.uid_from != "json":
            raise ValueError("uid_from is for a given pool; the samples of the built-in world have uids")
        if settings.teacher_uids is not None:
            raise ValueError(
                "teacher_uids names pairs of a given pool; leave it out: the built-in world's teacher has its own"
            )
    else:
        if settings.world is not None:
            raise ValueError("world changes the built-in world, and a run with a pool has none: leave one of them out")
        asks = TEACHER in (settings.features or {}).values()
        if asks and settings.teacher_uids is None:
            raise ValueError(
                f"features by the {TEACHER} need pairs of the pool that it may train on (--teacher-uids FILE): "
                "the toy teacher of the built-in world never scores a given pool"
            )
        if settings.teacher_uids is not None and not asks:
            raise ValueError(
                f"teacher_uids is given, but no column is asked of the {TEACHER}: ask for one (--features "
                f"l14={TEACHER}), or leave it out"
            )


def _check_names(text: str | None, settings: Settings) -> None:
    """FilterError where an expression cannot be read; of a name that is a column's, with how a column is compared."""
    try:
        compile_filter(text or "no_filter", run_code=False)
    except UnknownFilterError as error:
        near = nearest(error.name, _columns(settings), cutoff=0.75)
        if not near:
            raise
        said, place = str(error).split("\n", 1)
        said = said.partition("; known: ")[0]
        raise FilterError(
            f"{said} (the metadata has the column {near[0]!r}: write column({spelled(near[0])}) >= X)\n{place}"
        ) from None


def _columns(settings: Settings) -> list[str]:
    """The columns that the metadata has, as far as that can be known before the pool is looked at."""
    names = [TEXT, WIDTH, HEIGHT, *SCORES.values()]
    if settings.pool is not None:
        names = [SCORES[prefix] for prefix in settings.features or {}]
        with suppress(DcfastError, OSError, IndexError):  # what is wrong with the pool is said later
            folder = metadata_folder(settings.pool)
            with open_metadata(folder / list_parquet(folder)[0]) as file:
                names += file.schema.names
    return names


def check_start(
    settings: Settings,
    engine: str,
    workers: int,
    ray_address: str | None,
    gallery: str | None = None,
    training: How | None = None,
) -> None:
    """What is wrong whatever the run directory holds.

    Args:
        training: how the training is done, where there is one.
    Raises:
        ValueError, RunError, MissingDependencyError: in words.
    """
    check_settings(settings)
    for text in (settings.filter, None if settings.compare == NO_COMPARISON else settings.compare):
        _check_names(text, settings)
    if gallery is not None:
        _check_names(gallery, settings)
        compile_filter(gallery)
    if settings.train:
        _check_training(settings, training or How())
    check_one_process()
    if settings.pool is None and settings.scale != "tiny":
        raise RunError(f"scale {settings.scale} needs a pool: give --pool DIR; the built-in world is for scale tiny")
    check_ready(engine, workers, ray_address)


def _check_training(settings: Settings, how: How) -> None:
    """ValueError, MissingDependencyError: how a training is to be done makes no sense, or lacks a library."""
    every = how.get("evaluate_every")
    if every is None and how.get("evaluate_sets"):
        raise ValueError("--evaluate-sets belongs to --evaluate-every N; give both, or leave it out")
    if every is not None and settings.evalsets is None and settings.pool is not None:
        raise ValueError(
            "--evaluate-every scores checkpoints on the run's evaluation sets: give --evalsets DIR as well"
        )
    trained_as(settings, {**how, "evaluate_on": None if every is None else settings.evalsets or "evalsets"})
    require_reporters(how.get("report_to") or ())


def check_copies(run: Run, stages: list[str], how: How) -> None:
    """RunError where trainings cannot be copied to their place: a file is written there, and removed."""
    url = how.get("copy_to")
    if url is not None and "train" in stages:
        Mirror(run.out / "train", url, re.compile(""), re.compile("")).check()


def select_stages(run: Run, first: str | None, last: str | None) -> list[str]:
    """The stages from ``first`` to ``last`` that this run has; ValueError where there are none."""
    for name, value in (("--from", first), ("--to", last)):
        if value is not None:
            one_of(name, value, STAGES)
    begin = STAGES.index(first) if first else 0
    end = STAGES.index(last) if last else len(STAGES) - 1
    if begin > end:
        raise ValueError(f"--from {first} comes after --to {last}; the order is {', '.join(STAGES)}; swap them")
    run.look_for_shards(last)
    stages = [s for s in STAGES[begin : end + 1] if run.asks_for(s)]
    if not stages:
        name = first or last or ""
        raise ValueError(f"stage {name} {STAGE_TABLE[name].absent}")
    return stages


def check_before_pool(out: Path, settings: Settings, first: str | None, last: str | None, *, overwrite: bool) -> None:
    """What is wrong with a run on a pool that is to be fetched, as far as it is known without the pool: hours pass
    until ``check_work`` can be asked.

    Raises:
        DcfastError, ValueError, OSError: in words.
    """
    run = look_at_run(out, settings, overwrite=overwrite)
    begin = STAGES.index(first) if first else 0
    end = STAGES.index(last) if last else len(STAGES) - 1
    stages = [stage for stage in STAGES[begin : end + 1] if run.asks_for(stage)]
    if first is not None and stages:
        _check_earlier(run, stages[0])
    named = compile_filter(settings.filter, run_code=False).uid_sets if settings.filter is not None else ()
    if "filter" in stages and CONTAMINATED in named and not run.has_evaluation_sets:
        raise FilterError(
            "the filter uses contaminated, and there are no evaluation sets to compare with: give --evalsets DIR or "
            "--signatures FILE, or leave the term out"
        )
    if run.evalset_dir is not None:
        compared_sets(run.evalset_dir)
    set_names([Path(file) for file in run.settings.signatures or []])
    check_device(run, stages)
    _check_libraries(run, stages)
    _check_scored(run, stages)


def check_work(run: Run, stages: list[str], *, overwrite: bool, assume_gpu: bool = False) -> None:
    """What is wrong with these stages of a run, before the first begins.

    Args:
        assume_gpu: they will be run on a machine with a GPU.
    Raises:
        DcfastError, ValueError, OSError: in words.
    """
    if not assume_gpu:
        check_device(run, stages)
    check_stages(run, stages)
    _check_earlier(run, stages[0])
    place = comparison_dir(run)
    if place is not None and {"train", "evaluate"} & set(stages):
        look_at_run(place, branch_settings(run.settings, run.compare), overwrite=overwrite)
    if "train" in stages:
        _check_batch(run)


def _check_batch(run: Run) -> None:
    """RunError where the pool has fewer metadata rows than a step of the training takes; reads footers alone, and no
    more of them than it takes to know."""
    batch, rows = run.settings.recipe().global_batch, 0
    for count in (run.world_spec.rows,) if run.is_world else map(count_metadata_rows, run.pool.metadata):
        rows += count
        if rows >= batch:
            return
    what = "the built-in world" if run.is_world else f"pool {run.pool_dir}"
    raise RunError(
        f"{what} has {rows:,} metadata rows, fewer than one batch of {batch:,}, and a batch must not repeat a sample "
        f"for want of others. Nothing was done. Take a smaller batch (--set global_batch={smaller_batch(rows // 2)}), "
        "or leave training out (--no-train)"
    )


def _check_earlier(run: Run, first: str) -> None:
    """RunError where a stage before the first that is asked for has not been run, or would have to be run again."""
    earlier = [name for name in STAGES[: STAGES.index(first)] if run.asks_for(name)]
    for name in earlier:
        run.check_done(name)
    if earlier and not run.is_recorded:
        raise RunError(
            f"{run.out}: its stages were run with other settings, and with these stage {earlier[0]} has not been run "
            "yet; run it first (or drop --from): what it made is taken over where nothing changed"
        )


def check_stages(run: Run, stages: list[str]) -> None:
    """What the stages need: filters that can be read, libraries, models, the files of pool and evaluation sets."""
    for expression in (run.settings.filter, run.compare):
        if expression is not None:
            compiled = compile_filter(expression)
            if "filter" in stages:
                compiled.check_needs()
    if run.is_world:
        run.world_spec  # noqa: B018  (ValueError where the changes to it make no sense)
    _check_libraries(run, stages)
    if "teacher" in stages:
        check_teacher(run)
    if "features" in stages:
        check_features(run)
    if "world" in stages:
        return  # it may be half rendered: its files are listed when it is whole
    run.pool  # noqa: B018  (lists the pool, or says what is missing)
    if run.metadata_only and run.features:
        columns = ", ".join(SCORES[prefix] for prefix in run.features)
        raise PoolError(
            f"--features computes {columns} from pictures, and pool {run.pool_dir} has no shards yet: download them, "
            "or filter by the columns that its metadata has, without --features"
        )
    if run.evalset_dir is not None and "signatures" in stages:
        compared_sets(run.evalset_dir)
    set_names([Path(file) for file in run.settings.signatures or []])
    if "train" in stages:
        _check_captions(run)
    if "dedup" in stages:
        check_dedup(run)
    if "filter" in stages:
        check_metadata(run, resolve_expression(run)[0])
        if run.compare is not None:
            resolve_expression(replace(run, settings=branch_settings(run.settings, run.compare)))
    elif {"index", "features"} & set(stages):
        check_metadata(run, "no_filter")
    _check_scored(run, stages)


def _check_captions(run: Run) -> None:
    """PoolError, OSError: captions by uid are to come from what has none."""
    for place in trained_as(run.settings, How()).captions():
        if place.kind == "parquet":
            check_captions(place.path, place.name)


def _check_libraries(run: Run, stages: list[str]) -> None:
    """MissingDependencyError, CheckpointError: a library or a model of some stages is not there."""
    for stage in stages:
        for library in STAGE_TABLE[stage].libraries:
            require_library(library, f"stage {stage}")
    trained = run.settings.recipe().model
    for stage, model in (("teacher", teacher_model()), ("train", trained), ("evaluate", trained)):
        if stage in stages:
            require_model(model)


def _check_scored(run: Run, stages: list[str]) -> None:
    """EvalsetError: no set can be scored; a warning for each that cannot."""
    if "evaluate" in stages and run.evalset_dir is not None:
        for key, reason in check_evalsets(run.evalset_dir, run.settings.sets).items():
            _LOG.warning("evaluation set %s cannot be scored as it is, but the others can: %s", key, reason)


def check_one_process() -> None:
    """RunError where a starter of ranks runs the whole workflow in each of them."""
    place = place_of()
    if place.size > 1:
        raise RunError(
            f"{place.started_by} started {place.size} ranks of this program, and each of them calls dcfast for the "
            "whole work: start it once. What shares its work with ranks is the command: python -m dcfast.run"
        )


def check_device(run: Run, stages: list[str]) -> None:
    """RunError where work for days would begin on a machine without a GPU, unless it was asked for."""
    wanting = [stage for stage in stages if STAGE_TABLE[stage].on_models]
    settings = run.settings
    if not wanting or settings.device == "cpu" or (settings.device == "auto" and settings.scale == "tiny"):
        return
    require_library("torch", f"stage {wanting[0]}")
    import torch

    if torch.cuda.is_available():
        return
    hours = scale(settings.scale).gpu_hours
    much = f" (about {hours:,.0f} A100 GPU-hours)" if hours else ""
    if settings.device == "cuda":
        raise RunError(f"--device cuda: torch finds no GPU for stage {wanting[0]}; leave --device out, or say cpu")
    before = [name for name in STAGES[: STAGES.index(wanting[0])] if run.asks_for(name)][-1]
    raise RunError(
        f"scale {settings.scale} wants a GPU for stage {wanting[0]}{much}, and there is none here. Nothing was done. "
        f"End before it (--to {before}), leave training out (--no-train), or insist on the processor (--device cpu)"
    )
