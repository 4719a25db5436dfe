"""Stage ``signatures``: content hash, perceptual hash and decode status of every picture, of pool and evaluation sets.

Writes ``signatures/pool-NNNNN.npy`` (one record a sample of the segment, in its order) and
``signatures/eval-NNN.npz`` + keys. Every picture is decoded here, so this is also where broken ones are found.
Memory: one picture in each worker, plus the records of one segment.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from dcfast.dedup.records import ABSENT, SIGNATURE_DTYPE, sign_encoded, sign_images
from dcfast.engine.piece import Piece
from dcfast.errors import CorruptDataError, PoolError
from dcfast.evaluate.evalset import open_evalset
from dcfast.evaluate.evaluation import BAD_SET
from dcfast.evaluate.folders import COUNT_FILE, evalset_folders, list_set_tars
from dcfast.evaluate.hub import hub_files, is_hub_file
from dcfast.evaluate.tasks import EvalTask, compared_sets
from dcfast.images.signatures import STATUS
from dcfast.index.build import Segment, write_segment
from dcfast.rundir.layout import evalset_signature_path, segment_path, signature_path
from dcfast.rundir.run_dir import Run
from dcfast.stages.runner import Steps
from dcfast.storage.atomic import atomic_path
from dcfast.storage.inputs import read_input
from dcfast.storage.npz import save_array

__all__ = ["steps"]

VERSION = 2
"""Of signatures. 2: one rule for depths beyond 8 bits; archives joined by cat are read on."""

HELD = 256
"""Pictures of a set of the hub that are held at a time."""
MAX_NOTED = 100
"""Damages of an evaluation set that its summary names."""


def sign_pool(out: str, args: dict[str, Any]) -> dict[str, Any]:
    """Piece: the signatures of one segment's pictures."""
    root = Path(out)
    segment = Segment.open(root / segment_path(args["number"]))
    for shard, what in segment.check_fresh(args["shard_dir"]):
        raise PoolError(
            f"shard {segment.shard_names[shard]} of {args['shard_dir']} has {what} since it was indexed; "
            "run index again (drop --from)"
        )
    result = sign_images(segment, [str(Path(args["shard_dir"]) / name) for name in segment.shard_names])
    save_array(root / signature_path(args["number"]), result)
    counts = np.bincount(result["status"], minlength=256)
    names = {**dict(enumerate(STATUS)), ABSENT: "absent"}
    return {
        "pictures": int(len(result) - counts[ABSENT]),
        "flat": int(((result["flat"] == 1) & (result["status"] == 0)).sum()),
        "status": {names[i]: int(n) for i, n in enumerate(counts) if n},
    }


def sign_evalset(out: str, args: dict[str, Any]) -> dict[str, Any]:
    """Piece: the signatures of one evaluation set, with the key of each picture."""
    import pyarrow as pa

    root = Path(out)
    index = root / "state/signatures/evalsets" / f"{args['number']:03d}.dcx"
    write_segment([(path, Path(path).name) for path in args["tars"]], index)
    segment = Segment.open(index)
    damage = _evalset_damage(segment, args["tars"])
    if args["strict"] and damage:
        name, message = damage[0]
        raise CorruptDataError(f"evaluation set {args['name']}, {name}: {message} (--strict)", path=name)
    result = sign_images(segment, args["tars"])
    shard_names = [Path(path).name for path in args["tars"]]
    counts = np.diff(np.asarray(segment.shard_sample_begin)).astype(np.int64)
    shards = pa.array(shard_names).take(pa.array(np.repeat(np.arange(len(counts)), counts)))
    return _write_signatures(root, args, shards, segment.keys(), result, damage)


def sign_hub_set(out: str, args: dict[str, Any]) -> dict[str, Any]:
    """Piece: the signatures of a set of the hub, as ``sign_evalset``. Memory: 256 pictures as they are encoded."""
    import pyarrow as pa

    files = [Path(path) for path in args["tars"]]
    keys: list[str] = []
    damage: list[tuple[str, str]] = []
    result = np.zeros(0, SIGNATURE_DTYPE)
    try:
        evalset = open_evalset(EvalTask("", args["name"], ""), Path(args["folder"]))
        damage += [(files[0].name, note) for note in evalset.notes]
        with evalset.pictures.read(evalset.rows, HELD) as batches:
            result = np.concatenate([sign_encoded(readers) for _, readers in batches])
        keys = [evalset.key(row) for row in range(len(evalset.rows))]
    except BAD_SET as error:
        damage.append((files[0].name, f"cannot be read: {error}"))
        keys, result = [], np.zeros(0, SIGNATURE_DTYPE)
    if args["strict"] and damage:
        raise CorruptDataError(f"evaluation set {args['name']}, {damage[0][0]}: {damage[0][1]} (--strict)")
    shards = pa.array([files[0].name] * len(keys), pa.string())
    return _write_signatures(Path(out), args, shards, pa.array(keys, pa.string()), result, damage)


