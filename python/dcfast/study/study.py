"""A study from its grid to its results: run what is missing, write the table after every cell."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from itertools import combinations
from pathlib import Path

from dcfast.process.libraries import require_library
from dcfast.run.checks import check_one_process, check_settings
from dcfast.storage.lock import locked
from dcfast.storage.paths import LOCK_NAME, absolute, make_directory, not_left_empty
from dcfast.storage.records import replaced, widened
from dcfast.study.cell import read_result
from dcfast.study.execute import execute
from dcfast.study.grid import NOT_CANDIDATES, Cell, Grid, scaled
from dcfast.study.output import write_results
from dcfast.study.records import CellResult, Failure, RankCorrelation, Study, StudyCell
from dcfast.study.statistics import Results, choose_and_confirm, comparable, rank_correlation, summarise

STUDY_VERSION = 2


def collect(
    grid: Grid, results: Results, choose: Sequence[int], confirm: Sequence[int], failed: Sequence[Failure] = ()
) -> Study:
    """The study, of the cells that are finished."""
    compared, tasks = comparable(results)
    rows = [summarise(compared, name, label) for name in grid.scales for label in grid.filters]
    table = [replaced(row, missing=sorted(set(grid.seeds) - set(row.seeds))) for row in rows]
    means = {(row.scale, row.filter): row.mean for row in table}
    correlations = []
    for scales in combinations(grid.scales, 2):
        pairs = [[means[name, label] for name in scales] for label in grid.filters]
        both = [(x, y) for x, y in pairs if x is not None and y is not None]
        rho = rank_correlation([x for x, _ in both], [y for _, y in both])
        correlations.append(RankCorrelation(scales, len(both), rho))
    cells = [
        widened(result, StudyCell, scale=name, seed=seed, label=label, score_of_all=results[name, seed, label].score)
        for seed in grid.seeds
        for name in grid.scales
        for label in grid.filters
        if (result := compared.get((name, seed, label))) is not None
    ]
    return Study(
        version=STUDY_VERSION,
        settings=grid.settings,
        filters=grid.filters,
        scales=list(grid.scales),
        seeds=list(grid.seeds),
        tasks=tasks,
        cells=cells,
        table=table,
        verdicts=[choose_and_confirm(compared, name, list(grid.filters), choose, confirm) for name in grid.scales],
        rank_correlation=correlations,
        failed=list(failed),
    )


def _time(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def _confirming(grid: Grid, cells: Sequence[Cell], best: Mapping[str, str | None]) -> list[Cell]:
    """Of the cells on confirming seeds, those of the best filter of their scale and of what it is compared with.

    Where the best is not known, one candidate stands for it. Cells that are finished already are taken along.
    """
    stand_in = next((label for label in grid.filters if label not in NOT_CANDIDATES), None)
    return [
        cell
        for cell in cells
        if cell.label in (*NOT_CANDIDATES, best.get(cell.scale) or stand_in) or (best and read_result(cell) is not None)
    ]


def run_study(
    out: str | os.PathLike[str],
    grid: Grid,
    *,
    choose: Sequence[int] = (),
    confirm: Sequence[int] = (),
    jobs: int = 1,
    cores: int | None = None,
    overwrite: bool = False,
    confirm_all: bool = False,
    say: Callable[[str], None] = lambda line: None,
) -> Study:
    """Runs a study, or what of it is left to do; its results are written after every cell.

    Args:
        out: directory of the study: a run directory for each cell below it.
        grid: filters, scales, seeds, and what all runs share.
        choose, confirm: seeds of the grid; none of them may be in both.
        jobs: cells at work at once, each in a process with cores // jobs threads.
        overwrite: redo cells whose settings differ, instead of refusing.
        confirm_all: run every filter on the seeds that confirm, not only the best one and what it is compared with.
        say: is given a line as things happen.
    Returns:
        What ``study.json`` holds; ``failed`` names the cells that did not end well.
    Raises:
        ValueError: arguments that make no sense, before any work.   RunError: a study is at work in ``out``.
    """
    _check_study(grid, choose, confirm, jobs)
    root = Path(absolute(out))
    cells = grid.cells(root)
    results: Results = {}
    failed: list[Failure] = []
    started, spent = time.monotonic(), 0
    later = [] if confirm_all or not choose else [cell for cell in cells if cell.seed in confirm]
    planned = len(cells) - len(later) + len(_confirming(grid, later, {}))

    def best() -> dict[str, str | None]:
        labels = list(grid.filters)
        known, _ = comparable(results)
        return {name: choose_and_confirm(known, name, labels, choose, confirm).best for name in grid.scales}

    def write(plots: bool) -> Study:
        study = collect(grid, results, choose, confirm, failed)
        write_results(root, study, plots=plots)
        return study

    def finished(cell: Cell, result: CellResult, seconds: float) -> None:
        nonlocal spent
        assert cell.label is not None
        results[cell.scale, cell.seed, cell.label] = result
        if seconds == 0.0:
            return
        spent += 1
        left = (time.monotonic() - started) / spent * (planned - len(results))
        score = "no score" if result.score is None else f"{result.score:.4f}"
        done = f"{cell.name}: {score}, {result.kept:,} of {result.rows:,} kept, {_time(seconds)}"
        say(f"{done}; {len(results)} of {planned} cells, about {_time(left)} left")
        write(plots=False)

    busy = f"--out {root}: another study is running there; wait for it, or choose another"
    with not_left_empty(root), locked(make_directory(root, "--out") / LOCK_NAME, busy):
        first = [cell for cell in cells if cell not in later]
        for phase in range(2):
            failed += execute(
                first if phase == 0 else _confirming(grid, later, best()),
                lambda cell: grid.base(root, cell.scale, cell.seed),
                jobs=jobs,
                cores=cores or os.cpu_count() or 1,
                overwrite=overwrite,
                finished=finished,
                say=say,
            )
        failed += _failed_sets(results)
        return write(plots=True)


def _check_study(grid: Grid, choose: Sequence[int], confirm: Sequence[int], jobs: int) -> None:
    check_one_process()
    for name in grid.scales:
        check_settings(scaled(grid.settings, name))
        if grid.settings.pool is None and scaled(grid.settings, name).scale != "tiny":
            raise ValueError(f"scale {name} needs a pool: give --pool DIR; the built-in world is for tiny")
    for option, seeds in (("choose", choose), ("confirm", confirm)):
        if unknown := sorted(set(seeds) - set(grid.seeds)):
            raise ValueError(
                f"--{option} names seeds that the study does not run: {', '.join(map(str, unknown))}; "
                "name those of --seeds"
            )
    if both := sorted(set(choose) & set(confirm)):
        raise ValueError(f"seeds that choose cannot confirm; both have {', '.join(map(str, both))}")
    if jobs < 1:
        raise ValueError(f"jobs must be at least 1; got {jobs}")
    require_library("matplotlib", "a study's plot")


def _failed_sets(results: Results) -> list[Failure]:
    return [
        Failure("/".join(map(str, cell)), f"evaluation set {key} could not be scored: {reason}")
        for cell, result in sorted(results.items())
        for key, reason in result.failed_sets.items()
    ]
