"""Image and caption embeddings of one index segment, and their scores, as files in the order of its samples.

``{N}-status.npy`` (n,) u8; ``{N}-begin.npy`` first sample of each shard; and of each model ``{N}-{key}-img.npy`` and
``-txt.npy`` (n, d) float16 unit vectors (zero where there is none), ``-score.npy`` (n,) float32 (NaN likewise).
A score is the inner product of the unit vectors before they are rounded to float16.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np
import numpy.typing as npt

from dcfast.features.files import segment_file
from dcfast.features.pairs import CHUNK, NO_CAPTION, NOT_FINITE, OK, STATUS, Chunk, SegmentPairs
from dcfast.images.decode import quiet
from dcfast.models.devices import decode_threads, one_thread
from dcfast.storage.atomic import atomic_path
from dcfast.storage.npz import NpyWriter, save_array
from dcfast.storage.paths import is_url
from dcfast.storage.records import Count, Record

if TYPE_CHECKING:
    from torch import Tensor

    from dcfast.index.segments import Segment
    from dcfast.models.clip import ClipModel
    from dcfast.models.pixels import PixelShape

BATCH = 256
"""Pairs a forward pass; a fixed number, so that a sample's neighbours, and so its last bits, never vary."""


_ASKING = 4
"""Threads at least that read shards behind a URL."""


class SegmentCounts(Record):
    """The samples of a segment, and what became of them -> how many."""

    samples: Count
    status: dict[str, Count]


def encode(encoder: object, inputs: Tensor, device: str) -> Tensor:
    """Unit embeddings (n, d), float32, of pictures or of texts; on a GPU under float16 autocast.

    Args:
        encoder: a model's ``encode_image``, of (n, 3, size, size), or ``encode_text``, of (n, context).
    """
    import torch

    with torch.inference_mode(), torch.autocast("cuda", torch.float16, enabled=device.startswith("cuda")):
        features = cast("Callable[[Tensor], Tensor]", encoder)(inputs.to(device, non_blocking=True))
        return torch.nn.functional.normalize(features.float(), dim=1)


def encode_pictures(clip: ClipModel, pixels: Tensor, device: str) -> Tensor:
    """As ``encode``, of the uint8 pixels (n, height, width, 3) that ``clip.pixels`` makes of pictures.

    They are made normal on the device, to which a quarter of the bytes goes.
    Memory there: 9 bytes a level.
    """
    return encode(clip.model.encode_image, clip.pixels.normal(pixels.to(device, non_blocking=True)), device)


@dataclass
class _Embedded:
    """What one model made of a batch: unit embeddings (n, d), scores and whether all of it is finite, (n,)."""

    image: Tensor
    text: Tensor
    score: Tensor
    finite: Tensor


class _Batch:
    """A batch on its way through the models: on a GPU it is begun here, and comes back while the next one is made."""

    def __init__(self, chunks: Sequence[Chunk], models: Sequence[ClipModel], device: str) -> None:
        import torch

        self.status = np.concatenate([chunk.status for chunk in chunks])
        self.captioned = np.concatenate([chunk.captioned for chunk in chunks])
        on_gpu = device.startswith("cuda")

        def together(parts: Sequence[Tensor]) -> Tensor:
            n = sum(map(len, parts))
            whole = torch.empty((n, *parts[0].shape[1:]), dtype=parts[0].dtype, pin_memory=on_gpu)
            torch.cat(list(parts), out=whole)
            return whole.to(device, non_blocking=True)

        pixels: dict[PixelShape, Tensor] = {
            shape: together([chunk.pixels[shape] for chunk in chunks]) for shape in chunks[0].pixels
        }
        self._embedded: list[_Embedded] = []
        for i, model in enumerate(models):
            image = encode_pictures(model, pixels[model.pixels.shape], device)
            text = encode(model.model.encode_text, together([chunk.tokens[i] for chunk in chunks]), device)
            finite = torch.isfinite(image).all(dim=1) & torch.isfinite(text).all(dim=1)
            made = (image, text, (image * text).sum(dim=1), finite)
            self._embedded.append(_Embedded(*(tensor.to("cpu", non_blocking=True) for tensor in made)))
        self._done = None
        if on_gpu:
            self._done = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._done.record(torch.cuda.current_stream(torch.device(device)))

    def wait(self) -> list[_Embedded]:
        """Of each model, when it is there: on a GPU not before."""
        if self._done is not None:
            self._done.synchronize()
        return self._embedded


