"""Perceptual hashes from JPEG bytes, one core: beside imagehash, and beside libjpeg decoding grey at the same scale.

The pictures are those of DCFAST_REAL_DATA's pool (or ../shared/data's) where there is one, else drawn noise with the
spectrum of photographs. Each is there twice, the second time encoded again at quality 60: both sides must find the
copies within 8 bits.
"""

from __future__ import annotations

import io
import os
import sys
import tarfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt

from bench import harness
from bench.bars import DECODE_FLOOR, IMAGEHASH, Value
from bench.harness import Absent, Side, WrongAnswerError

MAX_DISTANCE = 8
PICTURES, QUICK_PICTURES = 200, 4
Hashes = npt.NDArray[np.uint64]


def real_pictures(count: int) -> list[bytes]:
    """Up to so many JPEGs of a real pool, none where there is no pool."""
    root = Path(os.environ.get("DCFAST_REAL_DATA") or harness.REPO_ROOT.parent / "shared" / "data")
    found: list[bytes] = []
    for path in sorted((root / "pool" / "shards").glob("*.tar")):
        with tarfile.open(path) as tar:
            for member in tar:
                if member.name.endswith(".jpg") and len(found) < count:
                    file = tar.extractfile(member)
                    found.append(file.read() if file else b"")
    return found


def drawn_pictures(count: int) -> list[bytes]:
    """Noise whose amplitude falls with the frequency, as that of photographs does; 500 x 375, quality 90."""
    from PIL import Image

    height, width = 375, 500
    far = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None])
    far[0, 0] = np.inf
    pictures = []
    for seed in range(count):
        noise = np.random.default_rng(seed).normal(size=(3, height, width))
        waves = np.fft.irfft2(np.fft.rfft2(noise) / far, (height, width))
        levels = 128 + 45 * waves / waves.std(axis=(1, 2), keepdims=True)
        pictures.append(encoded(Image.fromarray(levels.clip(0, 255).astype(np.uint8).transpose(1, 2, 0).copy()), 90))
    return pictures


def encoded(image: object, quality: int) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)  # type: ignore[attr-defined]
    return buffer.getvalue()


def with_copies(pictures: Sequence[bytes]) -> list[bytes]:
    """Those that decode and are not flat, then a copy of each at quality 60."""
    from dcfast.images.signatures import signatures_of
    from PIL import Image

    signed = signatures_of(pictures, wide=True)
    good = [pictures[i] for i in np.flatnonzero(~signed.flat & ~signed.flat256)]
    return good + [encoded(Image.open(io.BytesIO(data)).convert("RGB"), 60) for data in good]


def ours(pictures: Sequence[bytes], *, wide: bool = False) -> Hashes:
    from dcfast.images.signatures import signatures_of

    signed = signatures_of(pictures, threads=1, wide=wide)
    return signed.phash256 if wide else signed.phash[:, None]


def decoded(pictures: Sequence[bytes]) -> int:
    """Pictures decoded to grey, at the scale at which they are hashed."""
    from dcfast._core import images as core_images

    return sum(core_images.decode_grey(data, False)[0] == 0 for data in pictures)


def with_imagehash(pictures: Sequence[bytes], *, draft: bool = False) -> Hashes:
    """imagehash.phash; with ``draft``, of a picture that Pillow decodes in grey and at a reduced scale as well."""
    import imagehash
    from PIL import Image

    hashes = []
    for data in pictures:
        with Image.open(io.BytesIO(data)) as image:
            if draft:
                image.draft("L", (64, 64))
            hashes.append(int(str(imagehash.phash(image)), 16))
    return np.array(hashes, np.uint64)[:, None]


def require_copies_found(provider: str, answer: Hashes, *, count: int, most: int) -> None:
    """WrongAnswerError unless every picture and its copy differ in at most ``most`` bits."""
    if len(answer) != 2 * count:
        raise WrongAnswerError(f"{provider}: number of hashes differs: expected {2 * count}, got {len(answer)}")
    apart = np.bitwise_count(answer[:count] ^ answer[count:]).sum(axis=1)
    if count and apart.max() > most:
        raise WrongAnswerError(f"{provider}: a picture and its copy differ in {apart.max()} bits, more than {most}")


def time_hashes(bench: harness.Bench) -> None:
    count = QUICK_PICTURES if bench.options.quick else PICTURES
    pictures = with_copies(real_pictures(count) or drawn_pictures(count))
    total, found = sum(map(len, pictures)), partial(require_copies_found, count=len(pictures) // 2, most=MAX_DISTANCE)

    def all_decoded(answer: int) -> None:
        harness.require_equal(DECODE_FLOOR, "pictures decoded", answer, len(pictures))

    sides: list[Side | Absent] = [
        Side("dcfast", lambda: ours(pictures), partial(found, "dcfast"), threads=1),
        Side(
            "dcfast, 64 and 256 bits",
            lambda: ours(pictures, wide=True),
            partial(found, "dcfast, 64 and 256 bits", most=4 * MAX_DISTANCE),
            threads=1,
        ),
        Side(DECODE_FLOOR, lambda: decoded(pictures), all_decoded, threads=1),
    ]
    peer = harness.version_of("imagehash")
    for name, draft in ((IMAGEHASH, False), (f"{IMAGEHASH} of Pillow's draft", True)):
        run = partial(with_imagehash, pictures, draft=draft)
        here = Side(name, run, partial(found, name), versions={**peer, **harness.version_of("pillow")}, threads=1)
        sides.append(here if peer else Absent(name, "imagehash is not installed"))
    shape = f"{len(pictures)} JPEGs, {total / 1e6:.1f} MB in memory"
    bench.compare("phash", sides, shape=shape, dtype="uint8", size_bytes=total)


def main(argv: Sequence[str] | None = None) -> dict[str, Value]:
    options = harness.parse_options("bench_phash", argv, __doc__)
    bench = harness.Bench("bench_phash", options)
    time_hashes(bench)
    return bench.finish()


if __name__ == "__main__":
    main()
    sys.exit(0)
