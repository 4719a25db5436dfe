"""The scales of DataComp: pool, model and recipe, frozen. Only the data may change.

Source: the DataComp paper (arXiv 2304.14108) and its public training configuration. ``tiny`` is ours: the same
recipe at a size that two cores train in minutes; its results are never compared with the others.
"""

from __future__ import annotations

import difflib
import hashlib
import json
from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class Scale:
    """One scale.

    Attributes:
        samples_seen: of training; the pool of that scale has as many metadata rows.
        global_batch: samples a step, over all ranks.
        warmup_steps, learning_rate, beta2: of AdamW with a cosine schedule.
        precision: of open_clip: ``amp`` or ``amp_bf16``.
        grad_checkpointing: activations are computed again instead of kept.
        crop_scale: least share of a picture's area that a training crop takes.
        pool_bytes: about what the downloaded shards take.
        gpu_hours: about what training takes on A100 GPUs, from the paper; None at tiny.
    """

    name: str
    model: str
    samples_seen: int
    global_batch: int
    learning_rate: float
    warmup_steps: int
    beta2: float
    precision: str = "amp"
    beta1: float = 0.9
    eps: float = 1e-6
    weight_decay: float = 0.2
    checkpoints: int = 5
    grad_checkpointing: bool = True
    crop_scale: float = 0.9
    pool_bytes: int | None = None
    gpu_hours: float | None = None

    def fingerprint(self) -> str:
        """SHA-256 of the recipe: it stands in the manifest, so that a departure shows."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()


_M, _GB, _TB, _BF16 = 10**6, 10**9, 10**12, "amp_bf16"
_SCALES = (
    Scale("tiny", "dcfast-tiny", 76_800, 128, 1e-3, 50, 0.98, _BF16, grad_checkpointing=False),
    Scale("debug", "ViT-B-32", 128_000, 1_024, 1e-4, 500, 0.98, pool_bytes=4_500 * _M),
    Scale("small", "ViT-B-32", 12_800_000, 4_096, 5e-4, 500, 0.98, pool_bytes=450 * _GB, gpu_hours=4),
    Scale("medium", "ViT-B-32", 128 * _M, 4_096, 5e-4, 500, 0.98, pool_bytes=4_500 * _GB, gpu_hours=40),
    Scale("large", "ViT-B-16", 1_280 * _M, 8_192, 5e-4, 500, 0.98, pool_bytes=45 * _TB, gpu_hours=960),
    Scale("xlarge", "ViT-L-14", 12_800 * _M, 90_112, 1e-3, 10_000, 0.95, _BF16, pool_bytes=450 * _TB, gpu_hours=81_920),
)
SCALES = {scale.name: scale for scale in _SCALES}


def scale(name: str) -> Scale:
    """The scale of that name; ValueError suggests the nearest."""
    if name in SCALES:
        return SCALES[name]
    near = difflib.get_close_matches(name, SCALES, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise ValueError(f"scale must be one of {', '.join(SCALES)}; got {name!r}{hint}")
