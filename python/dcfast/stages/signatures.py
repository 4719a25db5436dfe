"""Stage ``signatures``: content hash, perceptual hash and decode status of every picture, of pool and evaluation sets.

Writes ``signatures/pool-NNNNN.npy`` (one record a sample of the segment, in its order) and
``signatures/eval-NNN.npz`` + keys. Every picture is decoded here, so this is also where broken ones are found.
Memory: one picture in each worker, plus the records of one segment.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from dcfast.dedup.records import ABSENT, SIGNATURE_DTYPE, sign_encoded, sign_images
from dcfast.engine.piece import Piece, piece
from dcfast.errors import CorruptDataError, PoolError
from dcfast.evaluate.evalset import open_evalset
from dcfast.evaluate.evaluation import BAD_SET
from dcfast.evaluate.folders import COUNT_FILE, count_remark, evalset_folders, list_set_tars
from dcfast.evaluate.hub import hub_files, is_hub_file
from dcfast.evaluate.tasks import EvalTask, compared_sets
from dcfast.images.signatures import STATUS
from dcfast.index.build import write_segment
from dcfast.index.segments import Segment
from dcfast.rundir.layout import evalset_signature_path, segment_path, signature_path
from dcfast.rundir.run_dir import Run
from dcfast.rundir.summaries import ComparedSet, SignaturesSummary
from dcfast.stages.runner import Do
from dcfast.storage.npz import save_array
from dcfast.storage.parquet import write_table
from dcfast.storage.records import Count, Record

if TYPE_CHECKING:
    import pyarrow as pa

VERSION = 2
"""Of signatures. 2: one rule for depths beyond 8 bits; archives joined by cat are read on."""

HELD = 256
"""Pictures of a set of the hub that are held at a time."""
MAX_NOTED = 100
"""Damages of an evaluation set that its summary names."""


class SignedImages(Record):
    """Images of a segment; ``status``: how decoding went -> samples."""

    pictures: Count
    flat: Count
    status: dict[str, Count]


@piece(version=VERSION)
def sign_pool(out: Path, number: int, shard_dir: str) -> SignedImages:
    """Piece: the signatures of one segment's images."""
    segment = Segment.open(out / segment_path(number))
    refuse_stale(segment, shard_dir)
    result = sign_images(segment, [str(Path(shard_dir) / name) for name in segment.shard_names])
    save_array(out / signature_path(number), result)
    counts = np.bincount(result["status"], minlength=256)
    names = {**dict(enumerate(STATUS)), ABSENT: "absent"}
    return SignedImages(
        pictures=int(len(result) - counts[ABSENT]),
        flat=int(((result["flat"] == 1) & (result["status"] == 0)).sum()),
        status={names[i]: int(n) for i, n in enumerate(counts) if n},
    )


def refuse_stale(segment: Segment, shard_dir: str) -> None:
    """PoolError where a shard has changed since it was indexed."""
    for shard, what in segment.check_fresh(shard_dir):
        raise PoolError(
            f"shard {segment.shard_names[shard]} of {shard_dir} has {what} since it was indexed; "
            "run index again (drop --from)"
        )


@piece(version=VERSION)
def sign_evalset(out: Path, number: int, name: str, tars: Sequence[str], strict: bool) -> ComparedSet:
    """Piece: the signatures of one evaluation set, with the key of each image."""
    import pyarrow as pa

    index = out / "state/signatures/evalsets" / f"{number:03d}.dcx"
    shard_names = [Path(path).name for path in tars]
    write_segment(list(zip(tars, shard_names, strict=True)), index)
    segment = Segment.open(index)
    damage = _evalset_damage(segment, tars)
    if strict and damage:
        file, message = damage[0]
        raise CorruptDataError(f"evaluation set {name}, {file}: {message} (--strict)", path=file)
    result = sign_images(segment, tars)
    counts = np.diff(np.asarray(segment.shard_sample_begin)).astype(np.int64)
    shards = pa.array(shard_names).take(pa.array(np.repeat(np.arange(len(counts)), counts)))
    return _write_signatures(out / evalset_signature_path(number), name, shards, segment.keys(), result, damage)


