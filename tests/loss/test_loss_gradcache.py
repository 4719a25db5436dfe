"""A batch in pieces gives the gradients of the batch at once."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import loss_reference as reference
import pytest

torch = pytest.importorskip("torch")

import dcfast  # noqa: E402

Tensor = torch.Tensor


class Towers(torch.nn.Module):
    """Two small towers with dropout, a logit scale and a bias, as open_clip's models have them."""

    def __init__(self, dropout: float) -> None:
        super().__init__()
        self.image = torch.nn.Sequential(torch.nn.Linear(12, 16), torch.nn.GELU(), torch.nn.Dropout(dropout))
        self.text = torch.nn.Sequential(torch.nn.Linear(12, 16), torch.nn.GELU())
        self.logit_scale = torch.nn.Parameter(torch.tensor(2.0))
        self.logit_bias = torch.nn.Parameter(torch.tensor(-3.0))

    def forward(self, pair: tuple[Tensor, Tensor]) -> tuple[Tensor, ...]:
        encoded = [tower(x) for tower, x in zip((self.image, self.text), pair, strict=True)]
        image, text = (torch.nn.functional.normalize(x, dim=1) for x in encoded)
        return image, text, self.logit_scale.exp(), self.logit_bias

    def gradients(self) -> list[Tensor]:
        grads = [p.grad for p in self.parameters()]
        assert all(grad is not None for grad in grads)
        return [grad for grad in grads if grad is not None]


def towers(dropout: float = 0.0) -> Towers:
    torch.manual_seed(1)
    return Towers(dropout).double()


def batch(rows: int) -> tuple[Tensor, Tensor]:
    return reference.features(rows, 12, torch.float64)


def in_pieces(pair: tuple[Tensor, Tensor], sizes: list[int]) -> list[tuple[Tensor, Tensor]]:
    return list(zip(pair[0].split(sizes), pair[1].split(sizes), strict=True))


@pytest.mark.parametrize("sizes", [[30], [10, 10, 10], [1, 29], [13, 13, 4], [1] * 30])
@pytest.mark.parametrize("loss", [dcfast.ClipLoss(), dcfast.SigLipLoss()])
def test_equals_the_batch_at_once(sizes: list[int], loss: torch.nn.Module) -> None:
    pair = batch(30)
    model = towers()
    whole = loss(*model(pair))
    whole.backward()
    wanted = model.gradients()
    model = towers()
    found = dcfast.cached_backward(model, in_pieces(pair, sizes), loss)
    assert not found.requires_grad
    assert float(found) == pytest.approx(float(whole.detach()), rel=1e-12)
    assert max(reference.errors(model.gradients(), wanted)) < 1e-11


def test_gradients_are_added_and_scaled() -> None:
    pair = batch(12)
    model = towers()
    first = dcfast.cached_backward(model, in_pieces(pair, [6, 6]), dcfast.ClipLoss())
    once = [grad.clone() for grad in model.gradients()]
    second = dcfast.cached_backward(model, in_pieces(pair, [6, 6]), dcfast.ClipLoss(), scale_loss=lambda x: x * 1024)
    assert torch.equal(first, second)
    assert max(reference.errors(model.gradients(), [grad * 1025 for grad in once])) < 1e-12


def test_dropout_drops_the_same_twice() -> None:
    model = towers(dropout=0.5)
    features: list[tuple[Tensor, ...]] = []

    def encode(piece: Any) -> tuple[Tensor, ...]:
        features.append(model(piece))
        return features[-1]

    torch.manual_seed(5)
    dcfast.cached_backward(encode, in_pieces(batch(20), [8, 8, 4]), dcfast.ClipLoss())
    after = torch.rand(3)
    assert len(features) == 6
    for before, again in zip(features[:3], features[3:], strict=True):
        assert torch.equal(before[0], again[0])
        assert not before[0].requires_grad
        assert again[0].requires_grad
    # the caller's random numbers go on as after one pass
    torch.manual_seed(5)
    for piece in in_pieces(batch(20), [8, 8, 4]):
        model(piece)
    assert torch.equal(after, torch.rand(3))


def test_only_the_last_piece_synchronises() -> None:
    log: list[str] = []

    @contextlib.contextmanager
    def no_sync() -> Iterator[None]:
        log.append("quiet")
        yield
        log.append("end")

    model = towers()
    dcfast.cached_backward(model, in_pieces(batch(9), [3, 3, 3]), dcfast.ClipLoss(), no_sync=no_sync)
    assert log == ["quiet", "end"] * 2


def test_a_frozen_tower() -> None:
    pair = batch(16)
    grads = []
    for cached in (False, True):
        model = towers()
        model.text.requires_grad_(False)
        if cached:
            dcfast.cached_backward(model, in_pieces(pair, [5, 11]), dcfast.ClipLoss())
        else:
            dcfast.clip_loss(*model(pair)).backward()
        assert model.text[0].weight.grad is None
        grads.append([p.grad for p in model.image.parameters()])
    assert max(reference.errors(grads[1], grads[0])) < 1e-11


def test_bad_arguments() -> None:
    with pytest.raises(ValueError, match="pieces must hold at least one part of the batch"):
        dcfast.cached_backward(towers(), [], dcfast.ClipLoss())
    with pytest.raises(TypeError, match=r"encode must return \(image features, text features.*got dict"):
        dcfast.cached_backward(lambda _: {"image": 1}, [0], dcfast.ClipLoss())
    with pytest.raises(TypeError, match=r"got \['Tensor'\]"):
        dcfast.cached_backward(lambda _: (torch.zeros(2),), [0], dcfast.ClipLoss())
    with pytest.raises(TypeError, match=r"pieces must be a list or tuple.*got list_iterator"):
        dcfast.cached_backward(towers(), iter(in_pieces(batch(4), [2, 2])), dcfast.ClipLoss())
    with pytest.raises(TypeError, match="loss must return a tensor with one element, got dict"):
        dcfast.cached_backward(
            towers(), in_pieces(batch(4), [2, 2]), lambda *x: dcfast.ClipLoss()(*x, output_dict=True)
        )
