"""The pool's side of a comparison: index, signatures and descriptors of its shards, a segment at a time.

Memory of a piece: the records of one segment, at most ``MOST_SHARDS`` shards, 100 bytes a sample and its index (about
60), whatever the pool's size; of descriptors 256 encoded pictures, two batches of decoded ones, and the model.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np

from dcfast.dedup.records import ABSENT, sign_images
from dcfast.engine.piece import piece
from dcfast.errors import PoolError
from dcfast.evaluate.pictures import FilePictures
from dcfast.images.signatures import STATUS
from dcfast.index.build import write_segment
from dcfast.index.rows import loss_notes
from dcfast.index.segments import Segment
from dcfast.models.descriptors import DescriptorModel, describe, load_descriptor, parse_descriptor
from dcfast.models.devices import borrowed_device
from dcfast.rundir.layout import segment_path, signature_path
from dcfast.storage.atomic import atomic_path
from dcfast.storage.npz import NpyWriter, save_array
from dcfast.storage.records import Count, Record

MOST_SHARDS = 64
"""Of a segment: what a piece holds does not grow with the pool."""
MOST_NOTED = 20
_HELD = 256


class SignedSegment(Record):
    """Samples of a segment, those with a picture, flat ones, and how decoding went; some of what may hide samples."""

    samples: Count
    pictures: Count
    flat: Count
    status: dict[str, Count]
    notes: list[str]


class DescribedSegment(Record):
    """Samples of a segment that have a descriptor."""

    described: Count


def segments_of(shards: Sequence[str]) -> list[list[str]]:
    """The shards cut into segments, a power of two of them each, at most ``MOST_SHARDS``; small pools in small ones."""
    size = 1
    while size < MOST_SHARDS and size * 4096 < len(shards):
        size *= 2
    return [list(shards[begin : begin + size]) for begin in range(0, len(shards), size)]


@piece()
def sign_segment(out: Path, number: int, shards: Sequence[str], shard_dir: str, uid_from: str) -> SignedSegment:
    """Piece: the index of some shards, and the signatures of their pictures."""
    paths = [os.path.join(shard_dir, name) for name in shards]
    write_segment(list(zip(paths, shards, strict=True)), out / segment_path(number), uid_from=uid_from)
    segment = Segment.open(out / segment_path(number))
    records = sign_images(segment, paths)
    save_array(out / signature_path(number), records)
    counts = np.bincount(records["status"], minlength=256)
    names = {**dict(enumerate(STATUS)), ABSENT: "absent"}
    return SignedSegment(
        samples=len(records),
        pictures=int(len(records) - counts[ABSENT]),
        flat=int(((records["flat"] == 1) & (records["status"] == 0)).sum()),
        status={names[i]: int(n) for i, n in enumerate(counts) if n},
        notes=loss_notes(segment)[:MOST_NOTED],
    )


def descriptor_path(name: str, number: int) -> str:
    """(n, d) float32 of a segment's samples, in its order; zeros where there is no descriptor."""
    return f"descriptors/{re.sub('[^A-Za-z0-9_.-]+', '-', name)}-{number:05d}.npy"


@lru_cache(maxsize=1)
def _model(text: str, state: tuple[int, int] | None, device: str, run_torchscript: bool) -> DescriptorModel:
    return load_descriptor(parse_descriptor(text), device=device, run_torchscript=run_torchscript)


def open_model(text: str, device: str, *, run_torchscript: bool) -> DescriptorModel:
    """A model, loaded once a process while its file stays as it is."""
    file = parse_descriptor(text).file
    state = None if file is None else ((at := os.stat(file)).st_size, at.st_mtime_ns)
    return _model(text, state, device, run_torchscript)


@piece()
def describe_segment(
    out: Path,
    number: int,
    shards: Sequence[str],
    shard_dir: str,
    descriptor: str,
    sha256: str,
    device: str,
    run_torchscript: bool,
) -> DescribedSegment:
    """Piece: the descriptors of one segment's pictures; ``sha256`` is of the weights that the sets were signed by."""
    segment = Segment.open(out / segment_path(number))
    paths = [os.path.join(shard_dir, name) for name in shards]
    pictures = FilePictures(paths, segment.key, *segment.image_places())
    described = 0
    with borrowed_device(device) as place:
        model = open_model(descriptor, place, run_torchscript=run_torchscript)
        if sha256 not in ("", model.sha256):  # of a file of descriptors alone nobody knows
            raise PoolError(
                f"descriptor {model.name} has weights of SHA-256 {model.sha256}; the sets were signed by {sha256}: "
                "give the same weights, or sign the sets by these"
            )
        threads = 1 if place == "cpu" else min(16, os.cpu_count() or 1)
        target = out / descriptor_path(model.name, number)
        with atomic_path(target) as temporary, open(temporary, "wb") as file:
            writer = NpyWriter(file, (segment.num_samples, model.dim), np.float32)
            with pictures.read(np.arange(segment.num_samples), _HELD) as batches:
                for _, readers in batches:
                    vectors = describe(model, readers, threads=threads)
                    described += int(vectors.any(axis=1).sum())
                    writer.write(vectors)
            writer.close()
    return DescribedSegment(described)
