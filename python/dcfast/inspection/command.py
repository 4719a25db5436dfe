"""``dcfast inspect``: a sample, a shard or a run to look at, in the terminal and as a page."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from dcfast.errors import DcfastError, MissingDependencyError, RunError
from dcfast.images.costs import BadImage
from dcfast.inspection.facts import Inspector
from dcfast.inspection.pages import drawn_page, of_how_many, sample_page, wanted, write_place
from dcfast.inspection.picture import AUTO, KINDS, MOST_CELLS, drawn, kind_here
from dcfast.inspection.target import Target, read_target
from dcfast.inspection.why import AS_JSON, COPIES, DEFAULT_OUT, OUT, places_of, show, wrapped
from dcfast.inspection.words import Line
from dcfast.process.command import run_command
from dcfast.process.exit_codes import DONE
from dcfast.process.options import add_options, given_options, made_of, option
from dcfast.process.parser import ArgumentParser
from dcfast.process.terminal import draw as send
from dcfast.process.terminal import log_printably, say, width_of
from dcfast.report.facts.draw import Choice, Draw, draw
from dcfast.report.page.gallery import Gallery, render_gallery
from dcfast.report.text import clean, count, percent
from dcfast.rundir.claim import RUN_CODE
from dcfast.rundir.layout import FATES
from dcfast.rundir.lookup import Place
from dcfast.storage.atomic import write_bytes
from dcfast.storage.paths import path_argument
from dcfast.storage.records import plain

IN_TERMINAL, ON_PAGE = 10, 60
"""Samples drawn where nothing else is asked."""
MOST_ON_PAGE = 1_000
"""About 20 MB of pictures."""


@dataclass(frozen=True)
class InspectOptions:
    """What to look at, and how."""

    target: str = option("", "uid, SHARD.tar, SHARD.tar/KEY or a run directory", flags=("target",), metavar="TARGET")
    out: str = option(DEFAULT_OUT, OUT)
    html: str | None = option(
        None,
        "write a page of it; of several samples the terminal shows the counts alone",
        metavar="FILE",
        parse=path_argument,
    )
    filter: str | None = option(
        None, "of a run: samples whose metadata row passes this filter expression (docs/filters.md)", metavar="EXPR"
    )
    outcome: str | None = option(None, "of a run or shard: samples with this outcome", metavar="FATE", choices=FATES)
    reason: str | None = option(None, "of a run or shard: samples whose reason holds this text", metavar="TEXT")
    sample: int | None = option(
        None,
        "samples drawn of a run or shard",
        usual=f"{IN_TERMINAL} in the terminal, {ON_PAGE} on a page",
        least=0,
        most=MOST_ON_PAGE,
    )
    seed: int = option(0, "of the draw", least=0, most=(1 << 63) - 1)
    all: bool = option(False, "look at every row of the run, not at 65,536 from all over it")
    copies: bool = option(False, COPIES)
    run_code: bool = option(False, RUN_CODE)
    picture: str = option(AUTO, "how the terminal shows a picture", metavar="KIND", choices=KINDS)
    json: bool = option(False, AS_JSON)


def parser() -> ArgumentParser:
    """The command line of ``dcfast inspect``."""
    p = ArgumentParser(
        prog="dcfast inspect",
        description="A sample of a run with its picture, caption, scores, outcome and near copies; or samples of a "
        "shard or a run, drawn by outcome, reason or filter expression. In the terminal, and as a page (--html).",
        epilog="Docs: docs/inspect.md.",
    )
    add_options(p, InspectOptions)
    return p


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns the exit status."""
    args = parser().parse_args(argv)
    return run_command(lambda: _main(args), "stopped; nothing was written")


def _main(arguments: argparse.Namespace) -> int:
    log_printably()
    options = made_of(InspectOptions, given_options(arguments, InspectOptions))
    if options.html is not None:
        write_place(options.html)
    target = read_target(options.target, options.out)
    one = target.uid is not None or target.key is not None
    asked = [name for name in ("filter", "outcome", "reason", "sample") if getattr(options, name) is not None]
    if one and asked:
        raise ValueError(
            f"--{asked[0]} chooses among the samples of a run or a shard; {options.target!r} is one sample; "
            "leave that out"
        )
    if options.filter is not None and target.shard is not None:
        raise ValueError(f"--filter looks at the metadata of the whole run: give its directory, not {options.target!r}")
    page = _sample(target, options) if one else _several(target, options)
    if options.html is not None and page is not None:
        write_bytes(options.html, render_gallery(page).encode())
        if not options.json:
            say(f"page: {options.html}")
    return DONE


