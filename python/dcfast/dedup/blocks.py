"""Rows of several npy files one after the other, read by slices: embeddings that are larger than memory."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dcfast.errors import PoolError
from dcfast.storage.npz import load_array
from dcfast.storage.records import Count, Record


class RowsOf(Record):
    """Rows ``begin`` to ``end`` of an npy."""

    path: str
    begin: Count
    end: Count


class FileRows:
    """(n, d) rows of npy files, mapped: what similarity searches take as blocks.

    Attributes:
        shape, dtype: as of an array.
    Memory: of a slice.
    """

    def __init__(self, out: Path, parts: Sequence[RowsOf]) -> None:
        """PoolError: the files have rows of different widths or dtypes."""
        self._parts = [load_array(out / part.path, mmap=True)[part.begin : part.end] for part in parts]
        kinds = {(part.shape[1], part.dtype) for part in self._parts}
        if len(kinds) != 1:
            widths = " and ".join(sorted(f"{dtype} of {width}" for width, dtype in kinds))
            raise PoolError(f"the embeddings of the pools' npz files are {widths}: compute all of them by one model")
        ((width, dtype),) = kinds
        self.dtype: np.dtype[Any] = dtype
        self._ends = np.cumsum([len(part) for part in self._parts])
        self.shape: tuple[int, int] = (int(self._ends[-1]), int(width))

    def __getitem__(self, rows: slice, /) -> npt.NDArray[Any]:
        begin, end, _ = rows.indices(self.shape[0])
        begins = self._ends - [len(part) for part in self._parts]
        chosen = [
            part[max(begin - first, 0) : end - first]
            for part, first, last in zip(self._parts, begins.tolist(), self._ends.tolist(), strict=True)
            if first < end and begin < last
        ]
        return np.concatenate([np.empty((0, self.shape[1]), self.dtype), *chosen])


def cut(files: Sequence[tuple[str, int]], rows: int) -> list[list[RowsOf]]:
    """Files of so many rows each, cut into stretches of at most ``rows`` rows, in their order; empty ones are none."""
    stretches: list[list[RowsOf]] = [[]]
    room = rows
    for path, count in files:
        begin = 0
        while begin < count:
            if not room:
                stretches.append([])
                room = rows
            end = min(count, begin + room)
            stretches[-1].append(RowsOf(path, begin, end))
            room -= end - begin
            begin = end
    return [stretch for stretch in stretches if stretch]
