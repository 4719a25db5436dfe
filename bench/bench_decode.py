"""JPEG bytes to training pictures of 224 pixels: decoded, cut, resampled; by the core, by Pillow and by torchvision.

The pictures are those of DCFAST_REAL_DATA's pool (or ../shared/data's) where there is one, else drawn noise with the
spectrum of photographs; their longer side is made 512 pixels, their quality 85 and 95, and the crops keep 0.9 to 1.0 of
the area. The core's pixels must be Pillow's. The floor is the JPEG library's own decoding of the whole picture into
memory that is there. What runs on one thread is compared by its processor time, one thread beside two by the clock.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from bench import harness
from bench.bars import RGB_FLOOR, Value
from bench.bench_phash import drawn_pictures, encoded, real_pictures
from bench.harness import Absent, Side, Timed, WrongAnswerError, require_equal

SIDE, LONGER = 224, 512
PICTURES, QUICK_PICTURES = 100, 4
QUALITIES = (85, 95)
Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Work:
    """Encoded pictures, one after another in ``together`` as well, and of each the window: left, top, width, height."""

    files: list[bytes]
    together: bytes
    begin: npt.NDArray[np.int64]
    size: npt.NDArray[np.int64]
    windows: npt.NDArray[np.int32]
    sizes: npt.NDArray[np.int32]


def work_of(quality: int, count: int) -> Work:
    from dcfast.images.costs import BadImage
    from dcfast.images.decode import decode_image
    from PIL import Image

    files, windows, sizes = [], [], []
    rng = np.random.default_rng(quality)
    for data in (real_pictures(2 * count) or drawn_pictures(count))[: 2 * count]:
        try:
            image = decode_image(data)
        except BadImage:  # the pool has some
            continue
        scale = LONGER / max(image.size)
        width, height = (max(1, round(side * scale)) for side in image.size)
        files.append(encoded(image.resize((width, height), Image.Resampling.LANCZOS), quality))
        share = math.sqrt(rng.uniform(0.9, 1.0))
        wide, tall = max(1, int(width * share)), max(1, int(height * share))
        windows.append((rng.integers(width - wide + 1), rng.integers(height - tall + 1), wide, tall))
        sizes.append((width, height))
        if len(files) == count:
            break
    size = np.array([len(data) for data in files], np.int64)
    return Work(
        files, b"".join(files), np.cumsum(size) - size, size, np.array(windows, np.int32), np.array(sizes, np.int32)
    )


def by_processor(run: Callable[[], Any]) -> Timed:
    """What this thread took."""
    began = time.thread_time()
    answer = run()
    return Timed(time.thread_time() - began, answer)


def ours(work: Work, out: Pixels, threads: int = 1) -> Pixels:
    from dcfast._core import images as core_images
    from dcfast.images.crops import pillow_rule

    at, rule = np.arange(len(out)), pillow_rule().tall_first_down
    where = work.together, work.begin, work.size, work.windows, work.sizes
    statuses = core_images.crop_resize(*where, out, at, threads, False, rule)
    if statuses.any():
        raise WrongAnswerError(f"dcfast: {np.count_nonzero(statuses)} pictures were not decoded")
    return out


def with_pillow(work: Work, out: Pixels) -> Pixels:
    from dcfast.train.decode import PilDecoder

    decode = PilDecoder()
    for row, (data, window) in enumerate(zip(work.files, work.windows.tolist(), strict=True)):
        out[row] = decode(memoryview(data), lambda *_, window=window: window, SIDE)
    return out


def with_torchvision(work: Work, tensors: Sequence[Any], out: Pixels) -> Pixels:
    """torchvision's decoder, then torch's antialiased bicubic of uint8."""
    import torch
    from torchvision.io import ImageReadMode, decode_jpeg

    for row, (data, window) in enumerate(zip(tensors, work.windows.tolist(), strict=True)):
        left, top, wide, tall = window
        cut = decode_jpeg(data, ImageReadMode.RGB)[None, :, top : top + tall, left : left + wide]
        small = torch.nn.functional.interpolate(cut, (SIDE, SIDE), mode="bicubic", antialias=True)
        out[row] = small[0].permute(1, 2, 0).numpy()
    return out


def decoded(work: Work, wholes: Sequence[Pixels]) -> int:
    from dcfast._core import images as core_images

    return sum(core_images.decode_rgb(data, whole) == 0 for data, whole in zip(work.files, wholes, strict=True))


def near(provider: str, expected: Pixels, answer: Pixels) -> None:
    """WrongAnswerError where a level is off by more than 2: torch rounds in its own way."""
    most = int(np.abs(answer.astype(np.int16) - expected).max())
    if most > 2:
        raise WrongAnswerError(f"{provider}: a level differs by {most} from Pillow's")


def torchvision_side(work: Work, expected: Pixels) -> Side | Absent:
    name = "torchvision, uint8 bicubic"
    try:
        import torch
        import torchvision
    except ImportError:
        return Absent(name, "torchvision is not installed")
    torch.set_num_threads(1)
    tensors = [torch.frombuffer(bytearray(data), dtype=torch.uint8) for data in work.files]
    run = partial(with_torchvision, work, tensors, np.empty_like(expected))
    versions = {"torch": torch.__version__, "torchvision": torchvision.__version__}
    return Side(name, partial(by_processor, run), partial(near, name, expected), versions=versions)


def time_decoding(bench: harness.Bench, quality: int) -> None:
    work = work_of(quality, QUICK_PICTURES if bench.options.quick else PICTURES)
    count = len(work.files)
    expected = with_pillow(work, np.empty((count, SIDE, SIDE, 3), np.uint8))
    wholes = [np.zeros((height, width, 3), np.uint8) for width, height in work.sizes.tolist()]

    def side(name: str, run: Callable[[], Any], threads: int = 1, versions: dict[str, str] | None = None) -> Side:
        def check(answer: Pixels) -> None:
            require_equal(name, "pixels", answer, expected)

        return Side(name, run, check, threads=threads, versions=versions or {})

    def own(threads: int) -> Callable[[], Pixels]:
        return partial(ours, work, np.zeros_like(expected), threads)

    pillow = partial(with_pillow, work, np.empty_like(expected))
    sides: list[Side | Absent] = [
        side("dcfast", partial(by_processor, own(1))),
        Side(
            RGB_FLOOR,
            partial(by_processor, partial(decoded, work, wholes)),
            lambda answer: require_equal(RGB_FLOOR, "pictures decoded", answer, count),
        ),
        side("Pillow", partial(by_processor, pillow), versions=harness.version_of("pillow")),
        torchvision_side(work, expected),
    ]
    total = int(work.size.sum())
    shape = f"{count} JPEGs, longer side {LONGER}, quality {quality}, {total / 1e6:.1f} MB in memory"
    bench.compare(f"decode_q{quality}", sides, shape=shape, dtype="uint8", size_bytes=total)
    both: list[Side | Absent] = [side("dcfast", own(1)), side("dcfast, 2 threads", own(2), 2)]
    bench.compare(f"decode_q{quality}_threads", both, shape=shape, dtype="uint8", size_bytes=total)


def main(argv: Sequence[str] | None = None) -> dict[str, Value]:
    options = harness.parse_options("bench_decode", argv, __doc__)
    bench = harness.Bench("bench_decode", options)
    for quality in QUALITIES:
        time_decoding(bench, quality)
    return bench.finish()


if __name__ == "__main__":
    main()
    sys.exit(0)
