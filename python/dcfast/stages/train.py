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
from pathlib import Path
from typing import Any

import msgspec

from dcfast.engine.piece import Piece
from dcfast.errors import SubsetError
from dcfast.index.segments import Segment
from dcfast.models.devices import resolve_device
from dcfast.rundir.layout import FATES, PLAN_ARRAYS, segment_path
from dcfast.rundir.run_dir import Run
from dcfast.rundir.summaries import equals_json
from dcfast.scales import scale
from dcfast.stages.reshard import plan_arguments, plan_inputs, plan_kept
from dcfast.stages.runner import Steps
from dcfast.storage.atomic import write_json
from dcfast.storage.hashing import sha256_file
from dcfast.storage.lock import locked
from dcfast.storage.paths import LOCK_NAME, make_directory
from dcfast.train import TrainSettings, TrainSource, launch, write_positions

__all__ = ["POSITIONS", "steps", "train_with"]

POSITIONS = "train/positions.npy"
IDENTITY = "train/identity.json"
CHECKPOINTED = ("checkpoints", "log.jsonl", "summary.json", "timing.json")
"""What belongs to one training: removed where another one begins in the same run directory."""


_how: dict[str, Any] = {}


def train_with(**how: Any) -> dict[str, Any]:
    """How trainings of this process go about it from now on; all that was said so far.

    Args:
        how: fields of ``TrainSettings`` that change no result: ``threads``, ``save_every_minutes``.
    """
    _how.update(how)
    return dict(_how)


def plan_positions(out: str, args: dict[str, Any]) -> dict[str, Any]:
    """Piece: the canonical order of the kept samples: that of the new shards, written or not."""
    root = Path(out)
    plan, subset = plan_kept(root, args)
    return {"positions": write_positions(plan, subset, root / POSITIONS)}


def _samples(root: Path, args: dict[str, Any]) -> dict[str, Any]:
    """What is trained on, by content: where it is the same though a stage ran again, the training goes on.

    The subset alone does not say it: rows in quarantine whose uid is kept all the same are left out of the order.
    """
    index = hashlib.sha256()
    for number in range(args["segments"]):
        index.update(bytes.fromhex(Segment.open(root / segment_path(number), verify=False).content_digest()))
    order = ("subset.npy", *PLAN_ARRAYS) if args["source"] == "shards" else (POSITIONS,)
    return {"index": index.hexdigest(), "order": [sha256_file(root / name) for name in order]}


def train_subset(out: str, args: dict[str, Any]) -> dict[str, Any]:
    """Piece: the training; returns its summary."""
    root = Path(out)
    if args["source"] == "shards":
        source = TrainSource(shards=str(root / "shards"))
    else:
        source = TrainSource(index=str(root / "index"), shards_dir=args["shard_dir"], positions=str(root / POSITIONS))
    settings = TrainSettings(
        out=out,
        sources=(source,),
        scale=args["scale"],
        overrides=args["overrides"],
        seed=args["seed"],
        loss=args["loss"],
        decoder=args["decoder"],
        device=resolve_device(args["device"]),
        **_how,
    )
    identity = {**msgspec.to_builtins(settings.identity()), "source": args["source"], **_samples(root, args)}
    mark = root / IDENTITY
    busy = f"{root}: another training is at work there; wait for it"
    with locked(make_directory(root / "train", "out") / LOCK_NAME, busy):
        if not equals_json(mark, json.loads(json.dumps(identity))):
            # without a mark it is somebody's own training: its checkpoints say whether it is this one
            for name in CHECKPOINTED if mark.exists() else ():
                place = root / "train" / name
                shutil.rmtree(place, ignore_errors=True)
                place.unlink(missing_ok=True)
            write_json(mark, identity)
    summary: dict[str, Any] = msgspec.to_builtins(launch(settings))
    return summary


def _refuse_nothing(chosen: dict[str, Any]) -> None:
    """SubsetError with the commonest reasons where the filter stage kept nothing.

    Args:
        chosen: the summary of the filter stage.
    """
    fates = chosen["fates"]
    if fates.get("kept"):
        return
    reasons = dict(chosen.get("reasons") or {})
    if fates.get("missing"):
        reasons["metadata rows without a sample"] = fates["missing"]
    common = sorted(reasons.items(), key=lambda item: (-item[1], item[0]))[:3]
    words = "; the commonest reasons: " + ", ".join(f"{why} ({count:,})" for why, count in common) if common else ""
    counts = ", ".join(f"{fates.get(name, 0):,} {name}" for name in FATES)
    raise SubsetError(f"nothing to train on: the filter {chosen['filter']!r} kept no sample ({counts}){words}")


def steps(run: Run) -> Steps:
    """The order, then the training."""
    if run.has_summary("filter"):
        _refuse_nothing(run.summary("filter"))
    settings, segments = run.settings, len(run.pool.segments())
    shard_dir = str(run.pool.shard_dir)
    inputs: tuple[str, ...]
    if settings.train_from == "shards":
        count = run.summary("reshard")["output_shards"]
        inputs = ("subset.npy", *(f"shards/{k:08d}.tar" for k in range(count)))
    else:
        yield [
            Piece(
                "train/order",
                "positions",
                "dcfast.stages.train:plan_positions",
                plan_arguments(run),
                inputs=plan_inputs(run),
                outputs=(POSITIONS,),
            )
        ]
        inputs = ("subset.npy", POSITIONS, *(segment_path(n) for n in range(segments)))
    recipe = scale(settings.scale)
    last = f"train/checkpoints/epoch_{recipe.checkpoints}.pt"
    [summary] = yield [
        Piece(
            "train/train",
            "train",
            "dcfast.stages.train:train_subset",
            {
                "source": settings.train_from,
                "segments": segments,
                "shard_dir": shard_dir,
                "scale": settings.scale,
                "recipe": recipe.fingerprint(),
                "overrides": {} if settings.samples_seen is None else {"samples_seen": settings.samples_seen},
                "seed": settings.seed,
                "loss": settings.loss,
                "decoder": settings.decoder,
                "device": settings.device,
            },
            inputs=inputs,
            outputs=(last, "train/summary.json"),
        )
    ]
    return summary
