"""``dcfast evalsets convert SOURCE --out DIR``: the command line."""

from __future__ import annotations

import argparse

from dcfast.evaluate.convert_sets import ConvertOptions, ConvertReport, convert_sets
from dcfast.process.exit_codes import DONE, FAILED
from dcfast.process.options import add_options, given_options, made_of
from dcfast.process.parser import ArgumentParser
from dcfast.process.terminal import say


def parser() -> ArgumentParser:
    """The command line."""
    p = ArgumentParser(
        prog="dcfast evalsets convert",
        description="Make evaluation sets of what DataComp's download or CLIP_benchmark left on a disk; no network.",
        epilog="The same command goes on where it was stopped, set by set. Docs: docs/evaluation.md.",
    )
    add_options(p, ConvertOptions)
    return p


def run(arguments: argparse.Namespace) -> int:
    """Does what a command line asks for; returns the exit status."""
    options = made_of(ConvertOptions, given_options(arguments, ConvertOptions))
    report = convert_sets(options)
    say("\n".join(_lines(options, report)))
    for key, reason in report.failed.items():
        say(f"error: evaluation set {key} was passed over: {reason}", error=True)
    return FAILED if report.failed else DONE


def _lines(options: ConvertOptions, report: ConvertReport) -> list[str]:
    counts = {"linked": report.linked, "copied": report.copied, "written": report.written}
    files = ", ".join(f"{count:,} {what}" for what, count in counts.items() if count)
    made = f"made ({len(report.made)}): {', '.join(report.made)}; files: {files}" if report.made else ""
    kept = f"there already ({len(report.kept)}): {', '.join(report.kept)}" if report.kept else ""
    there = f"next: dcfast evalsets verify {options.out}" if report.made or report.kept else ""
    lines = [made, kept, *(f"note: {note}" for note in report.notes), report.missing, there]
    return [line for line in lines if line]
