r"""Text lines. A line ends with "\n", before which a "\r" belongs to the end; nothing else ends one.

``str.splitlines`` also cuts at U+0085 (an ellipsis that was read as Latin-1), U+2028, form feeds and others, and
Python's text files at a "\r" alone: what other people write has such characters within a line.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import AnyStr

__all__ = ["iterate_lines", "read_lines", "split_lines"]


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


def iterate_lines(path: str | os.PathLike[str], encoding: str = "utf-8", errors: str = "strict") -> Iterator[str]:
    """The lines of a file one by one; errors as ``read_lines``, but ``start`` is a byte of the line. Memory: a line."""
    with open(path, "rb") as file:
        for line in file:  # of bytes, whose lines end at a newline alone
            yield from split_lines(line.decode(encoding, errors))
