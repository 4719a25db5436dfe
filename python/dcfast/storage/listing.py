"""Names in a directory: which files are shards, and why one that looks like one is none; one rule for disks and URLs.

Importing this module imports nothing else: a short reshard is over before more would have been imported.
"""

from __future__ import annotations

import errno
import os
import sys
from collections import namedtuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import NamedTuple

TEMPORARY_PREFIX = ".tmp-"
"""Of files that are not whole yet."""
_COMPRESSED = (
    *(f".tar.{kind}" for kind in ("gz", "bz2", "xz", "zst", "lz4", "lzma", "br", "z")),
    *(".tgz", ".tbz", ".tbz2", ".txz", ".tzst"),
)
_PARTIAL = tuple(f".tar.{kind}" for kind in ("part", "partial", "tmp", "download", "crdownload", "incomplete"))
_NAMED = 10
"""Entries that a sentence names."""

if TYPE_CHECKING:

    class PassedOver(NamedTuple):
        """An entry of a directory of shards that looks like one and is not taken: its name, and why, in words."""

        name: str
        reason: str

else:  # without an import of typing
    PassedOver = namedtuple("PassedOver", ["name", "reason"])


def temporary_name(name: str) -> str:
    """A name for what becomes ``name`` when it is whole: ``.tmp-PID-RANDOM-NAME``; ``is_temporary_name`` knows it."""
    return f"{TEMPORARY_PREFIX}{os.getpid()}-{os.urandom(4).hex()}-{name}"


def is_temporary_name(name: str) -> bool:
    """Whether dcfast made a name for what is not whole yet. Others that begin so may be anybody's, and stay."""
    process, _, rest = name.removeprefix(TEMPORARY_PREFIX).partition("-")
    random, _, final = rest.partition("-")
    is_random = len(random) == 8 and not random.strip("0123456789abcdef")
    return name.startswith(TEMPORARY_PREFIX) and process.isascii() and process.isdigit() and is_random and final != ""


def is_shard_name(name: str) -> bool:
    """Whether a file of this name is a shard: ``*.tar`` in lower case; not hidden, which temporary files are too."""
    return name.endswith(".tar") and not name.startswith(".")


def reason_passed_over(name: str) -> str:
    """Why a file that is meant as a tar, by its name, is no shard; empty for shards and for all other files."""
    lower = name.lower()
    compressed, partial = lower.endswith(_COMPRESSED), lower.endswith(_PARTIAL)
    if is_shard_name(name) or not (lower.endswith(".tar") or compressed or partial):
        return ""
    if name.startswith(TEMPORARY_PREFIX) or partial:
        return "unfinished: its writer was stopped"
    if name.startswith("."):
        return "hidden"
    return "compressed: unpack it" if compressed else "the name must end in .tar, in lower case"


def printable(name: str) -> str:
    """A file name as text that can be printed and stored: bytes that are not UTF-8, and control characters, escaped."""
    text = os.fsencode(name).decode("utf-8", "backslashreplace")
    return text if text.isprintable() else "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def fault_of_name(name: str) -> str:
    """What is wrong with a file name that is not UTF-8, and what to do; empty where it is.

    In a locale of another encoding Python reads names by that: text of it would be stored that no other locale finds.
    """
    encoding = sys.getfilesystemencoding()
    if encoding != "utf-8" and not name.isascii():
        how = "set PYTHONUTF8=1, or LC_ALL=C.UTF-8"
        return f"the file name '{printable(name)}' is read as {encoding} in this locale; expected UTF-8: {how}"
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        return f"the file name '{printable(name)}' is not UTF-8; rename the file"
    return ""


def say_losses(losses: Iterable[tuple[str, int, str]]) -> list[str]:
    """(shard, offset, message) of what may hide samples, a sentence each."""
    return [f"shard {printable(name)}, byte {offset:,}: {message}" for name, offset, message in losses]


def first_notes(notes: list[str], count: int | None = None) -> list[str]:
    """The first notes of many, and how many more there are. ``count``: of all, where ``notes`` are some of them."""
    more = (len(notes) if count is None else count) - _NAMED
    return notes[:_NAMED] + ([f"{more:,} more such notes on shards"] if more > 0 else [])


