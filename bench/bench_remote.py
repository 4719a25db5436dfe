"""Training's reader and a decoder from an object server with 20 ms of delay beside local files; and from a shuffled uid
list beside the same samples in order, from a disk whose pages were dropped.

Samples are a 30% subset of pictures of 512 pixels; each is decoded and resized to 224 pixels by Pillow on both sides.
The server runs in a process of its own, sends ranges by sendfile, and counts what it sends.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import subprocess
import sys
import tarfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from bench import harness, make_pool
from bench.bars import FAR, IN_ORDER, LOCAL, SHUFFLED, WANTED, Value
from bench.harness import Side, require_equal

SERVER = harness.REPO_ROOT / "tests/helpers/object_server.py"
DELAY_S = 0.02
CHUNK = 256
SHARE = 0.3

Answer = tuple[int, int]
"""Samples, and the sum of all pixels."""


def pictures(count: int) -> list[bytes]:
    """JPEGs of 512 x 384 pixels with broad and fine structure, of quality 85 and 95."""
    from PIL import Image

    made = []
    for number in range(count):
        drawn = np.random.default_rng(number)
        broad = Image.fromarray(drawn.integers(0, 256, (12, 16, 3), np.uint8)).resize((512, 384), 3)
        noise = drawn.normal(0, 9, (384, 512, 1))
        pixels = np.clip(np.asarray(broad, np.float32) + noise, 0, 255).astype(np.uint8)
        out = io.BytesIO()
        Image.fromarray(pixels).save(out, "JPEG", quality=(85, 95)[number % 2])
        made.append(out.getvalue())
    return made


def write_pool(folder: Path, shards: int, samples: int) -> Path:
    """``shards/*.tar`` with picture, caption and a json of 1.2 kB a sample; made once."""
    if (folder / "complete").is_file():
        return folder
    (folder / "shards").mkdir(parents=True, exist_ok=True)
    drawn = pictures(40)
    for shard in range(shards):
        with tarfile.open(folder / "shards" / f"{shard:08d}.tar", "w", format=tarfile.USTAR_FORMAT) as tar:
            for row in range(samples):
                number = shard * samples + row
                uid = hashlib.md5(f"{number}".encode(), usedforsecurity=False).hexdigest()
                about = json.dumps({"uid": uid, "url": "u" * 1100}).encode()
                jpg = drawn[number % len(drawn)]
                for ext, data in (("jpg", jpg), ("json", about), ("txt", f"caption {number}".encode())):
                    info = tarfile.TarInfo(f"{number:09d}.{ext}")
                    info.size = len(data)
                    tar.addfile(info, io.BytesIO(data))
    (folder / "complete").touch()
    return folder


@contextmanager
def object_server(root: Path) -> Iterator[str]:
    command = [sys.executable, str(SERVER), str(root), str(DELAY_S)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        yield f"http://127.0.0.1:{int(process.stdout.readline())}"
        process.stdin.close()


def counted(url: str) -> list[int]:
    """Ranges, look-ups, bytes of ranges, most requests at a time."""
    with urllib.request.urlopen(f"{url}/-/count") as answer:
        return [int(word) for word in answer.read().split()]


def decoded(source: Any, chunks: Sequence[Any], threads: int) -> Answer:
    """Every sample of chunks of positions read, decoded and resized, some chunks at a time."""
    from PIL import Image

    def load(positions: Any) -> Answer:
        rows = np.sort(source.rows(positions))
        samples = total = 0
        for raw in source.read(rows):
            for i in range(len(raw)):
                with Image.open(io.BytesIO(raw.picture(i))) as image:
                    pixels = np.asarray(image.convert("RGB").resize((224, 224), Image.Resampling.BICUBIC))
                total += int(pixels.sum(dtype=np.int64)) + len(raw.caption(i))
            samples += len(raw)
        return samples, total

    with ThreadPoolExecutor(threads) as workers:
        found = list(workers.map(load, chunks))
    return sum(count for count, _ in found), sum(total for _, total in found)


def chunks_of(count: int, *, shuffled: bool) -> list[Any]:
    """Positions, a chunk of a batch at a time: by the order of a training, each once, or one after the other."""
    from dcfast.access.order import Order

    order = Order([count], seed=1, resample=False)
    places = [np.arange(first, min(first + CHUNK, count)) for first in range(0, count, CHUNK)]
    return [order.placement(part).positions() if shuffled else part for part in places]


def drop_pages(shards: Sequence[Path]) -> Callable[[], None]:
    def drop() -> None:
        for path in shards:
            file = os.open(path, os.O_RDONLY)
            try:
                os.fsync(file)
                os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
            finally:
                os.close(file)

    return drop


def check(provider: str, expected: Answer) -> Callable[[Answer], None]:
    return lambda got: require_equal(provider, "samples and pixels", got, expected)


def time_remote(bench: harness.Bench, root: Path, shards: int, samples: int) -> None:
    from dcfast import refresh_index, save_subset, uid_sort
    from dcfast.index.segments import Segment
    from dcfast.train import TrainSource
    from dcfast.train.source import OpenSource, prepare_source

    pool = write_pool(root / f"remote-{shards}-{samples}", shards, samples)
    tars = sorted((pool / "shards").glob("*.tar"))
    threads = bench.options.threads
    with harness.WorkDir(bench.options) as place, object_server(pool) as url:
        work = Path(place)
        refresh_index(work / "near", pool)
        refresh_index(work / "far", f"{url}/shards")
        uids = np.concatenate([np.asarray(Segment.open(path).uid) for path in sorted((work / "near").glob("*.dcx"))])
        chosen = np.random.default_rng(0).permutation(len(uids))[: round(SHARE * len(uids))]
        save_subset(work / "subset.npy", uid_sort(np.ascontiguousarray(uids[chosen])))
        sources = []
        for number, (index, shards_dir) in enumerate((("near", str(pool / "shards")), ("far", f"{url}/shards"))):
            given = TrainSource(index=str(work / index), shards_dir=shards_dir, subset=str(work / "subset.npy"))
            sources.append(OpenSource(prepare_source(given, work / "sources", number)))
        near, far = sources
        count = near.files.count
        mixed, in_order = (chunks_of(count, shuffled=shuffled) for shuffled in (True, False))
        expected = decoded(near, in_order, 1)
        wanted = near._members(near.rows(np.arange(count))).num_bytes
        urllib.request.urlopen(f"{url}/-/reset").close()
        began = time.perf_counter()
        decoded(far, mixed, threads)
        seconds = time.perf_counter() - began
        ranges, look_ups, sent, most = counted(url)
        date, shape = harness.now(), f"{count} of {len(uids)} samples"
        for provider, size in ((FAR, sent), (WANTED, wanted)):
            bench.note_memory(
                "remote_bytes", provider, size, shape=shape, seconds=seconds, note="bytes sent", date=date
            )
        note = f"{ranges} ranges, {look_ups} look-ups, {most} at a time"
        shape = f"{count} of {len(uids)} samples of {wanted / count / 1e3:.0f} kB, {threads} threads"
        remote = [
            Side(LOCAL, lambda: decoded(near, mixed, threads), check(LOCAL, expected), threads=threads),
            Side(FAR, lambda: decoded(far, mixed, threads), check(FAR, expected), threads=threads, note=note),
        ]
        bench.compare("object_server", remote, shape=shape, size_bytes=wanted, touched=tars)
        drop = drop_pages(tars)
        lists = [
            Side(name, lambda chunks=chunks: decoded(near, chunks, threads), check(name, expected), drop, threads)
            for name, chunks in ((IN_ORDER, in_order), (SHUFFLED, mixed))
        ]
        bench.compare("shuffled_uids", lists, shape=shape, size_bytes=wanted)


def main(argv: Sequence[str] | None = None) -> dict[str, Value]:
    options = harness.parse_options("bench_remote", argv, __doc__)
    bench = harness.Bench("bench_remote", options)
    shards, samples = (2, 60) if options.quick else (4, 1500)
    time_remote(bench, make_pool.cache_dir(options.cache), shards, samples)
    return bench.finish()


if __name__ == "__main__":
    main()
    sys.exit(0)
