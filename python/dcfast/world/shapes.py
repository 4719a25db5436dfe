"""Outlines of the kinds of things, and the textures that fill them.

A shape is a list of (role, polygon) in its own square from -1 to 1 (y downwards, inside the unit circle as far as
it matters): "body" is filled with colour and texture, "hole" is cut out, the other roles are details in a colour of
their own or a darker or lighter body colour.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
from PIL import Image

Polygon = tuple[tuple[float, float], ...]


def _arc(cx: float, cy: float, rx: float, ry: float, start: float, end: float, points: int = 22) -> Polygon:
    """Points of an elliptic arc, angles in turns (0 = right, 0.25 = down)."""
    steps = [start + (end - start) * i / points for i in range(points + 1)]
    return tuple((cx + rx * math.cos(2 * math.pi * t), cy + ry * math.sin(2 * math.pi * t)) for t in steps)


def _star() -> Polygon:
    points = [(radius, math.pi * i / 5) for i, radius in enumerate((1.0, 0.42) * 5)]
    return tuple((radius * math.sin(angle), -radius * math.cos(angle)) for radius, angle in points)


def _heart() -> Polygon:
    points = []
    for i in range(32):
        t = 2 * math.pi * i / 32
        x = 16 * math.sin(t) ** 3
        y = 13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t) - math.cos(4 * t)
        points.append((x / 17.5, -(y + 2.0) / 17.0))
    return tuple(points)


def _box(x0: float, y0: float, x1: float, y1: float) -> Polygon:
    return ((x0, y0), (x1, y0), (x1, y1), (x0, y1))


def _cross(a: float, b: float) -> Polygon:
    return (
        *((-a, -b), (a, -b), (a, -a), (b, -a), (b, a), (a, a)),
        *((a, b), (-a, b), (-a, a), (-b, a), (-b, -a), (-a, -a)),
    )


SHAPES: dict[str, tuple[tuple[str, Polygon], ...]] = {
    "circle": (("body", _arc(0, 0, 0.92, 0.92, 0, 1)),),
    "square": (("body", _box(-0.76, -0.76, 0.76, 0.76)),),
    "triangle": (("body", ((0, -0.95), (0.95, 0.72), (-0.95, 0.72))),),
    "star": (("body", _star()),),
    "heart": (("body", _heart()),),
    "crescent": (("body", _arc(0, 0, 0.95, 0.95, 0, 1, 30)), ("hole", _arc(0.42, -0.1, 0.74, 0.74, 0, 1, 26))),
    "cross": (("body", _cross(0.3, 0.92)),),
    "ring": (("body", _arc(0, 0, 0.95, 0.95, 0, 1, 30)), ("hole", _arc(0, 0, 0.5, 0.5, 0, 1))),
    "diamond": (("body", ((0, -1), (0.66, 0), (0, 1), (-0.66, 0))),),
    "arrow": (
        ("body", ((-0.95, -0.26), (0.1, -0.26), (0.1, -0.72), (0.97, 0), (0.1, 0.72), (0.1, 0.26), (-0.95, 0.26))),
    ),
    "house": (
        ("body", _box(-0.66, -0.14, 0.66, 0.84)),
        ("dark", ((-0.9, -0.1), (0, -0.95), (0.9, -0.1))),
        ("brown", _box(-0.16, 0.3, 0.18, 0.84)),
        ("glass", _box(-0.54, 0.08, -0.26, 0.36)),
        ("glass", _box(0.28, 0.08, 0.56, 0.36)),
    ),
    "tree": (
        ("brown", _box(-0.13, 0.4, 0.13, 0.98)),
        ("body", ((0, -1), (0.5, -0.3), (-0.5, -0.3))),
        ("body", ((0, -0.66), (0.66, 0.14), (-0.66, 0.14))),
        ("body", ((0, -0.28), (0.84, 0.6), (-0.84, 0.6))),
    ),
    "fish": (
        ("body", _arc(-0.18, 0, 0.76, 0.5, 0, 1)),
        ("body", ((0.4, 0), (0.98, -0.5), (0.84, 0), (0.98, 0.5))),
        ("dark", ((-0.2, -0.44), (0.22, -0.72), (0.26, -0.4))),
        ("white", _arc(-0.56, -0.12, 0.13, 0.13, 0, 1, 10)),
        ("black", _arc(-0.58, -0.12, 0.06, 0.06, 0, 1, 8)),
    ),
    "boat": (
        ("dark", ((-0.95, 0.34), (0.95, 0.34), (0.6, 0.84), (-0.6, 0.84))),
        ("brown", _box(-0.06, -0.95, 0.04, 0.36)),
        ("body", ((0.08, -0.9), (0.82, 0.22), (0.08, 0.22))),
        ("body", ((-0.1, -0.66), (-0.1, 0.22), (-0.68, 0.22))),
    ),
    "mushroom": (
        ("cream", ((-0.26, 0.0), (0.26, 0.0), (0.34, 0.9), (-0.34, 0.9))),
        ("body", _arc(0, 0.14, 0.95, 0.98, 0.5, 1.0)),
    ),
    "umbrella": (
        ("black", _box(-0.05, -0.2, 0.05, 0.84)),
        ("black", _box(0.0, 0.76, 0.3, 0.88)),
        ("black", _box(0.22, 0.6, 0.31, 0.86)),
        (
            "body",
            (
                *_arc(0, 0.1, 0.97, 1.0, 0.5, 1.0),
                *((0.64, -0.06), (0.32, 0.1), (0.0, -0.06), (-0.32, 0.1), (-0.64, -0.06)),
            ),
        ),
    ),
}

_SIDE = 128
_PERIODS = {
    "striped": (3.0, 3.7, 4.4),
    "dotted": (2.5, 3.0, 3.5),
    "checkered": (2.6, 3.2, 3.8),
    "zigzag": (2.6, 3.2, 3.8),
    "swirled": (2.0, 2.4, 2.8),
}


@lru_cache(maxsize=256)
def texture_mask(texture: str, scale: int, turn: int) -> Image.Image:
    """Where the second colour goes on a thing's square: 8-bit mask, 128 x 128; ``turn`` in eighths of a half turn."""
    if texture not in _PERIODS:
        raise ValueError(f"texture_mask: texture must be one of {', '.join(_PERIODS)}; got {texture!r}")
    axis = (np.arange(_SIDE) + 0.5) / _SIDE * 2 - 1
    x, y = np.meshgrid(axis, axis)
    angle = math.pi * turn / 8
    u = x * math.cos(angle) + y * math.sin(angle)
    v = y * math.cos(angle) - x * math.sin(angle)
    periods = _PERIODS[texture][scale] / 2
    if texture == "striped":
        on = (u * periods) % 1 < 0.4
    elif texture == "dotted":
        on = ((u * periods) % 1 - 0.5) ** 2 + ((v * periods) % 1 - 0.5) ** 2 < 0.085
    elif texture == "checkered":
        on = ((u * periods) % 1 < 0.5) ^ ((v * periods) % 1 < 0.5)
    elif texture == "zigzag":
        on = (u * periods + np.abs((v * periods) % 1 - 0.5)) % 1 < 0.42
    else:
        on = (np.hypot(u, v) * periods + np.arctan2(v, u) / (2 * math.pi)) % 1 < 0.42
    return Image.fromarray(np.where(on, np.uint8(255), np.uint8(0)))
