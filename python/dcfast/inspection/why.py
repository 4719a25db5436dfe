"""``dcfast why``: what became of a sample, and why, in plain words."""

from __future__ import annotations

import argparse
import json
import sys
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

from dcfast.errors import RunError
from dcfast.inspection.facts import Inspector, SampleFacts
from dcfast.inspection.target import Target, read_target
from dcfast.inspection.words import Line, lines
from dcfast.process.command import run_command
from dcfast.process.exit_codes import DONE
from dcfast.process.options import Option, add_options, given_options, made_of, option
from dcfast.process.parser import ArgumentParser
from dcfast.process.terminal import log_printably, say, width_of
from dcfast.rundir.claim import RUN_CODE
from dcfast.rundir.lookup import Place
from dcfast.storage.paths import path_argument
from dcfast.storage.records import plain

OUT = Option("run directory", metavar="DIR", parse=path_argument)
COPIES = Option("look for near copies of its picture in the whole pool, however large it is (docs/inspect.md)")
AS_JSON = Option("print what was found as JSON")
DEFAULT_OUT = "runs/tiny"
MOST_PLACES = 8
"""Samples of one uid that are told of."""
_LABEL = 9
_NARROWEST = 20


@dataclass(frozen=True)
class WhyOptions:
    """Which sample, of which run."""

    sample: str = option("", "uid of 32 hex digits, or SHARD.tar/KEY", flags=("sample",), metavar="UID")
    out: str = option(DEFAULT_OUT, OUT)
    copies: bool = option(False, COPIES)
    run_code: bool = option(False, RUN_CODE)
    json: bool = option(False, AS_JSON)


def parser() -> ArgumentParser:
    """The command line of ``dcfast why``."""
    p = ArgumentParser(
        prog="dcfast why",
        description="What became of a sample of a run, and why: the rule of the filter that dropped it, its score and "
        "the threshold, why it is in quarantine, which pictures it is a copy of.",
        epilog="Docs: docs/inspect.md.",
    )
    add_options(p, WhyOptions)
    return p


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns the exit status."""
    args = parser().parse_args(argv)
    return run_command(lambda: _main(args), "stopped; nothing was written")


def _main(arguments: argparse.Namespace) -> int:
    log_printably()
    options = made_of(WhyOptions, given_options(arguments, WhyOptions))
    target = read_target(options.sample, options.out)
    if target.uid is None and target.key is None:
        raise ValueError(f"expected a uid, or SHARD.tar/KEY; got {options.sample!r} (dcfast inspect takes it)")
    inspector = Inspector(target.run, run_code=options.run_code)
    places, hidden = places_of(inspector, target)
    found = [inspector.facts(place, target.uid, copies=True, whole_pool=options.copies) for place in places]
    show(found, hidden, as_json=options.json)
    return DONE


def places_of(inspector: Inspector, target: Target) -> tuple[list[Place | None], int]:
    """The samples of a target that is one, MOST_PLACES at most, and how many more there are.

    RunError: the run does not know the uid.   LookupError as RunError: no such shard or key.
    """
    if target.uid is not None:
        places = inspector.by_uid(target.uid)
        if not places:
            raise RunError(
                f"{target.run.out} knows no sample and no metadata row with uid {target.uid}; it may be of "
                "another pool; name its run by --out DIR"
            )
        return places[:MOST_PLACES], len(places[MOST_PLACES:])
    try:
        return [inspector.by_key(str(target.shard), str(target.key))], 0
    except LookupError as error:
        raise RunError(f"{target.run.out}: {error.args[0]}") from None


def show(found: list[SampleFacts], hidden: int, *, as_json: bool, details: bool = False) -> None:
    """Says what was found."""
    if as_json:
        say(json.dumps({"samples": plain(found), "more": hidden}, indent=1, ensure_ascii=True))
        return
    for number, facts in enumerate(found):
        say(("\n" if number else "") + "\n".join(wrapped(lines(facts, details=details))))
    if hidden:
        say(f"\nand {hidden:,} more samples with this uid")


def wrapped(said: list[Line]) -> list[str]:
    """Lines of a terminal's width: labels on the left, each once where several follow each other."""
    room = max(width_of(sys.stdout) - _LABEL - 1, _NARROWEST)
    rows: list[str] = []
    before = ""
    for label, text in said:
        shown = "" if label == before else label
        before = label
        parts = textwrap.wrap(text, room, break_on_hyphens=False) or [""]
        if len(shown) > _LABEL:
            rows.append(shown)
            shown = ""
        rows += [f"{shown if not i else '':<{_LABEL}} {part}".rstrip() for i, part in enumerate(parts)]
    return rows
