"""Features that are not spread over the unit sphere: of other norms, up to the ends of float32, and in narrow cones."""

from __future__ import annotations

import loss_reference as reference
import pytest

torch = pytest.importorskip("torch")

import dcfast  # noqa: E402
from dcfast.loss.torch_backend import centred, forward, tiles  # noqa: E402
from dcfast.loss.torch_backend import gradient as clip_gradient  # noqa: E402


@pytest.mark.parametrize("rows", [60, 257, 700])
@pytest.mark.parametrize(
    ("norm", "scale"), [(1e6, 1.0), (1e10, 1e-3), (20.0, 14.0), (20.0, 0.5), (6.0, 100.0), (1e-4, 1e6), (1e-3, 14.0)]
)
def test_the_bar_holds_for_features_of_any_norm(rows: int, norm: float, scale: float) -> None:
    """Logits of thousands lose the digits that exponentials want, and log-sum-exps of 1e12 have none for sums."""
    inputs = (*reference.features(rows, 32, norm=norm), torch.tensor(scale))
    reference.assert_bar(dcfast.clip_loss, reference.naive_clip, *inputs)
    # and norms that differ: a few rows far away from the others
    for x in inputs[:2]:
        x[3] *= 50
        x[rows - 1] *= 1e-3
    reference.assert_bar(dcfast.clip_loss, reference.naive_clip, *inputs)


@pytest.mark.parametrize("rows", [60, 300, 700])
@pytest.mark.parametrize(("common", "pair"), [(0.5, 0.6), (0.9, 0.0), (0.9, 0.3), (0.9, 0.6), (0.9, 0.9), (0.99, 0.6)])
@pytest.mark.parametrize("scale", [14.3, 30.0, 50.0, 100.0])
def test_the_bar_holds_for_features_in_a_cone(rows: int, common: float, pair: float, scale: float) -> None:
    """What all logits share takes their digits, open_clip's too."""
    inputs = (*reference.cone(rows, 512, common=common, pair=pair), torch.tensor(scale))
    wanted = reference.exact(reference.fitted_clip, *inputs)
    found, plain = reference.run(dcfast.clip_loss, *inputs), reference.run(reference.naive_clip, *inputs)
    # a single number that nearly cancels, of pairs that have nothing in common: either may be nearer by luck
    count = 3 if pair == 0 else 4
    reference.assert_close(found[:count], wanted[:count], torch.float32, plain[:count])
    assert reference.errors(found, wanted)[3] < 1e-4


