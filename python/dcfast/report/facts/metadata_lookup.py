"""The metadata row of a uid, found by search in the filter's sorted runs, and read from its file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

from dcfast.index.metadata import open_metadata, parse_uids
from dcfast.index.pool import group_files
from dcfast.report.facts.metadata_rows import metadata_files
from dcfast.rundir.layout import CODE_SHIFT, outcome_run
from dcfast.rundir.lookup import SampleLookup
from dcfast.rundir.run_dir import Run
from dcfast.uids.sets import open_records, uid_lookup

if TYPE_CHECKING:
    import pyarrow as pa

ROWS_AT_ONCE = 8_192


class MetadataRow(NamedTuple):
    """A row of the metadata: its file, its number there, and what was read of it, a batch of one row."""

    path: Path
    row: int
    batch: pa.RecordBatch


class MetadataLookup:
    """The metadata of a run asked for single rows.

    Cost of a uid: a search in the runs of the filter's pieces, of which there are at most 8,192, nearest first; and one
    row group of one file up to the row, in the columns asked for.
    """

    def __init__(self, run: Run, samples: SampleLookup) -> None:
        self.run: Run = run
        self.samples: SampleLookup = samples
        self.files: list[Path] = metadata_files(run)
        self.groups: list[list[str]] = [files for _, files in group_files([str(path) for path in self.files])]

    def find(
        self, uids: npt.NDArray[np.void], columns: Sequence[str], near: Sequence[float] = ()
    ) -> list[MetadataRow | None]:
        """The row of each of some uids that the filter went by; None where there is none, or it is not found again.

        Args:
            uids: (n,) "u8,u8".   columns: those that a file lacks are left out.
            near: for each uid a share of the pool at which its row may lie: there the search begins.
        """
        found: list[MetadataRow | None] = [None] * len(uids)
        for i, verdict in enumerate(self.samples.verdicts(uids)):
            if verdict is not None:
                payloads = np.array([verdict.code << CODE_SHIFT | verdict.row, verdict.row], np.uint64)
                group = self._group(uids[i : i + 1], payloads, near[i] if near else 0.0)
                found[i] = None if group is None else self._read(group, verdict.row, uids[i], columns)
        return found

    def _group(self, uid: npt.NDArray[np.void], payloads: npt.NDArray[np.uint64], near: float) -> list[str] | None:
        """The files of the piece whose run has this record.

        The second payload is that of a row that passed and was not drawn: the runs are of the time before the draw.
        """
        middle = near * len(self.groups)
        for number in sorted(range(len(self.groups)), key=lambda n: abs(n + 0.5 - middle)):
            path = self.run.out / outcome_run(number)
            if path.exists():
                records = open_records(path)
                (first,), (count,) = (column.tolist() for column in uid_lookup(records, uid, threads=1))
                if np.isin(records["f2"][first : first + count], payloads).any():
                    return self.groups[number]
        return None

    def _read(self, group: list[str], row: int, uid: np.void, columns: Sequence[str]) -> MetadataRow | None:
        for path in map(Path, group):
            with open_metadata(path, self.run.settings.uid_from) as file:
                if row >= file.num_rows:
                    row -= file.num_rows
                    continue
                names = [name for name in dict.fromkeys(["uid", *columns]) if name in file.schema.names]
                at = row
                for number, size in enumerate(file.group_rows):
                    if at < size:
                        for batch in file.batches(names, ROWS_AT_ONCE, [number]):
                            if at < batch.num_rows:
                                one = batch.slice(at, 1)
                                # the file may have been written anew since
                                return MetadataRow(path, row, one) if parse_uids(one)[0][0] == uid else None
                            at -= batch.num_rows
                    at -= size
        return None
