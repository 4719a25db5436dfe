"""What random access returns: where members lie (``Members``), and their bytes as views (``MemberBatch``)."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar, cast

import numpy as np
import numpy.typing as npt

from dcfast.storage.pickled import reduced

PathLike = str | os.PathLike[str]
S = TypeVar("S", covariant=True)
"""A sample: a memoryview, one or None, or a dict of them."""


@dataclass(frozen=True)
class Members:
    """The members of n samples, k in all, in the order asked."""

    rows: npt.NDArray[np.uint64]  # (n,) row ids
    begin: npt.NDArray[np.int64]  # (n + 1,): the members of sample i are begin[i] .. begin[i + 1]
    shard: npt.NDArray[np.uint32]  # (k,) ordinals
    offset: npt.NDArray[np.uint64]  # (k,) bytes in the shard
    size: npt.NDArray[np.uint64]  # (k,) bytes
    ext: npt.NDArray[np.int32]  # (k,) index into ``exts``, -1 for a member that the sample lacks
    exts: list[str]  # of the pool, ASCII letters lower-cased

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def num_bytes(self) -> int:
        return int(self.size.sum())

    def part(self, first: int, last: int) -> Members:
        """The samples first .. last - 1, as views."""
        a, b = int(self.begin[first]), int(self.begin[last])
        begin = self.begin[first : last + 1] - a
        columns = (self.shard[a:b], self.offset[a:b], self.size[a:b], self.ext[a:b])
        return Members(self.rows[first:last], begin, *columns, self.exts)

    def batches(self, limit: int) -> Iterator[Members]:
        """The samples in batches of at most ``limit`` payload bytes; a larger sample is a batch of its own."""
        total = np.concatenate([[0], np.cumsum(self.size.astype(np.int64))])
        end = total[self.begin[1:]] - total[self.begin[0]]  # of each sample
        first = 0
        while first < len(self):
            before = int(end[first - 1]) if first else 0
            last = max(first + 1, int(np.searchsorted(end, before + limit, side="right")))
            yield self.part(first, last)
            first = last

    def cut(self, most: npt.ArrayLike) -> Members:
        """The same members, of which no more bytes are read than ``most``: one number, or (k,) of them."""
        return replace(self, size=np.minimum(self.size, np.asarray(most, np.uint64)))


class MemberBatch(Generic[S]):
    """The bytes of the members of n samples, in one buffer.

    ``batch[i]`` is sample i: where one extension was asked for by name, its member as a read-only memoryview (or
    None where the sample lacks it); else a dict, extension -> memoryview or None. Views are slices of the buffer, made
    without copies; each keeps the whole buffer alive, and nothing else. A pickle, or a deep copy, has the bytes: a
    view by itself has none (Python pickles no memoryview), so hand on the batch, or ``bytes(view)``.

    Attributes:
        members: where each member lies: see Members.
        data: (total bytes,) u8, read-only: the members one after the other.
        offsets: (k + 1,) u64: member j is data[offsets[j] : offsets[j + 1]].
    Example: ``batch = reader.read([0, 1], "txt")``, ``bytes(batch[1])``
    """

    def __init__(
        self, members: Members, data: npt.NDArray[np.uint8], offsets: npt.NDArray[np.uint64], single: bool
    ) -> None:
        self.members = members
        self.data = data
        self.offsets = offsets
        self._single = single
        self._view = data.data
        # Python integers: three look-ups a member are cheaper in lists than in arrays
        self._ends: list[int] = offsets.tolist()
        self._begin: list[int] = members.begin.tolist()
        self._ext: list[int] = members.ext.tolist()

    def __reduce__(self) -> tuple[Callable[..., MemberBatch[S]], tuple[Any, ...]]:
        return reduced("MemberBatch", _batch_of, self.members, self.data.tobytes(), self.offsets, self._single)

    @property
    def rows(self) -> npt.NDArray[np.uint64]:
        """(n,) u64 row ids, as asked."""
        return self.members.rows

    def __len__(self) -> int:
        return len(self.members)

    def __repr__(self) -> str:
        return f"<MemberBatch: {len(self)} samples, {len(self._ext)} members, {len(self.data)} bytes>"

    def member(self, j: int) -> memoryview | None:
        """Member j of the k members of all samples; None where the sample lacks it."""
        if not 0 <= j < len(self._ext):
            raise IndexError(f"member {j} is out of range: the batch has {len(self._ext)}")
        return None if self._ext[j] < 0 else self._view[self._ends[j] : self._ends[j + 1]]

    def sample(self, i: int) -> dict[str, memoryview]:
        """The members of sample i that it has, by extension."""
        exts, ends, view = self.members.exts, self._ends, self._view
        return {
            exts[self._ext[j]]: view[ends[j] : ends[j + 1]]
            for j in range(self._begin[i], self._begin[i + 1])
            if self._ext[j] >= 0
        }

    def __getitem__(self, i: int) -> S:
        if not -len(self) <= i < len(self):
            raise IndexError(f"sample {i} is out of range: the batch has {len(self)}")
        i %= len(self)
        return cast(S, self.member(self._begin[i]) if self._single else self.sample(i))

    def __iter__(self) -> Iterator[S]:
        return (self[i] for i in range(len(self)))


def _batch_of(members: Members, data: bytes, offsets: npt.NDArray[np.uint64], single: bool) -> MemberBatch[Any]:
    return MemberBatch(members, np.frombuffer(data, np.uint8), offsets, single)
