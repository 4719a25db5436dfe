"""The torch backend as one module: the functions of ``dcfast.loss.backend.Backend``."""

from __future__ import annotations

from dcfast.loss.clip_gradient import clip_products, finish
from dcfast.loss.far_logits import clip_online, clip_relative, clip_restate
from dcfast.loss.sigmoid_strips import siglip_block
from dcfast.loss.strips import (
    clip_forward,
    clip_log_sums,
    clip_means,
    clip_norms,
    clip_shift,
    clip_stats,
    clip_sums,
)

__all__ = [
    "clip_forward",
    "clip_log_sums",
    "clip_means",
    "clip_norms",
    "clip_online",
    "clip_products",
    "clip_relative",
    "clip_restate",
    "clip_shift",
    "clip_stats",
    "clip_sums",
    "finish",
    "siglip_block",
]
