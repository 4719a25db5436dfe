"""``python -m dcfast.run``: the workflow from a pool to a subset, a trained model, its scores and a report.

Every stage resumes: the same command, run again after it was stopped in any way, goes on where it was and ends
with the same bytes. ``run()`` is the same as a Python function.
"""

from __future__ import annotations

import argparse
import os
import signal
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from typing import Protocol, Unpack

from dcfast.engine import Engine, open_engine
from dcfast.engine.progress import Progress, Silent
from dcfast.evaluate.scores import read_leaked, read_scores
from dcfast.process.command import run_command
from dcfast.process.exit_codes import DONE, FAILED, LOST, USAGE
from dcfast.process.signals import end_with_parent
from dcfast.process.terminal import log_printably, say
from dcfast.run.acquisition import acquire_for, plan_acquisition
from dcfast.run.checks import check_before_pool, check_copies, check_stages, check_start, check_work, select_stages
from dcfast.run.comparison import Comparison, recorded, run_one
from dcfast.run.dry_run import dry_run
from dcfast.run.manifest import write_manifest
from dcfast.run.options import RunOptions, how_to_train, options_of, parser, plan_without_pool, run_directory
from dcfast.run.team import run_on_ranks
from dcfast.rundir.branch import comparison_dir
from dcfast.rundir.run_dir import Run, open_run
from dcfast.rundir.settings import Settings
from dcfast.rundir.stage_table import STAGES
from dcfast.rundir.summaries import EvaluateSummary, FilterSummary
from dcfast.rundir.summary import Summary
from dcfast.stages.filter.losses import loss_warning, outcome_lines
from dcfast.stages.report import gallery_of
from dcfast.stages.train import How, train_with
from dcfast.train.place import place_of


def run(
    out: str | os.PathLike[str],
    settings: Settings | None = None,
    *,
    first: str | None = None,
    last: str | None = None,
    workers: int = 1,
    engine: str = "local",
    ray_address: str | None = None,
    overwrite: bool = False,
    gallery: str | None = None,
    quiet: bool = True,
    say: Callable[[str], None] = lambda line: None,
    **training: Unpack[How],
) -> dict[str, Summary]:
    """Runs the stages from ``first`` to ``last`` in a run directory, and the comparison run where there is one.

    Args:
        out: the run directory; made where missing.
        settings: what to do; None is the built-in world with its defaults.
        workers: pieces at work at once; changes no byte of the results.
        engine: ``local`` or ``ray``.
        overwrite: redo in a directory whose settings differ, instead of refusing.
        gallery: a filter expression: the report shows samples that pass it, too.
        quiet: no progress on standard error.
        say: is given a line when a stage begins.
        training: how trainings go about it, which changes no result; fields of ``TrainSettings``: ``cache_dir``,
            ``cache_size``, ``compile``, ``copy_to``, ``evaluate_every``, ``evaluate_sets``, ``fsdp``, ``rank_timeout``,
            ``report_to``, ``save_every_minutes``, ``threads``.
    Returns:
        stage -> its summary (``dcfast.rundir.summaries``), for the stages that ran; ``compare/STAGE`` -> those of the
        comparison run.
    Raises:
        DcfastError, ValueError, OSError: what went wrong, in words; the run can be resumed after it is mended.
    Example: ``run("run", Settings(pool="pool", filter="words >= 3"), last="filter")["filter"].subset``
    """
    chosen = settings or Settings()
    check_start(chosen, engine, workers, ray_address, gallery, training)
    show = Silent if quiet else Progress
    with (
        open_run(out, chosen, overwrite=overwrite) as current,
        train_with(**training),
        gallery_of(gallery),
    ):
        stages = select_stages(current, first, last)
        check_work(current, stages, overwrite=overwrite)  # before the directory is claimed
        check_copies(current, stages, training)
        current.lock_settings(STAGES)
        with open_engine(engine, workers, ray_address) as pieces, recorded(current, pieces, stages):
            return _go_through(current, stages, pieces, overwrite=overwrite, show=show, say=say)


