"""``python -m dcfast.evaluate``: scores a checkpoint on a directory of evaluation sets."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from dcfast.engine.progress import Progress, Silent
from dcfast.evaluate.evaluation import check_evalsets, evaluate_model
from dcfast.evaluate.results import RESULTS, EvaluationSummary
from dcfast.models.clip import load_model
from dcfast.models.devices import resolve_device, resolve_precision
from dcfast.process.advance import tell_advance
from dcfast.process.command import run_command
from dcfast.process.exit_codes import DONE, FAILED
from dcfast.process.options import add_options, made_of, option
from dcfast.process.parser import ArgumentParser
from dcfast.process.shared_options import DEVICE, EVAL_LIMIT, EVAL_SETS, PRECISION
from dcfast.process.terminal import log_printably, say
from dcfast.storage.config import add_config, given_and_config
from dcfast.storage.paths import make_directory, not_left_empty, path_argument


@dataclass(frozen=True)
class EvaluateOptions:
    """A model, the sets it is scored on, and how."""

    model: str = option("", "an open_clip model, or dcfast-tiny", required=True)
    checkpoint: str | None = option(
        None,
        "a .pt or .safetensors file, or a tag of open_clip",
        metavar="FILE",
        usual="untrained",
        parse=path_argument,
    )
    evalsets: str = option("", "holds the wds_*_test directories", metavar="DIR", parse=path_argument, required=True)
    out: str = option(
        "", "the results go here, apart for each checkpoint", metavar="DIR", parse=path_argument, required=True
    )
    device: str = option("auto", DEVICE)
    precision: str = option("auto", PRECISION)
    batch_size: int = option(64, "pictures at a time")
    workers: int = option(0, "decoding threads", usual="one per core")
    strict: bool = option(False, "a set with a damaged shard is not scored")
    sets: list[str] | None = option(None, EVAL_SETS)
    limit: int | None = option(None, EVAL_LIMIT)
    quiet: bool = option(False, "no progress")


def parser() -> ArgumentParser:
    """The command line."""
    p = ArgumentParser(
        prog="python -m dcfast.evaluate",
        description="Zero-shot scores of a CLIP model on local evaluation sets (wds_*_test directories).",
        epilog="The same command resumes an evaluation that was stopped. Docs: docs/evaluation.md.",
    )
    add_config(p)
    add_options(p, EvaluateOptions)
    return p


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _table(summary: EvaluationSummary) -> list[str]:
    rows = [
        (result.dataset, _number(result.score), _number(result.chance), result.main_metric_name or "-")
        for result in summary.tasks
        if result.error is None
    ]
    rows = [("task", "score", "chance", "metric"), *rows]
    width = max(len(row[0]) for row in rows)
    lines = [f"{task:<{width}}  {score:>7}  {chance:>7}  {metric}" for task, score, chance, metric in rows]
    lines += [f"{name}: {value:.4f}" for name, value in summary.averages.items() if value is not None]
    if summary.own_average is not None:
        lines.append(f"average of the sets of tasks.json: {summary.own_average:.4f}")
    if summary.unlisted:
        lines.append(f"sets of one's own, in none of DataComp's averages: {', '.join(summary.unlisted)}")
    return [*lines, *_why_no_average(summary)]


def _why_no_average(summary: EvaluationSummary) -> list[str]:
    if summary.limit is not None:
        return [f"no averages: at most {summary.limit:,} pictures of each set were scored (--limit)"]
    benchmark = [result for result in summary.tasks if result.benchmark]
    bad = [result.key for result in benchmark if result.error is not None]
    if not benchmark:
        reason = "none of DataComp's tasks is here"
    elif summary.missing or bad:
        reason = "; ".join(
            f"{len(keys)} of DataComp's 40 {what}: {', '.join(keys)}"
            for keys, what in ((summary.missing, "are missing"), (bad, "could not be scored"))
            if keys
        )
    elif summary.averages["Average"] is None:
        reason = f"these are not whole: {', '.join(summary.partial)}"
    else:
        return []
    return [f"no average over the 38: {reason}"]


def main(argv: Sequence[str] | None = None) -> int:
    """Entry of ``python -m dcfast.evaluate``; returns the exit status."""
    args = parser().parse_args(argv)
    return run_command(lambda: _main(args), "stopped; the same command resumes")


def _main(arguments: argparse.Namespace) -> int:
    log_printably()
    args = made_of(EvaluateOptions, given_and_config(arguments, EvaluateOptions))
    device = resolve_device(args.device)
    precision, amp = resolve_precision(args.precision, device)
    check_evalsets(args.evalsets, args.sets)  # before the model is loaded, which takes longer
    with not_left_empty(args.out):
        make_directory(args.out, "--out")
        with (Silent if args.quiet else Progress)("evaluate", total=1, pieces=1):
            tell_advance(0, 1, "models", f"building {args.model}")
            clip = load_model(args.model, args.checkpoint, device=device, precision=precision)
            summary = evaluate_model(
                clip,
                args.evalsets,
                args.out,
                batch_size=args.batch_size,
                threads=args.workers or None,
                strict=args.strict,
                amp=amp,
                sets=args.sets,
                limit=args.limit,
                say=(lambda line: None) if args.quiet else partial(say, error=True),
            )
    say("\n".join([*_table(summary), *(f"note: {note}" for note in summary.notes)]))
    say(f"results: {args.out}/{summary.results} (and {RESULTS} beside)")
    if summary.left_out:
        say(f"not asked for (--sets), part of nothing here: {', '.join(summary.left_out)}")
    for key, reason in summary.failed.items():
        say(f"error: evaluation set {key} could not be scored: {reason}", error=True)
    return FAILED if summary.failed else DONE


if __name__ == "__main__":
    sys.exit(main())
