"""The CLIP loss of one process against two plain cross entropies in float64, on ordinary and on hard inputs."""

from __future__ import annotations

import math

import loss_reference as reference
import pytest

torch = pytest.importorskip("torch")

import dcfast  # noqa: E402
from dcfast.loss import backend  # noqa: E402
from dcfast.loss.torch_backend import forward, tiles  # noqa: E402
from dcfast.loss.torch_backend import gradient as clip_gradient  # noqa: E402
from torch.utils._python_dispatch import TorchDispatchMode  # noqa: E402

DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


def check(image, text, scale, *, dtype=torch.float32, upstream=1.0) -> list[torch.Tensor]:
    """Compares loss and gradients of features and scale with float64; returns dcfast's."""
    inputs = (image, text, torch.tensor(scale, dtype=torch.float64 if dtype == torch.float64 else torch.float32))
    found = reference.run(dcfast.clip_loss, *inputs, upstream=upstream)
    wanted = reference.exact(reference.naive_clip, *inputs, upstream=upstream)
    plain = reference.run(reference.naive_clip, *inputs, upstream=upstream)
    assert found[0].dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert [g.dtype for g in found[1:3]] == [dtype, dtype]
    reference.assert_close(found, wanted, dtype, plain)
    return found


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("rows", "width"),
    [(1, 8), (2, 17), (3, 33), (31, 40), (64, 64), (127, 96), (128, 500), (129, 512), (257, 640), (1000, 33)],
)
def test_equals_float64(rows: int, width: int, dtype: torch.dtype) -> None:
    check(*reference.features(rows, width, dtype), 14.2857, dtype=dtype)


@pytest.mark.parametrize("width", [768, 1024])
def test_wide_features(width: int) -> None:
    check(*reference.features(130, width), 14.2857)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("scale", [0.0, 1e-3, 1.0, 100.0, -5.0, 1000.0])
def test_scales(scale: float, dtype: torch.dtype) -> None:
    check(*reference.features(67, 24, dtype), scale, dtype=dtype)


