"""Embeddings of pictures and texts by a CLIP model, a batch at a time.

Memory: ``BATCHES_AHEAD`` more batches of decoded pictures than there are threads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, cast

import numpy as np

from dcfast.errors import RunError
from dcfast.evaluate.opened import EvalSet
from dcfast.evaluate.pictures import Batch, Ints
from dcfast.images.costs import BadImage
from dcfast.images.decode import check_resized, decode_image, quiet
from dcfast.models.devices import one_thread
from dcfast.process.advance import tell_advance
from dcfast.process.read_ahead import read_ahead

if TYPE_CHECKING:
    from torch import Tensor

    from dcfast.models.clip import ClipModel

BATCHES_AHEAD = 1
TEXTS_AT_ONCE = 256
CLASS_TEXTS_AT_ONCE = 4096


@dataclass(frozen=True)
class ImageBatch:
    """What became of some rows of a set: ``features`` (k, D) of the ``rows`` that decoded, and why others did not."""

    rows: Ints
    features: Tensor
    problems: dict[int, str]


class Embedder:
    """A model with its settings; every result is float32 on the processor, unit norm.

    On the CPU each thread takes a batch through decoding and the model, with one thread of torch: the same bits for
    any number of threads. On a GPU the threads decode, and one batch at a time goes through the model.

    Args:
        amp: float16 autocast where the reference has it on a GPU: all texts, and pictures of retrieval and riddles;
            of float32 weights alone. None: on a GPU.
    Attributes:
        expected, seen: pictures and texts of all sets that are to be scored, and those that have been; ``at``: the set
            at work. They are told as it goes (``dcfast.process.advance``).
    """

    def __init__(self, clip: ClipModel, *, batch_size: int, threads: int, amp: bool | None = None) -> None:
        import torch

        self.clip = clip
        self.batch_size = batch_size
        self.threads = threads
        first = next(iter(clip.model.parameters()), torch.empty(0))
        self.device: torch.device = first.device
        self.dtype: torch.dtype = first.dtype if first.dtype.is_floating_point else torch.float32
        self.expected: int = 0
        self.seen: int = 0
        self.at = ""
        self.amp: bool = (self.device.type != "cpu" if amp is None else amp) and self.dtype == torch.float32

    @property
    def precision(self) -> str:
        """What scores depend on: ``amp``, or the dtype of the weights."""
        return "amp" if self.amp else str(self.dtype).removeprefix("torch.")

    def tell(self, more: str = "") -> None:
        """Tells how far it is; ``more``: what is at work in the set, in words."""
        tell_advance(self.seen, self.expected, "embeddings", self.at + more)

    def texts(self, texts: Sequence[str], where: str, *, before: int = 0, among: int = 0) -> Tensor:
        """(n, D) embeddings; a text that comes more than once is encoded once.

        ``before``: texts that came before these, ``among`` so many in all, for what is told.
        """
        import torch

        number: dict[str, int] = {}
        row_of_text = [number.setdefault(text, len(number)) for text in texts]
        different = list(number)
        # tokenised here: not every tokenizer may be used by several threads
        tokens = (
            self.clip.tokenizer(different[begin : begin + TEXTS_AT_ONCE])
            for begin in range(0, len(different), TEXTS_AT_ONCE)
        )

        def encode(batch: Tensor) -> Tensor:
            return self._encode(self.clip.model.encode_text, batch.to(self.device), True)

        threads = self.threads if self.device.type == "cpu" else 1
        ahead = threads + BATCHES_AHEAD - 1
        parts: list[Tensor] = []
        seen = self.seen
        with one_thread(self.device.type):
            for part in read_ahead(encode, tokens, threads=threads, ahead=ahead):
                parts.append(part)
                encoded = min(TEXTS_AT_ONCE * len(parts), len(different))
                self.seen = seen + len(texts) * encoded // len(different)  # those that come twice count, too
                self.tell(f", text {before + encoded:,} of {among or len(different):,}")
        features = torch.cat(parts)
        self._check(features, lambda row: f"text {different[row]!r} of {where}")
        return features[torch.tensor(row_of_text)]

    def classes(self, classes: Sequence[str], templates: Sequence[str], where: str) -> Tensor:
        """(c, D): for each class the mean of its prompts' embeddings, made unit again."""
        import torch

        step = max(1, CLASS_TEXTS_AT_ONCE // len(templates))
        weights = []
        for begin in range(0, len(classes), step):
            part = classes[begin : begin + step]
            # not str.format: a template is someone else's text, and may hold other braces
            prompts = [template.replace("{c}", name) for name in part for template in templates]
            count = begin * len(templates), len(classes) * len(templates)
            texts = self.texts(prompts, where, before=count[0], among=count[1])
            weights.append(_unit(texts.reshape(len(part), len(templates), -1).mean(1)))
        return torch.cat(weights)

    def pictures(self, evalset: EvalSet, *, amp: bool = False) -> Iterator[ImageBatch]:
        """The pictures of a set, batch by batch in order.

        Args:
            amp: in autocast, where this embedder has it at all.
        """
        on_cpu = self.device.type == "cpu"

        def work(batch: Batch) -> tuple[Ints, Tensor, dict[int, str]]:
            rows, pixels, problems = self._decode(batch)
            return rows, self._encode_pictures(pixels, amp) if on_cpu else pixels, problems

        ahead = self.threads + BATCHES_AHEAD - 1
        with (
            quiet,
            one_thread(self.device.type),
            evalset.pictures.read(evalset.rows, self.batch_size) as batches,
            closing(read_ahead(work, batches, threads=self.threads, ahead=ahead)) as decoded,
        ):
            for rows, pixels, problems in decoded:
                features = pixels if on_cpu else self._encode_pictures(pixels, amp)
                self._check(features, partial(_picture_name, evalset, rows))
                self.seen += len(rows) + len(problems)
                self.tell()
                yield ImageBatch(rows, features, problems)

    def _decode(self, batch: Batch) -> tuple[Ints, Tensor, dict[int, str]]:
        import torch

        pixels, rows, problems = [], [], {}
        for row, encoded in zip(batch[0].tolist(), batch[1], strict=True):
            try:
                image = decode_image(encoded())
                check_resized(image, self.clip.image_size)
            except BadImage as error:
                problems[row] = str(error)
            else:
                pixels.append(self.clip.preprocess(image))
                rows.append(row)
        return np.array(rows, dtype=np.int64), torch.stack(pixels) if pixels else torch.empty(0), problems

    def _encode_pictures(self, pixels: Tensor, amp: bool) -> Tensor:
        if len(pixels) == 0:
            return pixels.reshape(0, self.clip.embed_dim)
        return self._encode(self.clip.model.encode_image, pixels.to(device=self.device, dtype=self.dtype), amp)

    def _encode(self, encoder: object, inputs: Tensor, amp: bool) -> Tensor:
        import torch

        with torch.inference_mode():
            with torch.autocast(self.device.type, torch.float16, enabled=self.amp and amp):
                features = cast("Callable[[Tensor], Tensor]", encoder)(inputs)
            return _unit(features)

    def _check(self, features: Tensor, name: Callable[[int], str]) -> None:
        import torch

        good = torch.isfinite(features).all(1)
        if not good.all():
            row = int((~good).nonzero()[0])
            raise RunError(
                f"model {self.clip.name} ({self.clip.source}) gives an embedding with NaN or infinity for {name(row)}; "
                "its weights are damaged or its training diverged: evaluate another checkpoint"
            )


def _picture_name(evalset: EvalSet, rows: Ints, place: int) -> str:
    return f"picture {evalset.key(int(rows[place]))} of {evalset.task.key}"


def _unit(features: Tensor) -> Tensor:
    import torch

    # a zero vector stays zero (its similarities are all equal), NaN stays NaN and is found by the caller
    return torch.nn.functional.normalize(features.float().cpu(), dim=1)
