"""The losses of one process as functions of features."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import torch

from dcfast.loss import arguments, small
from dcfast.loss.ops import clip as ops
from dcfast.loss.ops import siglip as siglip_ops

if TYPE_CHECKING:
    from torch import Tensor


def clip_loss(
    image_features: Tensor,
    text_features: Tensor,
    logit_scale: Tensor | float,
    logit_bias: Tensor | float | None = None,
) -> Tensor:
    """CLIP's contrastive loss, the mean of both cross entropies, without the matrix of logits.

    Args:
        image_features: (N, D) float32, bfloat16, float16 or float64; unit norm is usual, not required. Any strides.
        text_features: the same shape, dtype and device; row i belongs to image i. Autocast casts both.
        logit_scale: the factor of the dot products (already exponentiated): a number or a tensor with one element.
        logit_bias: without effect, as both softmaxes are the same for any bias; its gradient is exactly 0.

    Returns:
        0-dim float32, float64 for float64 features. NaN or infinity in a feature makes it NaN or infinite.

    Raises:
        TypeError, ValueError: naming the argument, before any work.

    Errors in float32 on the CPU: relative l2 errors of loss and gradients are below 2e-6, or below twice those of two
    cross entropies in float32 where these are larger; docs/loss.md says where and how far.

    Cost: 8 N^2 D operations, forward and backward. Memory on the CPU: two tiles of 2 MiB, up to 20 MiB that are kept
    between the passes, and the gradients. Deterministic. First derivatives only, in reverse mode: torch.func's are
    refused, torch.vmap is right.
    Radford et al. 2021, https://arxiv.org/abs/2103.00020.
    Example: ``clip_loss(image_features, text_features, logit_scale).backward()``
    """
    return clip_loss_of_ranks(image_features, text_features, logit_scale, logit_bias, ops.ALONE)


def clip_loss_of_ranks(
    image_features: Tensor,
    text_features: Tensor,
    logit_scale: Tensor | float,
    logit_bias: Tensor | float | None,
    settings: tuple[int, int, str, str, bool, bool],
) -> Tensor:
    """``settings``: rank, world size, name of the group, schedule, local_loss, gather_with_grad of ``ClipLoss``."""
    inputs = _checked(image_features, text_features, logit_scale)
    loss = small.clip_loss(*inputs) if settings == ops.ALONE and small.is_small(*inputs) else None
    if loss is None:
        arguments.refuse_derivatives(*inputs)
        loss = cast("Tensor", ops.clip_loss(*inputs, *settings)[0])
    if logit_bias is None:
        return loss
    bias = arguments.as_scalar(logit_bias, "logit_bias", image_features)
    return loss + (bias - bias)  # 0 with an exact zero gradient; NaN where the bias is not finite


def siglip_loss(
    image_features: Tensor,
    text_features: Tensor,
    logit_scale: Tensor | float,
    logit_bias: Tensor | float | None = None,
) -> Tensor:
    """SigLIP's pairwise sigmoid loss: the sum over all pairs, divided by N.

    Arguments and result as in ``clip_loss``, errors too, but that a small batch (6 to 256 pairs, CPU) has those of any
    loss in float32: docs/loss.md. logit_bias is added to every logit. Cost: 6 N^2 D operations, all of
    them in the forward pass, which keeps the gradients (float32) for the backward pass; 2 N^2 D where none is wanted.
    Zhai et al. 2023, https://arxiv.org/abs/2303.15343.
    Example: ``siglip_loss(image_features, text_features, logit_scale, logit_bias).backward()``
    """
    return siglip_loss_of_ranks(image_features, text_features, logit_scale, logit_bias, siglip_ops.ALONE)


def siglip_loss_of_ranks(
    image_features: Tensor,
    text_features: Tensor,
    logit_scale: Tensor | float,
    logit_bias: Tensor | float | None,
    settings: tuple[int, int, str, str],
) -> Tensor:
    """``settings``: rank, world size, name of the group, schedule."""
    image, text, scale = _checked(image_features, text_features, logit_scale)
    bias = arguments.as_scalar(0.0 if logit_bias is None else logit_bias, "logit_bias", image)
    if settings == siglip_ops.ALONE and small.is_small(image, text, scale, bias):
        loss = small.siglip_loss(image, text, scale, bias)
        if loss is not None:
            return loss
    arguments.refuse_derivatives(image, text, scale, bias)
    grad = torch.is_grad_enabled()
    needs = [grad and arguments.requires_grad(tensor) for tensor in (image, text, scale, bias)]
    loss = cast(
        "Tensor", siglip_ops.siglip_loss(image, text, scale, bias, [*needs[:2], needs[2] or needs[3]], *settings)[0]
    )
    return loss


def clip_lse(image_features: Tensor, text_features: Tensor, logit_scale: Tensor | float) -> tuple[Tensor, Tensor]:
    """Log-sum-exp of the logits scale * <image_i, text_j> over all texts for each image, and over all images.

    With r and c its results and z_i the logit of pair i, (r_i + c_i) / 2 - z_i is the pair's own CLIP loss in this
    batch, the heart of negCLIPLoss filtering (https://arxiv.org/abs/2405.19547).

    Args:
        image_features, text_features: (M, D) and (N, D), else as in ``clip_loss``. NaN or infinity in one feature
            makes all of both results NaN or infinite: leave such samples out before.

    Returns:
        (M,) and (N,), float32 (float64 for float64), without gradient. Cost: 2 M N D operations, one tile of memory.
    Example: ``of_images, of_texts = clip_lse(image_features, text_features, logit_scale)``
    """
    inputs = _checked(image_features, text_features, logit_scale, paired=False)
    rows, cols = ops.clip_lse(*(x.detach() for x in inputs))
    return rows, cols


def _checked(
    image: Tensor, text: Tensor, scale: Tensor | float, *, paired: bool = True
) -> tuple[Tensor, Tensor, Tensor]:
    image, text = arguments.autocast(image, text)
    arguments.check_features(image, text, paired=paired)
    return image, text, arguments.as_scalar(scale, "logit_scale", image)
