"""Sources of samples: pictures and captions by canonical position, read from new shards or from the indexed pool."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

from dcfast.access.batch import MemberBatch, Members
from dcfast.access.reader import PoolReader
from dcfast.errors import CorruptDataError, PoolError, RunError, first_line
from dcfast.images.costs import MAX_BYTES
from dcfast.index.segments import IMAGE_EXTS
from dcfast.models.captions import MAX_CAPTION_BYTES
from dcfast.process.read_ahead import read_ahead
from dcfast.storage.http import RemoteOptions
from dcfast.storage.npz import load_array
from dcfast.storage.paths import is_url
from dcfast.train.caption_table import CaptionTable, Found, caption_tables
from dcfast.train.captions import MOST_JSON_BYTES, TXT_ALONE, CaptionRule
from dcfast.train.source_files import SourceFiles, logged, source_files

if TYPE_CHECKING:
    from dcfast.train.settings import TrainSettings, TrainSource

_AT_ONCE = 1 << 18
_READ_TOGETHER = 64 << 20  # bytes of members
_ASKED_TOGETHER = 2 << 20  # of URLs, of which some are asked for ahead
_ASKED_AHEAD = 3
_OTHER, _PICTURE, _CAPTION, _JSON = range(4)
_MOST = np.array([0, MAX_BYTES + 1, MAX_CAPTION_BYTES + 1, MOST_JSON_BYTES + 1], np.uint64)
"""Bytes of a member that are read, by its kind."""


def prepare_source(
    source: TrainSource,
    work: Path,
    number: int,
    captions: CaptionRule = TXT_ALONE,
    remote: RemoteOptions | None = None,
) -> SourceFiles:
    """Indexes the shards of a source, or plans its subset; files go to ``work``.

    Args:
        captions: where they come from; tables are made here.
        remote: how URLs are read.
    Raises:
        PoolError: no shards, no index, no captions.   SubsetError: no sample is left.   CorruptDataError: a damaged
        shard.   RunError: shards behind a URL cannot be read.
    """
    found = source_files(source, work, number, captions, remote)
    made = caption_tables(captions.places, work, number)
    files = replace(found, captions=replace(captions, tables=tuple(made)), remote=remote)
    opened = OpenSource(files)
    if is_url(files.shards_dir):
        list(opened.read(opened.rows(np.zeros(1, np.int64))))  # before hours of work: credentials, ranges, the version
    fingerprint, notes = opened.look_through()
    if made:
        fingerprint = hashlib.sha256(" ".join([fingerprint, *made.values()]).encode()).hexdigest()
    return replace(files, fingerprint=fingerprint, notes=(*files.notes, *logged(notes)))


def source_weights(settings: TrainSettings, files: Sequence[SourceFiles]) -> list[Fraction]:
    """Weight of a sample of each source: what was given, or such that a source counts by its shards."""
    weights = [Fraction(source.weight) for source in settings.sources]
    if settings.weights_by == "sample":
        return weights
    return [weight * max(1, of.shards) / of.count for weight, of in zip(weights, files, strict=True)]


class Ranges(NamedTuple):
    """Where a member of each of n samples lies in a buffer: (n,) int64 each; size -1 for a sample that has none."""

    begin: npt.NDArray[np.int64]
    size: npt.NDArray[np.int64]


@dataclass(frozen=True)
class RawSamples:
    """Encoded pictures and captions of n samples, as they were read.

    Attributes:
        data: flat uint8, read-only, in which the pictures lie.   texts: the same of the captions.
        lacking: why a sample without a caption cannot be used.
    """

    data: npt.NDArray[np.uint8]
    pictures: Ranges
    texts: npt.NDArray[np.uint8]
    captions: Ranges
    lacking: str

    def __len__(self) -> int:
        return len(self.pictures.begin)

    def picture(self, i: int) -> memoryview | None:
        """That of sample i; None where it has none."""
        return _member(self.data, self.pictures, i)

    def caption(self, i: int) -> memoryview | None:
        """That of sample i; None where it has none."""
        return _member(self.texts, self.captions, i)


def _member(data: npt.NDArray[np.uint8], ranges: Ranges, i: int) -> memoryview | None:
    begin, size = int(ranges.begin[i]), int(ranges.size[i])
    return None if size < 0 else data.data[begin : begin + size]


def _joined(texts: Sequence[bytes | memoryview | None]) -> tuple[npt.NDArray[np.uint8], Ranges]:
    """Texts end to end, and where each lies."""
    size = np.array([-1 if text is None else len(text) for text in texts], np.int64)
    begin = np.concatenate([[0], np.cumsum(np.maximum(size, 0))])[:-1]
    return np.frombuffer(b"".join(text for text in texts if text is not None), np.uint8), Ranges(begin, size)


class OpenSource:
    """A source opened for reading by position, by any threads.

    Memory: what ``PoolReader`` holds; the rows are mapped.
    """

    def __init__(self, files: SourceFiles) -> None:
        self.files: SourceFiles = files
        self.reader: PoolReader = PoolReader(files.shards_dir, list(files.segments), verify=False, remote=files.remote)
        self._rows = None if files.rows is None else load_array(files.rows, mmap=True)
        self._kinds = np.array([self._kind(ext) for ext in self.reader.exts], np.uint8)
        self._tables = [CaptionTable(place) for place in files.captions.tables]
        self._is_remote = is_url(files.shards_dir)

    def _kind(self, ext: str) -> int:
        kinds = self.files.captions.kinds
        if ext in ("txt", "json"):
            return _OTHER if ext not in kinds else _CAPTION if ext == "txt" else _JSON
        return _PICTURE if ext.rpartition(".")[2] in IMAGE_EXTS else _OTHER

    def rows(self, positions: npt.NDArray[np.int64]) -> npt.NDArray[np.uint64]:
        """Row ids at positions."""
        if self._rows is None:
            return self.reader.row_ids(positions)
        return np.ascontiguousarray(self._rows[positions], np.uint64)

    def fingerprint(self) -> str:
        """SHA-256 of the uids in canonical order, 16 bytes each, hex: equal for shards and for index + subset."""
        return self.look_through()[0]

    def look_through(self) -> tuple[str, list[str]]:
        """``fingerprint``, and notes on captions that the index or a table tells to be empty, long or missing.

        Cost: about 0.5 us a sample.
        """
        digest = hashlib.sha256()
        empty = long = missing = 0
        is_txt, tables_alone = self.files.captions.is_txt, self.files.captions.kinds == {"parquet"}
        for first in range(0, self.files.count, _AT_ONCE):
            rows = self.rows(np.arange(first, min(first + _AT_ONCE, self.files.count)))
            uids = np.ascontiguousarray(self.reader.uids(rows))
            digest.update(uids.tobytes())
            if is_txt:
                found = self.reader.locate(rows, "txt", missing_members="none")
                empty += int(((found.size == 0) & (found.ext >= 0)).sum())
                long += int((found.size > MAX_CAPTION_BYTES).sum())
            elif tables_alone:
                missing += int((~np.any([table.has(uids) for table in self._tables], axis=0)).sum())
        told = {
            "captions are empty, and trained on as they are": empty,
            f"captions are longer than {MAX_CAPTION_BYTES:,} bytes, and cut there": long,
            "samples have a uid that the captions lack: others are taken in their place": missing,
        }
        of = f"of {self.files.count:,}"
        return digest.hexdigest(), [f"source {self.files.name}: {n:,} {of} {words}" for words, n in told.items() if n]

    def read(self, rows: npt.NDArray[np.uint64], samples: npt.NDArray[np.int64] | None = None) -> Iterator[RawSamples]:
        """Pictures and captions of some rows, in order, as many at a time as fit into 64 MiB; of URLs 2 MiB, and some
        are asked for ahead of those in use.

        Of a caption no more is read than a model sees, of a picture no more than the decoder takes.

        Args:
            samples: (n,) numbers in the training, by which one of several captions is drawn; None: all are number 0.
        Raises:
            RunError: a shard cannot be read, or is not what was indexed. That is no fault of a sample: others in its
                place would only hide that the data has gone.
        Memory: 64 MiB of members, or those of one sample; of URLs 8 MiB.
        """
        numbers = np.zeros(len(rows), np.int64) if samples is None else samples
        found = self._members(rows)
        done = 0
        if not self._is_remote:
            for members in found.batches(_READ_TOGETHER):
                yield self._samples(members, self._fetched(members), numbers[done : done + len(members)])
                done += len(members)
            return
        ahead = read_ahead(
            lambda members: (members, self._fetched(members)),
            found.batches(_ASKED_TOGETHER),
            threads=_ASKED_AHEAD,
            ahead=_ASKED_AHEAD,
            name="dcfast-ask",
        )
        with closing(ahead):
            for members, batch in ahead:
                yield self._samples(members, batch, numbers[done : done + len(members)])
                done += len(members)

    def _members(self, rows: npt.NDArray[np.uint64]) -> Members:
        """The first picture, whose size the index holds, and the captions of each row, as much as is read of them."""
        members = self.reader.locate(rows)  # by what the samples have: a pool may have an extension for each of its own
        kind = self._kinds[members.ext]
        owner = np.repeat(np.arange(len(rows)), np.diff(members.begin))
        pictures = np.flatnonzero(kind == _PICTURE)
        pictures = pictures[np.lexsort((members.offset[pictures], owner[pictures]))]
        _, first = np.unique(owner[pictures], return_index=True)
        at = np.sort(np.concatenate([pictures[first], np.flatnonzero(kind >= _CAPTION)]))
        begin = np.concatenate([[0], np.cumsum(np.bincount(owner[at], minlength=len(rows)))])
        shard, offset, size, ext = (column[at] for column in (members.shard, members.offset, members.size, members.ext))
        return Members(members.rows, begin, shard, offset, size, ext, members.exts).cut(_MOST[kind[at]])

    def _fetched(self, members: Members) -> MemberBatch[dict[str, memoryview]]:
        try:
            return self.reader.read_located(members, threads=1)
        except (CorruptDataError, PoolError, OSError) as error:
            raise RunError(
                f"source {self.files.name}: a shard cannot be read as it was indexed ({first_line(error)}). "
                f"{self._advice(error)}; the same command goes on from the latest checkpoint"
            ) from error

    def _advice(self, error: Exception) -> str:
        if not self._is_remote:
            return "See to the files, or index them anew"
        if isinstance(error, PermissionError):
            return "Give credentials that may read it (docs/training.md, Data behind URLs)"
        return "See to the server and its objects, or index them anew"

    def _samples(
        self, members: Members, batch: MemberBatch[dict[str, memoryview]], numbers: npt.NDArray[np.int64]
    ) -> RawSamples:
        rule, data = self.files.captions, batch.data
        kinds, begin = self._kinds[members.ext], batch.offsets.astype(np.int64)
        owner = np.repeat(np.arange(len(members)), np.diff(members.begin))

        def of_kind(kind: int) -> Ranges:
            at = np.flatnonzero(kinds == kind)
            ranges = Ranges(np.zeros(len(members), np.int64), np.full(len(members), -1, np.int64))
            ranges.begin[owner[at]], ranges.size[owner[at]] = begin[at], begin[at + 1] - begin[at]
            return ranges

        pictures, captions = of_kind(_PICTURE), of_kind(_CAPTION)
        if rule.is_txt:
            return RawSamples(data, pictures, data, captions, rule.lacking)
        json = of_kind(_JSON)
        # of each sample, what each table has
        of_tables: Iterable[tuple[Found, ...]] = ((),) * len(members)
        if self._tables:
            uids = self.reader.uids(members.rows)
            of_tables = zip(*(table.find(uids) for table in self._tables), strict=True)
        chosen = [
            rule.choose(_member(data, captions, i), _member(data, json, i), tables, draw)
            for i, (tables, draw) in enumerate(zip(of_tables, rule.draws(numbers), strict=True))
        ]
        return RawSamples(data, pictures, *_joined(chosen), rule.lacking)
