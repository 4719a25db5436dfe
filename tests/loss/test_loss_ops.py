"""The losses as torch operators: compiled, under autocast, scaled, differentiated; as modules; and bad input."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import loss_reference as reference
import numpy
import pytest

torch = pytest.importorskip("torch")

import dcfast  # noqa: E402
from dcfast.loss.backend import SMALL  # noqa: E402
from dcfast.loss.ops import clip as ops  # noqa: E402
from dcfast.loss.ops import siglip as siglip_ops  # noqa: E402

LOSSES = [dcfast.clip_loss, dcfast.siglip_loss]


def inputs_of(rows: int = 9, width: int = 6, dtype: torch.dtype = torch.float32) -> list[torch.Tensor]:
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    scalars = [torch.tensor(7.0, dtype=wide), torch.tensor(-3.0, dtype=wide)]
    return [x.requires_grad_() for x in (*reference.features(rows, width, dtype), *scalars)]


# opcheck itself looks at .grad of what is no leaf
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")
@pytest.mark.parametrize(
    "dtype",
    [
        torch.float32,
        pytest.param(torch.bfloat16, marks=pytest.mark.long),
        pytest.param(torch.float64, marks=pytest.mark.long),
    ],
)
def test_opcheck(dtype: torch.dtype) -> None:
    image, text, scale, bias = inputs_of(dtype=dtype)
    torch.library.opcheck(ops.clip_loss, (image, text, scale, *ops.ALONE))
    torch.library.opcheck(siglip_ops.siglip_loss, (image, text, scale, bias, [True] * 3, *siglip_ops.ALONE))
    torch.library.opcheck(ops.clip_lse, (image.detach(), text.detach()[:4], scale.detach()))
    plain = [x.detach() for x in (image, text, scale, bias)]
    forward = ops.clip_loss(*plain[:3], *ops.ALONE)
    needs = [True, False, True]
    torch.library.opcheck(ops.clip_loss_backward, (forward[0], *plain[:3], *forward[1:], *ops.ALONE, needs))
    loss, *raw = siglip_ops.siglip_loss(*plain, needs, *siglip_ops.ALONE)
    torch.library.opcheck(siglip_ops.siglip_loss_backward, (loss, plain[2], *raw, 9, dtype))


@pytest.mark.parametrize("loss", LOSSES)
def test_gradcheck(loss: Callable[..., torch.Tensor]) -> None:
    assert torch.autograd.gradcheck(loss, inputs_of(7, 5, torch.float64))


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize(("rows", "words"), [(9, "the losses have no second"), (SMALL + 1, "no autograd formula was")])
def test_a_second_derivative_is_refused(loss: Callable[..., torch.Tensor], rows: int, words: str) -> None:
    inputs = inputs_of(rows)
    (grad,) = torch.autograd.grad(loss(*inputs), inputs[:1], create_graph=True)
    with pytest.raises(RuntimeError, match=words):
        grad.sum().backward()


# torch's own forward mode scripts its formulas on first use
@pytest.mark.filterwarnings("ignore:.torch.jit.script")
@pytest.mark.parametrize("place", [0, 1, 2, 3])
@pytest.mark.parametrize("loss", [*LOSSES, dcfast.ClipLoss(), dcfast.SigLipLoss()])
def test_forward_mode_is_refused_or_right(loss: Callable[..., torch.Tensor], place: int) -> None:
    inputs = [x.detach() for x in inputs_of()]
    tangent = torch.ones_like(inputs[place])

    def of_one(value: torch.Tensor) -> torch.Tensor:
        return loss(*inputs[:place], value, *inputs[place + 1 :])

    if place == 3 and (loss is dcfast.clip_loss or isinstance(loss, dcfast.ClipLoss)):
        with torch.autograd.forward_ad.dual_level():  # for any bias the loss is the same
            loss_of_dual = of_one(torch.autograd.forward_ad.make_dual(inputs[place], tangent))
            assert float(torch.autograd.forward_ad.unpack_dual(loss_of_dual).tangent) == 0
        return
    with pytest.raises(NotImplementedError, match=r"forward-mode derivatives \(torch\.func\.jvp"):
        torch.func.jvp(of_one, (inputs[place],), (tangent,))
    with torch.autograd.forward_ad.dual_level(), pytest.raises(NotImplementedError, match="reverse mode"):
        of_one(torch.autograd.forward_ad.make_dual(inputs[place], tangent))


@pytest.mark.filterwarnings("ignore:.torch.jit.script")  # of torch's own, the first time in a process
@pytest.mark.parametrize("loss", [*LOSSES, dcfast.ClipLoss(), dcfast.SigLipLoss()])
def test_derivatives_by_torch_func_are_refused(loss: Callable[..., torch.Tensor]) -> None:
    inputs = tuple(x.detach() for x in inputs_of())
    for transform in (torch.func.grad, torch.func.jacrev, torch.func.grad_and_value, torch.func.hessian):
        with pytest.raises(NotImplementedError, match=r"those by torch\.func"):
            transform(loss)(*inputs)
    many = tuple(x.expand(2, *x.shape) for x in inputs)
    with pytest.raises(NotImplementedError, match=r"those by torch\.func"):
        torch.vmap(torch.func.grad(loss))(*many)


@pytest.mark.filterwarnings("ignore:There is a performance drop")
@pytest.mark.parametrize("loss", LOSSES)
def test_a_batch_of_losses_by_vmap(loss: Callable[..., torch.Tensor]) -> None:
    each = [inputs_of(), inputs_of()]
    with torch.no_grad():
        each[1][0].mul_(0.5)
    many = [torch.stack([a.detach(), b.detach()]).requires_grad_() for a, b in zip(*each, strict=True)]
    together = torch.vmap(loss)(*many)
    (together * torch.tensor([1.0, 3.0])).sum().backward()
    for number, (inputs, weight) in enumerate(zip(each, (1.0, 3.0), strict=True)):
        one = loss(*inputs)
        (one * weight).backward()
        torch.testing.assert_close(together[number], one)
        for alone, stacked in zip(inputs, many, strict=True):
            assert stacked.grad is not None
            torch.testing.assert_close(stacked.grad[number], alone.grad if alone.grad is not None else 0 * alone)


def test_clip_loss_takes_a_models_bias_by_name() -> None:
    """As a model with a bias gives it: open_clip's loss and gradients, and a bias that DDP sees used."""
    import open_clip

    results = []
    for library in (open_clip, dcfast):
        image, text, scale, bias = inputs_of()
        given = {"image_features": image, "text_features": text, "logit_scale": scale, "logit_bias": bias}
        loss = library.ClipLoss()(**given, output_dict=True)["contrastive_loss"]
        loss.backward()
        results.append((loss.detach(), image.grad, text.grad, scale.grad, bias.grad))
    for ours, theirs in zip(*results[::-1], strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)
    assert float(results[1][4]) == 0.0


