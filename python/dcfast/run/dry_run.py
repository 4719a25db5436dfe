"""``--dry-run``: every check that the run makes before work, what of it is done, and what the rest would cost.

The checks are the run's own (``dcfast.run.checks``), what is done is told by the stages' own code
(``dcfast.run.states``), and times are reckoned from short trials here (``dcfast.run.probes``), or taken from the last
time that a stage was run in this directory.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from dcfast.errors import DcfastError, MissingDependencyError, RunError
from dcfast.evaluate.tasks import compared_sets
from dcfast.filters import compile_filter
from dcfast.filters.defaults import DEFAULT_FILTER
from dcfast.index.metadata import count_metadata_rows
from dcfast.process.terminal import say
from dcfast.report.facts.reading import read_rows
from dcfast.run.checks import check_device, check_stages, check_start, check_work, select_stages
from dcfast.run.feature_plan import feature_names, feature_words, pair_seconds
from dcfast.run.options import RunOptions, how_to_train
from dcfast.run.probes import Rates, measure
from dcfast.run.states import DONE, MAYBE, StageState, stage_states
from dcfast.run.training_plan import checkpoint_bytes, cost_lines, own_name, pair_bytes, repeat_lines, trainings_begun
from dcfast.rundir.run_dir import Run, look_at_run
from dcfast.rundir.settings import Settings
from dcfast.rundir.stage_table import STAGES
from dcfast.rundir.summaries import read_summary
from dcfast.rundir.training_summary import TrainingSummary
from dcfast.scales import RECIPE_FIELDS, scale
from dcfast.stages.evaluate import TRAIN_SUMMARY
from dcfast.stages.filter.outcomes import resolve_expression
from dcfast.stages.teacher import RECIPE, teacher_model
from dcfast.storage.records import Count, Record
from dcfast.world.spec import WorldSpec
from dcfast.world.tasks import TASKS, task_size

REPORT_SECONDS = 3.0
HOURS_A_YEAR = 8766
MOST_YEARS = 50  # beyond, no figure means more
PAIR_SECONDS = 3e-5  # a sample, to look for its copies by a perceptual hash
EMBEDDING_BYTES = 2 * 2 * 768 * 2  # picture and text, twice, at most as wide as ViT-L's, as float16


@dataclass(frozen=True)
class Amounts:
    """What a run goes through; of a world that is not rendered, by its specification."""

    shards: int
    shard_bytes: int
    metadata_files: int
    metadata_bytes: int
    rows: int
    evalsets: int
    eval_bytes: int
    eval_pictures: int


@dataclass(frozen=True)
class StagePlan:
    """A stage: its state, bytes read, bytes written at most, seconds; nothing where it is done, None where unknown."""

    stage: str
    state: StageState
    read: int
    write: int | None
    seconds: float | None


@dataclass(frozen=True)
class Plan:
    """Amounts, what training costs on A100 GPUs where the paper says it, the stages, and what was measured.

    Attributes:
        trainings: at most, where a stage may be left as it is (``at_most``).
        repeats: how often training sees a sample, in lines.
        costs: what training takes of network and GPUs, in lines.
        features: a line on what computing them costs, where that is planned.
    """

    amounts: Amounts
    trainings: int
    at_most: bool
    gpu_hours: float | None
    stages: list[StagePlan]
    free_bytes: int
    how: list[str]
    repeats: list[str]
    costs: list[str]
    features: Sequence[str] = ()


@dataclass(frozen=True)
class Here:
    """Which stages can be looked at on this machine, from the first on, and which of them can be timed."""

    looked: Sequence[str]
    timed: Collection[str]


NOTHING = Here((), ())


def dry_run(out: Path, settings: Settings, how: RunOptions) -> None:
    """Says the plan of a run on standard output, and raises what the run would refuse before work.

    The plan comes first where what is wrong may be other on the machine that the run is meant for (a GPU, a library)
    or is a stage that has not been run yet.
    """
    check_start(settings, how.engine, how.workers, how.ray_address, how.gallery, how_to_train(how))
    run = look_at_run(out, settings, overwrite=how.overwrite)
    stages = select_stages(run, how.first, how.last)
    try:
        check_work(run, stages, overwrite=how.overwrite, assume_gpu=how.assume_gpu)
    except (RunError, MissingDependencyError) as error:
        say(describe(run, stages, how.workers, here=_left_of(run, stages)))
        _say_no_gpu(run, stages, how)
        raise error
    lacking = how.assume_gpu and bool(_without_gpu(run, stages))
    say(describe(run, stages, how.workers, here=_left_of(run, stages) if lacking else None))
    _say_no_gpu(run, stages, how)


def _without_gpu(run: Run, stages: Sequence[str]) -> list[str]:
    """The stages that want a GPU, where this machine has none."""
    wanting = []
    for stage in stages:
        try:
            check_device(run, [stage])
        except RunError:
            wanting.append(stage)
        except MissingDependencyError:  # it cannot be asked: the error says so
            return []
    return wanting


def _say_no_gpu(run: Run, stages: Sequence[str], how: RunOptions) -> None:
    if wanting := ", ".join(_without_gpu(run, stages)):
        so = "the plan is for one that has a GPU" if how.assume_gpu else "--assume-gpu plans for one that has a GPU"
        say(f"this machine has no GPU: {wanting} cannot be run or timed here; {so}")


def _left_of(run: Run, stages: Sequence[str]) -> Here:
    """Of a run that refuses: its stages before the first that lacks more than a GPU, and those that lack nothing."""
    if any(run.asks_for(name) and not run.has_summary(name) for name in STAGES[: STAGES.index(stages[0])]):
        return NOTHING
    looked: list[str] = []
    timed: list[str] = []
    for stage in stages:
        lacks_gpu = False
        try:
            check_device(run, [stage])
        except RunError:
            lacks_gpu = True
        except MissingDependencyError:
            break
        try:
            if stage != "evaluate":  # what it needs is train's; of its sets it would warn
                check_stages(run, ["world", stage] if "world" in stages else [stage])
        except (DcfastError, ValueError, OSError):  # the run says the first that is wrong, and this is another
            break
        looked.append(stage)
        if not lacks_gpu:
            timed.append(stage)
    return Here(looked, timed) if len(timed) < len(stages) else NOTHING


def plan(run: Run, stages: Sequence[str], workers: int, *, here: Here | None = None) -> Plan:
    """The plan as data.

    Args:
        stages: of this run, following each other.
        here: what can be told of them where some lack something; what is not timed has no seconds.
    """
    here = here or Here(stages, stages)
    states = stage_states(run, here.looked)
    states += [StageState(stage, "", "") for stage in stages[len(here.looked) :]]
    undone = [own_name(each.stage) for each in states if each.state != DONE]
    untimed = {stage for stage in stages if stage not in here.timed}
    waiting = [stage for stage in undone if stage not in untimed]
    rates = measure(run, waiting) if waiting else Rates()
    rates.gpus = min(rates.gpus, workers)
    amounts = _amounts(run, rates)
    costs = _costs(run, amounts, rates, workers)
    before = _last_times(run) if waiting else {}
    begun = trainings_begun(run, states)
    unlooked = stages[len(here.looked) :]
    trainings = _trainings(run) if "train" in unlooked else undone.count("train")
    planned = []
    for each in states:
        read, write, seconds = (0, 0, 0.0) if each.state == DONE else costs.get(own_name(each.stage), (0, 0, 0.0))
        if each.state != DONE:
            seconds = before.get(each.stage, seconds)
        if (its := begun.get(each.stage)) is not None:
            seconds, read = its.left * (its.seconds or seconds / its.steps), read * its.left // its.steps
        most: int | None = write
        if own_name(each.stage) == "train" and each.state != DONE:
            most = None if "train" in unlooked else checkpoint_bytes(run.settings.recipe()) + 8 * amounts.rows
        planned.append(StagePlan(each.stage, each, read, most, None if own_name(each.stage) in untimed else seconds))
    features = [each for each in planned if each.stage == "features" and each.state.state not in ("", DONE)]
    timed = [s.stage for s in states if s.state != DONE and s.stage in before and s.stage not in {*untimed, *begun}]
    return Plan(
        amounts=amounts,
        trainings=trainings,
        at_most=any(each.state == MAYBE for each in states),
        gpu_hours=_gpu_hours(run, trainings),
        stages=planned,
        free_bytes=shutil.disk_usage(_existing(run.out)).free,
        repeats=repeat_lines(run, _trained(planned), states, amounts.rows, _copies(run)),
        costs=cost_lines(run, [(each.stage, each.read, each.seconds) for each in planned], rates.train, _amount, _time),
        how=[
            *rates.how,
            *([f"{', '.join(timed)} by the last time here"] if timed else []),
            *(f"{stage}: {its.left:,} of {its.steps:,} steps are left" for stage, its in begun.items()),
        ],
        features=[feature_words(run, amounts.rows, each.seconds, rates, each.stage in before) for each in features],
    )


def _amounts(run: Run, rates: Rates) -> Amounts:
    if run.is_world and not run.has_summary("world"):
        spec = run.world_spec
        pictures = sum(task_size(spec, task) for task in TASKS.values())
        size, eval_size = int(spec.rows * rates.pair_bytes), int(pictures * rates.picture_bytes)
        shards = spec.num_shards
        return Amounts(shards, size, shards, 0, spec.rows, len(TASKS), eval_size, pictures)
    pool = run.pool
    sets = [] if run.evalset_dir is None else [files for _, files in compared_sets(run.evalset_dir)]
    eval_bytes = sum(os.path.getsize(file) for files in sets for file in files)
    return Amounts(
        shards=len(pool.shards),
        shard_bytes=pool.bytes_of(pool.shards),
        metadata_files=len(pool.metadata),
        metadata_bytes=sum(map(os.path.getsize, pool.metadata)),
        rows=sum(map(count_metadata_rows, pool.metadata)),
        evalsets=len(sets),
        eval_bytes=eval_bytes,
        eval_pictures=int(eval_bytes / rates.picture_bytes) if rates.picture_bytes else 0,
    )


def _costs(run: Run, amounts: Amounts, rates: Rates, workers: int) -> Mapping[str, tuple[int, int, float]]:
    """Stage -> bytes read, bytes written at most, seconds."""
    rows, size, pictures = amounts.rows, amounts.shard_bytes, amounts.eval_pictures
    cores = min(workers, len(os.sched_getaffinity(0)))
    spec: WorldSpec | None = run.world_spec if run.is_world else None
    recipe, teacher = run.settings.recipe(), teacher_model()
    model = recipe.model
    training = recipe.samples_seen * (rates.train.get(model, 0.0) + rates.picture / cores)
    teaching = RECIPE["samples_seen"] * rates.train.get(teacher, 0.0)
    if spec is not None:
        teaching += spec.teacher_pairs * rates.render / cores
    embedding = rows * pair_seconds(rates, feature_names(run), cores)
    metadata, copies = amounts.metadata_bytes, _copies(run)
    written = size if copies is None or not rows else int(size / rows * copies)
    return {
        "world": (0, size + amounts.eval_bytes, (rows + pictures) * rates.render / cores),
        "index": (size, 100 * rows, size * rates.index / cores),
        "signatures": (size + amounts.eval_bytes, 40 * rows, (rows + pictures) * rates.picture / cores),
        "teacher": (0, 100_000_000, teaching),
        "features": (size, EMBEDDING_BYTES * rows * len(run.features), embedding),
        "decontaminate": (64 * rows, 0, 64 * rows * rates.read),
        "dedup": (64 * rows, 60 * rows, 64 * rows * rates.read + rows * PAIR_SECONDS),
        "filter": (metadata, 90 * rows + 32 * (copies or 0), rows * rates.filter / cores),
        "reshard": (size, written, (size + written) * rates.read / cores),
        "verify": (2 * written, 0, 2 * written * rates.read / cores),
        "train": (pair_bytes(size, rows) * recipe.samples_seen, 0, training),
        "evaluate": (amounts.eval_bytes, 0, pictures * pair_seconds(rates, [model], cores)),
        "report": (0, 2_000_000, REPORT_SECONDS),
    }


def _copies(run: Run) -> int | None:
    """Samples that the filter's ``sample(...)`` draws; None where it draws none."""
    text = run.settings.filter
    sampling = None if text is None else compile_filter(text, run_code=False).sampling
    return None if sampling is None else sampling.total