def _batches(
    chunks: Iterator[Chunk], models: Sequence[ClipModel], device: str
) -> Generator[tuple[_Batch, list[_Embedded]], None, None]:
    """Batches of chunks through the models, in order. On a GPU the next has begun when one is given."""
    before: _Batch | None = None
    while part := list(islice(chunks, BATCH // CHUNK)):
        begun = _Batch(part, models, device)
        if before is not None:
            yield before, before.wait()
        before = begun
    if before is not None:
        yield before, before.wait()


Writers = dict[tuple[str | None, str], NpyWriter]


@contextmanager
def _writers(root: Path, number: int, models: Sequence[tuple[str, ClipModel]], n: int) -> Iterator[Writers]:
    """The files of one segment by model and column, whole at the end or not there at all."""
    with ExitStack() as stack:

        def opened(what: str, key: str | None, shape: tuple[int, ...], dtype: npt.DTypeLike) -> NpyWriter:
            temporary = stack.enter_context(atomic_path(root / segment_file(number, what, key)))
            return NpyWriter(stack.enter_context(temporary.open("wb")), shape, dtype)

        writers: Writers = {(None, "status"): opened("status", None, (n,), np.uint8)}
        for key, model in models:
            for what in ("img", "txt"):
                writers[key, what] = opened(what, key, (n, model.embed_dim), np.float16)
            writers[key, "score"] = opened("score", key, (n,), np.float32)
        yield writers
        for writer in writers.values():
            writer.close()


def embed_segment(
    segment: Segment,
    shard_dir: str | os.PathLike[str],
    models: Sequence[tuple[str, ClipModel]],
    out: Path,
    number: int,
    *,
    device: str = "cpu",
) -> SegmentCounts:
    """Embeds every sample of a segment that has a picture that decodes; writes the files named above.

    Args:
        models: (key, model on ``device``).
        out: run directory; number: of the segment, for the names.
        shard_dir: of the shards, or its URL.
    Raises:
        CorruptDataError: a shard is not the indexed one.   OSError: reading or writing failed.
    Memory: the segment's columns, a batch of 256 pairs of tensors and as much read ahead, of uint8 pixels.
    """
    threads = decode_threads(device)
    if is_url(shard_dir):  # of which most wait for a server
        threads = max(threads, _ASKING)
    together = BATCH // CHUNK
    clips = [model for _, model in models]
    pairs = SegmentPairs(segment, os.fspath(shard_dir), clips)
    totals = np.zeros(len(STATUS), np.int64)
    save_array(out / segment_file(number, "begin"), np.asarray(segment.shard_sample_begin).astype(np.uint64))
    with (
        quiet,
        one_thread(device),
        _writers(out, number, models, len(pairs)) as writers,
        closing(pairs),
        closing(pairs.chunks(threads=threads, ahead=together + threads)) as chunks,
    ):
        for batch, embedded in _batches(chunks, clips, device):
            status = batch.status
            for (key, _), made in zip(models, embedded, strict=True):
                finite = made.finite.numpy()
                status[~finite & ((status == OK) | (status == NO_CAPTION))] = NOT_FINITE
                has_image = (status == OK) | (status == NO_CAPTION)
                writers[key, "img"].write(np.where(has_image[:, None], made.image.numpy(), 0))
                writers[key, "txt"].write(np.where((batch.captioned & finite)[:, None], made.text.numpy(), 0))
                writers[key, "score"].write(np.where(status == OK, made.score.numpy(), np.nan))
            writers[None, "status"].write(status)
            totals += np.bincount(status, minlength=len(STATUS))
    return SegmentCounts(len(pairs), {STATUS[i]: int(total) for i, total in enumerate(totals) if total})
