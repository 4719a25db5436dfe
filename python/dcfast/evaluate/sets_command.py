"""``dcfast evalsets ACTION ...``: a command line for each action."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from typing import NamedTuple

from dcfast.errors import did_you_mean
from dcfast.evaluate import convert_command, fetch_command, import_command, pack_command, sign_command, verify_command
from dcfast.process.command import run_command
from dcfast.process.parser import ArgumentParser
from dcfast.process.terminal import log_printably


class Action(NamedTuple):
    """``form``: what follows ``dcfast evalsets``.   ``stopped``: what is said where a signal stops it."""

    form: str
    parser: Callable[[], ArgumentParser]
    run: Callable[[argparse.Namespace], int]
    stopped: str


_GOES_ON = "stopped; the same command goes on where it was"
_ANEW = "stopped; nothing was made of it: give the same command again"
ACTIONS = {
    "fetch": Action("fetch --out DIR", fetch_command.parser, fetch_command.run, _GOES_ON),
    "convert": Action("convert SOURCE --out DIR", convert_command.parser, convert_command.run, _GOES_ON),
    "verify": Action("verify DIR", verify_command.parser, verify_command.run, "stopped"),
    "pack": Action("pack DIR --out FILE.tar", pack_command.pack_parser, pack_command.pack, _ANEW),
    "unpack": Action("unpack FILE.tar --out DIR", pack_command.unpack_parser, pack_command.unpack, _GOES_ON),
    "import": Action("import FOLDER --out EVALSETS", import_command.parser, import_command.run, _ANEW),
    "sign": Action("sign SETS --out FILE", sign_command.parser, sign_command.run, _GOES_ON),
}


def parsers() -> list[ArgumentParser]:
    """The command line of each action; ``prog`` is its words."""
    return [action.parser() for action in ACTIONS.values()]


def main(argv: Sequence[str] | None = None) -> int:
    """Entry of ``dcfast evalsets``; returns the exit status."""
    p = ArgumentParser(
        prog="dcfast evalsets",
        description="Evaluation sets: got, checked, carried to other machines, made of your own; and files to find "
        "their pictures by.",
        epilog="Docs: docs/evaluation.md, docs/import.md.",
    )
    forms = "; ".join(action.form for action in ACTIONS.values())
    p.add_argument("action", help=f"{forms}: `dcfast evalsets import --help` lists the options of one")
    p.add_argument("rest", nargs=argparse.REMAINDER, help=argparse.SUPPRESS).required = False
    given = p.parse_args(argv)
    action = ACTIONS.get(given.action)
    if action is None:
        hint = did_you_mean(given.action, ACTIONS)
        p.error(f"expected one of {', '.join(ACTIONS)} as the first word; got {given.action!r}{hint}")
    arguments = action.parser().parse_args(given.rest)
    return run_command(lambda: _run(action, arguments), action.stopped)


def _run(action: Action, arguments: argparse.Namespace) -> int:
    log_printably()
    return action.run(arguments)
