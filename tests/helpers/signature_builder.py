"""Signature files of made-up pictures, and descriptors that are near or far by construction."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from dcfast.dedup.records import SIGNATURE_DTYPE
from dcfast.dedup.signature_file import DescriptorInfo, Rows, signature_writer

ISC = DescriptorInfo("isc_ft_v107", "a" * 64, 256)


def unit(rows: int, dim: int = 256, seed: int = 0) -> Any:
    values = np.random.default_rng(seed).standard_normal((rows, dim)).astype(np.float32)
    return values / np.linalg.norm(values, axis=1, keepdims=True)


def turned(vectors: Any, score: float, seed: int = 99) -> Any:
    """Unit vectors whose inner product with the given ones is a score, to about 1e-7."""
    other = unit(len(vectors), vectors.shape[1], seed)
    other -= (other * vectors).sum(axis=1, keepdims=True) * vectors
    other /= np.linalg.norm(other, axis=1, keepdims=True)
    return (score * vectors + np.sqrt(1 - score**2) * other).astype(np.float32)


def records(count: int, seed: int = 0) -> Any:
    rng = np.random.default_rng(seed)
    made = np.zeros(count, SIGNATURE_DTYPE)
    for name in ("h0", "h1", "phash"):
        made[name] = rng.integers(0, 1 << 64, count, np.uint64)
    made["phash256"] = rng.integers(0, 1 << 64, (count, 4), np.uint64)
    made["quality"] = 255
    made["width"], made["height"] = 640, 480
    return made


def rows_of(made: Any, vectors: Sequence[Any] = (), key: str = "k") -> Rows:
    count = len(made)
    keys = pa.array([f"{key}{i}" for i in range(count)], pa.string())
    return Rows(np.zeros(count, np.int64), pa.array(["0.tar"] * count, pa.string()), keys, made, vectors)


def write_signatures(path: Path, sets: dict[str, Rows], infos: Sequence[DescriptorInfo] = ()) -> Path:
    with signature_writer(path, infos) as writer:
        for name, rows in sets.items():
            writer.add_set(name, [rows])
    return path
