"""Small pictures for the page, read from the shards by offset. Whatever fails becomes a placeholder with its reason.

Memory: one picture at a time, and the index columns of the segments looked at (memory-mapped).
"""

from __future__ import annotations

import base64
import io
import os
from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path

from dcfast.evaluate.hub import is_hub_file
from dcfast.images import costs
from dcfast.images.costs import BadImage
from dcfast.images.decode import eight_bits, open_image
from dcfast.index.pool_index import IndexLayout
from dcfast.index.segments import IMAGE_EXTS, Segment
from dcfast.report.text import clean
from dcfast.rundir.layout import segment_path
from dcfast.rundir.summaries import find_summary
from dcfast.storage.inputs import open_input

SIDE = 256
"""Pixels of a thumbnail's longer side: sharp at the 160 or so that the page shows, also on a phone's screen."""
CAPTION_BYTES = 4_096
"""What is read of a caption; the page shows less."""
TOO_LARGE = "too large to preview"


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
class Preview:
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
            small = eight_bits(image)
            has_alpha = small.mode in ("LA", "PA", "RGBA", "RGBa", "La") or "transparency" in small.info
            small = small.convert("RGBA" if has_alpha else "RGB")
            small.thumbnail((SIDE, SIDE))
            if has_alpha:
                ground = Image.new("RGB", small.size, "white")
                ground.paste(small, mask=small.getchannel("A"))
                small = ground
            small.info.clear()  # comments and profiles, which Pillow would write too
            small.save(out, "JPEG", quality=80)
    except MemoryError:
        return Thumbnail(problem=TOO_LARGE)
    except BadImage as error:
        problem = TOO_LARGE if error.status == "too_large" else f"cannot be shown: {clean(str(error), 80)}"
        return Thumbnail(width=error.size[0], height=error.size[1], problem=problem)
    return Thumbnail("data:image/jpeg;base64," + base64.b64encode(out.getvalue()).decode(), width, height)


def _segment_preview(segment: Segment, place: int, path: str | os.PathLike[str]) -> Preview:
    """The sample at that place of a segment, whose shard is ``path``. Cost: its own members, not the segment."""
    offsets, sizes, extensions = segment.members_of(place, place + 1)
    picture = Thumbnail(problem="no picture")
    caption, caption_bytes = None, 0
    with open_input(path) as shard:
        for offset, length, number in zip(offsets.tolist(), sizes.tolist(), extensions.tolist(), strict=True):
            extension = segment.exts_lower[number]
            if extension == "txt":
                start = os.pread(shard.fileno(), min(length, CAPTION_BYTES), offset)
                caption, caption_bytes = clean(start.decode("utf-8", "replace")), length
            elif extension.rpartition(".")[2] in IMAGE_EXTS and picture.problem == "no picture":
                large = length > costs.MAX_BYTES
                picture = Thumbnail(problem=TOO_LARGE) if large else thumbnail(os.pread(shard.fileno(), length, offset))
    return Preview(picture, caption, caption_bytes)


def _samples_of(segment: Segment, shard: str) -> tuple[int, int]:
    """The first sample of a shard, and the first of the next."""
    place = segment.shard_names.index(shard)
    return int(segment.shard_sample_begin[place]), int(segment.shard_sample_begin[place + 1])


def _guarded(read: Callable[[], Preview]) -> Preview:
    # a preview is never worth a failed report: the shard may have been moved since, its disk may fail
    try:
        return read()
    except Exception as error:
        return Preview(Thumbnail(problem=f"cannot be read: {clean(str(error) or type(error).__name__, 80)}"))


class PoolPreviews:
    """Samples of the pool by (shard name, row), through the run's index.

    The shards of the segments are in sorted order, so a name is found by bisection over the segments. Unlike
    ``dcfast.PoolReader`` it opens no other segment and reads no more of a member than is shown.
    """

    def __init__(self, root: Path, shard_dir: Path) -> None:
        self.root = root
        self.shard_dir = shard_dir
        # verified when the run's stages read it: here a few samples are looked at
        self._segment = cache(lambda number: Segment.open(root / segment_path(number), verify=False))

    @cached_property
    def num_segments(self) -> int:
        layout = find_summary(self.root / "index" / "index.json", IndexLayout)
        return 0 if layout is None else len(layout.segments)

    def _find(self, shard: str) -> Segment:
        """The last segment whose first shard is not after this one."""
        after = bisect_right(range(self.num_segments), shard, key=lambda number: self._segment(number).shard_names[0])
        return self._segment(max(after - 1, 0))

    def sample(self, shard: str, row: int) -> Preview:
        """Never raises: what cannot be read has a placeholder."""

        def read() -> Preview:
            segment = self._find(shard)
            begin, end = _samples_of(segment, shard)
            if begin + row >= end:
                raise LookupError(f"the shard has {end - begin} samples")
            return _segment_preview(segment, begin + row, self.shard_dir / shard)

        return _guarded(read)


class EvalsetPreviews:
    """Samples of the evaluation sets by (set, shard, key).

    Args:
        sets: (name, its tars) in the order in which the signatures stage numbered them.
    """

    def __init__(self, root: Path, sets: list[tuple[str, list[str]]]) -> None:
        folder = root / "state" / "signatures" / "evalsets"
        self.numbers = {name: number for number, (name, _) in enumerate(sets)}
        self.tars = {name: {Path(tar).name: tar for tar in tars} for name, tars in sets}
        self._segment = cache(lambda name: Segment.open(folder / f"{self.numbers[name]:03d}.dcx", verify=False))

    def sample(self, name: str, shard: str, key: str) -> Preview:
        """Never raises: what cannot be read has a placeholder."""
        import pyarrow as pa
        import pyarrow.compute as pc

        def read() -> Preview:
            if is_hub_file(shard):
                raise LookupError("not shown: it lies in a cache of Hugging Face's hub")
            segment = self._segment(name)
            begin, end = _samples_of(segment, shard)
            keys = segment.keys(begin, end)
            at = pc.index(keys, pa.scalar(key, type=keys.type)).as_py()
            if at < 0:
                raise LookupError("this key is not in the evaluation set")
            return _segment_preview(segment, begin + at, self.tars[name][shard])

        return _guarded(read)
