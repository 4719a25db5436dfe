"""Where captions come from: the member txt, a field of the json, a column of parquet by uid; one of several is drawn.

What is drawn is a pure function of the seed and the sample's number in the training, as crop windows are: the same for
any number of ranks and workers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Protocol

import numpy as np
import numpy.typing as npt

from dcfast.access.counter import stream_key, uniform
from dcfast.process.caption_places import TXT, CaptionFrom
from dcfast.storage.json_files import parse_json

MOST_JSON_BYTES = 8 << 20
"""Of a sample's json, as in the index."""
_STREAM = 17  # of a seed


class Texts(Protocol):
    """Captions of a sample from one place, by number."""

    def __len__(self) -> int: ...

    def __getitem__(self, number: int, /) -> bytes | memoryview: ...


@dataclass(frozen=True)
class CaptionRule:
    """Where the captions of a source come from.

    Attributes:
        places: at least one.   seed: of what is drawn.
        tables: place of the table of each that is parquet (``caption_table``), in order.
    """

    places: tuple[CaptionFrom, ...] = (TXT,)
    seed: int = 0
    tables: tuple[str, ...] = field(default=())

    @property
    def kinds(self) -> set[str]:
        return {place.kind for place in self.places}

    @property
    def is_txt(self) -> bool:
        """Whether it is the member txt alone, of which there is nothing to draw."""
        return self.kinds == {"txt"}

    @property
    def lacking(self) -> str:
        """Why a sample without a caption cannot be used."""
        return f"no caption ({', '.join(map(str, self.places))})"

    def draws(self, samples: npt.NDArray[np.int64]) -> list[float]:
        """A number in [0, 1) for each sample by its number."""
        drawn: list[float] = uniform(stream_key(self.seed, _STREAM), samples).tolist()
        return drawn

    def choose(
        self, txt: memoryview | None, json: memoryview | None, of_tables: Sequence[Texts], draw: float
    ) -> bytes | memoryview | None:
        """One of a sample's captions; an empty one where there is no other, None where there is none.

        The places that have any share by their weights; the captions of one place share alike.
        """
        found: list[tuple[float, Texts]] = []
        tables = iter(of_tables)
        for place in self.places:
            texts: Texts
            if place.kind == "txt":
                texts = [txt] if txt is not None and len(txt) else []
            else:
                texts = next(tables) if place.kind == "parquet" else _of_json(json, place.name)
            if len(texts):
                found.append((place.weight, texts))
        if not found:
            return txt
        ends = list(accumulate(weight for weight, _ in found))
        at = draw * ends[-1]
        number = min(sum(at >= end for end in ends), len(ends) - 1)
        weight, texts = found[number]
        within = (at - (ends[number] - weight)) / weight
        return texts[min(max(0, int(within * len(texts))), len(texts) - 1)]


TXT_ALONE = CaptionRule()


def _of_json(data: memoryview | None, name: str) -> list[bytes]:
    """The texts of a field: one, or a list of them. None where the json cannot be read, or lacks it."""
    if data is None or len(data) > MOST_JSON_BYTES:
        return []
    try:
        value = parse_json(bytes(data), any_number=True)
    except ValueError:
        return []
    found = value.get(name) if isinstance(value, dict) else None
    texts = found if isinstance(found, list) else [found]
    return [text.encode("utf-8", "replace") for text in texts if isinstance(text, str) and text]
