"""Part of stage ``filter``: copies drawn by score among the rows that pass the rest of the filter (``sample(...)``).

Each piece of the metadata leaves the uids and scores of its passing rows as a sorted run; merged, a uid of several rows
counts once, by its best score. They are drawn in the order of their uids, so that neither the order of files and rows
nor the number of workers matters. The draw says how often a uid stands in ``subset_metadata.npy`` and which rows pass
in ``filter/outcomes.npy``; all that comes after reads these two.
Memory: 28 bytes a passing uid in the one piece that draws (12.8 million: 0.4 GB), and stretches of mapped files; disk:
48 bytes a passing row and 24 a row. Cost: 0.3 to 1 us a copy, in one thread.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from msgspec import UNSET

from dcfast.engine.piece import piece
from dcfast.errors import FilterError, PoolError
from dcfast.filters import compile_filter, draw_copies
from dcfast.filters.rules import Numbers
from dcfast.filters.sampling import MOST_MEAN_COPIES, MOST_SPREAD, Sampling
from dcfast.filters.thresholds import key_values, order_keys
from dcfast.index.metadata import count_metadata_rows
from dcfast.rundir.layout import CODE_SHIFT, MERGE_BYTES, METADATA_SUBSET, OUTCOMES
from dcfast.rundir.run_dir import Run
from dcfast.rundir.summaries import FilterSummary, SampledCopies
from dcfast.stages.runner import Do
from dcfast.storage.npz import write_npy
from dcfast.storage.records import Count, Record
from dcfast.uids.files import UID_DTYPE, uid_records
from dcfast.uids.sets import (
    RECORD_DTYPE,
    load_subset,
    merge_runs,
    open_records,
    record_sort,
    save_records,
    uid_format,
    uid_lookup,
)

if TYPE_CHECKING:
    import pyarrow as pa

CANDIDATES = "state/filter/candidates.npy"
"""Sorted records of the uids that are drawn among; the payload is ``_payload`` of the score."""
ASKED = "state/filter/asked.npy"
"""The outcomes before the draw."""
MOST_TOLD = 1_000
"""Copies that the counts tell apart: the last is of so many and more."""
_ROWS_AT_ONCE = 1 << 20
_COPIES_AT_ONCE = 1 << 20


def candidate_run(number: int) -> str:
    """Sorted records of the passing rows of one piece of the metadata."""
    return f"state/filter/candidates/{number:05d}.npy"


def _payload(scores: Numbers) -> npt.NDArray[np.uint64]:
    """Scores as numbers that fall where they rise: of a uid's records the first has the best. NaN comes last."""
    return ~order_keys(scores.astype(np.float64)).astype(np.uint64)


class Candidates:
    """The passing rows of some metadata files: uids and scores, 24 bytes each."""

    def __init__(self) -> None:
        self._records = [np.empty(0, RECORD_DTYPE)]

    def add(self, uids: npt.NDArray[np.void], scores: Numbers, passing: npt.NDArray[np.bool_]) -> None:
        self._records.append(uid_records(uids[passing], _payload(scores[passing])))

    def save(self, path: Path) -> None:
        save_records(path, record_sort(np.concatenate(self._records), threads=1))


class Drawn(Record):
    """``rows`` of the metadata whose uid was drawn, and what was drawn."""

    rows: Count
    copies: SampledCopies


