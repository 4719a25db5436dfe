"""The files of a shard, as img2dataset leaves them: tar, sidecar, statistics; and beside them what became of each row.

Rows stand in the order of their keys, and nothing in tar and sidecar depends on when or in what order the rows came.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from dcfast._core import reshard as core_reshard
from dcfast.acquire.causes import FAILED_DOWNLOAD, FAILED_RESIZE, SUCCESS
from dcfast.acquire.options import ImageOptions
from dcfast.acquire.rows import Row, Rows
from dcfast.acquire.spool import Fetched, Spool
from dcfast.storage.atomic import atomic_path, write_bytes
from dcfast.storage.whole import FULL, full_disk
from dcfast.storage.whole_folder import whole_folder

if TYPE_CHECKING:
    import pyarrow as pa

BLOCK, RECORD = 512, 10_240
IMAGES_AT_ONCE = 100
"""Rows of a row group of a parquet file with images."""
_ROWS_AT_ONCE = 1024
_FILES_A_SAMPLE = 3
MOST_STATUSES = 1000
"""Different texts in ``status_dict``; the rarer ones are counted together."""
OTHERS = "others"
OUTCOMES = "outcomes"
"""Folder of the pool: a parquet file a shard, what became of each of its rows."""


def shard_paths(out: Path, shard: int) -> tuple[Path, Path, Path, Path]:
    """Tar, sidecar, statistics and outcomes of a shard."""
    folder, name = out / "shards", f"{shard:08d}"
    stats = folder / f"{name}_stats.json"
    return folder / f"{name}.tar", folder / f"{name}.parquet", stats, out / OUTCOMES / f"{name}.parquet"


def data_path(out: Path, shard: int, output_format: str) -> Path:
    """Where the images of a shard are: a tar, a folder, or the sidecar itself."""
    tar, sidecar, _, _ = shard_paths(out, shard)
    return {"webdataset": tar, "files": tar.with_suffix(""), "parquet": sidecar}[output_format]


def marked_files(out: Path, shard: int, output_format: str) -> list[Path]:
    """The files of a shard by whose sizes it is known to be whole. Of a folder, that differs from disk to disk."""
    return list(shard_paths(out, shard))[output_format != "webdataset" :]


def has_images(out: Path, shard: int, output_format: str, successes: int) -> bool:
    """Whether a shard whose ``marked_files`` are there has its images, too: of a folder, files are counted."""
    if output_format != "files":
        return True
    folder = data_path(out, shard, output_format)
    return folder.is_dir() and len(os.listdir(folder)) == _FILES_A_SAMPLE * successes


class Outcomes:
    """Rows of a spool, and what became of them: each is made anew whenever they are gone through."""

    def __init__(self, rows: Rows, spool: Spool) -> None:
        self._rows = rows
        self.spool = spool

    def __iter__(self) -> Iterator[tuple[Row, Fetched]]:
        """All, in the order of their keys. Cost: a read of the spool a row."""
        return ((row, self.spool.fetched(row.number)) for row in self._rows)

    def __len__(self) -> int:
        """Rows."""
        return len(self._rows)

    def parts(self, rows: int) -> Iterator[list[tuple[Row, Fetched]]]:
        """So many at a time."""
        found = iter(self)
        while part := list(islice(found, rows)):
            yield part


def sample_json(row: Row, fetched: Fetched, *, has_uid: bool, has_boxes: bool) -> dict[str, object]:
    """The fields of a sample's json, and of its row in the sidecar, in img2dataset's order."""
    return {
        **({"uid": row.uid} if has_uid else {}),
        **({"face_bboxes": row.boxes} if has_boxes else {}),
        "caption": row.caption,
        "url": row.url,
        "key": row.key,
        "status": fetched.status,
        "error_message": fetched.message,
        "width": fetched.width,
        "height": fetched.height,
        "original_width": fetched.original_width,
        "original_height": fetched.original_height,
        "exif": fetched.exif,
        "sha256": fetched.sha256,
    }


def write_shard(out: Path, shard: int, found: Outcomes, schema: pa.Schema, options: ImageOptions) -> None:
    """Writes images, sidecar and outcomes of rows that all stand in a spool. Memory: some images, and a table of them.

    OSError: a full disk.
    """
    data, sidecar = data_path(out, shard, options.output_format), shard_paths(out, shard)[1]
    ext = options.encode_format
    if options.output_format == "webdataset":
        _write_tar(data, _members(found, schema, ext))
    elif options.output_format == "files":
        _write_folder(data, _members(found, schema, ext))
    _write_sidecar(sidecar, found, schema, ext if options.output_format == "parquet" else None)
    _write_outcomes(shard_paths(out, shard)[3], found)


def _members(found: Outcomes, schema: pa.Schema, ext: str) -> Iterator[tuple[str, bytes]]:
    fields_of = _fields(schema)
    for row, fetched in found:
        if fetched.status == SUCCESS:
            yield f"{row.key}.{ext}", found.spool.image(row.number)
            yield f"{row.key}.json", _indented(fields_of(row, fetched))
            yield f"{row.key}.txt", (row.caption or "").encode("utf-8", "replace")


def _fields(schema: pa.Schema) -> Callable[[Row, Fetched], dict[str, object]]:
    """``sample_json`` of the columns that a list has."""
    return partial(sample_json, has_uid="uid" in schema.names, has_boxes="face_bboxes" in schema.names)


def _write_tar(path: Path, members: Iterator[tuple[str, bytes]]) -> None:
    with atomic_path(path) as temporary, open(temporary, "wb", buffering=1 << 20) as file:
        size = 0
        for name, data in members:
            header = core_reshard.tar_member_header(name, len(data))
            padding = bytes(-len(data) % BLOCK)
            file.write(header + data + padding)
            size += len(header) + len(data) + len(padding)
        file.write(bytes(2 * BLOCK + -(size + 2 * BLOCK) % RECORD))


def _indented(fields: dict[str, object]) -> bytes:
    """``json.dumps`` with an indent of 4; with one that is written in Python."""
    texts = (
        json.dumps(value, indent=4).replace("\n", "\n    ") if isinstance(value, list) else json.dumps(value)
        for value in fields.values()
    )
    return (
        "{\n" + ",\n".join(f'    "{name}": {text}' for name, text in zip(fields, texts, strict=True)) + "\n}"
    ).encode()


def _write_folder(path: Path, members: Iterator[tuple[str, bytes]]) -> None:
    """A file a member, in a folder that is there as a whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_folder(path) as folder:
        try:
            for name, data in members:
                (folder / name).write_bytes(data)
        except OSError as error:
            if error.errno in FULL:
                raise full_disk(error.errno, str(path)) from error
            raise
        os.sync()  # at once, of files by the ten thousand


