"""The training loader: 512-pixel JPEGs in shards to shuffled batches of 224-pixel uint8 pictures with tokens.

dcfast beside open_clip's own loader and webdataset with torchvision's second transforms, two workers each. The times
compared are CPU seconds, which tell what a core can feed; start-up is taken off, a short run from a long one. Both form
their batches alike: uint8 on all sides, and float32, normalised, as open_clip's loader gives them.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from bench import harness, make_pool
from bench.bars import LOADER_FLOOR, OPEN_CLIP_LOADER, TORCHVISION_LOADER, Value
from bench.harness import Absent, Side, Timed, WrongAnswerError
from bench.loader_sides import MODEL, SIDE, SIDES

BATCH = 256
PICTURE = 512
PROVIDERS = {"dcfast": "dcfast", "open_clip": OPEN_CLIP_LOADER, "torchvision": TORCHVISION_LOADER}
DISTINCT = 96  # pictures; the others are these again
SHARDS = 4
_WORDS = (
    *("a", "the", "of", "with", "near", "red", "green", "old", "small", "quiet", "wooden", "cat", "dog", "child"),
    *("bicycle", "house", "river", "bridge", "market", "winter", "photograph", "handmade", "vintage", "kitchen"),
)


def make_shards(folder: Path, count: int, quality: int) -> list[str]:
    """Shards of square JPEGs whose spectrum falls as that of photographs does, with captions of 8 to 20 words."""
    from PIL import Image

    folder.mkdir(parents=True, exist_ok=True)
    paths = [str(folder / f"{k:08d}.tar") for k in range(SHARDS)]
    if (folder / "complete").is_file():
        return paths
    rng = np.random.default_rng(quality)
    frequency = np.hypot(*np.meshgrid(np.fft.rfftfreq(PICTURE), np.fft.fftfreq(PICTURE)))
    frequency[0, 0] = 1.0
    pictures = []
    for _ in range(min(DISTINCT, count)):
        grey, *tints = (
            np.fft.irfft2(np.exp(2j * np.pi * rng.random(frequency.shape)) / frequency**power, (PICTURE, PICTURE))
            for power in (1.5, 1.9, 1.9)
        )
        layers = [x / x.std() for x in (grey, *tints)]
        levels = np.stack([layers[0] * 45 + tint * 14 for tint in (layers[1], layers[2], -layers[1])], 2) + 120
        file = io.BytesIO()
        Image.fromarray(levels.clip(0, 255).astype(np.uint8)).save(file, "JPEG", quality=quality)
        pictures.append(file.getvalue())
    _write(paths, pictures, count, rng)
    (folder / "complete").touch()
    return paths


def _write(paths: list[str], pictures: list[bytes], count: int, rng: np.random.Generator) -> None:
    import tarfile

    for k, path in enumerate(paths):
        with tarfile.open(path, "w") as tar:
            for i in range(k * count // len(paths), (k + 1) * count // len(paths)):
                caption = " ".join(rng.choice(_WORDS, rng.integers(8, 21)))
                uid = json.dumps({"uid": f"{i:032x}"})
                for ext, data in (
                    ("jpg", pictures[i % len(pictures)]),
                    ("txt", caption.encode()),
                    ("json", uid.encode()),
                ):
                    member = tarfile.TarInfo(f"{i:09d}.{ext}")
                    member.size = len(data)
                    tar.addfile(member, io.BytesIO(data))


class Process:
    """A side that makes batches in processes of its own: a long run and, to take start-up off, a short one."""

    def __init__(self, side: str, request: dict[str, Any], batches: int, *, short: bool) -> None:
        self.request = {**request, "side": side}
        self.batches, self.short = batches, short

    def run(self) -> Timed:
        """CPU seconds of as many images as the long run has more than the short one."""
        long = self._once(self.batches)
        short = self._once(self.request["workers"]) if self.short else {"images": 0, "cpu_s": 0.0, "seconds": 0.0}
        images = long["images"] - short["images"]
        cpu, seconds = long["cpu_s"] - short["cpu_s"], long["seconds"] - short["seconds"]
        first = min(long["first_s"], short.get("first_s", long["first_s"]))
        print(
            f"  {self.request['side']} ({self.request['form']}): {1e3 * cpu / images:.2f} CPU ms an image, "
            f"{images / max(seconds, 1e-9):.0f} images/s, first batch after {first:.2f} s",
            flush=True,
        )
        return Timed(cpu, images)

    def _once(self, batches: int) -> dict[str, Any]:
        request = json.dumps({**self.request, "batches": batches})
        command = [sys.executable, str(Path(__file__).with_name("loader_sides.py")), request]
        done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
        if done.returncode != 0:
            raise RuntimeError(f"{self.request['side']}: {done.stderr.strip()[-600:]}")
        reply: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
        return reply


def check_pixels(shards_dir: str, work: Path) -> None:
    """The first batch against Pillow's crops of the same windows, and open_clip's tokens."""
    from dcfast.models.clip import load_tokenizer
    from dcfast.train import TrainSettings, TrainSource
    from dcfast.train.batch import BatchSpec
    from dcfast.train.decode import PilDecoder
    from dcfast.train.loader import iterate_batches
    from dcfast.train.source import OpenSource, prepare_source

    source = TrainSource(shards=shards_dir)
    overrides: dict[str, int | float | str] = {"model": MODEL, "global_batch": 64, "samples_seen": 1 << 20}
    settings = TrainSettings(out=str(work), sources=(source,), overrides=overrides, resample=False)
    files = prepare_source(source, work, 0)
    batch = next(iterate_batches(BatchSpec(settings, (files,), SIDE), 0, 1, 2))
    opened = OpenSource(files)
    for i, position in enumerate(batch.positions):
        [raw] = opened.read(opened.rows(np.array([position])))
        picture, caption = raw.picture(0), raw.caption(0)
        assert picture is not None
        assert caption is not None
        expected = PilDecoder()(picture, lambda *_, i=i: tuple(batch.windows[i].tolist()), SIDE)
        if not np.array_equal(batch.images[i].permute(1, 2, 0).numpy(), expected):
            raise WrongAnswerError(f"picture {i} of the batch is not Pillow's")
        if batch.tokens[i].tolist() != load_tokenizer(MODEL)([bytes(caption).decode()])[0].tolist():
            raise WrongAnswerError(f"the tokens of caption {i} are not open_clip's")
    if batch.by_pillow:
        raise WrongAnswerError(f"the core left pictures to Pillow: {dict(batch.by_pillow)}")


def floor(shards: list[str], images: int) -> Timed:
    """Pictures of one shard in memory, decoded and cut by the core in one thread; CPU seconds of so many."""
    import tarfile

    from dcfast._core import images as core_images

    with tarfile.open(shards[0]) as tar:
        members = [m for m in tar if m.name.endswith(".jpg")][:BATCH]
        data = [tar.extractfile(m).read() for m in members]  # type: ignore[union-attr]
    size = np.array([len(d) for d in data], np.int64)
    whole, begin, k = b"".join(data), np.cumsum(size) - size, len(data)
    out, windows = np.empty((k, SIDE, SIDE, 3), np.uint8), np.tile(np.array([[9, 7, 494, 497]], np.int32), (k, 1))
    sizes, at = np.full((k, 2), PICTURE, np.int32), np.arange(k)
    rounds = max(1, images // k)
    began = time.thread_time()
    for _ in range(rounds):
        status = core_images.crop_resize(whole, begin, size, windows, sizes, out, at, 1, False)
    seconds = time.thread_time() - began
    if status.any():
        raise WrongAnswerError("the core left pictures to Pillow")
    print(f"  {LOADER_FLOOR}: {1e3 * seconds / (rounds * k):.2f} CPU ms an image", flush=True)
    return Timed(seconds * images / (rounds * k), images)


def time_loader(bench: harness.Bench) -> None:
    options = bench.options
    count, batches, batch = (300, 2 * options.threads, 32) if options.quick else (3_000, 10, BATCH)
    images = batch * (batches if options.quick else batches - options.threads)
    for quality in (85, 95):
        folder = make_pool.cache_dir(options.cache) / f"loader-{count}-{quality}"
        shards = make_shards(folder / "shards", count, quality)
        paths = [*([options.webdataset] if options.webdataset else []), str(harness.REPO_ROOT)]
        request = {
            "shards": "::".join(shards), "shards_dir": str(folder), "work": str(folder / "work"), "batch": batch,
            "workers": options.threads, "seed": 3, "paths": paths,
        }  # fmt: skip
        check_pixels(str(folder), folder / "work")
        for form, names in (("uint8", SIDES), ("float32", ("dcfast", "open_clip")))[: 1 + (quality == 85)]:
            asked = {**request, "form": form}
            sides = [_side(name, asked, batches, images, options) for name in names]
            if form == "uint8":
                check = partial(_check_count, LOADER_FLOOR, images)
                sides.append(Side(LOADER_FLOOR, partial(floor, shards, images), check, once=True))
            shape = f"CPU seconds of {images} images of {PICTURE} pixels, q{quality}, {form} batches of {batch}"
            bench.compare(f"loader_{form}_q{quality}", sides, shape=shape, rounds=1, touched=shards)


def _side(name: str, asked: dict[str, Any], batches: int, images: int, options: argparse.Namespace) -> Side | Absent:
    provider = PROVIDERS[name]
    if name != "dcfast" and not options.webdataset:
        return Absent(provider, "no webdataset 0.2.86: pass --webdataset DIR")
    process = Process(name, asked, batches, short=not options.quick)
    return Side(provider, process.run, partial(_check_count, provider, images), threads=options.threads, once=True)


def _check_count(provider: str, wanted: int, got: int) -> None:
    if got != wanted:
        raise WrongAnswerError(f"{provider}: {got} images, expected {wanted}")


def main(argv: Sequence[str] | None = None) -> dict[str, Value]:
    options = harness.parse_options("bench_loader", argv, __doc__)
    bench = harness.Bench("bench_loader", options)
    time_loader(bench)
    return bench.finish()


if __name__ == "__main__":
    main()
    sys.exit(0)
