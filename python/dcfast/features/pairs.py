"""The pictures and captions of one index segment, decoded in threads that read ahead, in order.

Plain JPEGs go straight into pixels by the core, without the GIL; all else goes through Pillow, to the same bits.
Models that see the same pixels share them, and those that read the same tokens share these.

Memory: the chunks read ahead (each 32 samples: their encoded bytes, at most 64 MiB or one picture, and the tensors)
and one decoded picture a thread.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from dcfast.access.batch import MemberBatch, Members
from dcfast.access.reader import PoolReader
from dcfast.images import costs
from dcfast.images.costs import BadImage
from dcfast.images.crops import DONE, ELSEWHERE
from dcfast.images.decode import check_resized, load_image
from dcfast.images.squares import write_squares
from dcfast.models.captions import MAX_CAPTION_BYTES, read_caption, same_tokens
from dcfast.models.tokens import tokenize
from dcfast.process.read_ahead import read_ahead
from dcfast.storage.http import PATIENT

if TYPE_CHECKING:
    from torch import Tensor

    from dcfast.index.segments import Segment
    from dcfast.models.captions import Tokenizer
    from dcfast.models.clip import ClipModel
    from dcfast.models.pixels import PixelShape

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
        pixels: by what models see of a picture (``ClipModel.pixels.shape``) (n, height, width, 3) uint8; zero where
            there is no picture.
        tokens: for each model (n, context) int64; those of the empty caption where there is none. Models that read
            the same have one tensor.
        captioned: (n,) bool.
    """

    status: npt.NDArray[np.uint8]
    pixels: dict[PixelShape, Tensor]
    tokens: list[Tensor]
    captioned: npt.NDArray[np.bool_]


class SegmentPairs:
    """Pictures and captions of a segment's samples.

    Args:
        segment, shard_dir: the index and where its shards are.
        models: whose transforms and tokenizers are applied; a picture is decoded once for all that see the same.
    """

    def __init__(self, segment: Segment, shard_dir: str, models: Sequence[ClipModel]) -> None:
        self.segment = segment
        self.models: list[ClipModel] = list(models)
        self._reader = PoolReader(shard_dir, [segment], np.empty(0, "u8,u8,u8"), verify=False, remote=PATIENT)
        self._shard, self._offset, self._size = segment.image_places()
        self._shapes = list(dict.fromkeys(model.pixels.shape for model in self.models))
        self._largest = max((model.image_size for model in self.models), default=0)
        self._tokenizers: list[Tokenizer] = []
        self._tokenizer_of = [self._place_of(model.tokenizer) for model in self.models]

    def __len__(self) -> int:
        return self.segment.num_samples

    def close(self) -> None:
        self._reader.close()

    def _place_of(self, tokenizer: Tokenizer) -> int:
        """In the list of those that differ, to which it is added where it is not there."""
        for place, known in enumerate(self._tokenizers):
            if same_tokens(known, tokenizer):
                return place
        self._tokenizers.append(tokenizer)
        return len(self._tokenizers) - 1

    def _read(self, samples: npt.NDArray[np.int64]) -> MemberBatch[memoryview]:
        members = Members(
            samples.astype(np.uint64),
            np.arange(len(samples) + 1, dtype=np.int64),
            self._shard[samples].astype(np.uint32),
            self._offset[samples].astype(np.uint64),
            self._size[samples].astype(np.uint64),
            np.zeros(len(samples), np.int32),
            self._reader.exts,
        )
        return self._reader.read_located(members, single=True, threads=1)

    def _write_pixels(
        self,
        samples: npt.NDArray[np.int64],
        status: npt.NDArray[np.uint8],
        pixels: dict[PixelShape, npt.NDArray[np.uint8]],
    ) -> None:
        """Decodes samples into the rows of their pixels; the others' status is set."""
        status[self._size[samples] > costs.MAX_BYTES] = TOO_LARGE
        status[self._shard[samples] < 0] = NO_PICTURE
        readable = np.flatnonzero(status == OK)
        together = int(self._size[samples[readable]].sum()) <= _READ_TOGETHER
        for group in [readable] if together else np.split(readable, len(readable)):
            if not len(group):
                continue
            batch = self._read(samples[group])
            done = self._by_core(batch, samples, group, pixels)
            for i in np.flatnonzero(~done).tolist():
                place = int(group[i])
                try:
                    image = load_image(batch[i])
                    check_resized(image, self._largest)
                    for shape, rows in pixels.items():
                        rows[place] = shape.pixels(image)
                except BadImage as error:
                    status[place] = TOO_LARGE if error.status == "too_large" else BROKEN
                except (OSError, ValueError, SyntaxError):  # modes that Pillow cannot turn into RGB
                    status[place] = BROKEN
        for rows in pixels.values():  # a decoder may have left the upper half of a picture that broke
            rows[status != OK] = 0

    def _by_core(
        self,
        batch: MemberBatch[memoryview],
        samples: npt.NDArray[np.int64],
        group: npt.NDArray[np.int64],
        pixels: dict[PixelShape, npt.NDArray[np.uint8]],
    ) -> npt.NDArray[np.bool_]:
        """Decodes the samples ``group`` of a chunk, which ``batch`` holds; (k,) whether all shapes of one are there."""
        chosen = samples[group]
        sizes = np.stack([self.segment.width[chosen], self.segment.height[chosen]], axis=1)
        short, long = sizes.min(axis=1).astype(np.float64), sizes.max(axis=1).astype(np.float64)
        # by the index; of the rest, Pillow's path says what is wrong
        usable = (short > 0) & (long < 1 << 16) & (long * self._largest**2 <= costs.MAX_RESIZED * short)
        begin, size = batch.offsets[:-1].astype(np.int64), np.diff(batch.offsets).astype(np.int64)
        known = sizes.astype(np.int32)
        done: npt.NDArray[np.bool_] = usable.copy()
        for shape, rows in pixels.items():
            square, at = shape.square, np.flatnonzero(done)
            status = np.full(len(at), ELSEWHERE, np.uint8)
            if square is not None:
                status = write_squares(batch.data.data, begin[at], size[at], known[at], square, rows, group[at])
            done[at] = status == DONE
        return done

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
        pixels = {shape: np.zeros((len(samples), shape.height, shape.width, 3), np.uint8) for shape in self._shapes}
        self._write_pixels(samples, status, pixels)
        captions = self.captions(samples)
        captioned = np.array([c is not None for c in captions], np.bool_)
        status[(status == OK) & ~captioned] = NO_CAPTION
        texts = [c or "" for c in captions]
        tokens = [tokenize(tokenizer, texts) for tokenizer in self._tokenizers]
        tensors = {shape: torch.from_numpy(rows) for shape, rows in pixels.items()}
        return Chunk(status, tensors, [tokens[i] for i in self._tokenizer_of], captioned)

    def chunks(self, *, threads: int, ahead: int) -> Generator[Chunk, None, None]:
        """All chunks in order, made by ``threads`` threads, at most ``ahead`` waiting beside the one in use."""
        return read_ahead(self.chunk, range(0, len(self), CHUNK), threads=threads, ahead=ahead, name="dcfast-decode")
