"""Which samples the page shows: a choice that depends on the run's tables alone."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from itertools import islice, zip_longest
from pathlib import Path
from typing import NamedTuple, TypeVar

from msgspec import UNSET, UnsetType

from dcfast.dedup.evidence import BITS, CONTENT, PERCEPTUAL, PERCEPTUAL_256
from dcfast.report.facts.sampling import columns_of, rows_of, spread
from dcfast.storage.records import Record

T = TypeVar("T")
GALLERY = 12
PAIRS = 24
DOUBTFUL = 12
"""Pairs that go to the most distant matches, whichever evaluation set they are of."""


class QuarantineRow(Record):
    """Of ``quarantine.parquet``."""

    shard: str | None = None
    row: int | None = None
    key: str | None = None
    uid: str | None = None
    reason: str | None = None


class GalleryRow(QuarantineRow):
    """A row of ``fates.parquet`` to show.

    ``clip_score``: None where unknown.   ``caption``: cut; ``caption_bytes`` are of the whole.   ``defects``: of a
    sample that was kept in spite of them.
    """

    fate: str | None = None
    clip_score: float | None = None
    caption: str | None = None
    caption_bytes: int = 0
    defects: list[str] | UnsetType = UNSET


class EvidenceRow(Record):
    """Of ``contamination.parquet``."""

    shard: str | None
    row: int | None
    key: str | None
    uid: str | None
    evalset: str | None
    evalset_shard: str | None
    evalset_key: str | None
    method: str | None
    distance: int | None
    score: float | None

    @property
    def doubt(self) -> float:
        """From 0, identical, to 1."""
        if self.distance is None:
            return 1.0 if self.score is None else 1 - self.score
        return self.distance / BITS.get(self.method or "", 64)


FATE_COLUMNS = (*QuarantineRow.__annotations__, "fate")


def rank(row: GalleryRow | EvidenceRow) -> bytes:
    """A fixed shuffle: by a hash of the sample's name, so that neither order nor date of the shards shows."""
    name = f"{row.uid}\0{row.shard}\0{row.row}"
    return hashlib.blake2b(name.encode("utf-8", "surrogatepass"), digest_size=8).digest()


def in_turns(groups: Iterable[list[T]], limit: int) -> list[T]:
    """One of each group, then the next of each, until the limit: no group crowds out another."""
    turns = zip_longest(*groups)
    return list(islice((item for turn in turns for item in turn if item is not None), limit))


class Drawn(NamedTuple):
    """The rows of each section of the gallery, and how many rows they were drawn from."""

    sections: dict[str, list[GalleryRow]]
    rows: int


def gallery(table: Path) -> Drawn:
    """Up to 12 kept and 12 dropped samples of ``fates.parquet``; the dropped in turns by reason, frequent ones first.

    They are drawn from stretches spread over the table, at most 65,536 rows in all.
    """
    if not columns_of(table).issuperset(FATE_COLUMNS):
        return Drawn({"kept": [], "dropped": []}, 0)
    import pyarrow.compute as pc

    by_fate: dict[str, list[GalleryRow]] = {"kept": [], "dropped": []}
    looked = 0
    for batch in spread(table, FATE_COLUMNS):
        looked += batch.num_rows
        for fate, rows in by_fate.items():
            rows += rows_of(batch.filter(pc.equal(batch.column("fate"), fate)), GalleryRow, table)
    by_reason: dict[str, list[GalleryRow]] = {}
    for row in sorted(by_fate["dropped"], key=rank):
        by_reason.setdefault(str(row.reason), []).append(row)
    frequent = sorted(by_reason.items(), key=lambda item: (-len(item[1]), item[0]))
    sections = {
        "kept": sorted(by_fate["kept"], key=rank)[:GALLERY],
        "dropped": in_turns((rows for _, rows in frequent), GALLERY),
    }
    return Drawn(sections, looked)


def _sureness(row: EvidenceRow) -> int:
    methods = (CONTENT, PERCEPTUAL, PERCEPTUAL_256)
    return methods.index(row.method) if row.method in methods else len(methods)


def evidence_pairs(table: Path) -> list[EvidenceRow]:
    """Up to 24 rows of ``contamination.parquet`` to look at, the most distant first.

    Half of them are the most distant matches of all, which are the ones to doubt; the others are taken in turns from
    every evaluation set and method. A sample that matches a set by several methods stands for the surest: identical,
    else perceptual hashes. Drawn from at most 65,536 rows.
    """
    columns = tuple(EvidenceRow.__annotations__)
    if not columns_of(table).issuperset(columns):
        return []
    best: dict[tuple[str | None, str | None, int | None], EvidenceRow] = {}
    for batch in spread(table, columns):
        for row in rows_of(batch, EvidenceRow, table):
            name = (row.evalset, row.shard, row.row)
            if name not in best or _sureness(row) < _sureness(best[name]):
                best[name] = row
    ordered = sorted(best.values(), key=lambda row: (-row.doubt, row.method == "content", rank(row)))
    doubtful = [row for row in ordered[:DOUBTFUL] if row.method != "content"]
    groups: dict[tuple[bool, str], list[EvidenceRow]] = {}
    for row in ordered[len(doubtful) :]:
        groups.setdefault((row.method == "content", str(row.evalset)), []).append(row)
    chosen = doubtful + in_turns([groups[name] for name in sorted(groups)], PAIRS - len(doubtful))
    return sorted(chosen, key=lambda row: (-row.doubt, row.method == "content", str(row.evalset), rank(row)))
