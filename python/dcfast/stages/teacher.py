"""Stage ``teacher``: a small CLIP trained on pairs that are known to be right, which then scores the pool.

In the built-in world it learns from clean pairs that are rendered outside the pool, as OpenAI's CLIP had a training
set of its own. For a given pool it learns, only where asked, from the pairs of ``teacher_uids``, and those are held
out: the filter never keeps them. Writes ``teacher/teacher.safetensors`` (weights alone) and ``teacher/teacher.json``.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

from dcfast.engine.piece import Piece, fingerprint_files
from dcfast.errors import RunError, SubsetError
from dcfast.models.clip import read_checkpoint
from dcfast.models.devices import resolve_device
from dcfast.rundir.layout import segment_path
from dcfast.rundir.run_dir import Run
from dcfast.scales import scale
from dcfast.stages.runner import Steps
from dcfast.storage.atomic import atomic_path, write_json
from dcfast.storage.hashing import sha256_file
from dcfast.storage.paths import absolute
from dcfast.storage.records import plain
from dcfast.train import TrainSettings, TrainSource, train
from dcfast.uids.sets import load_subset, open_records, uid_lookup
from dcfast.world import WorldSpec, plan_teacher
from dcfast.world.plan import TeacherPiece

__all__ = ["RECIPE", "TEACHER_FILE", "check_teacher", "steps", "teacher_model", "teacher_shards"]

TEACHER_FILE = "teacher/teacher.safetensors"
ABOUT_FILE = "teacher/teacher.json"
SCALE = "tiny"
"""Whose model and recipe the teacher has, whatever the run's own scale: it is small by intent."""
RECIPE: dict[str, Any] = {"samples_seen": 38_400, "checkpoints": 2}
"""What departs from that scale's recipe."""


def teacher_model() -> str:
    """The architecture of the teacher."""
    return scale(SCALE).model


def teacher_shards(run: Run) -> list[str]:
    """The shards of the world's clean pairs, relative to the run directory."""
    return [f"world/{path}" for piece in plan_teacher(run.world_spec) for path in piece.outputs]


def _batch() -> int:
    """Pairs that the teacher's training needs: a batch must not repeat one for want of others."""
    return int(RECIPE.get("global_batch", scale(SCALE).global_batch))


def check_teacher(run: Run) -> None:
    """Looks, before any work, whether there are enough pairs for a teacher.

    Raises:
        RunError: the world has none.   ValueError: fewer than a batch.
        SubsetError, OSError: ``teacher_uids`` is no subset file, or is not there.
    """
    batch = _batch()
    if not run.is_world:
        assert run.settings.teacher_uids is not None  # check_settings
        named = len(load_subset(run.settings.teacher_uids))
        if named < batch:
            raise ValueError(_too_few(run.settings.teacher_uids, f"{named} pairs", batch))
        return
    pairs = run.world_spec.teacher_pairs
    if pairs == 0:
        raise RunError("the world has no pairs for a teacher (teacher_pairs is 0); ask for no feature by the teacher")
    if pairs < batch:
        raise ValueError(
            f"world: teacher_pairs must be at least {batch}, one batch of the teacher; got {pairs}. "
            "Give more, or ask for no feature by the teacher (--features none)"
        )


def _too_few(path: str, there: str, needed: int) -> str:
    return (
        f"--teacher-uids {path}: {there}, and the teacher needs at least {needed}, one batch of its training. Name "
        "more trusted pairs of the pool, or score it by a trained model instead (--features l14=ViT-L-14:openai)"
    )


def _check_in_pool(root: Path, path: str) -> None:
    """SubsetError where fewer than a batch of the named pairs are in the pool, which only its index can tell."""
    named = load_subset(path)
    _, count = uid_lookup(open_records(root / "index/pool.npy"), named, check=False)
    found = int((count > 0).sum())
    if found < _batch():
        raise SubsetError(_too_few(path, f"{found} of its {len(named)} pairs are in the pool", _batch()))


