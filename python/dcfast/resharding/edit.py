"""Members that a reshard changes: boxes written into the json, and pictures with boxes blurred, as DataComp does both.

Changed payloads go into one spool file beside the output, from which the shard is then written like from any source.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
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
from dcfast.storage.inputs import open_input
from dcfast.storage.json_files import parse_json

__all__ = ["BlurOptions", "Edited", "edited_contents"]


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


@dataclass
class Edited:
    """An output shard as it is written: ``contents``, and what was done.

    Attributes:
        blurred, injected: samples.
        inject_failed: samples that keep their json as it is, without the boxes: it cannot be read as an object, or
            there is none, or the boxes were refused. They are written all the same, blurred where that is asked for.
        failed: (key, why) of samples left out: their picture has boxes and cannot be decoded or is not known as one,
            or their boxes were refused or reach over no pixel. They are never written as they were.
    """

    contents: ShardContents
    blurred: int = 0
    injected: int = 0
    inject_failed: int = 0
    failed: list[tuple[str, str]] = field(default_factory=list)


@contextmanager
def edited_contents(contents: ShardContents, blur: BlurOptions, spool_path: Path, threads: int = 1) -> Iterator[Edited]:
    """What a shard holds with its changes made; ``spool_path`` is written, and removed at the end.

    Args:
        threads: that blur pictures. The bytes are the same for any number.
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
        edited.contents.sources.append(os.fspath(spool_path))
        edited.contents.source_size = np.append(edited.contents.source_size, np.uint64(status.st_size))
        edited.contents.source_mtime_ns = np.append(edited.contents.source_mtime_ns, np.int64(status.st_mtime_ns))
        yield edited
    finally:
        spool_path.unlink(missing_ok=True)


@dataclass
class _Member:
    ext: bytes
    source: int
    offset: int
    size: int


