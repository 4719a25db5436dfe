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
from collections.abc import Mapping, Sequence
from pathlib import Path

from dcfast.engine.piece import Nothing, fingerprint_files, piece
from dcfast.errors import RunError, SubsetError
from dcfast.models.checkpoint import read_checkpoint
from dcfast.models.devices import resolve_device
from dcfast.rundir.layout import segment_path
from dcfast.rundir.run_dir import Run
from dcfast.rundir.summaries import TeacherSummary
from dcfast.scales import Scale, changed_recipe, scale
from dcfast.stages.runner import Do
from dcfast.storage.atomic import atomic_path, write_json
from dcfast.storage.hashing import sha256_file
from dcfast.storage.paths import absolute
from dcfast.storage.records import plain, replaced
from dcfast.train import TrainSettings, TrainSource, train
from dcfast.uids.sets import load_subset, open_records, uid_lookup
from dcfast.world import plan_teacher
from dcfast.world.plan import TeacherPiece
from dcfast.world.spec import WorldSpec

TEACHER_FILE = "teacher/teacher.safetensors"
ABOUT_FILE = "teacher/teacher.json"
SCALE = "tiny"
"""Whose model and recipe the teacher has, whatever the run's own scale: it is small by intent."""
RECIPE = {"samples_seen": 38_400, "checkpoints": 2}
"""What departs from that scale's recipe."""


def teacher_model() -> str:
    """The architecture of the teacher."""
    return scale(SCALE).model


def teacher_recipe() -> Scale:
    """The recipe of its training."""
    return changed_recipe(scale(SCALE), RECIPE)


def teacher_shards(run: Run) -> list[str]:
    """The shards of the world's clean pairs, relative to the run directory."""
    return [f"world/{path}" for p in plan_teacher(run.world_spec) for path in p.outputs]


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
    present = int((count > 0).sum())
    if present < _batch():
        raise SubsetError(_too_few(path, f"{present} of its {len(named)} pairs are in the pool", _batch()))


@piece()
def render(out: Path, spec: WorldSpec, shard: int) -> Nothing:
    """Piece: one shard of clean pairs of the built-in world."""
    from dcfast.world.render import render_piece

    render_piece(TeacherPiece(spec, shard), out / "world")
    return Nothing()


@piece()
def train_teacher(
    out: Path,
    scale: str,
    recipe: Mapping[str, int],
    scale_recipe: Scale,
    seed: int,
    loss: str,
    device: str,
    subset: str | None,
    shard_dir: str | None,
    inputs: Sequence[str],
) -> TeacherSummary:
    """Piece: trains the teacher, or goes on where it was stopped, and writes its weights.

    Args:
        recipe: what departs from the scale's, which is ``scale_recipe``.
        subset, shard_dir: the trusted pairs of a given pool and its shards; None in the built-in world.
        inputs: files that the training depends on.
    """
    if subset is None:
        source = TrainSource(shards=str(out / "world/teacher/shards"))
    else:
        _check_in_pool(out, subset)
        source = TrainSource(index=str(out / "index"), shards_dir=shard_dir, subset=str(out / subset))
    # a training belongs to its data and settings: others begin in a folder of their own, and older ones are removed
    identity = {
        "scale": scale,
        "recipe": recipe,
        "scale_recipe": plain(scale_recipe),
        "seed": seed,
        "loss": loss,
        "device": device,
        "subset": subset,
        "shard_dir": shard_dir,
    }
    text = json.dumps(identity, sort_keys=True) + fingerprint_files(out, inputs)
    work = out / "teacher" / f"training-{hashlib.sha256(text.encode()).hexdigest()[:16]}"
    for older in (out / "teacher").glob("training-*"):
        if older != work and re.fullmatch(r"training-[0-9a-f]{16}", older.name):
            shutil.rmtree(older, ignore_errors=True)
    settings = TrainSettings(
        out=str(work),
        sources=(source,),
        scale=scale,
        overrides=dict(recipe),
        seed=seed,
        loss=loss,
        device=resolve_device(device),
    )
    trained = train(settings)
    from safetensors.torch import save_file

    weights = read_checkpoint(work / trained.checkpoint)["state_dict"]
    with atomic_path(out / TEACHER_FILE) as temporary:
        # not the checkpoint itself: torch writes the file's name into it, so that equal weights differ in bytes
        save_file({name: value.contiguous() for name, value in weights.items()}, temporary)
    summary = TeacherSummary(
        model=trained.model,
        samples=trained.sources[0].samples,
        samples_seen=trained.samples_seen,
        recipe=trained.recipe,
        loss_last=trained.loss_last,
        content_hash=sha256_file(out / TEACHER_FILE),
    )
    write_json(out / ABOUT_FILE, plain(summary))
    return summary


def steps(run: Run, do: Do) -> TeacherSummary:
    """The world's clean pairs, where it has to be rendered, then the training."""
    settings = run.settings
    if run.is_world:
        inputs = teacher_shards(run)
        do(
            render.piece("teacher/render", p.name, outputs=[shard])(spec=p.spec, shard=p.shard)
            for p, shard in zip(plan_teacher(run.world_spec), inputs, strict=True)
        )
        subset, shard_dir = None, None
    else:
        assert settings.teacher_uids is not None  # check_settings
        subset, shard_dir = absolute(settings.teacher_uids), str(run.pool.shard_dir)
        inputs = [subset, *(segment_path(n) for n in range(len(run.pool.segments())))]
    training = train_teacher.piece("teacher/train", "teacher", inputs=inputs, outputs=[TEACHER_FILE, ABOUT_FILE])
    summary = do.one(
        training(
            scale=SCALE,
            recipe={**RECIPE},
            scale_recipe=scale(SCALE),
            seed=settings.seed,
            loss=settings.loss,
            device=settings.device,
            subset=subset,
            shard_dir=shard_dir,
            inputs=inputs,
        )
    )
    return replaced(summary, held_out=settings.teacher_uids is not None)  # pieces of older releases did not say it
