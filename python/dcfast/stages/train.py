"""Stage ``train``: the scale's recipe on the subset, from the index or from the new shards.

Writes ``train/positions.npy`` (the canonical order: row ids of the reshard plan, multiplicity expanded) and
``train/checkpoints``, ``train/log.jsonl``, ``train/summary.json``. A training that was stopped goes on from its latest
whole checkpoint; one of other data or settings begins anew. Other data is: another sample at any place of the canonical
order, an index that says something else of the shards, or other captions by uid.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import replace
from pathlib import Path
from typing import TypedDict, Unpack

import msgspec

from dcfast.engine.piece import Nothing, piece
from dcfast.errors import NothingKeptError, TooFewKeptError
from dcfast.index.segments import Segment
from dcfast.models.devices import resolve_device
from dcfast.process.caption_places import caption_paths
from dcfast.rundir.layout import FATES, PLAN_ARRAYS, segment_path
from dcfast.rundir.run_dir import Run
from dcfast.rundir.settings import Override, Settings
from dcfast.rundir.summaries import FilterSummary, ReshardSummary, equals_json
from dcfast.rundir.training_summary import TrainingSummary
from dcfast.scales import scale, smaller_batch
from dcfast.stages.filter.losses import advice_on, commonest_reasons, dropped_most, outcome_lines
from dcfast.stages.reshard import plan_inputs, plan_kept
from dcfast.stages.runner import Do
from dcfast.storage.atomic import write_json
from dcfast.storage.hashing import sha256_file
from dcfast.storage.lock import locked
from dcfast.storage.paths import LOCK_NAME, make_directory
from dcfast.train import TrainSettings, TrainSource, launch, write_positions
from dcfast.train.caption_table import caption_files, caption_tables

POSITIONS = "train/positions.npy"
IDENTITY = "train/identity.json"
CAPTIONS = "captions_by_hash"
SAMPLES = ("index", "order", CAPTIONS)
"""What of the identity is told by the content of files."""
CHECKPOINTED = ("checkpoints", "log.jsonl", "evaluations.jsonl", "summary.json", "timing.json")
"""What belongs to one training: removed where another one begins in the same run directory."""


class How(TypedDict, total=False):
    """Fields of ``TrainSettings`` that change no result; of ``copy_to`` the folder above those of the trainings."""

    threads: int | None
    save_every_minutes: float
    cache_dir: str | None
    cache_size: float
    rank_timeout: float
    compile: bool
    fsdp: bool
    report_to: list[str] | None
    evaluate_every: int | None
    evaluate_on: str | None
    evaluate_sets: list[str] | None
    copy_to: str | None


Launch = Callable[[TrainSettings], TrainingSummary]
_HOW: ContextVar[How] = ContextVar("_HOW")
_LAUNCH: ContextVar[Launch] = ContextVar("_LAUNCH")


@contextmanager
def train_with(**how: Unpack[How]) -> Iterator[How]:
    """How trainings within the block go about it, over what was said around it; yields both.

    TypeError: of a word that ``How`` has not.
    """
    if unknown := sorted(how.keys() - How.__annotations__.keys()):
        known = ", ".join(How.__annotations__)
        raise TypeError(f"a training has no option {', '.join(unknown)}; leave it out, or give one of {known}")
    token = _HOW.set({**_HOW.get(How()), **how})
    try:
        yield _HOW.get()
    finally:
        _HOW.reset(token)


def trained_as(settings: Settings, how: How) -> TrainSettings:
    """The training of a run as far as it is known before its samples are. ValueError: it makes no sense."""
    return TrainSettings(
        sources=(TrainSource(shards="."),),
        scale=settings.scale,
        overrides=settings.recipe_changes,
        seed=settings.seed,
        loss=settings.loss,
        decoder=settings.decoder,
        caption_from=settings.caption_from or [],
        caption_weights=settings.caption_weights or [],
        **how,
    )


@contextmanager
def trained_by(start: Launch) -> Iterator[None]:
    """Trainings within the block are started so, and not as ``dcfast.train.launch`` does it: one after the other."""
    token = _LAUNCH.set(start)
    try:
        yield
    finally:
        _LAUNCH.reset(token)


def trains_here() -> bool:
    """Whether this process starts its trainings by itself."""
    return _LAUNCH.get(None) is None


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
    overrides: Mapping[str, Override],
    seed: int,
    loss: str,
    decoder: str,
    device: str,
    caption_from: Sequence[str] | None = None,
    caption_weights: Sequence[float] | None = None,
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
        caption_from=list(caption_from or ()),
        caption_weights=list(caption_weights or ()),
        **_HOW.get(How()),
    )
    identity = {**msgspec.to_builtins(settings.identity()), "source": source, **_samples(out, segments, source)}
    mark = out / IDENTITY
    busy = f"{out}: another training is at work there; wait for it"
    with locked(make_directory(out / "train", "out") / LOCK_NAME, busy):
        if tables := caption_tables(settings.captions(), out / "train" / "sources"):
            identity[CAPTIONS] = [*tables.values()]
        if not equals_json(mark, json.loads(json.dumps(identity))):
            # without a mark it is somebody's own training: its checkpoints say whether it is this one
            for name in CHECKPOINTED if mark.exists() else ():
                place = out / "train" / name
                shutil.rmtree(place, ignore_errors=True)
                place.unlink(missing_ok=True)
            write_json(mark, identity)
    if settings.copy_to is not None:  # another training there would be taken for this one
        name = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:12]
        settings = replace(settings, copy_to=f"{settings.copy_to.rstrip('/')}/train-{name}")
    return _LAUNCH.get(launch)(settings)


def _refuse_too_few(chosen: FilterSummary, batch: int) -> None:
    """NothingKeptError, TooFewKeptError where the filter stage kept nothing, or less than a batch.

    The message has the rule that dropped the most and the commonest reasons; what a run says of the filter at its end
    goes with the error.
    """
    kept = chosen.fates.get("kept", 0)
    samples = max(kept, chosen.subset or 0)  # copies may have been drawn of what is kept
    if kept and samples >= batch:
        return
    common = commonest_reasons(chosen)[:3]
    named = ", ".join(f"{why} ({count:,})" for why, count in common)
    parts = [dropped_most(chosen), f"the commonest reasons: {named}" if named else ""]
    reasons = "".join(f"; {part}" for part in parts if part)
    counts = ", ".join(f"{chosen.fates.get(name, 0):,} {name}" for name in FATES)
    todo = advice_on(common[0][0]) if common else ""
    error: TooFewKeptError
    if not kept:
        todo = f". What to do: {todo}" if todo else ""
        error = NothingKeptError(
            f"nothing to train on: the filter {chosen.filter!r} kept no sample ({counts}){reasons}{todo}"
        )
    else:
        todo = f"{todo}; or " if todo else ""
        error = TooFewKeptError(
            f"too few to train on: the filter {chosen.filter!r} kept {samples:,} samples, fewer than one batch of "
            f"{batch:,}, which must not repeat a sample for want of others ({counts}){reasons}. What to do: {todo}take "
            f"a smaller batch (--set global_batch={smaller_batch(samples)})"
        )
    error.outcome = "\n".join(outcome_lines(chosen))
    raise error


def steps(run: Run, do: Do) -> TrainingSummary:
    """The order, then the training."""
    if run.has_summary("filter"):
        _refuse_too_few(run.summary(FilterSummary), run.settings.recipe().global_batch)
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
    for path in caption_paths(settings.caption_from):
        inputs += caption_files(path)
    last = f"train/checkpoints/epoch_{settings.recipe().checkpoints}.pt"
    train = train_subset.piece("train/train", "train", inputs=inputs, outputs=[last, "train/summary.json"])
    training = train(
        source=settings.train_from,
        segments=segments,
        shard_dir=shard_dir,
        scale=settings.scale,
        recipe=scale(settings.scale).fingerprint(),
        overrides=settings.recipe_changes,
        seed=settings.seed,
        loss=settings.loss,
        decoder=settings.decoder,
        device=settings.device,
        caption_from=settings.caption_from,
        caption_weights=settings.caption_weights,
    )
    with train_with(**_scored(run)):
        return do.one(training)


def _scored(run: Run) -> How:
    """What checkpoints are scored on while the training goes on, where they are."""
    how = _HOW.get(How())
    if how.get("evaluate_every") is None:
        return How()
    return How(evaluate_on=str(run.evalset_dir), evaluate_sets=how.get("evaluate_sets") or run.settings.sets)
