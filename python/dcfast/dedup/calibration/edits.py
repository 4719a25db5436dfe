"""Edited copies of a picture, by kind and strength, as pictures are edited on their way through the web."""

from __future__ import annotations

import io
import zlib
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from PIL.Image import Image

QUALITY = 90
"""Of the JPEG that each edited picture is saved as."""

Make = Callable[["Image", np.random.Generator], "Image"]


class Edit(NamedTuple):
    """``make`` edits an RGB picture; what it draws comes from the generator."""

    kind: str
    strength: str
    make: Make
    quality: int = QUALITY


def _share(strength: str) -> float:
    return float(strength.rstrip("%")) / 100


def _crop(strength: str, image: Image, random: np.random.Generator) -> Image:
    """Cuts a share of width and of height off, at a random place."""
    width, height = (max(1, round(side * (1 - _share(strength)))) for side in image.size)
    left, top = (
        int(random.integers(0, whole - part + 1)) for whole, part in zip(image.size, (width, height), strict=True)
    )
    return image.crop((left, top, left + width, top + height))


def _border(strength: str, image: Image, random: np.random.Generator) -> Image:
    """A frame of one colour, a share of the shorter side wide."""
    from PIL import ImageOps

    return ImageOps.expand(image, max(1, round(min(image.size) * _share(strength))), _colour(random))


def _colour(random: np.random.Generator) -> tuple[int, int, int]:
    """Black, white, or any."""
    return ((0, 0, 0), (255, 255, 255), (*map(int, random.integers(0, 256, 3)),))[int(random.integers(0, 3))]  # type: ignore[return-value]


def _caption(strength: str, image: Image, random: np.random.Generator) -> Image:
    """A band over the lower edge with words of bars, black on white or white on black."""
    from PIL import ImageDraw

    edited, (width, height) = image.copy(), image.size
    band = max(2, round(height * _share(strength)))
    ground, ink = ("white", "black") if random.integers(0, 2) else ("black", "white")
    draw = ImageDraw.Draw(edited)
    draw.rectangle((0, height - band, width, height), fill=ground)
    at = width // 20
    while at < width * 9 // 10:
        end = at + max(1, int(width * random.uniform(0.02, 0.12)))
        draw.rectangle((at, height - band * 2 // 3, end, height - band // 3), fill=ink)
        at = end + max(1, width // 60)
    return edited


def _overlay(strength: str, image: Image, random: np.random.Generator) -> Image:
    """A box of one colour at a random place, of the picture's proportions; the strength is its share of the area."""
    from PIL import ImageDraw

    edited, side = image.copy(), _share(strength) ** 0.5
    width, height = (max(1, round(whole * side)) for whole in image.size)
    left, top = int(random.integers(0, image.width - width + 1)), int(random.integers(0, image.height - height + 1))
    ImageDraw.Draw(edited).rectangle((left, top, left + width - 1, top + height - 1), fill=_colour(random))
    return edited


def _blur(strength: str, image: Image, random: np.random.Generator) -> Image:
    """Gaussian; the strength is its standard deviation, a share of the shorter side."""
    from PIL import ImageFilter

    return image.filter(ImageFilter.GaussianBlur(min(image.size) * _share(strength)))


def _enhance(what: str, strength: str, image: Image, random: np.random.Generator) -> Image:
    """Colour, brightness or contrast, times a factor."""
    from PIL import ImageEnhance

    factor = float(strength.lstrip("x"))
    result: Image = getattr(ImageEnhance, what)(image).enhance(factor)
    return result


def _grey(image: Image, random: np.random.Generator) -> Image:
    return image.convert("L").convert("RGB")


def _rotate(strength: str, image: Image, random: np.random.Generator) -> Image:
    """By so many degrees, either way; the size stays, and the corners are black."""
    from PIL.Image import Resampling

    return image.rotate(float(strength) * (1 if random.integers(0, 2) else -1), Resampling.BICUBIC)


def _transpose(how: str, image: Image, random: np.random.Generator) -> Image:
    from PIL.Image import Transpose

    return image.transpose(Transpose[how.upper()])


def _resize(strength: str, image: Image, random: np.random.Generator) -> Image:
    """To a factor ("x0.5"), to a square ("64 x 64"), or with a stretched width ("wide x1.5")."""
    from PIL.Image import Resampling

    if strength.startswith("wide"):
        size = (round(image.width * float(strength.partition("x")[2])), image.height)
    elif strength.startswith("x"):
        size = (round(image.width * float(strength[1:])), round(image.height * float(strength[1:])))
    else:
        size = (int(strength.partition(" ")[0]),) * 2
    return image.resize((max(1, size[0]), max(1, size[1])), Resampling.BICUBIC)


def _unchanged(image: Image, random: np.random.Generator) -> Image:
    return image


def _edits(kind: str, make: Callable[..., Image], *strengths: str) -> list[Edit]:
    return [Edit(kind, strength, partial(make, strength)) for strength in strengths]


EDITS: tuple[Edit, ...] = (
    *(Edit("jpeg", f"quality {quality}", _unchanged, quality) for quality in (50, 30, 10, 5)),
    *_edits("resize", _resize, "x0.5", "x0.25", "128 x 128", "64 x 64", "32 x 32", "wide x1.5", "wide x3"),
    *_edits("blur", _blur, "0.5%", "1%", "2%", "4%"),
    *_edits("colour", partial(_enhance, "Color"), "x0.5", "x2", "x4"),
    *_edits("brightness", partial(_enhance, "Brightness"), "x0.6", "x1.3", "x1.8"),
    *_edits("contrast", partial(_enhance, "Contrast"), "x0.5", "x1.5", "x3"),
    Edit("grey", "all", _grey),
    *_edits("crop", _crop, "2%", "5%", "10%", "20%", "30%"),
    *_edits("border", _border, "1%", "2%", "5%", "10%"),
    *_edits("caption", _caption, "6%", "12%", "20%", "30%"),
    *_edits("overlay", _overlay, "2%", "5%", "10%", "20%"),
    *_edits("rotation", _rotate, "1", "2", "5", "10"),
    *_edits("turn", _transpose, "rotate_90", "rotate_180", "rotate_270"),
    *_edits("flip", _transpose, "flip_left_right", "flip_top_bottom", "transpose"),
)
"""Kinds in the order of the tables; within a kind from the weakest on, where they have one."""


def edited(image: Image, edit: Edit, seed: int, number: int) -> bytes:
    """A JPEG of the edited picture.

    Args:
        image: RGB.
        seed, number: of the draw, and of the picture: the same for them, whatever else was drawn.
    """
    label = zlib.crc32(f"{edit.kind} {edit.strength}".encode())
    buffer = io.BytesIO()
    edit.make(image, np.random.default_rng([seed, number, label])).save(buffer, "JPEG", quality=edit.quality)
    return buffer.getvalue()
