"""A set's place: the folder of a home that it gets as a whole or not at all, and what it was made of.

``import``, ``convert``, ``fetch`` and ``unpack`` make a set beside its place and rename it. One lock for each home
keeps them apart. A set that was converted has ``dcfast_set.json``, by which the same command knows it again, and
``verify`` its bytes.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from dcfast.errors import EvalsetError
from dcfast.evaluate.evalset import SMALL_FILES
from dcfast.evaluate.folders import list_set_tars
from dcfast.evaluate.hub import SPLIT, hub_files
from dcfast.importing.found import leads_out
from dcfast.resharding.output import free_bytes
from dcfast.storage.atomic import remove_leftovers, write_json
from dcfast.storage.hashing import sha256_file
from dcfast.storage.inputs import check_input
from dcfast.storage.lock import locked
from dcfast.storage.paths import LOCK_NAME, make_directory, not_left_empty
from dcfast.storage.records import Count, Record, plain, read_record
from dcfast.storage.whole_folder import mend_folders

RECORD_FILE = "dcfast_set.json"
RECORD_VERSION = 1
FOUND_AGAIN = "remove it, and convert the set again"


class SetFile(Record):
    """``size`` in bytes, ``sha256`` as hexadecimal digits."""

    size: Count
    sha256: str


class SetRecord(Record):
    """What a set was converted of: ``source`` tells its files from others; ``files``: of the set itself, by name."""

    version: Count
    source: str
    files: dict[str, SetFile]


@contextmanager
def sets_home(out: str) -> Iterator[Path]:
    """The directory of ``--out`` for the time of a command that puts sets there; what killed ones left is mended or
    removed.

    RunError: another is at work there.   OSError: it cannot be made. What was made and is empty goes with an error.
    """
    home = Path(out)
    busy = f"{home}: another import, fetch, convert or unpack is at work there; wait for it"
    with not_left_empty(home), locked(make_directory(home, "--out") / LOCK_NAME, busy):
        mend_folders(home)
        remove_leftovers(home, below=False)
        yield home


def check_space(place: Path, needed: int) -> None:
    """OSError (ENOSPC) where the disk of a place has not so many bytes free."""
    if needed > (free := free_bytes(os.fspath(place))):
        words = (
            f"{needed:,} bytes are needed and {free:,} are free: free {needed - free:,} more, or choose another disk"
        )
        raise OSError(errno.ENOSPC, words, os.fspath(place))


def text_files(folder: Path) -> list[str]:
    """The files of a set beside its tars or parquet, by their names in it.

    EvalsetError: one is a link that leads out of the set: what it leads to may be nobody's business.
    """
    names = [name for name in (*SMALL_FILES, RECORD_FILE) if (folder / name).is_file()]
    for name in names:
        if leads_out(os.fspath(folder), name):
            raise EvalsetError(f"{folder / name}: it is a link that leads out of the set; copy what it leads to")
    return names


def data_files(folder: Path) -> list[Path]:
    """The tars of a set, or its parquet or Arrow files; links of these are followed. OSError as ``list_set_tars``."""
    return hub_files(folder) or [folder / SPLIT / name for name in list_set_tars(folder).names]


def set_files(folder: Path) -> dict[str, Path]:
    """All files of a set: name in it -> path, sorted by name. Errors as ``text_files`` and ``data_files``."""
    names = [*text_files(folder), *(path.relative_to(folder).as_posix() for path in data_files(folder))]
    return {name: folder / name for name in sorted(names)}


def file_state(path: str | os.PathLike[str]) -> SetFile:
    """Size and hash of a file. Cost: one read of it.   Raises OSError."""
    return SetFile(check_input(path).st_size, sha256_file(path))


def write_set_record(folder: Path, source: str) -> None:
    """Writes down what a set in ``folder`` was made of. Cost: one read of its files."""
    files = {name: file_state(path) for name, path in set_files(folder).items() if name != RECORD_FILE}
    write_json(folder / RECORD_FILE, plain(SetRecord(RECORD_VERSION, source, files)))


def read_set_record(folder: Path) -> SetRecord | None:
    """What a set was made of; None where nothing says so, as of a set that was not converted.

    CorruptDataError: the record is damaged, or of a later version.   OSError.
    """
    path = folder / RECORD_FILE
    if not path.is_file():
        return None
    record = read_record(path, SetRecord, names=False, advice=FOUND_AGAIN)
    if record.version != RECORD_VERSION:
        raise EvalsetError(f"{path} is of version {record.version}; expected {RECORD_VERSION}: {FOUND_AGAIN}")
    return record


def differing_files(folder: Path, files: Mapping[str, SetFile], *, hashes: bool) -> list[str]:
    """What is not as it is written down of a set's files, a line each; none where all are there and no others.

    Args:
        hashes: read the files; otherwise sizes alone are looked at.
    """
    there = {name: path for name, path in set_files(folder).items() if name != RECORD_FILE or name in files}
    lines = [f"{name} is not one of its files" for name in there if name not in files]
    for name, state in files.items():
        if name not in there:
            lines.append(f"{name} is not there")
        elif (size := check_input(there[name]).st_size) != state.size:
            lines.append(f"{name} has {size:,} bytes; expected {state.size:,}")
        elif hashes and (got := sha256_file(there[name])) != state.sha256:
            lines.append(f"{name} has SHA-256 {got[:16]}...; expected {state.sha256[:16]}...")
    return lines