def _go_through(
    current: Run,
    stages: list[str],
    pieces: Engine,
    *,
    overwrite: bool,
    show: type[Progress],
    say: Callable[[str], None],
) -> dict[str, Summary]:
    """The stages one after the other, and the comparison run beside or after its training; see ``run``."""
    summaries: dict[str, Summary] = {}
    trains = [stage for stage in stages if stage in ("train", "evaluate")]
    with ExitStack() as stack:
        for number, name in enumerate(stages, 1):
            if trains and name == trains[0] and comparison_dir(current) is not None:
                other = Comparison(current, trains[-1], pieces, overwrite=overwrite, show=show, say=say)
                stack.enter_context(other).start()
            say(f"{name}, stage {number} of {len(stages)}")
            if name == "index" and "world" in stages:
                check_stages(current, [s for s in stages if s != "world"])  # it is whole by now
            if name == "report":
                write_manifest(current)  # the report shows it
            summaries[name] = run_one(current, pieces, name, show)
            if trains and name == trains[-1] and comparison_dir(current) is not None:
                summaries |= {f"compare/{its}": summary for its, summary in other.finish().items()}
    if stages[-1] != "world":
        write_manifest(current)
    return summaries


class RunKeywords(How, total=False):
    """How a stage is run: those of the keywords of :func:`run` that are not what is run."""

    workers: int
    engine: str
    ray_address: str | None
    overwrite: bool
    gallery: str | None
    quiet: bool
    say: Callable[[str], None]


class StageFunction(Protocol):
    """A stage as a function; see :func:`stage`."""

    def __call__(
        self, out: str | os.PathLike[str], settings: Settings | None = None, **options: Unpack[RunKeywords]
    ) -> Summary: ...


def stage(
    name: str, out: str | os.PathLike[str], settings: Settings | None = None, **options: Unpack[RunKeywords]
) -> Summary:
    """Runs one stage of a run directory, whose earlier stages are done; returns its summary.

    Args:
        name: one of ``dcfast.rundir.stage_table.STAGES``.
        out, settings, options: as :func:`run`.
    Raises:
        RunError: an earlier stage has not been run.   ValueError: no such stage.
    Example: ``stage("index", "run", Settings(pool="pool"))`` is ``index("run", Settings(pool="pool"))``.
    """
    return run(out, settings, first=name, last=name, **options)[name]


world: StageFunction = partial(stage, "world")
index: StageFunction = partial(stage, "index")
signatures: StageFunction = partial(stage, "signatures")
teacher: StageFunction = partial(stage, "teacher")
features: StageFunction = partial(stage, "features")
decontaminate: StageFunction = partial(stage, "decontaminate")
dedup: StageFunction = partial(stage, "dedup")
filter_metadata: StageFunction = partial(stage, "filter")
reshard: StageFunction = partial(stage, "reshard")
verify: StageFunction = partial(stage, "verify")
train: StageFunction = partial(stage, "train")
evaluate: StageFunction = partial(stage, "evaluate")
report: StageFunction = partial(stage, "report")


def _closing_lines(out: Path, summaries: dict[str, Summary]) -> list[str]:
    lines = []
    chosen = summaries.get("filter")
    if isinstance(chosen, FilterSummary):
        lines += outcome_lines(chosen)
    for name in ("index", "signatures", "decontaminate", "features", "dedup", "filter", "train", "evaluate"):
        lines += [f"note: {note}" for note in getattr(summaries.get(name), "notes", ())]
    if isinstance(chosen, FilterSummary) and chosen.damaged_shards:
        lines.append(f"damaged shards: {chosen.damaged_shards} (quarantine.parquet names each with its offset)")
    lines += _score_lines(out, summaries)
    if "report" in summaries:
        if "train" in summaries and "evaluate" not in summaries:
            lines.append("not scored: no evaluation sets were given (--evalsets DIR)")
        lines.append(f"report: {out / 'report.html'}")
    else:
        lines.append(f"run directory: {out}")
    return lines


def _failed_sets(summaries: dict[str, Summary]) -> list[str]:
    """The evaluation sets that could not be scored, in this run and the one beside it, in words."""
    return [
        f"{'compare: ' if name.startswith('compare/') else ''}evaluation set {key} could not be scored: {reason}"
        for name, summary in summaries.items()
        if isinstance(summary, EvaluateSummary)
        for key, reason in summary.failed.items()
    ]


