"""From a scene to pixels: background, shadows, things, clutter, light and noise."""

from __future__ import annotations

import io
import math
from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw

from dcfast.world.backgrounds import Colour, paint_background
from dcfast.world.scene import Group, Scene
from dcfast.world.shapes import SHAPES, texture_mask
from dcfast.world.streams import Stream
from dcfast.world.vocabulary import COLOURS

_DETAILS = {
    "brown": (112, 72, 42),
    "black": (30, 30, 34),
    "white": (248, 248, 248),
    "cream": (238, 226, 204),
    "glass": (188, 220, 240),
}
# light -> factors of red, green, blue
_LIGHTS = {
    "day": (1.03, 1.02, 1.0),
    "dusk": (1.0, 0.84, 0.72),
    "overcast": (0.86, 0.89, 0.93),
    "lamp": (1.02, 0.95, 0.84),
    "haze": (0.8, 0.8, 0.8),
}
_SHADOW = [min(255, v * 80 // 255) for v in range(256)]


def _tinted(colour: Colour, tint: Colour) -> Colour:
    red, green, blue = (max(0, min(255, a + b)) for a, b in zip(colour, tint, strict=True))
    return red, green, blue


def _darker(colour: Colour, share: float) -> Colour:
    return (int(colour[0] * share), int(colour[1] * share), int(colour[2] * share))


@lru_cache(maxsize=1)
def _shade() -> Image.Image:
    """Shading of a thing's square: the lower right is darker."""
    axis = np.linspace(-1, 1, 32)
    x, y = np.meshgrid(axis, axis)
    return Image.fromarray(np.clip(40 * (x + y) + 8 * (x * x + y * y), 0, 80).astype(np.uint8))


def _paint_thing(canvas: Image.Image, group: Group, spot: tuple[float, float, float, float]) -> None:
    """One thing with its texture, shading, outline and soft shadow."""
    width, height = canvas.size
    unit = min(width, height)
    radius = spot[2] * unit / 2
    side = max(8, int(2 * radius) + 4)
    sine, cosine = math.sin(spot[3]), math.cos(spot[3])
    middle, scale = side / 2, radius
    base = _tinted(COLOURS[group.colour], group.tint)
    edge = _darker(base, 0.55) if sum(base) > 150 else (96, 96, 102)
    line = max(1, side // 44)

    tile = Image.new("RGB", (side, side), base)
    if group.texture != "plain":
        turn = int(spot[3] * 100) % 8
        mask = texture_mask(group.texture, group.scale, turn).resize((side, side), Image.Resampling.BILINEAR)
        tile.paste(group.second, (0, 0), mask)
    tile.paste((0, 0, 0), (0, 0), _shade().resize((side, side), Image.Resampling.BILINEAR))
    outline = Image.new("L", (side, side))
    on_tile, on_outline = ImageDraw.Draw(tile), ImageDraw.Draw(outline)
    for role, polygon in SHAPES[group.kind]:
        points = [
            (middle + scale * (x * cosine - y * sine), middle + scale * (x * sine + y * cosine)) for x, y in polygon
        ]
        if role == "hole":
            on_tile.polygon(points, outline=edge, width=2 * line)
            on_outline.polygon(points, fill=0)
            continue
        on_outline.polygon(points, fill=255)
        if role == "body":
            on_tile.polygon(points, outline=edge, width=line)
        else:
            on_tile.polygon(points, fill=_DETAILS.get(role) or _darker(base, 0.62), outline=edge, width=line)
    x, y = int(spot[0] * width - middle), int(spot[1] * height - middle)
    offset = max(1, side // 16)
    canvas.paste((8, 10, 24), (x + offset, y + offset), outline.point(_SHADOW))
    canvas.paste(tile, (x, y), outline)


def _clutter(canvas: Image.Image, stream: Stream) -> None:
    """Small bits and pieces that no caption mentions."""
    draw = ImageDraw.Draw(canvas)
    width, height = canvas.size
    unit = min(width, height)
    for _ in range(stream.integer(0, 9)):
        x, y, size = stream.uniform(0, width), stream.uniform(0, height), unit * stream.uniform(0.008, 0.028)
        colour = (stream.integer(30, 230), stream.integer(30, 230), stream.integer(30, 230))
        if stream.chance(0.5):
            draw.ellipse((x - size, y - size, x + size, y + size), fill=colour)
        else:
            draw.line((x, y, x + stream.uniform(-3, 3) * size, y + stream.uniform(-3, 3) * size), fill=colour, width=2)


def _light_field(stream: Stream, light: str, size: tuple[int, int]) -> np.ndarray:
    """Smooth brightness, (h, w) float32: patches of light and shade of every coarse scale, a lamp's cone."""
    generator = np.random.Generator(np.random.PCG64(stream.integer(0, 2**62)))
    coarse = 1.0 + 0.19 * (generator.random((7, 7), dtype=np.float32) * 2 - 1)
    if light == "lamp":
        axis = np.arange(7, dtype=np.float32) / 6
        x, y = np.meshgrid(axis - stream.uniform(0.1, 0.9), axis - stream.uniform(0.1, 0.9))
        coarse *= (1.28 - 0.62 * np.sqrt(x * x + y * y)).astype(np.float32)
    return np.asarray(Image.fromarray(coarse.astype(np.float32)).resize(size, Image.Resampling.BICUBIC))


@lru_cache(maxsize=1)
def _grain() -> np.ndarray:
    """A tile of unit noise, (512, 512) float32, from which every picture takes a window of its own."""
    return np.random.Generator(np.random.PCG64(77)).standard_normal((512, 512), dtype=np.float32)


def _develop(picture: Image.Image, stream: Stream, light: str, noise: float) -> Image.Image:
    """Light, haze and grain on the finished picture."""
    width, height = picture.size
    pixels = np.asarray(picture, dtype=np.float32)
    field = _light_field(stream, light, picture.size)
    pixels = pixels * field[:, :, None] * np.array(_LIGHTS[light], dtype=np.float32)
    if light == "haze":
        pixels += 46.0
    y, x = stream.integer(0, max(0, 512 - height)), stream.integer(0, max(0, 512 - width))
    pixels += noise * _grain()[y : y + height, x : x + width, None]
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def paint_scene(scene: Scene, size: tuple[int, int]) -> Image.Image:
    """The scene as an RGB picture of (width, height) pixels, at most 512 a side; the same for the same arguments."""
    if not all(8 <= side <= 512 for side in size):
        raise ValueError(f"paint_scene: size must be 8 to 512 pixels a side; got {size}")
    stream = Stream(scene.detail)
    canvas = Image.new("RGB", (2 * size[0], 2 * size[1]))
    paint_background(scene.background, canvas, stream)
    _clutter(canvas, stream)
    for group in (scene.other, scene.main):
        if group is not None:
            for spot in group.spots:
                _paint_thing(canvas, group, spot)
    return _develop(canvas.reduce(2), stream, scene.light, scene.noise)


def flat_picture(colour: str, size: tuple[int, int]) -> Image.Image:
    """A picture of one colour and nothing else."""
    return Image.new("RGB", size, COLOURS[colour])


def encode_picture(picture: Image.Image, extension: str, quality: int, *, turned: bool = False) -> bytes:
    """The bytes of a jpg, png or webp; ``turned`` stores a JPEG rotated, with the EXIF tag that says so."""
    if extension not in ("jpg", "png", "webp"):
        raise ValueError(f"encode_picture: extension must be jpg, png or webp; got {extension!r}")
    buffer = io.BytesIO()
    if turned:
        exif = Image.Exif()
        exif[0x0112] = 6  # the viewer is to turn it clockwise
        picture.transpose(Image.Transpose.ROTATE_90).save(buffer, "JPEG", quality=quality, exif=exif)
    elif extension == "png":
        picture.save(buffer, "PNG", compress_level=1)
    else:  # the method is WebP's alone
        picture.save(buffer, "JPEG" if extension == "jpg" else "WEBP", quality=quality, method=0)
    return buffer.getvalue()
