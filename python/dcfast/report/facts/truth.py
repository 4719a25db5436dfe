"""How right the run was, where the truth is known: the built-in world's ``truth.parquet`` against the tables.

The world has some ten thousand samples, so that its tables are read whole; nothing here touches a given pool.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dcfast.report.facts.samples import FATE_COLUMNS, in_turns, rank
from dcfast.report.facts.sampling import columns_of, num_rows
from dcfast.rundir.tables import read_table

__all__ = ["KINDS", "MAX_TRUTH_ROWS", "compare_with_truth", "mistakes"]

MAX_TRUTH_ROWS = 2_000_000
MISTAKES = 6

KINDS = (
    # column of the truth (true, or text that is not empty, where a sample is of the kind), what to call it
    ("clean", "clean: nothing wrong"),
    ("mismatched", "caption of another picture"),
    ("language", "caption not in English"),
    ("boilerplate", "boilerplate caption"),
    ("small", "picture too small"),
    ("extreme_aspect", "extreme aspect ratio"),
    ("flat", "flat picture"),
    ("exact_duplicate_of", "exact duplicate"),
    ("near_duplicate_of", "near duplicate"),
    ("leak", "evaluation picture"),
    ("broken", "broken file"),
    ("odd", "odd but legal file"),
)


def _share(part: int, whole: int) -> float | None:
    return round(part / whole, 6) if whole else None


def _scores(found: set[str], right: set[str]) -> dict[str, Any]:
    """Precision and recall of a set of samples against the right one; None where undefined."""
    both = len(found & right)
    return {
        "found": len(found),
        "true": len(right),
        "correct": both,
        "precision": _share(both, len(found)),
        "recall": _share(both, len(right)),
    }


def _kinds(truth: dict[str, list[Any]], fate: dict[str, str]) -> list[dict[str, Any]]:
    rows = []
    for column, label in KINDS:
        if column not in truth:
            continue
        names = [k for k, v in zip(truth["key"], truth[column], strict=True) if v and k in fate]
        counts = dict.fromkeys(("kept", "dropped", "quarantined", "unlisted"), 0)
        for name in names:
            counts[fate[name]] = counts.get(fate[name], 0) + 1
        rows.append({"kind": column, "label": label, "samples": len(names), **counts})
    return rows


def compare_with_truth(out: Path) -> dict[str, Any] | None:
    """Precision and recall of contamination and of the filter, and the fates of each kind of defect.

    Samples are joined by their key, which is unique in the world. Contamination is judged on the samples whose
    picture can be decoded; the filter on all samples of the shards, a kept sample being right where the truth calls
    it clean. None where the truth, its column ``key`` or the fates are absent.
    """
    truth_path, fates_path = out / "world" / "truth.parquet", out / "fates.parquet"
    columns = columns_of(truth_path)
    if "key" not in columns or not columns_of(fates_path) or num_rows(fates_path) > MAX_TRUTH_ROWS:
        return None
    wanted = ["key", *(c for c, _ in KINDS if c in columns)]
    truth: dict[str, list[Any]] = read_table(truth_path, wanted).to_pydict()
    fates = read_table(fates_path, ["key", "fate"])
    fate = {k: f for k, f in zip(fates["key"].to_pylist(), fates["fate"].to_pylist(), strict=True) if k is not None}
    result: dict[str, Any] = {"samples": len(fate), "kinds": _kinds(truth, fate)}
    if "clean" in truth:
        clean = {k for k, v in zip(truth["key"], truth["clean"], strict=True) if v and k in fate}
        result["filter"] = _scores({k for k, f in fate.items() if f == "kept"}, clean)
    evidence = out / "contamination.parquet"
    if "leak" in truth and "key" in columns_of(evidence):
        table = read_table(evidence, ["key", "method"])
        pairs = list(zip(table["key"].to_pylist(), table["method"].to_pylist(), strict=True))
        leak = {k: str(v) for k, v in zip(truth["key"], truth["leak"], strict=True) if v and k in fate}
        readable = {k: v for k, v in leak.items() if fate[k] != "quarantined"}
        hits = {k for k, _ in pairs}
        # a hit on a sample that is quarantined for another reason (no caption, say) is right all the same
        right = set(readable) | (hits & set(leak))
        result["contamination"] = {
            **_scores(hits, right),
            "kinds": {
                kind: _scores({k for k in hits if leak.get(k) == kind}, {k for k in right if leak[k] == kind})
                for kind in sorted(set(leak.values()))
            },
            "quarantined_unfound": len(set(leak) - right),
        }
    return result


def mistakes(out: Path) -> dict[str, list[dict[str, Any]]]:
    """Samples that the filter got wrong, to look at: up to 6 kept ones with a defect and 6 dropped clean ones.

    Rows of the fates, each with ``defects`` (labels of KINDS) or, of the dropped, the reason; in turns by these.
    Empty where the truth or the fates are absent.
    """
    truth_path, fates_path = out / "world" / "truth.parquet", out / "fates.parquet"
    columns = columns_of(truth_path)
    if not {"key", "clean"} <= set(columns) or not set(FATE_COLUMNS) <= set(columns_of(fates_path)):
        return {}
    if num_rows(fates_path) > MAX_TRUTH_ROWS:
        return {}
    kinds = [(kind, label) for kind, label in KINDS if kind in columns and kind not in ("clean", "odd")]
    truth = read_table(truth_path, ["key", "clean", *(kind for kind, _ in kinds)]).to_pydict()
    place = {key: i for i, key in enumerate(truth["key"])}
    faulty: dict[str, list[dict[str, Any]]] = {}
    clean: dict[str, list[dict[str, Any]]] = {}
    rows = read_table(fates_path, list(FATE_COLUMNS)).to_pylist()
    for row in sorted((r for r in rows if r["fate"] in ("kept", "dropped") and r["key"] in place), key=rank):
        at = place[row["key"]]
        if row["fate"] == "kept" and not truth["clean"][at]:
            row["defects"] = [label for kind, label in kinds if truth[kind][at]]
            faulty.setdefault(", ".join(row["defects"]), []).append(row)
        elif row["fate"] == "dropped" and truth["clean"][at]:
            clean.setdefault(str(row["reason"]), []).append(row)

    def chosen(groups: dict[str, list[dict[str, Any]]]) -> list[dict[str, Any]]:
        return in_turns(sorted(groups.values(), key=lambda group: -len(group)), MISTAKES)

    return {"kept_faulty": chosen(faulty), "dropped_clean": chosen(clean)}