def render(out: str, args: dict[str, Any]) -> dict[str, Any]:
    """Piece: one shard of clean pairs of the built-in world."""
    from dcfast.world.render import render_piece

    piece = TeacherPiece(spec=WorldSpec.from_json(args["spec"]), shard=args["shard"])
    stats: Any = plain(render_piece(piece, Path(out) / "world"))
    return dict(stats)


def _source(root: Path, args: dict[str, Any]) -> Any:
    if args["subset"] is None:
        return TrainSource(shards=str(root / "world/teacher/shards"))
    return TrainSource(index=str(root / "index"), shards_dir=args["shard_dir"], subset=str(root / args["subset"]))


def train_teacher(out: str, args: dict[str, Any]) -> dict[str, Any]:
    """Piece: trains the teacher, or goes on where it was stopped, and writes its weights."""
    root = Path(out)
    if args["subset"] is not None:
        _check_in_pool(root, args["subset"])
    # a training belongs to its data and settings: others begin in a folder of their own, and older ones are removed
    identity = json.dumps({k: v for k, v in args.items() if k != "inputs"}, sort_keys=True)
    mark = hashlib.sha256((identity + fingerprint_files(root, args["inputs"])).encode()).hexdigest()[:16]
    work = root / "teacher" / f"training-{mark}"
    for older in (root / "teacher").glob("training-*"):
        if older != work and re.fullmatch(r"training-[0-9a-f]{16}", older.name):
            shutil.rmtree(older, ignore_errors=True)
    settings = TrainSettings(
        out=str(work),
        sources=(_source(root, args),),
        scale=args["scale"],
        overrides=args["recipe"],
        seed=args["seed"],
        loss=args["loss"],
        device=resolve_device(args["device"]),
    )
    summary = train(settings)
    from safetensors.torch import save_file

    weights = read_checkpoint(work / summary["checkpoint"])["state_dict"]
    with atomic_path(root / TEACHER_FILE) as temporary:
        # not the checkpoint itself: torch writes the file's name into it, so that equal weights differ in bytes
        save_file({name: value.contiguous() for name, value in weights.items()}, temporary)
    about = {
        "model": summary["model"],
        "samples": summary["sources"][0]["samples"],
        "samples_seen": summary["samples_seen"],
        "recipe": summary["recipe"],
        "loss_last": summary["loss_last"],
        "content_hash": sha256_file(root / TEACHER_FILE),
    }
    write_json(root / ABOUT_FILE, about)
    return about


def steps(run: Run) -> Steps:
    """The world's clean pairs, where it has to be rendered, then the training."""
    settings = run.settings
    common = {
        "scale": SCALE,
        "recipe": {**RECIPE},
        "scale_recipe": asdict(scale(SCALE)),
        "seed": settings.seed,
        "loss": settings.loss,
        "device": settings.device,
    }
    if run.is_world:
        shards = teacher_shards(run)
        yield [
            Piece(
                "teacher/render",
                piece.name,
                "dcfast.stages.teacher:render",
                cast("dict[str, Any]", plain(piece)),
                outputs=tuple(f"world/{path}" for path in piece.outputs),
            )
            for piece in plan_teacher(run.world_spec)
        ]
        given: dict[str, Any] = {"subset": None, "shard_dir": None}
        inputs: tuple[str, ...] = tuple(shards)
    else:
        assert settings.teacher_uids is not None  # check_settings
        uids = absolute(settings.teacher_uids)
        given = {"subset": uids, "shard_dir": str(run.pool.shard_dir)}
        inputs = (uids, *(segment_path(n) for n in range(len(run.pool.segments()))))
    (about,) = yield [
        Piece(
            "teacher/train",
            "teacher",
            "dcfast.stages.teacher:train_teacher",
            {**common, **given, "inputs": list(inputs)},
            inputs=inputs,
            outputs=(TEACHER_FILE, ABOUT_FILE),
        )
    ]
    return {**about, "held_out": settings.teacher_uids is not None}
