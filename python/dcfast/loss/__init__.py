"""Contrastive losses that never store the matrix of logits: CLIP and SigLIP, on one device or many ranks.

``ClipLoss`` and ``SigLipLoss`` take the place of open_clip's; ``clip_loss`` and ``siglip_loss`` are the same as
functions, ``clip_lse`` is the forward pass alone, and ``cached_backward`` makes one large batch of many small ones.
Importing this package imports torch.
"""

from __future__ import annotations

from dcfast.loss.functional import clip_loss, clip_lse, siglip_loss
from dcfast.loss.gradcache import cached_backward
from dcfast.loss.modules import ClipLoss, SigLipLoss

__all__ = ["ClipLoss", "SigLipLoss", "cached_backward", "clip_loss", "clip_lse", "siglip_loss"]
