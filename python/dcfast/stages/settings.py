"""The settings of a run: what makes it what it is, and what of it cannot be."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import Any

from dcfast.filters.terms import SCORES

__all__ = ["DEVICES", "LOSSES", "NO_COMPARISON", "SOURCES", "TEACHER", "Settings", "check_settings"]

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
        teacher_uids: subset file of pairs of a given pool that the teacher trains on and that are never kept.
        train: train and evaluate; without it the run is its data half alone.
        compare: filter expression of the comparison run, or ``none``. None is ``no_filter`` at tiny, else ``none``.
        loss: ``open_clip`` or ``dcfast``.
        device: ``auto`` (a GPU where there is one), ``cpu`` or ``cuda``.
        train_from: ``index`` (pool and subset) or ``shards`` (the new shards); the batches are the same.
        decoder: of the training's pictures, a name of ``dcfast.train.decode.DECODERS``.
        samples_seen: of training, instead of the recipe's: such a run is marked as non-standard.
        world: changes to the built-in world's ``WorldSpec`` (``{"rows": 3200}``), or None.
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
    teacher_uids: str | None = None
    train: bool = True
    compare: str | None = None
    loss: str = "dcfast"
    device: str = "auto"
    train_from: str = "index"
    decoder: str = "pil"
    samples_seen: int | None = None
    world: dict[str, Any] | None = None


def _one_of(option: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        near = difflib.get_close_matches(str(value), known, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"{option} must be one of {', '.join(known)}; got {value!r}{hint}")


def check_settings(settings: Settings) -> None:
    """Looks for what can be known to be wrong without reading a file.

    Raises:
        ValueError: names the option, what was expected and what came.   MissingDependencyError: decoder ``dali``
            without DALI.
    """
    from dcfast.scales import scale

    scale(settings.scale)
    _one_of("loss", settings.loss, LOSSES)
    _one_of("device", settings.device, DEVICES)
    _one_of("train_from", settings.train_from, SOURCES)
    from dcfast.train.decode import DECODERS

    _one_of("decoder", settings.decoder, tuple(DECODERS))
    if settings.decoder == "dali" and settings.train:
        from dcfast.train.dali import require_dali

        require_dali()
    for prefix, model in (settings.features or {}).items():
        _one_of("features: the prefix", prefix, tuple(SCORES))
        if not model:
            raise ValueError(f"features: {prefix} needs a model, NAME:PRETRAINED or {TEACHER}")
    if not 0 <= settings.seed < 1 << 63:
        raise ValueError(f"seed must be from 0 to 2^63 - 1; got {settings.seed}")
    if settings.samples_seen is not None:
        if settings.samples_seen < 1:
            raise ValueError(f"samples_seen must be at least 1; got {settings.samples_seen}")
        if settings.samples_seen >= 1 << 63:
            raise ValueError(f"samples_seen must be below 2^63; got {settings.samples_seen}")
        batch = scale(settings.scale).global_batch
        if settings.train and settings.samples_seen < batch:
            raise ValueError(
                f"samples_seen must be at least one batch of scale {settings.scale}, {batch}; "
                f"got {settings.samples_seen}"
            )
    if settings.pool is None:
        if settings.teacher_uids is not None:
            raise ValueError("teacher_uids names pairs of a given pool; the built-in world's teacher has its own")
    else:
        if settings.world is not None:
            raise ValueError("world changes the built-in world; a run with a pool has none")
        asks = TEACHER in (settings.features or {}).values()
        if asks and settings.teacher_uids is None:
            raise ValueError(
                f"features by the {TEACHER} need pairs of the pool that it may train on (--teacher-uids FILE): "
                "the toy teacher of the built-in world never scores a given pool"
            )
        if settings.teacher_uids is not None and not asks:
            raise ValueError(
                f"teacher_uids is given, but no column is asked of the {TEACHER} (--features l14={TEACHER})"
            )
