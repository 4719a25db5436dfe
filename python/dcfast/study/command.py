"""The command line of ``python -m dcfast.study``."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from dcfast.process.command import run_command
from dcfast.process.exit_codes import DONE, FAILED
from dcfast.process.parser import ArgumentParser
from dcfast.process.terminal import say
from dcfast.run.options import add_training_options, parse_features, parse_world
from dcfast.rundir.claim import located
from dcfast.rundir.settings import Settings
from dcfast.scales import SCALES
from dcfast.storage.paths import absolute, path_argument
from dcfast.study.grid import STANDARD_FILTERS, Grid, parse_filters, parse_seeds
from dcfast.study.output import markdown
from dcfast.study.study import run_study

__all__ = ["main", "parser"]


def parser() -> argparse.ArgumentParser:
    """The options of a study."""
    p = ArgumentParser(
        prog="python -m dcfast.study",
        description="Train on many filters with many seeds: a table and a plot of score against filter, the best "
        "filter chosen on some seeds and confirmed on others, and rank correlation between scales.",
        epilog="The same command resumes a study that was stopped. Docs: docs/study.md.",
    )
    p.add_argument(
        "--scales",
        "--scale",
        nargs="+",
        default=["tiny"],
        metavar="NAME",
        help=f"of {', '.join(SCALES)}, or NAME/K for the same recipe at a K-th of the samples (default tiny)",
    )
    p.add_argument(
        "--filters",
        nargs="+",
        metavar="FILTER",
        help=f"names ({', '.join(STANDARD_FILTERS)}), expressions, or 'LABEL: EXPRESSION'; {{seed}} in one stands for "
        "the seed (default: all of the names)",
    )
    p.add_argument("--and", dest="also", metavar="EXPR", help='joined to every filter by &, e.g. "~contaminated"')
    p.add_argument("--seeds", default="3", metavar="N", help="a number of seeds, or a list: 6, 0-5, 0,2-4 (default 3)")
    p.add_argument(
        "--choose", metavar="SEEDS", help="seeds that the best filter is chosen on (default: the first half)"
    )
    p.add_argument("--confirm", metavar="SEEDS", help="seeds that it is confirmed on (default: the others)")
    p.add_argument(
        "--confirm-all",
        action="store_true",
        help="run every filter on the seeds that confirm, not only the best one, no_filter, random and oracle",
    )
    p.add_argument(
        "--out",
        type=path_argument,
        default="runs/study",
        metavar="DIR",
        help="directory of the study (default runs/study)",
    )
    p.add_argument("--jobs", type=int, default=1, metavar="N", help="cells at work at once; they share the cores")
    p.add_argument("--overwrite", action="store_true", help="redo cells whose settings differ")
    p.add_argument("--dry-run", action="store_true", help="list the cells and do nothing")
    p.add_argument("--quiet", action="store_true", help="no progress")
    add_training_options(p)
    return p


def _grid(args: argparse.Namespace) -> Grid:
    settings = Settings(
        pool=args.pool,
        evalsets=args.evalsets,
        uid_from=args.uid_from,
        features=parse_features(args.features),
        teacher_uids=args.teacher_uids,
        loss=args.loss,
        decoder=args.decoder,
        device=args.device,
        precision=args.precision,
        train_from=args.train_from,
        samples_seen=args.samples_seen,
        world=parse_world(args.world),
    )
    settings = located(settings)  # cells are resumed from other directories
    if len(set(args.scales)) != len(args.scales):
        raise ValueError(f"--scales names one twice: {', '.join(args.scales)}")
    if settings.pool is not None and settings.evalsets is None:
        raise ValueError("a study compares scores: it needs --evalsets DIR beside --pool")
    filters = parse_filters(args.filters, settings.pool is None, args.also)
    return Grid(filters, tuple(args.scales), parse_seeds(args.seeds), settings)


def _halves(args: argparse.Namespace, seeds: tuple[int, ...]) -> tuple[tuple[int, ...], tuple[int, ...]]:
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


def _main(args: argparse.Namespace) -> int:
    grid = _grid(args)
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
        cores=os.cpu_count(),
        overwrite=args.overwrite,
        confirm_all=args.confirm_all,
        say=(lambda line: None) if args.quiet else partial(say, error=True),
    )
    say(markdown(study), end="")
    say(f"results: {out / 'study.md'}, study.json, study.csv, study.png, study.svg")
    return FAILED if study["failed"] else DONE
