"""What Megatron-Energon's index of a webdataset says: the readers of its files."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np

from dcfast.errors import CorruptDataError
from dcfast.interop.shards import BLOCK, LARGEST, MOST_JSON_BYTES, PathLike, counts_by_name
from dcfast.interop.sqlite_files import Database, Value, is_place, open_database, text_of
from dcfast.storage.inputs import check_input, read_input
from dcfast.storage.json_files import read_json
from dcfast.storage.records import Count, Record, as_record

if TYPE_CHECKING:
    import pyarrow as pa
    from numpy.typing import NDArray

META = ".nv-meta"
MOST_IDX_BYTES = 64 << 20
"""Of a shard's ``.tar.idx``: of eight million samples."""


class _Info(Record):
    shard_counts: dict[str, Count]
    energon_version: str | None = None


@dataclass(frozen=True)
class EnergonIndex:
    """What ``.nv-meta/.info.json`` says: energon's version (or None), and the samples of each shard, by its name below
    the dataset's directory, in energon's order.

    Example: ``len(read_energon("pool/shards")) == 6``
    """

    version: str | None
    samples: dict[str, int]
    path: str = ""  # the dataset's directory

    def __len__(self) -> int:
        return sum(self.samples.values())

    @property
    def counts(self) -> dict[str, int]:
        """File name of each shard -> samples, as ``count_differences`` takes it.

        Raises PoolError: two shards have one file name.
        """
        return counts_by_name(self.samples.items(), f"energon dataset {self.path}: two shards")


def read_energon(directory: PathLike) -> EnergonIndex:
    """Reads what a dataset of energon says of its shards: ``.nv-meta/.info.json``.

    Args:
        directory: the dataset's.
    Returns:
        EnergonIndex; its ``counts`` go to ``count_differences``.
    Raises:
        CorruptDataError: not json, no object of counts below 2^63.
        OSError: it cannot be read; ``energon prepare --tar-index-only`` makes it of an old ``.info.yaml``.

    Example: ``count_differences(dcfast.index_tars("pool/shards"), read_energon("pool/shards").counts) == []``
    """
    path = Path(directory) / META / ".info.json"
    info = as_record(read_json(path, "energon", most=MOST_JSON_BYTES), _Info, os.fspath(path))
    if (total := sum(info.shard_counts.values())) > LARGEST:
        raise CorruptDataError(
            f"energon {path}: expected fewer than 2^63 samples in all; got {total}; make it again", path=os.fspath(path)
        )
    return EnergonIndex(info.energon_version, info.shard_counts, os.fspath(directory))


def read_energon_idx(path: PathLike, *, tar: PathLike = "") -> NDArray[np.uint64]:
    """Where the samples of a shard begin: energon's ``NAME.tar.idx``.

    Args:
        tar: the shard, if the index is to be one of a file of this size; it is not read.
    Returns:
        (n + 1,) u64: of each sample the offset of its first header, as ``Segment.sample_base`` has it, and at last the
        end of the last member.
    Raises:
        CorruptDataError: no whole number of offsets, one that is no multiple of 512 or not above the one before, or
            beyond the end of the shard.   OSError: a file cannot be read.

    Example: ``read_energon_idx("pool/shards/00000000.tar.idx", tar="pool/shards/00000000.tar")``
    """
    data, where = read_input(path, MOST_IDX_BYTES), os.fspath(path)

    def corrupt_idx(text: str, at: int) -> CorruptDataError:
        return CorruptDataError(f"energon index {where}, byte {at}: {text}; make it again", path=where, offset=at)

    if not data or len(data) % 8:
        raise corrupt_idx(f"expected offsets of 8 bytes each; got {len(data)} bytes", len(data) - len(data) % 8)
    offsets = np.frombuffer(data, "<u8").astype(np.uint64)
    wrong = (offsets % BLOCK != 0) | (offsets > LARGEST)
    wrong[1:] |= offsets[1:] <= offsets[:-1]
    for i in np.flatnonzero(wrong)[:1]:
        raise corrupt_idx(f"expected multiples of 512 that grow; got {offsets[i]}", int(i) * 8)
    if os.fspath(tar):
        size = check_input(tar).st_size
        if offsets[-1] > size:
            raise corrupt_idx(f"expected offsets of {os.fspath(tar)}, {size} bytes; got {offsets[-1]}", len(data) - 8)
    return offsets