@pytest.mark.parametrize("module", [dcfast.ClipLoss(), dcfast.SigLipLoss()])
@pytest.mark.parametrize("dynamic", [False, True])
def test_compiles_to_one_graph(module: torch.nn.Module, dynamic: bool) -> None:
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager", dynamic=dynamic)
    for rows in (9, 12, SMALL + 1):
        inputs = inputs_of(rows)
        found, wanted = reference.run(compiled, *inputs), reference.run(module, *inputs)
        # a small batch has another way where nobody compiles
        within = {"rtol": 4e-6, "atol": 1e-7} if rows <= SMALL else {"rtol": 0, "atol": 0}
        for a, b in zip(found, wanted, strict=True):
            torch.testing.assert_close(a, b, **within)
    torch.compiler.reset()


@pytest.mark.parametrize("module", [dcfast.ClipLoss(), dcfast.SigLipLoss()])
@pytest.mark.parametrize("compiled", [False, True])
def test_autocast(module: torch.nn.Module, compiled: bool) -> None:
    # features are rounded as autocast rounds them for a product; the scale keeps its digits
    inputs = inputs_of(30, 16)
    inputs[2] = torch.tensor(14.2857, requires_grad=True)
    call = torch.compile(module, fullgraph=True, backend="aot_eager") if compiled else module

    def cast(*leaves: torch.Tensor) -> torch.Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return call(*leaves)

    found = reference.run(cast, *inputs)
    rounded = [x.detach().bfloat16() for x in inputs[:2]]
    wanted = reference.run(module, *rounded, *inputs[2:])
    assert found[0].dtype == torch.float32
    assert torch.equal(found[0], wanted[0])
    assert [g.dtype for g in found[1:]] == [torch.float32] * 4
    for a, b in zip(found[1:], wanted[1:], strict=True):
        torch.testing.assert_close(a, b.float(), rtol=1e-2, atol=1e-6)
    with torch.autocast("cpu", torch.bfloat16):
        assert module(*[x.detach().double() for x in inputs]).dtype == torch.float64
        sums = dcfast.clip_lse(inputs[0], inputs[1], inputs[2])
    assert all(torch.equal(a, b) for a, b in zip(sums, dcfast.clip_lse(*rounded, inputs[2]), strict=True))
    torch.compiler.reset()


