"""Stage ``evaluate``: the trained model's score on every evaluation set. Writes ``eval_results.jsonl`` and more.

One piece, which itself goes on set by set: what a killed run had scored is kept. The results of a checkpoint lie in
``evaluate/HASH16``; the copies that the report reads are those of the run's last checkpoint.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from dcfast.engine.piece import piece
from dcfast.errors import RunError
from dcfast.evaluate import evaluate_model
from dcfast.evaluate.evalset import evalset_files
from dcfast.evaluate.evaluation import BAD_SET
from dcfast.evaluate.tasks import OWN_TABLE, chosen_tasks, used_plugins
from dcfast.models.clip import load_model
from dcfast.models.devices import resolve_device, resolve_precision
from dcfast.plugins import PluginUse
from dcfast.process.advance import tell_advance
from dcfast.rundir.run_dir import Run
from dcfast.rundir.summaries import EvaluateSummary, read_summary
from dcfast.rundir.training_summary import TrainingSummary
from dcfast.stages.runner import Do

TRAIN_SUMMARY = "train/summary.json"


@piece()
def evaluate_checkpoint(
    out: Path,
    model: str,
    checkpoint: str,
    sha256: str | None,
    evalset_dir: str,
    device: str,
    precision: str,
    strict: bool,
    sets: list[str] | None = None,
    limit: int | None = None,
    non_standard: str | None = None,
    plugins: Sequence[PluginUse] = (),
) -> EvaluateSummary:
    """Piece: one checkpoint on all sets: scores and averages, the details are in the files.

    Args:
        non_standard: what of the recipe is not the scale's own, in words.
        plugins: that describe sets, for the piece's key.
    """
    del plugins
    resolved = resolve_device(device)
    kind, amp = resolve_precision(precision, resolved)
    tell_advance(0, 1, "models", f"building {model}")
    clip = load_model(model, str(out / checkpoint), device=resolved, precision=kind)
    if sha256 is not None and clip.content_hash != sha256:
        raise RunError(
            f"{out / checkpoint} is not the file that the training wrote (another hash); run train again (--from train)"
        )
    summary = evaluate_model(
        clip, evalset_dir, out, strict=strict, amp=amp, sets=sets, limit=limit, non_standard=non_standard
    )
    scored = [result for result in summary.tasks if result.error is None]
    return EvaluateSummary(
        available=True,
        scores={result.key: result.score for result in scored},
        chance={result.key: result.chance for result in scored},
        checkpoint=summary.checkpoint,
        model=summary.model,
        results=summary.results,
        averages=summary.averages,
        own_average=summary.own_average,
        missing=summary.missing,
        failed=summary.failed,
        partial=summary.partial,
        unlisted=summary.unlisted,
        pictures=sum(result.pictures or 0 for result in scored),
        unreadable=sum(result.unreadable or 0 for result in scored),
        notes=summary.notes,
        limit=summary.limit,
        non_standard=non_standard,
    )


def _files(directory: Path, sets: list[str] | None) -> tuple[str, ...]:
    """What the scores depend on; of a set whose files cannot be listed, none: mended, it has more, and is scored."""
    files = [str(directory / OWN_TABLE)] if (directory / OWN_TABLE).exists() else []
    for _, folder in chosen_tasks(directory, sets):
        with suppress(*BAD_SET):
            files += evalset_files(folder)
    return tuple(files)


def steps(run: Run, do: Do) -> EvaluateSummary:
    """The one piece. Without evaluation sets there is nothing to do."""
    if run.evalset_dir is None:
        return EvaluateSummary()
    run.summary(TrainingSummary)  # RunError where there is no training yet
    trained = read_summary(run.out / TRAIN_SUMMARY, TrainingSummary)
    scores = evaluate_checkpoint.piece(
        "evaluate/scores",
        "scores",
        inputs=[trained.checkpoint, *_files(run.evalset_dir, run.settings.sets)],
        outputs=["eval_results.jsonl", "evaluate/summary.json"],
    )
    return do.one(
        scores(
            model=trained.model,
            checkpoint=trained.checkpoint,
            sha256=trained.checkpoint_sha256,
            evalset_dir=str(run.evalset_dir),
            device=run.settings.device,
            precision=run.settings.precision,
            strict=run.settings.strict,
            sets=run.settings.sets,
            limit=run.settings.limit,
            non_standard="; ".join(run.settings.departures()) or None,
            plugins=tuple(used_plugins(run.evalset_dir)),
        )
    )
