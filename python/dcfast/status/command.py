"""``dcfast status RUN``: how far a run is, from any process and machine that sees its directory."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass

from dcfast.process.command import run_command
from dcfast.process.exit_codes import DONE
from dcfast.process.options import add_options, given_options, made_of, option
from dcfast.process.parser import ArgumentParser
from dcfast.process.terminal import columns, has_colours, is_terminal, show_page
from dcfast.rundir.recorder import RUNNING
from dcfast.status.facts import RunStatus, read_status
from dcfast.status.page import status_lines
from dcfast.storage.paths import path_argument
from dcfast.storage.records import plain

_NARROWEST = 30


@dataclass(frozen=True)
class StatusOptions:
    """Which run, and how it is said."""

    run: str = option("", "run directory", flags=("run",), metavar="RUN", parse=path_argument, required=True)
    watch: bool = option(False, "say it again and again, until the run has ended")
    every: float = option(2.0, "with --watch: seconds between two looks", metavar="SECONDS", least=0.1)
    json: bool = option(False, "print a record of JSON (docs/status.md); with --watch one a line, where it changed")


def parser() -> ArgumentParser:
    """The command line of ``dcfast status``."""
    p = ArgumentParser(
        prog="dcfast status",
        description="Stages of a run, rates, time left, and of one that failed the last lines of its log. It reads the "
        "run directory alone and changes nothing in it.",
        epilog="Docs: docs/status.md.",
    )
    add_options(p, StatusOptions)
    return p


def main(argv: Sequence[str] | None = None) -> int:
    """The command; 0 where it could be told, whatever became of the run."""
    arguments = parser().parse_args(argv)
    return run_command(lambda: _main(made_of(StatusOptions, given_options(arguments, StatusOptions))), "stopped")


def _main(options: StatusOptions) -> int:
    before = ""
    while True:
        status = read_status(options.run)
        text = _text(status, options)
        if text != before:
            show_page(text, anew=options.watch and not options.json and is_terminal(error=False))
        before = text
        if not options.watch or status.state != RUNNING:
            return DONE
        time.sleep(options.every)


def _text(status: RunStatus, options: StatusOptions) -> str:
    if options.json:
        return json.dumps(plain(status), ensure_ascii=True, indent=None if options.watch else 1)
    wide = max(columns(), _NARROWEST) if is_terminal(error=False) else 1_000
    return "\n".join(status_lines(status, wide, colours=has_colours()))
