"""A sealed bundle of evaluation sets: a plain tar whose first member says, byte for byte, what follows.

    dcfast-evalsets-SHA256.json   the manifest, by its own hash: each file's path, size and SHA-256, sorted by path
    PATH ...                      the files, in that order; times and owners are 0
    two blocks of zeros           and nothing behind them

Any program that reads tars unpacks it. Here nothing of its headers is believed: each must be the very bytes that the
manifest makes of it, so that links, devices, other names and further members are no cases of their own, and a bundle is
refused where one byte of it is not as it was packed. Paths are those of sets alone (``check_paths``).
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import tarfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path
from typing import IO

from dcfast import __version__
from dcfast.errors import CorruptDataError, EvalsetError, RunError
from dcfast.evaluate.place_set import SetFile
from dcfast.evaluate.tasks import OWN_TABLE
from dcfast.hub import LOCK_FILE
from dcfast.storage.atomic import atomic_path
from dcfast.storage.inputs import StrPath, open_input
from dcfast.storage.json_files import parse_json
from dcfast.storage.records import Count, Record, as_record, plain

FORMAT, VERSION = "dcfast-evalsets", 1
TOP_FILES = (LOCK_FILE, OWN_TABLE)
"""Files beside the sets."""
MOST_MANIFEST_BYTES = 8 << 20
_NAME = re.compile(rb"(dcfast-evalsets-([0-9a-f]{64})\.json)\0+")
_PATH = re.compile(r"wds_[^/]+_test/(?:test/)?[^/]+")
_BLOCK = 512
_END = bytes(2 * _BLOCK)
_READ = 1 << 20
_AGAIN = "copy the bundle again, or pack it again"


class BundleFile(Record):
    """A file of a bundle: ``path`` below the directory of the sets, with ``/``."""

    path: str
    size: Count
    sha256: str


class Manifest(Record):
    """What a bundle holds. ``dcfast``: the version that packed it."""

    format: str
    version: Count
    dcfast: str
    files: list[BundleFile]


def check_paths(files: Sequence[BundleFile]) -> str:
    """What is wrong with the files of a manifest, in words; empty where nothing is.

    Allowed are ``TOP_FILES``, ``wds_NAME_test/FILE`` and ``wds_NAME_test/test/FILE``, in order
    and each once; no name is hidden, or one that a terminal would obey.
    """
    before = ""
    for file in files:
        parts = file.path.split("/")
        bad = [part for part in parts if part.startswith(".") or not part.isprintable() or len(part.encode()) > 255]
        if bad or (not _PATH.fullmatch(file.path) and file.path not in TOP_FILES) or parts[1:] == ["test"]:
            return f"{file.path[:200]!r} is no path of a set (wds_NAME_test/FILE, wds_NAME_test/test/FILE)"
        if file.path <= before:
            return f"{file.path[:200]!r} stands twice, or out of order"
        if not re.fullmatch("[0-9a-f]{64}", file.sha256):
            return f"the SHA-256 of {file.path[:200]!r} is none"
        before = file.path
    return ""


def _header(path: str, size: int) -> bytes:
    header = tarfile.TarInfo(path)
    header.size = size  # mode 644; times and owners are 0 and without names
    return header.tobuf(tarfile.GNU_FORMAT, "utf-8", "strict")


def _padding(size: int) -> bytes:
    return bytes(-size % _BLOCK)


def bundle_size(manifest: Manifest, manifest_bytes: int) -> int:
    """Bytes of a bundle, by its manifest and how long that is."""
    sizes = [(_BLOCK, manifest_bytes), *((len(_header(file.path, file.size)), file.size) for file in manifest.files)]
    return sum(head + size + len(_padding(size)) for head, size in sizes) + len(_END)


def write_bundle(out: Path, files: Mapping[str, tuple[StrPath, SetFile]], done: Callable[[int], object]) -> None:
    """Writes a bundle, whole or not at all; equal files make equal bytes.

    Args:
        files: path in the bundle -> the file, and what it was when it was looked at.
        done: is given the bytes of each file that is in it.
    Raises:
        EvalsetError: a path that is not a set's, or too many files.
        RunError: a file has changed since it was looked at.   OSError.
    Memory: the manifest, and 1 MiB.   Cost: one read of the files.
    """
    listed = [BundleFile(path, state.size, state.sha256) for path, (_, state) in sorted(files.items())]
    if problem := check_paths(listed):
        raise EvalsetError(f"{problem}; rename that file")
    manifest = json.dumps(plain(Manifest(FORMAT, VERSION, __version__, listed)), indent=1, sort_keys=True).encode()
    if len(manifest) > MOST_MANIFEST_BYTES:
        raise EvalsetError(f"{len(listed):,} files are more than a bundle holds; pack some of the sets (--sets)")
    name = f"dcfast-evalsets-{hashlib.sha256(manifest).hexdigest()}.json"
    with atomic_path(out) as temporary, open(temporary, "xb") as tar:
        tar.write(_header(name, len(manifest)) + manifest + _padding(len(manifest)))
        for entry in listed:
            source = files[entry.path][0]
            tar.write(_header(entry.path, entry.size))
            with open_input(source) as file:
                if _poured(file, tar, entry.size) != entry.sha256 or file.read(1):
                    raise RunError(f"{source} has changed while it was packed; let it rest, and pack again")
            tar.write(_padding(entry.size))
            done(entry.size)
        tar.write(_END)


def _poured(source: IO[bytes], target: IO[bytes], size: int) -> str:
    """Copies so many bytes, or those that there are; their SHA-256."""
    digest = hashlib.sha256()
    while size and (block := source.read(min(size, _READ))):
        digest.update(block)
        target.write(block)
        size -= len(block)
    return digest.hexdigest()


class Bundle:
    """An open bundle, read from its beginning to its end: ``take`` for each file of the manifest in turn, ``end``."""

    def __init__(self, path: str, file: BufferedReader) -> None:
        self.path = path
        self._file = file
        self.manifest: Manifest = self._read_manifest()

    def take(self, entry: BundleFile, target: Path | None) -> None:
        """Writes the next file, whole or not at all; with None it is passed over, and its bytes are not looked at.

        CorruptDataError: it is not what the manifest says.   OSError: a full disk.
        """
        self._expect(_header(entry.path, entry.size), f"the header of {entry.path}")
        if target is None:
            self._file.seek(entry.size, os.SEEK_CUR)
        else:
            with atomic_path(target) as temporary, open(temporary, "xb") as out:
                if _poured(self._file, out, entry.size) != entry.sha256:
                    raise self._altered(f"{entry.path} has another SHA-256 than its manifest says")
        self._expect(_padding(entry.size), f"what follows {entry.path}")

    def end(self) -> None:
        """CorruptDataError: the bundle does not end here."""
        self._expect(_END, "its end")

    def _altered(self, what: str) -> CorruptDataError:
        return CorruptDataError(f"{self.path} is cut or altered: {what}; {_AGAIN}", path=self.path)

    def _expect(self, expected: bytes, what: str) -> None:
        if self._file.read(len(expected)) != expected:
            raise self._altered(f"{what} is not as it was packed")

    def _read_manifest(self) -> Manifest:
        block = self._file.read(_BLOCK)
        named = _NAME.match(block)
        if named is None:
            raise EvalsetError(
                f"{self.path} is no bundle of evaluation sets: expected a file of `dcfast evalsets pack`"
            )
        size = block[124:135]  # octal digits
        count = int(size, 8) if re.fullmatch(rb"[0-7]+", size) else -1
        if not 0 <= count <= MOST_MANIFEST_BYTES or block != _header(named[1].decode(), count):
            raise self._altered("the header of its manifest is not as it was packed")
        data = self._file.read(count)
        if hashlib.sha256(data).hexdigest() != named[2].decode():
            raise self._altered("its manifest has another SHA-256 than its name says")
        self._expect(_padding(count), "what follows its manifest")
        try:
            manifest = as_record(parse_json(data), Manifest, self.path)
        except ValueError as error:
            raise EvalsetError(f"{self.path}: its manifest cannot be read: {error}; {_AGAIN}") from None
        if (manifest.format, manifest.version) != (FORMAT, VERSION):
            raise EvalsetError(
                f"{self.path} is of version {manifest.version} of {manifest.format[:80]!r}, made by dcfast "
                f"{manifest.dcfast[:80]!r}; this release reads version {VERSION} of {FORMAT!r}: unpack it by that one"
            )
        if problem := check_paths(manifest.files):
            raise EvalsetError(f"{self.path}: its manifest is refused: {problem}; {_AGAIN}")
        expected, there = bundle_size(manifest, count), os.fstat(self._file.fileno()).st_size
        if expected != there:
            raise self._altered(f"it has {there:,} bytes; expected {expected:,}")
        return manifest


@contextmanager
def open_bundle(path: str) -> Iterator[Bundle]:
    """Opens a bundle and reads its manifest.

    Raises:
        EvalsetError: it is none, of another version, or its manifest has paths that are none of sets.
        CorruptDataError: it is cut, longer than it was, or its manifest was altered.   OSError.
    """
    with open_input(path) as file:
        yield Bundle(path, file)
