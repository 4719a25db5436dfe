"""Stage ``evaluate``: the trained model's score on every evaluation set. Writes ``eval_results.jsonl`` and more.

One piece, which itself goes on set by set: what a killed run had scored is kept. The results of a checkpoint lie in
``evaluate/HASH16``; the copies that the report reads are those of the run's last checkpoint.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

from dcfast.engine.piece import Piece
from dcfast.errors import RunError
from dcfast.evaluate import evaluate_model
from dcfast.evaluate.evalset import evalset_files
from dcfast.evaluate.evaluation import BAD_SET
from dcfast.evaluate.tasks import OWN_TABLE, find_tasks
from dcfast.models.clip import load_model
from dcfast.models.devices import resolve_device, resolve_precision
from dcfast.rundir.run_dir import Run
from dcfast.rundir.summaries import load_object
from dcfast.stages.runner import Steps

__all__ = ["evaluate_checkpoint", "steps"]

TRAIN_SUMMARY = "train/summary.json"


def evaluate_checkpoint(out: str, args: dict[str, Any]) -> dict[str, Any]:
    """Piece: one checkpoint on all sets; returns scores and averages, the details are in the files."""
    device = resolve_device(args["device"])
    precision, amp = resolve_precision(args["precision"], device)
    clip = load_model(args["model"], str(Path(out) / args["checkpoint"]), device=device, precision=precision)
    if args["sha256"] is not None and clip.content_hash != args["sha256"]:
        raise RunError(
            f"{Path(out) / args['checkpoint']} is not the file that the training wrote (another hash); "
            "run train again (--from train)"
        )
    summary = evaluate_model(clip, args["evalset_dir"], out, strict=args["strict"], amp=amp)
    scored = [result for result in summary.tasks if result.error is None]
    return {
        "available": True,
        "checkpoint": summary.checkpoint,
        "model": summary.model,
        "results": summary.results,
        "averages": summary.averages,
        "own_average": summary.own_average,
        "missing": summary.missing,
        "failed": summary.failed,
        "partial": summary.partial,
        "unlisted": summary.unlisted,
        "scores": {result.key: result.score for result in scored},
        "chance": {result.key: result.chance for result in scored},
        "pictures": sum(result.pictures or 0 for result in scored),
        "unreadable": sum(result.unreadable or 0 for result in scored),
        "notes": summary.notes,
    }


def _files(directory: Path) -> tuple[str, ...]:
    """What the scores depend on; of a set whose files cannot be listed, none: mended, it has more, and is scored."""
    found = [str(directory / OWN_TABLE)] if (directory / OWN_TABLE).exists() else []
    for _, folder in find_tasks(directory):
        with suppress(*BAD_SET):
            found += evalset_files(folder)
    return tuple(found)


def steps(run: Run) -> Steps:
    """The one piece. Without evaluation sets there is nothing to do."""
    if run.evalset_dir is None:
        return {"available": False, "scores": {}, "notes": []}
    run.summary("train")  # RunError where there is no training yet
    trained = load_object(run.out / TRAIN_SUMMARY, "train/summary")
    files = _files(run.evalset_dir)
    stats = yield [
        Piece(
            "evaluate/scores",
            "scores",
            "dcfast.stages.evaluate:evaluate_checkpoint",
            {
                "model": trained["model"],
                "checkpoint": trained["checkpoint"],
                "sha256": trained.get("checkpoint_sha256"),
                "evalset_dir": str(run.evalset_dir),
                "device": run.settings.device,
                "precision": run.settings.precision,
                "strict": run.settings.strict,
            },
            inputs=(trained["checkpoint"], *files),
            outputs=("eval_results.jsonl", "evaluate/summary.json"),
        )
    ]
    return stats[0]
