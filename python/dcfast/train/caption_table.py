"""Captions by uid: columns of parquet files as two files that are mapped, sorted records and texts end to end."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from dcfast.errors import PoolError
from dcfast.index.metadata import ALIASES, METADATA, check_uid_type, column_matches, open_metadata, parse_uids
from dcfast.index.pool import list_parquet, metadata_folder
from dcfast.models.captions import MAX_CAPTION_BYTES
from dcfast.process.caption_places import CaptionFrom
from dcfast.storage.arrow import text_buffers
from dcfast.storage.atomic import atomic_path, write_json
from dcfast.storage.hashing import hash_file
from dcfast.storage.mapped import map_array
from dcfast.storage.parquet import ParquetFile
from dcfast.storage.records import Count, Record, plain, read_record
from dcfast.storage.temporary import temporary_folder
from dcfast.uids.files import uid_records
from dcfast.uids.sets import merge_runs, open_records, record_sort, save_records, uid_lookup

_SIZE_BITS = 20
"""Of a record's payload: the bytes of the text; the others are where it begins."""
_ROWS_A_RUN = 1 << 22


class TableFiles(Record):
    """``captions-N.json``: what a table was made of, and what it holds.

    Attributes:
        made_of: (path, size, time) of each file, and the column.
        hash: of the content.   captions: that are there; rows: of the files, with those that have none.
    """

    made_of: list[str]
    hash: str
    captions: Count
    rows: Count
    text_bytes: Count


class CaptionTable:
    """Captions by uid. Memory: none but the page cache; a look-up has about 0.3 us a uid."""

    def __init__(self, place: str) -> None:
        """``place``: what ``make_caption_table`` was given. CorruptDataError, OSError: its files."""
        about = read_record(f"{place}.json", TableFiles)
        self._records = open_records(f"{place}-uids.npy")
        self._texts = map_array(f"{place}-texts", np.uint8, (about.text_bytes,))

    def find(self, uids: npt.NDArray[np.void]) -> list[Found]:
        """The captions of each uid, in the order of the files; none where the table lacks it."""
        first, count = uid_lookup(self._records, np.ascontiguousarray(uids), threads=1)
        ends = (first + count).tolist()
        return [Found(self, range(begin, end)) for begin, end in zip(first.tolist(), ends, strict=True)]

    def text(self, record: int) -> bytes:
        """The caption of a record."""
        payload = int(self._records["f2"][record])
        begin = payload >> _SIZE_BITS
        return self._texts[begin : begin + (payload & ((1 << _SIZE_BITS) - 1))].tobytes()

    def has(self, uids: npt.NDArray[np.void]) -> npt.NDArray[np.bool_]:
        """(n,) bool: whether the table has a caption of each uid."""
        return uid_lookup(self._records, np.ascontiguousarray(uids), threads=1)[1] > 0


class Found:
    """Captions of one uid, each read when it is asked for: a stranger's file may give millions to one."""

    def __init__(self, table: CaptionTable, records: range) -> None:
        self._table, self._records = table, records

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, number: int, /) -> bytes:
        return self._table.text(self._records[number])


def make_caption_table(path: str, column: str, place: str, uid_from: str = "json") -> TableFiles:
    """Makes the table of a column, or finds that one is there, made of the same files.

    Args:
        path: a parquet file, a directory of them, or a pool with its metadata.
        column: of texts, or of lists of texts, which are captions of one sample, as are rows of the same uid.
        place: what the names of the files begin with.
    Raises:
        PoolError: no parquet file; no such column, or one that holds no texts; no uids.
        CorruptDataError, OSError: a file cannot be read, or a table not be written.
    Memory: 250 MB, and a batch of rows: records are sorted in runs, which are merged.   Disk: 24 bytes a caption and
    its text, at most ``MAX_CAPTION_BYTES`` of it; the records once more while it is made.
    """
    files = caption_files(path)
    made_of = [column, *(f"{file} {os.stat(file).st_size} {os.stat(file).st_mtime_ns}" for file in files)]
    try:
        known = read_record(f"{place}.json", TableFiles)
        if known.made_of == made_of and os.stat(f"{place}-texts").st_size == known.text_bytes:
            open_records(f"{place}-uids.npy")
            return known
    except (OSError, ValueError):
        pass
    rows = size = captions = 0
    Path(place).parent.mkdir(parents=True, exist_ok=True)
    with temporary_folder("dcfast-captions-", Path(place).parent) as folder:
        runs: list[Path] = []
        waiting: list[npt.NDArray[np.void]] = []

        def spill() -> None:
            runs.append(folder / f"{len(runs)}.npy")
            save_records(runs[-1], record_sort(np.concatenate(waiting)))
            waiting.clear()

        with atomic_path(f"{place}-texts") as temporary, open(temporary, "wb") as texts:
            for file in files:
                for uids, sizes, text, read in _captions(file, column, uid_from):
                    begin = size + np.cumsum(sizes) - sizes
                    texts.write(text)
                    payload = (begin.astype(np.uint64) << np.uint64(_SIZE_BITS)) | sizes.astype(np.uint64)
                    waiting.append(uid_records(uids, payload))
                    size, rows, captions = size + int(sizes.sum()), rows + read, captions + len(uids)
                    if sum(map(len, waiting)) >= _ROWS_A_RUN:
                        spill()
            if waiting or not runs:
                waiting.append(uid_records(np.empty(0, "u8,u8"), np.empty(0, np.uint64)))
                spill()
        merge_runs(runs, f"{place}-uids.npy")
    digest = f"{hash_file(f'{place}-uids.npy')} {hash_file(f'{place}-texts')}"
    about = TableFiles(made_of=made_of, hash=digest, captions=captions, rows=rows, text_bytes=size)
    write_json(f"{place}.json", plain(about))
    return about


