"""Pictures to hash: scenes of shapes, each unlike the others, and pictures without structure."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image, ImageDraw


def drawing(seed: int, width: int = 400, height: int = 300) -> Image.Image:
    """A scene of shapes over a gradient with lines like text, different for each seed."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    ramp = rng.uniform(-80, 80, (2, 3))
    base = 128 + (x / width - 0.5)[..., None] * ramp[0] + (y / height - 0.5)[..., None] * ramp[1]
    image = Image.fromarray(base.clip(0, 255).astype(np.uint8))
    draw = ImageDraw.Draw(image)
    for _ in range(12):
        cx, cy = rng.uniform(0, width), rng.uniform(0, height)
        rx, ry = rng.uniform(0.05, 0.25, 2) * (width, height)
        colour = tuple(int(c) for c in rng.integers(0, 256, 3))
        shape = draw.ellipse if rng.random() < 0.5 else draw.rectangle
        shape((cx - rx, cy - ry, cx + rx, cy + ry), fill=colour)
    for line in range(3):
        for word in range(6):
            left, top = 20 + word * width // 7, height // 2 + line * height // 20
            draw.rectangle((left, top, left + int(rng.integers(5, width // 9)), top + height // 60), fill="black")
    return image


def encode(image: Image.Image, kind: str = "JPEG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def flat_pictures(size: int) -> dict[str, np.ndarray]:
    y, x = np.mgrid[:size, :size] / size
    noise = np.random.default_rng(size).normal(size=(size, size))
    return {
        "black": np.zeros((size, size)),
        "white": np.full((size, size), 255.0),
        "grey": np.full((size, size), 130.0),
        "noisy": 130 + 3 * noise,
        "ramp": 250 * x,
        "slanted ramp": 125 * x + 125 * y,
        "noisy ramp": 20 + 200 * y + 2 * noise,
        "stripes": 128 + 100 * np.sin(40 * x),
        "vignette": 240 - 200 * ((x - 0.5) ** 2 + (y - 0.5) ** 2),
    }
