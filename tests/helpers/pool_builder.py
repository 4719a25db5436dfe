"""Small pools for tests: pictures drawn from a number, shards written by tarfile, metadata by pyarrow."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np


def uid_of(number: int) -> str:
    return hashlib.md5(f"sample {number}".encode(), usedforsecurity=False).hexdigest()


@cache
def picture(number: int, size: tuple[int, int] = (96, 80), fmt: str = "JPEG") -> bytes:
    """An encoded picture of broad random blobs: no two numbers look alike to a perceptual hash."""
    from PIL import Image

    rng = np.random.default_rng(number)
    coarse = rng.integers(0, 256, (5, 6, 3), dtype=np.uint8)
    image = Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)
    buffer = io.BytesIO()
    image.save(buffer, fmt, quality=90)
    return buffer.getvalue()


@dataclass
class Sample:
    """One sample; set a member to None to leave it out, or to other bytes to break it."""

    number: int
    caption: str = "a picture of coloured clouds in the evening sky"
    width: int = 640
    height: int = 480
    jpg: bytes | None = None
    txt: bytes | None = None
    info: dict[str, Any] | None = None
    without: tuple[str, ...] = ()
    listed: bool = True
    uid: str | None = None

    def members(self, key: str) -> list[tuple[str, bytes]]:
        uid = self.uid if self.uid is not None else uid_of(self.number)
        info = self.info if self.info is not None else {"uid": uid, "caption": self.caption, "key": key}
        parts = {
            "jpg": self.jpg if self.jpg is not None else picture(self.number),
            "json": json.dumps(info).encode(),
            "txt": self.txt if self.txt is not None else self.caption.encode("utf-8", "surrogatepass"),
        }
        return [(f"{key}.{ext}", data) for ext, data in parts.items() if ext not in self.without]


@dataclass
class PoolBuilder:
    """Writes POOL/shards and POOL/metadata."""

    root: Path
    shards: list[list[Sample]] = field(default_factory=list)
    missing: list[int] = field(default_factory=list)

    def write(self, columns: Callable[[list[dict[str, Any]]], dict[str, list[Any]]] | None = None) -> Path:
        import pyarrow as pa
        import pyarrow.parquet as pq

        (self.root / "shards").mkdir(parents=True)
        (self.root / "metadata").mkdir()
        for number, samples in enumerate(self.shards):
            with tarfile.open(self.root / "shards" / f"{number:08d}.tar", "w") as tar:
                for row, sample in enumerate(samples):
                    for name, data in sample.members(f"{number:05d}{row:04d}"):
                        entry = tarfile.TarInfo(name)
                        entry.size = len(data)
                        tar.addfile(entry, io.BytesIO(data))
            rows = [
                {
                    "uid": s.uid if s.uid is not None else uid_of(s.number),
                    "text": s.caption,
                    "original_width": s.width,
                    "original_height": s.height,
                }
                for s in samples
                if s.listed
            ]
            if number == 0:
                rotted = {"text": "a link that has rotted away", "original_width": 640, "original_height": 480}
                rows += [{"uid": uid_of(n), **rotted} for n in self.missing]
            table = {name: [r[name] for r in rows] for name in ("uid", "text", "original_width", "original_height")}
            if columns is not None:
                table |= columns(rows)
            pq.write_table(pa.table(table), self.root / "metadata" / f"{number:08d}.parquet")
        return self.root


def plain_pool(root: Path, count: int = 12, shards: int = 3) -> PoolBuilder:
    """A pool of whole samples, ``count`` in all."""
    per = -(-count // shards)
    numbers = list(range(count))
    return PoolBuilder(root, [[Sample(n) for n in numbers[i * per : (i + 1) * per]] for i in range(shards)])


def evalset(root: Path, name: str, pictures: dict[str, bytes]) -> Path:
    """EVALSETS/wds_NAME_test with one tar of jpg and cls members."""
    folder = root / f"wds_{name}_test" / "test"
    folder.mkdir(parents=True)
    with tarfile.open(folder / "0.tar", "w") as tar:
        for key, data in pictures.items():
            for member, payload in ((f"{key}.cls", b"0"), (f"{key}.jpg", data)):
                entry = tarfile.TarInfo(member)
                entry.size = len(payload)
                tar.addfile(entry, io.BytesIO(payload))
    (folder / "nshards.txt").write_text("1")
    return root
