"""The files of a shard, as img2dataset leaves them: tar, sidecar, statistics; and beside them what became of each row.

Rows stand in the order of their keys, and nothing in tar and sidecar depends on when or in what order the rows came.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from dcfast._core import reshard as core_reshard
from dcfast.acquire.causes import FAILED_DOWNLOAD, FAILED_RESIZE, SUCCESS
from dcfast.acquire.rows import Row
from dcfast.acquire.spool import Fetched, Spool
from dcfast.storage.atomic import atomic_path, write_bytes

if TYPE_CHECKING:
    import pyarrow as pa

BLOCK, RECORD = 512, 10_240
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


def write_shard(
    paths: tuple[Path, Path, Path, Path], rows: Sequence[Row], spool: Spool, schema: pa.Schema, ext: str
) -> None:
    """Writes tar, sidecar and outcomes of rows that all stand in a spool. Memory: an image, and the rows."""
    tar, sidecar, _, outcomes = paths
    has_uid, has_boxes = "uid" in schema.names, "face_bboxes" in schema.names
    with atomic_path(tar) as temporary, open(temporary, "wb", buffering=1 << 20) as file:
        size = 0
        for name, data in _members(rows, spool, ext, has_uid=has_uid, has_boxes=has_boxes):
            header = core_reshard.tar_member_header(name, len(data))
            padding = bytes(-len(data) % BLOCK)
            file.write(header + data + padding)
            size += len(header) + len(data) + len(padding)
        file.write(bytes(2 * BLOCK + -(size + 2 * BLOCK) % RECORD))
    found = [(row, spool.fetched[row.number][0]) for row in rows]
    _write_sidecar(sidecar, found, schema)
    _write_outcomes(outcomes, found)


def _members(
    rows: Sequence[Row], spool: Spool, ext: str, *, has_uid: bool, has_boxes: bool
) -> Iterator[tuple[str, bytes]]:
    for row in rows:
        fetched = spool.fetched[row.number][0]
        if fetched.status == SUCCESS:
            fields = sample_json(row, fetched, has_uid=has_uid, has_boxes=has_boxes)
            yield f"{row.key}.{ext}", spool.image(row.number)
            yield f"{row.key}.json", _indented(fields)
            yield f"{row.key}.txt", (row.caption or "").encode("utf-8", "replace")


def _indented(fields: dict[str, object]) -> bytes:
    """``json.dumps`` with an indent of 4; with one that is written in Python."""
    texts = (
        json.dumps(value, indent=4).replace("\n", "\n    ") if isinstance(value, list) else json.dumps(value)
        for value in fields.values()
    )
    return (
        "{\n" + ",\n".join(f'    "{name}": {text}' for name, text in zip(fields, texts, strict=True)) + "\n}"
    ).encode()


def _write_sidecar(path: Path, found: Sequence[tuple[Row, Fetched]], schema: pa.Schema) -> None:
    """All rows, failures too, under img2dataset's names and types."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    has_uid, has_boxes = "uid" in schema.names, "face_bboxes" in schema.names
    kinds: dict[str, pa.DataType] = dict.fromkeys(
        ("caption", "url", "key", "status", "error_message", "exif", "sha256"), pa.string()
    )
    kinds |= dict.fromkeys(("width", "height", "original_width", "original_height"), pa.int32())
    if has_uid:
        kinds["uid"] = pa.string()
    if has_boxes:
        kinds["face_bboxes"] = schema.field("face_bboxes").type
    records = [sample_json(row, fetched, has_uid=has_uid, has_boxes=has_boxes) for row, fetched in found]
    names = list(sample_json(_NO_ROW, _NO_RESULT, has_uid=has_uid, has_boxes=has_boxes))
    table = pa.Table.from_pylist(records, schema=pa.schema([(name, kinds[name]) for name in names]))
    with atomic_path(path) as temporary:
        pq.write_table(table, temporary)


_NO_ROW = Row(0, "", None, None, None, None, None)
_NO_RESULT = Fetched(0, SUCCESS)


def _write_outcomes(path: Path, found: Sequence[tuple[Row, Fetched]]) -> None:
    """What became of each row: what the sidecar has no column for, and the keys to it."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    texts = dict.fromkeys(("key", "uid", "url", "status", "cause", "error_message", "final_url"), pa.string())
    numbers = {"row": pa.int64(), "attempts": pa.int32(), "http_status": pa.int32(), "bytes": pa.int64()}
    rest = {"seconds": pa.float32(), "sha256": pa.string(), "expected_sha256": pa.string(), "drifted": pa.bool_()}
    records = [
        {
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
        for row, fetched in found
    ]
    table = pa.Table.from_pylist(records, schema=pa.schema([*texts.items(), *numbers.items(), *rest.items()]))
    with atomic_path(path) as temporary:
        pq.write_table(table, temporary, compression="zstd")


def has_drifted(row: Row, fetched: Fetched) -> bool | None:
    """Whether the bytes are others than the list expects; None where that cannot be said."""
    if not row.sha256 or not fetched.sha256:
        return None
    return row.sha256.lower() != fetched.sha256


def write_stats(path: Path, found: Sequence[Fetched], began: float, ended: float, own: dict[str, object]) -> None:
    """img2dataset's eight fields, and ours under ``dcfast``; written last, since tools take it for the sign of a whole
    shard."""
    statuses = Counter(fetched.message or fetched.status for fetched in found)
    common = dict(statuses.most_common(MOST_STATUSES))
    if rest := statuses.total() - sum(common.values()):
        common[OTHERS] = rest
    kinds = Counter(fetched.status for fetched in found)
    stats = {
        "count": len(found),
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
