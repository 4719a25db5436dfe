"""Contamination in the report: evidence counted, and kept uids that are contaminated."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dcfast.errors import DcfastError
from dcfast.report.facts import samples
from dcfast.report.facts.sampling import columns_of, num_rows, stream

__all__ = ["contaminated_kept", "contamination"]

MAX_EVIDENCE_ROWS = 2_000_000
"""Evidence rows that are counted by evaluation set and distance; a larger table says how far it was counted."""
LOOKUP_UIDS = 1 << 20


def _count_evidence(path: Path) -> tuple[dict[str, dict[str, int]], dict[int, int], int]:
    """Hits by (evaluation set, method), perceptual hits by distance, rows counted."""
    sets: dict[str, dict[str, int]] = {}
    distances: dict[int, int] = {}
    counted = 0
    if not {"evalset", "method", "distance"} <= set(columns_of(path)):
        return sets, distances, counted
    for batch in stream(path, ["evalset", "method", "distance"]):
        if counted >= MAX_EVIDENCE_ROWS:
            break
        import pyarrow as pa

        keys = ["evalset", "method", "distance"]
        groups = pa.Table.from_batches([batch]).group_by(keys).aggregate([([], "count_all")])
        for row in groups.to_pylist():
            name, method, count = str(row["evalset"]), str(row["method"]), int(row["count_all"])
            one = sets.setdefault(name, {})
            one[method] = one.get(method, 0) + count
            if method == "perceptual":
                distances[int(row["distance"])] = distances.get(int(row["distance"]), 0) + count
        counted += batch.num_rows
    return sets, distances, counted


def contamination(
    out: Path, summary: dict[str, Any], signatures: dict[str, Any], usual_distance: int
) -> dict[str, Any]:
    """Hits by evaluation set, method and distance, and the pairs to show.

    Args:
        summary, signatures: of the stages decontaminate and signatures.
    Memory: a batch of evidence; at most MAX_EVIDENCE_ROWS rows are counted.
    """
    table = out / "contamination.parquet"
    if not summary.get("available"):
        return {"available": False, "evalsets": [], "distances": {}, "pairs": []}
    sets, distances, counted = _count_evidence(table)
    known = {str(s["name"]): s for s in signatures.get("evalsets", [])}
    listed = []
    for name in sorted({*known, *sets}):
        about, hits = known.get(name, {}), sets.get(name, {})
        listed.append(
            {
                "name": name,
                **{key: int(about.get(key, 0)) for key in ("pictures", "unreadable", "flat")},
                "content": hits.get("content", 0),
                "perceptual": hits.get("perceptual", 0),
            }
        )
    rows = num_rows(table)
    limit = int(summary.get("max_distance", usual_distance))
    return {
        "available": True,
        "uids": int(summary.get("uids", 0)),
        "samples": int(summary.get("samples", 0)),
        "content_samples": int(summary.get("content", 0)),
        "flat_pictures": int(summary.get("flat", 0)),
        "max_distance": limit,
        "evidence_rows": rows,
        "counted_rows": counted,
        "evalsets": listed,
        "distances": {str(d): distances.get(d, 0) for d in range(max([limit, *distances]) + 1)},
        "pairs": samples.evidence_pairs(table),
    }


def contaminated_kept(out: Path) -> int | None:
    """How many uids of subset.npy are contaminated, a stretch at a time; None where it cannot be said."""
    import numpy as np

    if not (out / "subset.npy").exists() or not (out / "contaminated.npy").exists():
        return None
    from dcfast.uids.sets import load_subset, uid_isin

    try:  # written sorted by this run: a check would read all of a file that may have a billion uids
        subset = load_subset(out / "subset.npy", check=False)
        contaminated = load_subset(out / "contaminated.npy", check=False)
    except (DcfastError, OSError):
        return None
    total = 0
    for start in range(0, len(contaminated), LOOKUP_UIDS):
        block = np.ascontiguousarray(contaminated[start : start + LOOKUP_UIDS])
        total += int(uid_isin(block, subset, check=False).sum())
    return total
