"""Stage ``index``: one segment file for a run of shards, then the pool index uid -> every row that has it.

Writes ``index/segment-NNNNN.dcx``, ``index/pool.npy`` (records of uid and row id, sorted) and
``index/index.json``. Memory: the columns of one segment in each worker; the merge holds a fixed buffer.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from dcfast.engine.piece import Piece
from dcfast.errors import CorruptDataError, PoolError
from dcfast.index.build import Segment, write_segment
from dcfast.index.metadata import UID_SOURCES, open_metadata, parse_uids, shown_uid
from dcfast.index.rows import loss_notes, row_ids, shard_damage, valid_uid_mask
from dcfast.index.segments import IMAGE_EXTS, SampleFlag
from dcfast.rundir.layout import MERGE_BYTES, segment_path
from dcfast.rundir.run_dir import Run
from dcfast.stages.runner import Steps
from dcfast.storage.atomic import write_json
from dcfast.storage.listing import first_notes, printable
from dcfast.uids.sets import RECORD_DTYPE, merge_runs, open_records, record_sort, save_records

__all__ = ["refuse_metadata_without_uids", "steps"]

COUNTED = ("shards", "samples", "members", "bytes", "with_uid", "damaged_shards", "strays")
"""What the pieces count, and the summary sums up."""
VERSION = 4
"""Of a segment's bytes. 2: archives joined by cat are read on; losses stand in the segment. 3: more of them. 4: more
extensions of pictures."""
_NAMED_EXTS = 12
MAX_NOTED = 20
"""Notes that a piece hands on; all are in its segment."""


def _run_path(number: int) -> str:
    return f"state/index/runs/{number:05d}.npy"


def build_segment(out: str, args: dict[str, Any]) -> dict[str, Any]:
    """Piece: indexes a run of shards and writes the sorted run of its uids."""
    root = Path(out)
    number, first_shard = args["number"], args["first_shard"]
    shards = [(str(Path(args["shard_dir"]) / name), name) for name in args["shards"]]
    stats = write_segment(shards, root / segment_path(number), uid_from=args.get("uid_from", "json"))
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
    notes = loss_notes(segment)
    return {
        "shards": len(shards),
        "samples": int(segment.num_samples),
        "members": int(segment.num_members),
        "bytes": int(sizes.sum()),
        "with_uid": len(records),
        "damaged_shards": len({d[0] for d in damage}),
        "strays": stats.num_strays,
        "notes": notes[:MAX_NOTED],
        "noted": len(notes),
        "flags": {flag: n for flag, n in zip(SampleFlag.__members__, stats.flag_counts, strict=False) if n},
        "exts": sorted({printable(ext) for ext in segment.exts_lower})[:_NAMED_EXTS],
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
                **run.uid_rule,
            },
            inputs=tuple(pool.shard_path(name) for name in names),
            outputs=(segment_path(number), _run_path(number)),
            version=VERSION,
            weight=sum(Path(pool.shard_path(name)).stat().st_size for name in names),
            native=True,
        )
        for number, (first, names) in enumerate(groups)
    ]
    stats = yield pieces
    layout = {"shards": len(pool.shards), "segments": [[first, len(names)] for first, names in groups]}
    layout |= run.uid_rule  # a refresh goes by it
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
    total = {key: sum(s[key] for s in stats) for key in COUNTED}
    # pieces that an earlier release wrote have no notes
    notes = first_notes([note for s in stats for note in s.get("notes", ())], sum(s.get("noted", 0) for s in stats))
    notes = [*pool.notes, *notes, *_image_notes(total, stats), *_uid_notes(run, total, stats, notes)]
    refuse_metadata_without_uids(run)
    return {**total, "segments": len(groups), "rows_with_uid": merged[0]["rows"], "notes": notes}


def refuse_metadata_without_uids(run: Run) -> None:
    """PoolError where no row of the metadata has a uid: no sample has a row then, and no filter could keep one.

    Cost: the uids of 65,536 rows, where one of them is right; else those of all.
    """
    rows, first = 0, ""
    for path in run.pool.metadata if run.settings.uid_from == "json" else ():
        with open_metadata(path) as file:
            for batch in file.batches(["uid"]):
                if parse_uids(batch)[1].any():
                    return
                if not rows and len(batch):
                    first = f"{shown_uid(batch, 0)!r:.100} in {path}"
                rows += len(batch)
    if rows:
        raise PoolError(
            f"pool {run.pool.root}: none of the {rows:,} metadata rows has a uid of 32 hex digits, so that no filter "
            f"could keep a sample; the first: {first}. Write uids without dashes, as those of the samples' json, or "
            "make them of what is there: --uid-from url or key (docs/formats.md), in another --out"
        )


def _flags(stats: list[dict[str, Any]]) -> dict[str, int]:
    flags: dict[str, int] = {}
    for piece in stats:
        for name, count in piece.get("flags", {}).items():
            flags[name] = flags.get(name, 0) + count
    return flags


def _exts(stats: list[dict[str, Any]]) -> list[str]:
    """Extensions of the members, in lower case: some of them, where there are many."""
    return sorted({ext for piece in stats for ext in piece.get("exts", ())})[:_NAMED_EXTS]


def _image_notes(total: dict[str, int], stats: list[dict[str, Any]]) -> list[str]:
    """A note where a tenth of the samples or more have no picture: it may have an extension that is not read."""
    lacking = _flags(stats).get("NO_IMAGE", 0)
    if lacking == 0 or lacking * 10 < total["samples"]:
        return []
    return [
        f"{lacking:,} of {total['samples']:,} samples have no picture: they are quarantined. Members end in "
        f"{', '.join(_exts(stats))}; read are {', '.join(IMAGE_EXTS)}"
    ]


def _uid_notes(run: Run, total: dict[str, int], stats: list[dict[str, Any]], notes: list[str]) -> list[str]:
    """A note where a tenth of the samples or more lack uids (the fates count the others); PoolError where all of them
    do: no filter could keep one.

    Args:
        notes: on what may hide samples; the first of them may be why.
    """
    lacking = total["samples"] - total["with_uid"]
    if lacking * 10 < total["samples"] or lacking == 0:
        return []
    flags = _flags(stats)
    rule = run.settings.uid_from
    field = "uid" if rule == "json" else rule
    reasons = (("NO_JSON", "no json"), ("NO_UID", f"json without {field}"), ("BAD_JSON", "json that cannot be read"))
    found = [f"{flags[flag]:,} have {words}" for flag, words in reasons if flags.get(flag)]
    if flags.get("BAD_UID"):
        found.append(f"{flags['BAD_UID']:,} have a {field} that is none")
    dotted = [ext for ext in _exts(stats) if ext.endswith(".json")]
    if flags.get("NO_JSON") and dotted:
        found.append(f"members KEY.{dotted[0]} are not read: it must be KEY.json")
    why = f" ({', '.join(found)})" if found else ""
    if total["with_uid"]:
        return [f"{lacking:,} of {total['samples']:,} samples have no uid{why}: they are quarantined"]
    urls = flags.get("NO_JSON", 0) < total["samples"]  # they would be in the json
    others = [name for name in UID_SOURCES if name not in (rule, "json") and (urls or name != "url")]
    raise PoolError(
        f"pool {run.pool.root}: none of its {total['samples']:,} samples has a uid{why}, so no metadata row has a "
        f"sample and no filter could keep one. Uids can be made of what is there: --uid-from {' or '.join(others)} "
        "(docs/formats.md), in another --out" + "".join(f". Note: {note}" for note in notes[:1])
    )
