"""``dcfast doctor``: versions, what works on this machine, and for each thing that does not, how to get it.

Nothing heavy is imported unless asked by ``--deep``: versions come from the packages' metadata. A check never
raises: what goes wrong inside one is that check's finding.
"""

from __future__ import annotations

import json
import sys
import textwrap
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TextIO

from dcfast.doctor import checks
from dcfast.doctor.checks import Row
from dcfast.doctor.gpu import gpu
from dcfast.doctor.surroundings import surroundings
from dcfast.errors import printable
from dcfast.process.command import run_command
from dcfast.process.exit_codes import DONE, FAILED
from dcfast.process.options import add_options, given_options, made_of, option
from dcfast.process.parser import ArgumentParser
from dcfast.process.terminal import say, takes_colours, width_of, writes

# section and its check, which takes `deep`
_CHECKS: tuple[tuple[str, Callable[[bool], Iterator[Row]]], ...] = (
    ("dcfast", checks.core),
    ("machine", checks.machine),
    ("surroundings", surroundings),
    ("gpu", gpu),
    ("filters", checks.filter_data),
    ("libraries", checks.libraries),
    ("plugins", checks.plugins),
)
_MARKS = {"ok": ("✓", "ok"), "missing": ("·", "--"), "broken": ("✗", "!!"), "info": (" ", "  ")}
_COLOURS = {"ok": "32", "missing": "33", "broken": "31", "info": "0"}


def collect(*, deep: bool = False) -> list[Row]:
    """Looks at this machine; one row for each thing looked at.

    Args:
        deep: also import torch, Triton and DALI and run something with each (seconds, and GPU memory).

    Returns:
        Rows of ``section``, ``name``, ``status`` ("ok", "missing", "broken", or "info" for plain facts),
        ``detail`` (a version, a reason), ``fix`` (how to get it, "" where nothing is wrong) and ``needed``
        (True where dcfast cannot work without it).

    Cost: under a second; some seconds when deep. Writes and removes one small temporary directory.
    """
    rows: list[Row] = []
    for section, check in _CHECKS:
        try:
            rows.extend(row._replace(section=section) for row in check(deep))
        except Exception as error:  # a check that fails is a finding, not the end of the examination
            name = check.__name__.replace("_", " ")
            rows.append(
                Row(
                    name,
                    "broken",
                    checks.describe(error),
                    "report it, with what this says: dcfast doctor --json",
                    section=section,
                )
            )
    return rows


def works(rows: Sequence[Row]) -> bool:
    """Whether everything that dcfast cannot do without is there."""
    return all(row.status in ("ok", "info") for row in rows if row.needed)


@dataclass(frozen=True)
class DoctorOptions:
    """How far to look, and how to say it."""

    deep: bool = option(False, "also import and try torch, Triton and DALI (seconds)")
    json: bool = option(False, "print the rows as JSON")


def parser() -> ArgumentParser:
    """The command line of ``dcfast doctor``."""
    p = ArgumentParser(
        prog="dcfast doctor", description="Versions, what works on this machine, and how to get what does not."
    )
    add_options(p, DoctorOptions)
    return p


def main(argv: Sequence[str] | None = None) -> int:
    """The command: prints the rows; 0 where the core works (optional things may be missing), else 1."""
    arguments = parser().parse_args(argv)
    return run_command(lambda: _main(made_of(DoctorOptions, given_options(arguments, DoctorOptions))), "stopped")


def _main(arguments: DoctorOptions) -> int:
    rows = collect(deep=arguments.deep)
    if arguments.json:
        listed = [{"section": row.section, **row._asdict()} for row in rows]
        say(json.dumps({"works": works(rows), "rows": listed}, indent=1, ensure_ascii=True))
    else:
        render(rows, sys.stdout, deep=arguments.deep)
    return DONE if works(rows) else FAILED


def render(rows: Sequence[Row], out: TextIO, *, deep: bool = False) -> None:
    """Writes the rows as a table: colours only on a terminal (and without NO_COLOR), ASCII where it must be."""
    colours = takes_colours(out)
    ascii_only = not writes(out, "".join(mark for mark, _ in _MARKS.values()))
    name_width = max((len(row.name) for row in rows), default=0)
    columns = width_of(out, 1_000_000)
    indent = " " * (6 + ascii_only + name_width)
    stacked = columns < len(indent) + 30  # a narrow terminal: what a row says stands below its name
    if stacked:
        indent = " " * 4
    room = max(20, columns - len(indent))
    lines: list[str] = []
    section = None
    for row in rows:
        if row.section != section:
            section = row.section
            lines += ["", _paint(section, "1", colours)]
        mark = _paint(_MARKS[row.status][ascii_only], _COLOURS[row.status], colours)
        detail = _wrap(printable(row.detail), room)
        beside = "" if stacked else detail.pop(0)
        lines.append(f"  {mark} {row.name:<{name_width}}  {beside}".rstrip())
        lines += [indent + text for text in detail]
        if row.fix:
            arrow = "to get it: " if row.status == "missing" else "what to do: "
            lines += [indent + _paint(text, "2", colours) for text in _wrap(arrow + printable(row.fix), room)]
    missing, broken = (sum(row.status == status for row in rows) for status in ("missing", "broken"))
    verdict = "the core works" if works(rows) else "the core does not work"
    hint = "" if deep else "; --deep tries torch, Triton and DALI too"
    lines += ["", *_wrap(f"{verdict}; {missing} optional things missing, {broken} broken{hint}", columns)]
    text = "\n".join(lines).lstrip("\n") + "\n"
    encoding = getattr(out, "encoding", None) or "utf-8"
    out.write(text.encode(encoding, "backslashreplace").decode(encoding))


def _paint(text: str, code: str, colours: bool) -> str:
    return f"\x1b[{code}m{text}\x1b[0m" if colours and code != "0" else text


def _wrap(text: str, width: int) -> list[str]:
    """Lines of at most `width`, broken at spaces; a command too long for one line stays whole."""
    return textwrap.wrap(text, width, break_long_words=False, break_on_hyphens=False) or [""]
