"""Small pictures for the page, read from the shards by offset. Whatever fails becomes a placeholder with its reason.

Memory: one picture at a time, and the index columns of the segments looked at (memory-mapped).
"""

from __future__ import annotations

import base64
import importlib.util
import io
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from dcfast.errors import PoolError
from dcfast.evaluate.hub import is_hub_file
from dcfast.evaluate.tasks import compared_sets
from dcfast.images import costs
from dcfast.images.costs import BadImage
from dcfast.images.decode import eight_bits, open_image
from dcfast.index.segments import IMAGE_EXTS, Segment
from dcfast.report.text import clean
from dcfast.rundir.lookup import SampleLookup
from dcfast.storage.inputs import open_input

if TYPE_CHECKING:
    from PIL import Image

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


NO_SAMPLE = Preview(Thumbnail(problem="no sample of the shards"))
"""Of a metadata row that the shards have no sample of."""


def shrunk(data: bytes, side: int) -> tuple[Image.Image, tuple[int, int]]:
    """A picture in RGB, at most ``side`` pixels a side, on white where it is transparent; and its own width and height.

    EXIF turns are not applied, since training does not apply them. BadImage, MemoryError: it cannot be shown.
    """
    from PIL import Image

    with open_image(data) as image:
        size = image.size
        image.draft("RGB", (2 * side, 2 * side))
        small = eight_bits(image)
        has_alpha = small.mode in ("LA", "PA", "RGBA", "RGBa", "La") or "transparency" in small.info
        small = small.convert("RGBA" if has_alpha else "RGB")
        small.thumbnail((side, side))
        if has_alpha:
            ground = Image.new("RGB", small.size, "white")
            ground.paste(small, mask=small.getchannel("A"))
            small = ground
        small.info.clear()  # comments and profiles, which Pillow would write too
        return small, size


def thumbnail(data: bytes, side: int = SIDE) -> Thumbnail:
    """A JPEG of at most ``side`` pixels a side as a data URI; never raises for bad bytes."""
    if importlib.util.find_spec("PIL") is None:
        return Thumbnail(problem="pictures need Pillow: pip install 'dcfast[run]'")
    out = io.BytesIO()
    try:
        small, (width, height) = shrunk(data, side)
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
            elif _is_picture(extension) and picture.problem == "no picture":
                large = length > costs.MAX_BYTES
                picture = Thumbnail(problem=TOO_LARGE) if large else thumbnail(os.pread(shard.fileno(), length, offset))
    return Preview(picture, caption, caption_bytes)


def _is_picture(extension: str) -> bool:
    return extension.rpartition(".")[2] in IMAGE_EXTS


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

    Unlike ``dcfast.PoolReader`` it opens no other segment and reads no more of a member than is shown.
    """

    def __init__(self, root: Path, shard_dir: Path) -> None:
        self.samples: SampleLookup = SampleLookup(root)
        self.shard_dir = shard_dir

    def sample(self, shard: str, row: int) -> Preview:
        """Never raises: what cannot be read has a placeholder."""

        def read() -> Preview:
            segment, _, samples = self.samples.shard(shard)
            if row >= len(samples):
                raise LookupError(f"the shard has {len(samples)} samples")
            return _segment_preview(segment, samples[row], self.shard_dir / shard)

        return _guarded(read)

    def picture(self, shard: str, row: int) -> bytes | None:
        """The encoded picture of a sample; None where it has none, or one too large to preview.

        Raises LookupError, OSError or CorruptDataError where it cannot be read.
        """
        segment, _, samples = self.samples.shard(shard)
        offsets, sizes, extensions = segment.members_of(samples[row], samples[row] + 1)
        for offset, length, number in zip(offsets.tolist(), sizes.tolist(), extensions.tolist(), strict=True):
            if _is_picture(segment.exts_lower[number]) and length <= costs.MAX_BYTES:
                with open_input(self.shard_dir / shard) as file:
                    return os.pread(file.fileno(), length, offset)
        return None


class EvalsetPreviews:
    """Samples of the evaluation sets by (set, shard, key).

    Args:
        sets: (name, its tars) in the order in which the signatures stage numbered them.
    """

    @classmethod
    def of_directory(cls, root: Path, directory: Path | None) -> EvalsetPreviews:
        """Of the sets of a directory; where it is gone since, every picture has a placeholder."""
        try:
            return cls(root, [] if directory is None else compared_sets(directory))
        except PoolError:
            return cls(root, [])

    def __init__(self, root: Path, sets: list[tuple[str, list[str]]]) -> None:
        folder = root / "state" / "signatures" / "evalsets"
        self.numbers: dict[str, int] = {name: number for number, (name, _) in enumerate(sets)}
        self.tars: dict[str, dict[str, str]] = {name: {Path(tar).name: tar for tar in tars} for name, tars in sets}
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
