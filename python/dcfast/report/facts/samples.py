"""Which samples the page shows: a choice that depends on the run's tables alone."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from dcfast.report.facts.sampling import columns_of, spread

__all__ = ["FATE_COLUMNS", "evidence_pairs", "gallery", "in_turns", "rank"]

GALLERY = 12
PAIRS = 24
DOUBTFUL = 12
"""Pairs that go to the most distant matches, whichever evaluation set they are of."""
EVIDENCE_COLUMNS = ("shard", "row", "key", "uid", "evalset", "evalset_shard", "evalset_key", "method", "distance")
FATE_COLUMNS = ("shard", "row", "key", "uid", "fate", "reason")


def rank(row: dict[str, Any]) -> bytes:
    """A fixed shuffle: by a hash of the sample's name, so that neither order nor date of the shards shows."""
    name = f"{row.get('uid')}\0{row.get('shard')}\0{row.get('row')}"
    return hashlib.blake2b(name.encode("utf-8", "surrogatepass"), digest_size=8).digest()


def _doubt(row: dict[str, Any]) -> tuple[Any, ...]:
    return -int(row["distance"]), row["method"] == "content", rank(row)


def in_turns(groups: Iterable[list[dict[str, Any]]], limit: int) -> list[dict[str, Any]]:
    """One of each group, then the next of each, until the limit: no group crowds out another."""
    waiting = [list(group) for group in groups if group]
    chosen: list[dict[str, Any]] = []
    while waiting and len(chosen) < limit:
        for group in waiting:
            if len(chosen) < limit:
                chosen.append(group.pop(0))
        waiting = [group for group in waiting if group]
    return chosen


def gallery(table: Path) -> dict[str, list[dict[str, Any]]]:
    """Up to 12 kept and 12 dropped samples of ``fates.parquet``; the dropped in turns by reason, frequent ones first.

    They are drawn from stretches spread over the table, at most 65,536 rows in all.
    """
    found: dict[str, list[dict[str, Any]]] = {"kept": [], "dropped": []}
    if not set(FATE_COLUMNS) <= set(columns_of(table)):
        return found
    import pyarrow.compute as pc

    for batch in spread(table, list(FATE_COLUMNS)):
        for fate, rows in found.items():
            rows += batch.filter(pc.equal(batch.column("fate"), fate)).to_pylist()
    by_reason: dict[str, list[dict[str, Any]]] = {}
    for row in sorted(found["dropped"], key=rank):
        by_reason.setdefault(str(row["reason"]), []).append(row)
    frequent = sorted(by_reason.values(), key=lambda rows: (-len(rows), str(rows[0]["reason"])))
    return {"kept": sorted(found["kept"], key=rank)[:GALLERY], "dropped": in_turns(frequent, GALLERY)}


def evidence_pairs(table: Path) -> list[dict[str, Any]]:
    """Up to 24 rows of ``contamination.parquet`` to look at, the most distant first.

    Half of them are the most distant matches of all, which are the ones to doubt; the others are taken in turns from
    every evaluation set and method. A sample that matches a set by both methods counts as identical. Drawn from at
    most 65,536 rows.
    """
    if not set(EVIDENCE_COLUMNS) <= set(columns_of(table)):
        return []
    best: dict[tuple[Any, ...], dict[str, Any]] = {}
    for batch in spread(table, list(EVIDENCE_COLUMNS)):
        for row in batch.to_pylist():
            name = (row["evalset"], row["shard"], row["row"])
            if name not in best or row["method"] == "content":
                best[name] = row
    ordered = sorted(best.values(), key=_doubt)
    doubtful = [row for row in ordered[:DOUBTFUL] if row["method"] != "content"]
    groups: dict[tuple[bool, str], list[dict[str, Any]]] = {}
    for row in ordered[len(doubtful) :]:
        groups.setdefault((row["method"] == "content", str(row["evalset"])), []).append(row)
    chosen = doubtful + in_turns([groups[name] for name in sorted(groups)], PAIRS - len(doubtful))
    return sorted(
        chosen, key=lambda row: (-int(row["distance"]), row["method"] == "content", str(row["evalset"]), rank(row))
    )
