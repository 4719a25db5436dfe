"""A transform in two parts gives what open_clip's whole one gives, to the last bit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from dcfast.images.squares import Square
from drawn_pictures import drawing
from PIL import Image

torch = pytest.importorskip("torch")
pytest.importorskip("open_clip")

from dcfast.models.captions import same_tokens  # noqa: E402
from dcfast.models.clip import load_model, load_tokenizer  # noqa: E402
from dcfast.models.pixels import PixelShape, PixelTransform  # noqa: E402

CONFIGS: tuple[dict[str, Any], ...] = (
    {"size": 48},
    {"size": (64, 64), "resize_mode": "squash", "mean": (0.5, 0.5, 0.5), "std": (0.5, 0.4, 0.3)},
    {"size": 40, "resize_mode": "longest", "fill_color": 120},
    {"size": 40, "interpolation": "bilinear"},
    {"size": (40, 56)},
)


@pytest.mark.parametrize("config", CONFIGS, ids=str)
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK", "P", "RGBA", "1"])
def test_two_parts_are_the_whole(config: dict[str, Any], mode: str) -> None:
    from open_clip.transform import PreprocessCfg, image_transform_v2

    whole = image_transform_v2(PreprocessCfg(**config), is_train=False)
    transform = PixelTransform.of_config(config)
    images = [drawing(seed).resize(size).convert(mode) for seed, size in enumerate([(90, 70), (31, 100)])]
    pixels = np.stack([transform.shape.pixels(image) for image in images])
    assert pixels.dtype == np.uint8
    parts = transform.normal(torch.from_numpy(pixels))
    assert parts.is_contiguous()
    assert torch.equal(parts, torch.stack([whole(image) for image in images]))


def test_every_level_is_kept() -> None:
    levels = np.arange(256, dtype=np.uint8).repeat(3).reshape(16, 16, 3)
    np.testing.assert_array_equal(PixelShape(16, 16).pixels(Image.fromarray(levels)), levels)


def test_what_the_core_can_do() -> None:
    shapes = [PixelTransform.of_config(config).shape.square for config in CONFIGS]
    assert shapes == [Square(48), Square(64, squashed=True), None, None, None]


def test_a_loaded_model_has_its_own() -> None:
    clip = load_model("dcfast-tiny")
    image = drawing(3, 90, 61)
    pixels = torch.from_numpy(clip.pixels.shape.pixels(image))[None]
    assert torch.equal(clip.pixels.normal(pixels)[0], clip.preprocess(image))


def test_tokenizers_that_are_alike() -> None:
    small, large, tiny = (load_tokenizer(name) for name in ("ViT-B-32", "ViT-L-14", "dcfast-tiny"))
    assert small is not large
    assert same_tokens(small, large)
    assert not same_tokens(small, tiny)
    assert not same_tokens(lambda texts: torch.zeros(1), lambda texts: torch.zeros(1))
