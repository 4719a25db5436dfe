"""A bounded look at the metadata: for some rows, what every rule of the filter says, the CLIP scores, and the outcome.

At most MAX_ROWS rows of at most MAX_FILES files, evenly over the pool; all of a small pool. Memory: some 200 bytes a
row, and the captions of a batch.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from dcfast.filters import compile_filter, numbers
from dcfast.filters.catalog import build_term, build_without_code
from dcfast.filters.expression import And, parse
from dcfast.filters.rules import Numbers
from dcfast.filters.term import SCORES, Rows, Rule, Term
from dcfast.index.metadata import count_metadata_rows, open_metadata, parse_uids
from dcfast.index.pool import list_parquet, metadata_folder
from dcfast.report.facts.sampling import evenly
from dcfast.rundir.layout import FEATURE_METADATA, OUTSIDE, mask_path, score_path
from dcfast.rundir.run_dir import Run
from dcfast.storage.npz import load_array
from dcfast.uids.sets import load_subset, uid_isin

if TYPE_CHECKING:
    import pyarrow as pa

    from dcfast.filters.compiled import Filter
    from dcfast.filters.thresholds import Quantile

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
        sources: the same of the filter's sources of scores, by their text, with the limit of each in ``limits``.
        rules: what the filter's rules are called, in the order of the expression.
        drops: (n, len(rules)) bool: each rule asked by itself.
    """

    total: int | None
    uids: npt.NDArray[np.void]
    kept: Mask
    scores: dict[str, npt.NDArray[np.float32]]
    rules: list[str]
    drops: Mask
    sources: dict[str, npt.NDArray[np.float32]] = field(default_factory=dict)
    limits: dict[str, float | None] = field(default_factory=dict)


def metadata_files(run: Run) -> list[Path]:
    """The files that the filter read: those of the features stage, or the pool's own."""
    for folder in (run.out / FEATURE_METADATA, metadata_folder(run.pool_dir)):
        if folder.is_dir() and (names := list_parquet(folder)):
            return [folder / name for name in names]
    return []


def stretches(
    files: list[Path], columns: list[str], uid_from: str = "json"
) -> Iterator[tuple[Path, int, pa.RecordBatch]]:
    """(file, number of the first row, record batch), at most MAX_ROWS rows; columns that a file lacks are left out."""
    files = evenly(files, MAX_FILES)
    budget = MAX_ROWS // max(len(files), 1)
    for path in files:
        with open_metadata(path, uid_from) as file:
            names = [name for name in columns if name in file.schema.names]
            sizes = file.group_rows
            groups = [group for group, size in enumerate(sizes) if size]
            if is_part := sum(sizes) > budget:
                groups = evenly(groups, GROUPS)
            each = budget // len(groups) if is_part else budget
            for group in groups:
                left, at = each, sum(sizes[:group])
                for batch in file.batches(names, min(each, 8_192), [group]):
                    part = batch.slice(0, left)
                    yield path, at, part
                    at, left = at + part.num_rows, left - part.num_rows
                    if left <= 0:
                        break


def _refuse_other_code(run: Run, expression: str) -> None:
    """ValueError where what was recorded has Python code run that the run's settings do not name: it was altered."""
    given = run.settings.filter
    allowed = [] if given is None else compile_filter(given, run_code=False).unasked
    other = [term for term in compile_filter(expression, run_code=False).unasked if term not in allowed]
    if other:
        raise ValueError(
            f"the recorded filter has code run, {', '.join(other)}, that the run's settings do not name; "
            "run its filter again"
        )


def every_row(
    files: list[Path], columns: list[str], uid_from: str = "json"
) -> Iterator[tuple[Path, int, pa.RecordBatch]]:
    """The same of all rows of all files."""
    for path in files:
        with open_metadata(path, uid_from) as file:
            at = 0
            for batch in file.batches([name for name in columns if name in file.schema.names], 8_192):
                yield path, at, batch
                at += batch.num_rows


def load_scores(out: Path, key: str, path: Path, begin: int, rows: int) -> Numbers:
    """(rows,) the scores of some rows of a metadata file in the source of that key of the run's filter."""
    column = load_array(out / score_path(key, str(path)), mmap=True)
    return np.asarray(column[begin : begin + rows])


