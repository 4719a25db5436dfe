"""Which scores are of a model that trained on copies of the very pictures, and what the others say."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dcfast.evaluate.scores import Leaked, read_leaked
from dcfast.report.text import clean, points, share

__all__ = ["MARK", "mark_copies", "means", "pictures_seen", "sentences"]

MARK = "\u2020"
"""A dagger: beside each score of a set whose pictures the model trained on copies of."""
Row = dict[str, Any]


def _mean(values: Sequence[float]) -> float | None:
    return math.fsum(values) / len(values) if values else None


def means(rows: Sequence[Row]) -> dict[str, Any]:
    """Of sets with a difference: their number, the means of both runs, of chance and of the difference, and wins."""
    differences = [row["difference"] for row in rows]
    chances = [row["chance"] for row in rows]
    return {
        "sets": len(rows),
        "score": _mean([row["score"] for row in rows]),
        "comparison": _mean([row["comparison"] for row in rows]),
        "chance": None if None in chances else _mean(chances),
        "difference": _mean(differences),
        "better": sum(d > 0 for d in differences),
        "worse": sum(d < 0 for d in differences),
    }


def _told(found: Leaked | None, rows: Sequence[Row], score: str, contaminated: str) -> dict[str, Any] | None:
    if found is None:
        return None
    marked = [row["key"] for row in rows if row[score] is not None and row[contaminated]]
    return {"samples": found.samples, "sets": found.concerned, "marked": marked, "words": found.words}


def pictures_seen(out: Path, comparison: Path | None, evalset_dir: Path | None) -> dict[str, Any]:
    """What decontamination found in both trainings: ``run`` and ``comparison``, None where it was not looked for."""
    other = None if comparison is None else read_leaked(comparison, evalset_dir)
    return {"run": read_leaked(out, evalset_dir), "comparison": other}


def mark_copies(rows: Sequence[Row], seen: dict[str, Any]) -> dict[str, Any]:
    """Says of every set how many samples of each training are copies of its pictures (None: not checked).

    Args:
        rows: of the sets; each gets ``contaminated`` and ``comparison_contaminated``.
        seen: from ``pictures_seen``.
    Returns:
        ``trained_on`` (of ``run`` and ``comparison``: samples, ``sets`` with the samples of each, the keys of those
        whose score is ``marked`` for it, and all in words), ``unaffected`` (``means`` of the sets that both runs have
        and neither trained on copies of).
    """
    for row in rows:
        for column, name in (("contaminated", "run"), ("comparison_contaminated", "comparison")):
            row[column] = None if seen[name] is None else seen[name].tasks.get(row["key"])
    paired = [row for row in rows if row["difference"] is not None]
    untouched = [row for row in paired if row["contaminated"] == 0 == row["comparison_contaminated"]]
    return {
        "trained_on": {
            "run": _told(seen["run"], rows, "score", "contaminated"),
            "comparison": _told(seen["comparison"], rows, "comparison", "comparison_contaminated"),
        },
        "unaffected": means(untouched),
    }


def _of_run(words: str, told: dict[str, Any] | None) -> str:
    if told is None:
        return f"Whether {words} trained on copies of evaluation pictures was not checked."
    name = words[0].upper() + words[1:]
    if told["marked"]:
        return f"{MARK} {name} trained on {told['words']}. Its scores on these sets say little."
    if told["samples"]:
        return f"{name} trained on {told['words']}, none of them of a set that has a score."
    return ""


def _other_means(whole: dict[str, Any], rest: dict[str, Any], by: str | None) -> str:
    """The means that the headline does not go by."""
    if not rest["sets"]:
        return "There is no set that neither run trained on copies of."
    shown, over = rest, f"the {rest['sets']} of {whole['sets']} sets that neither run trained on copies of"
    if by == "unaffected":
        shown, over = whole, f"all {whole['sets']} sets, those with {MARK} among them"
    return (
        f"Over {over}: {share(shown['score'])} against {share(shown['comparison'])}, {points(shown['difference'])} "
        f"points, better on {shown['better']}, worse on {shown['worse']}."
    )


def sentences(report: dict[str, Any]) -> list[str]:
    """What a reader of the scores must know of copies in the training: what was found, and what is left without."""
    scores = report["scores"]
    told, whole = scores["trained_on"], scores["common"]
    said = [_of_run("this run", told["run"])]
    if whole["sets"]:
        against = clean(str(report["comparison"].get("filter")), 80)
        said.append(_of_run(f"the comparison run ({against})", told["comparison"]))
        if any(one is not None and one["marked"] for one in told.values()):
            said.append(_other_means(whole, scores["unaffected"], report["verdict"]["by"]))
    said = [words for words in said if words]
    return said or ["No sample of the training is a copy of an evaluation picture, as far as decontamination can tell."]
