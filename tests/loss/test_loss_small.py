"""Small batches have a way of their own on the CPU: the same numbers, and only where it serves."""

from __future__ import annotations

import os
import subprocess
import sys
from functools import partial

import loss_reference as reference
import pytest

torch = pytest.importorskip("torch")

import dcfast  # noqa: E402
from dcfast.loss import small  # noqa: E402
from dcfast.loss.backend import SMALL  # noqa: E402

LOSSES = {"clip": dcfast.clip_loss, "siglip": partial(dcfast.siglip_loss, logit_bias=-10.0)}


@pytest.fixture(params=LOSSES)
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


def count_calls(monkeypatch: pytest.MonkeyPatch, kind: str) -> list[bool]:
    """Whether each call of the small batches' loss served."""
    served: list[bool] = []
    loss = getattr(small, f"{kind}_loss")

    def counted(*inputs: torch.Tensor) -> torch.Tensor | None:
        value = loss(*inputs)
        served.append(value is not None)
        return value

    monkeypatch.setattr(small, f"{kind}_loss", counted)
    return served


def both_ways(kind: str, inputs: tuple[torch.Tensor, ...], monkeypatch: pytest.MonkeyPatch) -> float:
    """The largest relative difference of loss and gradients of the two ways."""
    served = count_calls(monkeypatch, kind)
    found = reference.run(LOSSES[kind], *inputs)
    assert served == [True]
    monkeypatch.setattr(small, "is_small", lambda *_: False)
    general = reference.run(LOSSES[kind], *inputs)
    assert served == [True]
    assert [x.dtype for x in found] == [x.dtype for x in general]
    return max(reference.errors(found, general))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("rows", [1, 2, 64, SMALL])
