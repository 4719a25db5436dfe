"""What the scores of a study say: means and spreads, the best filter and whether it holds, ranks between scales."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from dcfast.study.grid import NOT_CANDIDATES

__all__ = ["above_chance", "choose_and_confirm", "comparable", "mean_and_spread", "rank_correlation", "summarise"]

Results = dict[tuple[str, int, str], dict[str, Any]]
"""(scale, seed, label) -> result of a cell."""


def comparable(results: Results) -> tuple[Results, dict[str, Any]]:
    """The results with scores that can be compared: means over the tasks that every scored cell has.

    A set that was added later, or that a model gave no number on, would otherwise make two means of different things.
    Where all cells have the same tasks, the scores are those that the cells recorded.

    Returns:
        the results, with ``score`` None everywhere where no task is in all of them; and ``compared`` (keys), ``cells``
        (how many have scores), ``left_out`` (key -> the cells that lack it, as [scale, seed, label]).
    """
    have = {cell: set(result["tasks"]) for cell, result in results.items() if result["tasks"]}
    every = set().union(*have.values())
    common = every.intersection(*have.values())
    left_out = {
        key: [list(cell) for cell, keys in sorted(have.items()) if key not in keys] for key in sorted(every - common)
    }
    told = {"compared": sorted(common), "cells": len(have), "left_out": left_out}
    if not left_out:
        return results, told
    again = {}
    for cell, result in results.items():
        values = [value for key, value in result["tasks"].items() if key in common]
        again[cell] = {**result, "score": mean_and_spread(values)[0] if cell in have else None}
    return again, told


def mean_and_spread(values: Sequence[float]) -> tuple[float | None, float | None]:
    """Mean, and standard deviation of a sample (n - 1); None where there are too few values."""
    if not values:
        return None, None
    mean = math.fsum(values) / len(values)
    if len(values) < 2:
        return mean, None
    return mean, math.sqrt(math.fsum((v - mean) ** 2 for v in values) / (len(values) - 1))


def _ranks(values: Sequence[float]) -> list[float]:
    """Ranks from 1; equal values share the mean of theirs."""
    order = sorted(range(len(values)), key=lambda i: values[i])
    ranks = [0.0] * len(values)
    begin = 0
    while begin < len(order):
        end = begin
        while end + 1 < len(order) and values[order[end + 1]] == values[order[begin]]:
            end += 1
        for place in range(begin, end + 1):
            ranks[order[place]] = (begin + end) / 2 + 1
        begin = end + 1
    return ranks


def rank_correlation(a: Sequence[float], b: Sequence[float]) -> float | None:
    """Spearman's rho of two equally long lists; None for fewer than two, or where one list is all ties."""
    if len(a) != len(b):
        raise ValueError(f"rank_correlation: both lists must have one length; got {len(a)} and {len(b)}")
    if len(a) < 2:
        return None
    x, y = _ranks(a), _ranks(b)
    mean = (len(x) + 1) / 2
    both = math.fsum((p - mean) * (q - mean) for p, q in zip(x, y, strict=True))
    spread = math.fsum((p - mean) ** 2 for p in x) * math.fsum((q - mean) ** 2 for q in y)
    return both / math.sqrt(spread) if spread > 0 else None


def summarise(results: Results, scale: str, label: str) -> dict[str, Any]:
    """One row of the table: a filter at a scale over its seeds.

    Args:
        results: (scale, seed, label) -> result of a cell.
    """
    mine = {seed: r for (s, seed, name), r in results.items() if s == scale and name == label}
    scores = {seed: r["score"] for seed, r in sorted(mine.items()) if r["score"] is not None}
    mean, spread = mean_and_spread(list(scores.values()))
    tasks: dict[str, list[float]] = {}
    for result in mine.values():
        for key, value in result["tasks"].items():
            tasks.setdefault(key, []).append(value)
    of_tasks = {key: mean_and_spread(values) for key, values in sorted(tasks.items())}
    kept = [r["kept"] / r["rows"] for r in mine.values() if r["rows"]]
    copies = [r.get("contaminated") for r in mine.values()]  # absent in results of an older version
    known = [float(count) for count in copies if count is not None]
    return {
        "scale": scale,
        "filter": label,
        "expressions": sorted({r["filter"] for r in mine.values()}),
        "seeds": sorted(scores),
        "scores": {str(seed): value for seed, value in scores.items()},
        "mean": mean,
        "deviation": spread,
        "kept": mean_and_spread(kept)[0],
        "contaminated": mean_and_spread(known)[0] if len(known) == len(copies) else None,
        "samples_seen": sorted({r["samples_seen"] for r in mine.values()}, key=str),
        "tasks": {key: {"mean": m, "deviation": s} for key, (m, s) in of_tasks.items()},
    }


