"""Numerics of the Triton kernels against float64, run in Triton's interpreter on the CPU.

Triton decides at import whether it interprets, so these run in a process of their own: ``python kernel_cases.py`` with
TRITON_INTERPRET=1 reads {"case": name, "args": {...}} a line and answers {"error": null or a traceback} a line.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from dcfast.kernels import contrastive as kernels
from dcfast.kernels import tuning
from dcfast.kernels.tuning import Config
from dcfast.loss.backend import BOTH, NLL, ClipStats
from interpreter import answer_cases
from torch import Tensor
from torch.nn.functional import cross_entropy, logsigmoid, normalize

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
# relative l2 errors of feature gradients; the interpreter truncates to bfloat16 where a GPU rounds to nearest
BOUNDS = {"float32": 2e-6, "bfloat16": 5e-3, "float16": 5e-4}


class Step(NamedTuple):
    """Loss and gradients of one step."""

    loss: Tensor
    image: Tensor
    text: Tensor
    scale: Tensor


def features(n: int, d: int, *, like: float = 0.3, dtype: str = "float32", seed: int = 0) -> tuple[Tensor, Tensor]:
    """Unit rows; ``like`` is how much of its image a text has."""
    generator = torch.Generator().manual_seed(seed)
    image = normalize(torch.randn(n, d, generator=generator), dim=1)
    other = normalize(torch.randn(n, d, generator=generator), dim=1)
    text = normalize(like * image + (1 - like) * other, dim=1)
    return image.to(DTYPES[dtype]), text.to(DTYPES[dtype])


def plain(image: Tensor, text: Tensor, scale: float, dtype: torch.dtype) -> Step:
    """The loss by torch in some dtype, from the same rounded features."""
    i, t = (x.detach().to(dtype).clone().requires_grad_() for x in (image, text))
    s = torch.tensor(scale, dtype=dtype, requires_grad=True)
    z = s * i @ t.T
    y = torch.arange(len(z))
    loss = (cross_entropy(z, y) + cross_entropy(z.T, y)) / 2
    loss.backward()
    return Step(loss.detach(), i.grad, t.grad, s.grad)


def ours(
    image: Tensor, text: Tensor, scale: float, *, workspace_bytes: int = 1 << 30, config: Config | None = None
) -> Step:
    """The same by the kernels."""
    s, factor = torch.tensor(scale), torch.tensor(1 / (2 * len(image)))
    stats = kernels.clip_forward(image, text, s, config=config)
    loss = (stats.rows[NLL].mean() + stats.cols[NLL].mean()) / 2
    products = kernels.clip_products(image, text, s, stats, dots=True, workspace_bytes=workspace_bytes, config=config)
    d_image, _ = kernels.finish(products.image, s, factor, image.dtype)
    d_text, d_scale = kernels.finish(products.text, s, factor, text.dtype, dot_with=text)
    exact = products.dots.sum() * factor
    # from products with a rounded gradient, or from unrounded dot products
    assert abs(float(d_scale - exact)) <= BOUNDS[str(image.dtype)[6:]] * (abs(float(exact)) + 1)
    return Step(loss, d_image, d_text, exact)


def error(found: Tensor, wanted: Tensor) -> float:
    """Relative l2 distance; absolute where the wanted value is 0."""
    norm = float(wanted.double().norm())
    return float((found.double() - wanted.double()).norm()) / (norm or 1.0)


def close(found: Step, image: Tensor, text: Tensor, scale: float) -> None:
    """Within the bounds of float64, and in float32 within twice the error of plain torch."""
    wanted, peer = plain(image, text, scale, torch.float64), plain(image, text, scale, torch.float32)
    bound = BOUNDS[str(image.dtype)[6:]]
    for name in ("image", "text"):
        allowed = max(bound, 2 * error(getattr(peer, name), getattr(wanted, name)))
        assert error(getattr(found, name), getattr(wanted, name)) <= allowed, name
    loss_error = abs(float(found.loss - wanted.loss))
    assert loss_error <= 2e-6 * float(wanted.loss) + 2 * abs(float(peer.loss - wanted.loss)), "loss"
    scale_error = abs(float(found.scale - wanted.scale))
    assert scale_error <= 2e-6 * abs(float(wanted.scale)) + 2e-7, "scale"


@contextlib.contextmanager
def poisoned() -> Iterator[None]:
    """Uninitialised memory is NaN: whoever reads it before writing shows."""
    plain_empty, plain_like = torch.empty, torch.empty_like

    def poison(x: Tensor) -> Tensor:
        return x.fill_(float("nan")) if x.is_floating_point() else x.fill_(0x5A5A5A5A)

    torch.empty = lambda *a, **k: poison(plain_empty(*a, **k))
    torch.empty_like = lambda *a, **k: poison(plain_like(*a, **k))
    try:
        yield
    finally:
        torch.empty, torch.empty_like = plain_empty, plain_like


def clip(n: int, d: int, scale: float, dtype: str = "float32", like: float = 0.3, chunk_rows: int = 0) -> None:
    """One step, with poisoned workspaces, in one chunk or several."""
    image, text = features(n, d, like=like, dtype=dtype)
    with poisoned():
        found = ours(image, text, scale, workspace_bytes=chunk_rows * n * image.element_size() or 1 << 30)
    assert (found.image.dtype, found.text.dtype, found.loss.dtype) == (image.dtype, text.dtype, torch.float32)
    if n == 1:
        assert float(found.loss) == 0
        assert not found.image.any()
        assert not found.text.any()
        assert float(found.scale) == 0
    close(found, image, text, scale)


def clip_tiles(bm: int, bn: int, bk: int, warps: int, group: int, sub: bool) -> None:
    """Other tiles give the same to rounding; so do tensor descriptors, where the products are the same bit for bit."""
    image, text = features(131, 96)
    config = Config(bm, bn, bk, warps, 1, group=group, sub=sub)
    found = ours(image, text, 14.3, config=config)
    close(found, image, text, 14.3)
    tuning.INTERPRET_TMA = True
    try:
        described = ours(image, text, 14.3, config=config)
    finally:
        tuning.INTERPRET_TMA = False
    assert all(torch.equal(a, b) for a, b in zip(found, described, strict=True))


def clip_repeats(dtype: str) -> None:
    """Two runs are equal to the bit."""
    image, text = features(129, 40, dtype=dtype)
    first, second = (ours(image, text, 50.0, workspace_bytes=1) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def clip_flag() -> None:
    """Opposite texts leave the exponent window: the flag says so, the result is right; ordinary batches keep clear."""
    image, text = features(128, 32)
    assert int(kernels.clip_forward(image, text, torch.tensor(100.0)).flag) == 0
    generator = torch.Generator().manual_seed(1)
    one = image[:1].expand(70, 32)
    opposite = normalize(-one + 0.01 * torch.randn(70, 32, generator=generator), dim=1)
    for scale in (100.0, 1000.0):
        stats = kernels.clip_forward(one, opposite, torch.tensor(scale))
        assert int(stats.flag) != 0
        found = ours(one, opposite, scale)
        wanted, peer = plain(one, opposite, scale, torch.float64), plain(one, opposite, scale, torch.float32)
        assert abs(float(found.loss - wanted.loss)) <= 1e-4
        for name in ("image", "text"):
            # logits of a thousand have an ulp of 6e-5 in float32, whose errors plain torch may have in common and lose
            allowed = max(1e-4, 2 * error(getattr(peer, name), getattr(wanted, name)))
            assert error(getattr(found, name), getattr(wanted, name)) <= allowed, name
    # a scale so large that ordinary data leave it, too
    image, text = features(65, 16)
    assert int(kernels.clip_forward(image, text, torch.tensor(1000.0)).flag) != 0
    found, wanted = ours(image, text, 1000.0), plain(image, text, 1000.0, torch.float64)
    assert abs(float(found.loss / wanted.loss) - 1) <= 2e-6
    for name in ("image", "text"):
        assert error(getattr(found, name), getattr(wanted, name)) <= 1e-4, name
    # one row alone far away, in a batch that is otherwise fine
    image, text = features(40, 16, like=1.0)
    image, text = image.abs(), text.abs()
    image[7] = -image[7]
    found, wanted = ours(image, text, 120.0), plain(image, text, 120.0, torch.float64)
    assert abs(float(found.loss / wanted.loss) - 1) <= 2e-6


def clip_not_finite() -> None:
    """NaN or infinity in a feature, or in the scale, shows in the loss."""
    for value in (float("nan"), float("inf"), float("-inf")):
        for side in (0, 1):
            pair = list(features(33, 24))
            pair[side][20, 3] = value
            stats = kernels.clip_forward(*pair, torch.tensor(10.0))
            loss = (stats.rows[NLL].mean() + stats.cols[NLL].mean()) / 2
            assert not torch.isfinite(loss), (value, side)
            grads = kernels.clip_products(*pair, torch.tensor(10.0), stats)
            assert not torch.isfinite(grads.image).all(), (value, side)
            loss, _ = kernels.siglip_block(*pair, torch.tensor(10.0), torch.tensor(-10.0))
            assert not torch.isfinite(loss), (value, side)
        image, text = features(33, 24)
        stats = kernels.clip_forward(image, text, torch.tensor(value))
        assert not torch.isfinite(stats.rows[NLL].mean()), value
    huge = torch.full((3, 8), 1e30)
    stats = kernels.clip_forward(huge, huge, torch.tensor(1.0))
    assert not torch.isfinite(stats.rows[NLL]).any()


def clip_odd_features() -> None:
    """Norm 20, zero rows, ties, half-precision products beyond 65504."""
    image, text = features(50, 40)
    close(ours(image * 20, text * 20, 0.25), image * 20, text * 20, 0.25)
    image[3] = 0
    text[[4, 9]] = 0
    close(ours(image, text, 14.3), image, text, 14.3)
    same = image[5:6].expand(50, 40)
    found = ours(same, same, 14.3)
    assert abs(float(found.loss) - torch.tensor(50.0).log()) < 1e-6
    assert float(found.image.abs().max()) < 1e-6
    image, text = features(33, 64, dtype="float16")
    image, text = image * 300, text * 300
    close(ours(image, text, 1e-4), image, text, 1e-4)


def clip_views() -> None:
    """Transposed, expanded, offset and strided views give what their copies give, to the bit."""
    image, text = features(37, 48)
    wanted = ours(image, text, 14.3)
    wide = torch.full((37, 99), float("nan"))
    wide[:, 1:97:2] = image
    offset = torch.full((37 * 48 + 1,), float("nan"))
    offset[1:] = text.reshape(-1)
    views = [
        (image.t().contiguous().t(), text),
        (wide[:, 1:97:2], offset[1:].view(37, 48)),
        (torch.stack((image, image))[1], torch.cat((text, text))[37:]),
        (image.repeat_interleave(2, 0)[::2], text),
    ]
    for x, y in views:
        found = ours(x, y, 14.3)
        assert all(torch.equal(a, b) for a, b in zip(found, wanted, strict=True))
    row = image[:1].expand(37, 48)
    close(ours(row, text, 14.3), row, text, 14.3)


def _softmaxes(image: Tensor, text: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    z = scale * image.double() @ text.double().T
    return z.softmax(1) - torch.eye(len(z)), z.softmax(0) - torch.eye(len(z))


def clip_ranks(ranks: int, rows: int, scale: float, dtype: str = "float32") -> None:
    """The rows of several ranks, and blocks of their columns: every weighting, every product, the dot sums."""
    n = ranks * rows
    image, text = features(n, 40, dtype=dtype)
    s = torch.tensor(scale)
    norms = [torch.stack([kernels.clip_norms(x[k * rows : (k + 1) * rows]).max() for k in range(ranks)]).amax()[None]
             for x in (image, text)]  # fmt: skip
    shift = kernels.clip_shift(*norms, s, n)
    parts = [image[k * rows : (k + 1) * rows] for k in range(ranks)]
    sums = [kernels.clip_sums(part, text, s, shift, k * rows) for k, part in enumerate(parts)]
    diagonal = torch.cat([x.diag for x in sums])
    cols = torch.stack([x.col_off for x in sums]).sum(0), diagonal
    p, q = _softmaxes(image, text, scale)
    dots = image.double() @ text.double().T
    bound = BOUNDS[dtype]
    for k, part in enumerate(parts):
        mine = slice(k * rows, (k + 1) * rows)
        stats = kernels.clip_stats((sums[k].row_off, sums[k].diag), cols, shift)
        assert not stats.flag
        for weights in ((1.0, 1.0), (1.0, 0.0), (0.0, 1.0)):
            g = weights[0] * p[mine] + weights[1] * q[mine]
            other = weights[::-1]
            h = other[0] * p[mine] + other[1] * q[mine]
            found = kernels.clip_products(
                part, text, s, stats, mine.start, weights=(weights, other), dots=True, workspace_bytes=1
            )
            assert error(found.image, g @ text.double()) <= bound
            assert error(found.text, h.T @ part.double()) <= bound
            for value, softmax in zip(found.dots, (p[mine], q[mine]), strict=True):
                terms = softmax * dots[mine]  # they cancel
                assert abs(float(value) - float(terms.sum())) <= 1e-6 * float(terms.abs().sum())
        _column_blocks(part, text, s, stats, mine.start, rows, (p + q)[mine], bound)


def _column_blocks(
    part: Tensor, text: Tensor, s: Tensor, stats: ClipStats, first: int, rows: int, g: Tensor, bound: float
) -> None:
    total = torch.zeros(part.shape, dtype=torch.float32)
    for begin in range(0, len(text), rows):
        block = slice(begin, begin + rows)
        narrowed = stats._replace(cols=stats.cols[:, block])
        found = kernels.clip_products(part, text[block], s, narrowed, first - begin, into_image=total, dots=True)
        assert found.image is total
        assert error(found.text, g[:, block].T @ part.double()) <= bound
        only = kernels.clip_products(part, text[block], s, narrowed, first - begin, weights=(None, BOTH))
        assert only.image is None
        assert only.dots is None
        assert torch.equal(only.text, found.text)
    assert error(total, g @ text.double()) <= bound
    none = kernels.clip_products(part, text, s, stats, first, weights=(BOTH, None))
    assert none.text is None


def clip_online(rows: int) -> None:
    """The running maximum gives what logsumexp gives, with positives inside, partly outside, and nowhere."""
    image, text = features(rows, 24)[0], features(50, 24, seed=3)[1]
    z = 30 * image.double() @ text.double().T
    for first in (0, 20, -5, 50, -rows):
        kept = z.clone()
        where = torch.arange(rows) + first
        inside = (where >= 0) & (where < 50)
        kept[torch.arange(rows)[inside], where[inside]] = -torch.inf
        args = (image, text, torch.tensor(30.0))
        *sums, positives = kernels.clip_online(*args, torch.ones((), dtype=torch.int32), first)
        by_row, by_col = (x[0] + x[1].log2() for x in sums)
        log2e = 1.4426950408889634
        assert torch.allclose(by_row, kept.logsumexp(1) * log2e, rtol=1e-6, atol=1e-6)
        assert torch.allclose(by_col, kept.logsumexp(0) * log2e, rtol=1e-6, atol=1e-6)
        assert bool((positives == -torch.inf).eq(~inside).all())
        # and the one-sweep form agrees
        shift = kernels.clip_shift(kernels.clip_norms(image), kernels.clip_norms(text), args[2], 64)
        sums = kernels.clip_sums(*args, shift, first)
        assert torch.allclose(sums.row_off.double().log2() + shift, by_row, atol=1e-5)
        assert torch.allclose(sums.col_off.double().log2() + shift, by_col, atol=1e-5)
        assert torch.equal(sums.diag == -torch.inf, ~inside)


def siglip(n: int, d: int, scale: float, bias: float | None, dtype: str = "float32", chunk_rows: int = 0) -> None:
    """Loss, products and dot sums against float64 autograd."""
    image, text = features(n, d, dtype=dtype)
    i, t = (x.double().requires_grad_() for x in (image, text))
    s = torch.tensor(scale, dtype=torch.float64, requires_grad=True)
    b = torch.tensor(bias or 0.0, dtype=torch.float64, requires_grad=True)
    sign = 2 * torch.eye(n, dtype=torch.float64) - 1
    wanted = -logsigmoid(sign * (s * i @ t.T + b)).sum()
    wanted.backward()
    given = None if bias is None else torch.tensor(bias)
    args = (image, text, torch.tensor(scale), given)
    with poisoned():
        loss, found = kernels.siglip_block(*args, workspace_bytes=chunk_rows * n * image.element_size() or 1 << 30)
    bound = BOUNDS[dtype]
    assert error(loss, wanted.detach()) <= 2e-6
    assert error(found.image * scale, i.grad) <= bound
    assert error(found.text * scale, t.grad) <= bound
    assert error(found.dots[0], s.grad) <= 4e-6
    assert error(found.dots[1], b.grad) <= 4e-6
    again, same = kernels.siglip_block(*args, workspace_bytes=chunk_rows * n * image.element_size() or 1 << 30)
    assert torch.equal(loss, again)
    assert torch.equal(found.image, same.image)
    alone, nothing = kernels.siglip_block(*args, grad=False)
    assert error(alone, wanted.detach()) <= 2e-6
    assert nothing == (None, None, None)


def siglip_blocks() -> None:
    """Blocks of columns with and without positives add up to the whole."""
    image, text = features(37, 24)
    s, b = torch.tensor(20.0), torch.tensor(-8.0)
    whole, products = kernels.siglip_block(image, text, s, b)
    total, loss, dots = torch.zeros(37, 24), 0.0, torch.zeros(2)
    for begin, end in ((0, 10), (10, 33), (33, 37)):
        part, found = kernels.siglip_block(image, text[begin:end], s, b, -begin, into_image=total)
        assert found.image is total
        assert error(found.text, products.text[begin:end]) <= 1e-6
        loss, dots = loss + float(part), dots + found.dots
    assert abs(loss / float(whole) - 1) < 1e-6
    assert error(total, products.image) <= 1e-6
    assert error(dots, products.dots) <= 1e-6
    negatives, _ = kernels.siglip_block(image, text, s, b, 37)
    z = 20 * image.double() @ text.double().T - 8
    assert error(negatives, torch.nn.functional.softplus(z).sum()) <= 2e-6


CASES: dict[str, Callable[..., None]] = {
    f.__name__: f
    for f in (clip, clip_tiles, clip_repeats, clip_flag, clip_not_finite, clip_odd_features, clip_views, clip_ranks,
              clip_online, siglip, siglip_blocks)
}  # fmt: skip


def main() -> None:
    """Answers requests until the input ends."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore", RuntimeWarning)  # numpy, on infinities that are meant
    answer_cases(CASES)


if __name__ == "__main__":
    main()