@pytest.mark.parametrize("onednn", [True, False])
@pytest.mark.parametrize(("rows", "width"), [(300, 512), (700, 96), (600, 8)])
def test_both_ways_to_multiply_hold_the_bar(
    rows: int, width: int, onednn: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    product = torch.ops.mkldnn._linear_pointwise if onednn else None
    monkeypatch.setattr(tiles, "_onednn", lambda: product)
    inputs = (*reference.features(rows, width), torch.tensor(30.0))
    reference.assert_bar(dcfast.clip_loss, reference.naive_clip, *inputs)
    wanted = inputs[0].double() @ inputs[1].double().T
    assert (tiles.multiply(*inputs[:2], torch.empty(rows, rows)) - wanted).abs().max() < 1e-6
    into = torch.ones(rows, width)
    tiles.add_product(into, wanted.float(), inputs[1])
    assert (into - 1 - wanted @ inputs[1].double()).abs().max() < 1e-4


@pytest.mark.parametrize("rows", [300, 700])
@pytest.mark.parametrize("norm", [20.0, 100.0])
def test_large_logits_in_a_cone_keep_the_digits_that_are_lost_in_what_they_share(rows: int, norm: float) -> None:
    image, text = reference.cone(rows, 64, common=0.99, pair=0.5)
    inputs = (image * norm, text * norm, torch.tensor(14.3))
    assert int(forward.clip_forward(*inputs).flag) == 1
    assert centred.centred(*inputs) is not None
    wanted = reference.exact(reference.fitted_clip, *inputs)
    found, plain = reference.run(dcfast.clip_loss, *inputs), reference.run(reference.naive_clip, *inputs)
    errors, plain_errors = reference.errors(found, wanted), reference.errors(plain, wanted)
    assert max(errors[:3]) < 5e-6
    assert max(errors[1:3]) < 0.1 * min(plain_errors[1:3])
    assert errors[3] < 1e-4  # it nearly cancels


@pytest.mark.parametrize(("norm", "served"), [(20.0, True), (100.0, True), (3e3, False)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_features_that_are_not_normalised_are_as_near_as_two_cross_entropies(
    norm: float, served: bool, dtype: torch.dtype
) -> None:
    """In float32, as open_clip's; where that holds no digits any more, in float64."""
    for seed, shift in enumerate((0.0, 0.5, -2.0)):
        generator = torch.Generator().manual_seed(seed)
        common, image, other = (torch.randn(rows, 64, generator=generator) for rows in (1, 600, 600))
        text = 0.3 * image + other - shift * common
        inputs = ((image + shift * common).to(dtype) * norm / 8, text.to(dtype) * norm / 8, torch.tensor(14.3))
        assert (centred.centred(*inputs) is not None) == served
        wanted = reference.exact(reference.fitted_clip, *inputs)
        found = reference.run(dcfast.clip_loss, *inputs)
        if served:
            plain = reference.run(reference.naive_clip, *(x.float() for x in inputs))
            pairs = zip(reference.errors(found, wanted), reference.errors(plain, wanted), strict=True)
            bar = 2e-6 if dtype == torch.float32 else 5e-3  # gradients are rounded to it
            # a few logits may carry a gradient: then either is nearer by luck
            assert all(error <= max(2 * bar, 4 * plain_error) for error, plain_error in pairs)
        else:
            reference.assert_close(found, wanted, dtype)


def test_small_blocks_float64_and_what_is_not_finite_are_not_centred() -> None:
    image, text = reference.features(300, 8, norm=20.0)
    scale = torch.tensor(14.3)
    assert centred.centred(image, text, scale) is not None
    assert centred.centred(image[:256], text[:256], scale) is None
    assert centred.centred(image.double(), text.double(), scale.double()) is None
    for x in (image, text):
        x[7, 3] = float("inf")
        assert centred.centred(image, text, scale) is None
        x[7, 3] = 0.0


def test_images_and_texts_in_different_cones() -> None:
    image, _ = reference.cone(400, 64, common=0.9, pair=0.5)
    for text in (-image, image.flip(1), reference.features(400, 64)[1]):
        inputs = (image, text, torch.tensor(30.0))
        reference.assert_bar(dcfast.clip_loss, reference.naive_clip, *inputs)


# norms of images and of texts, and a scale that makes logits of them
EXTREMES = [
    (1e-23, 1e-23, 5e25), (1e-10, 1e-25, 1e36), (1e-30, 1e30, 1.0), (1e30, 1e-30, 50.0), (1e-33, 1e34, 1.0),
    (1e16, 1e-15, 20.0), (1e30, 1.0, 1e-29), (1e-25, 1.0, 1e26), (1e15, 1e15, 1e-29),
]  # fmt: skip


@pytest.mark.parametrize("rows", [50, 400])
@pytest.mark.parametrize("common", [0.0, 0.9])
@pytest.mark.parametrize(("image_norm", "text_norm", "scale"), EXTREMES)
def test_norms_at_the_ends_of_float32(
    rows: int, common: float, image_norm: float, text_norm: float, scale: float
) -> None:
    """Their squares, or what they are multiplied with on the way, would overflow or vanish."""
    image, text = reference.cone(rows, 32, common=common, pair=0.7)
    inputs = (image * image_norm, text * text_norm, torch.tensor(scale))
    for loss, plain, bias in (
        (dcfast.clip_loss, reference.fitted_clip, ()),
        (dcfast.siglip_loss, reference.naive_siglip, (torch.tensor(-10.0),)),
    ):
        found = reference.run(loss, *inputs, *bias)
        wanted = reference.exact(plain, *inputs, *bias)
        # what is below float32's normal numbers has not all its digits
        kept = [k for k, x in enumerate(wanted) if float(x.abs().max()) > 1e-30]
        assert 0 in kept
        plain_found = reference.run(plain if loss is dcfast.siglip_loss else reference.naive_clip, *inputs, *bias)
        reference.assert_close(
            *[[x[k] for k in kept] for x in (found, wanted)], torch.float32, [plain_found[k] for k in kept]
        )
        assert all(bool(x.isfinite().all()) for x in found)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("norm", [1.0, 1e5, 1e9, 1e17])
def test_the_gradient_of_the_scale_from_dot_products_of_any_size(dtype: torch.dtype, norm: float) -> None:
    """Of half precision and of many ranks it is summed from exponentials times dot products, near overflow by 2^24."""
    rows = 300
    image, text = (x.to(dtype) for x in reference.features(rows, 3, norm=norm))
    scale = torch.tensor(100.0 / norm / norm)
    *_, wanted = reference.exact(reference.fitted_clip, image, text, scale)
    stats = forward.clip_forward(image, text, scale)
    assert int(stats.flag) == 0
    dots = clip_gradient.clip_products(image, text, scale, stats, dots=True).dots
    assert dots is not None
    assert float(dots.sum()) / (2 * rows) == pytest.approx(float(wanted), rel=1e-5)
    if dtype == torch.bfloat16:
        assert float(reference.run(dcfast.clip_loss, image, text, scale)[3]) == pytest.approx(float(wanted), rel=1e-5)
