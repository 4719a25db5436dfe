"""Stage ``decontaminate``: which pool pictures are evaluation pictures, with the evidence for each hit.

Two methods: equal content hash (the very bytes), and perceptual hashes within a Hamming distance. Flat pictures
never match by perceptual hash. Writes ``contaminated.npy`` (sorted uids) and ``contamination.parquet`` (a row for
each pool sample, evaluation set and method: the nearest evaluation picture). Memory: the signatures of all
evaluation pictures (about 150 bytes each; they do not grow with the pool) and those of one segment in each worker.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from dcfast.atomic import atomic_path
from dcfast.stages.index import MERGE_BYTES, segment_path, usable_uids
from dcfast.stages.piece import Piece
from dcfast.stages.run_dir import Run
from dcfast.stages.runner import Steps
from dcfast.stages.signatures import eval_path, evalset_tars, pool_path
from dcfast.stages.tables import combine_parts, part_path

__all__ = ["evidence_schema", "steps"]

TABLE = "contamination"
JOIN_ROWS = 65_536
"""Pool pictures compared at a time, which bounds the pairs in memory."""


def evidence_schema() -> Any:
    """Columns of ``contamination.parquet``."""
    import pyarrow as pa

    return pa.schema(
        [
            ("shard", pa.string()),
            ("row", pa.uint32()),
            ("key", pa.string()),
            ("uid", pa.string()),
            ("evalset", pa.string()),
            ("evalset_shard", pa.string()),
            ("evalset_key", pa.string()),
            ("method", pa.string()),
            ("distance", pa.uint8()),
        ]
    )


class _EvalPictures:
    """The readable pictures of all evaluation sets, as columns; ``source`` is (set, place in its table)."""

    def __init__(self, root: Path, names: list[str]) -> None:
        import pyarrow.parquet as pq

        self.names = names
        self.tables = [pq.read_table(root / eval_path(n)) for n in range(len(names))]
        kinds: list[Any] = []
        for number, table in enumerate(self.tables):
            columns = {c: table[c].to_numpy() for c in ("status", "flat", "h0", "h1", "phash")}
            place = np.flatnonzero(columns["status"] == 0)
            kinds.append(
                (np.full(len(place), number), place, *(columns[c][place] for c in ("h0", "h1", "phash", "flat")))
            )
        # there is at least one evaluation set, though perhaps none of its pictures is readable
        merged: list[Any] = [np.concatenate(parts) for parts in zip(*kinds, strict=True)]
        self.set_id, self.place, h0, h1, self.phash, self.flat = merged
        # sorted by content for look-ups; within equal content by set and place, so that the first is always the same
        order = np.lexsort((self.place, self.set_id, h1, h0))
        self.by_content = order
        self.content = np.empty(len(order), dtype="u8,u8")
        self.content["f0"], self.content["f1"] = h0[order], h1[order]
        self.structured = np.flatnonzero(self.flat == 0)

    def key(self, picture: int) -> tuple[str, str, str]:
        number, place = int(self.set_id[picture]), int(self.place[picture])
        table = self.tables[number]
        return self.names[number], table["shard"][place].as_py(), table["key"][place].as_py()


def _exact(evals: _EvalPictures, pool: Any, rows: Any) -> list[tuple[int, int, int]]:
    """(pool row, evaluation picture, 0) for equal bytes: the first picture of each evaluation set."""
    from dcfast.uids import uid_lookup

    queries = np.empty(len(rows), dtype="u8,u8")
    queries["f0"], queries["f1"] = pool["h0"][rows], pool["h1"][rows]
    first, count = uid_lookup(evals.content, queries, threads=1)
    hits = []
    for i in np.flatnonzero(np.asarray(count) > 0):
        seen: set[int] = set()
        for picture in evals.by_content[int(first[i]) : int(first[i]) + int(count[i])]:
            if int(evals.set_id[picture]) not in seen:
                seen.add(int(evals.set_id[picture]))
                hits.append((int(rows[i]), int(picture), 0))
    return hits


def _joined(hashes: Any, rows: Any, others: Any, max_distance: int) -> Iterator[tuple[Any, Any]]:
    """(rows of a block, its Hamming pairs); blocks shrink where a crowd of alike pictures makes too many pairs."""
    from dcfast.similarity import DEFAULT_MAX_PAIRS, hamming_join

    start, size = 0, JOIN_ROWS
    while start < len(rows):
        block = rows[start : start + size]
        try:
            pairs = hamming_join(np.ascontiguousarray(hashes[block]), others, max_distance, threads=1)
        except ValueError:
            if len(block) * len(others) <= DEFAULT_MAX_PAIRS:
                raise  # not for the number of pairs
            size = max(1, len(block) // 2)
            continue
        yield block, pairs
        start += len(block)


def _near(evals: _EvalPictures, pool: Any, rows: Any, max_distance: int) -> list[tuple[int, int, int]]:
    """(pool row, evaluation picture, distance): the nearest picture of each evaluation set."""
    hits = []
    for block, (ia, ib, distance) in _joined(pool["phash"], rows, evals.phash[evals.structured], max_distance):
        # the indices are unsigned: NumPy would make floats of them together with signed ones
        ia, ib = ia.astype(np.int64), ib.astype(np.int64)
        picture = evals.structured[ib]
        sets = evals.set_id[picture]
        order = np.lexsort((picture, distance, sets, ia))  # nearest first; ties to the first picture
        ia, picture, distance, sets = ia[order], picture[order], distance[order], sets[order]
        first = np.ones(len(ia), dtype=bool)
        first[1:] = (ia[1:] != ia[:-1]) | (sets[1:] != sets[:-1])
        hits += [
            (int(block[a]), int(p), int(d)) for a, p, d in zip(ia[first], picture[first], distance[first], strict=True)
        ]
    return hits


def match_segment(out: str, args: dict[str, Any]) -> dict[str, Any]:
    """Piece: the hits of one segment, with evidence, and the sorted run of their uids."""
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    from dcfast.shards import Segment
    from dcfast.uids import save_subset, uid_format, uid_unique

    root = Path(out)
    segment = Segment.open(root / segment_path(args["number"]))
    pool = np.load(root / pool_path(args["number"]), mmap_mode="r", allow_pickle=False)
    evals = _EvalPictures(root, args["evalsets"])
    readable = np.flatnonzero(pool["status"] == 0)
    structured = readable[pool["flat"][readable] == 0]
    found = [(row, p, "content", 0) for row, p, _ in _exact(evals, pool, readable)]
    found += [(row, p, "perceptual", d) for row, p, d in _near(evals, pool, structured, args["max_distance"])]
    found.sort(key=lambda hit: (hit[0], hit[2], hit[1]))
    rows = np.array([hit[0] for hit in found], dtype=np.int64)
    begin = np.asarray(segment.shard_sample_begin).astype(np.int64)
    shard = np.searchsorted(begin, rows, side="right") - 1
    valid = usable_uids(segment)[rows]
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
    with atomic_path(root / part_path(TABLE, args["number"])) as temporary:
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
    from dcfast.uids import load_subset, merge_runs

    root = Path(out)
    runs = [root / _uid_run(n) for n in range(args["segments"])]
    merge_runs(runs, root / "contaminated.npy", unique=True, memory_bytes=MERGE_BYTES)
    return {"uids": len(load_subset(root / "contaminated.npy"))}


def steps(run: Run) -> Steps:
    """Hits by segment, then the merged uid list and evidence table. Without evaluation sets there is nothing to do."""
    if run.evalset_dir is None:
        return {"available": False, "uids": 0, "samples": 0, "content": 0, "flat": 0}
    segments = run.pool.segments()
    names = [name for name, _ in evalset_tars(run.evalset_dir)]
    evals = tuple(eval_path(n) for n in range(len(names)))
    stats = yield [
        Piece(
            "decontaminate/match",
            f"{number:05d}",
            "dcfast.stages.decontaminate:match_segment",
            {"number": number, "evalsets": names, "max_distance": run.settings.max_distance},
            inputs=(segment_path(number), pool_path(number), *evals),
            outputs=(part_path(TABLE, number), _uid_run(number)),
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
    yield [combine_parts("decontaminate/merge", TABLE, len(segments), sum(s["rows"] for s in stats))]
    return {
        "available": True,
        "uids": merged[0]["uids"],
        "samples": sum(s["samples"] for s in stats),
        "content": sum(s["content"] for s in stats),
        "flat": sum(s["flat"] for s in stats),
        "evidence_rows": sum(s["rows"] for s in stats),
        "max_distance": run.settings.max_distance,
    }
