"""The scores of a run beside its comparison run's, each only of the checkpoint that its own training ended with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dcfast.errors import DcfastError
from dcfast.evaluate.results import AGGREGATES, RESULTS, Result, aggregate, load_results
from dcfast.evaluate.tasks import EvalTask, datacomp_tasks, own_tasks
from dcfast.report.facts.copies import mark_copies, means, pictures_seen
from dcfast.storage import json_files

__all__ = ["EVEN", "compare_scores", "read_json", "scored"]

EVEN = 0.005
"""A difference of the averages below half a point says nothing, whichever way it points."""
MAX_LINES = 10_000


def read_json(path: Path, what: str = "") -> dict[str, Any]:
    """A JSON object; empty where the file is absent or holds something else.

    Args:
        what: whose fields it must have, see ``dcfast.rundir.summaries``.
    Raises:
        CorruptDataError: a field is of another type; names file and field.
    """
    try:
        value = json_files.read_json(path, names=True)
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def _results(path: Path) -> list[Result]:
    """The results of a file that say which checkpoint they are of; what else is in it is passed over."""
    try:
        results = load_results(path).results[:MAX_LINES]
    except OSError:
        return []
    return [result for result in results if result.checkpoint is not None]


def scored(out: Path) -> dict[str, Any]:
    """What a run directory's checkpoint scored.

    Returns:
        ``lines`` (results of the checkpoint of ``train/summary.json`` alone), ``checkpoint`` (its SHA-256, or None),
        ``refused`` (why results that are there are not shown, or None).
    """
    lines = _results(out / RESULTS)
    trained = read_json(out / "train" / "summary.json", "train/summary").get("checkpoint_sha256")
    if not lines:
        return {"lines": [], "checkpoint": trained, "refused": None}
    if not trained:
        reason = "there are results, but no train/summary.json that says which checkpoint they are of"
        return {"lines": [], "checkpoint": None, "refused": reason}
    mine = [line for line in lines if line.checkpoint == trained]
    others = sorted({str(line.checkpoint)[:16] for line in lines} - {str(trained)[:16]})
    reason = (
        f"{len(lines) - len(mine)} results are of another checkpoint ({', '.join(others[:3])}) than the one that was "
        f"trained ({str(trained)[:16]}) and are left out; run evaluate again"
    )
    return {"lines": mine, "checkpoint": trained, "refused": None if len(mine) == len(lines) else reason}


def _set_row(key: str, mine: Result | None, other: Result | None) -> dict[str, Any]:
    shown = mine or other
    # other pictures under the same name, or another way to score them, make two numbers that are not to be compared
    alike = mine is not None and other is not None and mine.state == other.state
    error = next((found.error for found in (mine, other) if found is not None and found.error is not None), None)
    score = mine.score if mine else None
    against = other.score if other else None
    return {
        "key": key,
        "dataset": shown.dataset if shown else key,
        "kind": shown and shown.kind,
        "metric": shown and shown.main_metric_name,
        "chance": shown and shown.chance,
        "score": score,
        "comparison": against,
        "difference": None if score is None or against is None or not alike else score - against,
        "alike": alike or mine is None or other is None or error is not None,
        "pictures": shown and shown.pictures,
        "unreadable": shown and shown.unreadable,
        "benchmark": shown is not None and shown.benchmark,
        "complete": shown is not None and shown.complete,
        "notes": list(shown.notes[:5]) if shown else [],
        "error": error,
    }


def _own(evalset_dir: Path | None) -> tuple[EvalTask, ...]:
    try:
        return () if evalset_dir is None else own_tasks(evalset_dir)
    except (DcfastError, OSError):
        return ()


def _averages(mine: list[Result], other: list[Result], own: tuple[EvalTask, ...]) -> dict[str, Any]:
    """DataComp's groups, None unless every member is there whole, and the average of the sets' own table."""
    here, there = aggregate(mine, own), aggregate(other, own)
    benchmark = tuple(task.key for task in datacomp_tasks() if task.main_metric)
    present = {line.key for line in mine if line.benchmark and line.complete and line.error is None}
    groups = [
        {
            "name": name,
            "members": len(keys or benchmark),
            "present": len(present & set(keys or benchmark)),
            "score": here.averages[name],
            "comparison": there.averages[name],
        }
        for name, keys in AGGREGATES.items()
    ]
    return {
        "averages": groups,
        "own_average": {
            "members": sum(bool(task.main_metric) for task in own),
            "score": here.own_average,
            "comparison": there.own_average,
        },
        **{name: getattr(here, name) for name in ("missing", "failed", "partial", "unlisted")},
    }


def compare_scores(out: Path, comparison: Path | None, evalset_dir: Path | None) -> dict[str, Any]:
    """The scores of every set in both runs, the averages they allow, and means over the sets that both have: of all,
    and of those that neither run trained on copies of.

    Args:
        out, comparison: run directories; None where there is no comparison run.
        evalset_dir: of the sets, for the ``tasks.json`` beside them.
    Returns:
        A JSON document; docs/report.md has its keys. A result of another checkpoint than the trained one is in none
        of its numbers.
    """
    here = scored(out)
    there = scored(comparison) if comparison is not None else {"lines": [], "checkpoint": None, "refused": None}
    mine = {line.key: line for line in here["lines"]}
    other = {line.key: line for line in there["lines"]}
    rows = [_set_row(key, mine.get(key), other.get(key)) for key in [*mine, *(k for k in other if k not in mine)]]
    own = _own(evalset_dir)
    return {
        "available": bool(mine),
        "checkpoint": here["checkpoint"],
        "comparison_checkpoint": there["checkpoint"],
        "refused": [words for words in (here["refused"], there["refused"]) if words],
        "sets": rows,
        "common": means([row for row in rows if row["difference"] is not None]),
        **mark_copies(rows, pictures_seen(out, comparison, evalset_dir)),
        "above_chance": sum(
            row["score"] is not None and row["chance"] is not None and row["score"] > row["chance"] for row in rows
        ),
        **_averages(list(mine.values()), list(other.values()), own),
    }
