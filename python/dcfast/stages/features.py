"""Stage ``features``: CLIP embeddings and scores of the pool, as DataComp's columns and npz files.

Pieces by index segment embed every pair whose picture decodes (``dcfast.features.embed``); pieces by metadata file
then write ``features/metadata/{stem}.parquet`` and ``.npz`` (``dcfast.features.metadata``), which the filter reads
instead of the pool's own. Memory: a batch of pairs and what is read ahead of it, and the model, in each worker.
Disk: the embeddings twice (in the order of the shards, and of the metadata), 4 bytes a dimension, pair and copy.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from dcfast.engine.piece import Piece
from dcfast.errors import PoolError
from dcfast.features.embed import embed_segment
from dcfast.features.files import ARRAYS, segment_file, status_path
from dcfast.features.metadata import Filled, SegmentColumns, write_features
from dcfast.features.spec import TEACHER, FeatureModel, feature_models
from dcfast.index.build import Segment
from dcfast.models.clip import load_model, needs_quick_gelu, require_model
from dcfast.models.devices import borrowed_device, gpu_share
from dcfast.rundir.layout import FEATURE_METADATA, segment_path
from dcfast.rundir.run_dir import Run
from dcfast.stages.runner import Steps
from dcfast.stages.teacher import TEACHER_FILE, teacher_model
from dcfast.storage.atomic import write_json
from dcfast.uids.sets import open_records

__all__ = ["READY", "check_features", "load_feature_model", "model_arguments", "steps"]

VERSION = 2
"""Of a segment's embeddings. 2: 16-bit grey is its upper 8 bits."""
READY = "features/features.json"
"""Written when all segments are embedded: stands for all of them among a piece's inputs."""


def model_arguments(model: FeatureModel) -> tuple[dict[str, Any], tuple[str, ...]]:
    """A model as JSON arguments of a piece, and the files that the piece depends on for it."""
    if model.is_teacher:
        return {"key": model.key, "name": teacher_model(), "pretrained": TEACHER_FILE, "in_run": True}, (TEACHER_FILE,)
    file = model.file
    place = model.pretrained if file is None else os.path.abspath(file)
    inputs = () if file is None else (str(place),)
    args = {"key": model.key, "name": model.name, "pretrained": place, "in_run": False}
    if file is None and model.pretrained is not None and needs_quick_gelu(model.name, model.pretrained):
        args["activation"] = "quickgelu"  # older embeddings had the name's: they are made anew
    return args, inputs


@lru_cache(maxsize=4)
def _load(name: str, pretrained: str | None, device: str, fingerprint: str) -> Any:
    del fingerprint  # part of the cache's key only
    return load_model(name, pretrained, device=device)


def load_feature_model(root: Path, args: dict[str, Any], device: str) -> Any:
    """The ``ClipModel`` of ``model_arguments``; loaded once a process and version of its file."""
    place = args["pretrained"]
    if args["in_run"]:
        place = str(root / place)
    return _load(args["name"], place, device, _mark(place))


@lru_cache(maxsize=16)
def _check(name: str, pretrained: str | None, fingerprint: str) -> None:
    del fingerprint  # part of the cache's key only
    if pretrained is not None and os.path.isfile(pretrained):
        load_model(name, pretrained)  # the whole file is read, once: better now than after days of indexing
    else:
        require_model(name, pretrained)


def check_features(run: Run) -> None:
    """Looks for what is wrong with the models that are asked for, before any work.

    Raises:
        ValueError: an unknown prefix, model or tag; the nearest are suggested.
        CheckpointError, CorruptDataError: a checkpoint of another architecture, or cut off.
        MissingDependencyError: weights or a tokenizer that are not here and cannot be fetched.
    """
    for model in feature_models(run.features):
        if not model.is_teacher:
            _check(model.name, model.pretrained, _mark(model.pretrained))


def _mark(path: str | None) -> str:
    if path is None or not os.path.isfile(path):
        return ""
    status = os.stat(path)
    return f"{status.st_size} {status.st_mtime_ns}"


def embed(out: str, args: dict[str, Any]) -> dict[str, Any]:
    """Piece: the embeddings of one segment's pairs."""
    root = Path(out)
    segment = Segment.open(root / segment_path(args["number"]))
    for shard, what in segment.check_fresh(args["shard_dir"]):
        raise PoolError(
            f"shard {segment.shard_names[shard]} of {args['shard_dir']} has {what} since it was indexed; "
            "run index again (drop --from)"
        )
    with borrowed_device(args["device"]) as device:
        models = [(m["key"], load_feature_model(root, m, device)) for m in args["models"]]
        stats = embed_segment(segment, args["shard_dir"], models, root, args["number"], device=device)
    about = {
        key: {"name": model.name, "content_hash": model.content_hash, "dim": model.embed_dim} for key, model in models
    }
    return {"samples": stats.samples, "status": stats.status, "models": about}


