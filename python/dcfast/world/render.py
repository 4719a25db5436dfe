"""The world as pieces of work: each writes whole files below the world's directory.

Pieces read no file that another piece wrote: leaks and duplicates are painted again from their seeds, so that any
piece can run alone, in any process and order, and yields the same bytes.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from dcfast.process.options import one_of
from dcfast.process.renamed import Renamed, takes_old_names
from dcfast.process.signals import spawning, start_worker
from dcfast.storage.npz import array_bytes
from dcfast.world.captions import english_caption
from dcfast.world.evalsets import eval_bytes, eval_sample, riddles
from dcfast.world.files import Boxes, mtime_of, table_of, write_parquet, write_tar, write_text
from dcfast.world.paint import encode_picture, paint_scene
from dcfast.world.plan import (
    TEACHER_SHARD_ROWS,
    EvalSetPiece,
    PoolPiece,
    Rendered,
    TeacherPiece,
    TruthPiece,
    WorldPiece,
    plan_teacher,
    plan_world,
)
from dcfast.world.samples import damaged, picture_bytes, row_caption, row_kinds, row_picture, row_uid
from dcfast.world.scene import Scene, draw_scene
from dcfast.world.spec import WorldSpec
from dcfast.world.streams import Stream, hex_id
from dcfast.world.tasks import TASKS, task_size, task_table
from dcfast.world.truth import shard_numbers, truth_table

EVALSET_SHARD_ROWS = 200


@dataclass(frozen=True)
class _MetadataRow:
    """A row of DataComp's metadata."""

    uid: str
    url: str
    text: str
    original_width: int
    original_height: int
    face_bboxes: Boxes
    sha256: str


@dataclass(frozen=True, kw_only=True)
class _DownloadedRow:
    """What img2dataset writes of a row that it tried to download."""

    uid: str
    url: str
    caption: str
    key: str
    status: str = "failed_to_download"
    error_message: str | None = "HTTP Error 404: Not Found"
    width: int | None = None
    height: int | None = None
    original_width: int | None = None
    original_height: int | None = None
    exif: str | None = None
    sha256: str | None = None
    face_bboxes: Boxes


def _json_bytes(value: object) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode()


def _url(uid: str) -> str:
    hosts = ("images", "cdn", "static", "photos", "media")
    return f"https://{hosts[int(uid[0], 16) % 5]}.world.example/{uid[:2]}/{uid[2:14]}.jpg"


def _face_boxes(spec: WorldSpec, number: int, scene: Scene | None) -> Boxes:
    """A detector's false alarm around the main thing, for a few pictures: there are no faces in this world."""
    if scene is None or not row_kinds(spec, number).face_box:
        return []
    x, y, size, _ = scene.main.spots[0]
    half = size / 2
    box = (x - half, y - half, x + half, y + half)
    return [[round(min(1.0, max(0.0, value)), 4) for value in box]]


def _downloaded(row: _MetadataRow, key: str, size: tuple[int, int] | None) -> _DownloadedRow:
    """``size``: of the picture that was stored; None: the link is dead."""
    failed = _DownloadedRow(uid=row.uid, url=row.url, caption=row.text, key=key, face_bboxes=row.face_bboxes)
    if size is None:
        return failed
    return replace(
        failed,
        status="success",
        error_message=None,
        width=size[0],
        height=size[1],
        original_width=row.original_width,
        original_height=row.original_height,
        exif="{}",
        sha256=row.sha256,
    )


