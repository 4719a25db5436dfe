"""A picture in a terminal: by the protocol of kitty or of iTerm2, or as blocks of two colours in each cell.

All that is written was made here from the pixels: nothing of a stranger's file is passed on.
"""

from __future__ import annotations

import base64
import io
import os
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from dcfast.process.terminal import takes_colours, writes
from dcfast.report.page.images import shrunk

if TYPE_CHECKING:
    from PIL import Image

AUTO, NONE, BLOCKS, KITTY, ITERM2 = KINDS = ("auto", "none", "blocks", "kitty", "iterm2")
MOST_CELLS = 48
"""Columns of a picture; it is as many half lines high at most."""
SIDE = 512
"""Pixels of a picture that the terminal itself draws."""
_CHUNK = 4096
_HALF = "\u2580"  # the upper half of a cell
_LEVELS = np.array([0, 95, 135, 175, 215, 255])


def kind_here(environ: Mapping[str, str]) -> str:
    """How standard output shows pictures: not at all where it is no terminal, or wants no colours."""
    if not takes_colours(sys.stdout):
        return NONE
    terminal, program = environ.get("TERM", ""), environ.get("TERM_PROGRAM", "")
    if environ.get("TMUX") or terminal.startswith(("tmux", "screen")):  # they pass no protocol on
        return BLOCKS
    if environ.get("KITTY_WINDOW_ID") or "kitty" in terminal or "ghostty" in terminal:
        return KITTY
    if program in ("iTerm.app", "WezTerm"):
        return ITERM2
    return BLOCKS if _true_colours(environ) or "256color" in terminal else NONE


def _true_colours(environ: Mapping[str, str]) -> bool:
    return environ.get("COLORTERM", "") in ("truecolor", "24bit")


def drawn(data: bytes, kind: str, columns: int) -> str:
    """The codes that draw a picture, ending in a line's end; none of kind ``none``.

    Raises:
        BadImage, MemoryError: it cannot be decoded.   MissingDependencyError: there is no Pillow.
    """
    if kind == NONE:
        return ""
    if kind == BLOCKS:
        halves = writes(sys.stdout, _HALF)
        cells = min(columns, MOST_CELLS)
        small, _ = shrunk(data, cells if halves else max(cells // 2, 1))
        pixels = np.asarray(small)
        return _half_blocks(pixels) if halves else _spaces(pixels)
    small, _ = shrunk(data, SIDE)
    encoded = base64.b64encode(_png(small)).decode()
    cells = min(columns, MOST_CELLS)
    return _kitty(encoded, cells) if kind == KITTY else _iterm2(encoded, cells)


def _png(image: Image.Image) -> bytes:
    out = io.BytesIO()
    image.save(out, "PNG")
    return out.getvalue()


def _kitty(encoded: str, cells: int) -> str:
    """Source: the terminal graphics protocol of kitty's documentation."""
    parts = [encoded[i : i + _CHUNK] for i in range(0, len(encoded), _CHUNK)]
    last = len(parts) - 1
    codes = [
        f"\x1b_G{f'a=T,f=100,c={cells},' if i == 0 else ''}m={int(i < last)};{part}\x1b\\"
        for i, part in enumerate(parts)
    ]
    return "".join(codes) + "\n"


def _iterm2(encoded: str, cells: int) -> str:
    """Source: iTerm2's documentation, "Inline images protocol"."""
    return f"\x1b]1337;File=inline=1;width={cells};preserveAspectRatio=1:{encoded}\x07\n"


def _colour(pixel: npt.NDArray[np.uint8]) -> str:
    """Of a pixel, as SGR's parameters say it: of 16 million colours, or the nearest of the cube of 216."""
    if _true_colours(os.environ):
        return "2;{};{};{}".format(*pixel)
    red, green, blue = np.abs(_LEVELS - pixel[:, None].astype(int)).argmin(axis=1)
    return f"5;{16 + 36 * red + 6 * green + blue}"


def _half_blocks(pixels: npt.NDArray[np.uint8]) -> str:
    lines = []
    for y in range(0, len(pixels), 2):
        below = pixels[y + 1] if y + 1 < len(pixels) else None
        cells = [
            f"\x1b[38;{_colour(top)}{f';48;{_colour(below[x])}' if below is not None else ''}m{_HALF}"
            for x, top in enumerate(pixels[y])
        ]
        lines.append("".join(cells) + "\x1b[0m\n")
    return "".join(lines)


def _spaces(pixels: npt.NDArray[np.uint8]) -> str:
    """Two blanks a pixel, for a terminal that has no half blocks."""
    return "".join("".join(f"\x1b[48;{_colour(pixel)}m  " for pixel in line) + "\x1b[0m\n" for line in pixels)