class SeparateRules:
    """The filter's rules, each asked by itself.

    Attributes:
        names: of the rules, in the order of the expression: what a row that they drop is called.
        texts: for each what it asks, as the expression has it.   columns: for each the metadata columns that it reads.
        limits: for each the key of the threshold by fraction that it compares with, None where there is none.
        is_asked: whether it is asked: one that is Python code only where that may be run.
    """

    def __init__(self, run: Run, expression: str, thresholds: Mapping[str, float], *, run_code: bool) -> None:
        root = parse(expression, build_term if run_code else build_without_code)
        self.whole: Filter = compile_filter(expression, run_code=run_code)
        self.whole.check_needs()
        self.out: Path = run.out
        self.thresholds: Mapping[str, float] = thresholds
        self.rules: list[Rule | Filter] = []
        self.texts: list[str] = []
        self.columns: list[list[str]] = []
        self.limits: list[str | None] = []
        self.is_asked: list[bool] = []
        for clause in root.children if isinstance(root, And) else (root,):
            if isinstance(clause, Term):
                self._add(clause.rules, clause.columns, clause.quantile, is_asked=not clause.is_unasked)
            else:
                whole = compile_filter(str(clause), run_code=run_code)
                self._add((whole,), tuple(whole.column_names), None, is_asked=not whole.unasked)
        self.names: list[str] = [rule.reason if isinstance(rule, Rule) else rule.reasons[-1] for rule in self.rules]
        paths = run.uid_set_paths(self.whole.uid_sets)
        self.uid_sets: dict[str, npt.NDArray[np.void]] = {
            name: load_subset(run.out / path, check=False) for name, path in paths.items()
        }

    def _add(
        self, rules: Sequence[Rule | Filter], columns: tuple[str, ...], quantile: Quantile | None, *, is_asked: bool
    ) -> None:
        for rule in rules:
            self.is_asked.append(is_asked)
            self.rules.append(rule)
            self.texts.append(rule.reason if isinstance(rule, Rule) else str(rule))
            self.columns.append(list(columns))
            self.limits.append(None if quantile is None else quantile.key)

    def _clusters(self, path: Path, begin: int, rows: int) -> dict[str, Mask]:
        """Rows that the rule of clusters does not drop; the filter asks it only of rows that pass all other rules."""
        masks = {}
        for number, clusters in enumerate(self.whole.clusters):
            mask = load_array(self.out / mask_path(number, str(path)), mmap=True)
            masks[clusters.key] = np.not_equal(mask[begin : begin + rows], OUTSIDE)
        return masks

    def scores(self, path: Path, begin: int, rows: int) -> dict[str, Numbers]:
        """The rows' scores in the filter's sources."""
        return {source.key: load_scores(self.out, source.key, path, begin, rows) for source in self.whole.scores}

    def _rows(self, path: Path, begin: int, batch: pa.RecordBatch, uids: npt.NDArray[np.void]) -> Rows:
        clusters = self._clusters(path, begin, batch.num_rows)
        return Rows(batch, self.thresholds, self.uid_sets, uids, clusters, self.scores(path, begin, batch.num_rows))

    def drops(self, path: Path, begin: int, batch: pa.RecordBatch, uids: npt.NDArray[np.void]) -> Mask:
        """(rows, rules) bool; a rule that is not asked drops none."""
        rows = self._rows(path, begin, batch, uids)
        everyone = np.ones(batch.num_rows, np.bool_)
        drops = np.zeros((batch.num_rows, len(self.rules)), np.bool_)
        for place, rule in enumerate(self.rules):
            if not self.is_asked[place]:
                continue
            if isinstance(rule, Rule):
                drops[:, place] = ~rule.passes(rows, everyone)
            else:
                of = (self.thresholds, self.uid_sets, uids, rows.clusters, rows.scores)
                drops[:, place] = rule.evaluate(batch, *of) != 0
        return drops

    def values(
        self, path: Path, begin: int, batch: pa.RecordBatch, uids: npt.NDArray[np.void]
    ) -> list[dict[str, list[float | bool | None]]]:
        """For each rule what it looks at beside columns of the metadata: by name, a value a row; of those asked."""
        rows = self._rows(path, begin, batch, uids)
        values: list[dict[str, list[float | bool | None]]] = []
        for rule, is_asked in zip(self.rules, self.is_asked, strict=True):
            leaves = [rule] if isinstance(rule, Rule) else [its for term in rule.terms for its in term.rules]
            measures = {name: measure for leaf in leaves for name, measure in leaf.values.items()}
            values.append({name: measure(rows).tolist() for name, measure in measures.items()} if is_asked else {})
        return values


def _limit(limit: float | Quantile | None, thresholds: Mapping[str, float]) -> float | None:
    """The threshold of a source of scores; None where all is kept, or nothing."""
    value = limit if limit is None or isinstance(limit, float) else thresholds.get(limit.key)
    return value if value is not None and math.isfinite(value) else None


def examine(run: Run, files: list[Path], expression: str, thresholds: Mapping[str, float]) -> Examined:
    """Looks at rows of the metadata files.

    Args:
        expression, thresholds: as the filter stage recorded them.
    Raises:
        DcfastError, OSError, ValueError: a model, a file or a column that the filter needs is not there any more.
    """
    _refuse_other_code(run, expression)
    separate = SeparateRules(run, expression, thresholds, run_code=True)
    subset = load_subset(run.out / "subset.npy", check=False)
    columns = list(dict.fromkeys(["uid", *separate.whole.column_names, *SCORES.values()]))
    uids, kept, drops = [], [], []
    scores: dict[str, list[npt.NDArray[np.float32]]] = {name: [] for name in SCORES.values()}
    sources: dict[str, list[npt.NDArray[np.float32]]] = {source.key: [] for source in separate.whole.scores}
    for path, begin, batch in stretches(files, columns, run.settings.uid_from):
        parsed, valid = parse_uids(batch)
        good = np.flatnonzero(valid)
        uids.append(parsed[good])
        kept.append(uid_isin(np.ascontiguousarray(parsed[good]), subset, check=False, threads=1))
        drops.append(separate.drops(path, begin, batch, parsed)[good])
        for key, values in separate.scores(path, begin, batch.num_rows).items():
            with np.errstate(over="ignore"):
                sources[key].append(values.astype(np.float32)[good])
        for name, parts in scores.items():
            values = numbers(batch.column(name)) if name in batch.schema.names else np.full(batch.num_rows, np.nan)
            with np.errstate(over="ignore"):  # of float64: infinite, as it is told
                parts.append(values.astype(np.float32)[good])
    if not uids:
        raise ValueError("the metadata has no rows; give a pool whose metadata has some")
    whole = {name: np.concatenate(parts) for name, parts in scores.items()}
    return Examined(
        sum(map(count_metadata_rows, files)) if len(files) <= MAX_FILES else None,
        np.concatenate(uids),
        np.concatenate(kept),
        {name: column for name, column in whole.items() if np.isfinite(column).any()},
        separate.names,
        np.concatenate(drops),
        {name: np.concatenate(parts) for name, parts in sources.items()},
        {key: _limit(limit, thresholds) for key, limit in separate.whole.score_limits.items()},
    )
