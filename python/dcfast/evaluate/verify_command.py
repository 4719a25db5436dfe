"""``dcfast evalsets verify DIR``: the command line."""

from __future__ import annotations

import argparse
from collections.abc import Iterator

from dcfast.evaluate.verify_sets import Verdict, VerifyOptions, VerifyReport, verify_sets
from dcfast.hub import LOCK_FILE
from dcfast.process.exit_codes import DONE, FAILED
from dcfast.process.options import add_options, given_options, made_of
from dcfast.process.parser import ArgumentParser
from dcfast.process.terminal import say

_SHOWN = 10
"""Problems of a set that are said."""


def parser() -> ArgumentParser:
    """The command line."""
    p = ArgumentParser(
        prog="dcfast evalsets verify",
        description="Compare evaluation sets with what was fetched or converted, and read each as evaluation does.",
        epilog="Exit status 1 where anything is wrong. Docs: docs/evaluation.md.",
    )
    add_options(p, VerifyOptions)
    return p


def run(arguments: argparse.Namespace) -> int:
    """Does what a command line asks for; returns the exit status."""
    options = made_of(VerifyOptions, given_options(arguments, VerifyOptions))
    report = verify_sets(options)
    say("\n".join(_lines(report)))
    wrong = [verdict for verdict in report.verdicts if verdict.problems]
    for verdict in wrong:
        for problem in _shown(verdict):
            say(f"error: evaluation set {verdict.key}: {problem}", error=True)
    for name in report.gone:
        say(f"error: {name} is in {LOCK_FILE} and is not there; fetch it again", error=True)
    return DONE if report.is_right(complete=options.complete) else FAILED


def _shown(verdict: Verdict) -> Iterator[str]:
    yield from verdict.problems[:_SHOWN]
    if len(verdict.problems) > _SHOWN:
        yield f"{len(verdict.problems) - _SHOWN:,} more problems"


def _lines(report: VerifyReport) -> Iterator[str]:
    for verdict in report.verdicts:
        state = f"{len(verdict.problems):,} problems" if verdict.problems else f"whole, {verdict.pictures:,} pictures"
        by = f"as in {verdict.by}" if verdict.by else "no hashes to compare with"
        yield f"{verdict.key}: {state}; {by}" if not verdict.problems else f"{verdict.key}: {state}"
        yield from (f"note: {verdict.key}: {note}" for note in verdict.notes)
    if report.missing:
        yield report.missing
