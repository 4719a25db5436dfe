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
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

import numpy as np
import numpy.typing as npt

from dcfast.dedup.records import ABSENT
from dcfast.engine.piece import Nothing, Piece, piece
from dcfast.features.files import status_path
from dcfast.features.pairs import BROKEN, TOO_LARGE
from dcfast.features.pairs import STATUS as FEATURE_STATUS
from dcfast.filters.rules import Mask
from dcfast.images.signatures import STATUS
from dcfast.index.rows import row_ids, shard_damage, valid_uid_mask
from dcfast.index.segments import SampleFlag, Segment
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
from dcfast.rundir.summaries import FilterSummary
from dcfast.rundir.tables import combine_parts, part_path, table_writer
from dcfast.stages.filter.notes import malformed_row
from dcfast.stages.filter.sampled import copies_of
from dcfast.stages.filter.subsets import write_repeated
from dcfast.stages.runner import Do
from dcfast.stages.signatures import needed
from dcfast.storage.atomic import write_bytes
from dcfast.storage.npz import load_array, save_array
from dcfast.storage.parquet import read_table, write_table
from dcfast.storage.records import Count, Record, replaced
from dcfast.uids.files import count_repeats, uid_records
from dcfast.uids.sets import (
    load_subset,
    merge_runs,
    open_records,
    save_subset,
    uid_format,
    uid_lookup,
    uid_unique,
)

if TYPE_CHECKING:
    import pyarrow as pa

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


def _write(
    root: Path,
    number: int,
    group: str,
    columns: Mapping[str, pa.Array | pa.ChunkedArray],
    quarantined: Mask,
    damage: list[tuple[str, str]],
) -> int:
    """Writes the parts of both tables; returns the number of rows in quarantine, damaged shards included.

    Args:
        columns: those of ``fate_schema`` as Arrow arrays; of texts dictionaries or large strings too. And ``copies``,
            where they were drawn.
        quarantined: (n,) bool.
    """
    import pyarrow as pa

    table = pa.table(columns)
    with table_writer(root / part_path("fates", number, group), table.schema) as writer:
        writer.write_table(table)
    place = root / part_path("quarantine", number, group)
    if not damage and not quarantined.any():  # nearly always
        write_bytes(place, _no_quarantine())
        return 0
    schema = fate_schema()
    quarantine = table.filter(pa.array(quarantined)).select(schema.names).cast(schema).drop_columns(["fate"])
    if damage:
        # a damaged shard stands in quarantine as a row without key: what it hides shows up as missing metadata rows
        shards = [{"shard": name, "reason": reason} for name, reason in damage]
        quarantine = pa.concat_tables([quarantine, pa.Table.from_pylist(shards, schema=quarantine.schema)])
    write_table(quarantine, place)
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
    segment: Segment, signatures: npt.NDArray[np.void] | None, features: npt.NDArray[np.uint8] | None, uid_from: str
) -> tuple[npt.NDArray[np.int64], list[str]]:
    """(n,) index into the returned reasons, 0 where nothing is wrong with the sample."""
    reasons = [""]
    number = np.zeros(segment.num_samples, dtype=np.int64)
    flags = np.asarray(segment.flags)

    def give(reason: str, samples: Mask) -> None:
        reasons.append(reason)
        number[(number == 0) & samples] = len(reasons) - 1

    for name, reason in STRUCTURE:
        reason = URL_REASONS.get(name, reason) if uid_from == "url" else reason
        give(reason, (flags & int(SampleFlag[name])) != 0)
    if signatures is not None:
        status = signatures["status"]
        for code, name in enumerate(STATUS[1:], 1):
            give(f"picture: {name}", status == code)
        give("no picture", status == ABSENT)
    if features is not None:
        for code in (BROKEN, TOO_LARGE):  # what the decoder of training refuses, though the core may have read it
            give(f"picture: {FEATURE_STATUS[code]}", features == code)
    return number, reasons


class SampleOutcomes(Record):
    """Of the samples of some segments: fates and reasons with counts, rows of the tables, damaged shards, of which some
    are named with what is wrong."""

    fates: dict[str, Count]
    reasons: dict[str, Count]
    rows: Count
    quarantined: Count
    damage: list[tuple[str, str]]
    damaged: Count


class MetadataOutcomes(Record):
    """Of metadata rows without a sample, or without a uid."""

    rows: Count
    missing: Count
    malformed: Count
    quarantined: Count


