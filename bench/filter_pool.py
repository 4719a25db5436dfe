"""Metadata in DataComp's layout and the smallest shards that hold its samples, to time filters on: made once, and kept.

Captions are those of a parquet file (column TEXT), every fourth cut, joined or in other letters, or else made of some
words in three languages. Scores have ties, sizes lie around the limits, embeddings are half precision as DataComp's.
Shards hold an empty picture, an empty caption and a json of a uid and a key: nothing here reads more of them.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from bench.make_pool import cache_dir

_VERSION = 1  # part of the cache's name: count up when the bytes change
_PER_SHARD = 10_000
_BLOCK = 512
_DIMENSIONS = 768
_WORDS = (
    *("a", "the", "red", "old", "small", "cat", "dog", "house", "river", "bridge", "street", "of", "with", "near"),
    *("ein", "der", "Hund", "am", "Strand", "und", "altes", "Haus", "une", "maison", "rouge", "dans", "la", "ville"),
)


@dataclass(frozen=True)
class FilterPoolSize:
    """What decides a pool's bytes. ``clusters`` above 0: with an npz of embeddings a file, centroids and a target."""

    rows: int
    files: int
    clusters: int = 0
    targets: int = 5_000
    seed: int = 1


@dataclass(frozen=True)
class FilterPool:
    """A pool on disk, in the directories ``metadata``, ``shards`` and ``assets``."""

    root: Path
    size: FilterPoolSize

    @property
    def metadata(self) -> list[Path]:
        return sorted((self.root / "metadata").glob("*.parquet"))


def filter_pool(size: FilterPoolSize, captions: str | None, parent: str | None = None) -> FilterPool:
    """The pool of these parameters; made where it is not there yet, whole or not at all."""
    content = hashlib.sha256(Path(captions).read_bytes()).hexdigest() if captions else ""
    text = json.dumps([_VERSION, asdict(size), content], sort_keys=True)
    pool = FilterPool(cache_dir(parent) / f"filters-{hashlib.sha256(text.encode()).hexdigest()[:16]}", size)
    if not (pool.root / "complete").is_file():
        shutil.rmtree(pool.root, ignore_errors=True)
        making = Path(tempfile.mkdtemp(prefix=".making-", dir=pool.root.parent))
        try:
            _write(FilterPool(making, size), captions)
            (making / "complete").touch()
            making.rename(pool.root)
        finally:
            shutil.rmtree(making, ignore_errors=True)
    return pool


