"""Embeddings of pictures and texts by a CLIP model, a batch at a time.

Pictures are decoded by threads while the model works on the batch before. Memory: ``THREADS_AHEAD`` more batches of
decoded pictures than there are threads.
"""

from __future__ import annotations

import io
import os
import warnings
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from dcfast.errors import RunError
from dcfast.evaluate.evalset import EvalSet

if TYPE_CHECKING:
    from torch import Tensor

    from dcfast.models import ClipModel

__all__ = ["Embedder", "PictureBatch", "decode_picture"]

THREADS_AHEAD = 1
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "JPEG2000")
"""What Pillow may open: it decodes these by itself, while for others, EPS among them, it starts a program."""
TEXTS_AT_ONCE = 256
CLASS_TEXTS_AT_ONCE = 4096
MAX_PIXELS = 178_956_970


@cache
def _formats() -> tuple[str, ...]:
    from PIL import Image

    Image.init()  # which formats a build of Pillow has is known only after this
    return tuple(name for name in FORMATS if name in Image.OPEN)


def decode_picture(data: bytes) -> Any:
    """A PIL picture in RGB, not turned by EXIF, as the training sees it.

    Raises ValueError in words for whatever is wrong with the bytes.
    """
    from PIL import Image

    try:
        with Image.open(io.BytesIO(data), formats=_formats()) as picture:
            if picture.width * picture.height > MAX_PIXELS:
                raise ValueError(f"{picture.width} x {picture.height} pixels are too many")
            picture.load()
            # Pillow warns of a palette with many transparent colours unless it goes by RGBA; the colours are the same
            through = picture.convert("RGBA") if "transparency" in picture.info else picture
            return through.convert("RGB")
    except Exception as error:  # a decoder may raise anything for bytes it did not expect
        text = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ValueError("not a picture that Pillow knows" if "cannot identify" in text else text[:120]) from None


class PictureBatch:
    """What a thread made of some rows: ``pixels`` (k, 3, side, side) of those that decoded, and why others did not."""

    def __init__(self, rows: npt.NDArray[np.int64], pixels: Tensor | None, problems: dict[int, str]) -> None:
        self.rows = rows
        self.pixels = pixels
        self.problems = problems


class Embedder:
    """A model with its settings; every result is float32 on the processor, unit norm."""

    def __init__(self, clip: ClipModel, *, batch_size: int, threads: int) -> None:
        import torch

        self.clip = clip
        self.batch_size = batch_size
        self.threads = threads
        first = next(iter(clip.model.parameters()), torch.empty(0))
        self.device = first.device
        self.dtype = first.dtype if first.dtype.is_floating_point else torch.float32

    def texts(self, texts: Sequence[str], where: str) -> Tensor:
        """(n, D) embeddings; a text that comes more than once is encoded once."""
        import torch

        place: dict[str, int] = {}
        at = [place.setdefault(text, len(place)) for text in texts]
        different = list(place)
        parts = []
        with torch.inference_mode():
            for begin in range(0, len(different), TEXTS_AT_ONCE):
                tokens = self.clip.tokenizer(different[begin : begin + TEXTS_AT_ONCE]).to(self.device)
                parts.append(_unit(self.clip.model.encode_text(tokens)))  # type: ignore[operator]
        found = torch.cat(parts)
        self._check(found, lambda row: f"text {different[row]!r} of {where}")
        return found[torch.tensor(at)]

    def classes(self, classes: Sequence[str], templates: Sequence[str], where: str) -> Tensor:
        """(c, D): for each class the mean of its prompts' embeddings, made unit again."""
        import torch

        step = max(1, CLASS_TEXTS_AT_ONCE // len(templates))
        weights = []
        for begin in range(0, len(classes), step):
            part = classes[begin : begin + step]
            # not str.format: a template is someone else's text, and may hold other braces
            prompts = [template.replace("{c}", name) for name in part for template in templates]
            found = self.texts(prompts, where).reshape(len(part), len(templates), -1).mean(1)
            weights.append(_unit(found))
        return torch.cat(weights)

    def pictures(self, evalset: EvalSet) -> Iterator[tuple[npt.NDArray[np.int64], Tensor, dict[int, str]]]:
        """(rows, (k, D) embeddings of them, row -> why it could not be decoded), batch by batch in order."""
        import torch

        for batch in self._decoded(evalset):
            if batch.pixels is None:
                yield batch.rows, torch.empty((0, self.clip.embed_dim)), batch.problems
                continue
            with torch.inference_mode():
                pixels = batch.pixels.to(device=self.device, dtype=self.dtype)
                found = _unit(self.clip.model.encode_image(pixels))  # type: ignore[operator]
            rows = batch.rows
            self._check(found, lambda row, rows=rows: f"picture {evalset.key(int(rows[row]))} of {evalset.task.key}")
            yield rows, found, batch.problems

    def _decoded(self, evalset: EvalSet) -> Iterator[PictureBatch]:
        shards, offsets, sizes = evalset.places
        files = [os.open(tar, os.O_RDONLY) for tar in evalset.tars]

        def decode(rows: npt.NDArray[np.int64]) -> PictureBatch:
            return self._decode(
                rows, [(files[shards[row]], int(offsets[row]), int(sizes[row])) for row in rows.tolist()]
            )

        total = len(evalset.rows)
        batches = (np.arange(a, min(a + self.batch_size, total)) for a in range(0, total, self.batch_size))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns of odd EXIF and of bombs; the limits here are our own
            waiting: deque[Future[PictureBatch]] = deque()
            with ThreadPoolExecutor(self.threads) as pool:
                try:
                    for rows in batches:
                        waiting.append(pool.submit(decode, rows))
                        if len(waiting) > self.threads + THREADS_AHEAD:
                            yield waiting.popleft().result()
                    while waiting:
                        yield waiting.popleft().result()
                finally:
                    for future in waiting:
                        future.cancel()
                    pool.shutdown()
                    for file in files:
                        os.close(file)

    def _decode(self, rows: npt.NDArray[np.int64], places: list[tuple[int, int, int]]) -> PictureBatch:
        import torch

        pixels, good, problems = [], [], {}
        for row, (file, offset, size) in zip(rows.tolist(), places, strict=True):
            try:
                pixels.append(self.clip.preprocess(decode_picture(os.pread(file, size, offset))))
                good.append(row)
            except (ValueError, OSError) as error:
                problems[row] = str(error)
        return PictureBatch(np.array(good, dtype=np.int64), torch.stack(pixels) if pixels else None, problems)

    def _check(self, found: Tensor, name: Any) -> None:
        import torch

        good = torch.isfinite(found).all(1)
        if not good.all():
            row = int((~good).nonzero()[0])
            raise RunError(
                f"model {self.clip.name} ({self.clip.source}) gives an embedding with NaN or infinity for {name(row)}; "
                "its weights are damaged or its training diverged: evaluate another checkpoint"
            )


def _unit(features: Tensor) -> Tensor:
    import torch

    # a zero vector stays zero (its similarities are all equal), NaN stays NaN and is found by the caller
    return torch.nn.functional.normalize(features.float().cpu(), dim=1)