class MergedSubset(Record):
    uids: Count
    repeated_in_pool: Count
    repeated_in_metadata: Count


@piece(native=True)
def assign_sample_outcomes(
    out: Path,
    number: int,
    segments: Sequence[tuple[int, int]],
    decoded: bool,
    embedded: bool,
    reasons: Sequence[str],
    uid_from: str = "json",
    copies: bool = False,
) -> SampleOutcomes:
    """Piece: the fates of the samples of some segments, and the sorted run of the uids they keep.

    Args:
        segments: (number, ordinal of the first shard).
        decoded, embedded: there are signatures, features of the samples.
        reasons: of the filter, by outcome code.
        copies: how often each sample is written goes into the table.
    """
    opened = [Segment.open(out / segment_path(n)) for n, _ in segments]
    uids = np.concatenate([np.ascontiguousarray(segment.uid) for segment in opened])
    wrong_parts, wrong_reasons = [], [""]
    for (n, _), segment in zip(segments, opened, strict=True):
        signatures = load_array(out / signature_path(n), mmap=True) if decoded else None
        features = load_array(out / status_path(n)) if embedded else None
        wrong_part, wrong_reasons = _quarantine_reasons(segment, signatures, features, uid_from)
        wrong_parts.append(wrong_part)
    wrong = np.concatenate(wrong_parts)

    outcomes = open_records(out / OUTCOMES)
    first, count = (np.asarray(a) for a in uid_lookup(outcomes, uids, threads=1))
    listed = (count > 0) & np.concatenate([valid_uid_mask(segment) for segment in opened])
    code = np.full(len(uids), -1, dtype=np.int64)
    code[listed] = (outcomes["f2"][first[listed]] >> np.uint64(CODE_SHIFT)).astype(np.int64)

    fate = np.full(len(uids), UNLISTED, dtype=np.int8)
    fate[listed] = np.where(code[listed] == 0, KEPT, DROPPED)
    fate[wrong > 0] = QUARANTINED
    # one list of reasons for a dictionary look-up: kept, unlisted, the filter's, the quarantine's
    texts = [None, "no metadata row has this uid", *reasons[1:], *wrong_reasons[1:]]
    text_code = np.zeros(len(uids), dtype=np.int32)
    text_code[fate == UNLISTED] = 1
    text_code[fate == DROPPED] = code[fate == DROPPED] + 1
    text_code[fate == QUARANTINED] = wrong[fate == QUARANTINED] + len(reasons)

    damage = [
        (segment.shard_names[s], f"shard damaged at byte {offset}: {message}")
        for segment in opened
        for s, offset, message in shard_damage(segment)
    ]
    columns = {**_names(opened), "fate": _dictionary(fate, FATES)}
    columns["reason"] = _dictionary(text_code - 1, texts[1:])
    if copies:
        columns["copies"] = copies_of(out, uids, fate == KEPT)
    quarantined = _write(out, number, "a", columns, fate == QUARANTINED, damage)
    save_subset(out / kept_run(number), uid_unique(uids[fate == KEPT], threads=1))
    numbered = [(first_shard, segment) for (_, first_shard), segment in zip(segments, opened, strict=True)]
    save_array(out / excluded_path(number), _records_of(numbered, uids, (fate == QUARANTINED) & (code == 0)))
    return SampleOutcomes(
        fates={name: int(n) for name, n in zip(FATES, np.bincount(fate, minlength=5), strict=True)},
        reasons=_count_reasons(texts, text_code),
        rows=len(fate),
        quarantined=quarantined,
        damage=damage[:MAX_NOTED],
        damaged=len(damage),
    )


def _count_reasons(texts: Sequence[str | None], codes: npt.NDArray[np.int32]) -> dict[str, int]:
    """How many samples have each reason; two codes may stand for one."""
    counts = Counter[str]()
    for text, count in zip(texts, np.bincount(codes, minlength=len(texts)), strict=True):
        if text is not None and count:
            counts[text] += int(count)
    return dict(counts)


def _records_of(segments: list[tuple[int, Segment]], uids: npt.NDArray[np.void], mask: Mask) -> npt.NDArray[np.void]:
    """(m,) uid and row id of some samples.

    Args:
        segments: each with the ordinal of its first shard; ``uids`` and ``mask`` are of all their samples.
    """
    at, rows = 0, [np.empty(0, np.uint64)]
    for first_shard, segment in segments if mask.any() else ():
        rows.append(row_ids(segment, first_shard, np.flatnonzero(mask[at : at + segment.num_samples])))
        at += segment.num_samples
    return uid_records(uids[mask], np.concatenate(rows))