def _score_lines(out: Path, summaries: dict[str, Summary]) -> list[str]:
    if "evaluate" not in summaries:
        return []
    rows = [("this run", out)]
    if any(name.startswith("compare/") for name in summaries):
        rows += [(f"compare {p.name}", p) for p in sorted((out / "compare").iterdir()) if p.is_dir()]
    lines = []
    if changed := getattr(summaries["evaluate"], "non_standard", None):
        lines.append(f"the recipe was changed, so these are no scores of a DataComp scale: {changed}")
    for name, place in rows:
        scores = read_scores(place)
        if scores.failed:
            lines.append(f"{name}: no mean score: {', '.join(scores.failed)} could not be scored")
        elif scores.mean is not None:
            few = "" if scores.limit is None else f", at most {scores.limit:,} pictures of each: no score of DataComp's"
            lines.append(f"{name}: mean score {scores.mean:.4f} over {len(scores.tasks)} evaluation sets{few}")
            leaked = read_leaked(place, None)
            if leaked is None:
                lines.append("  whether it trained on copies of evaluation pictures was not checked")
            elif leaked.samples:
                lines.append(f"  it trained on {leaked.words}, so its scores on these sets say little (see the report)")
    return lines


def main(argv: Sequence[str] | None = None, stage: str | None = None) -> int:
    """Entry of ``python -m dcfast.run``, and of ``dcfast STAGE``; returns the exit status.

    Errors are lines on standard error, and the status (docs/architecture.md).   SystemExit: options it cannot read.
    Example: ``main(["--pool", "pool", "--out", "run", "--to", "index", "--quiet"]) == 0``
    """
    args = parser(stage).parse_args(argv)
    if os.environ.get("TORCHELASTIC_RUN_ID"):
        end_with_parent(signal.SIGTERM)  # nobody else would end this rank, once torchrun was killed
    return run_command(lambda: _main(args, stage), "" if _is_another_rank() else "stopped; the same command resumes")


def _is_another_rank() -> bool:
    """Whether rank 0 says what happens; where that cannot be told, it is an error, and said."""
    with suppress(ValueError):
        return place_of().rank > 0
    return False


def _acquire(out: Path, settings: Settings, how: RunOptions) -> tuple[Settings, list[str]]:
    """Fetches the pool of ``--acquire``, by a dry run only says how; the settings of the run on it, and what came."""
    words = how.acquire or {}
    plan = plan_acquisition(out, settings, npz=words.get("npz") is True, has_lists="urls" in words)
    if how.dry_run:
        say("\n".join([*plan.lines, "the plan of the run itself is made when the metadata is there"]))
        return settings, []

    def choose(place: Path, chosen: Settings) -> None:
        run(
            place,
            chosen,
            last="filter",
            workers=how.workers,
            engine=how.engine,
            ray_address=how.ray_address,
            overwrite=how.overwrite,
        )

    check_start(plan.run_settings, how.engine, how.workers, how.ray_address, how.gallery, how_to_train(how))
    check_before_pool(out, plan.run_settings, how.first, how.last, overwrite=how.overwrite)
    made, acquired = acquire_for(
        plan,
        words,
        choose,
        workers=how.workers,
        engine=how.engine,
        ray_address=how.ray_address,
        quiet=how.quiet,
        say=(lambda line: None) if how.quiet else partial(say, error=True),
    )
    return made, acquired.lines


def _main(args: argparse.Namespace, stage: str | None) -> int:
    log_printably()
    prepare = partial(options_of, args, of_stage=stage is not None)
    place = place_of()
    return _do(*prepare()) if place.size == 1 else run_on_ranks(place, prepare, _do)


def _do(how: RunOptions, settings: Settings) -> int:
    if settings.pool is None and settings.scale != "tiny" and how.acquire is None:
        say(plan_without_pool(settings.scale), error=True)
        return USAGE
    out = run_directory(how.out, settings.scale)
    acquired: list[str] = []
    if how.acquire is not None:
        settings, acquired = _acquire(out, settings, how)
        if how.dry_run:
            return DONE
    if how.dry_run:
        dry_run(out, settings, how)
        return DONE
    summaries = run(
        out,
        settings,
        first=how.first,
        last=how.last,
        workers=how.workers,
        engine=how.engine,
        ray_address=how.ray_address,
        overwrite=how.overwrite,
        gallery=how.gallery,
        quiet=how.quiet,
        say=(lambda line: None) if how.quiet else (lambda line: say(f"{line} ...", error=True)),
        **how_to_train(how),
    )
    chosen = summaries.get("filter")
    warning = loss_warning(chosen, settings.uid_from) if isinstance(chosen, FilterSummary) else ""
    lines = [*acquired, *_closing_lines(out, summaries)]
    say("\n".join(line for line in lines if line.removeprefix("note: ") not in warning))  # what it says is said once
    failed = _failed_sets(summaries)
    for line in failed:
        say(f"error: {line}", error=True)
    if warning:
        say(f"warning: {warning}", error=True)
    return FAILED if failed else LOST if warning else DONE