def test_grad_scaler_finds_infinities_and_unscales() -> None:
    for poison in (False, True):
        image, text = (x.half().requires_grad_() for x in reference.features(20, 8))
        leaves = [torch.nn.Parameter(x.detach().float()) for x in (image, text)]
        optimizer = torch.optim.SGD(leaves, lr=1.0)
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0**16)
        before = [x.detach().clone() for x in leaves]
        loss = dcfast.clip_loss(leaves[0].half(), leaves[1].half(), 10.0)
        scaler.scale(loss * (math.inf if poison else 1)).backward()
        scaler.step(optimizer)
        scaler.update()
        assert all(torch.equal(a, b) for a, b in zip(before, leaves, strict=True)) == poison
        assert scaler.get_scale() == 2.0 ** (15 if poison else 16)


def test_modules_are_as_open_clip_makes_them() -> None:
    pytest.importorskip("open_clip", reason="open_clip is what the modules are compared with")
    from loss_ranks import open_clip_loss

    theirs = open_clip_loss()
    image, text, scale, bias = inputs_of(21, 16, torch.float64)
    for ours, other in ((dcfast.ClipLoss(), theirs.ClipLoss()), (dcfast.SigLipLoss(), theirs.SigLipLoss())):
        found, wanted = (reference.run(m, image, text, scale, bias) for m in (ours, other))
        # of sums of gradients of about 1: that of the bias of softmaxes is 0, but for rounding
        assert max(float((a - b).norm()) for a, b in zip(found, wanted, strict=True)) < 1e-12
        result = ours(image, text, scale, logit_bias=bias, output_dict=True)
        assert list(result) == list(other(image, text, scale, logit_bias=bias, output_dict=True))
        torch.testing.assert_close(
            ours.get_logits(image, text, scale, bias), other.get_logits(image, text, scale, bias)
        )
    labels = [m.ClipLoss().get_ground_truth(torch.device("cpu"), 5) for m in (dcfast, theirs)]
    assert torch.equal(*labels)
    for negative in (False, True):
        arguments = (torch.device("cpu"), torch.float32, 4, negative)
        assert torch.equal(*[m.SigLipLoss().get_ground_truth(*arguments) for m in (dcfast, theirs)])


def test_scalars_may_be_numbers_or_have_one_element() -> None:
    image, text, scale, bias = inputs_of()
    wanted = dcfast.siglip_loss(image, text, scale, bias)
    assert torch.equal(dcfast.siglip_loss(image, text, 7.0, -3), wanted)
    assert torch.equal(dcfast.siglip_loss(image, text, numpy.float32(7), numpy.float64(-3)), wanted)
    one = torch.tensor([7.0], requires_grad=True)
    dcfast.siglip_loss(image, text, one, bias).backward()
    assert one.grad.shape == (1,)
    assert torch.equal(dcfast.clip_loss(image, text, torch.tensor([7.0])), dcfast.clip_loss(image, text, scale))


