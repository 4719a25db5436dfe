"""Every way of the package to read images, over the same files: who takes which."""

from __future__ import annotations

import io
import tarfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from threading import Event
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from dcfast._core import images as core_images
from dcfast.images.costs import BadImage
from dcfast.images.decode import quiet
from dcfast.images.signatures import STATUS, image_signatures
from dcfast.models.pixels import PixelShape, PixelTransform
from dcfast.train.dali import DaliDecoder, plain_jpeg, require_dali
from dcfast.train.decode import PilDecoder, ReducedPilDecoder
from dcfast.train.pixels import Crops, PixelWriter
from dcfast.train.source import Ranges, RawSamples
from PIL import Image

torch = pytest.importorskip("torch")
SIDE = 32

MODULES = {
    "images/signatures.py": "signatures",
    "images/blur.py": "blur",
    "images/resize.py": "resize",
    "images/squares.py": "features",
    "features/pairs.py": "features",
    "evaluate/embed.py": "evaluation",
    "report/page/images.py": "page",
    "models/descriptors.py": "descriptors",
    "dedup/calibration/measure.py": "calibration",
    "train/decode.py": "training",
    "train/pixels.py": "training by the core",
    "train/dali.py": "training by dali",
}
"""Who reads images -> the reader below that stands for it; ``test_image_costs`` finds the others."""


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def scene(width: int = 80, height: int = 60) -> Image.Image:
    small = np.random.default_rng(5).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)


