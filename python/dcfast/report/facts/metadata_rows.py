"""A bounded look at the metadata: for some rows, what every rule of the filter says, the CLIP scores, and the outcome.

At most MAX_ROWS rows of at most MAX_FILES files, evenly over the pool; all of a small pool. Memory: some 200 bytes a
row, and the captions of a batch.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from dcfast.filters import compile_filter, numbers
from dcfast.filters.catalog import build_term
from dcfast.filters.expression import And, parse
from dcfast.filters.term import CONTAMINATED, ORACLE, SCORES, TEACHER_PAIRS, Rows, Rule, Term
from dcfast.index.metadata import count_metadata_rows, open_metadata, parse_uids
from dcfast.index.pool import list_parquet
from dcfast.rundir.layout import ORACLE_PATH, OUTSIDE, mask_path
from dcfast.storage.npz import load_array
from dcfast.storage.paths import absolute
from dcfast.uids.sets import load_subset, uid_isin

if TYPE_CHECKING:
    from dcfast.filters.compiled import Filter

__all__ = ["MAX_ROWS", "Examined", "examine", "metadata_files", "stretches"]

MAX_FILES = 64
MAX_ROWS = 65_536
GROUPS = 4
"""Row groups of a file that are looked into, where it is not read whole."""
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Examined:
    """Rows of the metadata that were looked at.

    Attributes:
        total: rows of all metadata, None where not all footers were read.
        uids: (n,) "u8,u8".
        kept: (n,) bool: in the subset.
        scores: column -> (n,) float32, NaN for none; of columns with a finite one.
        rules: what the filter's rules are called, in the order of the expression.
        drops: (n, len(rules)) bool: each rule asked by itself.
    """

    total: int | None
    uids: npt.NDArray[Any]
    kept: Mask
    scores: dict[str, npt.NDArray[np.float32]]
    rules: list[str]
    drops: Mask


def metadata_files(out: Path, pool_metadata: Path) -> list[Path]:
    """The files that the filter read: those of the features stage, or the pool's own."""
    for folder in (out / "features" / "metadata", pool_metadata):
        if folder.is_dir() and (names := list_parquet(folder)):
            return [folder / name for name in names]
    return []


def stretches(files: list[Path], columns: list[str], uid_from: str = "json") -> Iterator[tuple[Path, int, Any]]:
    """(file, number of the first row, record batch), at most MAX_ROWS rows; columns that a file lacks are left out."""
    if len(files) > MAX_FILES:
        files = [files[i * len(files) // MAX_FILES] for i in range(MAX_FILES)]
    for path in files:
        budget = MAX_ROWS // len(files)
        with open_metadata(path, uid_from) as file:
            names = [name for name in columns if name in file.schema.names]
            sizes = file.group_rows
            begins = [sum(sizes[:g]) for g in range(len(sizes))]
            groups = [g for g, size in enumerate(sizes) if size]
            each = budget
            if sum(sizes) > budget and groups:
                groups = [groups[i * len(groups) // GROUPS] for i in range(GROUPS)] if len(groups) > GROUPS else groups
                each = budget // len(groups)
            for group in groups:
                left, at = each, begins[group]
                for batch in file.batches(names, min(each, 8_192), [group]):
                    part = batch.slice(0, left)
                    yield path, at, part
                    at, left = at + part.num_rows, left - part.num_rows
                    if left <= 0:
                        break


class _Judge:
    """The filter's rules, each asked by itself."""

    def __init__(self, out: Path, expression: str, settings: dict[str, Any], thresholds: dict[str, float]) -> None:
        root = parse(expression, build_term)
        self.whole: Filter = compile_filter(expression)
        self.whole.check_needs()
        self.out, self.thresholds = out, thresholds
        self.clauses: list[Any] = []
        self.rules: list[str] = []
        for clause in root.children if isinstance(root, And) else (root,):
            if isinstance(clause, Term):
                self.clauses += clause.rules
                self.rules += [rule.reason for rule in clause.rules]
            else:
                one = compile_filter(str(clause))
                self.clauses.append(one)
                self.rules.append(one.reasons[-1])
        own = {CONTAMINATED: "contaminated.npy", ORACLE: ORACLE_PATH, TEACHER_PAIRS: settings.get("teacher_uids")}
        paths = {name: out / str(own.get(name) or absolute(name)) for name in self.whole.uid_sets}
        self.uid_sets = {name: load_subset(path, check=False) for name, path in paths.items()}

    def clusters(self, path: Path, begin: int, rows: int) -> dict[str, Mask]:
        """Rows that the rule of clusters does not drop; the filter asks it only of rows that pass all other rules."""
        found = {}
        for number, one in enumerate(self.whole.clusters):
            mask = load_array(self.out / mask_path(number, str(path)), mmap=True)
            found[one.key] = np.not_equal(mask[begin : begin + rows], OUTSIDE)
        return found

    def drops(self, path: Path, begin: int, batch: Any, uids: npt.NDArray[Any]) -> Mask:
        """(rows, rules) bool."""
        clusters = self.clusters(path, begin, batch.num_rows)
        rows = Rows(batch, self.thresholds, self.uid_sets, uids, clusters)
        everyone = np.ones(batch.num_rows, np.bool_)
        found = np.zeros((batch.num_rows, len(self.clauses)), np.bool_)
        for place, clause in enumerate(self.clauses):
            if isinstance(clause, Rule):
                found[:, place] = ~clause.passes(rows, everyone)
            else:
                found[:, place] = clause.evaluate(batch, self.thresholds, self.uid_sets, uids, clusters) != 0
        return found


def _all_rows(files: list[Path]) -> int | None:
    if len(files) > MAX_FILES:
        return None
    return sum(count_metadata_rows(path) for path in files)


def examine(
    out: Path, files: list[Path], expression: str, settings: dict[str, Any], thresholds: dict[str, float]
) -> Examined:
    """Looks at rows of the metadata files.

    Args:
        expression, settings, thresholds: of the run, as its filter stage recorded them.
    Raises:
        DcfastError, OSError, ValueError: a model, a file or a column that the filter needs is not there any more.
    """
    judge = _Judge(out, expression, settings, thresholds)
    subset = load_subset(out / "subset.npy", check=False)
    wanted = list(dict.fromkeys(["uid", *judge.whole.column_names, *SCORES.values()]))
    uids, kept, drops = [], [], []
    scores: dict[str, list[Any]] = {name: [] for name in SCORES.values()}
    for path, begin, batch in stretches(files, wanted, str(settings.get("uid_from", "json"))):
        parsed, valid = parse_uids(batch)
        good = np.flatnonzero(valid)
        uids.append(parsed[good])
        kept.append(uid_isin(np.ascontiguousarray(parsed[good]), subset, check=False, threads=1))
        drops.append(judge.drops(path, begin, batch, parsed)[good])
        for name, column in scores.items():
            given = numbers(batch.column(name)) if name in batch.schema.names else np.full(batch.num_rows, np.nan)
            with np.errstate(over="ignore"):  # of float64: infinite, as it is told
                column.append(given.astype(np.float32)[good])
    if not uids:
        raise ValueError("the metadata has no rows")
    columns = {name: np.concatenate(parts) for name, parts in scores.items()}
    return Examined(
        _all_rows(files),
        np.concatenate(uids),
        np.concatenate(kept),
        {name: column for name, column in columns.items() if np.isfinite(column).any()},
        judge.rules,
        np.concatenate(drops),
    )
