"""``dcfast evalsets fetch --out DIR``: the command line."""

from __future__ import annotations

import argparse
from functools import partial

from dcfast.evaluate.fetch_sets import FetchOptions, fetch_sets
from dcfast.process.exit_codes import DONE, FAILED
from dcfast.process.options import add_options, given_options, made_of
from dcfast.process.parser import ArgumentParser
from dcfast.process.terminal import say


def parser() -> ArgumentParser:
    """The command line."""
    p = ArgumentParser(
        prog="dcfast evalsets fetch",
        description="Fetch DataComp's 40 evaluation sets from Hugging Face's hub, verified, as they are scored.",
        epilog="The same command goes on where it was stopped; HF_ENDPOINT names another hub. Docs: docs/evaluation.md",
    )
    add_options(p, FetchOptions)
    return p


def run(arguments: argparse.Namespace) -> int:
    """Does what a command line asks for; returns the exit status."""
    options = made_of(FetchOptions, given_options(arguments, FetchOptions))
    report = fetch_sets(options, (lambda line: None) if options.quiet else partial(say, error=True))
    whole = f"whole ({len(report.whole)}): {', '.join(report.whole)}" if report.whole else ""
    verify = f"next: dcfast evalsets verify {options.out}" if report.whole else ""
    for line in (whole, *(f"note: {note}" for note in report.notes), report.missing, verify):
        if line:
            say(line)
    for key, reason in report.failed.items():
        say(f"error: evaluation set {key} was not fetched: {reason}", error=True)
    return FAILED if report.failed else DONE
