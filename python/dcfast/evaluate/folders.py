"""The folders of evaluation sets: wds_*_test directories and their tars."""

from __future__ import annotations

from pathlib import Path

from dcfast.errors import PoolError
from dcfast.index.pool import check_name

__all__ = ["COUNT_FILE", "evalset_tars"]


COUNT_FILE = "nshards.txt"


def evalset_tars(directory: Path) -> list[tuple[str, list[str]]]:
    """The evaluation sets of a directory: (name without wds_ and _test, its tars), sorted.

    Raises:
        PoolError: no such directory, or no ``wds_*_test`` directory in it.
    """
    if not directory.is_dir():
        raise PoolError(
            f"evalsets {directory}: no such directory; expected one with wds_*_test directories (--evalsets DIR)"
        )
    found = []
    for folder in sorted(directory.glob("wds_*_test")):
        tars = sorted((folder / "test").glob("*.tar"), key=lambda p: (len(p.name), p.name))
        for tar in tars:
            check_name(str(tar), f"evalsets {directory}")
        if tars:
            found.append((folder.name[len("wds_") : -len("_test")], [str(t) for t in tars]))
    if not found:
        raise PoolError(f"evalsets {directory}: no wds_*_test/test/*.tar in it; nothing to decontaminate against")
    return found
