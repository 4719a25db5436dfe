"""The settings of a run: what makes it what it is, and what of it cannot be."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

__all__ = ["DEVICES", "LOSSES", "NO_COMPARISON", "SOURCES", "TEACHER", "Settings"]

TEACHER = "teacher"
"""The model of a feature column that means: the teacher of this run."""
NO_COMPARISON = "none"
LOSSES = ("open_clip", "dcfast")
DEVICES = ("auto", "cpu", "cuda")
SOURCES = ("index", "shards")


@dataclass(frozen=True)
class Settings:
    """What makes a run what it is; workers and engine are not part of it, since they change no byte.

    Attributes:
        scale: a name of ``dcfast.scales.SCALES``.
        pool: directory with ``shards/`` and ``metadata/``, or None for the built-in world.
        evalsets: directory with ``wds_*_test`` directories, or None (no decontamination; the world brings its own).
        filter: a filter expression, or None for the default one.
        seed: of the built-in world and of everything drawn.
        shard_size: samples an output shard holds at most.
        max_distance: largest Hamming distance of perceptual hashes (0..64) that counts as contamination.
        verify_images: decode every picture even where nothing else needs it (always done at tiny).
        strict: a damaged shard is an error instead of a note.
        features: prefix (``b32``, ``l14``) -> model as ``NAME:PRETRAINED`` or ``teacher``; {} for none. None is
            what suits the pool: both by the teacher in the built-in world, none for a given pool.
        uid_from: where the uids of a given pool come from, of ``dcfast.index.metadata.UID_SOURCES``: ``json`` (the
            samples' json, and the column ``uid`` of the metadata), ``url`` or ``key`` (hashes of these).
        teacher_uids: subset file of pairs of a given pool that the teacher trains on and that are never kept.
        train: train and evaluate; without it the run is its data half alone.
        compare: filter expression of the comparison run, or ``none``. None is ``no_filter`` at tiny, else ``none``.
        loss: ``open_clip`` or ``dcfast``.
        device: ``auto`` (a GPU where there is one), ``cpu`` or ``cuda``.
        train_from: ``index`` (pool and subset) or ``shards`` (the new shards); the batches are the same.
        decoder: of the training's pictures, a name of ``dcfast.train.decode.DECODERS``.
        keep_repeats: ``subset.npy`` holds a uid of several metadata rows as often as rows pass, as DataComp's subset
            files do, so that its sample is written and trained on that often; else once.
        samples_seen: of training, instead of the recipe's: such a run is marked as non-standard.
        world: changes to the built-in world's ``WorldSpec`` (``{"rows": 3200}``), or None.
        uid_hashes: path -> XXH3-128 of the uid files that filters and ``teacher_uids`` name; set when a run is claimed.
    """

    scale: str = "tiny"
    pool: str | None = None
    evalsets: str | None = None
    filter: str | None = None
    seed: int = 0
    shard_size: int = 10_000
    max_distance: int = 8
    verify_images: bool = False
    strict: bool = False
    features: dict[str, str] | None = None
    uid_from: str = "json"
    teacher_uids: str | None = None
    train: bool = True
    compare: str | None = None
    loss: str = "dcfast"
    device: str = "auto"
    train_from: str = "index"
    decoder: str = "pil"
    keep_repeats: bool = False
    samples_seen: int | None = None
    world: dict[str, Any] | None = None
    uid_hashes: dict[str, str] | None = None
