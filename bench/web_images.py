"""JPEGs like those of the web, cut from large photographs, and what resizing them takes and changes.

    python -m bench.web_images FOLDER

FOLDER holds photographs of 3 megapixels and more, such as those of the packages gnome-backgrounds, mate-backgrounds,
plasma-workspace-wallpapers and lomiri-wallpapers of Debian (/usr/share/backgrounds, /usr/share/wallpapers).
"""

from __future__ import annotations

import argparse
import io
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
from dcfast.images.resize import HOW, ResizeOptions, resize_image
from PIL import Image

LEAST_PIXELS = 3_000_000
"""Of a photograph to cut from."""
SIDE = 512
_ASPECTS = (4 / 3, 3 / 2, 1.0, 16 / 9, 3 / 4, 2 / 3)
_SHORT = 0.4
"""Share of images whose longer side is at most SIDE."""
_MEDIAN_PIXELS, _MOST_PIXELS = 800_000, 4_000_000
_PROGRESSIVE, _FULL_COLOUR = 0.2, 0.1
"""Shares of JPEGs, the latter without subsampling."""


def make_web_images(folder: Path | Sequence[Path], count: int = 300, seed: int = 0) -> list[bytes]:
    """JPEGs of quality 85 to 95; 60% above 512 pixels on the longer side, the median of 0.8 megapixels. Prints what
    came out. The same bytes for the same photographs, arguments and Pillow.

    Raises:
        ValueError: there is no photograph of LEAST_PIXELS.
    Time: 0.1 s an image.
    """
    roots = [folder] if isinstance(folder, Path) else list(folder)
    photographs = []
    for path in sorted(p for root in roots for p in root.rglob("*.jp*g") if p.is_file() and not p.is_symlink()):
        with Image.open(path) as image:
            if image.width * image.height >= LEAST_PIXELS:
                photographs.append(path)
    if not photographs:
        raise ValueError(f"no photographs of {LEAST_PIXELS:,} pixels (*.jpg) in {', '.join(map(str, roots))}")
    rng = np.random.default_rng(seed)
    sizes = [_size(i / count, rng) for i in range(count)]  # evenly over the quantiles: few are as good as many
    made: list[bytes] = [b""] * count
    for i, path in enumerate(photographs):  # each is opened once
        with Image.open(path) as opened:
            photograph = opened.convert("RGB")
        for k in range(i, count, len(photographs)):
            made[k] = _cut(photograph, sizes[k], np.random.default_rng((seed, k)))
    _print_distribution(made, len(photographs))
    return made


def _size(quantile: float, rng: np.random.Generator) -> tuple[int, int]:
    aspect = float(rng.choice(_ASPECTS))
    longest = max(aspect, 1.0) / aspect**0.5  # of an image of one pixel
    if quantile < _SHORT:
        side = np.exp(rng.uniform(np.log(160), np.log(SIDE)))
    elif quantile < 0.5:
        side = np.exp(rng.uniform(np.log(SIDE + 1), np.log(longest * _MEDIAN_PIXELS**0.5)))
    else:
        side = longest * np.exp(rng.uniform(np.log(_MEDIAN_PIXELS), np.log(_MOST_PIXELS))) ** 0.5
    scale = side / longest
    return round(scale * aspect**0.5), round(scale / aspect**0.5)


def _cut(photograph: Image.Image, size: tuple[int, int], rng: np.random.Generator) -> bytes:
    """A piece of the photograph's own sharpness or down to all of it, made as large as wanted."""
    most = min(photograph.width / size[0], photograph.height / size[1])
    zoom = np.exp(rng.uniform(0, np.log(most))) if most > 1 else most
    width, height = min(size[0] * zoom, photograph.width), min(size[1] * zoom, photograph.height)  # rounding apart
    left, top = rng.uniform(0, photograph.width - width), rng.uniform(0, photograph.height - height)
    piece = photograph.resize(size, Image.Resampling.LANCZOS, (left, top, left + width, top + height))
    out = io.BytesIO()
    subsampling = 0 if rng.random() < _FULL_COLOUR else 2
    piece.save(
        out, "JPEG", quality=int(rng.integers(85, 96)), subsampling=subsampling, progressive=rng.random() < _PROGRESSIVE
    )
    return out.getvalue()


def _print_distribution(images: Sequence[bytes], photographs: int) -> None:
    opened = [Image.open(io.BytesIO(data)) for data in images]
    pixels = [image.width * image.height / 1e6 for image in opened]
    sides = [max(image.size) for image in opened]
    tenths = statistics.quantiles(pixels, n=10)
    print(
        f"{len(images)} JPEGs of {photographs} photographs: {statistics.median(pixels):.2f} megapixels at the median,"
        f" {statistics.mean(pixels):.2f} on average, {tenths[0]:.2f} to {tenths[-1]:.2f} at the tenths;"
        f" {100 * sum(s > SIDE for s in sides) / len(sides):.0f}% above {SIDE} pixels;"
        f" {100 * sum('progression' in image.info for image in opened) / len(images):.0f}% progressive;"
        f" {statistics.mean(map(len, images)) / 1000:.0f} kB on average"
    )


def milliseconds(resize: Callable[[bytes], object], images: Sequence[bytes], rounds: int = 3) -> float:
    """Of processor time an image, the least of some rounds."""
    taken = []
    for _ in range(rounds):
        began = time.process_time()
        for data in images:
            resize(data)
        taken.append((time.process_time() - began) / len(images))
    return 1000 * min(taken)


def scaled_differences(images: Sequence[bytes], options: ResizeOptions | None = None) -> dict[str, float]:
    """How far ``scaled`` is from ``exact``, over the images of which it makes something else, before the encoder.

    Returns:
        "changed": their share of all; "mean": grey levels between the two, on average; "worst": of the worst image, on
        average; "psnr", "worst psnr": decibels, of the mean square over all images and of the worst one; "from jpeg":
        grey levels that the encoder changes at the same quality, for comparison.
    """
    made = replace(options or ResizeOptions(), encode_format="png", quality=1)
    gaps, squares, lost = [], [], []
    for data in images:
        exact, scaled = (_pixels(resize_image(data, replace(made, how=how)).data) for how in HOW)
        if not np.array_equal(exact, scaled):
            gap = np.abs(exact - scaled)
            gaps.append(float(gap.mean()))
            squares.append(float((gap**2).mean()))
            encoded = _pixels(resize_image(data, replace(options or ResizeOptions(), how="exact")).data)
            lost.append(float(np.abs(exact - encoded).mean()))
    return {
        "changed": len(gaps) / len(images),
        "mean": statistics.mean(gaps),
        "worst": max(gaps),
        "psnr": decibels(statistics.mean(squares)),
        "worst psnr": decibels(max(squares)),
        "from jpeg": statistics.mean(lost),
    }


def decibels(square: float) -> float:
    return float(10 * np.log10(255**2 / square))


def _pixels(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data))).astype(np.float32)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="+")
    parser.add_argument("--count", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--write", type=Path, help="a folder for the images, 000.jpg and so on")
    args = parser.parse_args(argv)
    images = make_web_images(args.folder, args.count, args.seed)
    if args.write:
        args.write.mkdir(parents=True, exist_ok=True)
        for i, data in enumerate(images):
            (args.write / f"{i:03d}.jpg").write_bytes(data)
    for how in HOW:
        taken = milliseconds(partial(resize_image, options=ResizeOptions(how=how)), images)
        print(f"{how}: {taken:.2f} ms of processor time an image")
    print("scaled beside exact:", ", ".join(f"{k} {v:.3g}" for k, v in scaled_differences(images).items()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
