"""Evaluation sets of plain colours, and a model that knows colours: every score can be told in advance."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from dcfast.models.clip import ClipModel
from dcfast.models.pixels import PixelShape, PixelTransform
from PIL import Image
from torch import Tensor, nn

COLOURS = {
    name: tuple(255 * (number >> bit & 1) for bit in range(3))
    for number, name in enumerate(("black", "red", "green", "yellow", "blue", "magenta", "cyan", "white"))
}
NAMES = tuple(COLOURS)
TEMPLATES = ("a photo of a {c} thing", "{c}")


def picture(colour: str, form: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (6, 5), COLOURS[colour]).save(buffer, form)
    return buffer.getvalue()


def npy(values: Any) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.asarray(values), allow_pickle=False)
    return buffer.getvalue()


def sample(key: str, colour: str, **members: Any) -> dict[str, bytes]:
    """Members by file name; numbers and text are encoded."""
    found = {f"{key}.png": picture(colour)}
    for extension, value in members.items():
        found[f"{key}.{extension}"] = value if isinstance(value, bytes) else str(value).encode()
    return found


def labelled(count: int, wrong: int = 0, **members: Any) -> list[dict[str, bytes]]:
    """Pictures of every colour in turn; the labels of the first ``wrong`` are those of the next class."""
    return [sample(f"s{i}", NAMES[i % 8], cls=(i + (i < wrong)) % 8, **members) for i in range(count)]


def write_set(
    home: Path,
    name: str,
    samples: Iterable[Mapping[str, bytes]],
    classes: Sequence[str] | None = None,
    templates: Sequence[str] | None = TEMPLATES,
    shard_size: int = 1000,
    **files: str,
) -> Path:
    """A ``wds_NAME_test`` directory; ``files`` are more text files by stem."""
    folder = home / f"wds_{name}_test"
    (folder / "test").mkdir(parents=True)
    rows = list(samples)
    shards = [rows[begin : begin + shard_size] for begin in range(0, len(rows), shard_size)] or [[]]
    for number, part in enumerate(shards):
        with tarfile.open(folder / "test" / f"{number}.tar", "w") as archive:
            for members in part:
                for member, data in members.items():
                    info = tarfile.TarInfo(member)
                    info.size = len(data)
                    archive.addfile(info, io.BytesIO(data))
    (folder / "test" / "nshards.txt").write_text(str(len(shards)))
    if classes is not None:
        (folder / "classnames.txt").write_text("\n".join(classes) + "\n")
        if templates is not None:
            (folder / "zeroshot_classification_templates.txt").write_text("\n".join(templates) + "\n")
    for stem, text in files.items():
        (folder / (f"{stem}.json" if stem == "riddles" else f"{stem}.txt")).write_text(text)
    return folder


class ColourModel(nn.Module):
    """Embeds a picture as its average colour, and a text as the colour it names; ``noise`` breaks it."""

    def __init__(self, factor: float = 1.0) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.tensor(factor))
        self.pictures = 0
        self.texts = 0

    def encode_image(self, pixels: Tensor) -> Tensor:
        self.pictures += len(pixels)
        return (pixels.mean((2, 3)) - 0.5) * self.factor

    def encode_text(self, tokens: Tensor) -> Tensor:
        self.texts += len(tokens)
        table = torch.tensor(list(COLOURS.values()), dtype=torch.float32) / 255 - 0.5
        return table[tokens[:, 0]] * self.factor


def _preprocess(image: Any) -> Tensor:
    return torch.from_numpy(np.array(image.resize((4, 4)), dtype=np.float32) / 255).permute(2, 0, 1)


def _tokenizer(texts: list[str]) -> Tensor:
    return torch.tensor([[next((i for i, n in enumerate(NAMES) if n in text.lower()), 0)] for text in texts])


def colour_clip(factor: float = 1.0, content_hash: str = "c0" * 32) -> ClipModel:
    return ClipModel(
        model=ColourModel(factor),
        preprocess=_preprocess,
        pixels=PixelTransform(PixelShape(4, 4), (0.0,) * 3, (1.0,) * 3),
        tokenizer=_tokenizer,
        name="colours",
        source="a test",
        content_hash=content_hash,
        embed_dim=3,
        image_size=4,
    )
