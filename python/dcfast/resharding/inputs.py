"""The input of a reshard: directories of shards, indexed for the time of the run, or index segments that are there.

Importing this module imports nothing but the core, see the package.
"""

from __future__ import annotations

import os

from dcfast._core import index as core_index
from dcfast.errors import PoolError
from dcfast.resharding.files import plain_path, unnamed_file
from dcfast.resharding.sources import open_segment
from dcfast.storage.listing import TarListing, is_shard_name, list_pool_tars, shards_below
from dcfast.storage.shards import find_shards, is_pattern, relative_shards
from dcfast.storage.whole import raise_full_disk

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import TypeAlias

    from dcfast.resharding.sources import SegmentItem, StrPath
    from dcfast.storage.remote import RangeSource

    Pool: TypeAlias = StrPath | Sequence[SegmentItem]

# input shards indexed together where a pool has no index yet
_SHARDS_A_SEGMENT = 256


class Inputs:
    """Where the input lies.

    Attributes:
        base: directory that shard names are relative to.
        directories: of shards; with index segments just ``base``.
        names: shards relative to base, in pool order: directory by directory as given, by name in each; not of index
            segments.
        segments: index segments where they were given, else None.
        given: the directories as given: ``directories``, or what holds them as ``shards``.
        notes: what in the directories was passed over, in words.
    """

    def __init__(
        self,
        base: str,
        directories: list[str],
        names: list[str],
        given: list[str],
        segments: Sequence[SegmentItem] | None = None,
        notes: list[str] | None = None,
    ) -> None:
        self.base: str = base
        self.directories: list[str] = directories
        self.names: list[str] = names
        self.given: list[str] = given
        self.segments: Sequence[SegmentItem] | None = segments
        self.notes: list[str] = notes or []

    def files(self) -> list[str]:
        """The paths of the input shards, none where they lie behind a URL. Raises PoolError: an index names each shard
        by a URL of its own.
        """
        if "://" in self.base:
            return []
        names = self.names
        if self.segments is not None:
            from dcfast.storage.paths import is_url

            names = [os.fsdecode(name) for item in self.segments for name in open_segment(item).shard_names()]
            remote = next((name for name in names if is_url(name)), None)
            if remote is not None:
                raise PoolError(
                    f"reshard: shard {remote} is named by a URL of its own in the index; give the URL of the directory "
                    "that holds the shards, or index it by refresh_index"
                )
        return [os.path.join(self.base, name) for name in names]

    def indexed(self, threads: int, uid_from: str = "json") -> Sequence[SegmentItem]:
        """The index segments; of directories of shards they are made here, in files without names.

        Args:
            uid_from: where uids come from, see ``dcfast.index.metadata.UID_SOURCES``; index segments have theirs.

        Memory: the columns of 256 shards while they are indexed, about 60 bytes a sample and 8 a member, and the keys.
        """
        if self.segments is not None:
            return self.segments
        chunks = range(0, len(self.names), _SHARDS_A_SEGMENT)
        return [_index(self.base, self.names[at : at + _SHARDS_A_SEGMENT], threads, uid_from) for at in chunks]


def _index(base: str, names: list[str], threads: int, uid_from: str) -> core_index.TarSegment:
    pairs = [(_source(f"{base}/{name}"), os.fsencode(name)) for name in names]
    window = 0
    if "://" in base:
        from dcfast.storage.http import PATIENT

        window = PATIENT.window_bytes
    fd = unnamed_file()
    path = f"/proc/self/fd/{fd}"
    try:
        core_index.write_segment(pairs, os.fsencode(path), True, False, threads, window, uid_from)
        return core_index.TarSegment(os.fsencode(path), False)  # the map outlives the descriptor
    except OSError as error:
        raise_full_disk(error, "the index of the input, in the directory for temporary files", path)
        raise
    finally:
        os.close(fd)


def _source(path: str) -> bytes | RangeSource:
    """A shard as the core indexes it: by its path, or by ranges of what a URL has."""
    if "://" not in path:
        return os.fsencode(path)
    from dcfast.storage.http import PATIENT
    from dcfast.storage.ranges import RemoteShard

    return RemoteShard(path, PATIENT)


