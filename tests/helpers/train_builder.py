"""What the tests of training share: small pools, their subsets, and settings that two cores train in a second."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
from dcfast import reshard, save_subset, uid_parse, uid_sort
from dcfast.index.build import write_segment
from dcfast.train import TrainSettings, TrainSource
from pool_builder import PoolBuilder, Sample, uid_of

WORDS = ("red", "blue", "green", "large", "small", "striped", "circle", "square", "on", "a", "field", "of", "sand")


MODEL = f"local-dir:{Path(__file__).parent / 'clip_model'}"
"""A small transformer: without batch statistics, ranks and micro-batches equal one batch. Found by every process."""


def caption(number: int) -> str:
    rng = np.random.default_rng(number)
    return " ".join(rng.choice(WORDS, 6))


def build_pool(root: Path, count: int, *, broken: dict[int, dict[str, Any]] | None = None, shards: int = 3) -> Path:
    """POOL/shards with ``count`` samples; ``broken``: number -> fields of its Sample."""
    per = -(-count // shards)
    samples = [Sample(n, **{"caption": caption(n), **(broken or {}).get(n, {})}) for n in range(count)]
    return PoolBuilder(root, [samples[i : i + per] for i in range(0, count, per)]).write()


def index_pool(pool: Path, out: Path) -> Path:
    """An index directory of two segments, as the index stage leaves it."""
    names = sorted(p.name for p in (pool / "shards").glob("*.tar"))
    for k, part in enumerate((names[:1], names[1:])):
        (out / "index").mkdir(parents=True, exist_ok=True)
        write_segment([(pool / "shards" / n, n) for n in part], out / "index" / f"segment-{k:05d}.dcx")
    return out / "index"


def subset_file(path: Path, numbers: list[int]) -> Path:
    save_subset(path, uid_sort(uid_parse([uid_of(n) for n in numbers])[0]))
    return path


def both_sources(root: Path, count: int, numbers: list[int], **options: Any) -> tuple[TrainSource, TrainSource]:
    """The same samples from new shards, and from the pool's index with a subset."""
    pool = build_pool(root / "pool", count, **options)
    index = index_pool(pool, root / "run")
    subset = subset_file(root / "subset.npy", numbers)
    segments = sorted(index.glob("*.dcx"))
    reshard([str(s) for s in segments], root / "new", subset, shards_dir=pool / "shards", shard_size=13, threads=1)
    shards = TrainSource(shards=str(root / "new"))
    return shards, TrainSource(index=str(index), shards_dir=str(pool / "shards"), subset=str(subset))


def small(out: Path, *sources: TrainSource, overrides: dict[str, Any] | None = None, **options: Any) -> TrainSettings:
    """A training of a few steps of 8 samples in this process."""
    recipe = {
        **{"model": MODEL, "precision": "fp32", "learning_rate": 1e-3, "beta2": 0.98},
        **{"samples_seen": 64, "global_batch": 8, "warmup_steps": 2, "checkpoints": 2},
        **(overrides or {}),
    }
    options = {"device": "cpu", "workers": 0, "threads": 1, "log_every": 1, **options}
    return TrainSettings(out=str(out), sources=sources, overrides=recipe, **options)


def wait_for_disk() -> None:
    """Until the checkpoint that is being written is there."""
    for thread in threading.enumerate():
        if thread.name == "dcfast-save":
            thread.join()
