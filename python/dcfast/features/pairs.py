"""The pictures and captions of one index segment, decoded in threads that read ahead, in order.

Memory: the chunks read ahead (each 32 samples: their encoded bytes, at most 64 MiB or one picture, and the tensors)
and one decoded picture a thread.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from dcfast.access.batch import Members
from dcfast.access.reader import PoolReader
from dcfast.images import costs
from dcfast.images.costs import BadImage
from dcfast.images.decode import check_resized, load_image
from dcfast.models.captions import MAX_CAPTION_BYTES, read_caption
from dcfast.process.read_ahead import read_ahead
from dcfast.storage.http import PATIENT

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

    from dcfast.index.segments import Segment
    from dcfast.models.clip import ClipModel

STATUS = ("ok", "no picture", "does not decode", "too large", "no caption", "not finite")
"""What became of a sample. ``no caption`` has an image embedding; ``not finite`` means the model made no number."""
OK, NO_PICTURE, BROKEN, TOO_LARGE, NO_CAPTION, NOT_FINITE = range(len(STATUS))

CHUNK = 32
_READ_TOGETHER = 64 << 20


@dataclass
class Chunk:
    """Consecutive samples, ready for the models.

    Attributes:
        status: (n,) u8, see ``STATUS``.
        images: for each model (n, 3, size, size) float32; zero where there is no picture.
        tokens: for each model (n, context) int64; those of the empty caption where there is none.
        captioned: (n,) bool.
    """

    status: npt.NDArray[np.uint8]
    images: list[Tensor]
    tokens: list[Tensor]
    captioned: npt.NDArray[np.bool_]


class SegmentPairs:
    """Pictures and captions of a segment's samples.

    Args:
        segment, shard_dir: the index and where its shards are.
        models: whose transforms and tokenizers are applied; a picture is decoded once for all of them.
    """

    def __init__(self, segment: Segment, shard_dir: str, models: Sequence[ClipModel]) -> None:
        self.segment = segment
        self.models: list[ClipModel] = list(models)
        self._reader = PoolReader(shard_dir, [segment], np.empty(0, "u8,u8,u8"), verify=False, remote=PATIENT)
        self._shard, self._offset, self._size = segment.image_places()

    def __len__(self) -> int:
        return self.segment.num_samples

    def close(self) -> None:
        self._reader.close()

    def _read(self, samples: npt.NDArray[np.int64]) -> list[memoryview]:
        members = Members(
            samples.astype(np.uint64),
            np.arange(len(samples) + 1, dtype=np.int64),
            self._shard[samples].astype(np.uint32),
            self._offset[samples].astype(np.uint64),
            self._size[samples].astype(np.uint64),
            np.zeros(len(samples), np.int32),
            self._reader.exts,
        )
        return list(self._reader.read_located(members, single=True, threads=1))

    def _images(self, samples: npt.NDArray[np.int64], status: npt.NDArray[np.uint8]) -> Iterator[tuple[int, Image]]:
        """(place, decoded image) where there is one; the others' status is set."""
        status[self._size[samples] > costs.MAX_BYTES] = TOO_LARGE
        status[self._shard[samples] < 0] = NO_PICTURE
        readable = np.flatnonzero(status == OK)
        together = int(self._size[samples[readable]].sum()) <= _READ_TOGETHER
        for group in [readable] if together else np.split(readable, len(readable)):
            for place, data in zip(group.tolist(), self._read(samples[group]) if len(group) else [], strict=True):
                try:
                    image = load_image(data)
                    check_resized(image, max((model.image_size for model in self.models), default=0))
                except BadImage as error:
                    status[place] = TOO_LARGE if error.status == "too_large" else BROKEN
                else:
                    yield place, image

    def captions(self, samples: npt.NDArray[np.int64]) -> list[str | None]:
        """The captions (member txt) of samples, None where there is none."""
        members = self._reader.locate(samples.astype(np.uint64), "txt", numbering="sample", missing_members="none")
        batch = self._reader.read_located(members.cut(MAX_CAPTION_BYTES + 1), single=True, threads=1)
        return [None if caption is None else read_caption(caption) for caption in batch]

    def chunk(self, first: int) -> Chunk:
        """Samples first .. first + CHUNK - 1."""
        import torch

        samples = np.arange(first, min(first + CHUNK, len(self)))
        status = np.zeros(len(samples), np.uint8)
        images = [torch.zeros((len(samples), 3, m.image_size, m.image_size)) for m in self.models]
        for place, image in self._images(samples, status):
            try:
                for model, tensor in zip(self.models, images, strict=True):
                    tensor[place] = model.preprocess(image)
            except (OSError, ValueError, SyntaxError):  # modes that Pillow cannot turn into RGB
                status[place] = BROKEN
                for tensor in images:
                    tensor[place] = 0
        captions = self.captions(samples)
        captioned = np.array([c is not None for c in captions], np.bool_)
        status[(status == OK) & ~captioned] = NO_CAPTION
        texts = [c or "" for c in captions]
        return Chunk(status, images, [m.tokenizer(texts) for m in self.models], captioned)

    def chunks(self, *, threads: int, ahead: int) -> Generator[Chunk, None, None]:
        """All chunks in order, made by ``threads`` threads, at most ``ahead`` waiting beside the one in use."""
        return read_ahead(self.chunk, range(0, len(self), CHUNK), threads=threads, ahead=ahead, name="dcfast-decode")
