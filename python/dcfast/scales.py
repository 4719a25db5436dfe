"""The scales of DataComp: pool, model and recipe, frozen. Only the data may change.

Source: the DataComp paper (arXiv 2304.14108) and its public training configuration. ``tiny`` is ours: the same
recipe at a size that two cores train in minutes; its results are never compared with the others.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields

from dcfast.errors import did_you_mean


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


RECIPE_FIELDS = tuple(f.name for f in fields(Scale) if f.name not in ("name", "pool_bytes", "gpu_hours"))
"""What of a recipe may be changed on purpose (``--set``); it is no scale of DataComp's then."""
PRECISIONS = ("fp32", "amp", "amp_bf16", "bf16", "fp16", "pure_bf16", "pure_fp16")
_OTHER_NAMES = {
    "arch": "model",
    "batch": "global_batch",
    "batch_size": "global_batch",
    "lr": "learning_rate",
    "train_num_samples": "samples_seen",
    "warmup": "warmup_steps",
    "wd": "weight_decay",
}
"""What open_clip and others call a field of a recipe -> its name here."""
_KINDS = {bool: "true or false", int: "a whole number", float: "a number", str: "a string"}

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
    raise ValueError(f"scale must be one of {', '.join(SCALES)}; got {name!r}{did_you_mean(name, SCALES)}")


def check_recipe_field(name: str) -> None:
    """ValueError where a recipe has no such field; names the nearest."""
    if name not in RECIPE_FIELDS:
        plain = name.replace("-", "_")
        hint = did_you_mean(_OTHER_NAMES.get(plain, plain), RECIPE_FIELDS)
        raise ValueError(f"no recipe field {name!r}{hint or '; there are ' + ', '.join(RECIPE_FIELDS)}")


def _check_change(name: str, value: object, standard: object) -> None:
    """ValueError where a change is of another type than the recipe's own value."""
    kind = type(standard)
    fits = isinstance(value, (int, float) if kind is float else kind) and isinstance(value, bool) == (kind is bool)
    if not fits or (isinstance(value, float) and not math.isfinite(value)):
        raise ValueError(f"{name} must be {_KINDS[kind]}; got {value!r}")


def changed_recipe(standard: Scale, changes: Mapping[str, bool | int | float | str]) -> Scale:
    """A recipe with other values in some of its fields; ValueError for an unknown field, or values without sense."""
    for name, value in changes.items():
        check_recipe_field(name)
        _check_change(name, value, getattr(standard, name))
    made = Scale(**{**asdict(standard), **changes})
    for name in ("samples_seen", "global_batch", "checkpoints"):
        if getattr(made, name) < 1:
            raise ValueError(f"{name} must be at least 1; got {getattr(made, name)}")
    if made.samples_seen < made.global_batch:
        raise ValueError(f"samples_seen {made.samples_seen} is less than one batch of {made.global_batch}; see more")
    if made.precision not in PRECISIONS:
        hint = did_you_mean(made.precision, PRECISIONS)
        raise ValueError(f"precision must be one of {', '.join(PRECISIONS)}; got {made.precision!r}{hint}")
    if not 0 < made.crop_scale <= 1:
        raise ValueError(f"crop_scale must be in (0, 1]; got {made.crop_scale}")
    return made


def smaller_batch(samples: int) -> int:
    """A batch for a training on so few samples, to be named in messages: the largest power of two that they fill."""
    return 1 << max(samples.bit_length() - 1, 0)


def recipe_departures(standard: Scale, made: Scale) -> list[str]:
    """In words, which fields of a recipe are not those of its scale; empty where all are."""
    return [
        f"{name} {getattr(made, name)} instead of {getattr(standard, name)}"
        for name in RECIPE_FIELDS
        if getattr(made, name) != getattr(standard, name)
    ]