def _difference(a: list[float], b: list[float]) -> dict[str, Any]:
    """Of two filters on the same seeds: the difference of the means against twice the spread of both."""
    (mean_a, spread_a), (mean_b, spread_b) = mean_and_spread(a), mean_and_spread(b)
    if mean_a is None or mean_b is None or spread_a is None or spread_b is None:
        return {"difference": None, "bar": None, "clear": None}
    bar = 2 * math.sqrt(spread_a**2 + spread_b**2)
    paired = mean_and_spread([x - y for x, y in zip(a, b, strict=True)])
    return {
        "difference": mean_a - mean_b,
        "bar": bar,
        "clear": mean_a - mean_b > bar,
        "paired_deviation": paired[1],
        "seeds_won": sum(x > y for x, y in zip(a, b, strict=True)),
        "means": [mean_a, mean_b],
        "deviations": [spread_a, spread_b],
    }


def choose_and_confirm(
    results: Results,
    scale: str,
    labels: Sequence[str],
    choose: Sequence[int],
    confirm: Sequence[int],
) -> dict[str, Any]:
    """The filter with the best mean on some seeds, and how it does against no_filter on others.

    The seeds that confirm have no part in the choice, so that the winner's luck is not counted as its merit. The
    bar is 2 * sqrt(s1^2 + s2^2), s being the standard deviations over the confirming seeds.

    Returns:
        ``best`` (a label or None), ``chosen_by`` (label -> mean), ``confirmed`` (difference, bar, clear, ...),
        ``random`` (the same of random against no_filter, over all seeds of both), ``note`` where it cannot be said.
    """

    def scores(label: str, seeds: Sequence[int]) -> list[float] | None:
        found = [results.get((scale, seed, label), {}).get("score") for seed in seeds]
        return (
            None if not found or any(value is None for value in found) else [float(v) for v in found if v is not None]
        )

    means = {}
    for label in labels:
        chosen = scores(label, choose)
        if label not in NOT_CANDIDATES and chosen is not None:
            means[label] = math.fsum(chosen) / len(chosen)
    found: dict[str, Any] = {
        "scale": scale,
        "choose": list(choose),
        "confirm": list(confirm),
        "chosen_by": means,
        "best": max(means, key=lambda name: means[name]) if means else None,
        "confirmed": None,
        "random": None,
    }
    all_seeds = [*choose, *confirm]
    plain, drawn = scores("no_filter", all_seeds), scores("random", all_seeds)
    if plain is not None and drawn is not None:
        found["random"] = _difference(drawn, plain)
    if found["best"] is None:
        return {**found, "note": "no candidate filter is finished on all seeds that choose"}
    a, b = scores(found["best"], confirm), scores("no_filter", confirm)
    if a is None or b is None:
        return {**found, "note": f"{found['best']} or no_filter is not finished on all seeds that confirm"}
    return {**found, "confirmed": _difference(a, b)}


def above_chance(results: Results, scale: str, label: str = "no_filter") -> dict[str, Any] | None:
    """On how many tasks a filter's mean score is above a guess's; None where no cell of it is finished.

    Returns:
        ``tasks`` (with a known chance), ``above``, ``clearly`` (by more than two standard deviations over the seeds)
        and ``at_or_below`` (keys).
    """
    mine = [r for (s, _, name), r in sorted(results.items()) if s == scale and name == label]
    if not mine:
        return None
    above: list[str] = []
    clearly: list[str] = []
    below: list[str] = []
    for key in sorted({key for r in mine for key in r["chance"]}):
        mean, spread = mean_and_spread([r["tasks"][key] for r in mine if key in r["tasks"]])
        chance, _ = mean_and_spread([r["chance"][key] for r in mine if key in r["chance"]])
        if mean is None or chance is None:
            continue
        (above if mean > chance else below).append(key)
        if spread is not None and mean - 2 * spread > chance:
            clearly.append(key)
    return {"tasks": len(above) + len(below), "above": len(above), "clearly": len(clearly), "at_or_below": below}
