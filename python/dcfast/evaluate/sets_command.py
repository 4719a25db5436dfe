"""``dcfast evalsets import FOLDER --out EVALSETS`` and ``dcfast evalsets sign SETS --out FILE``: the command lines."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from dcfast.dedup.signature_file import SignedSet
from dcfast.errors import did_you_mean
from dcfast.evaluate.import_set import EvalsetOptions, EvalsetReport, import_evalset
from dcfast.evaluate.sign_sets import SignOptions, sign_evalsets
from dcfast.process.command import run_command
from dcfast.process.exit_codes import DONE
from dcfast.process.options import add_options, given_options, made_of
from dcfast.process.parser import ArgumentParser
from dcfast.process.terminal import log_printably, say

ACTIONS = ("import", "sign")


def parser() -> ArgumentParser:
    """The command line of ``dcfast evalsets import``."""
    p = ArgumentParser(
        prog="dcfast evalsets import",
        description="Make an evaluation set of class folders, of a table of files and labels, or of captions.",
        epilog="It is scored beside DataComp's sets, and is in none of its averages. Docs: docs/import.md.",
    )
    add_options(p, EvalsetOptions)
    return p


def sign_parser() -> ArgumentParser:
    """The command line of ``dcfast evalsets sign``."""
    p = ArgumentParser(
        prog="dcfast evalsets sign",
        description="Write hashes and descriptors of evaluation sets to a file, by which their pictures are found in a "
        "pool without the sets.",
        epilog="The same command goes on where it was stopped, set by set. Docs: docs/decontaminate.md.",
    )
    add_options(p, SignOptions)
    return p


def main(argv: Sequence[str] | None = None) -> int:
    """Entry of ``dcfast evalsets``; returns the exit status."""
    p = ArgumentParser(
        prog="dcfast evalsets",
        description="Evaluation sets of one's own, and files to find evaluation pictures by.",
        epilog="Docs: docs/import.md.",
    )
    p.add_argument(
        "action",
        help="import FOLDER, or sign SETS: `dcfast evalsets import --help` lists the options of it",
    )
    p.add_argument("rest", nargs=argparse.REMAINDER, help=argparse.SUPPRESS).required = False
    given = p.parse_args(argv)
    if given.action not in ACTIONS:
        hint = did_you_mean(given.action, ACTIONS)
        p.error(f"expected {' or '.join(ACTIONS)} as the first word; got {given.action!r}{hint}")
    rest: list[str] = given.rest
    if given.action == "sign":
        signing = sign_parser().parse_args(rest)
        return run_command(lambda: _sign(signing), "stopped; the same command goes on where it was")
    arguments = parser().parse_args(rest)
    return run_command(lambda: _main(arguments), "stopped; nothing was made of it: give the same command again")


def _main(arguments: argparse.Namespace) -> int:
    log_printably()
    options = made_of(EvalsetOptions, given_options(arguments, EvalsetOptions))
    say("\n".join(_lines(options, import_evalset(options))))
    return DONE


def _sign(arguments: argparse.Namespace) -> int:
    log_printably()
    options = made_of(SignOptions, given_options(arguments, SignOptions))
    say("\n".join(_signed_lines(options, sign_evalsets(options))))
    return DONE


def _signed_lines(options: SignOptions, signed: list[SignedSet]) -> list[str]:
    return [
        *(
            f"{one.name}: {one.pictures:,} pictures, {one.unreadable:,} unreadable, {one.flat:,} flat; fingerprint "
            f"{one.fingerprint[:16]}"
            for one in signed
        ),
        *(
            f"note: {one.name}: {file} {message}; pictures of it may be missing"
            for one in signed
            for file, message in one.damage
        ),
        f"next: dcfast decontaminate POOL --against {options.out} --out found",
    ]


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
