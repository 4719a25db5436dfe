"""Image and caption embeddings of one index segment, and their scores, as files in the order of its samples.

``{N}-status.npy`` (n,) u8; ``{N}-begin.npy`` first sample of each shard; and of each model ``{N}-{key}-img.npy`` and
``-txt.npy`` (n, d) float16 unit vectors (zero where there is none), ``-score.npy`` (n,) float32 (NaN likewise).
A score is the inner product of the unit vectors before they are rounded to float16.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np
import numpy.typing as npt

from dcfast.features.files import segment_file
from dcfast.features.pairs import CHUNK, NO_CAPTION, NOT_FINITE, OK, STATUS, SegmentPairs
from dcfast.images.decode import quiet
from dcfast.models.devices import one_thread
from dcfast.storage.atomic import atomic_path
from dcfast.storage.npz import NpyWriter, save_array
from dcfast.storage.paths import is_url
from dcfast.storage.records import Count, Record

if TYPE_CHECKING:
    from torch import Tensor

    from dcfast.index.segments import Segment
    from dcfast.models.clip import ClipModel

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
    Memory: the segment's columns, a batch of 256 pairs of tensors and as much read ahead.
    """
    import torch

    # on the CPU pieces fill the cores
    threads = 1 if device == "cpu" else min(16, os.cpu_count() or 1)
    if is_url(shard_dir):  # of which most wait for a server
        threads = max(threads, _ASKING)
    together = BATCH // CHUNK
    pairs = SegmentPairs(segment, os.fspath(shard_dir), [model for _, model in models])
    totals = np.zeros(len(STATUS), np.int64)
    save_array(out / segment_file(number, "begin"), np.asarray(segment.shard_sample_begin).astype(np.uint64))
    with (
        quiet,
        one_thread(device),
        _writers(out, number, models, len(pairs)) as writers,
        closing(pairs),
        closing(pairs.chunks(threads=threads, ahead=together + threads)) as chunks,
    ):
        while batch := list(islice(chunks, together)):
            status = np.concatenate([chunk.status for chunk in batch])
            captioned = np.concatenate([chunk.captioned for chunk in batch])
            for i, (key, model) in enumerate(models):
                image = encode(model.model.encode_image, torch.cat([chunk.images[i] for chunk in batch]), device)
                text = encode(model.model.encode_text, torch.cat([chunk.tokens[i] for chunk in batch]), device)
                score = (image * text).sum(dim=1).cpu().numpy()
                finite = (torch.isfinite(image).all(dim=1) & torch.isfinite(text).all(dim=1)).cpu().numpy()
                status[~finite & ((status == OK) | (status == NO_CAPTION))] = NOT_FINITE
                has_image = (status == OK) | (status == NO_CAPTION)
                writers[key, "img"].write(np.where(has_image[:, None], image.cpu().numpy(), 0))
                writers[key, "txt"].write(np.where((captioned & finite)[:, None], text.cpu().numpy(), 0))
                writers[key, "score"].write(np.where(status == OK, score, np.nan))
            writers[None, "status"].write(status)
            totals += np.bincount(status, minlength=len(STATUS))
    return SegmentCounts(len(pairs), {STATUS[i]: int(total) for i, total in enumerate(totals) if total})
