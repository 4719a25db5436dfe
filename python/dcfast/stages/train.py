"""Stage ``train``: the scale's recipe on the subset, from the index or from the new shards.

Writes ``train/positions.npy`` (the canonical order: row ids of the reshard plan, multiplicity expanded) and
``train/checkpoints``, ``train/log.jsonl``, ``train/summary.json``. A training that was stopped goes on from its latest
whole checkpoint; one of other data or settings begins anew. Other data is: another sample at any place of the canonical
order, or an index that says something else of the shards.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import TypedDict, Unpack

import msgspec

from dcfast.engine.piece import Nothing, piece
from dcfast.errors import SubsetError
from dcfast.index.segments import Segment
from dcfast.models.devices import resolve_device
from dcfast.rundir.layout import FATES, PLAN_ARRAYS, segment_path
from dcfast.rundir.run_dir import Run
from dcfast.rundir.summaries import FilterSummary, ReshardSummary, equals_json
from dcfast.rundir.training_summary import TrainingSummary
from dcfast.scales import scale
from dcfast.stages.reshard import plan_inputs, plan_kept
from dcfast.stages.runner import Do
from dcfast.storage.atomic import write_json
from dcfast.storage.hashing import sha256_file
from dcfast.storage.lock import locked
from dcfast.storage.paths import LOCK_NAME, make_directory
from dcfast.train import TrainSettings, TrainSource, launch, write_positions

POSITIONS = "train/positions.npy"
IDENTITY = "train/identity.json"
CHECKPOINTED = ("checkpoints", "log.jsonl", "summary.json", "timing.json")
"""What belongs to one training: removed where another one begins in the same run directory."""


class How(TypedDict, total=False):
    """Fields of ``TrainSettings`` that change no result."""

    threads: int | None
    save_every_minutes: float


_HOW: ContextVar[How] = ContextVar("_HOW")


@contextmanager
def train_with(**how: Unpack[How]) -> Iterator[How]:
    """How trainings within the block go about it, over what was said around it; yields both."""
    token = _HOW.set({**_HOW.get(How()), **how})
    try:
        yield _HOW.get()
    finally:
        _HOW.reset(token)


@piece()
def plan_positions(out: Path, segments: int, excluded: int, shard_dir: str, shard_size: int) -> Nothing:
    """Piece: the canonical order of the kept samples: that of the new shards, written or not."""
    plan, subset = plan_kept(out, segments, excluded, shard_dir, shard_size)
    write_positions(plan, subset, out / POSITIONS)
    return Nothing()


def _samples(out: Path, segments: int, source: str) -> dict[str, str | list[str]]:
    """What is trained on, by content: where it is the same though a stage ran again, the training goes on.

    The subset alone does not say it: rows in quarantine whose uid is kept all the same are left out of the order.
    """
    index = hashlib.sha256()
    for number in range(segments):
        index.update(bytes.fromhex(Segment.open(out / segment_path(number), verify=False).content_digest()))
    order = ("subset.npy", *PLAN_ARRAYS) if source == "shards" else (POSITIONS,)
    return {"index": index.hexdigest(), "order": [sha256_file(out / name) for name in order]}


@piece()
def train_subset(
    out: Path,
    source: str,
    segments: int,
    shard_dir: str,
    scale: str,
    recipe: str,
    overrides: Mapping[str, int],
    seed: int,
    loss: str,
    decoder: str,
    device: str,
) -> TrainingSummary:
    """Piece: the training.

    Args:
        source: ``shards`` or ``index``.
        recipe: fingerprint of the scale's, for the piece's key.
    """
    del recipe
    if source == "shards":
        samples = TrainSource(shards=str(out / "shards"))
    else:
        samples = TrainSource(index=str(out / "index"), shards_dir=shard_dir, positions=str(out / POSITIONS))
    settings = TrainSettings(
        out=str(out),
        sources=(samples,),
        scale=scale,
        overrides=dict(overrides),
        seed=seed,
        loss=loss,
        decoder=decoder,
        device=resolve_device(device),
        **_HOW.get(How()),
    )
    identity = {**msgspec.to_builtins(settings.identity()), "source": source, **_samples(out, segments, source)}
    mark = out / IDENTITY
    busy = f"{out}: another training is at work there; wait for it"
    with locked(make_directory(out / "train", "out") / LOCK_NAME, busy):
        if not equals_json(mark, json.loads(json.dumps(identity))):
            # without a mark it is somebody's own training: its checkpoints say whether it is this one
            for name in CHECKPOINTED if mark.exists() else ():
                place = out / "train" / name
                shutil.rmtree(place, ignore_errors=True)
                place.unlink(missing_ok=True)
            write_json(mark, identity)
    return launch(settings)


def _refuse_nothing(chosen: FilterSummary) -> None:
    """SubsetError with the commonest reasons where the filter stage kept nothing."""
    if chosen.fates.get("kept"):
        return
    reasons = {**chosen.reasons, "metadata rows without a sample": chosen.fates.get("missing", 0)}
    common = sorted(((why, n) for why, n in reasons.items() if n), key=lambda item: (-item[1], item[0]))[:3]
    commonest = "; the commonest reasons: " + ", ".join(f"{why} ({count:,})" for why, count in common) if common else ""
    counts = ", ".join(f"{chosen.fates.get(name, 0):,} {name}" for name in FATES)
    raise SubsetError(
        f"nothing to train on: the filter {chosen.filter!r} kept no sample ({counts}){commonest}. "
        "Loosen the filter, or mend the commonest of the reasons"
    )


def steps(run: Run, do: Do) -> TrainingSummary:
    """The order, then the training."""
    if run.has_summary("filter"):
        _refuse_nothing(run.summary(FilterSummary))
    settings, segments = run.settings, len(run.pool.segments())
    shard_dir = str(run.pool.shard_dir)
    inputs = ["subset.npy"]
    if settings.train_from == "shards":
        inputs += [f"shards/{k:08d}.tar" for k in range(run.summary(ReshardSummary).output_shards)]
    else:
        order = plan_positions.piece("train/order", "positions", inputs=plan_inputs(run), outputs=[POSITIONS])
        excluded = len(run.sample_groups())
        do.one(order(segments=segments, excluded=excluded, shard_dir=shard_dir, shard_size=settings.shard_size))
        inputs += [POSITIONS, *map(segment_path, range(segments))]
    recipe = scale(settings.scale)
    last = f"train/checkpoints/epoch_{recipe.checkpoints}.pt"
    train = train_subset.piece("train/train", "train", inputs=inputs, outputs=[last, "train/summary.json"])
    return do.one(
        train(
            source=settings.train_from,
            segments=segments,
            shard_dir=shard_dir,
            scale=settings.scale,
            recipe=recipe.fingerprint(),
            overrides={} if settings.samples_seen is None else {"samples_seen": settings.samples_seen},
            seed=settings.seed,
            loss=settings.loss,
            decoder=settings.decoder,
            device=settings.device,
        )
    )
