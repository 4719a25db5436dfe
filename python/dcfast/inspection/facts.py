"""All that a run knows of a sample, found by search in its files (``dcfast.rundir.lookup``)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from dcfast.dedup.duplicates import DUPLICATE_TABLE
from dcfast.dedup.records import ABSENT
from dcfast.errors import DcfastError
from dcfast.filters.term import HEIGHT, SCORES, TEXT, WIDTH
from dcfast.images.signatures import STATUS
from dcfast.index.metadata import parse_uids
from dcfast.index.pool import shard_folder
from dcfast.index.segments import SampleFlag
from dcfast.inspection.copies import NearCopies, near_copies
from dcfast.report.facts.draw import thresholds_of
from dcfast.report.facts.metadata_lookup import MetadataLookup, MetadataRow
from dcfast.report.facts.metadata_rows import SeparateRules
from dcfast.report.facts.samples import EvidenceRow
from dcfast.report.facts.sampling import rows_of, stream
from dcfast.report.page.images import PoolPreviews, Preview
from dcfast.rundir.layout import EVIDENCE_TABLE, METADATA_SUBSET, signature_path
from dcfast.rundir.lookup import Fate, Place, SampleLookup
from dcfast.rundir.run_dir import Run
from dcfast.rundir.summaries import FilterSummary, find_summary
from dcfast.rundir.tables import part_path
from dcfast.storage.hashing import hex_digits
from dcfast.storage.npz import load_array
from dcfast.storage.parquet import ParquetFile
from dcfast.storage.records import Record
from dcfast.uids.sets import uid_parse

Value = float | int | str | None
FLAG_WORDS = {
    SampleFlag.NO_JSON: "no json",
    SampleFlag.NO_CAPTION: "no caption",
    SampleFlag.NO_IMAGE: "no picture",
    SampleFlag.NO_UID: "its json has no uid",
    SampleFlag.BAD_UID: "its uid is not 32 hex digits",
    SampleFlag.BAD_JSON: "its json cannot be read",
    SampleFlag.REPEATED_EXT: "it began because an extension came a second time",
    SampleFlag.CUT: "the shard is damaged inside or right behind it",
    SampleFlag.REPEATED_KEY: "an earlier sample of the shard has its key",
}
_SHOWN = (TEXT, "url", WIDTH, HEIGHT, *SCORES.values())


class RuleVerdict(Record):
    """A rule of the filter, asked of this sample by itself.

    Attributes:
        rule: what a sample that it drops is called.   text: what it asks, as the expression has it.
        passes: None where it was not asked, for it is Python code that the run directory names.
        values: what it looks at: the metadata's columns that it reads, less the caption; the words or characters that
            it counts; its score; what a Python function says.
        limit: the score from which on a rule by fraction keeps.
    """

    rule: str
    text: str
    passes: bool | None
    values: dict[str, Value] = {}
    limit: float | None = None


class MetadataFacts(Record):
    """The metadata row that the filter went by; ``rows`` have this uid."""

    file: str
    row: int
    rows: int
    caption: str | None
    values: dict[str, Value]


class PictureFacts(Record):
    """The signature of the picture: how decoding went, its pixels, and its hashes in hexadecimal digits."""

    status: str
    width: int
    height: int
    flat: bool
    content_hash: str
    perceptual_hash: str


class DuplicateFacts(Record):
    """Of ``duplicates.parquet``: which sample is kept for one, and how it is like the next on the way there."""

    kept_pool: str | None
    kept_shard: str | None
    kept_key: str | None
    steps: int
    link_pool: str | None
    link_shard: str | None
    link_key: str | None
    method: str
    variant: str | None
    distance: int | None
    score: float | None


class SampleFacts(Record):
    """What a run knows of a sample, or of a metadata row without one (``shard``, ``row`` and ``key`` None).

    Attributes:
        fate, reason: of ``fates.parquet``; None where the filter stage has not run.
        in_subset: whether ``subset.npy`` has its uid; contaminated: ``contaminated.npy``; None where unknown.
        drawn, written: how often its uid stands in ``subset_metadata.npy``, in ``subset.npy``; None where unknown.
        amiss: what the index noted of it, in words.
        caption: of the shard, cut.
        filter, rules: the expression, and what each rule says; ``rules_problem``: why they could not be asked.
        evidence: the evaluation pictures that it matches.   duplicate: where it is dropped for another sample.
        copies: of the pool's; None where not asked for.
        repeats: SHARD/KEY of the other samples with its uid.
    """

    uid: str | None
    shard: str | None
    row: int | None
    key: str | None
    fate: str | None
    reason: str | None
    in_subset: bool | None
    contaminated: bool | None
    drawn: int | None
    written: int | None
    amiss: list[str]
    caption: str | None
    filter: str | None
    rules: list[RuleVerdict]
    rules_problem: str | None
    metadata: MetadataFacts | None
    picture: PictureFacts | None
    evidence: list[EvidenceRow]
    duplicate: DuplicateFacts | None
    copies: NearCopies | None
    repeats: list[str]


class _Rules(NamedTuple):
    """Of the filter of the run: its rules, or why they cannot be asked."""

    rules: SeparateRules | None
    problem: str | None


class Inspector:
    """A run asked for its samples.

    ``run_code``: ask those rules, too, that are Python functions or plugins; the run directory may be a stranger's.
    """

    def __init__(self, run: Run, *, run_code: bool = False) -> None:
        self.run = run
        self._run_code = run_code
        self.previews: PoolPreviews = PoolPreviews(run.out, shard_folder(run.pool_dir))
        self.samples: SampleLookup = self.previews.samples

    @cached_property
    def metadata(self) -> MetadataLookup:
        return MetadataLookup(self.run, self.samples)

    @cached_property
    def chosen(self) -> FilterSummary | None:
        return find_summary(self.run.summary_path("filter"), FilterSummary)

    @cached_property
    def thresholds(self) -> dict[str, float]:
        return thresholds_of(self.run)

    @cached_property
    def _rules(self) -> _Rules:
        if self.chosen is None:
            return _Rules(None, "stage filter has not been run yet")
        try:
            expression = self.chosen.filter
            return _Rules(SeparateRules(self.run, expression, self.thresholds, run_code=self._run_code), None)
        except (DcfastError, OSError, ValueError) as error:  # a model or a uid file that is not here any more
            return _Rules(None, str(error))

    def by_uid(self, text: str) -> list[Place | None]:
        """The places of a uid; [None] for a metadata row without a sample; none where the run does not know it."""
        uids, _ = uid_parse([text])
        places = self.samples.find(uids)[0] if self._has_shards else []
        return list(places) if places else [None] if self.samples.verdicts(uids)[0] is not None else []

    @property
    def _has_shards(self) -> bool:
        # a pool's metadata may be filtered before its shards are there
        return (self.run.out / "index" / "index.json").exists() or self.chosen is None

    def by_key(self, shard: str, key: str) -> Place:
        """The first sample of a shard with this key. LookupError: there is none."""
        import pyarrow as pa
        import pyarrow.compute as pc

        segment, number, inside = self.samples.shard(shard)
        keys = segment.keys(inside.start, inside.stop)
        row = pc.index(keys, pa.scalar(key, type=keys.type)).as_py()
        if row < 0:
            first = f", the first of them {keys[0].as_py()!r}" if len(keys) else ""
            raise LookupError(f"shard {shard} has no sample with key {key!r}; it has {len(keys):,} samples{first}")
        return Place(shard, row, number, inside.start + row)

    def preview(self, place: Place) -> Preview:
        return self.previews.sample(place.shard, place.row)

    def facts(
        self, place: Place | None, uid: str | None = None, *, copies: bool = False, whole_pool: bool = False
    ) -> SampleFacts:
        """All that is known of a sample.

        Args:
            place: None for a metadata row without a sample.   uid: given with None.
            copies: look for near copies in the pool; ``whole_pool``: whatever its size.
        """
        uid = uid if place is None else self.samples.uid_of(place)
        uids = uid_parse([uid])[0] if uid is not None else np.empty(0, "u8,u8")
        fate = self._fate(place)
        row = self._metadata_row(uids, place)
        rules, problem = self._asked(row, uids)
        often = {name: self._often(name, uids) for name in ("subset.npy", METADATA_SUBSET, "contaminated.npy")}
        inside = {name: None if count is None else count > 0 for name, count in often.items()}
        others = [p for p in self.samples.find(uids)[0] if p != place] if place is not None and len(uids) else []
        near = None
        if copies and place is not None:
            near = near_copies(self.samples, place, self.run.settings.max_distance, whole_pool=whole_pool)
        return SampleFacts(
            uid,
            None if place is None else place.shard,
            None if place is None else place.row,
            None if place is None else self.samples.key_of(place),
            fate=fate.fate,
            reason=fate.reason,
            in_subset=inside["subset.npy"],
            contaminated=inside["contaminated.npy"],
            drawn=often[METADATA_SUBSET],
            written=often["subset.npy"],
            amiss=[] if place is None else self._amiss(place),
            caption=None if place is None else self.preview(place).caption,
            filter=None if self.chosen is None else self.chosen.filter,
            rules=rules,
            rules_problem=problem,
            metadata=self._metadata_facts(row, uids),
            picture=None if place is None else self._signature(place),
            evidence=[] if place is None else self._evidence(place),
            duplicate=None if place is None else self._duplicate(place),
            copies=near,
            repeats=[f"{p.shard}/{self.samples.key_of(p)}" for p in others],
        )

    def _fate(self, place: Place | None) -> Fate:
        if place is not None:
            return self.samples.fates([place])[0]
        if self.chosen is not None and not self.chosen.fates:  # without shards nothing has a fate yet
            return Fate(None, None)
        return Fate("missing", "no sample of the shards has this uid")

    def _often(self, name: str, uids: npt.NDArray[np.void]) -> int | None:
        found = self.samples.count_in(name, uids)
        return None if found is None else int(found.sum())

    def _amiss(self, place: Place) -> list[str]:
        flags = int(self.samples.segment(place.segment).flags[place.sample])
        return [words for flag, words in FLAG_WORDS.items() if flags & int(flag)]

    def _columns(self) -> list[str]:
        rules = self._rules.rules
        return [*_SHOWN, *(rules.whole.column_names if rules is not None else ())]

    def _metadata_row(self, uids: npt.NDArray[np.void], place: Place | None) -> MetadataRow | None:
        if not len(uids):
            return None
        near = 0.0 if place is None else (place.segment + 0.5) / self.samples.num_segments
        return self.metadata.find(uids, self._columns(), [near])[0]

    def _metadata_facts(self, row: MetadataRow | None, uids: npt.NDArray[np.void]) -> MetadataFacts | None:
        if row is None:
            return None
        verdict = self.samples.verdicts(uids)[0]
        values = _values(row, [name for name in row.batch.schema.names if name not in ("uid", TEXT)])
        caption = _values(row, [TEXT]).get(TEXT)
        return MetadataFacts(
            row.path.name, row.row, verdict.rows if verdict else 1, None if caption is None else str(caption), values
        )

    def _asked(self, row: MetadataRow | None, uids: npt.NDArray[np.void]) -> tuple[list[RuleVerdict], str | None]:
        """What each rule of the filter says of a metadata row, and why they could not be asked."""
        asked = self._rules
        if row is None or asked.rules is None:
            return [], asked.problem
        try:
            parsed, _ = parse_uids(row.batch)
            drops = asked.rules.drops(row.path, row.row, row.batch, parsed)[0]
            looked_at = asked.rules.values(row.path, row.row, row.batch, parsed)
        except (DcfastError, OSError, ValueError, KeyError) as error:
            return [], str(error)
        of = asked.rules
        passes = [not drop if is_asked else None for drop, is_asked in zip(drops.tolist(), of.is_asked, strict=True)]
        rules = zip(of.names, of.texts, passes, of.columns, of.limits, looked_at, strict=True)
        return [
            RuleVerdict(name, text, ok, _looked_at(row, columns, values), _limit(self.thresholds, key))
            for name, text, ok, columns, key, values in rules
        ], None

    def _signature(self, place: Place) -> PictureFacts | None:
        path = self.run.out / signature_path(place.segment)
        if not path.exists():
            return None
        own = load_array(path, mmap=True)[place.sample]
        status = int(own["status"])
        return PictureFacts(
            "absent" if status == ABSENT else STATUS[status],
            int(own["width"]),
            int(own["height"]),
            bool(own["flat"]),
            hex_digits(int(own["h0"]), int(own["h1"])),
            hex_digits(int(own["phash"])),
        )

    def _evidence(self, place: Place) -> list[EvidenceRow]:
        """The evaluation pictures that a sample matches, of its segment's part of the evidence."""
        import pyarrow.compute as pc

        path: Path = self.run.out / part_path(EVIDENCE_TABLE, place.segment)
        if not path.exists():
            return []
        found: list[EvidenceRow] = []
        with ParquetFile(path) as file:
            for batch in file.batches(list(EvidenceRow.__annotations__)):
                same = pc.and_(pc.equal(batch.column("shard"), place.shard), pc.equal(batch.column("row"), place.row))
                found += rows_of(batch.filter(same), EvidenceRow, path)
        found.sort(key=lambda row: (row.doubt, row.method != "content"))
        # one that is identical looks alike, too
        return list({(row.evalset, row.evalset_shard, row.evalset_key): row for row in reversed(found)}.values())[::-1]

    def _duplicate(self, place: Place) -> DuplicateFacts | None:
        """What the evidence of duplicates says of a sample. Cost: a read of the table's names of shards."""
        import pyarrow.compute as pc

        path = self.run.out / DUPLICATE_TABLE
        for batch in stream(path, ["shard", "row", *DuplicateFacts.__annotations__]):
            same = pc.and_(pc.equal(batch.column("shard"), place.shard), pc.equal(batch.column("row"), place.row))
            for row in rows_of(batch.filter(same), DuplicateFacts, path):
                return row
        return None


