"""``dcfast evalsets import FOLDER --out EVALSETS``: the command line."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from dcfast.evaluate.import_set import EvalsetOptions, EvalsetReport, import_evalset
from dcfast.process.command import run_command
from dcfast.process.exit_codes import DONE
from dcfast.process.options import add_options, given_options, made_of
from dcfast.process.parser import ArgumentParser
from dcfast.process.terminal import log_printably, say


def parser() -> argparse.ArgumentParser:
    """The command line of ``dcfast evalsets import``."""
    p = ArgumentParser(
        prog="dcfast evalsets import",
        description="Make an evaluation set of class folders, of a table of files and labels, or of captions.",
        epilog="It is scored beside DataComp's sets, and is in none of its averages. Docs: docs/import.md.",
    )
    add_options(p, EvalsetOptions)
    return p


def main(argv: Sequence[str] | None = None) -> int:
    """Entry of ``dcfast evalsets``; returns the exit status."""
    p = ArgumentParser(
        prog="dcfast evalsets", description="Evaluation sets of one's own.", epilog="Docs: docs/import.md."
    )
    p.add_argument(
        "action", choices=("import",), help="import FOLDER: `dcfast evalsets import --help` lists its options"
    )
    p.add_argument("rest", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    rest: list[str] = p.parse_args(argv).rest
    arguments = parser().parse_args(rest)
    return run_command(lambda: _main(arguments), "stopped; nothing was made of it: give the same command again")


def _main(arguments: argparse.Namespace) -> int:
    log_printably()
    options = made_of(EvalsetOptions, given_options(arguments, EvalsetOptions))
    say("\n".join(_lines(options, import_evalset(options))))
    return DONE


def _lines(options: EvalsetOptions, report: EvalsetReport) -> list[str]:
    classes = f", {report.classes:,} classes" if report.classes else ""
    sets, model = options.out, "--model NAME --checkpoint FILE"
    return [
        f"evaluation set {report.name}: {report.kind}, {report.pictures:,} pictures{classes}",
        *(f"passed over: {line}" for line in report.passed.lines),
        *(f"note: {note}" for note in report.notes),
        "it is scored under its own name, and is in none of DataComp's averages",
        f"next: dcfast evaluate {model} --evalsets {sets} --out scores    (or dcfast run ... --evalsets {sets})",
    ]
