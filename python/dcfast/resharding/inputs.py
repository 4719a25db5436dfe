"""The input of a reshard: directories of shards, indexed for the time of the run, or index segments that are there."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from dcfast.errors import PoolError
from dcfast.index.build import write_segment
from dcfast.index.pool import TarListing, list_tars, shard_folder
from dcfast.index.rows import SegmentLike, open_segment
from dcfast.storage.remote import is_url
from dcfast.storage.temporary import temporary_folder

__all__ = ["Inputs", "Pool", "StrPath", "open_inputs"]

StrPath = str | os.PathLike[str]
Pool = StrPath | Sequence[SegmentLike | str]

# input shards indexed together where a pool has no index yet
_SHARDS_A_SEGMENT = 256


@dataclass
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

    base: Path
    directories: list[Path]
    names: list[str]
    segments: Sequence[SegmentLike | str] | None = None
    given: list[Path] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def files(self) -> list[str]:
        """The paths of the input shards. Raises PoolError: an index names shards behind URLs: none is read here."""
        names = self.names
        if self.segments is not None:
            names = [name for item in self.segments for name in open_segment(item, verify=False).shard_names]
            behind = next((name for name in names if is_url(name)), None)
            if behind is not None:
                raise PoolError(
                    f"reshard: shard {behind} is behind a URL: it can be indexed there, but is read from a file; "
                    "download the shards, and reshard the copies"
                )
        return [os.path.join(self.base, name) for name in names]

    @contextmanager
    def indexed(self, threads: int) -> Iterator[Sequence[SegmentLike | str]]:
        """The index segments; of directories of shards they are made here and removed at the end."""
        if self.segments is not None:
            yield self.segments
            return
        with temporary_folder("dcfast-index-") as index_dir:
            segments: list[SegmentLike | str] = []
            for begin in range(0, len(self.names), _SHARDS_A_SEGMENT):
                path = os.path.join(index_dir, f"{begin:08d}.dcx")
                chosen = self.names[begin : begin + _SHARDS_A_SEGMENT]
                pairs = [(os.path.join(self.base, name), name) for name in chosen]
                # nobody needs this index after a crash
                write_segment(pairs, path, threads, read_image_size=False, sync=False)
                segments.append(path)
            yield segments


def open_inputs(pool: Pool, shards_dir: StrPath | None) -> Inputs:
    """What ``reshard`` was given: a directory, several, or index segments with ``shards_dir``.

    Raises:
        PoolError: not a directory, or one without shards, or twice the same.   TypeError: segments without shards_dir.
    """
    if isinstance(pool, (str, os.PathLike)):
        listing = _listing(Path(pool))
        directory = Path(listing.directory)
        return Inputs(directory, [directory], listing.names, given=[Path(pool)], notes=listing.notes)
    items = list(pool)
    if not items:
        raise PoolError("reshard: the pool has no index segments")
    if all(isinstance(item, (str, os.PathLike)) and os.path.isdir(item) for item in items):
        given = [Path(item) for item in items if isinstance(item, (str, os.PathLike))]
        return _several([_listing(path) for path in given], given)
    if shards_dir is None:
        raise TypeError("reshard: shards_dir must be given where the pool is given by its index segments")
    return Inputs(Path(shards_dir), [Path(shards_dir)], [], items, [Path(shards_dir)])


def _several(listings: list[TarListing], given: list[Path]) -> Inputs:
    directories = [Path(listing.directory) for listing in listings]
    real = [os.path.realpath(directory) for directory in directories]
    if len(set(real)) < len(real):
        twice = next(path for path in real if real.count(path) > 1)
        raise PoolError(f"reshard: input directory {twice} is given twice: each of its samples would be written twice")
    # "link/.." is not what it looks like: such a path has to be resolved before it is made relative
    places = [Path(os.path.realpath(d)) if ".." in d.parts else d.absolute() for d in directories]
    base = Path(os.path.commonpath(places))
    names: list[str] = []
    for listing, place in zip(listings, places, strict=True):
        inside = os.path.relpath(place, base)
        names += [name if inside == "." else os.path.join(inside, name) for name in listing.names]
    notes = [note for listing in listings for note in listing.notes]
    return Inputs(base, directories, names, given=given, notes=notes)


def _listing(given: Path) -> TarListing:
    """The shards of an input directory. Raises PoolError: not a directory, or one without shards."""
    base = shard_folder(given)
    if not base.is_dir():
        raise PoolError(f"reshard: pool {given} is not a directory")
    listing = list_tars(base)
    if not listing.names:
        expected = "expected shards such as 00000000.tar"
        raise PoolError(f"reshard: pool {base} has no .tar files; {expected}{listing.hint}")
    return listing
