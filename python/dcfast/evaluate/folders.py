"""The folders of evaluation sets: wds_*_test directories and their tars, listed here and nowhere else."""

from __future__ import annotations

from pathlib import Path

from dcfast.storage.inputs import read_input
from dcfast.storage.listing import TarListing, list_tars

COUNT_FILE = "nshards.txt"


def evalset_folders(directory: Path) -> list[Path]:
    """The ``wds_*_test`` directories of a directory, sorted; none where there is no such directory."""
    return [folder for folder in sorted(directory.glob("wds_*_test")) if folder.is_dir()]


def set_name(directory: str) -> str:
    """NAME of ``wds_NAME_test``."""
    return directory.removeprefix("wds_").removesuffix("_test")


def count_remark(test: Path, tars: int) -> list[str]:
    """What the ``nshards.txt`` beside the tars of a set says, where it is another number than there are."""
    try:
        stated = int(read_input(test / COUNT_FILE, 64))
    except (OSError, ValueError):  # not every source of evaluation sets writes one
        return []
    return [] if stated == tars else [f"says {stated} shards, but there are {tars}"]


def list_set_tars(folder: Path) -> TarListing:
    """The tars of one evaluation set, ``test/*.tar``, in the order of their numbers: by length of the name, then name.

    None where it has no directory ``test``; otherwise as ``dcfast.index.pool.list_tars``, and checked.
    """
    test = folder / "test"
    if not test.is_dir():
        return TarListing(str(test))
    listing = list_tars(test)
    listing.check()
    return TarListing(listing.directory, sorted(listing.names, key=lambda n: (len(n), n)), listing.passed_over)