def declare_ready(out: str, args: dict[str, Any]) -> dict[str, Any]:
    """Piece: ``features/features.json``, which says what was made of which model."""
    write_json(Path(out) / READY, args["about"])
    return {}


def write_group(out: str, args: dict[str, Any]) -> dict[str, Any]:
    """Piece: the metadata files of one group with their feature columns."""
    root = Path(out)
    columns = SegmentColumns(root, args["first_shards"])
    records = open_records(root / "index/pool.npy")
    models = [Filled(m["key"], tuple(m["prefixes"]), m["dim"]) for m in args["models"]]
    rows = found = 0
    scored: dict[str, int] = {}
    for path in args["files"]:
        target = root / FEATURE_METADATA / Path(path).name
        stats = write_features(root / path, target, columns, records, models, args.get("uid_from", "json"))
        rows, found = rows + stats.rows, found + stats.found
        for name, count in stats.scored.items():
            scored[name] = scored.get(name, 0) + count
    return {"rows": rows, "found": found, "scored": scored}


def _about(models: Sequence[FeatureModel], stats: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{"key": m.key, "prefixes": list(m.prefixes), **stats[0]["models"][m.key]} for m in models]


def _npz_of(path: str) -> list[str]:
    sibling_npz = str(Path(path).with_suffix(".npz"))
    return [sibling_npz] if os.path.isfile(sibling_npz) else []


def _embed_pieces(run: Run, models: list[FeatureModel]) -> list[Piece]:
    described = [model_arguments(m) for m in models]
    files = tuple(name for _, inputs in described for name in inputs)
    pool = run.pool
    return [
        Piece(
            "features/embed",
            f"{number:05d}",
            "dcfast.stages.features:embed",
            {
                "number": number,
                "shard_dir": str(pool.shard_dir),
                "models": [m for m, _ in described],
                "device": run.settings.device,
            },
            inputs=(segment_path(number), *(pool.shard_path(name) for name in names), *files),
            outputs=(
                segment_file(number, "begin"),
                status_path(number),
                *(segment_file(number, what, m.key) for m in models for what in ARRAYS),
            ),
            version=VERSION,
            weight=sum(Path(pool.shard_path(name)).stat().st_size for name in names),
            gpus=gpu_share(run.settings.device),
        )
        for number, (_, names) in enumerate(pool.segments())
    ]


def _metadata_pieces(run: Run, about: list[dict[str, Any]]) -> list[Piece]:
    pool = run.pool
    return [
        Piece(
            "features/metadata",
            f"{number:05d}",
            "dcfast.stages.features:write_group",
            {
                "files": names,
                "first_shards": [first for first, _ in pool.segments()],
                "models": [{k: m[k] for k in ("key", "prefixes", "dim")} for m in about],
                **run.uid_rule,
            },
            inputs=(READY, "index/pool.npy", *names, *(npz for name in names for npz in _npz_of(name))),
            outputs=tuple(f"{FEATURE_METADATA}/{Path(n).stem}{end}" for n in names for end in (".parquet", ".npz")),
            weight=sum(os.path.getsize(run.out / n) for n in names),
        )
        for number, (_, names) in enumerate(pool.metadata_groups())
    ]


def steps(run: Run) -> Steps:
    """Embeddings by segment, then metadata files with their columns."""
    models = feature_models(run.features)
    stats = yield _embed_pieces(run, models)
    about = _about(models, stats)
    yield [
        Piece(
            "features/ready",
            "ready",
            "dcfast.stages.features:declare_ready",
            {"about": about},
            inputs=tuple(status_path(number) for number in range(len(run.pool.segments()))),
            outputs=(READY,),
        )
    ]
    wrote = yield _metadata_pieces(run, about)
    status, scored = Counter[str](), Counter[str]()
    for total, pieces, key in ((status, stats, "status"), (scored, wrote, "scored")):
        for piece in pieces:
            total.update(piece[key])
    return {
        "models": about,
        "by_teacher": sorted(p for m in models if m.name == TEACHER for p in m.prefixes),
        "samples": sum(s["samples"] for s in stats),
        "status": dict(status),
        "rows": sum(s["rows"] for s in wrote),
        "rows_found": sum(s["found"] for s in wrote),
        "scored": dict(scored),
    }