def _limit(thresholds: Mapping[str, float], key: str | None) -> float | None:
    limit = None if key is None else thresholds.get(key)
    return limit if limit is not None and math.isfinite(limit) else None


def _looked_at(
    row: MetadataRow, columns: list[str], values: Mapping[str, list[float | bool | None]]
) -> dict[str, Value]:
    """What a rule looks at: columns of the metadata less the caption, and what it counts, scores or answers itself."""
    own = {name: None if given != given else given for name, (given,) in values.items()}  # NaN is none
    return {**own, **_values(row, [name for name in columns if name != TEXT])}


def _values(row: MetadataRow, names: list[str]) -> dict[str, Value]:
    """What a row has in some columns; a number that is none is null."""
    values: dict[str, Value] = {}
    for name in names:
        if row.batch.schema.names.count(name) == 1:  # of several none is meant
            scalar = row.batch.column(row.batch.schema.get_field_index(name))[0]
            try:
                value = scalar.as_py()
            except UnicodeDecodeError:  # of a column of text, which nobody checks
                value = scalar.as_buffer().to_pybytes()
            if isinstance(value, bytes):
                value = value.decode("utf-8", "replace")
            if isinstance(value, float) and not math.isfinite(value):
                value = None
            values[name] = value if isinstance(value, (int, float, str)) else None if value is None else str(value)
    return values