class _TimingLine(Record):
    step: str
    seconds: float
    pieces: Count
    skipped: Count


def _last_times(run: Run) -> dict[str, float]:
    """Stage -> seconds of its steps, when each was last done here; for all of its pieces at that pace.

    Of a training by another recipe nothing is taken, nor of the evaluation of its model.
    """
    steps: dict[str, float] = {}
    for line in read_rows(run.out / "state" / "timings.jsonl", _TimingLine):
        steps[line.step] = line.seconds / max(line.pieces, 1) * (line.pieces + line.skipped)
    stages: dict[str, float] = {}
    for step, seconds in steps.items():
        stages[step.partition("/")[0]] = stages.get(step.partition("/")[0], 0.0) + seconds
    other = ("train", "evaluate") if "train" in stages and not _was_trained_so(run) else ()
    return {stage: seconds for stage, seconds in stages.items() if stage not in other}


def _was_trained_so(run: Run) -> bool:
    """Whether the training that is there followed the recipe of the settings."""
    try:
        was = read_summary(run.out / TRAIN_SUMMARY, TrainingSummary).recipe
    except (OSError, ValueError):  # gone or altered: it tells nothing
        return False
    asked = {**asdict(run.settings.recipe()), "loss": run.settings.loss, "decoder": run.settings.decoder}
    return all(was.get(name) == asked[name] for name in (*RECIPE_FIELDS, "loss", "decoder"))


