"""What commands say, on a terminal or into a log file: the one door, behind which nothing in a text is obeyed.

Keys, names of files and classes, captions and errors of libraries are strangers' text: codes in it could colour a
terminal, rename its window or write over what was said before.

A line of progress stands on the terminal of standard error until the next takes its place (``show_line``); whatever
else is said there takes it away first.
"""

from __future__ import annotations

import os
import shutil
import sys
import threading
import unicodedata

from dcfast.errors import printable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import TextIO

_door = threading.RLock()
_standing = 0
"""Columns of the line that stands on the terminal and will be written over."""


def _after_fork() -> None:
    # a thread of the parent may have been at the door; and the line that stands is the parent's
    global _door, _standing
    _door, _standing = threading.RLock(), 0


os.register_at_fork(after_in_child=_after_fork)


def say(text: str, *, error: bool = False, end: str = "\n") -> None:
    """Prints a text as ``dcfast.errors.printable`` has it; ``error``: on standard error, at once."""
    with _door:
        show_line("")
        stream = sys.stderr if error else sys.stdout
        stream.write(printable(text) + end)
        if error:
            stream.flush()


def is_terminal(*, error: bool = True) -> bool:
    """Whether standard error, or output, is a terminal on which a line can be written over."""
    stream = sys.stderr if error else sys.stdout
    return stream.isatty() and os.environ.get("TERM") != "dumb"


def has_colours() -> bool:
    """Whether standard output is a terminal whose owner did not ask for no colours (NO_COLOR)."""
    return takes_colours(sys.stdout)


def columns(usual: int = 80) -> int:
    """Columns of the terminal: of COLUMNS, of standard output or error; ``usual`` where there is none."""
    given = os.environ.get("COLUMNS", "")
    if given.isdigit() and int(given):
        return int(given)
    for stream in (sys.stdout, sys.stderr):
        try:
            if wide := os.get_terminal_size(stream.fileno()).columns:
                return wide
        except (OSError, ValueError, AttributeError):
            continue
    return shutil.get_terminal_size((usual, 24)).columns


def width(text: str) -> int:
    """Columns that a printable text takes: wide characters have two, those that join others none."""
    if text.isascii():
        return len(text)
    return sum(map(_width_of_one, printable(text)))


def _width_of_one(character: str) -> int:
    if unicodedata.combining(character):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def beginning(text: str, most: int) -> str:
    """The longest beginning of a printable text that takes at most ``most`` columns. Cost: that beginning."""
    wide = 0
    for place, character in enumerate(text):
        wide += _width_of_one(character)
        if wide > most:
            return text[:place]
    return text


def cut_to(text: str, most: int) -> str:
    """A printable text of at most ``most`` columns; one that is cut ends in ``...`` where that fits."""
    fitting = beginning(text, most)
    if fitting == text:
        return text
    end = "..." if most > 3 else ""
    return beginning(fitting, most - len(end)) + end


def show_line(text: str) -> None:
    """Writes a line over the one that stands on the terminal of standard error; an empty one takes it away."""
    global _standing
    with _door:
        if not text and not _standing:
            return
        shown = cut_to(printable(text), columns() - 1)
        sys.stderr.write("\r" + shown + " " * max(0, _standing - width(shown)) + ("" if shown else "\r"))
        sys.stderr.flush()
        _standing = width(shown)


def paint(text: str, code: str) -> str:
    """A printable text in a colour (a number of ECMA-48's SGR)."""
    return f"\x1b[{code}m{printable(text)}\x1b[0m"


def show_page(text: str, *, anew: bool = False) -> None:
    """Writes a page, whose texts went through ``printable`` or ``paint``, on standard output, at once.

    Args:
        anew: at the top of the terminal, in the place of what stands there.
    """
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    with _door:
        show_line("")
        sys.stdout.write("\x1b[H\x1b[2J" if anew else "")
        sys.stdout.write(text.encode(encoding, "backslashreplace").decode(encoding) + "\n")
        sys.stdout.flush()


def draw(codes: str) -> None:
    """Writes escape codes to standard output as they are: for what dcfast made itself, never for anybody's text."""
    sys.stdout.write(codes)


def takes_colours(stream: TextIO) -> bool:
    """Whether a stream is a terminal that shows colours, and nobody asked for none (``NO_COLOR``, ``TERM=dumb``)."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def writes(stream: TextIO, text: str) -> bool:
    """Whether a stream's encoding has all characters of a text."""
    try:
        text.encode(getattr(stream, "encoding", None) or "utf-8")
    except UnicodeEncodeError:
        return False
    return True


def width_of(stream: TextIO, usual: int = 100) -> int:
    """Columns of a terminal; ``usual`` of anything else."""
    return columns(usual) if stream.isatty() else usual


def log_printably(*, all_of_it: bool = False) -> None:
    """Log records reach standard error by ``printable``, where the program has not set up logging otherwise.

    Args:
        all_of_it: what dcfast logs for information, too; of others warnings alone.
    """
    import logging

    class Printable(logging.Formatter):
        def format(self, record: logging.LogRecord) -> str:
            show_line("")  # before the record is written
            return printable(super().format(record))

    handler = logging.StreamHandler(sys.stderr) if all_of_it else logging.lastResort
    if handler is not None:
        handler.setFormatter(Printable("%(message)s"))
    if all_of_it and handler is not None:
        logging.basicConfig(level=logging.WARNING, handlers=[handler])
        logging.getLogger("dcfast").setLevel(logging.INFO)
