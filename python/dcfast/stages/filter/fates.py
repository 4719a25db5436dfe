"""The fate of every sample: kept, dropped, quarantined, missing or unlisted, each with a reason.

A sample of the shards is
- quarantined where it cannot be trained on (no picture, caption or uid; its picture does not decode; cut off),
- else unlisted where no metadata row has its uid,
- else kept or dropped as the filter said of that row (kept if it said so of any row with the uid).
A metadata row whose uid no shard has is missing; one whose uid is malformed is quarantined. ``subset.npy`` holds the
uids of the kept samples, and nothing else (``dcfast.stages.filter.subsets``); ``fates.parquet`` has all samples,
``quarantine.parquet`` the quarantined.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from dcfast.dedup.records import ABSENT
from dcfast.engine.piece import Piece
from dcfast.features.files import status_path
from dcfast.features.pairs import BROKEN, TOO_LARGE
from dcfast.features.pairs import STATUS as FEATURE_STATUS
from dcfast.images.signatures import STATUS
from dcfast.index.build import SampleFlag, Segment
from dcfast.index.rows import row_ids, shard_damage, valid_uid_mask
from dcfast.rundir.layout import (
    CODE_SHIFT,
    DROPPED,
    FATES,
    KEPT,
    MERGE_BYTES,
    METADATA_SUBSET,
    MISSING,
    OUTCOMES,
    QUARANTINED,
    UNLISTED,
    excluded_path,
    fate_schema,
    kept_run,
    malformed_path,
    outcome_run,
    segment_path,
    signature_path,
)
from dcfast.rundir.run_dir import Run
from dcfast.rundir.tables import combine_parts, part_path
from dcfast.stages.filter.subsets import write_repeated
from dcfast.stages.signatures import needed
from dcfast.storage.atomic import atomic_path, write_bytes
from dcfast.storage.npz import load_array, save_array
from dcfast.storage.parquet import read_table
from dcfast.uids.files import count_repeats
from dcfast.uids.sets import (
    RECORD_DTYPE,
    load_subset,
    merge_runs,
    open_records,
    save_subset,
    uid_format,
    uid_lookup,
    uid_unique,
)

__all__ = ["assign_outcomes", "malformed_notes", "of_no_samples", "repeated_notes", "unmatched_notes"]

SEGMENTS_AT_ONCE = 8
"""Segments whose samples a piece decides about, one after the other: the disk is waited for once."""
MAX_NOTED = 1_000
"""Damaged shards that a summary names; the quarantine table has all of them."""

STRUCTURE = (
    # index flag -> reason, the first that applies is given
    ("CUT", "the shard is damaged inside this sample"),
    ("NO_IMAGE", "no picture"),
    ("NO_JSON", "no json, so no uid"),
    ("BAD_JSON", "json cannot be read"),
    ("NO_UID", "json without uid"),
    ("BAD_UID", "uid is not 32 hex digits"),
    ("NO_CAPTION", "no caption"),
)
URL_REASONS = {"NO_JSON": "no json, so no url", "NO_UID": "json without url", "BAD_UID": "url is no text"}
"""The same where uids are hashes of urls."""


def _write(root: Path, number: int, group: str, columns: dict[str, Any], damage: list[tuple[str, str]]) -> int:
    """Writes the parts of both tables; returns the number of rows in quarantine, damaged shards included."""
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    table = pa.table(columns, schema=fate_schema())
    with atomic_path(root / part_path("fates", number, group)) as temporary:
        pq.write_table(table, temporary)
    place = root / part_path("quarantine", number, group)
    is_quarantined = pc.equal(table["fate"], FATES[QUARANTINED])
    if not damage and not pc.any(is_quarantined, min_count=0).as_py():  # nearly always
        write_bytes(place, _no_quarantine())
        return 0
    quarantine = table.filter(is_quarantined).drop_columns(["fate"])
    if damage:
        # a damaged shard stands in quarantine as a row without key: what it hides shows up as missing metadata rows
        shards = [{"shard": name, "reason": reason} for name, reason in damage]
        quarantine = pa.concat_tables([quarantine, pa.Table.from_pylist(shards, schema=quarantine.schema)])
    with atomic_path(place) as temporary:
        pq.write_table(quarantine, temporary)
    return int(quarantine.num_rows)


@functools.lru_cache(maxsize=1)
def _no_quarantine() -> bytes:
    """A part of the quarantine without rows, as it is written."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = fate_schema()
    out = pa.BufferOutputStream()
    pq.write_table(schema.remove(schema.get_field_index("fate")).empty_table(), out)
    return bytes(out.getvalue())


