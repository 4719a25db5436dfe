"""The folders of evaluation sets: wds_*_test directories and their tars, listed here and nowhere else."""

from __future__ import annotations

from pathlib import Path

from dcfast.errors import PoolError
from dcfast.index.pool import check_name
from dcfast.storage.listing import TarListing, list_tars

COUNT_FILE = "nshards.txt"


def evalset_folders(directory: Path) -> list[Path]:
    """The ``wds_*_test`` directories of a directory, sorted; none where there is no such directory."""
    return [folder for folder in sorted(directory.glob("wds_*_test")) if folder.is_dir()]


def set_name(directory: str) -> str:
    """NAME of ``wds_NAME_test``."""
    return directory.removeprefix("wds_").removesuffix("_test")


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


def evalset_tars(directory: Path) -> list[tuple[str, list[str]]]:
    """The evaluation sets of a directory that have tars: (name without wds_ and _test, its tars), sorted.

    Raises:
        PoolError: no such directory, or a tar of a name that no index takes.
    """
    if not directory.is_dir():
        raise PoolError(
            f"evalsets {directory}: no such directory; expected one with wds_*_test directories (--evalsets DIR)"
        )
    sets = []
    for folder in evalset_folders(directory):
        tars = [str(folder / "test" / name) for name in list_set_tars(folder).names]
        for tar in tars:
            check_name(tar, f"evalsets {directory}")
        if tars:
            sets.append((set_name(folder.name), tars))
    return sets