def caption_files(path: str) -> list[str]:
    """The parquet files of a path: itself, or those in a directory or a pool. PoolError: there are none."""
    if not os.path.isdir(path):
        return [os.path.abspath(path)]
    folder = metadata_folder(path)
    files = [os.path.abspath(os.path.join(folder, name)) for name in list_parquet(folder)]
    if not files:
        raise PoolError(f"captions: no .parquet file in {folder}; name a file, or the directory that holds them")
    return files


def _captions(
    path: str, column: str, uid_from: str
) -> Iterator[tuple[npt.NDArray[np.void], npt.NDArray[np.int64], bytes, int]]:
    """Of each batch of a file's rows: uids, bytes of the texts, the texts, and how many rows it has."""
    import pyarrow as pa
    import pyarrow.compute as pc

    with open_metadata(path, uid_from) as file:
        column, is_list = _column_of(file, path, column)
        for batch in file.batches(["uid", column]):
            uids, valid = parse_uids(batch)
            texts, owner = batch.column(batch.schema.get_field_index(column)), np.arange(len(uids))
            if is_list:
                owner = np.asarray(pc.list_parent_indices(texts)).astype(np.int64)
                texts = pc.list_flatten(texts)
            if pa.types.is_dictionary(texts.type):
                texts = texts.dictionary_decode()
            texts = pc.binary_slice(texts.cast(pa.large_binary()), 0, MAX_CAPTION_BYTES + 1)
            given = np.asarray(pc.fill_null(pc.greater(pc.binary_length(texts), 0), False)) & valid[owner]
            text, begin = text_buffers(texts.filter(pa.array(given)))
            yield uids[owner[given]], np.diff(begin).astype(np.int64), text[begin[0] : begin[-1]].tobytes(), len(uids)


def _column_of(file: ParquetFile, path: str, column: str) -> tuple[str, bool]:
    """The name of a column of captions in an opened file, and whether it has lists of texts.

    PoolError where they are no texts, or have no uids.
    """
    import pyarrow as pa

    check_uid_type(file)
    if column not in file.schema.names:  # it may have DataComp's name there
        column = next((name for name in file.schema.names if column in ALIASES.get(name, ())), column)
    if column not in file.schema.names:
        raise PoolError(
            f"{METADATA.name} {path} has no column {column} ({', '.join(file.schema.names)}); name one that "
            "holds captions: --caption-from parquet:PATH:COLUMN"
        )
    kind = file.schema.field(column).type
    is_list = bool(pa.types.is_list(kind) or pa.types.is_large_list(kind))
    if not column_matches("text", kind.value_type if is_list else kind):
        raise PoolError(
            f"{METADATA.name} {path} has a column {column} of type {kind}; expected strings, or lists of them, as "
            "captions: name another column, or write it so"
        )
    return column, is_list


def check_captions(path: str, column: str) -> None:
    """PoolError, OSError before work where ``make_caption_table`` could make none. Cost: the footer of each file."""
    for file in caption_files(path):
        with open_metadata(file) as opened:
            _column_of(opened, file, column)


def caption_tables(places: Sequence[CaptionFrom], work: Path, number: int = 0) -> dict[str, str]:
    """Makes the tables of a source, where they are not there yet: the place of each -> the hash of its content.

    Args:
        places: of captions; those that are no parquet have no table.
        work: the folder of the tables.   number: of the source in its training.
    Raises, memory, disk: as ``make_caption_table``.
    """
    parquet = [place for place in places if place.kind == "parquet"]
    names = [str(work / f"captions-{number:02d}-{k}") for k in range(len(parquet))]
    return {name: make_caption_table(p.path, p.name, name).hash for p, name in zip(parquet, names, strict=True)}
