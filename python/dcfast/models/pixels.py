"""A model's validation transform in two parts: pictures to uint8 pixels, and pixels to what the model takes.

Pixels are a quarter of the memory, are the same for models that differ in mean and deviation alone, and are made
normal on the device: to the same float32 as open_clip's whole transform gives.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

from dcfast.images.squares import Square

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor


class PixelShape(NamedTuple):
    """Which pixels of a picture a model sees, in open_clip's words; models that agree in it can share them."""

    height: int
    width: int
    resize_mode: str = "shortest"
    interpolation: str = "bicubic"
    fill_color: int = 0

    @property
    def square(self) -> Square | None:
        """The same for the core, where it has such a resampling."""
        known = self.resize_mode in ("shortest", "squash") and self.interpolation == "bicubic"
        return Square(self.height, self.resize_mode == "squash") if known and self.height == self.width else None

    def pixels(self, image: Image) -> npt.NDArray[np.uint8]:
        """(height, width, 3) of a picture, RGB, by open_clip and Pillow.

        Raises:
            OSError, ValueError, SyntaxError: a mode that Pillow cannot turn into RGB.
        """
        shares = _to_shares(self)(image)
        return (shares * 255).round().byte().permute(1, 2, 0).numpy()


@cache
def _to_shares(shape: PixelShape) -> Callable[[Image], Tensor]:
    """open_clip's transform with mean 0 and deviation 1, which leave n / 255 as it is."""
    from open_clip.transform import PreprocessCfg, image_transform_v2

    still = PreprocessCfg(
        size=(shape.height, shape.width),
        mean=(0.0, 0.0, 0.0),
        std=(1.0, 1.0, 1.0),
        interpolation=shape.interpolation,
        resize_mode=shape.resize_mode,
        fill_color=shape.fill_color,
    )
    transform: Callable[[Image], Tensor] = image_transform_v2(still, is_train=False)
    return transform


@dataclass(frozen=True)
class PixelTransform:
    """Which pixels a model sees, and what it sees of them: (level / 255 - mean) / std of each colour."""

    shape: PixelShape
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @classmethod
    def of_config(cls, config: Mapping[str, object]) -> PixelTransform:
        """Of open_clip's ``model.visual.preprocess_cfg``."""
        from open_clip.transform import PreprocessCfg
        from open_clip.utils import to_2tuple

        given = PreprocessCfg(**config)
        height, width = to_2tuple(given.size)
        shape = PixelShape(height, width, given.resize_mode, given.interpolation, given.fill_color)
        return cls(shape, tuple(given.mean), tuple(given.std))

    def normal(self, pixels: Tensor) -> Tensor:
        """(n, 3, height, width) float32 of uint8 pixels (n, height, width, 3), on their device.

        The same bits as open_clip's transform on any device. Memory: 4 bytes a level, and the levels once more.
        """
        import torch

        def each(values: tuple[float, ...]) -> Tensor:
            return torch.tensor(values, device=pixels.device).view(-1, 1, 1)

        # 255 as a tensor there: a GPU multiplies by the reciprocal of a plain number, which may round otherwise
        levels = pixels.permute(0, 3, 1, 2).contiguous().float()
        return levels.div_(each((255.0,))).sub_(each(self.mean)).div_(each(self.std))
