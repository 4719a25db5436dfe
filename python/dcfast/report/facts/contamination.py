"""Contamination in the report: evidence counted, and kept uids that are contaminated."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from dcfast.dedup.evidence import CONTENT, DESCRIPTOR, PERCEPTUAL, PERCEPTUAL_256
from dcfast.errors import DcfastError
from dcfast.report.facts import samples
from dcfast.report.facts.sampling import columns_of, num_rows, rows_of, stream
from dcfast.rundir.summaries import ComparedSet, DecontaminateSummary, SignaturesSummary
from dcfast.storage.records import Record

_METHODS = (CONTENT, PERCEPTUAL, PERCEPTUAL_256, DESCRIPTOR.rstrip(":"))
MAX_EVIDENCE_ROWS = 2_000_000
"""Evidence rows that are counted by evaluation set and distance; a larger table says how far it was counted."""


class EvalsetHits(Record):
    """The pictures of an evaluation set, and hits by method; those by descriptors of any model together."""

    name: str
    pictures: int
    unreadable: int
    flat: int
    content: int
    perceptual: int
    perceptual256: int
    descriptor: int


class Contamination(Record, omit_defaults=True):
    """What decontamination found; the numbers are left out where there was nothing to compare with.

    ``distances``: bits, as text -> hits by the perceptual hash of 64 bits.   ``content_samples`` have identical bytes.
    ``notes``: what was not compared.
    """

    available: bool
    evalsets: list[EvalsetHits]
    distances: dict[str, int]
    pairs: list[samples.EvidenceRow]
    uids: int | None = None
    samples: int | None = None
    content_samples: int | None = None
    flat_pictures: int | None = None
    max_distance: int | None = None
    max_distance_256: int | None = None
    evidence_rows: int | None = None
    counted_rows: int | None = None
    notes: list[str] = []


class _EvidenceCount(Record):
    evalset: str
    method: str
    distance: int | None
    count_all: int


def _count_evidence(path: Path) -> tuple[Counter[tuple[str, str]], Counter[int], int]:
    """Hits by (evaluation set, method), perceptual hits by distance, rows counted."""
    import pyarrow as pa

    hits: Counter[tuple[str, str]] = Counter()
    distances: Counter[int] = Counter()
    counted = 0
    columns = ["evalset", "method", "distance"]
    if not columns_of(path).issuperset(columns):
        return hits, distances, counted
    for batch in stream(path, columns):
        if counted >= MAX_EVIDENCE_ROWS:
            break
        groups = pa.Table.from_batches([batch]).group_by(columns).aggregate([([], "count_all")])
        for row in rows_of(groups, _EvidenceCount, path):
            hits[row.evalset, row.method.partition(":")[0]] += row.count_all
            if row.method == PERCEPTUAL and row.distance is not None:
                distances[row.distance] += row.count_all
        counted += batch.num_rows
    return hits, distances, counted


def contamination(
    out: Path, summary: DecontaminateSummary | None, signatures: SignaturesSummary | None, usual_distance: int
) -> Contamination:
    """Hits by evaluation set, method and distance, and the pairs to show.

    Memory: a batch of evidence; at most MAX_EVIDENCE_ROWS rows are counted.
    """
    if summary is None or not summary.available:
        return Contamination(False, [], {}, [])
    table = out / "contamination.parquet"
    hits, distances, counted = _count_evidence(table)
    sets = {compared.name: compared for compared in (signatures.evalsets if signatures is not None else [])}
    others = [*summary.sets, *(name for name, _ in hits)]
    sets |= {name: ComparedSet(name) for name in others if name not in sets}
    limit = usual_distance if summary.max_distance is None else summary.max_distance
    return Contamination(
        True,
        [
            EvalsetHits(name, s.pictures, s.unreadable, s.flat, *(hits[name, method] for method in _METHODS))
            for name, s in sorted(sets.items())
        ],
        {str(bits): distances[bits] for bits in range(max([limit, *distances]) + 1)},
        samples.evidence_pairs(table),
        uids=summary.uids,
        samples=summary.samples,
        content_samples=summary.content,
        flat_pictures=summary.flat,
        max_distance=limit,
        max_distance_256=summary.max_distance_256,
        evidence_rows=num_rows(table),
        counted_rows=counted,
        notes=summary.notes,
    )


def contaminated_kept(out: Path) -> int | None:
    """How many uids of subset.npy are contaminated; None where it cannot be said."""
    import numpy as np

    from dcfast.uids.sets import load_subset, uid_isin

    try:  # written sorted by this run: a check would read all of a file that may have a billion uids
        subset = load_subset(out / "subset.npy", check=False)
        contaminated = load_subset(out / "contaminated.npy", check=False)
    except (DcfastError, OSError):
        return None
    return int(uid_isin(np.asarray(contaminated), subset, check=False).sum())
