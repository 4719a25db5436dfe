"""``python -m dcfast.run``: the workflow from a pool to a subset, a trained model, its scores and a report.

Every stage resumes: the same command, run again after it was stopped in any way, goes on where it was and ends
with the same bytes. ``run()`` is the same as a Python function.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from dcfast.errors import DcfastError, RunError
from dcfast.manifest import write_manifest
from dcfast.run_options import parser, plan_without_pool, settings_of
from dcfast.scales import scale
from dcfast.stages import STAGES, stage_steps
from dcfast.stages.branch import branch_settings, branch_stages, comparison_dir, link_base
from dcfast.stages.engine import Engine, LocalEngine, SinglesHere, open_engine
from dcfast.stages.progress import Progress, Silent
from dcfast.stages.run_dir import Run, Settings, open_run
from dcfast.stages.runner import run_stage
from dcfast.stages.settings import check_settings

__all__ = [
    "decontaminate",
    "evaluate",
    "features",
    "filter_metadata",
    "index",
    "main",
    "report",
    "reshard",
    "run",
    "run_branch",
    "signatures",
    "stage",
    "teacher",
    "train",
    "verify",
    "world",
]

ON_MODELS = ("teacher", "features", "train", "evaluate")
"""Stages that want a GPU at the scales of DataComp."""
TRAININGS = ("teacher", "train", "evaluate")
"""Stages whose single pieces bring their own threads and processes, and use this machine's GPU: no cluster's tasks."""


def _selected(run: Run, first: str | None, last: str | None) -> list[str]:
    for name, value in (("--from", first), ("--to", last)):
        if value is not None and value not in STAGES:
            raise ValueError(f"{name} must be one of {', '.join(STAGES)}; got {value!r}")
    begin = STAGES.index(first) if first else 0
    end = STAGES.index(last) if last else len(STAGES) - 1
    if begin > end:
        raise ValueError(f"--from {first} comes after --to {last}; the order is {', '.join(STAGES)}")
    stages = [s for s in STAGES[begin : end + 1] if run.asks_for(s)]
    if not stages:
        raise ValueError(_not_asked_for(first or last or ""))
    return stages


def _not_asked_for(name: str) -> str:
    why = {
        "world": "renders the built-in world, for runs without --pool; leave --pool out",
        "teacher": "trains the model that scores the pool, where --features asks for it (--features l14=teacher)",
        "features": "makes the columns that --features asks for (--features l14=ViT-L-14:openai)",
        "train": "is left out by --no-train",
        "evaluate": "scores the trained model: it needs --evalsets DIR, and training (no --no-train)",
    }
    return f"stage {name} {why.get(name, 'is no part of this run')}"


def _check(run: Run, stages: list[str]) -> None:
    # what can be known to be wrong before hours of work, is said before them
    from dcfast.filters import compile_filter

    for expression in (run.settings.filter, run.compare):
        if expression is not None:
            compile_filter(expression)
    if run.is_world:
        run.world_spec  # noqa: B018  (ValueError where the changes to it make no sense)
    if "features" in stages:
        from dcfast.stages.features import check_features

        check_features(run)
    if "world" in stages:
        return  # it may be half rendered: its files are listed when it is whole
    run.pool  # noqa: B018  (lists the pool, or says what is missing)
    if run.evalset_dir is not None and "signatures" in stages:
        from dcfast.stages.signatures import evalset_tars

        evalset_tars(run.evalset_dir)
    if "filter" in stages:
        from dcfast.stages.filter import resolve_expression

        resolve_expression(run)


def _check_device(run: Run, stages: list[str]) -> None:
    """RunError where work for days would begin on a machine without a GPU, unless it was asked for."""
    wanting = [stage for stage in stages if stage in ON_MODELS]
    settings = run.settings
    if not wanting or settings.device == "cpu" or (settings.device == "auto" and settings.scale == "tiny"):
        return
    import torch

    if torch.cuda.is_available():
        return
    hours = scale(settings.scale).gpu_hours
    much = f" (about {hours:,.0f} A100 GPU-hours)" if hours else ""
    if settings.device == "cuda":
        raise RunError(f"--device cuda: torch finds no GPU for stage {wanting[0]}; leave --device out, or say cpu")
    before = STAGES[STAGES.index(wanting[0]) - 1]
    raise RunError(
        f"scale {settings.scale} wants a GPU for stage {wanting[0]}{much}, and there is none here. Nothing was done. "
        f"End before it (--to {before}), leave training out (--no-train), or insist on the processor (--device cpu)"
    )


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
    quiet: bool = True,
    say: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Runs the stages from ``first`` to ``last`` in a run directory, and the comparison run where there is one.

    Args:
        out: the run directory; made where missing.
        settings: what to do; None is the built-in world with its defaults.
        workers: pieces at work at once; changes no byte of the results.
        engine: ``local`` or ``ray``.
        overwrite: redo in a directory whose settings differ, instead of refusing.
        quiet: no progress on standard error.
        say: is given a line when a stage begins.
    Returns:
        stage -> its summary, for the stages that ran; ``compare`` -> those of the comparison run.
    Raises:
        DcfastError, ValueError, OSError: what went wrong, in words; the run can be resumed after it is mended.
    """
    chosen = settings or Settings()
    check_settings(chosen)
    if chosen.pool is None and chosen.scale != "tiny":
        raise RunError(f"scale {chosen.scale} needs a pool (--pool DIR); the built-in world is for scale tiny alone")
    show = Silent if quiet else Progress
    with open_run(out, chosen, overwrite=overwrite) as current:
        stages = _selected(current, first, last)
        _check_device(current, stages)
        _check(current, stages)
        current.claim(STAGES)
        for name in STAGES[: STAGES.index(stages[0])]:
            if current.asks_for(name):
                current.summary(name)  # RunError says which stage is missing
        summaries: dict[str, Any] = {}
        trains = [stage for stage in stages if stage in ("train", "evaluate")]
        with open_engine(engine, workers, ray_address) as pieces:
            for name in stages:
                say(name)
                if name == "index":
                    _check(current, [s for s in stages if s != "world"])  # the world is whole by now
                if name == "report":
                    write_manifest(current)  # the report shows it
                summaries[name] = _run_one(current, pieces, name, show)
                if trains and name == trains[-1] and comparison_dir(current) is not None:
                    summaries["compare"] = _run_comparison(current, pieces, name, overwrite, show, say)
        if stages[-1] != "world":
            write_manifest(current)
        return summaries