def _names(segments: list[Segment]) -> dict[str, pa.Array | pa.ChunkedArray]:
    """The columns shard, row, key and uid of the samples of some segments."""
    import pyarrow as pa

    counts = np.concatenate([np.diff(np.asarray(segment.shard_sample_begin).astype(np.int64)) for segment in segments])
    shard = np.repeat(np.arange(len(counts), dtype=np.int32), counts)
    begin = np.cumsum(counts) - counts
    return {
        "shard": _dictionary(shard, [name for segment in segments for name in segment.shard_names]),
        "row": pa.array((np.arange(len(shard)) - begin[shard]).astype(np.uint32)),
        "key": pa.chunked_array([segment.keys() for segment in segments]),
        "uid": pa.chunked_array([segment.uid_hex() for segment in segments]),
    }


def _dictionary(codes: npt.NDArray[np.integer], words: Sequence[str | None]) -> pa.DictionaryArray:
    """(n,) Arrow dictionary of texts: the word of each code, null for -1."""
    import pyarrow as pa

    # of a word that stands twice, Arrow writes as many bytes of whatever memory it finds behind the others
    numbers = {word: number for number, word in enumerate(dict.fromkeys(words))}
    indices = np.array([*(numbers[word] for word in words), -1], np.int32)[codes]  # the last is that of code -1
    return pa.DictionaryArray.from_arrays(pa.array(indices, mask=indices < 0), pa.array([*numbers], pa.string()))


@piece(native=True)
def assign_metadata_outcomes(
    out: Path,
    number: int,
    outcomes: str,
    malformed: str,
    malformed_count: int,
    uid_from: str = "json",
    copies: bool = False,
) -> MetadataOutcomes:
    """Piece: metadata rows without a sample (missing) or without a usable uid (quarantined)."""
    import pyarrow as pa
    import pyarrow.compute as pc

    pool, listed = open_records(out / "index/pool.npy"), open_records(out / outcomes)
    uids = np.empty(len(listed), dtype="u8,u8")
    uids["f0"], uids["f1"] = listed["f0"], listed["f1"]
    _, count = uid_lookup(pool, uids, threads=1)
    absent = np.flatnonzero(np.asarray(count) == 0)
    row = listed["f2"][absent] & np.uint64((1 << CODE_SHIFT) - 1)
    absent = absent[np.argsort(row, kind="stable")]
    named = read_table(out / malformed).to_pylist()
    # a uid by another rule is a hash, and there is none where there is nothing to hash
    wrong = "has a uid that is not 32 hex digits" if uid_from == "json" else f"has no {uid_from}"
    bad = [malformed_row(m["file"], m["row"], m["uid"], uid_from) for m in named]
    bad += [f"a metadata row {wrong} (the first 1,000 of the piece are named)"] * (malformed_count - len(named))
    n, m = len(absent), len(bad)
    empty = pa.nulls(n + m, pa.string())
    texts = pa.concat_arrays(
        [pc.cast(uid_format(uids[absent], threads=1), pa.large_string()), pa.nulls(m, pa.large_string())]
    )
    columns = {"shard": empty, "row": pa.nulls(n + m, pa.uint32()), "key": empty, "uid": texts}
    which = np.concatenate([np.zeros(n, np.int32), np.arange(1, m + 1, dtype=np.int32)])
    columns["fate"] = _dictionary(np.where(which == 0, MISSING, QUARANTINED), FATES)
    columns["reason"] = _dictionary(which, ["no sample of the shards has this uid", *bad])
    if copies:
        columns["copies"] = pa.array(np.zeros(n + m, np.uint32))
    quarantined = _write(out, number, "b", columns, which > 0, [])
    return MetadataOutcomes(n + m, n, m, quarantined)


@piece(native=True)
def merge_subset(out: Path, runs: int, repeats: bool = False) -> MergedSubset:
    """Piece: ``subset.npy``, the sorted uids of the kept samples."""
    kept_runs, final = [out / kept_run(n) for n in range(runs)], out / "subset.npy"
    if repeats:
        kept = out / "state/filter/kept.npy"
        merge_runs(kept_runs, kept, unique=True, memory_bytes=MERGE_BYTES)
        write_repeated(kept, out / METADATA_SUBSET, final)
        kept.unlink()
    else:
        merge_runs(kept_runs, final, unique=True, memory_bytes=MERGE_BYTES)
    return MergedSubset(
        uids=len(load_subset(final)),
        repeated_in_pool=count_repeats(open_records(out / "index/pool.npy")),
        repeated_in_metadata=count_repeats(open_records(out / OUTCOMES)),
    )


