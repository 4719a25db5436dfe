"""Where the encoded pictures of an evaluation set lie, and how they are read in batches.

In shards and in an Arrow cache they lie as they are, and in some caches each in a file of its own: one class for all of
these. Those of a parquet file are unpacked on the way (``dcfast.evaluate.hub_set``).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import numpy as np
import numpy.typing as npt

from dcfast.images.costs import MAX_BYTES, BadImage
from dcfast.storage.inputs import open_input

Ints = npt.NDArray[np.int64]
Batch = tuple[Ints, list[Callable[[], bytes]]]
"""Places in what was asked for, and what gives the bytes of each, in any thread; BadImage where there are none."""
MOST_OPEN = 256
"""Files that are held open: shards. More are opened one by one: pictures of their own."""
TO_THE_END = MAX_BYTES + 1
"""Size of a picture that is a whole file; one byte more than is read of any."""


class Pictures(Protocol):
    """The pictures of a set by number."""

    def key(self, number: int) -> str:
        """Name of a picture, for messages."""

    def read(self, numbers: Ints, size: int) -> AbstractContextManager[Iterator[Batch]]:
        """Batches of ``size``, of ascending numbers; what they give may be asked for within the block."""


def batches_of(count: int, size: int) -> list[Ints]:
    """0 .. count - 1 in batches."""
    return [np.arange(begin, min(begin + size, count)) for begin in range(0, count, size)]


@dataclass(frozen=True)
class FilePictures:
    """Pictures that lie in files as they are.

    Attributes:
        files: paths.   key: name of a picture by its number.
        file: of each picture a place in ``files``, or -1: it has no file.   offset, size: in bytes.
        why: a picture without a file -> what became of it.
    """

    files: Sequence[str]
    key: Callable[[int], str]
    file: Ints
    offset: Ints
    size: Ints
    why: Callable[[int], str] = lambda number: "no picture"

    @contextmanager
    def read(self, numbers: Ints, size: int) -> Iterator[Iterator[Batch]]:
        """See ``Pictures``."""
        with ExitStack() as opened:
            places = np.unique(self.file[numbers]).tolist() if len(self.files) <= MOST_OPEN else []
            kept = {p: opened.enter_context(open_input(self.files[p])).fileno() for p in places if p >= 0}
            yield (
                (places, [partial(self._picture, int(number), kept) for number in numbers[places]])
                for places in batches_of(len(numbers), size)
            )

    def _picture(self, number: int, kept: dict[int, int]) -> bytes:
        place, size = int(self.file[number]), min(int(self.size[number]), TO_THE_END)
        if place < 0:
            raise BadImage("broken", self.why(number))
        if place in kept:
            return os.pread(kept[place], size, int(self.offset[number]))
        try:
            with open_input(self.files[place]) as file:
                return os.pread(file.fileno(), size, int(self.offset[number]))
        except OSError as error:
            raise BadImage("broken", f"its file cannot be read: {error.strerror}") from None