def _write_sidecar(path: Path, found: Outcomes, schema: pa.Schema, images: str | None) -> None:
    """All rows, failures too, under img2dataset's names and types; ``images``: with a column of that name.

    One row group; with images, as img2dataset has it, one for each ``IMAGES_AT_ONCE`` rows.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    kinds: dict[str, pa.DataType] = dict.fromkeys(
        ("uid", "caption", "url", "key", "status", "error_message", "exif", "sha256"), pa.string()
    )
    kinds |= dict.fromkeys(("width", "height", "original_width", "original_height"), pa.int32())
    if "face_bboxes" in schema.names:
        kinds["face_bboxes"] = schema.field("face_bboxes").type
    fields_of = _fields(schema)
    names = pa.schema([(name, kinds[name]) for name in fields_of(_NO_ROW, _NO_RESULT)])
    with atomic_path(path) as temporary:
        if images is None:
            pq.write_table(_table(found, fields_of, names), temporary)
            return
        with pq.ParquetWriter(temporary, names.append(pa.field(images, pa.binary()))) as writer:
            for part in found.parts(IMAGES_AT_ONCE) if len(found) else iter([[]]):
                data = [found.spool.image(row.number) if one.status == SUCCESS else None for row, one in part]
                table = pa.Table.from_pylist([fields_of(*one) for one in part], schema=names)
                writer.write_table(table.append_column(images, pa.array(data, pa.binary())))


def _table(found: Outcomes, record_of: Callable[[Row, Fetched], dict[str, object]], schema: pa.Schema) -> pa.Table:
    """A table of a record a row. Memory: the table, and the records of ``_ROWS_AT_ONCE`` rows."""
    import pyarrow as pa

    parts = [
        pa.Table.from_pylist([record_of(*one) for one in part], schema=schema) for part in found.parts(_ROWS_AT_ONCE)
    ]
    return pa.concat_tables(parts) if parts else schema.empty_table()


_NO_ROW = Row(0, "", None, None, None, None, None)
_NO_RESULT = Fetched(0, SUCCESS)


def _write_outcomes(path: Path, found: Outcomes) -> None:
    """What became of each row: what the sidecar has no column for, and the keys to it."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    texts = dict.fromkeys(("key", "uid", "url", "status", "cause", "error_message", "final_url"), pa.string())
    numbers = {"row": pa.int64(), "attempts": pa.int32(), "http_status": pa.int32(), "bytes": pa.int64()}
    rest = {"seconds": pa.float32(), "sha256": pa.string(), "expected_sha256": pa.string(), "drifted": pa.bool_()}
    schema = pa.schema([*texts.items(), *numbers.items(), *rest.items()])
    with atomic_path(path) as temporary:
        pq.write_table(_table(found, _outcome, schema), temporary, compression="zstd")


def _outcome(row: Row, fetched: Fetched) -> dict[str, object]:
    return {
        "key": row.key,
        "uid": row.uid,
        "url": row.url,
        "status": fetched.status,
        "cause": fetched.cause,
        "error_message": fetched.message,
        "final_url": fetched.final_url if fetched.final_url != row.url else None,
        "row": row.number,
        "attempts": fetched.attempts,
        "http_status": fetched.http_status or None,
        "bytes": fetched.size,
        "seconds": fetched.seconds,
        "sha256": fetched.sha256,
        "expected_sha256": row.sha256,
        "drifted": has_drifted(row, fetched),
    }


def has_drifted(row: Row, fetched: Fetched) -> bool | None:
    """Whether the bytes are others than the list expects; None where that cannot be said."""
    if not row.sha256 or not fetched.sha256:
        return None
    return row.sha256.lower() != fetched.sha256


def write_stats(path: Path, found: Outcomes, began: float, ended: float, own: dict[str, object]) -> None:
    """img2dataset's eight fields, and ours under ``dcfast``; written last, since tools take it for the sign of a whole
    shard."""
    statuses, kinds = Counter[str](), Counter[str]()
    for _, fetched in found:
        statuses[fetched.message or fetched.status] += 1
        kinds[fetched.status] += 1
    common = dict(statuses.most_common(MOST_STATUSES))
    if rest := statuses.total() - sum(common.values()):
        common[OTHERS] = rest
    stats = {
        "count": kinds.total(),
        "successes": kinds[SUCCESS],
        "failed_to_download": kinds[FAILED_DOWNLOAD],
        "failed_to_resize": kinds[FAILED_RESIZE],
        "duration": ended - began,
        "start_time": began,
        "end_time": ended,
        "status_dict": common,
        "dcfast": own,
    }
    write_bytes(path, json.dumps(stats, indent=4).encode())
