"""The pictures of some folders: files, and members of shards."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from dcfast.errors import PoolError
from dcfast.images import costs
from dcfast.images.signatures import STATUS, Signatures, signatures_of
from dcfast.index.build import write_segment
from dcfast.index.segments import Segment
from dcfast.storage.inputs import open_input
from dcfast.storage.listing import is_shard_name, printable
from dcfast.storage.temporary import temporary_folder

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff")
SIGNED_AT_A_TIME = 64


class Place(NamedTuple):
    """Where an encoded picture lies."""

    name: str
    path: str
    offset: int
    size: int

    def read(self) -> bytes:
        with open_input(self.path) as file:
            file.seek(self.offset)
            return file.read(self.size)


def list_pictures(folders: Sequence[str]) -> list[Place]:
    """Pictures of folders and all below them, by names: files of a picture's suffix, and those of samples of tars.

    Raises:
        OSError: a folder is missing or cannot be read.   PoolError: there are no pictures.
    Memory: about 300 bytes a picture. Cost: tars are indexed; of files the size is asked.
    """
    places: list[Place] = []
    for folder in folders:
        paths = sorted(_files_below(folder))
        tars = [path for path in paths if is_shard_name(os.path.basename(path))]
        places += _members(tars, folder)
        for path in paths:
            if path.lower().endswith(SUFFIXES):
                size = min(os.stat(path).st_size, costs.MAX_BYTES + 1)
                places.append(Place(printable(os.path.relpath(path, folder)), path, 0, size))
    if not places:
        raise PoolError(f"{', '.join(folders)}: no picture below (*.tar, {', '.join(SUFFIXES)}); name other folders")
    return places


def _files_below(folder: str) -> Iterator[str]:
    def refuse(error: OSError) -> None:
        raise error

    for directory, below, names in os.walk(folder, onerror=refuse):
        below[:] = [name for name in below if not name.startswith(".")]
        yield from (os.path.join(directory, name) for name in names if not name.startswith("."))


def _members(tars: list[str], folder: str) -> Iterator[Place]:
    if not tars:
        return
    names = [f"{number:06d}.tar" for number in range(len(tars))]
    with temporary_folder("dcfast-calibrate-") as work:
        write_segment(zip(tars, names, strict=True), Path(work) / "pictures.dcx", sync=False, read_uid=False)
        segment = Segment.open(Path(work) / "pictures.dcx")
        shard, offset, size = segment.image_places()
        for row in np.flatnonzero(shard >= 0).tolist():
            path = tars[shard[row]]
            name = f"{os.path.relpath(path, folder)}/{segment.key(row)}"
            yield Place(printable(name), path, int(offset[row]), min(int(size[row]), costs.MAX_BYTES + 1))


class Chosen(NamedTuple):
    """Pictures to measure with, each another one, and what of those drawn was left out.

    Attributes:
        signed: their signatures, with the 256-bit hashes.
        unreadable, flat, identical: pictures left out: not decoded; flat for one of the hashes; the bytes of another.
    """

    places: list[Place]
    signed: Signatures
    unreadable: int
    flat: int
    identical: int


def choose(places: list[Place], most: int, seed: int, threads: int | None) -> Chosen:
    """Draws pictures and signs them.

    Memory: 64 encoded pictures and their decoding, a thread each; 76 bytes a picture for the result.
    """
    drawn = sorted(np.random.default_rng([seed, 0]).permutation(len(places))[:most].tolist())
    signed = _sign((places[i] for i in drawn), threads)
    ok = signed.status == STATUS.index("ok")
    flat = ok & (signed.flat | signed.flat256)
    good = np.flatnonzero(ok & ~flat)
    _, first = np.unique(signed.content_hash[good], return_index=True)
    kept = good[np.sort(first)]
    return Chosen(
        [places[drawn[i]] for i in kept],
        Signatures._make(column[kept] for column in signed),
        int((~ok).sum()),
        int(flat.sum()),
        len(good) - len(kept),
    )


def _sign(places: Iterable[Place], threads: int | None) -> Signatures:
    parts, held = [signatures_of([], wide=True)], list[bytes]()
    for place in places:
        held.append(place.read())
        if len(held) == SIGNED_AT_A_TIME:
            parts.append(signatures_of(held, threads=threads, wide=True))
            held.clear()
    parts.append(signatures_of(held, threads=threads, wide=True))
    columns: list[npt.NDArray[np.generic]] = [np.concatenate(column) for column in zip(*parts, strict=True)]
    return Signatures._make(columns)
