"""Stage ``signatures``: content hash, perceptual hash and decode status of every picture, of pool and evaluation sets.

Writes ``signatures/pool-NNNNN.npy`` (one record a sample of the segment, in its order) and of each set
``signatures/eval-NNN.parquet`` (``dcfast.dedup.signature_file``). Every picture is decoded here, so this is also where
broken ones are found.
Memory: one picture in each worker, plus the records of one segment.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from dcfast.dedup.records import ABSENT, sign_images
from dcfast.engine.piece import Piece, piece
from dcfast.errors import PoolError
from dcfast.evaluate.folders import COUNT_FILE, evalset_folders, list_set_tars
from dcfast.evaluate.hub import hub_files, is_hub_file
from dcfast.evaluate.sign_sets import sign_set
from dcfast.evaluate.tasks import compared_sets
from dcfast.images.signatures import STATUS
from dcfast.index.fetched import near_shards
from dcfast.index.segments import Segment
from dcfast.rundir.layout import evalset_signature_path, segment_path, signature_path
from dcfast.rundir.run_dir import Run
from dcfast.rundir.summaries import ComparedSet, SignaturesSummary
from dcfast.stages.runner import Do
from dcfast.storage.npz import save_array
from dcfast.storage.records import Count, Record

VERSION = 3
"""Of signatures. 2: one rule for depths beyond 8 bits; archives joined by cat are read on. 3: hashes of 256 bits; the
sets' are signature files."""


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
    with near_shards(segment, shard_dir) as paths:
        result = sign_images(segment, paths)
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
def sign_evalset(out: Path, number: int, name: str, files: Sequence[str], strict: bool) -> ComparedSet:
    """Piece: the signatures of one evaluation set, of tars or of the hub."""
    index = out / "state/signatures/evalsets" / f"{number:03d}.dcx"
    signed = sign_set(name, files, out / evalset_signature_path(number), index, strict=strict)
    return ComparedSet(name, signed.pictures, signed.unreadable, signed.flat, signed.damage)


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
    asked = run.settings.scale == "tiny" or run.settings.verify_images
    return asked or run.has_evaluation_sets or run.deduplicates


def _evalset_piece(run: Run, number: int, name: str, files: list[str]) -> Piece[ComparedSet]:
    beside = [] if is_hub_file(files[0]) else [str(Path(files[0]).parent / COUNT_FILE)]
    return sign_evalset.piece(
        "signatures/evalsets",
        f"{number:03d}",
        inputs=[*files, *filter(os.path.isfile, beside)],
        outputs=[evalset_signature_path(number)],
        weight=sum(map(os.path.getsize, files)),
    )(number=number, name=name, files=files, strict=run.settings.strict)


def steps(run: Run, do: Do) -> SignaturesSummary:
    """The pool's images, then those of the evaluation sets."""
    if not needed(run):
        return SignaturesSummary()
    pool = run.pool
    stats = do(
        sign_pool.piece(
            "signatures/pool",
            f"{number:05d}",
            inputs=[segment_path(number), *map(pool.shard_input, names)],
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