def _render_pool_shard(piece: PoolPiece, directory: Path) -> Rendered:
    """POOL/shards/N.tar, its stats and parquet, and POOL/metadata/N.parquet."""
    spec, shard = piece.spec, piece.shard
    if not 0 <= shard < spec.num_shards:
        raise ValueError(f"render_pool_shard: shard must be 0 to {spec.num_shards - 1}; got {shard}")
    pool, name = directory / "pool", f"{shard:08d}"
    listed: list[_MetadataRow] = []
    attempted: list[_DownloadedRow] = []

    def members() -> Iterator[tuple[str, bytes]]:
        for key, number in shard_numbers(spec, shard):
            kinds, plan = row_kinds(spec, number), row_picture(spec, number)
            uid = row_uid(spec, number)[0]
            picture = b"" if kinds.missing else picture_bytes(spec, plan)
            row = _MetadataRow(
                uid=uid,
                url=_url(uid),
                text=row_caption(spec, number).text,
                original_width=plan.original[0],
                original_height=plan.original[1],
                face_bboxes=_face_boxes(spec, number, plan.scene),
                # a rotted link's picture is never painted: its hash is a stand-in
                sha256=hashlib.sha256(picture or uid.encode()).hexdigest(),
            )
            if number < spec.rows:
                listed.append(row)
            sample = _downloaded(row, key, None if kinds.missing else plan.stored)
            attempted.append(sample)
            if kinds.missing:
                continue
            yield f"{key}.jpg", damaged(spec, number, picture)
            if kinds.broken != "no_json":
                without = "uid" if kinds.broken == "no_uid" else ""
                yield f"{key}.json", _json_bytes({k: v for k, v in vars(sample).items() if k != without})
            if kinds.broken != "no_caption":
                yield f"{key}.txt", row.text.encode()

    size = write_tar(pool / "shards" / f"{name}.tar", members(), mtime_of(spec))
    successes = sum(sample.status == "success" for sample in attempted)
    stats = {
        "count": len(attempted),
        "successes": successes,
        "failed_to_download": len(attempted) - successes,
        "failed_to_resize": 0,
        "status_dict": {"success": successes, "HTTP Error 404: Not Found": len(attempted) - successes},
    }
    write_text(pool / "shards" / f"{name}_stats.json", json.dumps(stats, indent=4) + "\n")
    write_parquet(pool / "shards" / f"{name}.parquet", table_of(_DownloadedRow, attempted))
    write_parquet(pool / "metadata" / f"{name}.parquet", table_of(_MetadataRow, listed), mtime_of(spec))
    return Rendered(rows=len(listed), samples=successes, bytes=size)


