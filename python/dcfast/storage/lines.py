r"""Text lines. A line ends with "\n", before which a "\r" belongs to the end; nothing else ends one.

``str.splitlines`` also cuts at U+0085 (an ellipsis that was read as Latin-1), U+2028, form feeds and others, and
Python's text files at a "\r" alone: what other people write has such characters within a line.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import AnyStr

__all__ = ["first_line", "last_line", "read_lines", "split_lines"]

_SHOWN_AS_END = re.compile("[\n\r\v\f\x1c-\x1e\x85\u2028\u2029]")


def split_lines(text: AnyStr) -> list[AnyStr]:
    """The lines of a text or of bytes, without their ends; none of an empty one. Memory: the text once more."""
    lines = text.split("\n" if isinstance(text, str) else b"\n")
    if not lines[-1]:
        lines.pop()
    return [line.removesuffix("\r" if isinstance(line, str) else b"\r") for line in lines]


def read_lines(path: str | os.PathLike[str], encoding: str = "utf-8", errors: str = "strict") -> list[str]:
    """The lines of a file. Memory: two times its text.

    Raises:
        UnicodeDecodeError: of other bytes, unless ``errors`` says so; its ``start`` is a byte of the file.   OSError.
    """
    return split_lines(Path(path).read_bytes().decode(encoding, errors))


def first_line(error: BaseException) -> str:
    """The first line of an exception's text, or its class's name where it has none: one line wherever it is shown."""
    return _SHOWN_AS_END.split(str(error).strip() or type(error).__name__, maxsplit=1)[0]


def last_line(text: str) -> str:
    """The last line of a program's output as it was shown, progress bars included; empty where there is none."""
    return _SHOWN_AS_END.split(text.strip())[-1]