def _quarantine_reasons(
    segment: Any, signatures: Any | None, features: Any | None, uid_from: str
) -> tuple[Any, list[str]]:
    """(n,) index into the returned reasons, 0 where nothing is wrong with the sample."""
    reasons = [""]
    found = np.zeros(segment.num_samples, dtype=np.int64)
    flags = np.asarray(segment.flags)
    for name, reason in STRUCTURE:
        reasons.append(URL_REASONS.get(name, reason) if uid_from == "url" else reason)
        found[(found == 0) & ((flags & int(SampleFlag[name])) != 0)] = len(reasons) - 1
    if signatures is not None:
        status = signatures["status"]
        for code, name in enumerate(STATUS):
            if code == 0:
                continue
            reasons.append(f"picture: {name}")
            found[(found == 0) & (status == code)] = len(reasons) - 1
        reasons.append("no picture")
        found[(found == 0) & (status == ABSENT)] = len(reasons) - 1
    if features is not None:
        for code in (BROKEN, TOO_LARGE):  # what the decoder of training refuses, though the core may have read it
            reasons.append(f"picture: {FEATURE_STATUS[code]}")
            found[(found == 0) & (features == code)] = len(reasons) - 1
    return found, reasons


def assign_sample_outcomes(out: str, args: dict[str, Any]) -> dict[str, Any]:
    """Piece: the fates of the samples of some segments, and of each segment the sorted run of the kept uids."""
    root = Path(out)
    outcomes = open_records(root / OUTCOMES)
    of_each = [_assign_segment(root, number, first, outcomes, args) for number, first in args["segments"]]
    return {
        **{name: _summed(s[name] for s in of_each) for name in ("fates", "reasons")},
        **{name: sum(s[name] for s in of_each) for name in ("rows", "quarantined", "damaged")},
        "damage": [damage for s in of_each for damage in s["damage"]][:MAX_NOTED],
    }


def _summed(counts: Iterable[dict[str, int]]) -> dict[str, int]:
    total: Counter[str] = Counter()
    for each in counts:
        total.update(each)
    return dict(total)


