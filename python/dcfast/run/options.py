"""The command line of ``python -m dcfast.run`` and what it means: options to settings, with errors in words."""

from __future__ import annotations

import argparse
import os
from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

from dcfast.engine.engine import ENGINES
from dcfast.errors import RunError
from dcfast.filters.files import named_code
from dcfast.process.options import add_options, given_options, made_of, option, option_names
from dcfast.process.parser import ArgumentParser
from dcfast.process.shared_options import (
    ASSUME_GPU,
    CACHE_DIR,
    CACHE_SIZE,
    COMPILE,
    COPY_TO,
    EVALUATE_EVERY,
    EVALUATE_SETS,
    FSDP,
    REPORT_TO,
    check_assumed,
)
from dcfast.run.acquisition import acquire_words
from dcfast.run.again import check_inputs, placed
from dcfast.run.checks import check_settings
from dcfast.rundir.claim import EXPRESSIONS, RUN_CODE, located, stored_settings
from dcfast.rundir.settings import NO_COMPARISON, Settings
from dcfast.rundir.stage_table import STAGE_TABLE, STAGES
from dcfast.scales import scale
from dcfast.stages.train import How
from dcfast.storage.config import add_config, config_of, config_values
from dcfast.storage.paths import path_argument, refuse_url


@dataclass(frozen=True)
class RunOptions:
    """How a run is done: what changes no byte of its results."""

    out: str | None = option(None, "run directory", metavar="DIR", usual="runs/SCALE", parse=path_argument)
    first: str | None = option(None, "first stage to run", flags=("--from",), metavar="STAGE", choices=tuple(STAGES))
    last: str | None = option(None, "last stage to run", flags=("--to",), metavar="STAGE", choices=tuple(STAGES))
    workers: int = option(os.cpu_count() or 1, "pieces at work at once", least=1, usual="the number of cores")
    engine: str = option("local", "processes of this machine, or a cluster (docs/cluster.md)", choices=ENGINES)
    ray_address: str | None = option(
        None, "of a running Ray cluster", metavar="ADDRESS", usual="$RAY_ADDRESS, else a local one"
    )
    save_every_minutes: float = option(
        10.0, "of training, between checkpoints beside the recipe's five; signals save one too", metavar="M", least=0
    )
    cache_dir: str | None = option(None, CACHE_DIR)
    cache_size: float = option(100.0, CACHE_SIZE)
    compile: bool = option(False, COMPILE)
    fsdp: bool = option(False, FSDP)
    report_to: list[str] | None = option(None, REPORT_TO)
    evaluate_every: int | None = option(None, EVALUATE_EVERY)
    evaluate_sets: list[str] | None = option(None, replace(EVALUATE_SETS, usual="--sets"))
    copy_to: str | None = option(None, replace(COPY_TO, parse=path_argument))
    rank_timeout: float = option(
        60.0,
        "until a run on several ranks ends without a sign of life from one of them; 0 = never",
        metavar="SECONDS",
        least=0,
        most=1e9,
    )
    overwrite: bool = option(False, "redo in a directory whose settings differ")
    run_code: bool = option(False, RUN_CODE)
    dry_run: bool = option(
        False, "check all that the run checks before work, print the plan (what is done, bytes, time) and do nothing"
    )
    assume_gpu: bool = option(False, ASSUME_GPU)
    acquire: dict[str, object] | None = option(
        None,
        "begin with nothing: metadata from the hub, then the images of what the filter takes of it, into --pool or "
        "OUT/acquire/pool; NAME=VALUE are options of dcfast acquire, contact=me@a.org (docs/acquire.md)",
        metavar="NAME=VALUE",
        gather=acquire_words,
        may_be_bare=True,
    )
    gallery: str | None = option(
        None, "filter expression: the report shows samples that pass it, too (docs/inspect.md)", metavar="EXPR"
    )
    quiet: bool = option(False, "no progress")


def how_to_train(how: RunOptions) -> How:
    """What of the options is the trainings'."""
    return cast(How, {name: getattr(how, name) for name in option_names(RunOptions) if name in How.__annotations__})