class _Copies(TypedDict, total=False):
    """Said to pieces where copies were drawn; else it is left out, as before there were any."""

    copies: bool


def _sample_pieces(run: Run, reasons: list[str], how: _Copies) -> list[Piece[SampleOutcomes]]:
    decoded, embedded = needed(run), run.asks_for("features")
    return [
        assign_sample_outcomes.piece(
            "filter/fates",
            f"{number:05d}",
            inputs=[
                OUTCOMES,
                *(segment_path(n) for n, _ in some),
                *(signature_path(n) for n, _ in some if decoded),
                *(status_path(n) for n, _ in some if embedded),
                *([METADATA_SUBSET] if how else ()),
            ],
            outputs=[
                part_path("fates", number),
                part_path("quarantine", number),
                kept_run(number),
                excluded_path(number),
            ],
        )(
            number=number,
            segments=some,
            decoded=decoded,
            embedded=embedded,
            reasons=reasons,
            uid_from=run.settings.uid_from,
            **how,
        )
        for number, some in enumerate(run.sample_groups())
    ]


def _metadata_pieces(run: Run, malformed: list[int], how: _Copies) -> list[Piece[MetadataOutcomes]]:
    return [
        assign_metadata_outcomes.piece(
            "filter/missing",
            f"{number:05d}",
            inputs=["index/pool.npy", outcome_run(number), malformed_path(number)],
            outputs=[part_path("fates", number, "b"), part_path("quarantine", number, "b")],
        )(
            number=number,
            outcomes=outcome_run(number),
            malformed=malformed_path(number),
            malformed_count=count,
            uid_from=run.settings.uid_from,
            **how,
        )
        for number, count in enumerate(malformed)
    ]


def assign_outcomes(
    run: Run, do: Do, summary: FilterSummary, reasons: list[str], malformed: list[int], beside: Piece[Nothing] | None
) -> FilterSummary:
    """Assigns the fates and writes their tables and ``subset.npy``; returns the summary with what came of it.

    Args:
        malformed: how many rows of each piece of the metadata have no uid.
        beside: a piece that waits for the outcomes alone, to be done in the same step; None where copies were drawn.
    """
    how: _Copies = {"copies": True} if summary.sampled else {}
    others = [] if beside is None else [beside]
    # none of these waits for another
    done = do([*_sample_pieces(run, reasons, how), *others, *_metadata_pieces(run, malformed, how)])
    samples = [s for s in done if isinstance(s, SampleOutcomes)]
    metadata = [s for s in done if isinstance(s, MetadataOutcomes)]
    numbers, repeats = range(len(samples)), run.settings.keep_repeats or bool(summary.sampled)
    subset = merge_subset.piece(
        "filter/subset",
        "subset",
        inputs=["index/pool.npy", OUTCOMES, *([METADATA_SUBSET] if repeats else []), *map(kept_run, numbers)],
        outputs=["subset.npy"],
    )
    parts = range(len(metadata))
    rows = sum(s.rows for s in samples) + sum(s.rows for s in metadata)
    quarantined = sum(s.quarantined for s in samples) + sum(s.quarantined for s in metadata)
    tables = [
        combine_parts("filter/tables", name, len(samples), count, tuple(part_path(name, n, "b") for n in parts))
        for name, count in (("fates", rows), ("quarantine", quarantined))
    ]
    merged = next(s for s in do([subset(runs=len(samples), repeats=repeats), *tables]) if isinstance(s, MergedSubset))
    fates, all_reasons = Counter[str](), Counter[str]()
    for s in samples:
        fates.update(s.fates)
        all_reasons.update(s.reasons)
    fates["missing"] += sum(s.missing for s in metadata)
    fates["quarantined"] += sum(s.malformed for s in metadata)
    return replaced(
        summary,
        fates=dict(fates),
        reasons=dict(sorted(all_reasons.items())),
        damage=[damage for s in samples for damage in s.damage][:MAX_NOTED],
        damaged_shards=sum(s.damaged for s in samples),
        subset=merged.uids,
        repeated_in_pool=merged.repeated_in_pool,
        repeated_in_metadata=merged.repeated_in_metadata,
    )