def read_energon_members(directory: PathLike) -> pa.Table:
    """The members that ``.nv-meta/index.sqlite`` of a dataset lists.

    Args:
        directory: the dataset's.
    Returns:
        pyarrow table: shard (string, name below the directory), sample (int64, in its shard, from 0), key, ext
        (string), offset (of the data) and size (uint64), by shard, sample and offset.
    Raises:
        CorruptDataError: a file is damaged, above 1 GiB, or no SQLite file; tables, columns or values are not those of
            energon; the samples are not those that ``.info.json`` counts.   OSError: a file cannot be read.
    Memory: about 400 bytes a member. The file is opened read-only, and nothing in it is run (views, triggers).

    Example: ``read_energon_members("pool/shards").filter(pc.field("ext") == "jpg")``
    """
    import pyarrow as pa

    info = read_energon(directory)
    shards = list(info.samples)
    begin = np.cumsum([0, *info.samples.values()])
    with open_database(Path(directory) / META / "index.sqlite", "energon index") as database:
        keys = _read_keys(database, begin)
        rows = sorted(_read_parts(database, begin))
    shard = np.searchsorted(begin, [row[0] for row in rows], side="right") - 1
    columns = {
        "shard": pa.array([shards[i] for i in shard.tolist()], pa.string()),
        "sample": pa.array([row[0] for row in rows], pa.int64()),
        "key": pa.array([keys[row[0]] for row in rows], pa.string()),
        "ext": pa.array([row[3] for row in rows], pa.string()),
        "offset": pa.array([row[1] for row in rows], pa.uint64()),
        "size": pa.array([row[2] for row in rows], pa.uint64()),
    }
    columns["sample"] = pa.array(columns["sample"].to_numpy() - begin[shard], pa.int64())
    return pa.table(columns)


def _place(begin: NDArray[np.int64], shard: Value, sample: Value) -> int | None:
    """The number of a sample in the dataset; None where there is none."""
    if not (isinstance(shard, int) and isinstance(sample, int) and 0 <= shard < len(begin) - 1 and sample >= 0):
        return None
    place = int(begin[shard]) + sample
    return place if place < begin[shard + 1] else None


def _read_keys(database: Database, begin: NDArray[np.int64]) -> dict[int, str]:
    keys: dict[int, str] = {}
    for shard, sample, raw in database.rows("samples", ["tar_file_id", "sample_index", "sample_key"]):
        place, key = _place(begin, shard, sample), text_of(raw)
        if place is None or key is None or place in keys:
            got = f"shard {shard!r:.40}, sample {sample!r:.40}"
            raise database.corrupt_database(
                f"expected each sample that .info.json counts, once; got {got}; make it again"
            )
        keys[place] = key
    if len(keys) != begin[-1]:
        raise database.corrupt_database(
            f"expected the {begin[-1]} samples that .info.json counts; got {len(keys)}; make it again"
        )
    return keys


def _read_parts(database: Database, begin: NDArray[np.int64]) -> Iterator[tuple[int, int, int, str]]:
    names = ["tar_file_id", "sample_index", "part_name", "content_byte_offset", "content_byte_size"]
    for shard, sample, raw, offset, size in database.rows("sample_parts", names):
        place, ext = _place(begin, shard, sample), text_of(raw)
        if place is None or ext is None or not is_place(offset, size):
            got = f"shard {shard!r:.40}, sample {sample!r:.40}, offset {offset!r:.40}, size {size!r:.40}"
            raise database.corrupt_database(f"expected parts of samples, in blocks of 512; got {got}; make it again")
        yield place, cast(int, offset), cast(int, size), ext
