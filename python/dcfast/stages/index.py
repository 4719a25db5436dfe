"""Stage ``index``: one segment file for a run of shards, then the pool index uid -> every row that has it.

Writes ``index/segment-NNNNN.dcx``, ``index/pool.npy`` (records of uid and row id, sorted) and
``index/index.json``. Memory: the columns of one segment in each worker; the merge holds a fixed buffer.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from dcfast.engine.piece import piece
from dcfast.errors import CorruptDataError, PoolError
from dcfast.index.build import write_segment
from dcfast.index.metadata import UID_SOURCES, open_metadata, parse_uids, shown_uid
from dcfast.index.pool_index import IndexLayout
from dcfast.index.rows import loss_notes, sample_records, shard_damage, valid_uid_mask
from dcfast.index.segments import IMAGE_EXTS, SampleFlag, Segment, shard_place
from dcfast.rundir.layout import MERGE_BYTES, segment_path
from dcfast.rundir.run_dir import Run
from dcfast.rundir.summaries import IndexSummary
from dcfast.stages.runner import Do
from dcfast.storage.atomic import write_json
from dcfast.storage.http import PATIENT
from dcfast.storage.listing import first_notes, printable
from dcfast.storage.records import Count, Record, plain, replaced
from dcfast.uids.sets import merge_runs, open_records, record_sort, save_records

_NAMED_EXTS = 12
MAX_NOTED = 20
"""Notes that a piece hands on; all are in its segment."""


def _run_path(number: int) -> str:
    return f"state/index/runs/{number:05d}.npy"


class SegmentCounts(Record):
    """What a segment holds: ``flags`` by name, ``exts`` of its members, some of its ``noted`` notes."""

    shards: Count
    samples: Count
    members: Count
    bytes: Count
    with_uid: Count
    damaged_shards: Count
    strays: Count
    notes: list[str] = []
    noted: Count = 0
    flags: dict[str, Count] = {}
    exts: list[str] = []


class IndexRows(Record):
    rows: Count


@piece(version=4, native=True)
def build_segment(
    out: Path,
    number: int,
    first_shard: int,
    shards: Sequence[str],
    shard_dir: str,
    strict: bool,
    uid_from: str = "json",
) -> SegmentCounts:
    """Piece: indexes a run of shards and writes the sorted run of its uids.

    Versions: 2: archives joined by cat are read on; losses stand in the segment. 3: more of them. 4: more extensions
    of images.
    """
    path = out / segment_path(number)
    sources = [(shard_place(shard_dir, name), name) for name in shards]
    stats = write_segment(sources, path, uid_from=uid_from, remote=PATIENT)
    segment = Segment.open(path)
    damage = shard_damage(segment)
    if strict and damage:
        shard, offset, message = damage[0]
        name = segment.shard_names[shard]
        raise CorruptDataError(f"shard {name}, offset {offset}: {message} (--strict)", path=name, offset=offset)
    records = sample_records(segment, first_shard, np.flatnonzero(valid_uid_mask(segment)))
    save_records(out / _run_path(number), record_sort(records, threads=1))
    notes = loss_notes(segment)
    return SegmentCounts(
        shards=len(shards),
        samples=int(segment.num_samples),
        members=int(segment.num_members),
        bytes=int(np.asarray(segment.shard_sizes).sum()),
        with_uid=len(records),
        damaged_shards=len({d[0] for d in damage}),
        strays=stats.num_strays,
        notes=notes[:MAX_NOTED],
        noted=len(notes),
        flags={flag: n for flag, n in zip(SampleFlag.__members__, stats.flag_counts, strict=False) if n},
        exts=sorted({printable(ext) for ext in segment.exts_lower})[:_NAMED_EXTS],
    )


@piece()
def merge_pool_index(out: Path, segments: int, layout: IndexLayout) -> IndexRows:
    """Piece: merges the runs of all segments into ``index/pool.npy`` and counts repeated uids."""
    pool = out / "index/pool.npy"
    merge_runs([out / _run_path(n) for n in range(segments)], pool, memory_bytes=MERGE_BYTES)
    write_json(out / "index/index.json", plain(layout))
    return IndexRows(len(open_records(pool)))


def steps(run: Run, do: Do) -> IndexSummary:
    """Segments, then the pool index."""
    pool, rule = run.pool, run.settings.uid_from
    groups = pool.segments()
    stats = do(
        build_segment.piece(
            "index/segments",
            f"{number:05d}",
            inputs=[pool.shard_input(name) for name in names],
            outputs=[segment_path(number), _run_path(number)],
            weight=pool.bytes_of(names),
        )(
            number=number,
            first_shard=first,
            shards=names,
            shard_dir=str(pool.shard_dir),
            strict=run.settings.strict,
            uid_from=rule,
        )
        for number, (first, names) in enumerate(groups)
    )
    places = [(first, len(names)) for first, names in groups]
    layout = IndexLayout(len(pool.shards), places, None if rule == "json" else rule)
    merge = merge_pool_index.piece(
        "index/pool",
        "pool",
        inputs=[_run_path(n) for n in range(len(groups))],
        outputs=["index/pool.npy", "index/index.json"],
    )
    merged = do.one(merge(segments=len(groups), layout=layout))
    total = IndexSummary(
        samples=sum(s.samples for s in stats),
        shards=sum(s.shards for s in stats),
        members=sum(s.members for s in stats),
        bytes=sum(s.bytes for s in stats),
        with_uid=sum(s.with_uid for s in stats),
        damaged_shards=sum(s.damaged_shards for s in stats),
        strays=sum(s.strays for s in stats),
        segments=len(groups),
        rows_with_uid=merged.rows,
    )
    notes = first_notes([note for s in stats for note in s.notes], sum(s.noted for s in stats))
    notes = [*pool.notes, *notes, *_image_notes(total, stats), *_uid_notes(run, total, stats, notes)]
    refuse_metadata_without_uids(run)
    return replaced(total, notes=notes)


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


def _flags(stats: Sequence[SegmentCounts]) -> Counter[str]:
    return sum((Counter(s.flags) for s in stats), Counter[str]())


def _exts(stats: Sequence[SegmentCounts]) -> list[str]:
    """Extensions of the members, in lower case: some of them, where there are many."""
    return sorted({ext for s in stats for ext in s.exts})[:_NAMED_EXTS]


def _image_notes(total: IndexSummary, stats: Sequence[SegmentCounts]) -> list[str]:
    """A note where a tenth of the samples or more have no picture: it may have an extension that is not read."""
    lacking = _flags(stats)["NO_IMAGE"]
    if lacking == 0 or lacking * 10 < total.samples:
        return []
    return [
        f"{lacking:,} of {total.samples:,} samples have no picture: they are quarantined. Members end in "
        f"{', '.join(_exts(stats))}; read are {', '.join(IMAGE_EXTS)}"
    ]


def _uid_notes(run: Run, total: IndexSummary, stats: Sequence[SegmentCounts], notes: list[str]) -> list[str]:
    """A note where a tenth of the samples or more lack uids (the fates count the others); PoolError where all of them
    do: no filter could keep one.

    Args:
        notes: on what may hide samples; the first of them may be why.
    """
    lacking = total.samples - total.with_uid
    if lacking * 10 < total.samples or lacking == 0:
        return []
    flags = _flags(stats)
    rule = run.settings.uid_from
    field = "uid" if rule == "json" else rule
    reasons = (("NO_JSON", "no json"), ("NO_UID", f"json without {field}"), ("BAD_JSON", "json that cannot be read"))
    causes = [f"{flags[flag]:,} have {words}" for flag, words in reasons if flags.get(flag)]
    if flags.get("BAD_UID"):
        causes.append(f"{flags['BAD_UID']:,} have a {field} that is none")
    dotted = [ext for ext in _exts(stats) if ext.endswith(".json")]
    if flags.get("NO_JSON") and dotted:
        causes.append(f"members KEY.{dotted[0]} are not read: it must be KEY.json")
    why = f" ({', '.join(causes)})" if causes else ""
    if total.with_uid:
        return [f"{lacking:,} of {total.samples:,} samples have no uid{why}: they are quarantined"]
    urls = flags.get("NO_JSON", 0) < total.samples  # they would be in the json
    others = [name for name in UID_SOURCES if name not in (rule, "json") and (urls or name != "url")]
    raise PoolError(
        f"pool {run.pool.root}: none of its {total.samples:,} samples has a uid{why}, so no metadata row has a "
        f"sample and no filter could keep one. Uids can be made of what is there: --uid-from {' or '.join(others)} "
        "(docs/formats.md), in another --out" + "".join(f". Note: {note}" for note in notes[:1])
    )