def _assign_segment(root: Path, number: int, first_shard: int, outcomes: Any, args: dict[str, Any]) -> dict[str, Any]:
    import pyarrow as pa

    segment = Segment.open(root / segment_path(number))
    signatures = load_array(root / signature_path(number), mmap=True) if args["decoded"] else None
    features = load_array(root / status_path(number)) if args["embedded"] else None
    reasons = args["reasons"]

    wrong, wrong_reasons = _quarantine_reasons(segment, signatures, features, args.get("uid_from", "json"))
    uids = np.ascontiguousarray(segment.uid)
    has_uid = valid_uid_mask(segment)
    first, count = (np.asarray(a) for a in uid_lookup(outcomes, uids, threads=1))
    listed = (count > 0) & has_uid
    code = np.full(segment.num_samples, -1, dtype=np.int64)
    code[listed] = (outcomes["f2"][first[listed]] >> np.uint64(CODE_SHIFT)).astype(np.int64)

    fate = np.full(segment.num_samples, UNLISTED, dtype=np.int64)
    fate[listed] = np.where(code[listed] == 0, KEPT, DROPPED)
    fate[wrong > 0] = QUARANTINED
    # one list of reasons for a dictionary look-up: kept, unlisted, the filter's, the quarantine's
    words = [None, "no metadata row has this uid", *reasons[1:], *wrong_reasons[1:]]
    word = np.zeros(segment.num_samples, dtype=np.int64)
    word[fate == UNLISTED] = 1
    word[fate == DROPPED] = code[fate == DROPPED] + 1
    word[fate == QUARANTINED] = wrong[fate == QUARANTINED] + len(reasons)

    begin = np.asarray(segment.shard_sample_begin).astype(np.int64)
    counts = np.diff(begin)
    shard = np.repeat(np.arange(len(counts)), counts)
    damage = [
        (segment.shard_names[s], f"shard damaged at byte {offset}: {message}")
        for s, offset, message in shard_damage(segment)
    ]
    names = pa.array(segment.shard_names, pa.string())
    quarantined = _write(
        root,
        number,
        "a",
        {
            "shard": names.take(pa.array(shard)),
            "row": pa.array((np.arange(len(shard)) - begin[shard]).astype(np.uint32)),
            "key": segment.keys().cast(pa.string()),
            "uid": segment.uid_hex().cast(pa.string()),
            "fate": pa.array(FATES).take(pa.array(fate)),
            "reason": pa.array(words, pa.string()).take(pa.array(word)),
        },
        damage,
    )
    save_subset(root / kept_run(number), uid_unique(uids[fate == KEPT], threads=1))
    excluded = np.flatnonzero((fate == QUARANTINED) & (code == 0))
    records = np.empty(len(excluded), dtype=RECORD_DTYPE)
    records["f0"], records["f1"] = uids["f0"][excluded], uids["f1"][excluded]
    records["f2"] = row_ids(segment, first_shard, excluded)
    save_array(root / excluded_path(number), records)
    fate_counts, word_counts = np.bincount(fate, minlength=5), np.bincount(word, minlength=len(words))
    return {
        "fates": {name: int(n) for name, n in zip(FATES, fate_counts, strict=True)},
        "reasons": {w: int(n) for w, n in zip(words, word_counts, strict=True) if w is not None and n},
        "rows": len(fate),
        "quarantined": quarantined,
        "damage": damage,
        "damaged": len(damage),
    }


def assign_metadata_outcomes(out: str, args: dict[str, Any]) -> dict[str, Any]:
    """Piece: metadata rows without a sample (missing) or without a usable uid (quarantined)."""
    import pyarrow as pa

    root, number = Path(out), args["number"]
    pool = open_records(root / "index/pool.npy")
    listed = open_records(root / args["outcomes"])
    uids = np.empty(len(listed), dtype="u8,u8")
    uids["f0"], uids["f1"] = listed["f0"], listed["f1"]
    _, count = uid_lookup(pool, uids, threads=1)
    absent = np.flatnonzero(np.asarray(count) == 0)
    row = listed["f2"][absent] & np.uint64((1 << CODE_SHIFT) - 1)
    absent = absent[np.argsort(row, kind="stable")]
    malformed = read_table(root / args["malformed"]).to_pylist()
    unnamed = args["malformed_count"] - len(malformed)
    rule = args.get("uid_from")  # then a uid is a hash, and there is none where there is nothing to hash
    wrong = f"has no {rule}" if rule else "has a uid that is not 32 hex digits"
    bad = [_malformed_row(m["file"], m["row"], m["uid"], rule or "json") for m in malformed]
    bad += [f"a metadata row {wrong} (the first 1,000 of the piece are named)"] * unnamed
    n, m = len(absent), len(bad)
    empty = pa.nulls(n + m, pa.string())
    quarantined = _write(
        root,
        number,
        "b",
        {
            "shard": empty,
            "row": pa.nulls(n + m, pa.uint32()),
            "key": empty,
            "uid": pa.array(uid_format(uids[absent], as_list=True) + [None] * m, pa.string()),
            "fate": pa.array([FATES[MISSING]] * n + [FATES[QUARANTINED]] * m, pa.string()),
            "reason": pa.array(["no sample of the shards has this uid"] * n + bad, pa.string()),
        },
        [],
    )
    return {"rows": n + m, "missing": n, "malformed": m, "quarantined": quarantined}


