"""What a training writes, and what is left of one that was begun: for ``--dry-run``."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import msgspec

from dcfast.errors import CorruptDataError
from dcfast.models.devices import has_gpu
from dcfast.report.facts.reading import read_rows
from dcfast.run.model_probes import model_size
from dcfast.run.states import DONE, StageState
from dcfast.rundir.branch import branch_settings, comparison_dir
from dcfast.rundir.run_dir import Run
from dcfast.rundir.summaries import FilterSummary
from dcfast.rundir.training_summary import LogLine
from dcfast.scales import Scale
from dcfast.stages.train import IDENTITY, SAMPLES, How, trained_as
from dcfast.storage.json_files import read_json
from dcfast.train.checkpoint import KEPT_STEPS, checkpoints_by_age
from dcfast.train.loop import boundaries, num_steps

NUMBER_BYTES = 4  # float32, whatever the precision of the arithmetic
NUMBERS_EACH = 3  # of a parameter: the weight and AdamW's two moments
ROOM = 1 << 20  # of a checkpoint, for the names and places of its tensors


def checkpoint_bytes(recipe: Scale) -> int:
    """Of all checkpoints of a training at most: the recipe's, the latest of the others, and one that is being written
    before the oldest goes."""
    files = len(boundaries(_steps(recipe), recipe.checkpoints)) + KEPT_STEPS + 1
    return files * (NUMBERS_EACH * NUMBER_BYTES * model_size(recipe.model).parameters + ROOM)


def pair_bytes(shard_bytes: int, rows: int) -> int:
    """What a training reads of a sample: of the pool's shards, on average."""
    return shard_bytes // max(rows, 1)


def cost_lines(
    run: Run,
    stages: Sequence[tuple[str, int, float | None]],
    rates: Mapping[str, float],
    amount: Callable[[float], str],
    time: Callable[[float | None], str],
) -> list[str]:
    """What the trainings of a plan take of network and GPUs, in words.

    Args:
        stages: of the plan: name, bytes read, seconds or None.   rates: model -> seconds a sample, as tried here.
        amount, time: in words.
    """
    reads = sum(read for _, read, _ in stages)
    trains = [(read, seconds) for name, read, seconds in stages if own_name(name) == "train" and read]
    if not trains:
        return []
    words = f"read in all: about {amount(reads)}, over the network where the pool is not on this machine's disks"
    samples, times = sum(read for read, _ in trains), [seconds for _, seconds in trains if seconds]
    words += f"; of these {amount(samples)} by training, which reads each sample as often as it sees it"
    if len(times) == len(trains):
        words += f": {amount(samples / sum(times))} a second"
    lines = [words]
    recipe = run.settings.recipe()
    if rates.get(recipe.model) and run.settings.device != "cpu" and has_gpu():
        hours = recipe.samples_seen * rates[recipe.model] / 3600
        lines.append(
            f"a training of {recipe.samples_seen:,} samples: {hours:,.1f} GPU-hours by the steps that were tried here; "
            f"{time(hours * 450)} on eight such GPUs, if their number costs nothing and data come in time (assumed)"
        )
    return lines


@dataclass(frozen=True)
class StepsLeft:
    """Of a training: its steps, those after its latest checkpoint, and seconds of one, by its log; None without."""

    steps: int
    left: int
    seconds: float | None


def own_name(stage: str) -> str:
    """Of a stage of the run beside it, as that run calls it."""
    return stage.rpartition("/")[2]


def trainings_begun(run: Run, states: Sequence[StageState]) -> dict[str, StepsLeft]:
    """Stage -> what is left of a training that has a checkpoint, and whose samples are there unchanged.

    Args:
        states: of the stages of a run and of the one beside it.
    """
    found: dict[str, StepsLeft] = {}
    for number, each in enumerate(states):
        read = [its.state for its in states[:number] if own_name(its.stage) not in ("train", "evaluate", "report")]
        if own_name(each.stage) != "train" or each.state in (DONE, "") or any(state != DONE for state in read):
            continue
        beside = comparison_dir(run) if each.stage != "train" else None
        left = steps_left(run if beside is None else Run(beside, branch_settings(run.settings, run.compare)))
        if left.left < left.steps:
            found[each.stage] = left
    return found


def repeat_lines(
    run: Run, trainings: Sequence[str], states: Sequence[StageState], rows: int, copies: int | None
) -> list[str]:
    """How often the trainings of a plan see a sample, in words; at least so often where the filter is still to come.

    Args:
        trainings: the stages, ``train`` or that of the run beside it.   states: of all stages that were looked at.
        rows: of the pool.   copies: that the run's own filter draws; None where it draws none.
    """
    seen, lines = run.settings.recipe().samples_seen, []
    known = {each.stage: each.state for each in states}
    for stage in trainings:
        beside = comparison_dir(run) if stage != "train" else None
        branch = run if beside is None else Run(beside, branch_settings(run.settings, run.compare))
        chosen, before = None, stage.replace("train", "filter")
        if known.get(before, DONE) == DONE and branch.has_summary("filter"):
            chosen = branch.summary(FilterSummary).subset
        drawn = copies if beside is None else None
        count = chosen or drawn or rows
        times = f"{'' if chosen or drawn else 'at least '}{seen / max(count, 1):.1f} times on average"
        of = "in the subset" if chosen or drawn else "at most, which is up to the filter"
        lines.append(f"{stage}: {seen:,} samples seen, from {count:,} {of}: each {times}")
    return lines


def steps_left(run: Run) -> StepsLeft:
    """Of the training of a run whose other stages are done: all steps where what is there is another training.

    Checkpoints are told by their names; none is read.
    """
    recipe, folder = run.settings.recipe(), run.out / "train"
    steps = _steps(recipe)
    if not _is_the_same(run):
        return StepsLeft(steps, steps, None)
    saved = checkpoints_by_age(folder / "checkpoints", boundaries(steps, recipe.checkpoints))
    lines = deque(read_rows(folder / "log.jsonl", LogLine), maxlen=2)
    seconds = None
    if len(lines) == 2 and lines[1].step > lines[0].step:
        seconds = lines[1].seconds / (lines[1].step - lines[0].step)
    return StepsLeft(steps, steps - (saved[0][0] if saved else 0), seconds)


def _steps(recipe: Scale) -> int:
    return num_steps(recipe.samples_seen, recipe.global_batch)


def _is_the_same(run: Run) -> bool:
    """Whether the training that was begun has the settings of the run."""
    now = {**msgspec.to_builtins(trained_as(run.settings, How()).identity()), "source": run.settings.train_from}
    try:
        was = read_json(run.out / IDENTITY, names=True)
    except (FileNotFoundError, CorruptDataError):  # none was begun, or it says nothing: then it begins anew
        return False
    return isinstance(was, dict) and {name: was[name] for name in was if name not in SAMPLES} == now
