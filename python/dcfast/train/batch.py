"""A batch of training, and what it is made of."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

from dcfast.scales import Scale
from dcfast.train.replaced import Refusal, Replacement
from dcfast.train.settings import TrainSettings
from dcfast.train.source_files import SourceFiles

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class BatchSpec:
    """All that a worker needs to make any batch of a rank."""

    settings: TrainSettings
    sources: tuple[SourceFiles, ...]
    image_size: int
    world_size: int = 1
    rank: int = 0

    @cached_property
    def recipe(self) -> Scale:
        return self.settings.recipe()

    @property
    def micro_batch(self) -> int:
        """Samples of one micro-batch on one rank."""
        return self.recipe.global_batch // (self.world_size * self.settings.accumulation)

    def decoded_by(self, decoder: str) -> BatchSpec:
        """The same batches by another decoder."""
        return replace(self, settings=replace(self.settings, decoder=decoder))


class Room(NamedTuple):
    """The memory of n samples.

    Attributes:
        images: (n, size, size, 3) uint8.   tokens: (n, context) int64.
    """

    images: torch.Tensor
    tokens: torch.Tensor

    @staticmethod
    def of(n: int, size: int, context: int, *, pinned: bool = False) -> Room:
        """Room that nothing is written to yet.

        Args:
            pinned: page-locked, so that a GPU fetches it by itself.
        """
        import torch

        images = torch.empty((n, size, size, 3), dtype=torch.uint8, pin_memory=pinned)
        return Room(images, torch.empty((n, context), dtype=torch.int64, pin_memory=pinned))

    def part(self, first: int, last: int) -> Room:
        """That of the samples first .. last - 1."""
        return Room(self.images[first:last], self.tokens[first:last])


@dataclass
class Batch:
    """n samples of a step.

    Attributes:
        images: (n, 3, size, size) uint8 tensor, RGB; channels last in memory. Without those in ``encoded``.
        tokens: (n, context) int64 tensor.
        uids: (n,) "u8,u8".
        windows: (n, 4) int32: left, top, width, height of each crop.
        positions: (n,) int64.
        replaced: the samples that could not be used, in the order of their slots.
        encoded: pictures that ``DaliDecoder.finish`` still has to decode; None for other decoders.
        refused: the chunks that DALI refused and Pillow decoded.
        by_pillow: pictures that the core left to Pillow, by kind (``pixels.KINDS``).
        room: of which the images and tokens are a part; None where they have memory of their own.
    """

    step: int
    images: torch.Tensor
    tokens: torch.Tensor
    uids: npt.NDArray[np.void]
    windows: npt.NDArray[np.int32]
    positions: npt.NDArray[np.int64]
    replaced: list[Replacement]
    encoded: Encoded | None = None
    refused: list[Refusal] = field(default_factory=list)
    by_pillow: Counter[str] = field(default_factory=Counter)
    room: Room | None = None


@dataclass
class Encoded:
    """k pictures of a batch that are not decoded yet.

    Attributes:
        indices: (k,) int64, where they belong in the batch, ascending.
        data: flat uint8 tensor, their bytes end to end.
        begin: (k + 1,) int64.
    """

    indices: npt.NDArray[np.int64]
    data: torch.Tensor
    begin: npt.NDArray[np.int64]

    @staticmethod
    def of(pictures: dict[int, bytes]) -> Encoded:
        """Index in the batch -> bytes."""
        import torch

        indices = sorted(pictures)
        parts = [np.frombuffer(pictures[i], np.uint8) for i in indices]
        begin = np.cumsum([0, *map(len, parts)])
        return Encoded(np.array(indices, np.int64), torch.from_numpy(np.concatenate(parts)), begin)

    def pictures(self) -> list[npt.NDArray[np.uint8]]:
        """Views of each."""
        data = self.data.numpy()
        return [data[a:b] for a, b in pairwise(self.begin.tolist())]


def join_batches(parts: list[Batch]) -> Batch:
    """One batch of several of a step, in order: all the parts of a room are the room; others are copied."""
    import torch

    if len(parts) == 1:
        return parts[0]
    room = parts[0].room
    whole = room is not None and all(p.room is room for p in parts)
    return Batch(
        parts[0].step,
        room.images.permute(0, 3, 1, 2) if room is not None and whole else torch.cat([p.images for p in parts]),
        room.tokens if room is not None and whole else torch.cat([p.tokens for p in parts]),
        np.concatenate([p.uids for p in parts]),
        np.concatenate([p.windows for p in parts]),
        np.concatenate([p.positions for p in parts]),
        [record for p in parts for record in p.replaced],
        refused=[record for p in parts for record in p.refused],
        by_pillow=sum((p.by_pillow for p in parts), Counter()),
    )
