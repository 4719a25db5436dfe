"""The places where scenes happen, painted with Pillow on a canvas of twice the picture's size.

Each painter gets the canvas (RGB), a drawing handle, the stream of the scene's details and the shorter side in
canvas pixels. Smooth colour comes from small arrays that are enlarged; only edges are drawn.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from PIL import Image, ImageDraw

from dcfast.world.streams import Stream

Colour = tuple[int, int, int]
Painter = Callable[[Image.Image, ImageDraw.ImageDraw, Stream, int], None]


def _shift(stream: Stream, colour: Colour, amount: int) -> Colour:
    lift, own = stream.uniform(-amount, amount), amount / 3
    red, green, blue = (max(0, min(255, round(level + lift + stream.uniform(-own, own)))) for level in colour)
    return red, green, blue


def _wash(canvas: Image.Image, box: tuple[int, int, int, int], top: Colour, bottom: Colour) -> None:
    """A vertical gradient in a box of the canvas."""
    x0, y0, x1, y1 = box
    if x1 <= x0 or y1 <= y0:
        return
    rows = np.array([top, bottom], dtype=np.uint8)[:, None, :]
    canvas.paste(Image.fromarray(rows).resize((x1 - x0, y1 - y0), Image.Resampling.BILINEAR), (x0, y0))


def _patches(canvas: Image.Image, stream: Stream, top: Colour, bottom: Colour, amount: float) -> None:
    """A vertical gradient with soft lighter and darker patches: dark places differ from each other by them."""
    generator = np.random.Generator(np.random.PCG64(stream.integer(0, 2**62)))
    share = np.linspace(0, 1, 6)[:, None, None]
    cells = np.array(top) * (1 - share) + np.array(bottom) * share + np.zeros((6, 6, 1))
    cells += amount * (generator.random((6, 6, 1)) * 2 - 1) * np.array((0.8, 0.85, 1.0))
    field = Image.fromarray(cells.clip(0, 255).astype(np.uint8))
    canvas.paste(field.resize(canvas.size, Image.Resampling.BICUBIC))


def _speckle(
    draw: ImageDraw.ImageDraw, stream: Stream, box: tuple[int, int, int, int], base: Colour, unit: int
) -> None:
    """Short strokes and grains that give ground its grain."""
    x0, y0, x1, y1 = box
    for _ in range(36):
        x, y = stream.uniform(x0, x1), stream.uniform(y0, y1)
        size = unit * stream.uniform(0.006, 0.02)
        draw.ellipse((x - size * 1.6, y - size, x + size * 1.6, y + size), fill=_shift(stream, base, 26))


def _clouds(draw: ImageDraw.ImageDraw, stream: Stream, width: int, bottom: int, unit: int, count: int) -> None:
    for _ in range(count):
        x, y = stream.uniform(0, width), stream.uniform(0, bottom)
        size = unit * stream.uniform(0.05, 0.13)
        shade = stream.integer(222, 252)
        for _ in range(5):
            dx, dy = stream.uniform(-2.2, 2.2) * size, stream.uniform(-0.4, 0.4) * size
            radius = size * stream.uniform(0.5, 1.0)
            box = (x + dx - radius * 1.3, y + dy - radius * 0.8, x + dx + radius * 1.3, y + dy + radius * 0.8)
            draw.ellipse(box, fill=(shade, shade, min(255, shade + 4)))


def _sky(canvas: Image.Image, draw: ImageDraw.ImageDraw, stream: Stream, unit: int) -> None:
    width, height = canvas.size
    top, bottom = _shift(stream, (74, 136, 214), 26), _shift(stream, (178, 214, 242), 18)
    _wash(canvas, (0, 0, width, height), top, bottom)
    _clouds(draw, stream, width, height, unit, stream.integer(4, 9))


def _hills(draw: ImageDraw.ImageDraw, stream: Stream, width: int, horizon: int, unit: int, colour: Colour) -> None:
    phase, waves, lift = stream.uniform(0, 6.3), stream.uniform(0.6, 2.2), unit * stream.uniform(0.02, 0.12)
    points = [(width * i / 16, horizon - lift * (1 + math.sin(phase + waves * i / 2.5))) for i in range(17)]
    draw.polygon([*points, (width, horizon + 2), (0, horizon + 2)], fill=colour)


def _grass(canvas: Image.Image, draw: ImageDraw.ImageDraw, stream: Stream, unit: int) -> None:
    width, height = canvas.size
    horizon = int(height * stream.uniform(-0.1, 0.42))
    _wash(canvas, (0, 0, width, max(horizon, 0)), _shift(stream, (120, 172, 226), 24), (206, 226, 240))
    green = _shift(stream, (104, 168, 62), 24)
    if horizon > 0:
        _hills(draw, stream, width, horizon, unit, _shift(stream, (70, 128, 66), 22))
    _wash(canvas, (0, max(horizon, 0), width, height), _shift(stream, (128, 184, 78), 16), green)
    for _ in range(60):
        x, y = stream.uniform(0, width), stream.uniform(max(horizon, 0), height)
        length = unit * stream.uniform(0.02, 0.07)
        lean = stream.uniform(-0.4, 0.4) * length
        draw.line((x, y, x + lean, y - length), fill=_shift(stream, green, 34), width=2)


def _beach(canvas: Image.Image, draw: ImageDraw.ImageDraw, stream: Stream, unit: int) -> None:
    width, height = canvas.size
    sea, sand = int(height * stream.uniform(0.1, 0.28)), int(height * stream.uniform(0.34, 0.52))
    _wash(canvas, (0, 0, width, sea), _shift(stream, (132, 186, 232), 22), (214, 232, 244))
    _wash(canvas, (0, sea, width, sand), _shift(stream, (30, 108, 164), 20), _shift(stream, (90, 186, 200), 20))
    base = _shift(stream, (232, 206, 150), 14)
    _wash(canvas, (0, sand, width, height), base, _shift(stream, (214, 182, 122), 16))
    phase, slope = stream.uniform(0, 6.3), unit * stream.uniform(-0.14, 0.14)
    shore = [(width * i / 12, sand + slope * (i / 12 - 0.5) + unit * 0.025 * math.sin(phase + i)) for i in range(13)]
    draw.polygon([*shore, (width, height), (0, height)], fill=base)
    draw.line(shore, fill=(248, 250, 250), width=max(2, unit // 40))
    _speckle(draw, stream, (0, sand + unit // 12, width, height), base, unit)


def _night(canvas: Image.Image, draw: ImageDraw.ImageDraw, stream: Stream, unit: int) -> None:
    width, height = canvas.size
    _patches(canvas, stream, _shift(stream, (22, 24, 56), 8), _shift(stream, (48, 42, 92), 20), 34)
    for _ in range(stream.integer(30, 60)):
        x, y, size = stream.uniform(0, width), stream.uniform(0, height), unit * stream.uniform(0.003, 0.011)
        level = stream.integer(150, 255)
        draw.ellipse((x - size, y - size, x + size, y + size), fill=(level, level, min(255, level + 20)))
    if stream.chance(0.6):
        _hills(draw, stream, width, height, 2 * unit, _shift(stream, (14, 16, 26), 8))


def _snow(canvas: Image.Image, draw: ImageDraw.ImageDraw, stream: Stream, unit: int) -> None:
    width, height = canvas.size
    horizon = int(height * stream.uniform(0.0, 0.4))
    _wash(canvas, (0, 0, width, horizon), _shift(stream, (150, 168, 192), 22), (206, 214, 226))
    if horizon > unit // 8:
        _hills(draw, stream, width, horizon, unit, _shift(stream, (188, 200, 220), 14))
    _wash(canvas, (0, horizon, width, height), (238, 243, 250), _shift(stream, (212, 224, 240), 12))
    for _ in range(3):  # drifts
        x, y = stream.uniform(0, width), stream.uniform(horizon, height)
        wide, high = unit * stream.uniform(0.2, 0.6), unit * stream.uniform(0.03, 0.09)
        draw.ellipse((x - wide, y - high, x + wide, y + high), fill=_shift(stream, (222, 231, 245), 10))
    for _ in range(40):
        x, y, size = stream.uniform(0, width), stream.uniform(0, height), unit * stream.uniform(0.004, 0.014)
        draw.ellipse((x - size, y - size, x + size, y + size), fill=(255, 255, 255))


def _bricks(canvas: Image.Image, draw: ImageDraw.ImageDraw, stream: Stream, unit: int) -> None:
    width, height = canvas.size
    base = _shift(stream, (166, 84, 64), 22)
    canvas.paste(_shift(stream, (196, 184, 170), 20), (0, 0, width, height))
    high = unit * stream.uniform(0.10, 0.17)
    wide, gap = high * stream.uniform(1.9, 2.5), max(2.0, high * 0.12)
    tilt = stream.uniform(-0.08, 0.08)
    y, row = -high * stream.uniform(0.5, 2.0), 0
    while y < height + abs(tilt) * width:
        x = -wide * (0.5 if row % 2 else 1.0) - wide * 0.2
        while x < width:
            left, right = y + tilt * x, y + tilt * (x + wide)
            corners = [(x, left), (x + wide - gap, right), (x + wide - gap, right + high - gap), (x, left + high - gap)]
            draw.polygon(corners, fill=_shift(stream, base, 20))
            x += wide
        y, row = y + high, row + 1


def _wood(canvas: Image.Image, draw: ImageDraw.ImageDraw, stream: Stream, unit: int) -> None:
    width, height = canvas.size
    base = _shift(stream, (176, 124, 74), 26)
    slope, board = stream.uniform(-0.35, 0.35), unit * stream.uniform(0.16, 0.3)
    y = -abs(slope) * width - board * stream.random()
    while y < height + abs(slope) * width:
        colour = _shift(stream, base, 18)
        draw.polygon(
            [(0, y), (width, y + slope * width), (width, y + slope * width + board), (0, y + board)], fill=colour
        )
        for _ in range(4):
            offset = board * stream.uniform(0.1, 0.9)
            start, stop = sorted((stream.uniform(0, width), stream.uniform(0, width)))
            line = (start, y + offset + slope * start, stop, y + offset + slope * stop)
            draw.line(line, fill=_shift(stream, (colour[0] - 22, colour[1] - 20, colour[2] - 16), 8), width=1)
        draw.line((0, y, width, y + slope * width), fill=(92, 60, 34), width=2)
        y += board


def _water(canvas: Image.Image, draw: ImageDraw.ImageDraw, stream: Stream, unit: int) -> None:
    width, height = canvas.size
    top, bottom = _shift(stream, (58, 148, 178), 24), _shift(stream, (12, 70, 122), 20)
    _patches(canvas, stream, top, bottom, 30)
    for _ in range(stream.integer(14, 26)):
        x, y = stream.uniform(-unit * 0.2, width), stream.uniform(0, height)
        length, high = unit * stream.uniform(0.12, 0.4), unit * stream.uniform(0.008, 0.026)
        wave = [(x + length * i / 8, y + high * math.sin(i * math.pi / 2)) for i in range(9)]
        draw.line(wave, fill=_shift(stream, (140, 206, 222), 30), width=max(2, unit // 90))


def _city(canvas: Image.Image, draw: ImageDraw.ImageDraw, stream: Stream, unit: int) -> None:
    width, height = canvas.size
    _wash(canvas, (0, 0, width, height), _shift(stream, (226, 170, 140), 26), _shift(stream, (238, 214, 190), 18))
    x = -unit * 0.1 * stream.random()
    while x < width:
        wide, top = unit * stream.uniform(0.12, 0.26), height * stream.uniform(0.12, 0.6)
        colour = _shift(stream, (96, 100, 122), 26)
        draw.rectangle((x, top, x + wide, height), fill=colour)
        lit = stream.pick(((240, 216, 130), (190, 206, 224), (60, 64, 84)))
        step = unit * 0.062
        for row in range(int((height - top) / step)):
            for column in range(max(1, int(wide / step) - 1)):
                if stream.chance(0.5):
                    a, b = x + (column + 0.5) * step, top + (row + 0.4) * step
                    draw.rectangle((a, b, a + step * 0.45, b + step * 0.5), fill=lit)
        x += wide * stream.uniform(0.9, 1.2)


def _forest(canvas: Image.Image, draw: ImageDraw.ImageDraw, stream: Stream, unit: int) -> None:
    width, height = canvas.size
    _patches(canvas, stream, _shift(stream, (36, 78, 44), 14), _shift(stream, (62, 86, 46), 16), 26)
    for _ in range(stream.integer(5, 9)):
        x, wide = stream.uniform(0, width), unit * stream.uniform(0.03, 0.09)
        bark, lean = _shift(stream, (84, 62, 44), 20), unit * stream.uniform(-0.08, 0.08)
        draw.polygon(
            [(x, 0), (x + wide, 0), (x + wide * 1.3 + lean, height), (x - wide * 0.3 + lean, height)], fill=bark
        )
    for _ in range(46):
        x, y = stream.uniform(0, width), height * stream.random() ** 1.8
        size = unit * stream.uniform(0.03, 0.09)
        draw.ellipse((x - size, y - size * 0.7, x + size, y + size * 0.7), fill=_shift(stream, (48, 104, 50), 30))


def _studio(canvas: Image.Image, draw: ImageDraw.ImageDraw, stream: Stream, unit: int) -> None:
    width, height = canvas.size
    level = stream.integer(176, 236)
    base = _shift(stream, (level, level, level), 10)
    far = (base[0] - 34, base[1] - 34, base[2] - 32)
    corners = [base, far, _shift(stream, base, 16), _shift(stream, far, 16)]
    turn = stream.integer(0, 3)
    cells = np.array(corners[turn:] + corners[:turn], dtype=np.int64).clip(0, 255).astype(np.uint8).reshape(2, 2, 3)
    canvas.paste(Image.fromarray(cells).resize((width, height), Image.Resampling.BICUBIC))


_PAINTERS: dict[str, Painter] = {
    "sky": _sky,
    "grass": _grass,
    "beach": _beach,
    "night": _night,
    "snow": _snow,
    "bricks": _bricks,
    "wood": _wood,
    "water": _water,
    "city": _city,
    "forest": _forest,
    "studio": _studio,
}


def paint_background(name: str, canvas: Image.Image, stream: Stream) -> None:
    """Paints a whole background of the vocabulary on the canvas."""
    _PAINTERS[name](canvas, ImageDraw.Draw(canvas), stream, min(canvas.size))
