"""The exact loss of a large batch from small pieces of it, in the manner of GradCache.

A contrastive loss ties all samples of a batch together, so that its gradient is not the sum over pieces, and the
activations of the whole batch would have to be kept. But features are small: the pieces are encoded once without
gradient, the loss of all features gives their gradients, and each piece is encoded again with gradient and sent its
share back. One more forward pass buys a batch whose size no longer depends on the memory or the number of GPUs.
Gao et al. 2021, https://arxiv.org/abs/2101.06983.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence, Sized
from typing import TypeVar

import torch
from torch import Tensor

Encoded = tuple[Tensor, ...]
Piece = TypeVar("Piece")


def cached_backward(
    encode: Callable[[Piece], Encoded],
    pieces: Sequence[Piece],
    loss: Callable[..., Tensor],
    *,
    scale_loss: Callable[[Tensor], Tensor] | None = None,
    no_sync: Callable[[], contextlib.AbstractContextManager[object]] | None = None,
) -> Tensor:
    """Adds to the parameters' gradients those of the loss of all pieces as one batch; returns that loss.

    Args:
        encode: a piece -> ``(image features, text features, *scalars)``: features with the piece's number of rows,
            scalars such as the logit scale with one element, the same for all pieces. Called twice a piece, in order,
            with the same random state both times, so that dropout drops the same. Batch norm sees a piece at a time,
            and its running averages move twice.
        pieces: the parts of the batch, in any sizes; what encode takes.
        loss: called once as ``loss(image_features, text_features, *scalars)`` with all rows: ``ClipLoss(...)``, or a
            function around it. With many ranks all its gathers happen here.
        scale_loss: what backward is called on, such as ``GradScaler.scale``; default the loss itself.
        no_sync: a context for all but the last piece, such as DistributedDataParallel's ``no_sync``.

    Returns:
        The loss, detached and not scaled.

    Raises:
        ValueError: no pieces; TypeError: encode gave something else than at least two tensors, loss something else
            than one (a dictionary, say), or the pieces have no length.

    Cost: two forward passes and one backward pass of the encoder. Memory: the activations of one piece, features and
    their gradients of the whole batch, and what the loss needs.
    Example: ``cached_backward(lambda x: (model(x), model(-x), logit_scale), x.split(4), clip_loss)``
    """
    if not isinstance(pieces, Sized):
        raise TypeError(f"pieces must be a list or tuple, since each is encoded twice, got {type(pieces).__name__}")
    if len(pieces) == 0:
        raise ValueError("pieces must hold at least one part of the batch, got none")
    states, encoded = [], []
    with torch.no_grad():
        for piece in pieces:
            states.append(_RandomState())
            encoded.append(_checked(encode(piece)))
    features = [torch.cat([piece[k] for piece in encoded]) for k in range(2)]
    leaves = [x.detach().requires_grad_() for x in (*features, *encoded[0][2:])]
    with torch.enable_grad():
        value = loss(*leaves)
        if not isinstance(value, Tensor):
            raise TypeError(f"loss must return a tensor with one element, got {type(value).__name__}")
        torch.autograd.backward([value if scale_loss is None else scale_loss(value)])
    gradients = [leaf.grad for leaf in leaves]
    after = _RandomState()
    for number, (piece, state, share) in enumerate(zip(pieces, states, _shares(gradients, encoded), strict=True)):
        last = number == len(pieces) - 1
        quiet = contextlib.nullcontext() if last or no_sync is None else no_sync()
        with quiet, torch.enable_grad():
            state.restore()
            _send_back(_checked(encode(piece)), share, last=last)
    after.restore()
    return value.detach()


def _checked(encoded: object) -> Encoded:
    if not isinstance(encoded, (tuple, list)) or len(encoded) < 2 or not all(isinstance(x, Tensor) for x in encoded):
        got = [type(x).__name__ for x in encoded] if isinstance(encoded, (tuple, list)) else type(encoded).__name__
        raise TypeError(f"encode must return (image features, text features, *scalars) as tensors, got {got}")
    return tuple(encoded)


def _shares(gradients: Sequence[Tensor | None], encoded: Sequence[Encoded]) -> Iterator[tuple[Tensor | None, ...]]:
    """Of each piece: the gradients of its features, and those of the scalars."""
    shares: list[Sequence[Tensor | None]] = [[gradient] * len(encoded) for gradient in gradients]
    for k, gradient in enumerate(gradients[:2]):
        if gradient is not None:
            shares[k] = torch.split(gradient, [piece[k].shape[0] for piece in encoded])
    return zip(*shares, strict=True)


def _send_back(encoded: Encoded, gradients: Sequence[Tensor | None], *, last: bool) -> None:
    # a scalar is the same in all pieces: its gradient, that of the whole batch, goes back once
    pairs = [
        (x, gradient)
        for k, (x, gradient) in enumerate(zip(encoded, gradients, strict=True))
        if gradient is not None and x.requires_grad and (k < 2 or last)
    ]
    if pairs:
        torch.autograd.backward([x for x, _ in pairs], [gradient for _, gradient in pairs])


class _RandomState:
    """The random state of the CPU and of the current CUDA device."""

    def __init__(self) -> None:
        self._cpu = torch.get_rng_state()
        self._cuda = torch.cuda.get_rng_state() if torch.cuda.is_available() else None

    def restore(self) -> None:
        torch.set_rng_state(self._cpu)
        if self._cuda is not None:
            torch.cuda.set_rng_state(self._cuda)
