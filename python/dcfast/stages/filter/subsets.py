"""The two subset files of a run: what passes the filter, and what of it can be trained on.

- ``subset_metadata.npy``: the uid of every metadata row that passes, a uid as often as rows pass, downloaded or not:
  what DataComp's own baselines write.
- ``subset.npy``: the uids of the kept samples, which stand whole in the shards: each once, or, with
  ``--keep-repeats``, as often as in ``subset_metadata.npy`` (``dcfast.stages.filter.fates`` merges it).

Both are sorted. Memory: a stretch of the mapped files.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from dcfast.engine.piece import Nothing, piece
from dcfast.rundir.layout import CODE_SHIFT, METADATA_SUBSET, OUTCOMES
from dcfast.storage.npz import write_npy
from dcfast.uids.files import UID_DTYPE
from dcfast.uids.sets import load_subset, open_records, uid_isin

__all__ = ["write_metadata_subset", "write_repeated"]

ROWS_AT_ONCE = 1 << 20


Uids = npt.NDArray[np.void]
"""(n,) uids, or records that begin with one."""


def _stretches(rows: Uids, chosen: Callable[[Uids], npt.NDArray[np.bool_]]) -> Iterator[Uids]:
    """The uids of the chosen rows of mapped uids or records, a stretch at a time."""
    for begin in range(0, len(rows), ROWS_AT_ONCE):
        part = np.asarray(rows[begin : begin + ROWS_AT_ONCE])
        mask = chosen(part)
        uids = np.empty(int(mask.sum()), UID_DTYPE)
        uids["f0"], uids["f1"] = part["f0"][mask], part["f1"][mask]
        yield uids


@piece(native=True)
def write_metadata_subset(out: Path, rows: int) -> Nothing:
    """Piece: ``subset_metadata.npy``, of the outcomes of all rows; ``rows`` of them pass."""
    passing = _stretches(open_records(out / OUTCOMES), lambda part: part["f2"] >> np.uint64(CODE_SHIFT) == 0)
    write_npy(out / METADATA_SUBSET, (rows,), UID_DTYPE, passing)
    return Nothing()


def write_repeated(kept: Path, passing: Path, final: Path) -> None:
    """Writes the uids of the subset file ``passing``, with their repeats, that stand in the subset file ``kept``."""
    inside, rows = load_subset(kept, check=False), load_subset(passing, check=False)

    def uids() -> Iterator[Uids]:
        return _stretches(rows, lambda part: uid_isin(part, inside, check=False, threads=1))

    write_npy(final, (sum(map(len, uids())),), UID_DTYPE, uids())
