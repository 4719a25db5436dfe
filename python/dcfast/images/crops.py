"""Crops of JPEGs for training by the core (``dcfast._core.images.crop_resize``): pixel for pixel what Pillow gives.

That holds for the Pillow that is installed only as far as it can be seen: releases before 13 resample tall pictures in
another order, and Pillow brings a JPEG library of its own. ``pillow_rule`` looks.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from functools import cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from dcfast._core import images as core_images
from dcfast.images.decode import load_image

DONE, ELSEWHERE, OTHER_SIZE, DAMAGED = range(4)
"""What ``crop_resize`` says of a picture. ELSEWHERE: it is for Pillow (no JPEG, four inks, 12 bits, arithmetic coding,
over a bound, incomplete scans). DAMAGED: whatever libjpeg warns of, or an early end; Pillow decides whether it is a
picture."""

_SIDE = 24
_WINDOWS = ((97, 71, (5, 2, 90, 66)), (60, 150, (3, 7, 51, 139)), (20, 30, (0, 0, 20, 30)))
"""Width, height, crop: one that shrinks, one so tall that the order of the passes shows, one that grows."""


class PillowRule(NamedTuple):
    """How the core is to resample, so that it does as the Pillow that is installed; and whether it then does.

    Attributes:
        tall_first_down: the argument of ``crop_resize``.
        difference: empty, or what is unlike, in a sentence for the user.
    """

    tall_first_down: bool
    difference: str


@cache
def pillow_rule() -> PillowRule:
    """Decodes a few pictures, made here, by the core and by Pillow. Time: some milliseconds, once.

    Raises:
        ImportError: there is no Pillow.
    """
    unlike = {rule: _difference(rule) for rule in (True, False)}
    best = min(unlike, key=lambda rule: unlike[rule])
    if unlike[best] == 0:
        return PillowRule(best, "")
    from PIL import __version__, features

    return PillowRule(
        best,
        f"Pillow {__version__} (libjpeg-turbo {features.version('libjpeg_turbo')}) and the core"
        f" ({core_images.jpeg_version()}) give pixels that differ by up to {unlike[best]} of 255 levels",
    )


def _difference(tall_first_down: bool) -> int:
    """The largest difference of a level; 255 where the core refuses a picture."""
    most = 0
    for data, size, window in _pictures():
        ours = np.zeros((1, _SIDE, _SIDE, 3), np.uint8)
        status = core_images.crop_resize(
            data,
            np.array([0]),
            np.array([len(data)]),
            np.array([window], np.int32),
            np.array([size], np.int32),
            ours,
            np.array([0]),
            1,
            False,
            tall_first_down,
        )
        theirs = _by_pillow(data, window).astype(np.int16)
        most = max(most, 255 if status[0] != DONE else int(np.abs(theirs - ours[0]).max()))
    return most


def _by_pillow(data: bytes, window: tuple[int, int, int, int]) -> npt.NDArray[np.uint8]:
    from PIL.Image import Resampling

    left, top, wide, tall = window
    cut = load_image(data).crop((left, top, left + wide, top + tall))
    return np.asarray(cut.resize((_SIDE, _SIDE), Resampling.BICUBIC).convert("RGB"))


def _pictures() -> Iterator[tuple[bytes, tuple[int, int], tuple[int, int, int, int]]]:
    """JPEG, size and crop of pictures with edges, ramps and fine structure, of each way of coding."""
    from PIL import Image

    for width, height, window in _WINDOWS:
        y, x = np.mgrid[:height, :width]
        levels = np.stack([x * 255 // width, (x * x + y * y) % 256, (x // 8 + y // 8) % 2 * 200], axis=-1)
        image = Image.fromarray(levels.astype(np.uint8))
        for subsampling, progressive, mode in ((0, False, "RGB"), (1, False, "RGB"), (2, True, "RGB"), (0, False, "L")):
            file = io.BytesIO()
            options = {"quality": 85, "subsampling": subsampling, "progressive": progressive}
            image.convert(mode).save(file, "JPEG", **options)
            yield file.getvalue(), (width, height), window
