r"""Text lines. A line ends with "\n", before which a "\r" belongs to the end; nothing else ends one.

``str.splitlines`` also cuts at U+0085 (an ellipsis that was read as Latin-1), U+2028, form feeds and others, and
Python's text files at a "\r" alone: what other people write has such characters within a line.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import AnyStr

from dcfast.errors import CorruptDataError
from dcfast.storage.inputs import StrPath, open_input, read_input

MOST_TEXT_BYTES = 256 << 20
"""Of a file whose lines are read at once."""
MOST_LINES = 1 << 20
"""Of the same: each takes 50 bytes and more, however short it is."""
MOST_LINE_BYTES = 16 << 20


def split_lines(text: AnyStr) -> list[AnyStr]:
    """The lines of a text or of bytes, without their ends; none of an empty one. Memory: the text once more."""
    lines = text.split("\n" if isinstance(text, str) else b"\n")
    if not lines[-1]:
        lines.pop()
    return [line.removesuffix("\r" if isinstance(line, str) else b"\r") for line in lines]


def read_lines(path: StrPath, encoding: str = "utf-8", errors: str = "strict") -> list[str]:
    """The lines of a regular file. Memory: three times its text, and 64 bytes a line.

    Raises:
        UnicodeDecodeError: of other bytes, unless ``errors`` says so; its ``start`` is a byte of the file.
        CorruptDataError: more than ``MOST_TEXT_BYTES``, or ``MOST_LINES``.   OSError.
    """
    data = read_input(path, MOST_TEXT_BYTES)
    if data.count(b"\n") > MOST_LINES:
        raise CorruptDataError(f"{path}: expected at most {MOST_LINES:,} lines", path=path)
    return split_lines(data.decode(encoding, errors))


def iterate_lines(
    path: StrPath, encoding: str = "utf-8", errors: str = "strict", begin: int = 0, end: int | None = None
) -> Iterator[str]:
    """The lines of a file one by one, of those that begin at byte ``begin`` and before ``end`` (None: of all).

    Errors as ``read_lines``, but ``start`` is a byte of the line. Memory: a line.
    """
    with open_input(path) as file:
        file.seek(begin)
        while (end is None or file.tell() < end) and (line := file.readline(MOST_LINE_BYTES + 1)):
            # of bytes, whose lines end at a newline alone
            if len(line) > MOST_LINE_BYTES:
                raise CorruptDataError(f"{path}: expected lines of at most {MOST_LINE_BYTES:,} bytes", path=path)
            yield from split_lines(line.decode(encoding, errors))