@piece(native=True)
def draw_sample(out: Path, filter: str, groups: int) -> Drawn:
    """Piece: the copies of all passing uids; writes ``subset_metadata.npy`` and ``filter/outcomes.npy``."""
    compiled = compile_filter(filter)
    sampling, code = compiled.sampling, len(compiled.reasons) - 1
    assert sampling is not None
    merge_runs([out / candidate_run(n) for n in range(groups)], out / CANDIDATES, unique=True, memory_bytes=MERGE_BYTES)
    records = open_records(out / CANDIDATES)
    copies = _draw(sampling, records)
    write_npy(out / METADATA_SUBSET, (sampling.total,), UID_DTYPE, _repeated(records, copies))
    asked = open_records(out / ASKED)
    rows = 0

    def outcomes() -> Iterator[npt.NDArray[np.void]]:
        nonlocal rows
        for part in _with_draw(asked, records, copies, code):
            rows += int(np.count_nonzero(part["f2"] >> np.uint64(CODE_SHIFT) == 0))
            yield part

    write_npy(out / OUTCOMES, (len(asked),), RECORD_DTYPE, outcomes())
    times, uids = np.unique(np.minimum(copies, MOST_TOLD), return_counts=True)
    by_copies = [(int(t), int(n)) for t, n in zip(times, uids, strict=True)]
    told = SampledCopies(len(records), int(np.count_nonzero(copies)), sampling.total, int(copies.max()), by_copies)
    return Drawn(rows, told)


def _draw(sampling: Sampling, records: npt.NDArray[np.void]) -> npt.NDArray[np.uint32]:
    """(n,) how often each candidate is drawn. FilterError, PoolError: what was asked for cannot be drawn."""
    scores = np.empty(len(records), np.float64)
    for begin in range(0, len(records), _ROWS_AT_ONCE):
        payload = np.ascontiguousarray(records["f2"][begin : begin + _ROWS_AT_ONCE])
        scores[begin : begin + _ROWS_AT_ONCE] = key_values(~payload, "float64")
    _check(sampling, records, scores)
    if sampling.temperature != 1.0:
        scores /= sampling.temperature
    spread = float(scores.max() - scores.min())
    if not spread <= MOST_SPREAD:
        raise FilterError(
            f"filter {sampling.text}: the scores, divided by temperature={sampling.temperature!r}, lie {spread:.6g} "
            f"apart; as logits they may lie {MOST_SPREAD:,} apart at most: give a higher temperature="
        )
    return draw_copies(
        scores,
        sampling.total,
        soft_cap=sampling.soft_cap,
        hard_cap=sampling.hard_cap,
        draw=sampling.draw,
        seed=sampling.seed,
    )


def _check(sampling: Sampling, records: npt.NDArray[np.void], scores: npt.NDArray[np.float64]) -> None:
    count, text = len(records), sampling.text
    if not count:
        raise FilterError(
            f"filter {text}: no row passes the rest of the filter, so there is nothing to draw; use a looser one"
        )
    bad = np.flatnonzero(~np.isfinite(scores))
    if len(bad):
        uid = np.empty(1, UID_DTYPE)
        uid["f0"], uid["f1"] = records["f0"][bad[0]], records["f1"][bad[0]]
        raise PoolError(
            f"filter {text}: {len(bad):,} of the {count:,} uids that pass the rest of the filter have no finite score "
            f"(the first: {uid_format(uid, as_list=True)[0]}); pass rows with a score alone: "
            f"{sampling.source.key.removesuffix(')')}, fraction=1.0) & sample(...), and write no infinite ones"
        )
    _check_count(sampling, f"{count:,} uids pass the rest of the filter", count)


def _check_count(sampling: Sampling, found: str, count: int) -> None:
    """FilterError where of ``count`` uids, which ``found`` tells of, not as many can be drawn."""
    soft, text = sampling.hard_cap is None, sampling.text
    most = MOST_MEAN_COPIES if sampling.hard_cap is None else sampling.hard_cap
    if sampling.total > most * count:
        each = f"{most:,} times each on average" if soft else f"{most} times each"
        raise FilterError(
            f"filter {text}: {found}, which at most {each} are {most * count:,} copies; give a total= of at most that"
            f"{'' if soft else ', or a larger hard_cap='}"
        )
    if soft and min(sampling.draw, sampling.total) > count:
        raise FilterError(
            f"filter {text}: {found}, fewer than a draw of {sampling.draw:,}, in which each comes at most once; give a "
            f"smaller one, like draw={max(1, count // 100)}"
        )