def _run_one(run: Run, engine: Engine, name: str, show: Callable[..., Progress]) -> dict[str, Any]:
    if name in TRAININGS:
        if name != "teacher" and isinstance(engine, LocalEngine):
            engine.close()  # idle workers would hold memory beside the model; they start again when needed
        engine = SinglesHere(engine)
    return run_stage(run, engine, name, stage_steps(name), show)


def _run_comparison(
    base: Run,
    engine: Engine,
    last: str,
    overwrite: bool,
    show: Callable[..., Progress],
    say: Callable[[str], None],
) -> dict[str, Any]:
    place = comparison_dir(base)
    assert place is not None
    with open_run(place, branch_settings(base.settings, base.compare), overwrite=overwrite) as branch:
        return _go_through(base, branch, engine, last, show, lambda line: say(f"compare {base.compare}: {line}"))


def _go_through(
    base: Run, branch: Run, engine: Engine, last: str, show: Callable[..., Progress], say: Callable[[str], None]
) -> dict[str, Any]:
    branch.claim(STAGES)
    link_base(base, branch)
    stages = branch_stages(branch)
    summaries = {}
    for name in stages[: stages.index(last) + 1]:
        say(name)
        summaries[name] = _run_one(branch, engine, name, show)
    write_manifest(branch)
    return summaries


