"""Features are the same bytes whoever decodes; models that see or read the same share it."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dcfast.features import embed
from dcfast.features import pairs as pairs_module
from dcfast.features.embed import embed_segment
from dcfast.features.pairs import STATUS, SegmentPairs
from dcfast.images import squares
from dcfast.images.crops import DONE, PillowRule
from dcfast.index.build import write_segment
from dcfast.index.segments import Segment
from dcfast.models.pixels import PixelShape
from drawn_pictures import drawing, encode
from features_reference import clip, save_checkpoint
from pool_builder import PoolBuilder, Sample, picture

torch = pytest.importorskip("torch")


def samples() -> list[Sample]:
    """Pictures for the core, for Pillow, and for nobody."""
    jpegs = [
        encode(drawing(n, 60 + 17 * n, 220 - 13 * n), quality=60 + n, subsampling=n % 3, progressive=n % 4 == 0)
        for n in range(10)
    ]
    jpegs += [encode(drawing(n, 70, 90).convert(mode), fmt) for n, (mode, fmt) in enumerate(
        [("L", "JPEG"), ("CMYK", "JPEG"), ("RGBA", "PNG"), ("P", "GIF"), ("RGB", "WEBP")]
    )]  # fmt: skip
    whole = picture(3)
    jpegs += [whole[:-2], whole[: len(whole) // 2], b"", encode(drawing(1).resize((60_000, 1)), quality=80)]
    return [Sample(n, jpg=data) for n, data in enumerate(jpegs)]


@pytest.fixture(scope="module")
def segment(tmp_path_factory: pytest.TempPathFactory) -> tuple[Segment, str]:
    root = tmp_path_factory.mktemp("decoding")
    pool = PoolBuilder(root / "pool", [samples()]).write()
    shard = next((pool / "shards").glob("*.tar"))
    write_segment([(shard, shard.name)], root / "segment.dcx")
    return Segment.open(root / "segment.dcx"), str(shard.parent)


def made(segment: tuple[Segment, str], out: Path, models: list[tuple[str, Any]]) -> dict[str, bytes]:
    (out / "features/segments").mkdir(parents=True)
    embed_segment(*segment, models, out, 0)
    return {path.name: path.read_bytes() for path in sorted(out.rglob("*.npy"))}


def test_bytes_are_those_of_pillow(
    segment: tuple[Segment, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    statuses: Counter[int] = Counter()
    real = squares.write_squares

    def counted(*arguments: Any) -> Any:
        found = real(*arguments)
        statuses.update(found.tolist())
        return found

    monkeypatch.setattr(pairs_module, "write_squares", counted)
    models = [("b32", clip()), ("l14", clip(str(save_checkpoint(tmp_path / "clip.safetensors"))))]
    ours = made(segment, tmp_path / "core", models)
    assert statuses[DONE] == 11
    monkeypatch.setattr(squares, "pillow_rule", lambda: PillowRule(True, "other levels"))
    statuses.clear()
    theirs = made(segment, tmp_path / "pillow", models)
    assert statuses[DONE] == 0
    assert ours == theirs
    assert len(ours) == 2 + 2 * 3
    status = [STATUS[s] for s in np.load(tmp_path / "core/features/segments/00000-status.npy")]
    assert status == ["ok"] * 15 + ["does not decode"] * 3 + ["too large"]


def test_pixels_are_open_clips(segment: tuple[Segment, str]) -> None:
    from dcfast.images.decode import load_image

    model = clip()
    pairs = SegmentPairs(*segment, [model])
    chunk = pairs.chunk(0)
    normal = model.pixels.normal(chunk.pixels[model.pixels.shape])
    blank = model.pixels.normal(torch.zeros((1, 48, 48, 3), dtype=torch.uint8))[0]
    for sample, found, status in zip(samples(), normal, chunk.status, strict=True):
        expected = model.preprocess(load_image(sample.jpg)) if status == pairs_module.OK else blank
        assert torch.equal(found, expected)
    pairs.close()


def test_the_next_batch_is_begun_before_one_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a GPU computes while the one before is written."""
    happened: list[str] = []

    class Begun:
        def __init__(self, chunks: list[str], *_: Any) -> None:
            self.name = "".join(chunks)
            happened.append(f"begin {self.name}")

        def wait(self) -> list[Any]:
            happened.append(f"wait {self.name}")
            return []

    monkeypatch.setattr(embed, "_Batch", Begun)
    monkeypatch.setattr(embed, "BATCH", 2 * embed.CHUNK)
    given = [batch.name for batch, _ in embed._batches(iter("abcde"), [], "cuda:0")]
    assert given == ["ab", "cd", "e"]
    assert happened == ["begin ab", "begin cd", "wait ab", "begin e", "wait cd", "wait e"]
    assert not list(embed._batches(iter(()), [], "cuda:0"))


class Seeing:
    """A model as far as pairs look at it, of another size and mode."""

    def __init__(self, shape: PixelShape, tokenizer: Any) -> None:
        self.pixels = type("Pixels", (), {"shape": shape})()
        self.image_size, self.tokenizer = shape.height, tokenizer


def test_models_share_what_they_can(segment: tuple[Segment, str], monkeypatch: pytest.MonkeyPatch) -> None:
    from dcfast.images.decode import load_image

    loaded: Counter[int] = Counter()

    def load(data: memoryview) -> Any:
        loaded[len(data)] += 1
        return load_image(data)

    monkeypatch.setattr(pairs_module, "load_image", load)
    asked: Counter[str] = Counter()

    def tokenizer(name: str) -> Any:
        def tokens(texts: list[str]) -> Any:
            asked[name] += 1
            return torch.zeros((len(texts), 4), dtype=torch.int64)

        return tokens

    one, other = tokenizer("one"), tokenizer("other")
    small, large, padded = PixelShape(32, 32), PixelShape(64, 64, "squash"), PixelShape(32, 32, "longest")
    models: Any = [Seeing(small, one), Seeing(small, one), Seeing(large, other), Seeing(padded, one)]
    pairs = SegmentPairs(*segment, models)
    chunk = pairs.chunk(0)
    pairs.close()
    assert list(chunk.pixels) == [small, large, padded]
    assert [rows.shape for rows in chunk.pixels.values()] == [(19, side, side, 3) for side in (32, 64, 32)]
    assert asked == {"one": 1, "other": 1}
    assert chunk.tokens[0] is chunk.tokens[1] is chunk.tokens[3]
    # what Pillow decodes, it decodes once; nothing is left of what broke
    assert max(loaded.values()) == 1
    for shape, rows in chunk.pixels.items():
        for sample, found, status in zip(samples(), rows, chunk.status, strict=True):
            expected = shape.pixels(load_image(sample.jpg)) if status == pairs_module.OK else np.zeros_like(found)
            np.testing.assert_array_equal(found, expected)
