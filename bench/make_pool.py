"""A pool to measure on: the same bytes for the same parameters, made once and kept with the temporary files.

Shards are written by webdataset's TarWriter with a fractional mtime, so that every member has a pax header before it,
as in the pools people make with it. Pictures are JPEG headers that tell the true width and height, then random bytes:
nothing here decodes them.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import struct
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

# part of the cache's name: count up when the bytes of a pool change
_VERSION = 2
_MTIME = 1_700_000_000.5
_NOISE_BYTES = 1 << 26
_WORDS = (
    *("a", "the", "red", "green", "old", "small", "quiet", "crowded", "wooden", "cat", "dog", "child", "bicycle"),
    *("house", "river", "bridge", "street", "market", "station", "mountain", "table", "window", "morning", "winter"),
    *("of", "with", "near", "under", "and"),
)


@dataclass(frozen=True)
class PoolSize:
    """What decides a pool's bytes. Sizes of pictures are spread around the mean as downloaded ones are."""

    shards: int = 8
    samples: int = 2_000
    mean_jpeg: int = 46_000
    fraction: float = 0.3
    seed: int = 1

    def cache_name(self) -> str:
        text = json.dumps([_VERSION, asdict(self)], sort_keys=True)
        return "pool-" + hashlib.sha256(text.encode()).hexdigest()[:16]


FULL = PoolSize()
QUICK = PoolSize(shards=2, samples=60, mean_jpeg=3_000)


@dataclass(frozen=True)
class Pool:
    """A pool on disk: ``shards/*.tar`` with their stats files, and the subset of ``fraction`` of its samples."""

    root: Path
    size: PoolSize

    @property
    def shards_dir(self) -> Path:
        return self.root / "shards"

    @property
    def subset_file(self) -> Path:
        return self.root / "subset.npy"

    @property
    def shards(self) -> list[str]:
        return [str(self.shards_dir / f"{k:08d}.tar") for k in range(self.size.shards)]

    @property
    def tar_bytes(self) -> int:
        return sum(os.path.getsize(path) for path in self.shards)

    @property
    def num_members(self) -> int:
        return 3 * self.size.shards * self.size.samples


def cache_dir(parent: str | None = None) -> Path:
    """Where pools are kept: a directory of this user alone."""
    base = Path(parent or tempfile.gettempdir()) / f"dcfast-bench-{os.getuid()}"
    base.mkdir(mode=0o700, parents=True, exist_ok=True)
    if base.stat().st_uid != os.getuid():
        raise PermissionError(f"{base} belongs to another user; pass --cache DIR")
    return base


def make_pool(size: PoolSize = FULL, parent: str | None = None) -> Pool:
    """The pool of these parameters; made where it is not there yet, whole or not at all. Its shards are in the page
    cache when this returns, as if somebody had read them.
    """
    pool = Pool(cache_dir(parent) / size.cache_name(), size)
    if not (pool.root / "complete").is_file():
        shutil.rmtree(pool.root, ignore_errors=True)
        making = Path(tempfile.mkdtemp(prefix=".making-", dir=pool.root.parent))
        try:
            _write_pool(Pool(making, size))
            (making / "complete").touch()
            making.rename(pool.root)
        finally:
            shutil.rmtree(making, ignore_errors=True)
    for shard in pool.shards:
        _read_into_cache(shard)
    return pool


def _read_into_cache(path: str) -> None:
    """Drops the file from the page cache and reads it from front to back.

    How scattered a cached file's pages are depends on how full and fragmented the memory was when they came in: on one
    machine an index of the same shards took 31 ms from pages cached hours before and 22 ms after this. Read anew,
    every bench and every side of it starts from the same state.
    """
    with open(path, "rb", buffering=0) as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        piece = bytearray(1 << 20)
        while file.readinto(piece):
            pass


def linked_pool(pool: Pool, times: int, root: Path) -> Path:
    """A directory of ``times`` links to each shard: as many shards as wanted without their bytes."""
    shards = root / "shards"
    shards.mkdir(parents=True)
    for k in range(times * pool.size.shards):
        (shards / f"{k:08d}.tar").symlink_to(pool.shards[k % pool.size.shards])
    return shards


def _write_pool(pool: Pool) -> None:
    from webdataset import TarWriter

    size = pool.size
    rng = np.random.Generator(np.random.PCG64(size.seed))
    noise = rng.bytes(_NOISE_BYTES)
    total = size.shards * size.samples
    uids = np.frombuffer(rng.bytes(16 * total), np.dtype("u8,u8"))
    spread = rng.lognormal(0.0, 0.6, total)
    lengths = np.maximum(256, spread / spread.mean() * size.mean_jpeg).astype(np.int64)
    begins = rng.integers(0, _NOISE_BYTES - int(lengths.max()), total)
    sides = rng.integers(200, 1600, (total, 2))
    words = rng.integers(0, len(_WORDS), (total, 12))
    pool.shards_dir.mkdir(parents=True)
    for shard in range(size.shards):
        with TarWriter(str(pool.shards_dir / f"{shard:08d}.tar"), encoder=False, mtime=_MTIME) as tar:
            for row in range(size.samples):
                i = shard * size.samples + row
                width, height = (int(n) for n in sides[i])
                picture = _picture(width, height, noise[begins[i] : begins[i] + lengths[i]])
                caption = " ".join(_WORDS[n] for n in words[i])
                key = f"{shard:05d}{row:04d}"
                uid = f"{int(uids[i][0]):016x}{int(uids[i][1]):016x}"
                info = _info(key, uid, caption, width, height, picture)
                tar.write({"__key__": key, "jpg": picture, "json": info, "txt": caption.encode()})
        (pool.shards_dir / f"{shard:08d}_stats.json").write_text(json.dumps({"successes": size.samples}))
    subset = np.sort(uids[rng.permutation(total)[: round(total * size.fraction)]])
    np.save(pool.subset_file, subset)


def _picture(width: int, height: int, noise: bytes) -> bytes:
    """A baseline JPEG's headers, random bytes where its scan would be, and its end."""
    app0 = b"\xff\xe0" + struct.pack(">H", 16) + b"JFIF\0\1\1\0\0\1\0\1\0\0"
    frame = b"\xff\xc0" + struct.pack(">HBHHB", 17, 8, height, width, 3) + b"\1\x22\0\2\x11\1\3\x11\1"
    scan = b"\xff\xda" + struct.pack(">HB", 12, 3) + b"\1\0\2\x11\3\x11\0\x3f\0"
    return b"\xff\xd8" + app0 + frame + scan + noise + b"\xff\xd9"


def _info(key: str, uid: str, caption: str, width: int, height: int, picture: bytes) -> bytes:
    """The json member, with the fields that img2dataset writes for a DataComp pool."""
    fields: dict[str, Any] = {
        "uid": uid,
        "face_bboxes": [],
        "caption": caption,
        "url": f"https://pictures.example/{uid[:2]}/{uid[2:12]}.jpg",
        "key": key,
        "status": "success",
        "error_message": None,
        "width": width,
        "height": height,
        "original_width": width,
        "original_height": height,
        "exif": "{}",
        "sha256": hashlib.sha256(picture).hexdigest(),
    }
    return json.dumps(fields, indent=4).encode()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cache", help="where pools are kept; default: the directory for temporary files")
    parser.add_argument("--quick", action="store_true", help="the tiny pool of the smoke tests")
    args = parser.parse_args()
    pool = make_pool(QUICK if args.quick else FULL, args.cache)
    print(f"{pool.root}: {pool.size.shards} shards, {pool.num_members} members, {pool.tar_bytes / 1e6:.1f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