def run_branch(
    base: str | os.PathLike[str],
    base_settings: Settings,
    out: str | os.PathLike[str],
    settings: Settings,
    *,
    last: str = "evaluate",
    workers: int = 1,
    overwrite: bool = False,
    quiet: bool = True,
    say: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Filter, training and evaluation in ``out``, on what the run in ``base`` made up to decontamination.

    Args:
        base, base_settings: a run directory that has been through decontaminate, and its settings.
        out, settings: of the branch; pool, world, evaluation sets and features are those of the base.
        last: ``filter``, ``reshard``, ``train`` or ``evaluate``.
        workers, overwrite, quiet, say: as :func:`run`.
    Returns:
        stage -> its summary.
    Raises:
        RunError: the base lacks a stage, or another process is at work in ``out``.  Others as :func:`run`.
    """
    check_settings(settings)
    for name in ("pool", "evalsets", "world", "features", "teacher_uids"):
        mine, its = getattr(settings, name), getattr(base_settings, name)
        if mine != its:
            raise ValueError(f"a branch shares {name} with its base: {its!r} there, {mine!r} here")
    source = Run(Path(os.path.abspath(base)), base_settings)
    with open_run(out, settings, overwrite=overwrite) as branch, open_engine("local", workers) as engine:
        if last not in branch_stages(branch):
            raise ValueError(f"last must be one of {', '.join(branch_stages(branch))}; got {last!r}")
        return _go_through(source, branch, engine, last, Silent if quiet else Progress, say)


def stage(name: str, out: str | os.PathLike[str], settings: Settings | None = None, **options: Any) -> dict[str, Any]:
    """Runs one stage of a run directory, whose earlier stages are done; returns its summary.

    Args:
        name: one of ``dcfast.stages.STAGES``.
        out, settings, options: as :func:`run`.
    Raises:
        RunError: an earlier stage has not been run.   ValueError: no such stage.
    """
    return dict(run(out, settings, first=name, last=name, **options)[name])


# each stage as a function of (out, settings, **options); see ``stage``
world = partial(stage, "world")
index = partial(stage, "index")
signatures = partial(stage, "signatures")
teacher = partial(stage, "teacher")
features = partial(stage, "features")
decontaminate = partial(stage, "decontaminate")
filter_metadata = partial(stage, "filter")
reshard = partial(stage, "reshard")
verify = partial(stage, "verify")
train = partial(stage, "train")
evaluate = partial(stage, "evaluate")
report = partial(stage, "report")


def _closing_lines(out: Path, summaries: dict[str, Any]) -> list[str]:
    lines = []
    if "filter" in summaries:
        fates = summaries["filter"]["fates"]
        lines.append("fates: " + ", ".join(f"{n:,} {name}" for name, n in fates.items()))
    for name in ("signatures", "features", "filter", "train", "evaluate"):
        lines += [f"note: {note}" for note in summaries.get(name, {}).get("notes", [])]
    if "filter" in summaries and (damaged := summaries["filter"]["damaged_shards"]):
        lines.append(f"damaged shards: {damaged} (quarantine.parquet names each with its offset)")
    lines += _score_lines(out, summaries)
    if "report" in summaries:
        lines.append(f"report: {out / 'report.html'}")
    else:
        lines.append(f"run directory: {out}")
    return lines


def _score_lines(out: Path, summaries: dict[str, Any]) -> list[str]:
    from dcfast.scores import read_scores

    if "evaluate" not in summaries:
        return []
    rows = [("this run", out)]
    if "compare" in summaries:
        rows += [(f"compare {p.name}", p) for p in sorted((out / "compare").iterdir()) if p.is_dir()]
    lines = []
    for name, place in rows:
        scores = read_scores(place)
        if scores.mean is not None:
            lines.append(f"{name}: mean score {scores.mean:.4f} over {len(scores.tasks)} evaluation sets")
    return lines


def main(argv: Sequence[str] | None = None) -> int:
    """Entry of ``python -m dcfast.run``: 0 done, 1 an error, 2 a plan instead of work or bad usage, 130 Ctrl-C."""
    args = parser().parse_args(argv)
    try:
        settings = settings_of(args)
        if settings.pool is None and settings.scale != "tiny":
            sys.stderr.write(plan_without_pool(settings.scale) + "\n")
            return 2
        out = Path(args.out or Path("runs") / settings.scale)
        if args.dry_run:
            from dcfast.stages.plan import describe

            sys.stdout.write(describe(out, settings, args.workers) + "\n")
            return 0
        summaries = run(
            out,
            settings,
            first=args.first,
            last=args.last,
            workers=args.workers,
            engine=args.engine,
            ray_address=args.ray_address,
            overwrite=args.overwrite,
            quiet=args.quiet,
            say=(lambda line: None) if args.quiet else (lambda line: print(f"{line} ...", file=sys.stderr, flush=True)),
        )
    except KeyboardInterrupt:
        sys.stderr.write("stopped; the same command resumes\n")
        return 130
    except (DcfastError, ValueError, TypeError, OSError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    print("\n".join(_closing_lines(out, summaries)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