def test_the_bars_hold_without_the_plain_loss() -> None:
    # no allowance for what a plain loss of the same precision would err
    image, text = reference.features(400, 512)
    for dtype in DTYPES:
        inputs = (image.to(dtype), text.to(dtype), torch.tensor(14.2857, dtype=torch.float64))
        found = reference.run(dcfast.clip_loss, *inputs)
        reference.assert_close(found, reference.exact(reference.naive_clip, *inputs), dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_fitted_batch_keeps_its_digits(dtype: torch.dtype) -> None:
    # 1 - P_ii is small: a difference of rounded numbers would have lost it
    inputs = (*reference.features(96, 64, dtype, noise=0.7), torch.tensor(25.0))
    found = reference.run(dcfast.clip_loss, *inputs, upstream=4096.0)
    wanted = reference.exact(reference.naive_clip, *inputs, upstream=4096.0)
    assert 0 < wanted[0] < 1e-3
    assert max(reference.errors(found, wanted)) < reference.BARS[dtype]


@pytest.mark.parametrize("cosine", [0.0, 0.3, 0.6, 0.9])
@pytest.mark.parametrize("scale", [14.3, 30.0, 50.0, 100.0])
@pytest.mark.parametrize(("rows", "width"), [(3, 64), (64, 64), (257, 64), (300, 512), (700, 256)])
def test_the_bar_holds_however_well_a_batch_is_fitted(rows: int, width: int, scale: float, cosine: float) -> None:
    """Up to 256 pairs float64 does the work and 2e-6 holds; above, open_clip's own error counts."""
    noise = (1 / cosine**2 - 1) ** 0.5 if cosine else 1e6
    for seed in range(3 if rows < 300 else 1):
        inputs = (*reference.features(rows, width, noise=noise, seed=seed), torch.tensor(scale))
        wanted = reference.exact(reference.fitted_clip, *inputs)
        if float(wanted[0]) < 1e-33:  # below it gradients are denormal numbers
            continue
        plain = reference.run(reference.naive_clip, *inputs) if rows > 256 else None
        found = reference.run(dcfast.clip_loss, *inputs)
        reference.assert_close(found, wanted, torch.float32, plain)
        # what open_clip loses altogether is right to five digits here
        assert max(reference.errors(found, wanted)) < 5e-5


def test_the_scales_gradient_where_it_nearly_cancels() -> None:
    for seed in range(20):
        inputs = (*reference.features(4, 24, noise=1.0, seed=seed), torch.tensor(14.3))
        found, wanted = reference.run(dcfast.clip_loss, *inputs), reference.exact(reference.fitted_clip, *inputs)
        reference.assert_close(found, wanted, torch.float32)


def test_the_order_of_equal_rivals_does_not_matter() -> None:
    image, text = reference.features(300, 64, noise=0.1)
    image[10:200], text[10:200] = image[10], text[10]
    inputs = (image, text, torch.tensor(60.0))
    found, wanted = reference.run(dcfast.clip_loss, *inputs), reference.exact(reference.fitted_clip, *inputs)
    assert float(found[0]) == pytest.approx(float(wanted[0]), rel=2e-6)
    # texts that are equal pull and push alike: what is left of the gradients is rounding, of numbers of about 0.2
    assert max(float((x - y).abs().max()) for x, y in zip(found[1:], wanted[1:], strict=True)) < 2e-6
    order = torch.randperm(300, generator=torch.Generator().manual_seed(1))
    moved = reference.run(dcfast.clip_loss, image[order], text[order], inputs[2])
    assert float(moved[0]) == pytest.approx(float(found[0]), rel=1e-6)


def test_features_of_one_number() -> None:
    image = torch.randn(1500, 1, generator=torch.Generator().manual_seed(0)).sign()
    text = torch.ones(1500, 1)
    text[:30] = -1
    inputs = (image, text, torch.tensor(14.3))
    wanted = reference.exact(reference.naive_clip, *inputs)
    # products with a vector add one after the other
    assert max(reference.errors(reference.run(dcfast.clip_loss, *inputs), wanted)) < 2e-5


def test_half_precision_products_beyond_its_range() -> None:
    image, text = reference.features(33, 16, torch.float16, norm=1000.0)
    assert (image.float() @ text.float().T).abs().max() > 65504
    inputs = (image, text, torch.tensor(1e-4))
    found = reference.run(dcfast.clip_loss, *inputs)
    reference.assert_close(found, reference.exact(reference.naive_clip, *inputs), torch.float16)


def test_zero_rows_and_ties() -> None:
    image, text = reference.features(40, 24)
    image[3] = 0
    text[7] = 0
    check(image, text, 30.0)
    same = image[:1].expand(40, 24).contiguous()
    found = check(same, same, 50.0)
    assert float(found[0]) == pytest.approx(math.log(40), rel=1e-6)


@pytest.mark.parametrize("scale", [50.0, 100.0, 1000.0])
def test_all_opposite(scale: float) -> None:
    # every logit lies at the low end of what the norms allow: sums with a common shift would vanish
    image, text = reference.features(150, 32)
    image = image[:1].expand(150, 32).contiguous()
    text = torch.nn.functional.normalize(-image + 0.01 * text, dim=1)
    stats = forward.clip_forward(image, text, torch.tensor(scale))
    assert int(stats.flag) == (scale > 60)
    check(image, text, scale)


def test_one_pair() -> None:
    found = check(*reference.features(1, 16), 100.0)
    assert [float(x.abs().max()) for x in found] == [0, 0, 0, 0]


def test_bias_has_no_effect_and_an_exactly_zero_gradient() -> None:
    image, text = reference.features(20, 8)
    found = reference.run(dcfast.clip_loss, image, text, torch.tensor(9.0), torch.tensor(-10.0))
    assert float(found[-1]) == 0
    assert torch.equal(found[0], dcfast.clip_loss(image, text, 9.0))
    assert float(dcfast.clip_loss(image, text, 9.0, torch.tensor(math.inf)).isnan())


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("place", [(0, 0), (19, 7)])
@pytest.mark.parametrize("side", [0, 1])
@pytest.mark.parametrize("rows", [20, 1])
def test_what_is_not_finite_is_not_hidden(bad: float, place: tuple[int, int], side: int, rows: int) -> None:
    pair = reference.features(rows, 8)
    pair[side][min(place[0], rows - 1), place[1]] = bad
    assert not math.isfinite(float(dcfast.clip_loss(*pair, 10.0)))


@pytest.mark.parametrize(
    "view",
    [
        lambda x: x.t().contiguous().t(),
        lambda x: torch.cat([x, x], 1)[:, : x.shape[1]],
        lambda x: torch.stack([x, x], 2)[:, :, 0],
        lambda x: torch.cat([x.new_zeros(1), x.flatten()])[1:].view(x.shape),
        lambda x: x.flip(0).flip(0)[:],
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_strided_and_unaligned_views(view, dtype: torch.dtype) -> None:
    image, text = reference.features(37, 20, dtype)
    wanted = reference.run(dcfast.clip_loss, image, text, torch.tensor(12.0))
    found = reference.run(lambda i, t, s: dcfast.clip_loss(view(i), view(t), s), image, text, torch.tensor(12.0))
    for a, b in zip(found, wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6 if dtype == torch.float32 else 1e-2, atol=1e-7)


def test_expanded_features() -> None:
    image, text = reference.features(9, 8)
    row = image[:1].clone().requires_grad_()
    dcfast.clip_loss(row.expand(9, 8), text, 5.0).backward()
    plain = image[:1].clone().double().requires_grad_()
    reference.naive_clip(plain.expand(9, 8), text.double(), torch.tensor(5.0)).backward()
    reference.assert_close([row.grad], [plain.grad], torch.float32)


@pytest.mark.parametrize("pair", [reference.features(50, 16), reference.cone(300, 16, common=0.9, pair=0.5)])
def test_only_some_inputs_need_a_gradient(pair: tuple[torch.Tensor, torch.Tensor]) -> None:
    image, text = pair
    scale = torch.tensor(7.0)
    everything = reference.run(dcfast.clip_loss, image, text, scale)
    for wanted in ((0,), (1,), (2,), (0, 2), (1, 2)):
        inputs = [x.clone().requires_grad_(k in wanted) for k, x in enumerate((image, text, scale))]
        dcfast.clip_loss(*inputs).backward()
        for k, x in enumerate(inputs):
            assert (x.grad is not None) == (k in wanted)
            if x.grad is not None:
                torch.testing.assert_close(x.grad, everything[1 + k], rtol=1e-5, atol=1e-8)


def test_the_graph_can_be_used_twice_and_upstream_counts() -> None:
    image, text = (x.requires_grad_() for x in reference.features(30, 16))
    loss = dcfast.clip_loss(image, text, 20.0)
    (loss * 3).backward(retain_graph=True)
    first = image.grad.clone()
    loss.backward()
    torch.testing.assert_close(image.grad, first * 4 / 3)
    check(*reference.features(30, 16), 20.0, upstream=65536.0)


@pytest.mark.parametrize(
    "pair",
    [reference.features(700, 48), reference.features(700, 48, norm=20), reference.cone(700, 48, common=0.9, pair=0)],
)
def test_two_runs_are_bit_equal(pair: tuple[torch.Tensor, torch.Tensor]) -> None:
    inputs = (*pair, torch.tensor(33.0))
    first, second = (reference.run(dcfast.clip_loss, *inputs) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("side", [1, 2, 50, 99, 100, 299])
@pytest.mark.parametrize("scale", [25.0, 1000.0])
def test_any_size_of_tiles(side: int, scale: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiles, "_TILE_BYTES", 8 * side * side)
    check(*reference.features(40 if side < 50 else 100, 16), scale)
    monkeypatch.setattr(tiles, "_TILE_BYTES", 4 * max(side, 20) ** 2)
    inputs = (*reference.cone(300, 16, common=0.9, pair=0.5), torch.tensor(scale))
    reference.assert_bar(dcfast.clip_loss, reference.naive_clip, *inputs)


@pytest.mark.parametrize("pair", [reference.features(300, 16), reference.cone(300, 16, common=0.9, pair=0.5)])
def test_workspaces_are_filled_before_they_are_read(
    pair: tuple[torch.Tensor, torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    image, text = pair
    wanted = reference.run(dcfast.clip_loss, image, text, torch.tensor(25.0))
    empty = torch.Tensor.new_empty

    def poisoned(self: torch.Tensor, *args: object, **kwargs: object) -> torch.Tensor:
        made = empty(self, *args, **kwargs)
        return made.fill_(math.nan) if made.is_floating_point() else made

    monkeypatch.setattr(torch.Tensor, "new_empty", poisoned)
    found = reference.run(dcfast.clip_loss, image, text, torch.tensor(25.0))
    assert all(torch.equal(a, b) for a, b in zip(found, wanted, strict=True))


class Largest(TorchDispatchMode):
    """Notes the bytes of the largest tensor that any operation makes."""

    def __init__(self) -> None:
        super().__init__()
        self.num_bytes = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        made = [x for x in (out if isinstance(out, (tuple, list)) else (out,)) if isinstance(x, torch.Tensor)]
        self.num_bytes = max([self.num_bytes, *(x.untyped_storage().nbytes() for x in made)])
        return out


@pytest.mark.parametrize("dots", [False, True])
def test_memory_is_bounded_by_tiles(dots: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    # the largest tensors made are two tiles, and what is kept, never the matrix of logits
    monkeypatch.setattr(tiles, "_TILE_BYTES", 1 << 17)
    monkeypatch.setattr(backend, "KEPT_BYTES", 1 << 18)
    image, text = reference.features(2000, 8)
    scale = torch.tensor(20.0)
    with Largest() as largest:
        stats = forward.clip_forward(image, text, scale)
        clip_gradient.clip_products(image, text, scale, stats, dots=dots)
    assert 0 < largest.num_bytes <= 2 * (1 << 17) < 2000 * 2000 * 4 / 50


@pytest.mark.parametrize("side", [40, 100, 300])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_what_is_kept_of_the_forward_pass_changes_no_bit(
    side: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tiles, "_TILE_BYTES", (8 if dtype == torch.float64 else 4) * side * side)
    inputs = (*reference.features(300, 32, dtype), torch.tensor(80.0))
    found = []
    for kept in (0, 1 << 17, 1 << 23):
        monkeypatch.setattr(backend, "KEPT_BYTES", kept)
        found.append(reference.run(dcfast.clip_loss, *inputs))
    assert all(torch.equal(a, b) for others in found[1:] for a, b in zip(found[0], others, strict=True))


@pytest.mark.parametrize(("images", "texts"), [(50, 50), (1, 40), (40, 1), (130, 33)])
@pytest.mark.parametrize("scale", [14.0, -14.0, 1000.0, 0.0])
def test_clip_lse(images: int, texts: int, scale: float) -> None:
    image, text = reference.features(130, 16)
    image, text = image[:images], text[:texts]
    rows, cols = dcfast.clip_lse(image.requires_grad_(), text, scale)
    logits = scale * image.detach().double() @ text.double().T
    atol = 1e-4 if scale == 1000 else 1e-5  # a unit of rounding of the logits themselves
    torch.testing.assert_close(rows.double(), logits.logsumexp(1), rtol=1e-6, atol=atol)
    torch.testing.assert_close(cols.double(), logits.logsumexp(0), rtol=1e-6, atol=atol)
    assert not rows.requires_grad


def test_clip_lse_gives_the_loss_of_each_pair() -> None:
    image, text = reference.features(80, 16)
    rows, cols = dcfast.clip_lse(image, text, 10.0)
    per_pair = (rows + cols) / 2 - 10 * (image * text).sum(1)
    torch.testing.assert_close(per_pair.mean(), dcfast.clip_loss(image, text, 10.0), rtol=1e-6, atol=1e-6)
