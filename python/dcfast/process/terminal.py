"""What commands say, on a terminal or into a log file: the one door, behind which nothing in a text is obeyed.

Keys, names of files and classes, captions and errors of libraries are strangers' text: codes in it could colour a
terminal, rename its window or write over what was said before.
"""

from __future__ import annotations

import os
import sys

from dcfast.errors import printable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import TextIO


def say(text: str, *, error: bool = False, end: str = "\n") -> None:
    """Prints a text as ``dcfast.errors.printable`` has it; ``error``: on standard error, at once."""
    stream = sys.stderr if error else sys.stdout
    stream.write(printable(text) + end)
    if error:
        stream.flush()


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
    import shutil

    return shutil.get_terminal_size((usual, 24)).columns if stream.isatty() else usual


def log_printably(*, all_of_it: bool = False) -> None:
    """Log records reach standard error by ``printable``, where the program has not set up logging otherwise.

    Args:
        all_of_it: what dcfast logs for information, too; of others warnings alone.
    """
    import logging

    class Printable(logging.Formatter):
        def format(self, record: logging.LogRecord) -> str:
            return printable(super().format(record))

    handler = logging.StreamHandler(sys.stderr) if all_of_it else logging.lastResort
    if handler is not None:
        handler.setFormatter(Printable("%(message)s"))
    if all_of_it and handler is not None:
        logging.basicConfig(level=logging.WARNING, handlers=[handler])
        logging.getLogger("dcfast").setLevel(logging.INFO)
