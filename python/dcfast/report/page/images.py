"""Small pictures for the page, read from the shards by offset. Whatever fails becomes a placeholder with its reason.

Memory: one picture at a time, and the index columns of the segments looked at (memory-mapped).
"""

from __future__ import annotations

import base64
import io
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dcfast.evaluate.hub import is_hub_file
from dcfast.images import costs
from dcfast.images.decode import BadImage, eight_bits, open_image
from dcfast.index.build import Segment
from dcfast.index.segments import IMAGE_EXTS
from dcfast.report.text import clean
from dcfast.rundir.layout import segment_path
from dcfast.storage.inputs import open_input
from dcfast.storage.json_files import read_json

__all__ = ["EvalReader", "PoolReader", "Sample", "Thumbnail", "thumbnail"]

SIDE = 256
"""Pixels of a thumbnail's longer side: sharp at the 160 or so that the page shows, also on a phone's screen."""
CAPTION_BYTES = 4_096
"""What is read of a caption; the page shows less."""


@dataclass(frozen=True)
class Thumbnail:
    """A picture for the page: a data URI, or why there is none; width and height are those of the original."""

    uri: str = ""
    width: int = 0
    height: int = 0
    problem: str = ""

    @property
    def is_small(self) -> bool:
        """Whether the original has fewer pixels than the page shows, so that it is enlarged without smoothing."""
        return bool(self.uri) and max(self.width, self.height) <= 96


@dataclass(frozen=True)
class Sample:
    """A sample of the pool or an evaluation set: thumbnail, and the caption where it has one."""

    picture: Thumbnail
    caption: str | None = None
    caption_bytes: int = 0


def thumbnail(data: bytes) -> Thumbnail:
    """A JPEG of at most SIDE pixels a side as a data URI; never raises for bad bytes.

    EXIF turns are not applied, since training does not apply them.
    """
    try:
        from PIL import Image
    except ImportError:
        return Thumbnail(problem="pictures need Pillow: pip install 'dcfast[run]'")
    out = io.BytesIO()
    try:
        with open_image(data) as image:
            width, height = image.size
            image.draft("RGB", (2 * SIDE, 2 * SIDE))
            small: Any = eight_bits(image)
            if small.mode in ("LA", "PA", "RGBA", "RGBa", "La") or "transparency" in small.info:
                small = small.convert("RGBA")
                small.thumbnail((SIDE, SIDE))
                ground = Image.new("RGB", small.size, "white")
                ground.paste(small, mask=small.getchannel("A"))
                small = ground
            else:
                small = small.convert("RGB")
                small.thumbnail((SIDE, SIDE))
            small.info.clear()  # comments and profiles, which Pillow would write too
            small.save(out, "JPEG", quality=80)
    except MemoryError:
        return Thumbnail(problem="too large to preview")
    except BadImage as error:
        large = error.status == "too_large"
        problem = "too large to preview" if large else f"cannot be shown: {clean(str(error), 80)}"
        return Thumbnail(width=error.size[0], height=error.size[1], problem=problem)
    return Thumbnail("data:image/jpeg;base64," + base64.b64encode(out.getvalue()).decode(), width, height)


def _read(path: str | os.PathLike[str], offset: int, length: int) -> bytes:
    with open_input(path) as file:
        return os.pread(file.fileno(), length, offset)


def _segment_sample(segment: Any, place: int, path: str | os.PathLike[str]) -> Sample:
    """The sample at that place of a segment, whose shard is ``path``. Cost: its own members, not the segment."""
    offsets, sizes, extensions = segment.members_of(place, place + 1)
    picture = Thumbnail(problem="no picture")
    caption, caption_bytes = None, 0
    for offset, length, number in zip(offsets.tolist(), sizes.tolist(), extensions.tolist(), strict=True):
        extension = segment.exts_lower[number]
        if extension == "txt":
            caption = clean(_read(path, offset, min(length, CAPTION_BYTES)).decode("utf-8", "replace"))
            caption_bytes = length
        elif extension.rpartition(".")[2] in IMAGE_EXTS and picture.problem == "no picture":
            large = length > costs.MAX_BYTES
            picture = Thumbnail(problem="too large to preview") if large else thumbnail(_read(path, offset, length))
    return Sample(picture, caption, caption_bytes)


def _guarded(read: Callable[[], Sample]) -> Sample:
    # a preview is never worth a failed report: the shard may have been moved since, its disk may fail
    try:
        return read()
    except Exception as error:
        words = clean(str(error) or type(error).__name__, 80)
        return Sample(Thumbnail(problem=f"cannot be read: {words}"))


class PoolReader:
    """Samples of the pool by (shard name, row), through the run's index.

    The shards of the segments are in sorted order, so a name is found by bisection over the segments.
    """

    def __init__(self, root: Path, shard_dir: Path) -> None:
        self.root = root
        self.shard_dir = shard_dir
        self._open: dict[int, Any] = {}
        try:
            self.num_segments = len(read_json(root / "index" / "index.json")["segments"])
        except (OSError, ValueError, KeyError, TypeError):
            self.num_segments = 0

    def _segment(self, number: int) -> Any:
        if number not in self._open:
            # verified when the run's stages read it: here a few samples are looked at
            self._open[number] = Segment.open(self.root / segment_path(number), verify=False)
        return self._open[number]

    def _find(self, shard: str) -> tuple[Any, int]:
        low, high = 0, self.num_segments  # the last segment whose first shard is not after this one
        while high - low > 1:
            middle = (low + high) // 2
            if self._segment(middle).shard_names[0] <= shard:
                low = middle
            else:
                high = middle
        found = self._segment(low)
        return found, found.shard_names.index(shard)

    def sample(self, shard: str, row: int) -> Sample:
        """Never raises: what cannot be read has a placeholder."""

        def read() -> Sample:
            segment, place = self._find(shard)
            begin, end = (int(segment.shard_sample_begin[place + i]) for i in (0, 1))
            if begin + row >= end:
                raise LookupError(f"the shard has {end - begin} samples")
            return _segment_sample(segment, begin + row, self.shard_dir / shard)

        return _guarded(read)


class EvalReader:
    """Samples of the evaluation sets by (set, shard, key).

    Args:
        sets: (name, its tars) in the order in which the signatures stage numbered them.
    """

    def __init__(self, root: Path, sets: list[tuple[str, list[str]]]) -> None:
        self.root = root
        self.numbers = {name: number for number, (name, _) in enumerate(sets)}
        self.tars = {name: {Path(tar).name: tar for tar in tars} for name, tars in sets}
        self._open: dict[str, Any] = {}

    def sample(self, name: str, shard: str, key: str) -> Sample:
        """Never raises: what cannot be read has a placeholder."""
        import pyarrow as pa
        import pyarrow.compute as pc

        def read() -> Sample:
            if is_hub_file(shard):
                raise LookupError("not shown: it lies in a cache of Hugging Face's hub")
            if name not in self._open:
                path = self.root / "state/signatures/evalsets" / f"{self.numbers[name]:03d}.dcx"
                self._open[name] = Segment.open(path, verify=False)
            segment = self._open[name]
            place = segment.shard_names.index(shard)
            begin, end = (int(segment.shard_sample_begin[place + i]) for i in (0, 1))
            keys = segment.keys(begin, end)
            at = pc.index(keys, pa.scalar(key, type=keys.type)).as_py()
            if at < 0:
                raise LookupError("this key is not in the evaluation set")
            return _segment_sample(segment, begin + at, self.tars[name][shard])

        return _guarded(read)
