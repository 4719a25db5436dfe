"""The command line of ``python -m dcfast.study``."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from dcfast.process.command import run_command
from dcfast.process.exit_codes import DONE, FAILED
from dcfast.process.options import add_options, made_of, option, option_names
from dcfast.process.parser import ArgumentParser
from dcfast.process.terminal import say
from dcfast.run.checks import check_settings
from dcfast.rundir.claim import located
from dcfast.rundir.settings import Settings
from dcfast.scales import SCALES
from dcfast.storage.config import add_config, given_and_config
from dcfast.storage.paths import absolute, path_argument
from dcfast.study.grid import LATER_FILTERS, STANDARD_FILTERS, Grid, parse_filters, parse_seeds, scaled
from dcfast.study.output import markdown
from dcfast.study.study import run_study

STUDIED = (
    "pool",
    "uid_from",
    "evalsets",
    "features",
    "teacher_uids",
    "loss",
    "device",
    "precision",
    "train_from",
    "decoder",
    "samples_seen",
    "overrides",
    "world",
)
"""The settings of a run that a study takes for all of its cells; the others are its own matter."""


@dataclass(frozen=True)
class StudyOptions:
    """What a study tries, and how it is done."""

    scales: list[str] = option(
        ["tiny"],
        f"of {', '.join(SCALES)}, or NAME/K for the same recipe at a K-th of the samples",
        flags=("--scales", "--scale"),
        usual="tiny",
        gather=list,
    )
    filters: list[str] | None = option(
        None,
        f"names ({', '.join(STANDARD_FILTERS)}; {', '.join(LATER_FILTERS)}), expressions, or 'LABEL: EXPRESSION'; "
        "{seed} in one stands for the seed, {samples_seen} for the samples that training sees",
        metavar="FILTER",
        usual="the first nine names",
        gather=list,
    )
    also: str | None = option(
        None, 'joined to every filter by &, e.g. "~contaminated"', flags=("--and",), metavar="EXPR"
    )
    seeds: str = option("3", "a number of seeds, or a list: 6, 0-5, 0,2-4", metavar="N")
    choose: str | None = option(
        None, "seeds that the best filter is chosen on", metavar="SEEDS", usual="the first half"
    )
    confirm: str | None = option(None, "seeds that it is confirmed on", metavar="SEEDS", usual="the others")
    confirm_all: bool = option(
        False, "run every filter on the seeds that confirm, not only the best one, no_filter, random and oracle"
    )
    out: str = option("runs/study", "directory of the study", metavar="DIR", parse=path_argument)
    jobs: int = option(1, "cells at work at once; they share the cores")
    overwrite: bool = option(False, "redo cells whose settings differ")
    dry_run: bool = option(False, "list the cells and do nothing")
    quiet: bool = option(False, "no progress")


def parser() -> ArgumentParser:
    """The options of a study."""
    p = ArgumentParser(
        prog="python -m dcfast.study",
        description="Train on many filters with many seeds: a table and a plot of score against filter, the best "
        "filter chosen on some seeds and confirmed on others, and rank correlation between scales.",
        epilog="The same command resumes a study that was stopped. Docs: docs/study.md.",
    )
    add_config(p)
    add_options(p, StudyOptions)
    add_options(p, Settings, STUDIED)
    return p


def _options(args: argparse.Namespace) -> tuple[StudyOptions, Settings]:
    values = given_and_config(args, StudyOptions, Settings)
    other = sorted(values.keys() - {*option_names(StudyOptions), *STUDIED})
    if other:
        raise ValueError(f"--config {args.config} has {other[0]}, which a study decides for each cell; leave it out")
    return made_of(StudyOptions, values), made_of(Settings, {name: values[name] for name in STUDIED if name in values})


def _grid(args: StudyOptions, settings: Settings) -> Grid:
    settings = located(settings)  # cells are resumed from other directories
    if not args.scales:
        raise ValueError("--scales names no scale; expected at least one")
    if len(set(args.scales)) != len(args.scales):
        raise ValueError(f"--scales names one twice: {', '.join(args.scales)}; leave one out")
    if settings.pool is not None and settings.evalsets is None:
        raise ValueError("a study compares scores: it needs --evalsets DIR beside --pool")
    for name in args.scales if settings.overrides else ():
        check_settings(scaled(settings, name))  # a dry run says it, too
    filters = parse_filters(args.filters, settings.pool is None, args.also)
    return Grid(filters, tuple(args.scales), parse_seeds(args.seeds), settings)


def _halves(args: StudyOptions, seeds: tuple[int, ...]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    choose = parse_seeds(args.choose, "--choose") if args.choose is not None else None
    confirm = parse_seeds(args.confirm, "--confirm") if args.confirm is not None else None
    if choose is None:
        choose = seeds[: (len(seeds) + 1) // 2] if confirm is None else tuple(s for s in seeds if s not in confirm)
    if confirm is None:
        confirm = tuple(s for s in seeds if s not in choose)
    return choose, confirm


def main(argv: Sequence[str] | None = None) -> int:
    """Entry of ``python -m dcfast.study``; returns the exit status: 1 also where a cell failed."""
    args = parser().parse_args(argv)
    return run_command(lambda: _main(args), "stopped; the same command resumes")


def _main(arguments: argparse.Namespace) -> int:
    args, settings = _options(arguments)
    grid = _grid(args, settings)
    choose, confirm = _halves(args, grid.seeds)
    out = Path(absolute(args.out))
    if args.dry_run:
        cells = grid.cells(out)
        say("\n".join(f"{cell.name}: {cell.settings.filter} -> {cell.directory}" for cell in cells))
        most = "" if args.confirm_all else "at most "  # which filter is confirmed is not known yet
        say(f"{most}{len(cells)} trainings and {len({cell.base for cell in cells})} base runs; nothing was done")
        return DONE
    study = run_study(
        out,
        grid,
        choose=choose,
        confirm=confirm,
        jobs=args.jobs,
        overwrite=args.overwrite,
        confirm_all=args.confirm_all,
        say=(lambda line: None) if args.quiet else partial(say, error=True),
    )
    say(markdown(study), end="")
    say(f"results: {out / 'study.md'}, study.json, study.csv, study.png, study.svg")
    return FAILED if study.failed else DONE