def merge_subset(out: str, args: dict[str, Any]) -> dict[str, Any]:
    """Piece: ``subset.npy``, the sorted uids of the kept samples."""
    root = Path(out)
    runs = [root / kept_run(n) for n in range(args["segments"])]
    final = root / "subset.npy"
    if args.get("repeats"):
        kept = root / "state/filter/kept.npy"
        merge_runs(runs, kept, unique=True, memory_bytes=MERGE_BYTES)
        write_repeated(kept, root / METADATA_SUBSET, final)
        kept.unlink()
    else:
        merge_runs(runs, final, unique=True, memory_bytes=MERGE_BYTES)
    return {
        "uids": len(load_subset(final)),
        "repeated_in_pool": count_repeats(open_records(root / "index/pool.npy")),
        "repeated_in_metadata": count_repeats(open_records(root / OUTCOMES)),
    }


def _malformed_row(file: str, row: int, uid: str | None, uid_from: str) -> str:
    if uid_from != "json":
        return f"metadata {file}, row {row}, has no {uid_from}"
    return f"uid {uid!r} of metadata {file}, row {row}, is not 32 hex digits"


def malformed_notes(
    first: list[Any] | None, rows: int, malformed: int, uid_from: str, *, metadata_only: bool = False
) -> list[str]:
    """That metadata rows have no uid, so that their samples have no row.

    Args:
        first: file, row and uid of the first of the ``malformed`` among the ``rows``, where it is known.
        metadata_only: there are no samples yet, and no tables of them.
    """
    if not malformed or malformed == rows:  # where it is all, unmatched_notes says so
        return []
    named = f" (the first: {_malformed_row(first[0], first[1], first[2], uid_from)})" if first else ""
    lost = f"{malformed:,} of {rows:,} metadata rows have no uid that can be read{named}: they are"
    if metadata_only:
        return [f"{lost} in no subset, whatever the filter says of them"]
    return [f"{lost} quarantined, and their samples unlisted (quarantine.parquet, fates.parquet)"]


def unmatched_notes(fates: dict[str, int], rows: int, malformed: int, uid_from: str) -> list[str]:
    """Why nothing is kept, where no uid of the metadata is a sample's: the counts and the commonest cause.

    Args:
        fates: of all samples and metadata rows, as a summary has them.
        rows: of the metadata; ``malformed`` of them have no uid that is one.
    """
    missing = fates[FATES[MISSING]]
    samples = sum(fates.values()) - missing - malformed
    if not rows or not samples or missing < rows - malformed:
        return []
    what = "uid of 32 hex digits" if uid_from == "json" else f"{uid_from} to make a uid of"
    if malformed == rows:
        why = f"no row has a {what} (quarantine.parquet)"
    elif uid_from == "key":
        why = (
            "--uid-from key makes them of SHARD.tar/KEY, as in 00000.tar/000000000: metadata files must have the names "
            "of their shards (00000.parquet of 00000.tar), and their column key the names of the samples in them"
        )
    else:
        field = "uid" if uid_from == "json" else uid_from
        why = f"the metadata may be another pool's; compare its column {field} with the samples' json"
    some = f" ({malformed:,} rows have no {what})" if 0 < malformed < rows else ""
    return [f"none of the {rows:,} metadata rows{some} is of one of the {samples:,} samples, so none is kept: {why}"]


def repeated_notes(counts: dict[str, int], uid_from: str) -> list[str]:
    """That rows of one url cannot be told apart, where uids are made of urls; those of json are meant to be unique.

    Args:
        counts: ``repeated_in_pool`` and ``repeated_in_metadata``.
    """
    rows, samples = counts["repeated_in_metadata"], counts["repeated_in_pool"]
    if uid_from != "url" or not (rows or samples):
        return []
    return [
        f"{rows:,} metadata rows and {samples:,} samples repeat a url that stood before, and so share its uid: all "
        "samples of a url are kept where any of its rows passes the filter (--uid-from key tells them apart)"
    ]