class TarListing:
    """The tars of a directory.

    Attributes:
        directory: as it was given.
        names: of the shards, sorted.
        passed_over: what looks like shards and is not taken, sorted; names in it can be printed.
        unreadable: of the shards, names of directories and of links that lead nowhere.
    """

    def __init__(
        self,
        directory: str,
        names: list[str] | None = None,
        passed_over: list[PassedOver] | None = None,
        unreadable: list[str] | None = None,
    ) -> None:
        self.directory: str = directory
        self.names: list[str] = names or []
        self.passed_over: list[PassedOver] = passed_over or []
        self.unreadable: list[str] = unreadable or []

    def check(self) -> None:
        """IsADirectoryError or FileNotFoundError for a shard that is a directory or a link to nothing: what to do."""
        for name in sorted(self.unreadable):
            path = os.path.join(self.directory, name)
            if os.path.isdir(path):
                words = "it is a directory, and no tar: pack it into one, or give it another name"
                raise IsADirectoryError(errno.EISDIR, words, path)
            if os.path.islink(path) and not os.path.exists(path):
                target = printable(os.readlink(path))
                words = f"it is a link to {target}, which is not there: bring that back, or remove the link"
                raise FileNotFoundError(errno.ENOENT, words, path)

    @property
    def notes(self) -> list[str]:
        """What was passed over, as a sentence for people; none where nothing was."""
        return [f"{printable(self.directory)}: {self._words}"] if self.passed_over else []

    @property
    def hint(self) -> str:
        """What was passed over, to be put behind an error that no tar was found; empty where nothing was."""
        return f" ({self._words})" if self.passed_over else ""

    @property
    def _words(self) -> str:
        named = ", ".join(f"{name} ({reason})" for name, reason in self.passed_over[:_NAMED])
        more = f", and {len(self.passed_over) - _NAMED:,} more" if len(self.passed_over) > _NAMED else ""
        return f"passed over: {named}{more}"


def shards_below(directory: str) -> str:
    """Where the shards of a pool lie: in ``shards`` below the directory, where there is one, else in it."""
    below = os.path.join(directory, "shards")
    return below if os.path.isdir(below) else directory


def list_tars(directory: str | os.PathLike[str]) -> TarListing:
    """Lists the shards of a directory: ``*.tar`` in it, sorted by name; hidden and temporary files are none.

    Passed over, and named, are tars under other names (compressed, ``.TAR``, hidden, unfinished) and directories below
    with tars or further directories in them. A directory or a dangling link called ``x.tar`` stays in the list:
    ``TarListing.check`` is an error with its name, as opening it is.

    OSError: the directory is missing, is none, or cannot be read.
    Memory: the names.   Cost: one listing, and one of each directory below that is not hidden; no file is opened.
    """
    folder = os.fspath(directory)
    names: list[str] = []
    passed_over: list[PassedOver] = []
    unreadable: list[str] = []
    with os.scandir(folder) as entries:
        for entry in entries:
            if is_shard_name(entry.name):
                names.append(entry.name)
                if _is_directory(entry) or (entry.is_symlink() and not os.path.exists(entry.path)):
                    unreadable.append(entry.name)
            elif reason := _directory_reason(entry) or reason_passed_over(entry.name):
                passed_over.append(PassedOver(printable(entry.name), reason))
    return TarListing(folder, sorted(names), sorted(passed_over), unreadable)


def list_pool_tars(directory: str | os.PathLike[str]) -> TarListing:
    """Lists the shards of a pool, where ``shards_below`` says: tars beside a directory ``shards`` are passed over."""
    given = os.fspath(directory)
    listing = list_tars(shards_below(given))
    if listing.directory != given and (beside := sorted(filter(is_shard_name, os.listdir(given)))):
        reason = f"{len(beside):,} .tar beside the directory shards, which is taken"
        listing.passed_over.append(PassedOver(printable(os.path.join("..", beside[0])), reason))
    return listing


def _directory_reason(entry: os.DirEntry[str]) -> str:
    """Why a directory among the shards is worth a word; empty where it is no directory, or holds no shards."""
    if entry.name.startswith(".") or not _is_directory(entry):
        return ""
    try:
        with os.scandir(entry.path) as below:
            entries = sorted((e.name, _is_directory(e)) for e in below if not e.name.startswith("."))
    except OSError as error:
        return f"a directory that cannot be read: {error.strerror}"
    tars = [name for name, _ in entries if is_shard_name(name) or reason_passed_over(name)]
    if tars:
        return f"a directory, with {printable(tars[0])} in it: shards must lie side by side"
    return "a directory of directories: shards must lie side by side" if any(is_dir for _, is_dir in entries) else ""


def _is_directory(entry: os.DirEntry[str]) -> bool:
    """Whether it is a directory; links that lead nowhere, in circles or where one may not look are none."""
    try:
        return entry.is_dir()
    except OSError:
        return False