@piece(version=VERSION)
def sign_hub_set(out: Path, number: int, name: str, tars: Sequence[str], strict: bool, folder: str) -> ComparedSet:
    """Piece: the signatures of a set of the hub, as ``sign_evalset``. Memory: 256 images as they are encoded."""
    import pyarrow as pa

    first = Path(tars[0]).name
    damage: list[tuple[str, str]] = []
    try:
        evalset = open_evalset(EvalTask("", name, ""), Path(folder))
        damage += [(first, note) for note in evalset.notes]
        with evalset.pictures.read(evalset.rows, HELD) as batches:
            result = np.concatenate([np.zeros(0, SIGNATURE_DTYPE), *(sign_encoded(readers) for _, readers in batches)])
        keys = [evalset.key(row) for row in range(len(evalset.rows))]
    except BAD_SET as error:
        damage.append((first, f"cannot be read: {error}"))
        keys, result = [], np.zeros(0, SIGNATURE_DTYPE)
    if strict and damage:
        raise CorruptDataError(f"evaluation set {name}, {damage[0][0]}: {damage[0][1]} (--strict)")
    shards = pa.array([first] * len(keys), pa.string())
    path = out / evalset_signature_path(number)
    return _write_signatures(path, name, shards, pa.array(keys, pa.string()), result, damage)


def _write_signatures(
    path: Path,
    name: str,
    shards: pa.Array,
    keys: pa.Array,
    result: npt.NDArray[np.void],
    damage: list[tuple[str, str]],
) -> ComparedSet:
    import pyarrow as pa

    columns = {field: pa.array(result[field]) for field in SIGNATURE_DTYPE.names or ()}
    write_table(pa.table({"shard": shards, "key": keys, **columns}), path)
    ok, present = result["status"] == 0, result["status"] != ABSENT
    return ComparedSet(
        name=name,
        pictures=int(present.sum()),
        unreadable=int((present & ~ok).sum()),
        flat=int((ok & (result["flat"] == 1)).sum()),
        damage=damage[:MAX_NOTED],
    )


def _evalset_damage(segment: Segment, tars: Sequence[str]) -> list[tuple[str, str]]:
    """(file, message) of what may hide pictures: they would be missing from the comparison."""
    damage = [
        (segment.shard_names[at.shard], f"{'damaged at ' if at.archive else ''}byte {at.offset}: {at.message}")
        for at in segment.losses
    ]
    return damage + [(COUNT_FILE, remark) for remark in count_remark(Path(tars[0]).parent, len(tars))]


def _notes(evalsets: list[ComparedSet], directory: Path | None) -> list[str]:
    """What may be missing from the comparison: damage, sets without tars, what was passed over in the others."""
    notes = [
        f"evaluation set {s.name}: {file} {message}; what it hides was not compared, so contamination may be missed"
        for s in evalsets
        for file, message in s.damage
    ]
    for folder in evalset_folders(directory) if directory is not None else []:
        listing = list_set_tars(folder)
        if hub_files(folder):
            continue
        if not listing.names:
            without = "holds no test/*.tar: nothing was compared with it"
            notes.append(f"evaluation set {folder.name} {without}{listing.hint}")
        else:
            notes += [f"evaluation set {note}" for note in listing.notes]
    return notes


def needed(run: Run) -> bool:
    """Whether the pool's pictures are decoded at all: for decontamination, for duplicates, at tiny, or when asked."""
    return run.deduplicates or run.evalset_dir is not None or run.settings.scale == "tiny" or run.settings.verify_images


def _evalset_piece(run: Run, number: int, name: str, files: list[str]) -> Piece[ComparedSet]:
    strict = run.settings.strict
    step, place = ("signatures/evalsets", f"{number:03d}"), [evalset_signature_path(number)]
    weight = sum(map(os.path.getsize, files))
    if is_hub_file(files[0]):
        of_hub = sign_hub_set.piece(*step, inputs=files, outputs=place, weight=weight)
        return of_hub(number=number, name=name, tars=files, strict=strict, folder=str(Path(files[0]).parent))
    counted = filter(os.path.isfile, [str(Path(files[0]).parent / COUNT_FILE)])
    of_tars = sign_evalset.piece(*step, inputs=[*files, *counted], outputs=place, weight=weight)
    return of_tars(number=number, name=name, tars=files, strict=strict)


def steps(run: Run, do: Do) -> SignaturesSummary:
    """The pool's images, then those of the evaluation sets."""
    if not needed(run):
        return SignaturesSummary()
    pool = run.pool
    stats = do(
        sign_pool.piece(
            "signatures/pool",
            f"{number:05d}",
            inputs=[segment_path(number), *map(pool.shard_path, names)],
            outputs=[signature_path(number)],
            weight=pool.bytes_of(names),
        )(number=number, shard_dir=str(pool.shard_dir))
        for number, (_, names) in enumerate(pool.segments())
    )
    sets = compared_sets(run.evalset_dir) if run.evalset_dir is not None else []
    evalsets = do([_evalset_piece(run, number, name, files) for number, (name, files) in enumerate(sets)])
    return SignaturesSummary(
        decoded=True,
        pictures=sum(s.pictures for s in stats),
        flat=sum(s.flat for s in stats),
        status=sum((Counter(s.status) for s in stats), Counter[str]()),
        evalsets=evalsets,
        notes=_notes(evalsets, run.evalset_dir),
    )
