"""Stage ``decontaminate``: which pool pictures are evaluation pictures, with the evidence for each hit.

Two methods: equal content hash (the very bytes), and perceptual hashes within a Hamming distance. Flat pictures
never match by perceptual hash. Writes ``contaminated.npy`` (sorted uids) and ``contamination.parquet`` (a row for
each pool sample, evaluation set and method: the nearest evaluation picture). Memory: the signatures of all
evaluation pictures (about 150 bytes each; they do not grow with the pool) and those of one segment in each worker.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from dcfast.dedup.match import EvalImages, exact_matches, near_matches
from dcfast.engine.piece import piece
from dcfast.evaluate.tasks import compared_sets
from dcfast.index.rows import valid_uid_mask
from dcfast.index.segments import Segment
from dcfast.rundir.layout import (
    EVIDENCE_TABLE,
    MERGE_BYTES,
    evalset_signature_path,
    evidence_schema,
    segment_path,
    signature_path,
)
from dcfast.rundir.run_dir import Run
from dcfast.rundir.summaries import DecontaminateSummary
from dcfast.rundir.tables import combine_parts, part_path
from dcfast.stages.runner import Do
from dcfast.storage.npz import load_array
from dcfast.storage.parquet import write_table
from dcfast.storage.records import Count, Record
from dcfast.uids.sets import load_subset, merge_runs, save_subset, uid_format, uid_unique


class Hits(Record):
    """Of a segment: rows of evidence, samples that are evaluation images, those by content, flat images."""

    rows: Count
    samples: Count
    content: Count
    flat: Count


class ContaminatedUids(Record):
    uids: Count


@piece()
def match_segment(out: Path, number: int, evalsets: Sequence[str], max_distance: int) -> Hits:
    """Piece: the hits of one segment, with evidence, and the sorted run of their uids."""
    import pyarrow as pa
    import pyarrow.compute as pc

    segment = Segment.open(out / segment_path(number))
    pool = load_array(out / signature_path(number), mmap=True)
    evals = EvalImages(evalsets, [out / evalset_signature_path(n) for n in range(len(evalsets))])
    readable = np.flatnonzero(pool["status"] == 0)
    structured = readable[pool["flat"][readable] == 0]
    hits = [(row, p, "content", 0) for row, p, _ in exact_matches(evals, pool, readable)]
    hits += [(row, p, "perceptual", d) for row, p, d in near_matches(evals, pool, structured, max_distance)]
    hits.sort(key=lambda hit: (hit[0], hit[2], hit[1]))
    rows = np.array([hit[0] for hit in hits], dtype=np.int64)
    begin = np.asarray(segment.shard_sample_begin).astype(np.int64)
    shard = np.searchsorted(begin, rows, side="right") - 1
    valid = valid_uid_mask(segment)[rows]
    uids = np.ascontiguousarray(segment.uid[rows])
    evidence = [evals.key(hit[1]) for hit in hits]
    table = pa.table(
        {
            "shard": [segment.shard_names[s] for s in shard],
            "row": (rows - begin[shard]).astype(np.uint32),
            "key": [segment.key(int(row)) for row in rows],
            "uid": pc.if_else(pa.array(valid), uid_format(uids, threads=1), pa.scalar(None, pa.string())),
            "evalset": [e[0] for e in evidence],
            "evalset_shard": [e[1] for e in evidence],
            "evalset_key": [e[2] for e in evidence],
            "method": [hit[2] for hit in hits],
            "distance": np.array([hit[3] for hit in hits], dtype=np.uint8),
        },
        schema=evidence_schema(),
    )
    write_table(table, out / part_path(EVIDENCE_TABLE, number))
    save_subset(out / _uid_run(number), uid_unique(uids[valid], threads=1))
    return Hits(
        rows=len(hits),
        samples=len(np.unique(rows)),
        content=len({hit[0] for hit in hits if hit[2] == "content"}),
        flat=int(len(readable) - len(structured)),
    )


def _uid_run(number: int) -> str:
    return f"state/decontaminate/uids/{number:05d}.npy"


@piece()
def merge_contaminated(out: Path, segments: int) -> ContaminatedUids:
    """Piece: ``contaminated.npy``, the sorted uids of all hits."""
    runs = [out / _uid_run(n) for n in range(segments)]
    merge_runs(runs, out / "contaminated.npy", unique=True, memory_bytes=MERGE_BYTES)
    return ContaminatedUids(len(load_subset(out / "contaminated.npy")))


def steps(run: Run, do: Do) -> DecontaminateSummary:
    """Hits by segment, then the merged uid list and evidence table. Without evaluation sets there is nothing to do."""
    if run.evalset_dir is None:
        return DecontaminateSummary(available=False, uids=0)
    numbers = range(len(run.pool.segments()))
    names = [name for name, _ in compared_sets(run.evalset_dir)]
    evals = [evalset_signature_path(n) for n in range(len(names))]
    hits = do(
        match_segment.piece(
            "decontaminate/match",
            f"{number:05d}",
            inputs=[segment_path(number), signature_path(number), *evals],
            outputs=[part_path(EVIDENCE_TABLE, number), _uid_run(number)],
        )(number=number, evalsets=names, max_distance=run.settings.max_distance)
        for number in numbers
    )
    runs, rows = [_uid_run(n) for n in numbers], sum(h.rows for h in hits)
    merge = merge_contaminated.piece("decontaminate/merge", "uids", inputs=runs, outputs=["contaminated.npy"])
    merged = do.one(merge(segments=len(numbers)))
    do.one(combine_parts("decontaminate/merge", EVIDENCE_TABLE, len(numbers), rows))
    return DecontaminateSummary(
        available=True,
        uids=merged.uids,
        samples=sum(h.samples for h in hits),
        content=sum(h.content for h in hits),
        flat=sum(h.flat for h in hits),
        evidence_rows=rows,
        max_distance=run.settings.max_distance,
    )
