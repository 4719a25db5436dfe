"""Members that a reshard changes: boxes written into the json, and pictures with boxes blurred, as DataComp does both.

Changed payloads go into one spool file beside the output, from which the shard is then written like from any source.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from dcfast.errors import CorruptDataError
from dcfast.images.blur import blur_image
from dcfast.images.costs import MAX_BYTES
from dcfast.index.segments import IMAGE_EXTS
from dcfast.process.read_ahead import read_ahead
from dcfast.resharding.boxes import BoxTable
from dcfast.resharding.contents import ShardContents
from dcfast.resharding.layout import EDIT_COUNTS
from dcfast.storage.inputs import open_input
from dcfast.storage.json_files import parse_json


@dataclass(frozen=True)
class BlurOptions:
    """What to do with samples that have boxes.

    Attributes:
        table: the boxes by uid (``make_box_table``).
        apply: blur the boxes in the picture, which becomes a ``.webp`` in place of what it was.
        inject: write the boxes into the json as ``face_bboxes``.
        quality: of the WebP, 0 to 100.
    """

    table: BoxTable
    apply: bool = False
    inject: bool = False
    quality: int = 100

    def __post_init__(self) -> None:
        if not (self.apply or self.inject):
            raise ValueError("blur: one of apply and inject must be true")
        if not 0 <= self.quality <= 100:
            raise ValueError(f"blur: quality must be 0 to 100; got {self.quality}")


@contextmanager
def edited_contents(
    contents: ShardContents, blur: BlurOptions, spool_path: Path, threads: int = 1
) -> Iterator[tuple[ShardContents, dict[str, int]]]:
    """What a shard holds with its changes made; ``spool_path`` is written, and removed at the end.

    Args:
        threads: that blur pictures. The bytes are the same for any number.
    Yields:
        What is to be written, and samples by the names of ``EDIT_COUNTS``. ``inject_failed`` keep their json as it is,
        without the boxes: it cannot be read as an object, or there is none, or the boxes were refused. They are written
        all the same, blurred where that is asked for. ``blur_failed`` are left out: their picture has boxes and cannot
        be decoded or is not known as one, or their boxes were refused or reach over no pixel.
    Raises:
        CorruptDataError: a member ends early.
    Memory: one picture decoded a thread, 1 kB a member of the shard. Cost: a decode and an encode of each blurred
    picture.
    """
    try:
        with open(spool_path, "wb") as spool:
            editor = _Editor(contents, blur, spool)
            edited = editor.run(threads)
        status = spool_path.stat()
        edited.sources.append(os.fspath(spool_path))
        edited.source_size = np.append(edited.source_size, np.uint64(status.st_size))
        edited.source_mtime_ns = np.append(edited.source_mtime_ns, np.int64(status.st_mtime_ns))
        yield edited, editor.counts
    finally:
        spool_path.unlink(missing_ok=True)


@dataclass
class _Member:
    key: bytes
    ext: bytes
    source: int
    offset: int
    size: int


class _Editor:
    def __init__(self, contents: ShardContents, blur: BlurOptions, spool: BinaryIO) -> None:
        self.contents, self.blur, self.spool = contents, blur, spool
        self.spooled = 0
        self.source = len(contents.sources)  # the spool's number
        self.counts = dict.fromkeys(EDIT_COUNTS, 0)
        # where each changed payload lies in the spool, None where it could not be made. The copies of a sample follow
        # each other or not: each distinct payload is made once
        self.made: dict[tuple[int, int, bool], tuple[int, int] | None] = {}

    def run(self, threads: int) -> ShardContents:
        boxes_of = self.blur.table.look_up(self.contents.uid)
        members_of = self.members()
        if self.blur.apply:
            self.blur_images(members_of, boxes_of, threads)
        kept: list[int] = []
        for i, (members, boxes) in enumerate(zip(members_of, boxes_of, strict=True)):
            if boxes is None or len(boxes) == 0 or self.edit(members, boxes):
                kept.append(i)
        self.counts["blur_failed"] = len(members_of) - len(kept)
        return self.rebuilt(np.array(kept, np.int64), [members_of[i] for i in kept])

    def members(self) -> list[list[_Member]]:
        """Of each sample."""
        c = self.contents
        members_of: list[list[_Member]] = [[] for _ in range(len(c.uid))]
        places = zip(c.member_sample.tolist(), c.source.tolist(), c.offset.tolist(), c.size.tolist(), strict=True)
        for name, (sample, *place) in zip(c.member_names(), places, strict=True):
            key, ext = name.split(b".", 1)
            members_of[sample].append(_Member(key, ext, *place))
        return members_of

    def blur_images(
        self, members_of: list[list[_Member]], boxes_of: list[NDArray[np.float64] | None], threads: int
    ) -> None:
        """Spools the blurred images of all samples, or notes that they cannot be made."""
        images: dict[tuple[int, int, bool], tuple[_Member, NDArray[np.float64]]] = {}
        for members, boxes in zip(members_of, boxes_of, strict=True):
            image = _image(members)
            if image is not None and boxes is not None and len(boxes) and not np.isnan(boxes).any():
                images[_made_key(image, True)] = (image, boxes)

        def blurred(item: tuple[_Member, NDArray[np.float64]]) -> bytes | None:
            image, boxes = item
            return self.changed(image, True, lambda data: blur_image(data, boxes, self.blur.quality))

        with closing(read_ahead(blurred, images.values(), threads=threads, ahead=2 * threads)) as made:
            for key, data in zip(images, made, strict=True):
                self.spool_as(key, data)

    def edit(self, members: list[_Member], boxes: NDArray[np.float64]) -> bool:
        """Changes the members of a sample in place; False where it must be left out."""
        image = _image(members)
        refused = bool(np.isnan(boxes).any())
        if self.blur.apply and image is None and any(m.ext.lower() not in _TEXTS for m in members):
            return False  # no member is known as an image by its extension, and one may be
        if self.blur.apply and image is not None:
            made = None if refused else self.made[_made_key(image, True)]
            if made is None:
                return False
            # as the reference: the image is a webp now, and takes the place of one that was there
            members[:] = [m for m in members if m is image or m.ext != b"webp"]
            image.ext, image.source, (image.offset, image.size) = b"webp", self.source, made
            members.sort(key=lambda member: member.ext)
            self.counts["blurred"] += 1
        if self.blur.inject:
            injected = not refused and self.inject(members, boxes)
            self.counts["injected" if injected else "inject_failed"] += 1
        return True

    def inject(self, members: list[_Member], boxes: NDArray[np.float64]) -> bool:
        """Writes the boxes into the json in place; False where that cannot be done.

        The index finds a uid in json that Python refuses (bytes that are no UTF-8, say): no reason to end the run.
        """
        described = next((m for m in members if m.ext == b"json"), None)
        if described is None:
            return False
        key = _made_key(described, False)
        if key not in self.made:
            self.spool_as(key, self.changed(described, False, lambda data: _with_boxes(data, boxes)))
        made = self.made[key]
        if made is not None:
            described.source, (described.offset, described.size) = self.source, made
        return made is not None

    def changed(self, member: _Member, is_image: bool, change: Callable[[bytes], bytes]) -> bytes | None:
        """The changed payload, None where ``change`` refuses it."""
        try:
            size = min(member.size, MAX_BYTES + 1) if is_image else member.size
            return change(_read(self.contents.sources[member.source], member.offset, size))
        except CorruptDataError:
            raise
        except ValueError:
            return None

    def spool_as(self, key: tuple[int, int, bool], data: bytes | None) -> None:
        self.made[key] = None if data is None else (self.spooled, len(data))
        if data is not None:
            self.spool.write(data)
            self.spooled += len(data)

    def rebuilt(self, kept: NDArray[np.int64], samples: list[list[_Member]]) -> ShardContents:
        c = self.contents
        members = [member for sample in samples for member in sample]
        names = [member.key + b"." + member.ext for member in members]
        counts = np.array([len(sample) for sample in samples], np.int64)
        return replace(
            c,
            uid=c.uid[kept],
            copy=c.copy[kept],
            member_sample=np.repeat(np.arange(len(samples), dtype=np.uint32), counts),
            sources=list(c.sources),
            source=np.array([m.source for m in members], np.uint32),
            offset=np.array([m.offset for m in members], np.uint64),
            size=np.array([m.size for m in members], np.uint64),
            names=np.frombuffer(b"".join(names), np.uint8),
            name_begin=np.cumsum([0] + [len(name) for name in names]).astype(np.uint64),
        )


def _made_key(member: _Member, is_image: bool) -> tuple[int, int, bool]:
    """Of a changed payload: the copies of a sample share it."""
    return (member.source, member.offset, is_image)


def _image(members: list[_Member]) -> _Member | None:
    """The member that is blurred: jpg before others, as the reference knows no others."""
    images = [m for m in members if m.ext.rsplit(b".", 1)[-1].decode("latin-1").lower() in IMAGE_EXTS]
    return next((m for m in images if m.ext == b"jpg"), images[0] if images else None)


_TEXTS = (b"json", b"txt")
"""Extensions of members that show no face, whatever boxes a sample has."""
MOST_JSON_BYTES = 8 << 20
"""Of a sample's json, as in the index."""


def _with_boxes(data: bytes, boxes: NDArray[np.float64]) -> bytes:
    if len(data) > MOST_JSON_BYTES:
        raise ValueError(f"cannot be read: it has {len(data):,} bytes, expected at most {MOST_JSON_BYTES:,}")
    try:
        record = parse_json(data, as_it_is=True)
    except ValueError as error:
        raise ValueError(f"cannot be read: {error}") from error
    if not isinstance(record, dict):
        raise ValueError(f"is no object but {type(record).__name__}; write one")
    record["face_bboxes"] = boxes.tolist()
    return json.dumps(record).encode()


def _read(path: str, offset: int, size: int) -> bytes:
    with open_input(path) as file:
        file.seek(offset)
        data = file.read(size)
    if len(data) != size:
        raise CorruptDataError(
            f"source ends {size - len(data)} bytes before the payload that was indexed there", path=path, offset=offset
        )
    return data
