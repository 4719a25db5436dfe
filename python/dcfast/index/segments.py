"""Segment: the index of a range of shards, as columns mapped from one file (docs/formats.md, "Index segment").

Arrays are read-only views of the file unless their description says otherwise; each keeps the map alive.
Legend: n samples, m members of samples, t strays (members that belong to no sample).
"""

from __future__ import annotations

import hashlib
import os
import struct
from collections.abc import Callable
from enum import IntEnum, IntFlag
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from dcfast._core import index as core_index
from dcfast.errors import PoolError
from dcfast.storage.http import RemoteOptions
from dcfast.storage.inputs import open_input
from dcfast.storage.paths import absolute, is_url
from dcfast.storage.pickled import FileState, check_state, file_state, reduced
from dcfast.storage.remote import remote_state

if TYPE_CHECKING:
    import pyarrow as pa

_HEADER = struct.Struct("<8sIIQQQQQQ")
_SECTION = struct.Struct("<24sQQQ")  # name, offset, size, checksum


#: Last dotted parts of the extensions that pictures have, in lower case: those of ``dcfast.images.decode.FORMATS``.
IMAGE_EXTS = tuple(core_index.image_exts())


class SampleFlag(IntFlag):
    """What is amiss with a sample: bits of ``Segment.flags``.

    Example: ``np.count_nonzero(segment.flags & SampleFlag.NO_CAPTION) == 0``
    """

    NO_JSON = 1
    NO_CAPTION = 2  # no txt
    NO_IMAGE = 4  # no member with a picture's extension
    NO_UID = 8  # json without uid, or json not read (read_uid=False)
    BAD_UID = 16  # uid is not 32 hexadecimal digits
    BAD_JSON = 32
    REPEATED_EXT = 64  # began because an extension came a second time
    CUT = 128  # the shard is damaged inside or right behind this sample: its last members may be missing
    REPEATED_KEY = 256  # an earlier sample of the shard has this key (interleaved or repeated writing)


#: Samples with one of these bits have no uid; their entry in ``Segment.uid`` is zero and means nothing.
WITHOUT_UID = SampleFlag.NO_JSON | SampleFlag.NO_UID | SampleFlag.BAD_UID | SampleFlag.BAD_JSON


class MemberKind(IntEnum):
    """Kinds of strays: only regular ones can be read as plain bytes.

    Example: ``segment.others().filter(pc.field("kind") == MemberKind.SYMLINK.name.lower())``
    """

    REGULAR = 0
    SPARSE = 1
    HARD_LINK = 2
    SYMLINK = 3
    DIRECTORY = 4
    OTHER = 5


class ShardReport(NamedTuple):
    """Damage of a shard, or a note on it: everything before ``offset`` is indexed."""

    shard: int
    offset: int
    message: str


class ShardLoss(NamedTuple):
    """A report that may hide samples. ``archive``: a part of the archive was not read (damage, no end, bytes behind the
    end); else members' names or kinds put them elsewhere than they were meant for (dots, repeated keys, links)."""

    shard: int
    offset: int
    archive: bool
    message: str


def shard_place(root: str | os.PathLike[str], name: str) -> str:
    """Where a shard of an index is: below a directory, or the URL of one, or as its name says."""
    if is_url(name):
        return name
    return f"{os.fspath(root).rstrip('/')}/{name}" if is_url(root) else os.path.join(root, name)


def shard_state(path: str | os.PathLike[str], remote: RemoteOptions | None = None) -> tuple[int, int]:
    """Size and modification time in ns of a file, or of what is behind a URL, as an index stores them."""
    if is_url(path):
        state = remote_state(os.fspath(path), remote)
        return state.size, state.stored_mtime_ns
    status = os.stat(path)
    return status.st_size, status.st_mtime_ns


def large_strings(begin: npt.NDArray[np.int64], text: npt.NDArray[np.uint8]) -> pa.Array:
    """Arrow large_string over the two arrays, without a copy."""
    import pyarrow as pa

    return pa.LargeStringArray.from_buffers(len(begin) - 1, pa.py_buffer(begin), pa.py_buffer(text))