def check_sampling(run: Run, sampling: Sampling | None) -> None:
    """FilterError, before any work, where all rows of the metadata would be too few, whatever else the filter asks."""
    if sampling is not None:
        rows = sum(map(count_metadata_rows, run.pool.metadata))
        _check_count(sampling, f"the metadata has {rows:,} rows", rows)


def _repeated(records: npt.NDArray[np.void], copies: npt.NDArray[np.uint32]) -> Iterator[npt.NDArray[np.void]]:
    """The uids as often as they were drawn, sorted; at most _COPIES_AT_ONCE at a time."""
    for begin in range(0, len(records), _ROWS_AT_ONCE):
        part = np.asarray(records[begin : begin + _ROWS_AT_ONCE])
        upto = np.cumsum(copies[begin : begin + len(part)], dtype=np.int64)
        for first in range(0, int(upto[-1]), _COPIES_AT_ONCE):
            which = np.searchsorted(upto, np.arange(first, min(first + _COPIES_AT_ONCE, int(upto[-1]))), side="right")
            uids = np.empty(len(which), UID_DTYPE)
            uids["f0"], uids["f1"] = part["f0"][which], part["f1"][which]
            yield uids


def _with_draw(
    asked: npt.NDArray[np.void], records: npt.NDArray[np.void], copies: npt.NDArray[np.uint32], code: int
) -> Iterator[npt.NDArray[np.void]]:
    """The outcomes, sorted: rows that passed and were not drawn have the code ``code``."""
    begin = 0
    while begin < len(asked):
        end = min(begin + _ROWS_AT_ONCE, len(asked))
        first, count = uid_lookup(asked, _uids(asked[end - 1 : end]), threads=1)
        end = int(first[0] + count[0])  # the rows of a uid stay together: another code is another order
        part = np.array(asked[begin:end])
        passing = np.flatnonzero(part["f2"] >> np.uint64(CODE_SHIFT) == 0)
        at, _ = uid_lookup(records, _uids(part[passing]), threads=1)
        part["f2"][passing[copies[at] == 0]] |= np.uint64(code << CODE_SHIFT)
        yield record_sort(part, threads=1)
        begin = end


def _uids(records: npt.NDArray[np.void]) -> npt.NDArray[np.void]:
    uids = np.empty(len(records), UID_DTYPE)
    uids["f0"], uids["f1"] = records["f0"], records["f1"]
    return uids


def make_draw(do: Do, text: str, groups: int) -> Drawn:
    """Draws, when all rows were asked and merged into ``ASKED``."""
    draw = draw_sample.piece(
        "filter/draw",
        "draw",
        inputs=[ASKED, *map(candidate_run, range(groups))],
        outputs=[OUTCOMES, METADATA_SUBSET, CANDIDATES],
    )
    return do.one(draw(filter=text, groups=groups))


def sampled_notes(summary: FilterSummary) -> list[str]:
    """What was drawn, and how much of it is there to train on."""
    sampled = summary.sampled
    if sampled is UNSET:
        return []
    notes = [
        f"drawn by score: {sampled.copies:,} copies of {sampled.uids:,} of the {sampled.candidates:,} uids that pass "
        f"the rest of the filter, of one at most {sampled.most:,}"
    ]
    if summary.subset is not None and summary.subset < sampled.copies:
        notes.append(
            f"subset.npy holds {summary.subset:,} of these copies: rows are drawn whether their picture was downloaded "
            'or not (& uids("...") draws among those that were)'
        )
    return notes


def copies_of(out: Path, uids: npt.NDArray[np.void], kept: npt.NDArray[np.bool_]) -> pa.Array:
    """(n,) uint32: how often each sample is written and trained on; 0 where it is not kept."""
    import pyarrow as pa

    copies = np.zeros(len(uids), np.uint32)
    _, count = uid_lookup(load_subset(out / METADATA_SUBSET, check=False), uids[kept], threads=1)
    copies[kept] = count
    return pa.array(copies)
