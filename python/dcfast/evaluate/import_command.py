"""``dcfast evalsets import FOLDER --out EVALSETS``: the command line."""

from __future__ import annotations

import argparse

from dcfast.evaluate.import_set import EvalsetOptions, EvalsetReport, import_evalset
from dcfast.process.exit_codes import DONE
from dcfast.process.options import add_options, given_options, made_of
from dcfast.process.parser import ArgumentParser
from dcfast.process.terminal import say


def parser() -> ArgumentParser:
    """The command line."""
    p = ArgumentParser(
        prog="dcfast evalsets import",
        description="Make an evaluation set of class folders, of a table of files and labels, or of captions.",
        epilog="It is scored beside DataComp's sets, and is in none of its averages. Docs: docs/import.md.",
    )
    add_options(p, EvalsetOptions)
    return p


def run(arguments: argparse.Namespace) -> int:
    """Does what a command line asks for; returns the exit status."""
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