def _write_signatures(
    root: Path, args: dict[str, Any], shards: Any, keys: Any, result: Any, damage: list[tuple[str, str]]
) -> dict[str, Any]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = {name: pa.array(result[name]) for name in SIGNATURE_DTYPE.names or ()}
    table = pa.table({"shard": shards, "key": keys, **columns})
    with atomic_path(root / evalset_signature_path(args["number"])) as temporary:
        pq.write_table(table, temporary)
    ok = result["status"] == 0
    return {
        "name": args["name"],
        "pictures": int((result["status"] != ABSENT).sum()),
        "unreadable": int(((result["status"] != ABSENT) & ~ok).sum()),
        "flat": int((ok & (result["flat"] == 1)).sum()),
        "damage": damage[:MAX_NOTED],
    }


def _evalset_damage(segment: Any, tars: list[str]) -> list[tuple[str, str]]:
    """(file, message) of what may hide pictures: they would be missing from the comparison."""
    found = [
        (segment.shard_names[at.shard], f"{'damaged at ' if at.archive else ''}byte {at.offset}: {at.message}")
        for at in segment.losses
    ]
    counted = Path(tars[0]).parent / COUNT_FILE
    try:
        said = int(read_input(counted, 64))
    except (OSError, ValueError):  # not every source of evaluation sets writes one
        return found
    if said != len(tars):
        found.append((COUNT_FILE, f"says {said} shards, but there are {len(tars)}"))
    return found


def _count_files(tars: list[str]) -> list[str]:
    path = Path(tars[0]).parent / COUNT_FILE
    return [str(path)] if path.is_file() else []


def _notes(evalsets: list[dict[str, Any]], directory: Path | None) -> list[str]:
    """What may be missing from the comparison: damage, sets without tars, what was passed over in the others."""
    found = [
        f"evaluation set {s['name']}: {file} {message}; what it hides was not compared, so contamination may be missed"
        for s in evalsets
        for file, message in s["damage"]
    ]
    for folder in evalset_folders(directory) if directory is not None else []:
        listing = list_set_tars(folder)
        if hub_files(folder):
            continue
        if not listing.names:
            without = "holds no test/*.tar: nothing was compared with it"
            found.append(f"evaluation set {folder.name} {without}{listing.hint}")
        else:
            found += [f"evaluation set {note}" for note in listing.notes]
    return found


def needed(run: Run) -> bool:
    """Whether the pool's pictures are decoded at all: for decontamination, at tiny, or when asked."""
    return run.evalset_dir is not None or run.settings.scale == "tiny" or run.settings.verify_images


def _evalset_piece(run: Run, number: int, name: str, files: list[str]) -> Piece:
    args = {"number": number, "name": name, "tars": files, "strict": run.settings.strict}
    of_hub = is_hub_file(files[0])
    if of_hub:
        args["folder"] = str(Path(files[0]).parent)
    return Piece(
        "signatures/evalsets",
        f"{number:03d}",
        "dcfast.stages.signatures:sign_hub_set" if of_hub else "dcfast.stages.signatures:sign_evalset",
        args,
        inputs=tuple(files) if of_hub else (*files, *_count_files(files)),
        outputs=(evalset_signature_path(number),),
        version=VERSION,
        weight=sum(Path(t).stat().st_size for t in files),
    )


def steps(run: Run) -> Steps:
    """The pool's pictures, then those of the evaluation sets."""
    if not needed(run):
        return {"decoded": False, "pictures": 0, "flat": 0, "status": {}, "evalsets": [], "notes": []}
    pool = run.pool
    stats = yield [
        Piece(
            "signatures/pool",
            f"{number:05d}",
            "dcfast.stages.signatures:sign_pool",
            {"number": number, "shard_dir": str(pool.shard_dir)},
            inputs=(segment_path(number), *(pool.shard_path(name) for name in names)),
            outputs=(signature_path(number),),
            version=VERSION,
            weight=sum(Path(pool.shard_path(name)).stat().st_size for name in names),
        )
        for number, (_, names) in enumerate(pool.segments())
    ]
    status: dict[str, int] = {}
    for piece in stats:
        for name, count in piece["status"].items():
            status[name] = status.get(name, 0) + count
    evalsets = compared_sets(run.evalset_dir) if run.evalset_dir is not None else []
    eval_stats = yield [_evalset_piece(run, number, name, files) for number, (name, files) in enumerate(evalsets)]
    return {
        "decoded": True,
        "pictures": sum(s["pictures"] for s in stats),
        "flat": sum(s["flat"] for s in stats),
        "status": status,
        "evalsets": eval_stats,
        "notes": _notes(eval_stats, run.evalset_dir),
    }
