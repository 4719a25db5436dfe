"""Stage ``index``: one segment file for a run of shards, then the pool index uid -> every row that has it.

Writes ``index/segment-NNNNN.dcx``, ``index/pool.npy`` (records of uid and row id, sorted) and
``index/index.json``. Memory: the columns of one segment in each worker; the merge holds a fixed buffer.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from dcfast.engine.piece import Piece
from dcfast.errors import CorruptDataError
from dcfast.index.build import Segment, write_segment
from dcfast.index.rows import ROW_BITS, shard_damage, valid_uid_mask
from dcfast.rundir.layout import MERGE_BYTES, segment_path
from dcfast.rundir.run_dir import Run
from dcfast.stages.runner import Steps
from dcfast.storage.atomic import write_json
from dcfast.uids.sets import RECORD_DTYPE, merge_runs, open_records, record_sort, save_records

__all__ = ["steps"]


def _run_path(number: int) -> str:
    return f"state/index/runs/{number:05d}.npy"


def row_ids(segment: Any, first_shard: int) -> Any:
    """(n,) u64: the row id of each sample of a segment whose first shard has that ordinal."""
    begin = np.asarray(segment.shard_sample_begin).astype(np.int64)
    counts = np.diff(begin)
    shard = np.repeat(np.arange(len(counts)) + first_shard, counts)
    row = np.arange(segment.num_samples) - np.repeat(begin[:-1], counts)
    return shard.astype(np.uint64) << np.uint64(ROW_BITS) | row.astype(np.uint64)


def build_segment(out: str, args: dict[str, Any]) -> dict[str, Any]:
    """Piece: indexes a run of shards and writes the sorted run of its uids."""
    root = Path(out)
    number, first_shard = args["number"], args["first_shard"]
    shards = [(str(Path(args["shard_dir"]) / name), name) for name in args["shards"]]
    stats = write_segment(shards, root / segment_path(number))
    segment = Segment.open(root / segment_path(number))
    damage = shard_damage(segment)
    if args["strict"] and damage:
        shard, offset, message = damage[0]
        name = segment.shard_names[shard]
        raise CorruptDataError(f"shard {name}, offset {offset}: {message} (--strict)", path=name, offset=offset)
    has_uid = valid_uid_mask(segment)
    records = np.empty(int(has_uid.sum()), dtype=RECORD_DTYPE)
    records["f0"] = segment.uid["f0"][has_uid]
    records["f1"] = segment.uid["f1"][has_uid]
    records["f2"] = row_ids(segment, first_shard)[has_uid]
    save_records(root / _run_path(number), record_sort(records, threads=1))
    sizes = np.asarray(segment.shard_sizes)
    return {
        "shards": len(shards),
        "samples": int(segment.num_samples),
        "members": int(segment.num_members),
        "bytes": int(sizes.sum()),
        "with_uid": len(records),
        "damaged_shards": len({d[0] for d in damage}),
        "strays": int(stats["num_strays"]),
    }


def merge_pool_index(out: str, args: dict[str, Any]) -> dict[str, Any]:
    """Piece: merges the runs of all segments into ``index/pool.npy`` and counts repeated uids."""
    root = Path(out)
    runs = [root / _run_path(n) for n in range(args["segments"])]
    merge_runs(runs, root / "index/pool.npy", memory_bytes=MERGE_BYTES)
    write_json(root / "index/index.json", args["layout"])
    return {"rows": len(open_records(root / "index/pool.npy"))}


def steps(run: Run) -> Steps:
    """Segments, then the pool index."""
    pool = run.pool
    groups = pool.segments()
    pieces = [
        Piece(
            "index/segments",
            f"{number:05d}",
            "dcfast.stages.index:build_segment",
            {
                "number": number,
                "first_shard": first,
                "shards": names,
                "shard_dir": str(pool.shard_dir),
                "strict": run.settings.strict,
            },
            inputs=tuple(pool.shard_path(name) for name in names),
            outputs=(segment_path(number), _run_path(number)),
            weight=sum(Path(pool.shard_path(name)).stat().st_size for name in names),
        )
        for number, (first, names) in enumerate(groups)
    ]
    stats = yield pieces
    layout = {"shards": len(pool.shards), "segments": [[first, len(names)] for first, names in groups]}
    merged = yield [
        Piece(
            "index/pool",
            "pool",
            "dcfast.stages.index:merge_pool_index",
            {"segments": len(groups), "layout": layout},
            inputs=tuple(_run_path(n) for n in range(len(groups))),
            outputs=("index/pool.npy", "index/index.json"),
        )
    ]
    total = {key: sum(s[key] for s in stats) for key in stats[0]}
    return {**total, "segments": len(groups), "rows_with_uid": merged[0]["rows"]}
