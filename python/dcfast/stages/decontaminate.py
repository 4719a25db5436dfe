"""Stage ``decontaminate``: which pool pictures are evaluation pictures, with the evidence for each hit.

Two methods: equal content hash (the very bytes), and perceptual hashes within a Hamming distance. Flat pictures
never match by perceptual hash. Writes ``contaminated.npy`` (sorted uids) and ``contamination.parquet`` (a row for
each pool sample, evaluation set and method: the nearest evaluation picture). Memory: the signatures of all
evaluation pictures (about 150 bytes each; they do not grow with the pool) and those of one segment in each worker.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from dcfast.dedup.match import EvalImages, exact_matches, near_matches
from dcfast.engine.piece import Piece
from dcfast.evaluate.tasks import compared_sets
from dcfast.index.build import Segment
from dcfast.index.rows import valid_uid_mask
from dcfast.rundir.layout import (
    EVIDENCE_TABLE,
    MERGE_BYTES,
    evalset_signature_path,
    evidence_schema,
    segment_path,
    signature_path,
)
from dcfast.rundir.run_dir import Run
from dcfast.rundir.tables import combine_parts, part_path
from dcfast.stages.runner import Steps
from dcfast.storage.atomic import atomic_path
from dcfast.storage.npz import load_array
from dcfast.uids.sets import load_subset, merge_runs, save_subset, uid_format, uid_unique

__all__ = ["steps"]


def match_segment(out: str, args: dict[str, Any]) -> dict[str, Any]:
    """Piece: the hits of one segment, with evidence, and the sorted run of their uids."""
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    root = Path(out)
    segment = Segment.open(root / segment_path(args["number"]))
    pool = load_array(root / signature_path(args["number"]), mmap=True)
    evals = EvalImages(args["evalsets"], [root / evalset_signature_path(n) for n in range(len(args["evalsets"]))])
    readable = np.flatnonzero(pool["status"] == 0)
    structured = readable[pool["flat"][readable] == 0]
    found = [(row, p, "content", 0) for row, p, _ in exact_matches(evals, pool, readable)]
    found += [(row, p, "perceptual", d) for row, p, d in near_matches(evals, pool, structured, args["max_distance"])]
    found.sort(key=lambda hit: (hit[0], hit[2], hit[1]))
    rows = np.array([hit[0] for hit in found], dtype=np.int64)
    begin = np.asarray(segment.shard_sample_begin).astype(np.int64)
    shard = np.searchsorted(begin, rows, side="right") - 1
    valid = valid_uid_mask(segment)[rows]
    uids = np.ascontiguousarray(segment.uid[rows])
    evidence = [evals.key(hit[1]) for hit in found]
    table = pa.table(
        {
            "shard": [segment.shard_names[s] for s in shard],
            "row": (rows - begin[shard]).astype(np.uint32),
            "key": [segment.key(int(row)) for row in rows],
            "uid": pc.if_else(pa.array(valid), uid_format(uids, threads=1), pa.scalar(None, pa.string())),
            "evalset": [e[0] for e in evidence],
            "evalset_shard": [e[1] for e in evidence],
            "evalset_key": [e[2] for e in evidence],
            "method": [hit[2] for hit in found],
            "distance": np.array([hit[3] for hit in found], dtype=np.uint8),
        },
        schema=evidence_schema(),
    )
    with atomic_path(root / part_path(EVIDENCE_TABLE, args["number"])) as temporary:
        pq.write_table(table, temporary)
    save_subset(root / _uid_run(args["number"]), uid_unique(uids[valid], threads=1))
    return {
        "rows": len(found),
        "samples": len(np.unique(rows)),
        "content": len(np.unique(rows[[hit[2] == "content" for hit in found]])) if found else 0,
        "flat": int(len(readable) - len(structured)),
    }


def _uid_run(number: int) -> str:
    return f"state/decontaminate/uids/{number:05d}.npy"


def merge_contaminated(out: str, args: dict[str, Any]) -> dict[str, Any]:
    """Piece: ``contaminated.npy``, the sorted uids of all hits."""
    root = Path(out)
    runs = [root / _uid_run(n) for n in range(args["segments"])]
    merge_runs(runs, root / "contaminated.npy", unique=True, memory_bytes=MERGE_BYTES)
    return {"uids": len(load_subset(root / "contaminated.npy"))}


def steps(run: Run) -> Steps:
    """Hits by segment, then the merged uid list and evidence table. Without evaluation sets there is nothing to do."""
    if run.evalset_dir is None:
        return {"available": False, "uids": 0, "samples": 0, "content": 0, "flat": 0}
    segments = run.pool.segments()
    names = [name for name, _ in compared_sets(run.evalset_dir)]
    evals = tuple(evalset_signature_path(n) for n in range(len(names)))
    stats = yield [
        Piece(
            "decontaminate/match",
            f"{number:05d}",
            "dcfast.stages.decontaminate:match_segment",
            {"number": number, "evalsets": names, "max_distance": run.settings.max_distance},
            inputs=(segment_path(number), signature_path(number), *evals),
            outputs=(part_path(EVIDENCE_TABLE, number), _uid_run(number)),
        )
        for number in range(len(segments))
    ]
    merged = yield [
        Piece(
            "decontaminate/merge",
            "uids",
            "dcfast.stages.decontaminate:merge_contaminated",
            {"segments": len(segments)},
            inputs=tuple(_uid_run(n) for n in range(len(segments))),
            outputs=("contaminated.npy",),
        )
    ]
    yield [combine_parts("decontaminate/merge", EVIDENCE_TABLE, len(segments), sum(s["rows"] for s in stats))]
    return {
        "available": True,
        "uids": merged[0]["uids"],
        "samples": sum(s["samples"] for s in stats),
        "content": sum(s["content"] for s in stats),
        "flat": sum(s["flat"] for s in stats),
        "evidence_rows": sum(s["rows"] for s in stats),
        "max_distance": run.settings.max_distance,
    }