def _sample(target: Target, options: InspectOptions) -> Gallery | None:
    inspector = Inspector(target.run, run_code=options.run_code)
    places, hidden = places_of(inspector, target)
    found = [inspector.facts(place, target.uid, copies=True, whole_pool=options.copies) for place in places]
    kind = kind_here(os.environ) if options.picture == AUTO else options.picture
    if not options.json and places[0] is not None:
        _picture(inspector, places[0], kind)
    show(found, hidden, as_json=options.json, details=True)
    return sample_page(inspector, places[0], found[0]) if options.html is not None else None


def _picture(inspector: Inspector, place: Place, kind: str) -> None:
    """Draws a picture; one that cannot be shown is told of by the lines that follow."""
    try:
        data = inspector.previews.picture(place.shard, place.row)
        if data is not None:
            send(drawn(data, kind, min(width_of(sys.stdout), MOST_CELLS)))
    except (BadImage, MemoryError, LookupError, OSError, DcfastError) as error:
        if isinstance(error, MissingDependencyError):
            raise
        say(f"the picture is not shown: {clean(str(error) or type(error).__name__, 200)}")


def _several(target: Target, options: InspectOptions) -> Gallery | None:
    inspector = Inspector(target.run, run_code=options.run_code)
    most = options.sample if options.sample is not None else ON_PAGE if options.html is not None else IN_TERMINAL
    choice = Choice(
        options.filter, options.outcome, options.reason, target.shard, most, options.seed, all_rows=options.all
    )
    try:
        drawn_samples = draw(target.run, inspector.samples, choice)
    except LookupError as error:
        raise RunError(f"{target.run.out}: {error.args[0]}") from None
    if options.json:
        say(json.dumps(plain(drawn_samples), indent=1, ensure_ascii=True))
    else:
        say("\n".join(_told(inspector, choice, drawn_samples, counts_alone=options.html is not None)))
    return drawn_page(inspector, choice, drawn_samples) if options.html is not None else None


def _told(inspector: Inspector, choice: Choice, drawn_samples: Draw, *, counts_alone: bool) -> list[str]:
    """The counts of a run, and the samples drawn, for a terminal; ``counts_alone``: a page shows the samples."""
    said: list[Line] = []
    if choice.shard is None:
        said += _counts(inspector)
    said.append(("samples", " ".join([f"{clean(wanted(choice), 400)}.", *of_how_many(choice, drawn_samples)])))
    rows = wrapped(said)
    for row in () if counts_alone else drawn_samples.rows:
        reason = f": {row.reason}" if row.reason else ""
        name = f"{row.shard}/{row.key}" if row.key is not None else f"uid {row.uid}"
        sample = [(row.fate or "-", clean(name)), ("", clean(f"uid {row.uid or 'none'}"))]
        if row.fate and row.reason:
            sample.append(("", clean(reason[2:])))
        if row.shard is not None:
            caption = inspector.previews.sample(row.shard, row.row or 0).caption
            sample.append(("", caption or "no caption"))
        rows += ["", *wrapped(sample)]
    return rows


def _counts(inspector: Inspector) -> list[Line]:
    chosen = inspector.chosen
    if chosen is None:
        return [("run", "the filter stage has not run: samples have no outcome yet")]
    everything = sum(chosen.fates.values())
    said = [("filter", clean(chosen.filter, 2_000))]
    for fate in FATES:
        if number := chosen.fates.get(fate, 0):
            said.append(("outcomes", f"{fate} {count(number)} ({percent(number, everything)})"))
    frequent = sorted(chosen.reasons.items(), key=lambda item: (-item[1], item[0]))
    said += [("reasons", clean(f"{count(number)} {reason}")) for reason, number in frequent[:12]]
    return said