def _render_evalset(piece: EvalSetPiece, directory: Path) -> Rendered:
    """EVALSETS/wds_NAME_test."""
    spec = piece.spec
    one_of("render_evalset: task", piece.task, tuple(TASKS))
    task = TASKS[piece.task]
    home = directory / "evalsets" / task.directory
    count = task_size(spec, task)

    def members(begin: int, end: int) -> Iterator[tuple[str, bytes]]:
        for index in range(begin, end):
            sample = eval_sample(spec, task.key, index)
            if task.classes and task.kind != "fairness_multilabel":
                yield f"{sample.key}.cls", str(sample.label).encode()
            if sample.metadata:
                yield f"{sample.key}.npy", array_bytes(np.array(sample.metadata, np.int64))
            if sample.captions:
                yield f"{sample.key}.txt", "\n".join(" ".join(text.split()) for text in sample.captions).encode()
            yield f"{sample.key}.{task.extension}", eval_bytes(spec, task.key, index)

    shards = -(-count // EVALSET_SHARD_ROWS)
    size = 0
    for shard in range(shards):
        begin = shard * EVALSET_SHARD_ROWS
        end = min(count, begin + EVALSET_SHARD_ROWS)
        size += write_tar(home / "test" / f"{shard}.tar", members(begin, end), mtime_of(spec))
    write_text(home / "test" / "nshards.txt", str(shards))
    if task.classes:
        write_text(home / "classnames.txt", "\n".join(task.classes) + "\n")
        write_text(home / "zeroshot_classification_templates.txt", "\n".join(task.templates) + "\n")
    if task.kind in ("retrieval", "association"):
        write_text(home / "dataset_type.txt", task.kind)
    if task.kind == "association":
        write_text(home / "riddles.json", json.dumps([vars(riddle) for riddle in riddles(spec)], indent=1) + "\n")
    return Rendered(pictures=count, bytes=size)


def _finish_world(piece: TruthPiece, directory: Path) -> Rendered:
    """truth.parquet, evalsets/tasks.json and world.json."""
    table = truth_table(piece.spec)
    write_parquet(directory / "truth.parquet", table)
    write_text(directory / "evalsets" / "tasks.json", task_table(piece.spec))
    write_text(directory / "world.json", json.dumps(piece.spec.to_json(), indent=1) + "\n")
    return Rendered(rows=table.num_rows)


def _render_teacher_shard(piece: TeacherPiece, directory: Path) -> Rendered:
    """One shard of clean English pairs outside the pool."""
    spec, shard = piece.spec, piece.shard
    begin = shard * TEACHER_SHARD_ROWS
    end = min(spec.teacher_pairs, begin + TEACHER_SHARD_ROWS)
    if not 0 <= begin < end:
        raise ValueError(
            f"render_teacher_shard: no shard {shard} of {spec.teacher_pairs} pairs; choose one of plan_teacher"
        )

    def members() -> Iterator[tuple[str, bytes]]:
        for number in range(begin, end):
            stream = Stream(spec.seed, "teacher", number)
            scene = draw_scene(stream)
            longer = stream.integer(spec.min_side, spec.max_side)
            width, height = longer, round(longer / stream.pick((1.0, 1.25, 4 / 3, 1.5)))
            data = encode_picture(paint_scene(scene, (width, height)), "jpg", 90)
            text, key = english_caption(scene, stream), f"{shard:08d}{number - begin:04d}"
            pair = {
                "uid": hex_id(spec.seed, "teacher", number),
                "caption": text,
                "key": key,
                "status": "success",
                "width": width,
                "height": height,
                "original_width": width,
                "original_height": height,
                "sha256": hashlib.sha256(data).hexdigest(),
            }
            yield f"{key}.jpg", data
            yield f"{key}.json", _json_bytes(pair)
            yield f"{key}.txt", text.encode()

    path = directory / "teacher" / "shards" / f"{shard:08d}.tar"
    size = write_tar(path, members())
    write_text(path.with_name(f"{shard:08d}_stats.json"), json.dumps({"count": end - begin, "successes": end - begin}))
    return Rendered(samples=end - begin, bytes=size)


def render_piece(piece: WorldPiece | TeacherPiece, directory: str | Path) -> Rendered:
    """Writes what a piece of ``plan_world`` or ``plan_teacher`` holds, below the world's directory."""
    folder = Path(directory)
    match piece:
        case PoolPiece():
            return _render_pool_shard(piece, folder)
        case EvalSetPiece():
            return _render_evalset(piece, folder)
        case TruthPiece():
            return _finish_world(piece, folder)
        case TeacherPiece():
            return _render_teacher_shard(piece, folder)


def _render_all(
    pieces: Sequence[WorldPiece | TeacherPiece], directory: str | Path, workers: int
) -> dict[str, Rendered]:
    if workers < 1:
        raise ValueError(f"workers must be at least 1; got {workers}")
    render, names = partial(render_piece, directory=directory), [piece.name for piece in pieces]
    if workers == 1 or not pieces:
        return dict(zip(names, map(render, pieces), strict=True))
    # spawned, not forked: the caller may have threads
    context, count = multiprocessing.get_context("spawn"), min(workers, len(pieces))
    with ProcessPoolExecutor(count, mp_context=context, initializer=start_worker, initargs=(os.getpid(),)) as pool:
        with spawning():
            results = pool.map(render, pieces)
        return dict(zip(names, results, strict=True))


@takes_old_names(Renamed("directory", "out"))
def render_world(out: str | Path, spec: WorldSpec | None = None, *, workers: int = 2) -> dict[str, Rendered]:
    """Renders a whole world: pool/, evalsets/, truth.parquet, world.json, in the directory ``out``.

    teacher/ is left to render_teacher. Returns each piece's counts. With more than one worker, processes are spawned:
    a script that calls this needs the usual ``if __name__ == "__main__"``.

    Default spec: 45 seconds of processor time, 125 MB of disk.
    Raises ValueError: workers below 1.   OSError: a file cannot be written.
    Example: ``render_world("world", WorldSpec.small(rows=20, eval_scale=0.01), workers=1)``
    """
    return _render_all(plan_world(spec or WorldSpec()), out, workers)


@takes_old_names(Renamed("directory", "out"))
def render_teacher(out: str | Path, spec: WorldSpec | None = None, *, workers: int = 2) -> dict[str, Rendered]:
    """Renders the teacher's clean pairs into OUT/teacher/shards; returns each piece's counts.

    Raises as ``render_world``.
    Example: ``render_teacher("world", WorldSpec.small(teacher_pairs=10), workers=1)``
    """
    return _render_all(plan_teacher(spec or WorldSpec()), out, workers)