def _write(pool: FilterPool, captions: str | None) -> None:
    size = pool.size
    rng = np.random.Generator(np.random.PCG64(size.seed))
    uids = np.frombuffer(rng.bytes(16 * size.rows).hex().encode(), "S32")
    for name in ("metadata", "shards", "assets"):
        (pool.root / name).mkdir()
    centroids = _unit(rng.normal(size=(size.clusters, _DIMENSIONS))).astype(np.float32)
    if size.clusters:
        target = centroids[rng.integers(0, size.clusters // 3, size.targets)]
        target = _unit(target + rng.normal(scale=0.05, size=target.shape)).astype(np.float32)
        np.save(pool.root / "assets/centroids.npy", centroids)
        np.save(pool.root / "assets/target.npy", target)
    given = _captions(captions, rng)
    bounds = np.linspace(0, size.rows, size.files + 1).astype(int).tolist()
    for begin, end in pairwise(bounds):
        _write_metadata(pool, uids[begin:end], given, centroids, rng)
    for shard, begin in enumerate(range(0, size.rows, _PER_SHARD)):
        part = uids[begin : begin + _PER_SHARD]
        (pool.root / f"shards/{shard:08d}.tar").write_bytes(_shard(shard, part))


def _captions(path: str | None, rng: np.random.Generator) -> list[str]:
    if path is None:
        words = rng.integers(0, len(_WORDS), (5_000, 9))
        return [" ".join(_WORDS[n] for n in row[: 1 + k % 9]) for k, row in enumerate(words)]
    import pyarrow.parquet as pq

    real = [text for text in pq.read_table(path, columns=["TEXT"])["TEXT"].to_pylist() if text is not None]
    changed = [
        text[: k % 40] if k % 3 == 0 else f"{text} {real[-k]}" if k % 3 == 1 else text.upper()
        for k, text in enumerate(real[::3])
    ]
    return real + changed


def _write_metadata(pool: FilterPool, uids: Any, captions: list[str], centroids: Any, rng: np.random.Generator) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    n = len(uids)
    hexes = uids.astype(str)
    sides = rng.integers(100, 2_000, (2, n))
    sides[:, rng.random(n) < 0.05] = 200
    scores = (np.round(rng.normal(0.22, 0.06, (2, n)) * 4_096) / 4_096).astype(np.float32)
    stem = pool.root / "metadata" / rng.bytes(16).hex()
    table = pa.table(
        {
            "uid": hexes,
            "url": [f"https://pictures.example/{uid[:12]}.jpg" for uid in hexes],
            "text": pa.array(captions).take(pa.array(rng.integers(0, len(captions), n))),
            "original_width": sides[0],
            "original_height": sides[1],
            "clip_b32_similarity_score": scores[0],
            "clip_l14_similarity_score": scores[1],
            "face_bboxes": pa.array([[]] * n, pa.list_(pa.list_(pa.float64()))),
            "sha256": [uid * 2 for uid in hexes],
        }
    )
    pq.write_table(table, stem.with_suffix(".parquet"), row_group_size=100_000)
    if len(centroids):
        images = centroids[rng.integers(0, len(centroids), n)]
        images = _unit(images + rng.normal(scale=0.05, size=images.shape).astype(np.float32))
        np.savez(stem.with_suffix(".npz"), l14_img=images.astype(np.float16))


def _unit(values: Any) -> Any:
    return values / np.linalg.norm(values, axis=1, keepdims=True)


def _header(name: str, size: int) -> bytearray:
    """A tar header with blanks for its checksum, and no octal digits of a time."""
    block = bytearray(_BLOCK)
    block[: len(name)] = name.encode()
    block[100:108] = b"0000444\0"
    block[108:116] = block[116:124] = b"0000000\0"
    block[124:136] = b"%011o\0" % size
    block[136:148] = b"%011o\0" % 1_700_000_000
    block[148:156] = b" " * 8
    block[156:157] = b"0"
    block[257:265] = b"ustar\00000"
    return block


def _shard(number: int, uids: Any) -> bytes:
    """A tar of samples that differ in key and uid alone: one template, and their digits put in."""
    key = f"{number:08d}{0:04d}"
    info = json.dumps({"uid": "0" * 32, "key": key}).encode()
    parts = [
        _header(f"{key}.jpg", 0),
        _header(f"{key}.json", len(info)),
        info.ljust(_BLOCK, b"\0"),
        _header(f"{key}.txt", 0),
    ]
    samples = np.tile(np.frombuffer(b"".join(parts), np.uint8), (len(uids), 1))
    digits = np.array([f"{row:04d}" for row in range(len(uids))], "S4").view(np.uint8).reshape(-1, 4)
    at_key, at_uid = info.index(key.encode()), info.index(b"0" * 32)
    for header in (0, _BLOCK, 3 * _BLOCK):
        samples[:, header + 8 : header + 12] = digits
        sums = samples[:, header : header + _BLOCK].sum(axis=1, dtype=np.int64)
        text = np.array([b"%06o\0 " % total for total in sums.tolist()]).astype("V8").view(np.uint8).reshape(-1, 8)
        samples[:, header + 148 : header + 156] = text
    begin = 2 * _BLOCK
    samples[:, begin + at_key + 8 : begin + at_key + 12] = digits
    samples[:, begin + at_uid : begin + at_uid + 32] = uids.view(np.uint8).reshape(-1, 32)
    return samples.tobytes() + bytes(2 * _BLOCK)