def _trained(planned: Sequence[StagePlan]) -> list[str]:
    return [each.stage for each in planned if own_name(each.stage) == "train" and each.state.state != DONE]


def _trainings(run: Run) -> int:
    return 0 if not run.settings.train else 1 if run.compare is None else 2


def _gpu_hours(run: Run, trainings: int) -> float | None:
    """Of the trainings, from the paper's figure for the scale; None where it gives none, or of another model."""
    standard, recipe = scale(run.settings.scale), run.settings.recipe()  # the hours are of the frozen one
    if standard.gpu_hours is None or recipe.model != standard.model or not trainings:
        return None
    return trainings * standard.gpu_hours * recipe.samples_seen / standard.samples_seen


def _existing(path: Path) -> Path:
    while not path.exists():
        path = path.parent
    return path


def _amount(size: float) -> str:
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if size < 1000 or unit == "TB":
            return f"{size:,.0f} {unit}" if unit in ("B", "kB", "MB") else f"{size:,.1f} {unit}"
        size /= 1000
    raise AssertionError


def _time(seconds: float | None) -> str:
    if seconds is None:
        return "?"
    if seconds < 120:
        return f"{seconds:.0f} s"
    hours = seconds / 3600
    if hours < 2:
        return f"{seconds / 60:.0f} min"
    if hours <= 10_000:
        return f"{hours:,.1f} h"
    years = hours / HOURS_A_YEAR
    return f"{years:.1f} years" if years <= MOST_YEARS else f"more than {MOST_YEARS} years"