def of_no_samples() -> dict[str, Any]:
    """The same part of the summary as of ``assign_outcomes``, where the pool has no shards yet."""
    return {"fates": {}, "reasons": {}, "damage": [], "damaged_shards": 0, "subset": None}


def _segment_outputs(number: int) -> tuple[str, ...]:
    return (part_path("fates", number), part_path("quarantine", number), kept_run(number), excluded_path(number))


def assign_outcomes(run: Run, reasons: list[str], malformed: list[int]) -> Any:
    """The steps that assign the fates; returns their part of the filter stage's summary."""
    segments, groups = [(number, first) for number, (first, _) in enumerate(run.pool.segments())], len(malformed)
    decoded, embedded, repeats = needed(run), run.asks_for("features"), run.settings.keep_repeats
    of_samples = yield [
        Piece(
            "filter/fates",
            f"{some[0][0]:05d}",
            "dcfast.stages.filter.fates:assign_sample_outcomes",
            {"segments": some, "decoded": decoded, "embedded": embedded, "reasons": reasons, **run.uid_rule},
            inputs=(
                OUTCOMES,
                *(segment_path(n) for n, _ in some),
                *(signature_path(n) for n, _ in some if decoded),
                *(status_path(n) for n, _ in some if embedded),
            ),
            outputs=tuple(path for n, _ in some for path in _segment_outputs(n)),
        )
        for some in (segments[i : i + SEGMENTS_AT_ONCE] for i in range(0, len(segments), SEGMENTS_AT_ONCE))
    ]
    of_metadata = yield [
        Piece(
            "filter/missing",
            f"{number:05d}",
            "dcfast.stages.filter.fates:assign_metadata_outcomes",
            {
                "number": number,
                "outcomes": outcome_run(number),
                "malformed": malformed_path(number),
                "malformed_count": malformed[number],
                **run.uid_rule,
            },
            inputs=("index/pool.npy", outcome_run(number), malformed_path(number)),
            outputs=(part_path("fates", number, "b"), part_path("quarantine", number, "b")),
        )
        for number in range(groups)
    ]
    merged = yield [
        Piece(
            "filter/subset",
            "subset",
            "dcfast.stages.filter.fates:merge_subset",
            {"segments": len(segments), **({"repeats": True} if repeats else {})},
            inputs=(
                "index/pool.npy",
                OUTCOMES,
                *((METADATA_SUBSET,) if repeats else ()),
                *(kept_run(n) for n, _ in segments),
            ),
            outputs=("subset.npy",),
        )
    ]
    rows = sum(s["rows"] for s in of_samples) + sum(s["rows"] for s in of_metadata)
    quarantined = sum(s["quarantined"] for s in [*of_samples, *of_metadata])
    for table, count in (("fates", rows), ("quarantine", quarantined)):
        extra = tuple(part_path(table, n, "b") for n in range(groups))
        yield [combine_parts("filter/tables", table, len(segments), count, extra)]
    fates = _summed(s["fates"] for s in of_samples)
    fates["missing"] += sum(s["missing"] for s in of_metadata)
    fates["quarantined"] += sum(s["malformed"] for s in of_metadata)
    return {
        "fates": fates,
        "reasons": dict(sorted(_summed(s["reasons"] for s in of_samples).items())),
        "damage": [list(d) for s in of_samples for d in s["damage"]][:MAX_NOTED],
        "damaged_shards": sum(s["damaged"] for s in of_samples),
        "subset": merged[0]["uids"],
        "repeated_in_pool": merged[0]["repeated_in_pool"],
        "repeated_in_metadata": merged[0]["repeated_in_metadata"],
    }
