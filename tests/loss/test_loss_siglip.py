"""The SigLIP loss of one process against the plain pairwise loss in float64."""

from __future__ import annotations

import math

import loss_reference as reference
import pytest

torch = pytest.importorskip("torch")

import dcfast  # noqa: E402
from dcfast.loss.torch_backend import tiles  # noqa: E402

DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


def check(image, text, scale, bias, *, dtype=torch.float32, upstream=1.0) -> list[torch.Tensor]:
    """Compares loss and gradients of features, scale and bias with float64; returns dcfast's."""
    scalar = torch.float64 if dtype == torch.float64 else torch.float32
    inputs = (image, text, torch.tensor(scale, dtype=scalar), torch.tensor(bias, dtype=scalar))
    found = reference.run(dcfast.siglip_loss, *inputs, upstream=upstream)
    wanted = reference.exact(reference.naive_siglip, *inputs, upstream=upstream)
    plain = reference.run(reference.naive_siglip, *inputs, upstream=upstream)
    assert found[0].dtype == scalar
    assert [g.dtype for g in found[1:3]] == [dtype, dtype]
    reference.assert_close(found, wanted, dtype, plain)
    return found


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("rows", "width"), [(1, 8), (2, 17), (31, 40), (127, 96), (128, 33), (129, 500), (257, 64)])
def test_equals_float64(rows: int, width: int, dtype: torch.dtype) -> None:
    check(*reference.features(rows, width, dtype), 10.0, -10.0, dtype=dtype)


@pytest.mark.parametrize(
    ("scale", "bias"), [(0.0, -10.0), (1e-3, 0.0), (100.0, -16.0), (100.0, 5.0), (-5.0, -2.0), (300.0, -120.0)]
)
def test_scales_and_biases(scale: float, bias: float) -> None:
    check(*reference.features(67, 24), scale, bias)


def test_the_tail_of_unlikely_pairs_is_not_lost() -> None:
    # at these logits 1 + exp(z) is 1 in float32
    image, text = reference.features(50, 32)
    found = reference.run(dcfast.siglip_loss, image, text, torch.tensor(1.0), torch.tensor(-25.0))
    wanted = reference.exact(reference.naive_siglip, image, text, torch.tensor(1.0), torch.tensor(-25.0))
    reference.assert_close(found, wanted, torch.float32)


def test_no_bias_is_a_bias_of_zero() -> None:
    image, text = reference.features(20, 8)
    assert torch.equal(dcfast.siglip_loss(image, text, 5.0), dcfast.siglip_loss(image, text, 5.0, 0.0))


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("side", [0, 1])
@pytest.mark.parametrize("rows", [20, 1])
def test_what_is_not_finite_is_not_hidden(bad: float, side: int, rows: int) -> None:
    pair = reference.features(rows, 8)
    pair[side][rows // 2, 3] = bad
    assert not math.isfinite(float(dcfast.siglip_loss(*pair, 10.0, -10.0)))


def test_only_some_inputs_need_a_gradient() -> None:
    inputs = (*reference.features(50, 16), torch.tensor(7.0), torch.tensor(-3.0))
    everything = reference.run(dcfast.siglip_loss, *inputs)
    for wanted in ((0,), (1,), (2,), (3,), (0, 3)):
        leaves = [x.clone().requires_grad_(k in wanted) for k, x in enumerate(inputs)]
        dcfast.siglip_loss(*leaves).backward()
        for k, leaf in enumerate(leaves):
            assert (leaf.grad is not None) == (k in wanted)
            if leaf.grad is not None:
                torch.testing.assert_close(leaf.grad, everything[1 + k], rtol=1e-5, atol=1e-8)
    with torch.no_grad():
        assert torch.equal(dcfast.siglip_loss(*inputs), everything[0])


def test_the_graph_can_be_used_twice_and_upstream_counts() -> None:
    image, text = (x.requires_grad_() for x in reference.features(30, 16))
    loss = dcfast.siglip_loss(image, text, 20.0, -5.0)
    (loss * 3).backward(retain_graph=True)
    first = image.grad.clone()
    loss.backward()
    torch.testing.assert_close(image.grad, first * 4 / 3)
    check(*reference.features(30, 16, torch.float16), 20.0, -5.0, dtype=torch.float16, upstream=1024.0)


def test_two_runs_are_bit_equal() -> None:
    inputs = (*reference.features(700, 48), torch.tensor(33.0), torch.tensor(-10.0))
    first, second = (reference.run(dcfast.siglip_loss, *inputs) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("side", [1, 2, 50, 99])
def test_any_size_of_tiles(side: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiles, "_TILE_BYTES", 8 * side * side)
    check(*reference.features(40 if side < 50 else 100, 16), 25.0, -12.0)
    monkeypatch.setattr(tiles, "_TILE_BYTES", 4 * max(side, 20) ** 2)
    check(*reference.features(300, 16), 25.0, -12.0)


@pytest.mark.parametrize("rows", [8, 60, 300, 700])
@pytest.mark.parametrize("noise", [0.3, 0.05])
@pytest.mark.parametrize(("scale", "bias"), [(100.0, -90.0), (117.0, -17.0), (10.0, -10.0)])
def test_the_bar_holds_however_well_a_batch_is_fitted(rows: int, noise: float, scale: float, bias: float) -> None:
    """Positives carry the gradient then, and the rounding of their logits of 100 does not average out."""
    inputs = (*reference.features(rows, 64, noise=noise), torch.tensor(scale), torch.tensor(bias))
    reference.assert_bar(dcfast.siglip_loss, reference.naive_siglip, *inputs)


def test_the_scales_gradient_where_it_nearly_cancels() -> None:
    inputs = (*reference.features(60, 512, noise=1e9), torch.tensor(100.0), torch.tensor(-90.0))
    wanted = reference.exact(reference.naive_siglip, *inputs)
    assert abs(float(wanted[3])) < 0.01
    reference.assert_close(reference.run(dcfast.siglip_loss, *inputs), wanted, torch.float32)
