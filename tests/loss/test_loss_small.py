"""Small batches have a way of their own on the CPU: the same numbers, and only where it serves."""

from __future__ import annotations

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
    ("change", "serves"), [({}, True), ({"rows": SMALL + 1}, None), ({"scale": 0.0}, False), ({"size": 9.0}, False)]
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
    image, text = reference.features(8, 16)
    image.requires_grad_()
    (first,) = torch.autograd.grad(LOSSES[kind](image, text, 14.3), image, create_graph=True)
    with pytest.raises(RuntimeError):
        first.sum().backward()


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
        with pytest.raises(ValueError, match=r"give n \* n logits"):
            similarity.clip_of_logits(np.zeros(size), rows, True)