class Segment:
    """One index file, mapped. Make it with ``write_segment``, open it with ``Segment.open``.

    Attributes:
        num_shards, num_samples, num_members: counts; members are those of samples.
        shard_names: list of str; shard_sizes (num_shards,) u64 bytes; shard_mtimes_ns (num_shards,) i64.
        shard_sample_begin: (num_shards + 1,) u64, first sample of each shard.
        shard_damage, shard_notes: lists of ShardReport. Damage: members may be missing.
        losses: list of ShardLoss, all of the reports that may hide samples: for every user of shards the same ones.
        uid: (n,) "u8,u8", zero where ``flags & WITHOUT_UID``.  flags: (n,) u16, see SampleFlag.
        width, height: (n,) u32 of the sample's first picture, by its header, not turned by EXIF; 0 = unknown.
        sample_base: (n,) u64, offset of the first member's first header.  member_begin: (n + 1,) u64, a copy.
        exts, exts_lower: extensions, in which bytes that are not UTF-8 are backslash-escaped.

    It goes to another process as the path of its file, which has to be there and as it was when it was opened.

    Raises nothing on access. Memory: what is touched of the map, and the copies named here and below.
    Example: ``Segment.open("index/segment-00000.dcx").uid_hex()``
    """

    def __init__(self, core: core_index.TarSegment, path: str) -> None:
        self._core = core
        self.path = path
        self._state: FileState | None = None
        self.num_shards: int = core.num_shards
        self.num_samples: int = core.num_samples
        self.num_members: int = core.num_members
        self.num_strays: int = core.num_strays
        self.shard_names: list[str] = [os.fsdecode(name) for name in core.shard_names()]
        self.shard_sizes: npt.NDArray[np.uint64] = core.shard_size
        self.shard_mtimes_ns: npt.NDArray[np.int64] = core.shard_mtime_ns
        self.shard_sample_begin: npt.NDArray[np.uint64] = core.sample_begin
        reports = core.reports()
        self.shard_damage: list[ShardReport] = [ShardReport(s, at, text) for s, at, damage, text in reports if damage]
        self.shard_notes: list[ShardReport] = [
            ShardReport(s, at, text) for s, at, damage, text in reports if not damage
        ]
        self.losses: list[ShardLoss] = [ShardLoss(*loss) for loss in core.losses()]
        self.uid: npt.NDArray[np.void] = core.uid
        self.flags: npt.NDArray[np.uint16] = core.flags
        self.width: npt.NDArray[np.uint32] = core.width
        self.height: npt.NDArray[np.uint32] = core.height
        self.sample_base: npt.NDArray[np.uint64] = core.base

    @classmethod
    def open(cls, path: str | os.PathLike[str], *, verify: bool = True) -> Segment:
        """Maps a segment file.

        Args:
            path: a file written by ``write_segment``. One that is cut while it is mapped is an error at the next step
                (``dcfast.storage.mapped``); what is changed in place is read as it is.
            verify: read everything once and check the checksums (at the speed of memory or disk). Without it
                only the header and the sizes of the sections are checked: for a file verified before.
        Raises:
            CorruptDataError: with path, offset and the section's name: a flipped bit, a cut, another format.
            OSError: it cannot be read.
        Cost: O(file size) with verify, else O(num_shards).
        """
        name = os.fspath(path)
        state = file_state(name)
        segment = cls(core_index.TarSegment(os.fsencode(name), verify), name)
        segment._state = state
        return segment

    def __repr__(self) -> str:
        return f"<Segment {self.path!r}: {self.num_shards} shards, {self.num_samples} samples>"

    def __reduce__(self) -> tuple[Callable[..., Segment], tuple[Any, ...]]:
        if not os.path.exists(self.path):
            raise PoolError(
                f"the index segment {self.path} has no file that another process could open (index_tars keeps none); "
                "write one by write_segment, and open its path"
            )
        return reduced("Segment", _opened_again, absolute(self.path), self._state)

    @cached_property
    def exts(self) -> list[str]:
        """Extensions in their own case. Memory: 100 bytes each, of which a hostile shard has one a member."""
        return [ext.decode("utf-8", "backslashreplace") for ext in self._core.exts()]

    @cached_property
    def exts_lower(self) -> list[str]:
        """The same, ASCII letters lower-cased."""
        return [ext.lower().decode("utf-8", "backslashreplace") for ext in self._core.exts()]

    @cached_property
    def member_begin(self) -> npt.NDArray[np.uint64]:
        """(n + 1,) u64: members of sample i are member_begin[i] .. member_begin[i + 1]. A copy of 8 (n + 1) bytes."""
        begin = self._core.member_begin.astype(np.uint64)
        begin.flags.writeable = False
        return begin

    def members_of(
        self, first: int, last: int
    ) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.uint64], npt.NDArray[np.uint32]]:
        """Data offset, size and extension number of the members of samples first .. last - 1.

        Returns three new arrays, u64, u64, u32, one entry a member. Raises IndexError out of range.
        Memory: 20 bytes a member. Cost: O(members asked for).
        """
        return self._core.unpack(first, last)

    def member_offset(self) -> npt.NDArray[np.uint64]:
        """(m,) u64 offsets of the members' data in their shards. Memory: 20 m bytes while it works, 8 m after."""
        return self.members_of(0, self.num_samples)[0]

    def member_size(self) -> npt.NDArray[np.uint64]:
        """(m,) u64 sizes in bytes. Memory as ``member_offset``."""
        return self.members_of(0, self.num_samples)[1]

    def member_ext(self) -> npt.NDArray[np.uint16] | npt.NDArray[np.uint32]:
        """(m,) u16 indices into ``exts``; u32 where the segment has more than 65,536 of them."""
        ext = self.members_of(0, self.num_samples)[2]
        return ext if len(self.exts) > 1 << 16 else ext.astype(np.uint16)

    def image_member(self) -> npt.NDArray[np.int64]:
        """(n,) i64: index among the segment's members of each sample's picture, -1 where it has none.

        The picture is the first member whose extension's last dotted part is one of ``IMAGE_EXTS``, in any case.
        """
        return self._core.image_members()

    def image_places(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Shard, data offset and size of each sample's picture, (n,) i64 each; -1, 0 and 0 where it has none."""
        image = self.image_member()
        has = image >= 0
        offsets, sizes, _ = self.members_of(0, self.num_samples)
        offset, size = np.zeros((2, len(image)), np.int64)
        offset[has], size[has] = offsets[image[has]], sizes[image[has]]
        shard = np.repeat(np.arange(self.num_shards), np.diff(self.shard_sample_begin).astype(np.int64))
        return np.where(has, shard, -1), offset, size

    def key(self, i: int) -> str:
        """The key of sample i: its members are named KEY.EXT. Not UTF-8: backslash-escaped.

        Raises IndexError out of range (negative ones too).
        """
        if not 0 <= i < self.num_samples:
            raise IndexError(f"sample {i} out of range: the segment has {self.num_samples}")
        return bytes(self._core.keys(i, i + 1)[1]).decode()

    def keys(self, first: int = 0, last: int | None = None) -> pa.Array:
        """Keys of samples first .. last - 1 as a pyarrow large_string array. A copy."""
        return large_strings(*self._core.keys(first, self.num_samples if last is None else last))

    def uid_hex(self) -> pa.Array:
        """(n,) pyarrow string of 32 lower-case hexadecimal digits, null for samples without a uid."""
        import pyarrow as pa

        begin = np.arange(self.num_samples + 1, dtype=np.int64) * 32
        absent = (self.flags & int(WITHOUT_UID)) != 0
        valid = pa.py_buffer(np.packbits(~absent, bitorder="little"))
        return pa.LargeStringArray.from_buffers(
            self.num_samples, pa.py_buffer(begin), pa.py_buffer(self._core.uid_hex()), valid, int(absent.sum())
        )

    def members(self) -> pa.Table:
        """Every regular member, strays included: columns shard, name, offset, size, in tar order shard by shard.

        shard and name are large_string, offset (of the data) and size uint64. Names are exact, in their own
        case; bytes that are not UTF-8 become \\xNN, as Python's "backslashreplace" does. Hard links, symlinks,
        directories and sparse files are not regular members: see ``others``.
        Memory: about 60 bytes a member and the names, twice.
        """
        import pyarrow as pa

        shard, begin, text, offset, size = self._core.member_table(0, self.num_shards)
        columns = [self._shard_column(shard), large_strings(begin, text), pa.array(offset), pa.array(size)]
        return pa.table(columns, names=["shard", "name", "offset", "size"])

    def others(self) -> pa.Table:
        """What belongs to no sample: columns shard, name, kind, offset, size, in tar order shard by shard.

        kind is regular, sparse, hard_link, symlink, directory or other. A sparse member's offset and size are
        those of its packed form in the archive, not of its content.
        """
        import pyarrow as pa

        core, kinds = self._core, pa.array([kind.lower() for kind in MemberKind.__members__])
        begin = core.stray_begin.astype(np.int64)
        columns = [
            self._shard_column(np.repeat(np.arange(self.num_shards), begin[1:] - begin[:-1])),
            large_strings(*core.stray_names()),
            kinds.take(pa.array(core.stray_kind)),
            *(pa.array(core.stray_offset), pa.array(core.stray_size)),
        ]
        return pa.table(columns, names=["shard", "name", "kind", "offset", "size"])

    def samples(self) -> pa.Table:
        """Every sample: columns shard, row (in its shard, from 0), key, uid (hex or null), width, height, flags."""
        import pyarrow as pa

        begin = self.shard_sample_begin.astype(np.int64)
        shard = np.repeat(np.arange(self.num_shards), begin[1:] - begin[:-1])
        row = np.arange(self.num_samples, dtype=np.int64) - begin[shard]
        sizes = {"width": pa.array(self.width), "height": pa.array(self.height), "flags": pa.array(self.flags)}
        names = {"key": self.keys(), "uid": self.uid_hex()}
        return pa.table({"shard": self._shard_column(shard), "row": pa.array(row.astype(np.uint64)), **names, **sizes})

    def check_fresh(
        self, root: str | os.PathLike[str] = "", *, remote: RemoteOptions | None = None
    ) -> list[tuple[int, str]]:
        """Which shards are no longer what was indexed: (shard, "vanished" or "changed"), in order.

        Args:
            root: directory that the shard names are relative to; empty for names that open as they are.
            remote: how URLs are asked: credentials, retries.
        Changed means another size or mtime (of a URL: ETag, where it has one); contents are not read. Raises OSError
        other than a missing file.   Cost: one stat a shard, one request a URL.
        """
        stale = []
        for shard, name in enumerate(self.shard_names):
            try:
                now = shard_state(shard_place(root, name), remote)
            except (FileNotFoundError, NotADirectoryError):
                stale.append((shard, "vanished"))
                continue
            if now != (self.shard_sizes[shard], self.shard_mtimes_ns[shard]):
                stale.append((shard, "changed"))
        return stale

    def content_digest(self) -> str:
        """SHA-256, hex, of all that the segment says of its shards but their modification times.

        Shards that were copied, or touched, have the digest that they had. Cost: the header is read, in which the
        checksum of each section stands.
        """
        digest = hashlib.sha256()
        with open_input(self.path) as file:
            header = file.read(_HEADER.size)
            for _ in range(int(_HEADER.unpack(header)[2])):
                name, _, size, checksum = _SECTION.unpack(file.read(_SECTION.size))
                if name.rstrip(b"\0") != b"shard_mtime_ns":
                    digest.update(_SECTION.pack(name, 0, size, checksum))
        return digest.hexdigest()

    def _shard_column(self, shard: npt.NDArray[np.int64]) -> pa.Array:
        import pyarrow as pa

        printable = [os.fsencode(name).decode("utf-8", "backslashreplace") for name in self.shard_names]
        return pa.array(printable, type=pa.large_string()).take(pa.array(shard, type=pa.int64()))


def _opened_again(path: str, state: FileState | None) -> Segment:
    segment = Segment.open(path, verify=False)  # verified where it was opened first, if it was to be
    check_state(path, state)
    return segment
