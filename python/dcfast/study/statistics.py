"""What the scores of a study say: means and spreads, the best filter and whether it holds, ranks between scales."""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Sequence
from statistics import correlation

from dcfast.storage.records import replaced
from dcfast.study.grid import NOT_CANDIDATES
from dcfast.study.records import AboveChance, CellId, CellResult, Compared, Difference, FilterRow, Spread, Verdict

__all__ = ["Results", "above_chance", "choose_and_confirm", "comparable", "rank_correlation", "spread", "summarise"]

Results = dict[CellId, CellResult]


def comparable(results: Results) -> tuple[Results, Compared]:
    """The results with scores that can be compared: means over the tasks that every scored cell has.

    A set that was added later, or that a model gave no number on, would otherwise make two means of different things.
    Where all cells have the same tasks, the scores are those that the cells recorded. Where no task is in all of them,
    every score is None.
    """
    have = {cell: set(result.tasks) for cell, result in results.items() if result.tasks}
    every = set().union(*have.values())
    common = every.intersection(*have.values())
    left_out = {key: [cell for cell, keys in sorted(have.items()) if key not in keys] for key in sorted(every - common)}
    compared = Compared(sorted(common), len(have), left_out)
    if not left_out:
        return results, compared
    again = {}
    for cell, result in results.items():
        values = [value for key, value in result.tasks.items() if key in common]
        again[cell] = replaced(result, score=spread(values).mean if cell in have else None)
    return again, compared


def spread(values: Sequence[float]) -> Spread:
    """Mean and standard deviation."""
    if not values:
        return Spread(None, None)
    mean = math.fsum(values) / len(values)
    if len(values) < 2:
        return Spread(mean, None)
    return Spread(mean, math.sqrt(math.fsum((v - mean) ** 2 for v in values) / (len(values) - 1)))


def _ranks(values: Sequence[float]) -> list[float]:
    """Ranks from 1; equal values share the mean of theirs."""
    ordered = sorted(values)
    return [(bisect_left(ordered, value) + bisect_right(ordered, value) + 1) / 2 for value in values]


def rank_correlation(a: Sequence[float], b: Sequence[float]) -> float | None:
    """Spearman's rho of two equally long lists; None for fewer than two, or where one list is all ties."""
    if len(a) != len(b):
        raise ValueError(f"rank_correlation: both lists must have one length; got {len(a)} and {len(b)}")
    if len(set(a)) < 2 or len(set(b)) < 2:
        return None
    return correlation(_ranks(a), _ranks(b))


def summarise(results: Results, scale: str, label: str) -> FilterRow:
    """One row of the table: a filter at a scale over its seeds."""
    mine = {seed: r for (s, seed, name), r in results.items() if s == scale and name == label}
    scores = {seed: result.score for seed, result in sorted(mine.items()) if result.score is not None}
    tasks = defaultdict(list)
    for result in mine.values():
        for key, value in result.tasks.items():
            tasks[key].append(value)
    copies = [float(result.contaminated) for result in mine.values() if result.contaminated is not None]
    of_scores = spread(list(scores.values()))
    return FilterRow(
        scale=scale,
        filter=label,
        expressions=sorted({result.filter for result in mine.values()}),
        seeds=sorted(scores),
        scores={str(seed): score for seed, score in scores.items()},
        mean=of_scores.mean,
        deviation=of_scores.deviation,
        kept=spread([result.kept / result.rows for result in mine.values() if result.rows]).mean,
        contaminated=spread(copies).mean if len(copies) == len(mine) else None,
        samples_seen=sorted({result.samples_seen for result in mine.values()}, key=str),
        tasks={key: spread(values) for key, values in sorted(tasks.items())},
    )


def _difference(a: list[float], b: list[float]) -> Difference:
    """The bar is twice the spread of both: 2 * sqrt(s1^2 + s2^2)."""
    first, second = spread(a), spread(b)
    if first.mean is None or second.mean is None or first.deviation is None or second.deviation is None:
        return Difference(None, None, None)
    bar = 2 * math.sqrt(first.deviation**2 + second.deviation**2)
    return Difference(
        difference=first.mean - second.mean,
        bar=bar,
        clear=first.mean - second.mean > bar,
        paired_deviation=spread([x - y for x, y in zip(a, b, strict=True)]).deviation,
        seeds_won=sum(x > y for x, y in zip(a, b, strict=True)),
        means=(first.mean, second.mean),
        deviations=(first.deviation, second.deviation),
    )


def choose_and_confirm(
    results: Results, scale: str, labels: Sequence[str], choose: Sequence[int], confirm: Sequence[int]
) -> Verdict:
    """The filter with the best mean on some seeds, and how it does against no_filter on others.

    The seeds that confirm have no part in the choice, so that the winner's luck is not counted as its merit.
    """

    def scores(label: str, seeds: Sequence[int]) -> list[float] | None:
        """Of all seeds; None where one is not finished, or there are no seeds."""
        cells = [results.get((scale, seed, label)) for seed in seeds]
        known = [cell.score for cell in cells if cell is not None and cell.score is not None]
        return known if known and len(known) == len(seeds) else None

    candidates = [label for label in labels if label not in NOT_CANDIDATES]
    chosen_by = {label: math.fsum(known) / len(known) for label in candidates if (known := scores(label, choose))}
    best = max(chosen_by, key=lambda label: chosen_by[label]) if chosen_by else None
    confirmed, note = None, ""
    if best is None:
        note = "no candidate filter is finished on all seeds that choose"
    elif (mine := scores(best, confirm)) and (plain := scores("no_filter", confirm)):
        confirmed = _difference(mine, plain)
    else:
        note = f"{best} or no_filter is not finished on all seeds that confirm"
    drawn, plain = scores("random", [*choose, *confirm]), scores("no_filter", [*choose, *confirm])
    return Verdict(
        scale=scale,
        choose=list(choose),
        confirm=list(confirm),
        chosen_by=chosen_by,
        best=best,
        confirmed=confirmed,
        random=_difference(drawn, plain) if drawn and plain else None,
        above_chance=above_chance(results, scale),
        note=note,
    )


def above_chance(results: Results, scale: str, label: str = "no_filter") -> AboveChance | None:
    """On how many tasks a filter's mean score is above a guess's; None where no cell of it is finished."""
    mine = [result for (s, _, name), result in sorted(results.items()) if s == scale and name == label]
    if not mine:
        return None
    above: list[str] = []
    clearly: list[str] = []
    below: list[str] = []
    for key in sorted({key for result in mine for key in result.chance}):
        score = spread([result.tasks[key] for result in mine if key in result.tasks])
        chance = spread([result.chance[key] for result in mine if key in result.chance]).mean
        if score.mean is None or chance is None:
            continue
        (above if score.mean > chance else below).append(key)
        if score.deviation is not None and score.mean - 2 * score.deviation > chance:
            clearly.append(key)
    return AboveChance(len(above) + len(below), len(above), len(clearly), below)