def _row(stage: str, state: str, read: str, write: str, about: str, why: str) -> str:
    return f"{stage:<18}{state:<6} {read:>11} {write:>15} {about:>18}  {why}".rstrip()


def _beside_the_scale(run: Run, its: Amounts) -> list[str]:
    """A line where a pool is not all of its scale's, or far more: the figures are of the pool that is there."""
    chosen = scale(run.settings.scale)
    if chosen.pool_bytes is None:
        return []
    rows, whole = its.rows, chosen.samples_seen  # as many rows has the pool of the scale
    size = _amount(chosen.pool_bytes)
    if whole <= rows <= 2 * whole:
        if 2 * its.shard_bytes >= chosen.pool_bytes:  # links rot: some of it cannot be downloaded
            return []
        return [
            f"all {whole:,} rows of scale {chosen.name} are here, and {_amount(its.shard_bytes)} of its about {size} "
            "of shards; the figures are for these"
        ]
    share = f"{rows / whole:.2%}" if rows >= whole / 10_000 else "less than 0.01%"
    hours = f", about {chosen.gpu_hours:,.0f} A100 GPU-hours" if chosen.gpu_hours else ""
    there = f"{rows:,} of the {whole:,} rows of scale {chosen.name} are here ({share}); the figures are for these"
    if rows > whole:
        there = f"{rows:,} rows are here, and scale {chosen.name} has {whole:,} ({share})"
    return [f"{there}; the whole scale: about {size} of shards{hours}"]


