"""The directory of a zip archive, looked at before anything is read of its members.

``zipfile`` makes half a kilobyte of each entry of 46 bytes, and a member of some bytes may hold gigabytes by
compression, or by lying over others. Format: PKWARE's APPNOTE.
"""

from __future__ import annotations

import errno
import io
import os
import struct
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager

from dcfast.storage.inputs import StrPath, check_input, open_input

MAX_DIRECTORY_BYTES = 8 << 20
"""Of the directory: some 100,000 members."""
_END, _LOCATOR, _END_64 = b"PK\x05\x06", b"PK\x06\x07", b"PK\x06\x06"
_PIECE = 1 << 20
_IS_DIRECTORY = 0x10  # of DOS: some readers take nothing from such a member
_END_SIZE, _LOCATOR_SIZE, _END_64_SIZE = 22, 20, 56


class _Opening(io.FileIO):
    """The file while ``zipfile`` opens it: it reads the whole directory at once, of any size."""

    opened = False

    def read(self, size: int | None = -1, /) -> bytes:
        if not self.opened and size is not None and size > MAX_DIRECTORY_BYTES:
            raise zipfile.BadZipFile(f"a directory of {size:,} bytes; at most {MAX_DIRECTORY_BYTES:,} are read")
        return super().read(size) or b""


@contextmanager
def open_zip(path: StrPath) -> Iterator[zipfile.ZipFile]:
    """An open archive. zipfile.BadZipFile: it is none, or its directory is larger than is read; OSError."""
    check_input(path)
    with _Opening(path) as file:
        try:
            archive = zipfile.ZipFile(file)
        except NotImplementedError as error:  # of a version that is not
            raise zipfile.BadZipFile(str(error)) from None
        with archive:
            file.opened = True
            yield archive


def check_contents(archive: zipfile.ZipFile) -> None:
    """zipfile.BadZipFile where a member cannot be read whole, or its bytes have another CRC-32 than the directory says.

    Memory: a MiB. Reads everything: 0.7 s a GB beside the disk's time. A CRC of 0 was not made (torch may be told so):
    of such a member nothing is known.
    """
    for info in archive.infolist():
        if info.CRC == 0:
            info.CRC = None  # type: ignore[assignment]  # zipfile's own word for it
        problem = "it says that it is a directory" if info.external_attr & _IS_DIRECTORY and info.file_size else ""
        try:
            with archive.open(info) as member:
                while member.read(_PIECE):
                    pass
        except (zipfile.BadZipFile, RuntimeError, EOFError) as error:  # RuntimeError: a flag that says encrypted
            problem = str(error) or "it ends before its length"
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            problem = "it begins before the file"
        if problem:
            raise zipfile.BadZipFile(f"its member {info.filename[:80]!r} is damaged: {problem}")


def check_stored(path: StrPath, archive: zipfile.ZipFile) -> None:
    """ValueError unless every reader finds the same members, each stored as it is, and together no more than the file.

    For archives that another library reads. Where it may find another directory than this one, nothing is known.
    """
    size = os.path.getsize(path)
    with open_input(path) as file:
        file.seek(max(0, size - _END_SIZE - _LOCATOR_SIZE - _END_64_SIZE))
        tail = file.read()
    locator, end = tail[-_END_SIZE - _LOCATOR_SIZE : -_END_SIZE], tail[-_END_SIZE:]
    if end[:4] != _END or end[-2:] != bytes(2):
        raise ValueError("its directory does not end the file")
    if locator[:4] == _LOCATOR:
        begin = size - _END_SIZE - _LOCATOR_SIZE - _END_64_SIZE
        length, at = struct.unpack("<40xQQ", tail[:_END_64_SIZE].ljust(_END_64_SIZE))
        single = int.from_bytes(locator[8:16], "little") == begin and tail[:4] == _END_64
    else:
        begin, single = size - _END_SIZE, True
        length, at = struct.unpack("<12xLL2x", end)
    if not single or at + length != begin:  # zipfile takes the one that ends here, others the one that begins there
        raise ValueError("it has two directories")
    names = {info.orig_filename.lower() for info in archive.infolist()}  # some readers find them in any case
    if len(names) < len(archive.infolist()):
        raise ValueError("it has two members of one name")
    for info in archive.infolist():
        if info.compress_type != zipfile.ZIP_STORED or info.compress_size != info.file_size:
            raise ValueError(
                f"its member {info.filename[:80]!r} is compressed: {info.compress_size:,} bytes for {info.file_size:,}"
            )
    total = sum(info.file_size for info in archive.infolist())
    if total > size:
        raise ValueError(f"its members overlap: {total:,} bytes in {size:,}")
