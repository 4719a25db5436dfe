"""Image and caption embeddings of one index segment, and their scores, as files in the order of its samples.

``{N}-status.npy`` (n,) u8; ``{N}-begin.npy`` first sample of each shard; and of each model ``{N}-{key}-img.npy`` and
``-txt.npy`` (n, d) float16 unit vectors (zero where there is none), ``-score.npy`` (n,) float32 (NaN likewise).
A score is the inner product of the unit vectors before they are rounded to float16.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from dcfast.features.files import segment_file
from dcfast.features.pairs import CHUNK, NO_CAPTION, NOT_FINITE, OK, STATUS, Chunk, SegmentPairs
from dcfast.images.decode import quiet
from dcfast.models.devices import one_thread
from dcfast.storage.atomic import atomic_path
from dcfast.storage.npz import NpyWriter, save_array

if TYPE_CHECKING:
    from torch import Tensor

    from dcfast.index.segments import Segment
    from dcfast.models.clip import ClipModel

__all__ = ["BATCH", "embed_segment", "encode"]

BATCH = 256
"""Pairs a forward pass; a fixed number, so that a sample's neighbours, and so its last bits, never vary."""


def _unit(features: Tensor) -> Tensor:
    values = features.float()
    scaled: Tensor = values / values.norm(dim=1, keepdim=True).clamp_min(1e-12)
    return scaled


def encode(clip: ClipModel, images: Tensor | None, tokens: Tensor | None, device: str) -> tuple[Any, Any]:
    """Unit embeddings (n, d) float32 of pictures (n, 3, size, size) and of tokens (n, context); None of None.

    On a GPU under float16 autocast, on the CPU in float32.
    """
    import torch

    on_gpu, model = device.startswith("cuda"), cast("Any", clip.model)
    with torch.inference_mode(), torch.autocast("cuda", torch.float16, enabled=on_gpu):
        image = None if images is None else _unit(model.encode_image(images.to(device, non_blocking=True)))
        text = None if tokens is None else _unit(model.encode_text(tokens.to(device, non_blocking=True)))
    return image, text


def _batches(pairs: SegmentPairs, threads: int) -> Iterator[list[Chunk]]:
    per = BATCH // CHUNK
    waiting: list[Chunk] = []
    for chunk in pairs.chunks(threads=threads, ahead=per + threads):
        waiting.append(chunk)
        if len(waiting) == per:
            yield waiting
            waiting = []
    if waiting:
        yield waiting


class _Writers:
    """The open files of one segment."""

    def __init__(self, root: Path, number: int, keys: Sequence[str], models: Sequence[ClipModel], n: int) -> None:
        self._stack = ExitStack()
        self.of: dict[tuple[str | None, str], NpyWriter] = {}
        for key, model in zip(keys, models, strict=True):
            for what in ("img", "txt"):
                self._open(root, number, what, key, (n, model.embed_dim), np.float16)
            self._open(root, number, "score", key, (n,), np.float32)
        self._open(root, number, "status", None, (n,), np.uint8)

    def _open(self, root: Path, number: int, what: str, key: str | None, shape: tuple[int, ...], dtype: Any) -> None:
        temporary = self._stack.enter_context(atomic_path(root / segment_file(number, what, key)))
        file = self._stack.enter_context(temporary.open("wb"))
        self.of[key, what] = NpyWriter(file, shape, dtype)

    def __enter__(self) -> _Writers:
        return self

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        if kind is None:
            try:
                for writer in self.of.values():
                    writer.close()
            except BaseException:
                self._stack.__exit__(ValueError, ValueError("incomplete"), None)
                raise
        self._stack.__exit__(kind, error, trace)


def embed_segment(
    segment: Segment,
    shard_dir: str | os.PathLike[str],
    models: Sequence[tuple[str, ClipModel]],
    out: Path,
    number: int,
    *,
    device: str = "cpu",
    threads: int | None = None,
) -> dict[str, Any]:
    """Embeds every sample of a segment that has a picture that decodes; writes the files named above.

    Args:
        models: (key, model on ``device``).
        out: run directory; number: of the segment, for the names.
        threads: that decode; None = 1 on the CPU, where pieces fill the cores, else up to 16.
    Returns:
        Counts by status, as JSON.
    Raises:
        CorruptDataError: a shard is not the indexed one.   OSError: reading or writing failed.
    Memory: the segment's columns, a batch of 256 pairs of tensors and as much read ahead.
    """
    count = threads or (1 if device == "cpu" else min(16, os.cpu_count() or 1))
    pairs = SegmentPairs(segment, os.fspath(shard_dir), [model for _, model in models])
    totals = np.zeros(len(STATUS), np.int64)
    keys = [key for key, _ in models]
    save_array(out / segment_file(number, "begin"), np.asarray(segment.shard_sample_begin).astype(np.uint64))
    with quiet, one_thread(device), _Writers(out, number, keys, pairs.models, len(pairs)) as files:
        try:
            for batch in _batches(pairs, count):
                status = np.concatenate([chunk.status for chunk in batch])
                captioned = np.concatenate([chunk.captioned for chunk in batch])
                for i, (key, model) in enumerate(models):
                    _embed_batch(files, key, model, batch, i, status, captioned, device)
                files.of[None, "status"].write(status)
                totals += np.bincount(status, minlength=len(STATUS))
        finally:
            pairs.close()
    return {"samples": len(pairs), "status": {STATUS[i]: int(n) for i, n in enumerate(totals) if n}}


def _embed_batch(
    files: _Writers, key: str, model: ClipModel, batch: list[Chunk], i: int, status: Any, captioned: Any, device: str
) -> None:
    import torch

    image, text = encode(
        model, torch.cat([c.images[i] for c in batch]), torch.cat([c.tokens[i] for c in batch]), device
    )
    finite = (torch.isfinite(image).all(dim=1) & torch.isfinite(text).all(dim=1)).cpu().numpy()
    status[~finite & ((status == OK) | (status == NO_CAPTION))] = NOT_FINITE
    score = (image * text).sum(dim=1).cpu().numpy()
    pictured = (status == OK) | (status == NO_CAPTION)
    files.of[key, "img"].write(np.where(pictured[:, None], image.cpu().numpy(), 0))
    files.of[key, "txt"].write(np.where((captioned & finite)[:, None], text.cpu().numpy(), 0))
    files.of[key, "score"].write(np.where(status == OK, score, np.nan))
