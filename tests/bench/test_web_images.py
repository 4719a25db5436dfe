"""JPEGs like the web's are cut alike each time, with the distribution they are made for, and measured."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest

web_images = pytest.importorskip("bench.web_images", reason="bench is part of the checkout, not of the package")
pytest.importorskip("cv2")
from dcfast.images.resize import ResizeOptions  # noqa: E402
from drawn_pictures import drawing  # noqa: E402
from PIL import Image  # noqa: E402

pytestmark = pytest.mark.bench


def test_images_and_what_resizing_changes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    drawing(1, 2400, 1600).save(tmp_path / "wide.jpg", quality=95)
    drawing(2, 1500, 2200).save(tmp_path / "tall.jpg", quality=95)
    drawing(3, 300, 200).save(tmp_path / "small.jpg")
    images = web_images.make_web_images(tmp_path, 20, seed=3)
    assert images == web_images.make_web_images([tmp_path], 20, seed=3)
    assert images != web_images.make_web_images(tmp_path, 20, seed=4)
    assert "20 JPEGs of 2 photographs: 0." in capsys.readouterr().out
    sizes = [Image.open(io.BytesIO(data)).size for data in images]
    assert sum(max(size) > 512 for size in sizes) == 12
    assert 0.6e6 < np.median([width * height for width, height in sizes]) < 1e6
    found = web_images.scaled_differences(images, ResizeOptions(size=200))
    assert 0.2 < found["changed"] <= 1
    assert 0 < found["mean"] < found["worst"] < 10
    assert 25 < found["worst psnr"] <= found["psnr"] < 60
    assert web_images.milliseconds(len, images[:2], rounds=1) >= 0
    (tmp_path / "none").mkdir()
    with pytest.raises(ValueError, match=r"no photographs of 3,000,000 pixels \(\*\.jpg\) in .*none"):
        web_images.make_web_images(tmp_path / "none")