GOOD = torch.zeros(4, 3)


@pytest.mark.parametrize("loss", [*LOSSES, dcfast.clip_lse, dcfast.ClipLoss(), dcfast.SigLipLoss()])
@pytest.mark.parametrize(
    ("image", "text", "kind", "message"),
    [
        (torch.zeros(0, 3), torch.zeros(0, 3), ValueError, r"at least one row.*\(0, 3\): no batch"),
        (torch.zeros(4, 0), torch.zeros(4, 0), ValueError, r"at least one row and one column.*\(4, 0\)"),
        (torch.zeros(4), GOOD, ValueError, r"image_features must have shape \(N, D\), got \(4,\)"),
        (GOOD, torch.zeros(4, 3, 1), ValueError, r"text_features must have shape \(N, D\), got \(4, 3, 1\)"),
        (GOOD, torch.zeros(4, 5), ValueError, r"got \(4, 3\) and \(4, 5\)"),
        (GOOD, GOOD.double(), TypeError, "one dtype, got float32 and float64"),
        (GOOD.long(), GOOD.long(), TypeError, "image_features must have dtype float32.*got int64"),
        (GOOD, GOOD.to("meta"), ValueError, "on one device, got cpu and meta"),
        (GOOD.numpy(), GOOD, TypeError, "image_features must be a torch.Tensor.*got ndarray"),
        (GOOD.to_sparse(), GOOD, TypeError, "image_features must be a dense tensor, got layout torch.sparse_coo"),
        (GOOD, None, TypeError, "text_features must be a torch.Tensor.*got NoneType"),
    ],
)
def test_bad_features(loss: Any, image: Any, text: Any, kind: type[Exception], message: str) -> None:
    scalars = (1.0, 0.0) if isinstance(loss, dcfast.SigLipLoss) else (1.0,)
    with pytest.raises(kind, match=message):
        loss(image, text, *scalars)


@pytest.mark.parametrize("loss", LOSSES)
def test_autocast_does_not_hide_a_wrong_dtype(loss: Any) -> None:
    with (
        torch.autocast("cpu", torch.bfloat16),
        pytest.raises(TypeError, match=r"image_features must have dtype float32.*got int64"),
    ):
        loss(GOOD.long(), GOOD.long(), 1.0)


@pytest.mark.parametrize("loss", LOSSES)
def test_features_of_different_numbers(loss: Any) -> None:
    with pytest.raises(ValueError, match=r"the same shape \(row i of both is one pair\), got \(4, 3\) and \(5, 3\)"):
        loss(GOOD, torch.zeros(5, 3), 1.0)