def _filter_line(run: Run) -> str:
    """The filter; of the default one what of it applies to this pool, and why not the rest."""
    if run.settings.filter is not None:
        return f"filter: {run.settings.filter}"
    if run.is_world and not run.has_summary("world"):  # its metadata will have all that it needs
        return f"filter: {DEFAULT_FILTER} (the default)"
    try:
        text, notes = resolve_expression(run)
    except (DcfastError, ValueError, OSError):  # what is wrong is said after the plan
        return f"filter: {DEFAULT_FILTER} (the default, of which what the pool has no columns for is left out)"
    return f"filter: {'; '.join([f'{text} (the default)', *notes])}"


def describe(run: Run, stages: Sequence[str], workers: int, *, here: Here | None = None) -> str:
    """The plan in words; arguments as for ``plan``."""
    planned = plan(run, stages, workers, here=here)
    its = planned.amounts
    head = f"plan for {run.out} (nothing is done)\nsettings: {json.dumps(asdict(run.settings), ensure_ascii=False)}"
    pool = (
        f"{its.shards:,} shards ({_amount(its.shard_bytes)}), {its.metadata_files:,} metadata files, {its.rows:,} rows"
    )
    if run.is_world and not run.has_summary("world"):
        pool = f"the built-in world, not rendered yet: {its.rows:,} pairs (about {_amount(its.shard_bytes)})"
    lines = [head, f"pool: {pool}; {its.evalsets} evaluation sets; {workers} workers"]
    lines.append(_filter_line(run))
    lines += _beside_the_scale(run, its)
    lines.append(_row("stage", "state", "reads", "writes at most", "about", "why"))
    for each in planned.stages:
        write = "?" if each.write is None else _amount(each.write)
        lines.append(_row(each.stage, each.state.state, _amount(each.read), write, _time(each.seconds), each.state.why))
    left = [each for each in planned.stages if each.state.state != DONE]
    if not left:
        return "\n".join([*lines, "nothing is to be done"])
    trains, most = planned.trainings, "at most " if planned.at_most else ""
    many = f"{most}{trains} training{'' if trains == 1 else 's'}"
    cost = many if trains else "no training in this plan, 0 GPU-hours"
    if planned.gpu_hours:
        cost += f", about {planned.gpu_hours:,.0f} A100 GPU-hours by DataComp's paper"
    lines.append(f"{_total(left, most)}{cost}; free on the disk: {_amount(planned.free_bytes)}")
    if (needed := sum(each.write or 0 for each in left)) > planned.free_bytes:
        lines.append(
            f"the disk may be too small: up to {_amount(needed)} are written; choose another --out, or free some"
        )
    lines += planned.features
    lines += planned.repeats
    lines += planned.costs
    if planned.how:
        lines.append(f"times by what was tried here just now: {'; '.join(planned.how)}")
    return "\n".join(lines)


def _total(left: Sequence[StagePlan], most: str) -> str:
    """The time of all stages that are timed; empty where none is."""
    timed = [each.seconds for each in left if each.seconds is not None]
    untimed = [each.stage for each in left if each.seconds is None]
    without = f" without {', '.join(untimed)}" if untimed else ""
    words = _time(sum(timed))
    about = most or ("" if words.startswith("more than") else "about ")
    return f"in all {about}{words}{without}; " if timed else ""
