"""A true global shuffle of a reshard: output place p holds plan position permutation(p), for a permutation keyed by a
seed that is computed, not stored (``csrc/core/permutation.hpp``), so that any worker can write any output shard alone.

What has to be stored is which pool row stands at a plan position: 8 bytes a sample to write, in a file that is mapped.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dcfast._core import reshard as core_reshard

__all__ = ["RowSpool", "places_of", "shuffled_cuts"]

_END_BYTES = 1024 + 10_240  # the two zero blocks, and padding to a whole record


class RowSpool:
    """Pool row ids in plan order, each as often as it is written, kept in an unnamed file."""

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile(prefix="dcfast-rows-")  # noqa: SIM115 (lives as long as the map)
        self.count = 0

    def add(self, ids: NDArray[np.uint64], multiplicity: NDArray[Any]) -> None:
        ids = np.repeat(ids, multiplicity)
        self._file.write(ids.tobytes())
        self.count += len(ids)

    def rows(self) -> NDArray[np.uint64]:
        """(N,) u64, mapped; rises, because the plan's order is that of the row ids."""
        self._file.flush()
        if self.count == 0:
            return np.empty(0, np.uint64)
        return np.memmap(self._file, np.uint64, "r", 0, (self.count,)).view(np.ndarray)


def shuffled_cuts(
    chunks: Iterable[tuple[int, NDArray[Any], NDArray[Any], NDArray[Any], NDArray[Any], NDArray[Any]]],
    dtype: np.dtype[Any],
    shard_size: int,
    max_bytes: int,
) -> tuple[NDArray[Any], dict[str, int]]:
    """Output shards of one number of samples each, the last with the rest; see ``plan_cuts`` for ``chunks``.

    The number is shard_size, or what makes the mean shard max_bytes of payload: which samples meet in a shard is
    chance, so a shard may be somewhat larger.

    Returns:
        (K,) cuts of which row is the first output place, samples exact, and tar_bytes the mean; and the totals
        member_count, payload_bytes, tar_bytes.
    """
    if shard_size < 1 or max_bytes < 1:
        raise ValueError(f"shard_size and max_bytes must be at least 1; got {shard_size} and {max_bytes}")
    samples = members = payload = tar = 0
    for _, _, multiplicity, size, count, in_tar in chunks:
        copies = multiplicity.astype(np.int64)
        samples += int(copies.sum())
        members += int((copies * count).sum())
        payload += int((copies * size).sum())
        tar += int((copies * in_tar).sum())
    each = shard_size
    if payload > 0:
        each = max(1, min(each, samples * max_bytes // payload))
    cuts = np.zeros(math.ceil(samples / each), dtype)
    cuts["row"] = np.arange(len(cuts), dtype=np.uint64) * np.uint64(each)
    cuts["samples"] = each
    if len(cuts):
        cuts["samples"][-1] = samples - (len(cuts) - 1) * each
        mean = -(-tar // samples)
        cuts["tar_bytes"] = cuts["samples"] * np.uint64(mean) + np.uint64(_END_BYTES)
    totals = {"member_count": members, "payload_bytes": payload, "tar_bytes": tar + len(cuts) * _END_BYTES}
    return cuts, totals


def places_of(
    rows: NDArray[np.uint64], seed: int, first: int, count: int
) -> tuple[NDArray[np.uint64], NDArray[np.int64], NDArray[np.int64]]:
    """Row id, copy of that row, and place (from 0) of the samples at output places first .. first + count - 1.

    In the order of the row ids, for reading. Memory: 40 bytes a sample. Cost: a few touches of ``rows`` a sample.
    """
    positions = core_reshard.permuted(len(rows), seed, first, count)
    order = np.argsort(positions, kind="stable")
    positions = positions[order]
    ids = np.asarray(rows[positions])
    # equal ids are neighbours: the first of them tells how many copies came before
    copies = positions.astype(np.int64) - np.searchsorted(rows, ids, side="left")
    return ids, copies, order