def open_inputs(pool: Pool, shards_dir: StrPath | None) -> Inputs:
    """What ``reshard`` was given: a directory, tars, patterns, several of these, or segments with ``shards_dir``.

    Raises:
        PoolError: not a directory, or one without shards, or twice the same.   TypeError: segments without shards_dir.
    """
    if isinstance(pool, str) and (":" in pool or "|" in pool):
        from dcfast.storage.paths import check_source

        check_source(pool, "reshard: pool")
    if isinstance(pool, str) and "://" in pool:
        return _behind_url(pool.rstrip("/"))
    if isinstance(pool, (bytes, str, os.PathLike)):
        given = plain_path(pool)  # refuses bytes
        if _is_shard(given):
            return _of_shards([given])
        listing = _listing(given)
        return Inputs(listing.directory, [listing.directory], listing.names, [given], notes=listing.notes)
    items = list(pool)
    if not items:
        raise PoolError("reshard: the pool has no index segments; index it first (write_segment)")
    directories = [item for item in items if isinstance(item, (str, os.PathLike)) and os.path.isdir(item)]
    if len(directories) == len(items):
        several = [plain_path(item) for item in directories]
        return _several([_listing(path) for path in several], several)
    tars = [item for item in items if isinstance(item, (str, os.PathLike)) and (_is_shard(item) or os.path.isdir(item))]
    if len(tars) == len(items):
        return _of_shards([plain_path(item) for item in tars])
    far = next((item for item in items if isinstance(item, str) and "://" in item), None)
    if far is not None:
        raise PoolError(f"reshard: pool {far} is behind a URL, beside others; give it by itself")
    if shards_dir is None:
        raise TypeError("reshard: shards_dir must be given where the pool is given by its index segments")
    text = os.fspath(shards_dir)
    base = text.rstrip("/") if isinstance(text, str) and "://" in text else plain_path(shards_dir)
    return Inputs(base, [base], [], [base], items)


def _behind_url(url: str) -> Inputs:
    """The shards that a URL of a directory lists. Raises PoolError: none.   OSError: it cannot be listed."""
    from dcfast.storage.http import PATIENT
    from dcfast.storage.remote import list_shards

    states, passed_over = list_shards(url, PATIENT)
    listing = TarListing(url, sorted(states), passed_over)
    if not listing.names:
        raise PoolError(f"reshard: pool {url} lists no .tar files; give the URL of their directory{listing.hint}")
    return Inputs(url, [url], listing.names, [url], notes=listing.notes)


def _is_shard(path: StrPath) -> bool:
    """Whether a path is a tar or a pattern, and no directory or index segment."""
    return is_pattern(path) or (is_shard_name(os.path.basename(os.fspath(path))) and not os.path.isdir(path))


def _of_shards(given: list[str]) -> Inputs:
    """Tars, patterns, and directories among them."""
    paths, passed_over = find_shards(given)
    base, names = relative_shards(paths)
    directories = list(dict.fromkeys(map(os.path.dirname, paths)))
    return Inputs(base, directories, names, directories, notes=TarListing(base, passed_over=passed_over).notes)


def _several(listings: list[TarListing], given: list[str]) -> Inputs:
    directories = [listing.directory for listing in listings]
    real = [os.path.realpath(directory) for directory in directories]
    if len(set(real)) < len(real):
        twice = next(path for path in real if real.count(path) > 1)
        raise PoolError(
            f"reshard: input directory {twice} is given twice: each of its samples would be written twice; name it once"
        )
    # "link/.." is not what it looks like: such a path has to be resolved before it is made relative
    paths = [os.path.realpath(d) if ".." in d.split("/") else os.path.abspath(d) for d in directories]
    base = os.path.commonpath(paths)
    names: list[str] = []
    for listing, path in zip(listings, paths, strict=True):
        inside = os.path.relpath(path, base)
        names += [name if inside == "." else os.path.join(inside, name) for name in listing.names]
    notes = [note for listing in listings for note in listing.notes]
    return Inputs(base, directories, names, given, notes=notes)


def _listing(given: str) -> TarListing:
    """The shards of an input directory. Raises PoolError: not a directory, or one without shards."""
    base = shards_below(given)
    if not os.path.isdir(base):
        raise PoolError(f"reshard: pool {given} is not a directory; give the one that holds the shards")
    listing = list_pool_tars(given)
    if not listing.names:
        expected = "expected shards such as 00000000.tar"
        raise PoolError(f"reshard: pool {base} has no .tar files; {expected}{listing.hint}")
    listing.check()
    return listing
