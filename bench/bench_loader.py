"""The training loader: 512-pixel JPEGs in shards to shuffled batches of 224-pixel uint8 pictures with tokens.

dcfast beside open_clip's own loader and webdataset with torchvision's second transforms, two workers each; CPU
milliseconds an image come first, since they tell what a core can feed. Start-up is taken off: a short run from a long one.
"""

from __future__ import annotations

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

from bench import harness
from bench.bars import LOADER_FLOOR, OPEN_CLIP_LOADER, TORCHVISION_LOADER, Value
from bench.harness import Absent, Side, Timed, WrongAnswerError
from bench.loader_sides import MODEL, SIDE

BATCH = 256
PICTURE = 512
DISTINCT = 96  # pictures; the others are these again
SHARDS = 4
_WORDS = (
    "a the of with near red green old small quiet wooden cat dog child bicycle house river bridge market winter".split()
)


def make_shards(folder: Path, count: int, quality: int) -> list[str]:
    """Shards of square JPEGs whose spectrum falls as that of photographs does, with captions of eight to twenty words."""
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
    """A side that makes batches in processes of its own; each turn a short run and a long one."""

    def __init__(self, side: str, request: dict[str, Any], batches: int) -> None:
        self.request = {**request, "side": side}
        self.batches = batches
        self.note = ""

    def run(self) -> Timed:
        """CPU seconds of as many images as the long run has more than the short one."""
        short, long = (self._once(n) for n in (self.request["workers"], self.batches))
        images = long["images"] - short["images"]
        cpu, seconds = long["cpu_s"] - short["cpu_s"], long["seconds"] - short["seconds"]
        self.note = (
            f"{1e3 * cpu / images:.2f} CPU ms an image, {images / max(seconds, 1e-9):.0f} images/s, "
            f"first batch after {min(short['first_s'], long['first_s']):.2f} s"
        )
        print(f"  {self.request['side']} ({self.request['form']}): {self.note}", flush=True)
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
    overrides = {"model": MODEL, "global_batch": 64, "samples_seen": 1 << 20, "crop_scale": 0.9}
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
    count, batches = (600, 4) if options.quick else (3_000, 10)
    batch = 64 if options.quick else BATCH
    images = batch * (batches - options.threads)
    for quality in (85, 95):
        from bench.make_pool import cache_dir

        folder = cache_dir(options.cache) / f"loader-{count}-{quality}"
        shards = make_shards(folder / "shards", count, quality)
        paths = [str(harness.REPO_ROOT)] + ([options.webdataset] if options.webdataset else [])
        request = {
            "shards": "::".join(shards), "shards_dir": str(folder), "work": str(folder / "work"), "batch": batch,
            "workers": options.threads, "seed": 3, "paths": paths[::-1],
        }  # fmt: skip
        check_pixels(str(folder), folder / "work")
        for form in ("uint8", "float32"):
            sides: list[Side | Absent] = []
            asked = {**request, "form": form}
            for name, provider in (
                ("dcfast", "dcfast"),
                ("open_clip", OPEN_CLIP_LOADER),
                ("torchvision", TORCHVISION_LOADER),
            ):
                if form == "float32" and name == "torchvision":
                    continue
                process = Process(name, asked, batches)
                sides.append(
                    Side(provider, process.run, partial(_check_count, provider, images), threads=options.threads)
                )
            if form == "uint8":
                sides.append(
                    Side(LOADER_FLOOR, partial(floor, shards, images), partial(_check_count, LOADER_FLOOR, images))
                )
            shape = f"{images} images of {PICTURE} pixels, q{quality}, CPU seconds, {options.threads} workers, {form} batches of {batch}"
            bench.compare(f"loader_{form}_q{quality}", sides, shape=shape, rounds=1, touched=shards)


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