class _Editor:
    def __init__(self, contents: ShardContents, blur: BlurOptions, spool: BinaryIO) -> None:
        self.contents, self.blur, self.spool = contents, blur, spool
        self.spooled = 0
        self.source = len(contents.sources)  # the spool's number
        self.begin = np.searchsorted(contents.member_sample, np.arange(len(contents.uid) + 1))
        # the copies of a sample follow each other or not: each distinct payload is made once
        self.made: dict[tuple[int, int, bool], tuple[int, int] | str] = {}

    def run(self, threads: int) -> Edited:
        contents = self.contents
        edited = Edited(contents)
        samples: list[list[_Member]] = []
        kept: list[int] = []
        found = self.blur.table.look_up(contents.uid)
        members_of = [self.members(i) for i in range(len(found))]
        if self.blur.apply:
            self.blur_pictures(members_of, found, threads)
        for i, (members, boxes) in enumerate(zip(members_of, found, strict=True)):
            if boxes is not None and len(boxes):
                why = self.edit(members, boxes, edited)
                if why is not None:
                    edited.failed.append((members_key(contents, int(self.begin[i])), why))
                    continue
            samples.append(members)
            kept.append(i)
        edited.contents = self.rebuilt(np.array(kept, np.int64), samples)
        return edited

    def members(self, i: int) -> list[_Member]:
        c = self.contents
        found = []
        for m in range(int(self.begin[i]), int(self.begin[i + 1])):
            name = bytes(c.names[int(c.name_begin[m]) : int(c.name_begin[m + 1])])
            found.append(_Member(name.split(b".", 1)[1], int(c.source[m]), int(c.offset[m]), int(c.size[m])))
        return found

    def blur_pictures(
        self, members_of: list[list[_Member]], found: list[NDArray[np.float64] | None], threads: int
    ) -> None:
        """Spools the blurred pictures of all samples, or notes what is wrong with them."""
        pictures: dict[tuple[int, int, bool], tuple[_Member, NDArray[np.float64]]] = {}
        for members, boxes in zip(members_of, found, strict=True):
            picture = _picture(members)
            if picture is not None and boxes is not None and len(boxes) and not np.isnan(boxes).any():
                pictures[_key(picture, True)] = (picture, boxes)

        def blurred(item: tuple[_Member, NDArray[np.float64]]) -> bytes | str:
            picture, boxes = item
            return self.changed(picture, True, lambda data: blur_image(data, boxes, self.blur.quality))

        with closing(read_ahead(blurred, pictures.values(), threads=threads, ahead=2 * threads)) as made:
            for key, data in zip(pictures, made, strict=True):
                self.spool_as(key, data)

    def edit(self, members: list[_Member], boxes: NDArray[np.float64], edited: Edited) -> str | None:
        """Changes the members in place; or why the sample must be left out."""
        picture = _picture(members)
        if self.blur.apply and picture is None and any(m.ext.lower() not in _TEXTS for m in members):
            return "it has boxes, and no member that is known as a picture by its extension"
        if np.isnan(boxes).any():
            if self.blur.apply and picture is not None:
                return "its boxes were refused"
            edited.inject_failed += int(self.blur.inject)
            return None
        if self.blur.apply and picture is not None:
            made = self.made[_key(picture, True)]
            if isinstance(made, str):
                return made
            # as the reference: the picture is a webp now, and takes the place of one that was there
            members[:] = [m for m in members if m is picture or m.ext != b"webp"]
            picture.ext, picture.source, (picture.offset, picture.size) = b"webp", self.source, made
            members.sort(key=lambda member: member.ext)
            edited.blurred += 1
        if self.blur.inject:
            self.inject(members, boxes, edited)
        return None

    def inject(self, members: list[_Member], boxes: NDArray[np.float64], edited: Edited) -> None:
        """Writes the boxes into the json in place, or counts that it cannot."""
        described = next((m for m in members if m.ext == b"json"), None)
        # the index finds a uid in json that Python refuses (bytes that are no UTF-8, say): no reason to end the run
        made: tuple[int, int] | str = "no json"
        if described is not None:
            key = _key(described, False)
            if key not in self.made:
                self.spool_as(key, self.changed(described, False, lambda data: _with_boxes(data, boxes)))
            made = self.made[key]
        if described is None or isinstance(made, str):
            edited.inject_failed += 1
            return
        described.source, (described.offset, described.size) = self.source, made
        edited.injected += 1

    def changed(self, member: _Member, picture: bool, change: Callable[[bytes], bytes]) -> bytes | str:
        """The changed payload, or what ``change`` complains of."""
        try:
            size = min(member.size, MAX_BYTES + 1) if picture else member.size
            return change(_read(self.contents.sources[member.source], member.offset, size))
        except CorruptDataError:
            raise
        except ValueError as error:
            return str(error)

    def spool_as(self, key: tuple[int, int, bool], data: bytes | str) -> None:
        if isinstance(data, str):
            self.made[key] = data
            return
        self.spool.write(data)
        self.made[key] = (self.spooled, len(data))
        self.spooled += len(data)

    def rebuilt(self, kept: NDArray[np.int64], samples: list[list[_Member]]) -> ShardContents:
        c = self.contents
        flat = [(i, member) for i, members in enumerate(samples) for member in members]
        stems = {}
        names: list[bytes] = []
        for i, member in flat:
            if i not in stems:
                stems[i] = members_key(c, int(self.begin[kept[i]])).encode()
            names.append(stems[i] + b"." + member.ext)
        return replace(
            c,
            uid=c.uid[kept],
            copy=c.copy[kept],
            member_sample=np.array([i for i, _ in flat], np.uint32),
            sources=list(c.sources),
            source=np.array([m.source for _, m in flat], np.uint32),
            offset=np.array([m.offset for _, m in flat], np.uint64),
            size=np.array([m.size for _, m in flat], np.uint64),
            names=np.frombuffer(b"".join(names), np.uint8),
            name_begin=np.cumsum([0] + [len(name) for name in names]).astype(np.uint64),
        )


def members_key(contents: ShardContents, member: int) -> str:
    """The key UID-COPY of a member's sample."""
    return contents.name(member).split(".", 1)[0]


def _key(member: _Member, picture: bool) -> tuple[int, int, bool]:
    """Of a changed payload: the copies of a sample share it."""
    return (member.source, member.offset, picture)


def _picture(members: list[_Member]) -> _Member | None:
    """The member that is blurred: jpg before others, as the reference knows no others."""
    pictures = [m for m in members if m.ext.rsplit(b".", 1)[-1].decode("latin-1").lower() in IMAGE_EXTS]
    return next((m for m in pictures if m.ext == b"jpg"), pictures[0] if pictures else None)


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
        raise ValueError(f"is no object but {type(record).__name__}")
    record["face_bboxes"] = boxes.tolist()
    return json.dumps(record).encode()


def _read(path: str, offset: int, size: int) -> bytes:
    with open_input(path) as file:
        data = os.pread(file.fileno(), size, offset)
        while 0 < len(data) < size:  # one system call returns at most 2 GiB
            more = os.pread(file.fileno(), size - len(data), offset + len(data))
            if not more:
                break
            data += more
    if len(data) != size:
        raise CorruptDataError(
            f"source ends {size - len(data)} bytes before the payload that was indexed there", path=path, offset=offset
        )
    return data