class Readers:
    """Whether each reader takes each of some files; they are members of a tar, in samples of their own."""

    def __init__(self, folder: Path, files: dict[str, tuple[str, bytes]]) -> None:
        self.names = list(files)
        self.files = [data for _, data in files.values()]
        self.tar = folder / "00000.tar"
        with tarfile.open(self.tar, "w") as tar:
            for number, (extension, data) in enumerate(files.values()):
                for ext, content in ((extension, data), ("txt", b"a caption")):
                    info = tarfile.TarInfo(f"{number:05d}.{ext}")
                    info.size = len(content)
                    tar.addfile(info, io.BytesIO(content))
        self.clip: Any = SimpleNamespace(
            image_size=SIDE, preprocess=self._preprocess,
            pixels=PixelTransform(PixelShape(SIDE, SIDE), (0.0,) * 3, (1.0,) * 3),
            tokenizer=lambda texts: torch.zeros((len(texts), 4)),
            model=torch.nn.Linear(1, 1),
        )  # fmt: skip

    @staticmethod
    def _preprocess(image: Any) -> Any:
        """As open_clip's validation transform does it: scaled in the mode it has, cut, then RGB."""
        by = SIDE / min(image.size)
        small = image.resize([max(SIDE, round(side * by)) for side in image.size], Image.Resampling.BICUBIC)
        pixels = np.asarray(small.crop((0, 0, SIDE, SIDE)).convert("RGB"))
        return torch.from_numpy(pixels.copy()).permute(2, 0, 1).float()

    def signatures(self) -> list[bool]:
        with tarfile.open(self.tar) as tar:
            members = [m for m in tar.getmembers() if not m.name.endswith(".txt")]
        at = np.array([m.offset_data for m in members], np.uint64)
        status = image_signatures(self.tar, at, np.array([m.size for m in members], np.uint64), threads=1).status
        return [STATUS[s] == "ok" for s in status]

    def features(self) -> list[bool]:
        from dcfast.features.pairs import STATUS as FATES
        from dcfast.features.pairs import SegmentPairs
        from dcfast.index.build import write_segment
        from dcfast.index.segments import Segment

        path = self.tar.with_suffix(".dcx")
        write_segment([(self.tar, self.tar.name)], path)
        pairs = SegmentPairs(Segment.open(path), str(self.tar.parent), [self.clip])
        with quiet:
            status = [s for chunk in pairs.chunks(threads=1, ahead=1) for s in chunk.status]
        pairs.close()
        return [FATES[s] == "ok" for s in status]

    def evaluation(self) -> list[bool]:
        from dcfast.evaluate.embed import Embedder
        from dcfast.evaluate.pictures import FilePictures

        with tarfile.open(self.tar) as tar:
            members = [m for m in tar.getmembers() if not m.name.endswith(".txt")]
            offset, size = (np.array([getattr(m, name) for m in members]) for name in ("offset_data", "size"))
            names = [m.name for m in members]
            pictures = FilePictures([str(self.tar)], names.__getitem__, np.zeros(len(members), np.int64), offset, size)
            embedder = Embedder(self.clip, batch_size=1, threads=1)
            with pictures.read(np.arange(len(members)), len(members)) as batches:
                good, _, problems = embedder._decode(next(batches))
        assert all(problems.values())
        return [row in good for row in range(len(members))]

    def descriptors(self) -> list[bool]:
        from dcfast.models.descriptors import DescriptorModel, describe

        model = DescriptorModel(
            "small", "", 3 * SIDE * SIDE, self._preprocess, lambda pictures: pictures.flatten(1) + 1, "cpu"
        )
        return [bool(row.any()) for row in describe(model, [lambda data=data: data for data in self.files])]

    def calibration(self) -> list[bool]:
        from dcfast.dedup.calibration.measure import opened

        return [self._takes(opened, data) for data in self.files]

    def page(self) -> list[bool]:
        from dcfast.report.page.images import thumbnail

        return [bool(thumbnail(data).uri) for data in self.files]

    def blur(self) -> list[bool]:
        from dcfast.images.blur import blur_image

        def blurred(data: bytes) -> bool:
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(core_images, "encode_webp", lambda *_: b"")
                blur_image(data, np.empty((0, 4)))
            return True

        return [self._takes(blurred, data, ValueError) for data in self.files]

    def resize(self) -> list[bool]:
        from dcfast.images.resize import ResizeOptions, resize_image

        return [self._takes(lambda d: resize_image(d, ResizeOptions(how="exact")), data) for data in self.files]

    def training(self) -> list[bool]:
        return [self._takes(lambda d: PilDecoder()(memoryview(d), self._whole, SIDE), data) for data in self.files]

    def core_training(self) -> list[bool]:
        """What the core takes, and what it leaves to Pillow."""

        def draw(g: Any, width: Any, height: Any) -> Any:
            return np.array([[0, 0, width[0], height[0]]], np.int32)

        writer, pixels, none = (
            PixelWriter("pil", Event()),
            np.zeros((1, SIDE, SIDE, 3), np.uint8),
            np.zeros(1, np.int64),
        )
        takes = []
        for data in self.files:
            size = np.array([core_images.image_size(data)], np.uint32).clip(0, 1 << 30).astype(np.int32)
            crops = Crops(draw, none, size, draw(none, size[:, 0].clip(1), size[:, 1].clip(1)))
            members = Ranges(none, np.array([len(data)], np.int64))
            bytes_ = np.frombuffer(data, np.uint8)
            raw = RawSamples(bytes_, members, bytes_, members, "no caption")
            takes.append(not writer.write(raw, none, crops, pixels, none, Counter()))
        return takes

    def reduced_training(self) -> list[bool]:
        decoder = ReducedPilDecoder()
        return [self._takes(lambda d: decoder(memoryview(d), self._whole, SIDE), data) for data in self.files]

    def dali(self) -> list[bool]:
        """What DALI is given and refuses, and what it is not given, goes to Pillow."""
        from dcfast.train.batch import Encoded

        decoder = DaliDecoder(SIDE)

        def takes(data: bytes) -> None:
            size = plain_jpeg(memoryview(data))
            if size is None:
                PilDecoder()(memoryview(data), self._whole, SIDE)
                return
            from dcfast.train.dali import _build

            decoder._pipeline = decoder._pipeline or _build(SIDE, 1, "cpu", 1)
            try:
                decoder._decode(Encoded.of({0: data}), np.array([[0, 0, *size]], np.int32))
            except RuntimeError:
                decoder._pipeline = None
                PilDecoder()(memoryview(data), self._whole, SIDE)

        return [self._takes(takes, data) for data in self.files]

    def all(self) -> dict[str, list[bool]]:
        readers: dict[str, Callable[[], list[bool]]] = {
            "signatures": self.signatures, "features": self.features, "evaluation": self.evaluation,
            "training": self.training, "reduced training": self.reduced_training, "page": self.page, "blur": self.blur,
            "training by the core": self.core_training,
            "descriptors": self.descriptors, "calibration": self.calibration, "resize": self.resize,
        }  # fmt: skip
        try:
            require_dali()
            readers["training by dali"] = self.dali
        except ImportError:
            pass
        found = {name: read() for name, read in readers.items()}
        assert {len(takes) for takes in found.values()} == {len(self.files)}
        return found

    @staticmethod
    def _whole(width: int, height: int) -> tuple[int, int, int, int]:
        return 0, 0, width, height

    @staticmethod
    def _takes(read: Callable[[bytes], Any], data: bytes, error: type[Exception] = BadImage) -> bool:
        try:
            read(data)
        except error as reason:
            short = str(reason)
        else:
            return True
        assert 0 < len(short) <= 140
        assert "\n" not in short
        return False
