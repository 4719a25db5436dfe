"""The torch backend as one module: the functions of ``dcfast.loss.backend.Backend``."""

# ruff: noqa: F401
from __future__ import annotations

from dcfast.loss.torch_backend.forward import (
    clip_forward,
    clip_log_sums,
    clip_norms,
    clip_shift,
    clip_stats,
    clip_sums,
)
from dcfast.loss.torch_backend.gradient import clip_products, finish
from dcfast.loss.torch_backend.large_logits import clip_online, clip_relative, clip_restate
from dcfast.loss.torch_backend.siglip import siglip_block