def plan_without_pool(name: str) -> str:
    """What a scale would take, and how to get its pool."""
    chosen = scale(name)
    size = f"{chosen.pool_bytes / 1e12:,.1f} TB" if chosen.pool_bytes else "unknown"
    hours = f"about {chosen.gpu_hours:,.0f} A100 GPU-hours" if chosen.gpu_hours else "minutes on one GPU"
    return (
        f"scale {name}: a pool of {chosen.samples_seen:,} image-text pairs, about {size} of shards, "
        f"and {hours} of training ({chosen.model}).\n"
        f"Nothing was done, because no pool was given. From nothing to a report (docs/acquire.md):\n"
        f"  dcfast evalsets fetch --out DIR\n"
        f"  python -m dcfast.run --scale {name} --acquire contact=YOU@YOURS --evalsets DIR --out runs/{name}"
    )


def _about(stage: str | None) -> tuple[str, str, str]:
    """Name, description and closing words of the help."""
    docs = "The same command resumes a run that was stopped. Docs: docs/architecture.md, docs/filters.md."
    if stage is None:
        whole = (
            "Index, score, decontaminate and filter a pool of image-text pairs, train CLIP on what is kept, and score "
            "it; no sample is lost silently."
        )
        return "python -m dcfast.run", whole, docs
    before = STAGES[: STAGES.index(stage)]
    row = STAGE_TABLE[stage]
    description = f"One stage of a run: {row.does}."
    if before:
        description += f" What the run asks for of these must be done before: {', '.join(before)}."
    if row.placed_program:
        description += f" It needs no run where its first word is a pool: dcfast {stage} POOL --help lists its options."
    if row.program:
        description += (
            f" With {row.program_choice} it is the program {row.program}, without a run directory: "
            f"python -m {row.program} --help lists its options."
        )
    description += (
        " The settings are those of the run in --out; what is given here wins, and where that makes it another run it "
        "is refused unless --overwrite."
    )
    return f"dcfast {stage}", description, docs


def run_directory(out: str | None, scale: str) -> Path:
    """Where a run lies that is given an ``--out``, or none.   ValueError: it is a URL."""
    refuse_url(out or "", "--out")
    return Path(out or Path("runs") / scale)


def _refuse_code(how: RunOptions, settings: Settings, own: Collection[str]) -> None:
    """RunError where an expression that is not the user's own words names Python functions: it may be a stranger's."""
    for name, text in [("gallery", how.gallery), *((name, getattr(settings, name)) for name in EXPRESSIONS)]:
        if name in own or text in (None, NO_COMPARISON):
            continue
        if code := named_code(text):
            raise RunError(
                f"the {name} of this run runs Python code, {', '.join(code)}, which this command line does not name: "
                f"read it, then add --run-code or give --{name} again"
            )


def parser(stage: str | None = None) -> ArgumentParser:
    """The command line of ``python -m dcfast.run``, or of one stage's subcommand."""
    prog, description, epilog = _about(stage)
    p = ArgumentParser(prog=prog, description=description, epilog=epilog)
    add_config(p, manifests=True)
    add_options(p, Settings)
    of_run = option_names(RunOptions)
    add_options(p, RunOptions, of_run if stage is None else [name for name in of_run if name not in ("first", "last")])
    if stage is not None:
        p.set_defaults(first=stage, last=stage)
    return p


def options_of(args: argparse.Namespace, *, of_stage: bool = False) -> tuple[RunOptions, Settings]:
    """Parsed arguments, over the file of ``--config``: how to run, and the settings, every path by its real name.

    Args:
        of_stage: the command is that of one stage: what it is not given is as in the run that stands in ``--out``.
    Raises:
        ValueError: a value out of range; a file of options, or a manifest, that cannot be followed.
        RunError: the settings of the run in ``--out`` cannot be read.
    """
    given = {**given_options(args, RunOptions), **given_options(args, Settings)}
    config = config_of(args)
    values = given if config is None else {**config_values(config, RunOptions, Settings), **given}
    own = given if config is not None and config.manifest is not None else values
    if of_stage:
        stored = stored_settings(run_directory(values.get("out"), values.get("scale", Settings.scale)))
        if stored is not None:
            values = {**{name: getattr(stored, name) for name in option_names(Settings)}, **values}
    how, settings = made_of(RunOptions, values), made_of(Settings, values)
    if not (how.run_code and "run_code" in own):  # a manifest may not say so
        _refuse_code(how, settings, own)
    if config is not None and config.manifest is not None:
        settings = placed(config, settings, given)
    check_assumed(how.assume_gpu, how.dry_run)
    check_settings(settings)
    settings = located(settings)
    if config is not None and config.manifest is not None:
        check_inputs(config, settings, given)
    return how, settings