@pytest.mark.parametrize("loss", [*LOSSES, dcfast.clip_lse])
@pytest.mark.parametrize(
    ("scale", "kind", "message"),
    [
        (math.nan, ValueError, "logit_scale must be finite in float32, got nan"),
        (torch.tensor(math.inf), ValueError, "logit_scale must be finite, got inf"),
        (torch.ones(2), ValueError, r"logit_scale must have one element, got shape \(2,\)"),
        (torch.tensor(1), TypeError, "logit_scale must be floating-point, got int64"),
        ("1", TypeError, "logit_scale must be a number or a tensor with one element, got str"),
        (True, TypeError, "logit_scale must be a number or a tensor with one element, got bool"),
        (1e39, ValueError, r"logit_scale must be finite in float32, got 1e\+39"),
        (-(10**50), ValueError, "logit_scale must be finite in float32, got a number of 52 digits"),
        (torch.tensor(1.0, device="meta"), ValueError, "logit_scale must have a value, got a tensor on the meta"),
    ],
)
def test_bad_scales(loss: Any, scale: Any, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        loss(GOOD, GOOD, scale)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: dcfast.ClipLoss(use_horovod=True), "use_horovod is not supported: use torch.distributed"),
        (lambda: dcfast.ClipLoss(rank=2, world_size=2), r"rank must be in 0..world_size-1.*got 2 of 2"),
        (lambda: dcfast.SigLipLoss(rank=-1, world_size=2), r"rank must be in 0..world_size-1.*got -1 of 2"),
        (lambda: dcfast.ClipLoss(schedule="star"), "schedule must be 'gather' or 'ring', got 'star'"),
        (lambda: dcfast.SigLipLoss(dist_impl="star"), "dist_impl must be 'bidir', 'shift', 'reduce' or 'gather'"),
    ],
)
def test_bad_settings(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("loss", [dcfast.ClipLoss, dcfast.SigLipLoss])
@pytest.mark.parametrize("settings", [{"rank": 0.5}, {"rank": None}, {"world_size": "2"}, {"world_size": True}])
def test_ranks_are_whole_numbers(loss: Any, settings: dict[str, Any]) -> None:
    with pytest.raises(TypeError, match=f"{next(iter(settings))} must be an int, got"):
        loss(**{"world_size": 2} | settings)


@pytest.mark.parametrize("loss", LOSSES)
def test_shapes_alone_on_the_meta_device(loss: Any) -> None:
    image, text = (torch.empty(9, 4, device="meta", dtype=torch.bfloat16, requires_grad=True) for _ in range(2))
    value = loss(image, text, 10.0)
    value.backward()
    assert (value.device.type, value.shape, value.dtype) == ("meta", (), torch.float32)
    assert image.grad is not None
    assert (image.grad.shape, image.grad.dtype) == ((9, 4), torch.bfloat16)


def test_ranks_without_a_process_group() -> None:
    with pytest.raises(RuntimeError, match=r"call torch\.distributed\.init_process_group first"):
        dcfast.ClipLoss(rank=0, world_size=2)(GOOD, GOOD, 1.0)


def test_an_unknown_backend_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DCFAST_LOSS_BACKEND", "cuda")
    with pytest.raises(ValueError, match="DCFAST_LOSS_BACKEND must be torch or triton, got 'cuda'"):
        dcfast.clip_loss(GOOD, GOOD, 1.0)


KERNELS = """
import loss_reference as reference, torch, dcfast
for dtype in (torch.float32, torch.bfloat16):
    inputs = (*reference.features(37, 24, dtype), torch.tensor(14.3), torch.tensor(-6.0))
    for loss, plain in ((dcfast.clip_loss, reference.naive_clip), (dcfast.siglip_loss, reference.naive_siglip)):
        used = inputs[:3] if loss is dcfast.clip_loss else inputs
        wanted = reference.exact(plain, *used)
        reference.assert_close(reference.run(loss, *used), wanted, dtype, reference.run(plain, *used))
for norm in (30.0, 1e6):  # no common shift serves
    inputs = (*reference.features(37, 24, norm=norm), torch.tensor(5.0))
    wanted = reference.exact(reference.naive_clip, *inputs)
    found = reference.run(dcfast.clip_loss, *inputs)
    # float32 keeps no more of logits in the thousands; of those of 5e12 two passes may round a product apart
    assert reference.errors(found, wanted)[0] < 2e-6
    assert all(x.isfinite().all() for x in found)
    assert norm > 30 or max(reference.errors(found, wanted)) < 1e-4
inputs = (*reference.features(37, 24, torch.bfloat16), torch.tensor(14.3))
rows, cols = dcfast.clip_lse(inputs[0], inputs[1][:20], 14.3)
logits = 14.3 * inputs[0].double() @ inputs[1][:20].double().T
assert (rows - logits.logsumexp(1)).abs().max() < 1e-5 > (cols - logits.logsumexp(0)).abs().max()
print("same")
"""


def test_the_kernels_stand_behind_the_same_operators(repo_root: Any) -> None:
    pytest.importorskip("triton", reason="the kernels are written in Triton")
    environment = {**os.environ, "TRITON_INTERPRET": "1", "DCFAST_LOSS_BACKEND": "triton", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", KERNELS],
        cwd=repo_root / "tests/helpers",
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.stdout == "same\n", done.stderr[-3000:]
