"""Signature files: all that is needed to find pictures again without having them (docs/formats.md, "Signature files").

A parquet file, a row a picture: its set, shard and key, content hash, perceptual hashes, size, and its descriptors. Its
metadata holds a header: version, how the hashes are made, the sets with their fingerprints, and the models of the
descriptors by name and SHA-256. A file of another version, or whose rows are not those that its header tells of, is
refused by name.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from dcfast.dedup.records import ABSENT, SIGNATURE_DTYPE
from dcfast.dedup.signature_rows import (
    FORMAT,
    HASHES,
    MOST_MODELS,
    MOST_SETS,
    PLAIN,
    VERSION,
    WORDS,
    DescriptorInfo,
    Fingerprint,
    Header,
    Rows,
    SignedSet,
    choose_rows,
    join_rows,
    signature_schema,
)
from dcfast.dedup.thresholds import LENGTH_TOLERANCE
from dcfast.errors import CorruptDataError, PoolError
from dcfast.storage.atomic import atomic_path
from dcfast.storage.json_files import parse_json
from dcfast.storage.parquet import Kind, ParquetFile
from dcfast.storage.records import Record, as_record, plain

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = [
    "SIGNATURES",
    "DescriptorInfo",
    "Header",
    "Rows",
    "SignatureFile",
    "SignatureWriter",
    "SignedSet",
    "read_headers",
    "set_names",
    "signature_writer",
]

_KEY = b"dcfast"
_BATCH_ROWS = 16_384
MOST_HEADER_BYTES = 16 << 20
SIGNATURES = Kind("signature file", "make it again by dcfast evalsets sign, or fetch it again", PoolError)


class SignatureWriter:
    """Writes a signature file set by set, batch by batch; see ``signature_writer``."""

    def __init__(self, path: Path, descriptors: Sequence[DescriptorInfo]) -> None:
        import pyarrow.parquet as pq

        self._descriptors = list(descriptors)
        self._schema = signature_schema(self._descriptors)
        texts = ["set", "shard"]
        self._file = pq.ParquetWriter(
            path,
            self._schema,
            use_dictionary=texts,
            compression="zstd",
            write_page_checksum=True,
            write_statistics=False,
        )
        self._sets: list[SignedSet] = []

    def add_set(
        self, name: str, rows: Iterator[Rows] | Sequence[Rows], damage: Sequence[tuple[str, str]] = ()
    ) -> SignedSet:
        """Writes a set, whose rows come in batches; returns what the header says of it. Memory: a batch."""
        if len(self._sets) == MOST_SETS or name in [other.name for other in self._sets]:
            raise ValueError(f"set {name!r} is one too many: give each of at most {MOST_SETS:,} sets once")
        fingerprint, counts = Fingerprint(), np.zeros(4, np.int64)
        for batch in rows:
            status, flat = batch.records["status"], batch.records["flat"]
            present = status != ABSENT
            counts += [len(batch), present.sum(), (present & (status != 0)).sum(), ((status == 0) & (flat == 1)).sum()]
            fingerprint.add(batch)
            table = self._table(batch)
            if table.num_rows:  # of none there is no group to write
                self._file.write_table(table)
        count, pictures, unreadable, flat_pictures = counts.tolist()
        signed = SignedSet(name, count, pictures, unreadable, flat_pictures, fingerprint.hex(), list(damage))
        self._sets.append(signed)
        return signed

    def _table(self, rows: Rows) -> pa.Table:
        import pyarrow as pa

        columns: dict[str, pa.Array] = {
            "set": pa.array(np.full(len(rows), len(self._sets), np.uint16)),
            "shard": rows.shard.cast(pa.string()),
            "key": rows.key.cast(pa.string()),
            **{name: pa.array(np.ascontiguousarray(rows.records[name])) for name in PLAIN},
            **{name: pa.array(np.ascontiguousarray(rows.records["phash256"][:, i])) for i, name in enumerate(WORDS)},
        }
        for i, (info, vectors) in enumerate(zip(self._descriptors, rows.descriptors, strict=True)):
            if vectors.shape != (len(rows), info.dim):
                raise ValueError(f"descriptors of {info.name} have shape {vectors.shape}; pass {(len(rows), info.dim)}")
            data = pa.py_buffer(np.ascontiguousarray(vectors, "<f4"))
            kind = pa.binary(4 * info.dim)
            columns[f"descriptor_{i}"] = pa.FixedSizeBinaryArray.from_buffers(kind, len(rows), [None, data])
        return pa.table(columns, schema=self._schema)

    def close(self) -> None:
        header = Header(FORMAT, VERSION, HASHES, self._sets, self._descriptors)
        self._file.add_key_value_metadata({_KEY: json.dumps(plain(header))})
        self._file.close()


@contextmanager
def signature_writer(
    path: str | os.PathLike[str], descriptors: Sequence[DescriptorInfo] = ()
) -> Iterator[SignatureWriter]:
    """Within the block sets are written; the file is whole at its end, or not there."""
    with atomic_path(path) as temporary:
        writer = SignatureWriter(temporary, descriptors)
        try:
            yield writer
        finally:
            writer.close()


class _Version(Record):
    format: str = ""
    version: int = 0


class SignatureFile:
    """An open signature file, its header checked; closed at the end of a ``with``.

    Attributes:
        header: what it tells of its sets and descriptors.   num_rows: in all.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Opens a file and reads its header.

        Raises:
            PoolError: no signature file, one of another version, or with hashes made in another way.
            CorruptDataError: a header that makes no sense, or tells of other rows.   OSError: it cannot be read.
        """
        self._file = ParquetFile(path, SIGNATURES)
        self.path: str = self._file.path
        self.num_rows: int = self._file.num_rows
        try:
            self.header: Header = self._header()
        except BaseException:
            self._file.__exit__()
            raise

    def __enter__(self) -> SignatureFile:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.__exit__()

    def _header(self) -> Header:
        where = f"{SIGNATURES.name} {self.path}"
        text = self._file.metadata.get(_KEY)
        if text is None:
            raise PoolError(f"{where} is parquet without the header of signatures; give one of dcfast evalsets sign")
        if len(text) > MOST_HEADER_BYTES:
            raise CorruptDataError(f"{where} has a header of {len(text):,} bytes; {SIGNATURES.remedy}", path=self.path)
        try:
            value = parse_json(text)
        except ValueError as error:
            raise CorruptDataError(f"{where}: its header: {error}; {SIGNATURES.remedy}", path=self.path) from None
        kind = as_record(value, _Version, where, SIGNATURES.remedy)
        if (kind.format, kind.version) != (FORMAT, VERSION):
            raise PoolError(
                f"{where} is of version {kind.version} of {kind.format or 'no format'!r}; this release reads version "
                f"{VERSION} of {FORMAT!r}: make it again by dcfast evalsets sign"
            )
        header = as_record(value, Header, where, SIGNATURES.remedy)
        other = [name for name, how in HASHES.items() if header.hashes.get(name) != how]
        if other:
            raise PoolError(
                f"{where} has {other[0]} made by {header.hashes.get(other[0])!r}; this release makes "
                f"{HASHES[other[0]]!r}, and the two do not compare: make it again by dcfast evalsets sign"
            )
        self._check_rows(header, where)
        return header

    def _check_rows(self, header: Header, where: str) -> None:
        told = sum(one.rows for one in header.sets)
        problem = ""
        if told != self.num_rows:
            problem = f"its header tells of {told:,} rows, and it has {self.num_rows:,}"
        elif len(header.sets) > MOST_SETS or len(header.descriptors) > MOST_MODELS:
            problem = f"{len(header.sets):,} sets and {len(header.descriptors):,} models"
        elif not self._file.schema.equals(signature_schema(header.descriptors)):
            problem = f"its columns are {', '.join(self._file.schema.names)}"
        if problem:
            raise CorruptDataError(f"{where} is damaged ({problem}); {SIGNATURES.remedy}", path=self.path)

    def batches(self, rows: int = _BATCH_ROWS) -> Iterator[Rows]:
        """The rows in order, ``rows`` at most at a time; nothing is checked but the pages' checksums.

        CorruptDataError: a damaged page, or a set that the header does not have.
        """
        for batch in self._file.batches(rows=rows):
            yield self._rows(batch)

    def _rows(self, batch: pa.RecordBatch) -> Rows:
        import pyarrow as pa

        n = batch.num_rows
        try:
            batch.validate(full=True)
        except pa.ArrowInvalid as error:
            raise self._damaged(str(error)) from None
        column = dict(zip(batch.schema.names, batch.columns, strict=True))
        if sum(array.null_count for array in batch.columns):
            raise self._damaged("a value is null")
        set_id = column["set"].to_numpy().astype(np.int64)
        if n and int(set_id.max()) >= len(self.header.sets):
            raise self._damaged(f"a row is of set {int(set_id.max())}")
        records = np.empty(n, SIGNATURE_DTYPE)
        for name in PLAIN:
            records[name] = column[name].to_numpy()
        for word, name in enumerate(WORDS):
            records["phash256"][:, word] = column[name].to_numpy()
        vectors = []
        for i, info in enumerate(self.header.descriptors):
            array = column[f"descriptor_{i}"]
            data = np.frombuffer(array.buffers()[1], "<f4", n * info.dim, array.offset * 4 * info.dim)
            vectors.append(data.reshape(n, info.dim))
        return Rows(set_id, column["shard"], column["key"], records, vectors)

    def _damaged(self, problem: str) -> CorruptDataError:
        words = f"{SIGNATURES.name} {self.path} is damaged ({problem}); {SIGNATURES.remedy}"
        return CorruptDataError(words, path=self.path)

    def read(self) -> Rows:
        """All rows, each set held against its fingerprint. Memory: about 150 bytes a row and the descriptors, twice.

        CorruptDataError: as ``batches``; rows that are not those of the header; descriptors that are no numbers or
        not of length 1.
        """

        prints = [Fingerprint() for _ in self.header.sets]
        parts = []
        for batch in self.batches():
            parts.append(batch)
            for number in np.unique(batch.set_id).tolist():
                prints[number].add(choose_rows(batch, np.flatnonzero(batch.set_id == number)))
            for info, vectors in zip(self.header.descriptors, batch.descriptors, strict=True):
                if not np.isfinite(vectors).all():
                    raise self._damaged(f"descriptors of {info.name} that are no finite numbers")
                length = np.sqrt(np.einsum("ij,ij->i", vectors, vectors, dtype=np.float64))
                if ((np.abs(length - 1) > LENGTH_TOLERANCE) & (length > 0)).any():
                    raise self._damaged(f"descriptors of {info.name} that are not of length 1")
        for one, found in zip(self.header.sets, prints, strict=True):
            if one.fingerprint != found.hex():
                raise self._damaged(f"the rows of set {one.name} are not those of its fingerprint")

        return join_rows(parts, self.header.descriptors)


def read_headers(files: Sequence[str | os.PathLike[str]]) -> list[Header]:
    """The headers of signature files that are compared together. Cost: their footers.

    Raises:
        PoolError: a set is in two files; two files have descriptors of one name by other weights.
        Others: ``SignatureFile``.
    """
    headers: list[Header] = []
    sets: dict[str, str] = {}
    models: dict[str, tuple[DescriptorInfo, str]] = {}
    for path in files:
        with SignatureFile(path) as file:
            headers.append(file.header)
            where = file.path
        for one in headers[-1].sets:
            if one.name in sets:
                raise PoolError(f"set {one.name} is in {sets[one.name]} and in {where}; give one of the two")
            sets[one.name] = where
        for info in headers[-1].descriptors:
            known, other = models.setdefault(info.name, (info, where))
            if info != known:
                raise PoolError(
                    f"{where} has descriptors {info.name} of width {info.dim} by weights {info.sha256 or 'unknown'}, "
                    f"{other} of width {known.dim} by {known.sha256 or 'unknown'}; give files that one model made"
                )
    return headers


def set_names(files: Sequence[Path]) -> list[str]:
    """The names of the sets of some signature files, sorted. Errors and cost as ``read_headers``."""
    return sorted(one.name for header in read_headers(files) for one in header.sets)