def test_both_ways_are_one(kind: str, rows: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = (*reference.features(rows, 48, dtype), torch.tensor(14.3, dtype=torch.float64))
    assert both_ways(kind, inputs, monkeypatch) < reference.BARS[dtype]


@pytest.mark.parametrize(
    ("change", "serves"), [({}, True), ({"rows": SMALL + 1}, None), ({"scale": 0.0}, True), ({"size": 9.0}, False)]
)
def test_where_it_serves(
    kind: str, change: dict[str, float], serves: bool | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    served = count_calls(monkeypatch, kind)
    image, text = reference.features(int(change.get("rows", 8)), 16)
    size = change.get("size", 1.0)
    # features that are not normalised: logits further apart than exponentials of float64 bear; softplus bears them
    expected = True if kind == "siglip" and "size" in change else serves
    loss = LOSSES[kind](image * size, text * size, torch.tensor(change.get("scale", 30.0)))
    assert served == ([] if expected is None else [expected])
    assert torch.isfinite(loss)


def test_what_needs_a_gradient_gets_one(kind: str) -> None:
    image, text = reference.features(8, 16)
    scale = torch.tensor(14.3)
    whole = reference.run(LOSSES[kind], image, text, scale)
    for wanted in range(3):
        inputs = [x.clone().requires_grad_(k == wanted) for k, x in enumerate((image, text, scale))]
        LOSSES[kind](*inputs).backward()
        assert [x.grad is not None for x in inputs] == [k == wanted for k in range(3)]
        assert torch.equal(inputs[wanted].grad, whole[1 + wanted])
    with torch.no_grad():
        assert not LOSSES[kind](image.requires_grad_(), text, scale).requires_grad


def test_no_second_derivative(kind: str) -> None:
    """However it is asked for: a penalty on gradients must not vanish."""
    image, text = reference.features(8, 16)
    image.requires_grad_()

    def loss(x: torch.Tensor) -> torch.Tensor:
        return LOSSES[kind](x, text, 14.3)

    def penalty() -> torch.Tensor:
        (first,) = torch.autograd.grad(loss(image), image, create_graph=True)
        return first.pow(2).sum()

    asked = (
        lambda: penalty().backward(),
        lambda: torch.autograd.grad(penalty(), image, allow_unused=True),
        lambda: (loss(image) + penalty()).backward(inputs=[image]),
        lambda: torch.autograd.functional.hessian(loss, image),
        lambda: torch.autograd.functional.hvp(loss, image, torch.ones_like(image)),
    )
    for ask in asked:
        with pytest.raises(RuntimeError, match="the losses have no second derivative"):
            ask()


@pytest.mark.parametrize("create_graph", [False, True])
def test_batched_gradients(kind: str, *, create_graph: bool) -> None:
    image, text = (x.requires_grad_() for x in reference.features(8, 16))
    whole = torch.autograd.grad(LOSSES[kind](image, text, 14.3), (image, text))
    many = torch.autograd.grad(
        LOSSES[kind](image, text, 14.3), (image, text), torch.arange(3.0), is_grads_batched=True,
        create_graph=create_graph,
    )  # fmt: skip
    for one, three in zip(whole, many, strict=True):
        torch.testing.assert_close(three, torch.arange(3.0)[:, None, None] * one)


def test_a_loss_beyond_float32_is_infinite() -> None:
    image = torch.randn(64, 16, generator=torch.Generator().manual_seed(0)) * 1e20
    image.requires_grad_()
    loss = dcfast.siglip_loss(image, image, torch.tensor(10.0), torch.tensor(-10.0))
    assert loss.item() == float("inf")
    loss.backward()
    assert torch.isfinite(image.grad).all()


@pytest.mark.filterwarnings("ignore:`torch.jit.trace` is deprecated")
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
def test_tracers_see_the_operator(kind: str) -> None:
    from torch._subclasses import FakeTensorMode
    from torch.fx.experimental.proxy_tensor import make_fx

    pairs = reference.features(8, 16), reference.features(8, 16, seed=1)
    calls = [make_fx(lambda a, b: LOSSES[kind](a, b, 10.0))(*pairs[0])]
    if kind == "clip":  # torch.jit.trace takes no list of bools, which SigLIP's operator has
        calls.append(torch.jit.trace(lambda a, b: LOSSES[kind](a, b, 10.0), pairs[0], check_trace=False))
    for call in calls:
        torch.testing.assert_close(call(*pairs[1]), LOSSES[kind](*pairs[1], 10.0))
    with FakeTensorMode():
        assert LOSSES[kind](torch.empty(8, 8), torch.empty(8, 8), torch.tensor(10.0)).shape == ()


def test_twice_backward_adds_up(kind: str) -> None:
    image, text = reference.features(8, 16)
    image.requires_grad_()
    loss = LOSSES[kind](image, text, 14.3)
    loss.backward(retain_graph=True)
    once = image.grad.clone()
    loss.backward()
    assert torch.equal(image.grad, 2 * once)


def test_the_bias_has_its_gradient() -> None:
    image, text = reference.features(8, 16)
    grads = []
    for general in (False, True):
        bias = torch.tensor(-10.0, requires_grad=True)
        with pytest.MonkeyPatch.context() as patch:
            if general:
                patch.setattr(small, "is_small", lambda *_: False)
            dcfast.siglip_loss(image, text, 14.3, bias).backward()
        grads.append(float(bias.grad))
    assert grads[0] == pytest.approx(grads[1], rel=2e-6)


def test_logits_are_refused_unless_square() -> None:
    import numpy as np
    from dcfast._core import similarity

    for size, rows in ((0, 0), (6, 2), (4, 3)):
        with pytest.raises(ValueError, match=r"give n \* n dot products"):
            similarity.clip_of_dots(np.zeros(size), rows, 1.0, True)


@pytest.mark.parametrize("spread", [1e-3, 1.0, 30.0, 700.0])
@pytest.mark.parametrize("rows", [1, 2, 3, 16, 17, 67])
def test_softplus_of_each_logit(rows: int, spread: float) -> None:
    import numpy as np
    from dcfast._core import similarity

    scale, bias = 14.3, -0.3
    dots = np.random.default_rng(rows).uniform(-1, 1, (rows, rows)) * spread / scale
    away = 1 - 2 * np.eye(rows)
    wrong = away * (scale * dots + bias)
    slope = away * np.exp(-np.logaddexp(0, -wrong)) / rows
    expected = np.logaddexp(0, wrong).sum() / rows, (slope * dots).sum(), slope.sum()
    terms = np.logaddexp(0, wrong).sum() / rows, np.abs(slope * dots).sum(), np.abs(slope).sum()
    *sums, gradient = similarity.siglip_of_dots(dots.reshape(-1), rows, scale, bias, True)
    for found, right, size in zip(sums, expected, terms, strict=True):
        assert abs(found - right) < 1e-10 * size
    np.testing.assert_allclose(gradient.reshape(rows, rows), slope * scale, rtol=1e-12)
    assert similarity.siglip_of_dots(dots.reshape(-1), rows, scale, bias, False)[0] == sums[0]
    *_, narrow = similarity.siglip_of_dots32(dots.reshape(-1).astype(np.float32), rows, scale, bias, True)
    assert narrow.dtype == np.float32
    np.testing.assert_allclose(narrow, gradient, rtol=1e-4, atol=1e-37)  # the least normal number of float32
    for wrong_one in (np.nan, np.inf, -np.inf):
        dots[-1, -1] = wrong_one
        assert similarity.siglip_of_dots(dots.reshape(-1), rows, scale, bias, True) is None


def test_every_machine_has_the_same_numbers() -> None:
    code = (
        "import numpy as np\n"
        "from dcfast._core import similarity\n"
        "dots = np.random.default_rng(1).standard_normal(33 * 33) * 9\n"
        "*sums, gradient = similarity.siglip_of_dots(dots, 33, 14.3, -10.0, True)\n"
        "print([x.hex() for x in sums], gradient.tobytes().hex())"
    )
    found = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "DCFAST_ISA": isa},
            check=True,
            capture_output=True,
            text=True,
            timeout=60,
        ).stdout
        for isa in ("", "baseline")
    }
    assert len(found) == 1
    assert len(found.pop()) > 16 * 33 * 33


def test_it_is_where_the_features_are(kind: str) -> None:
    image, text = reference.features(8, 16)
    with torch.device("meta"):
        loss = LOSSES[kind](image.requires_grad_(), text, torch.tensor(14.3, device="cpu"))
    assert loss.device.type == "cpu"
    loss.backward()


def test_a_transform_around_it_that_it_takes_no_part_in(kind: str) -> None:
    image, text = reference.features(8, 16)
    expected = LOSSES[kind](image, text, torch.tensor(14.3))
    scaled = torch.vmap(lambda x: x * LOSSES[kind](image, text, torch.tensor(14.3)))(torch.tensor([1.0, 2.0]))
    torch.testing.assert_close(scaled, torch.stack([expected, 2 * expected]))
