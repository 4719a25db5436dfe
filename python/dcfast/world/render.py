"""The world as pieces of work: each an importable function of JSON arguments that writes whole files.

Pieces read no file that another piece wrote: leaks and duplicates are painted again from their seeds, so that any
piece can run alone, in any process and order, and yields the same bytes.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from dcfast.process.signals import spawning, start_worker
from dcfast.storage.npz import array_bytes
from dcfast.world.captions import english_caption
from dcfast.world.evalsets import eval_bytes, eval_sample, riddles
from dcfast.world.files import mtime_of, write_parquet, write_tar, write_text
from dcfast.world.paint import encode_picture, paint_scene
from dcfast.world.plan import EVALSET_SHARD_ROWS, TEACHER_SHARD_ROWS, Piece, plan_teacher, plan_world
from dcfast.world.samples import damaged, picture_bytes, row_caption, row_kinds, row_picture, row_uid
from dcfast.world.scene import Scene, draw_scene
from dcfast.world.spec import WorldSpec
from dcfast.world.streams import Stream, hex_id
from dcfast.world.tasks import TASKS, task_size, task_table
from dcfast.world.truth import shard_numbers, truth_table

__all__ = [
    "finish_world",
    "render_evalset",
    "render_pool_shard",
    "render_teacher",
    "render_teacher_shard",
    "render_world",
]


def _dumps(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode()


def _url(uid: str) -> str:
    hosts = ("images", "cdn", "static", "photos", "media")
    return f"https://{hosts[int(uid[0], 16) % 5]}.world.example/{uid[:2]}/{uid[2:14]}.jpg"


def _face_boxes(spec: WorldSpec, number: int, scene: Scene | None) -> list[list[float]]:
    """A detector's false alarm around the main thing, for a few pictures: there are no faces in this world."""
    if scene is None or not row_kinds(spec, number).face_box:
        return []
    x, y, size, _ = scene.main.spots[0]
    half = size / 2
    box = (x - half, y - half, x + half, y + half)
    return [[round(min(1.0, max(0.0, value)), 4) for value in box]]


def _downloaded(row: dict[str, Any], key: str, stored: tuple[int, int] | None) -> dict[str, Any]:
    """What img2dataset writes of a row that it tried to download; ``stored``: the size of the picture, None: none."""
    found = stored is not None
    width, height = stored or (None, None)
    return {
        "uid": row["uid"],
        "url": row["url"],
        "caption": row["text"],
        "key": key,
        "status": "success" if found else "failed_to_download",
        "error_message": None if found else "HTTP Error 404: Not Found",
        "width": width,
        "height": height,
        "original_width": row["original_width"] if found else None,
        "original_height": row["original_height"] if found else None,
        "exif": "{}" if found else None,
        "sha256": row["sha256"] if found else None,
        "face_bboxes": row["face_bboxes"],
    }


def _schemas() -> tuple[Any, Any]:
    """Of the parquet beside a shard, and of the metadata."""
    import pyarrow as pa

    whole_number, boxes_type = pa.int64(), pa.list_(pa.list_(pa.float64()))
    text_type = pa.string()
    downloads = pa.schema(
        [(field, text_type) for field in ("uid", "url", "caption", "key", "status", "error_message")]
        + [(field, whole_number) for field in ("width", "height", "original_width", "original_height")]
        + [("exif", text_type), ("sha256", text_type), ("face_bboxes", boxes_type)]
    )
    metadata = pa.schema(
        [(field, text_type) for field in ("uid", "url", "text")]
        + [(field, whole_number) for field in ("original_width", "original_height")]
        + [("face_bboxes", boxes_type), ("sha256", text_type)]
    )
    return downloads, metadata


def render_pool_shard(args: dict[str, Any]) -> dict[str, Any]:
    """Writes one pool shard: POOL/shards/N.tar, its stats and parquet, and POOL/metadata/N.parquet.

    Args: ``directory`` of the world, ``spec`` as JSON, ``shard`` number. Returns counts and bytes.
    """
    import pyarrow as pa

    spec, shard = WorldSpec.from_json(args["spec"]), int(args["shard"])
    if not 0 <= shard < spec.num_shards:
        raise ValueError(f"render_pool_shard: shard must be 0 to {spec.num_shards - 1}; got {shard}")
    pool, name = Path(args["directory"]) / "pool", f"{shard:08d}"
    listed: list[dict[str, Any]] = []
    attempted: list[dict[str, Any]] = []

    def members() -> Iterator[tuple[str, bytes]]:
        for key, number in shard_numbers(spec, shard):
            kinds, plan = row_kinds(spec, number), row_picture(spec, number)
            uid, text = row_uid(spec, number)[0], row_caption(spec, number).text
            boxes = _face_boxes(spec, number, plan.scene)
            whole = b"" if kinds.missing else picture_bytes(spec, plan)
            # a rotted link's picture is never painted: its hash is a stand-in
            sha256 = hashlib.sha256(whole or uid.encode()).hexdigest()
            row = {
                "uid": uid,
                "url": _url(uid),
                "text": text,
                "original_width": plan.original[0],
                "original_height": plan.original[1],
                "face_bboxes": boxes,
                "sha256": sha256,
            }
            if number < spec.rows:
                listed.append(row)
            sample = _downloaded(row, key, None if kinds.missing else plan.stored)
            attempted.append(sample)
            if kinds.missing:
                continue
            yield f"{key}.jpg", damaged(spec, number, whole)
            if kinds.broken != "no_json":
                yield (
                    f"{key}.json",
                    _dumps({k: v for k, v in sample.items() if not (k == "uid" and kinds.broken == "no_uid")}),
                )
            if kinds.broken != "no_caption":
                yield f"{key}.txt", text.encode()

    size = write_tar(pool / "shards" / f"{name}.tar", members(), mtime_of(spec))
    successes = sum(sample["status"] == "success" for sample in attempted)
    stats = {
        "count": len(attempted),
        "successes": successes,
        "failed_to_download": len(attempted) - successes,
        "failed_to_resize": 0,
        "status_dict": {"success": successes, "HTTP Error 404: Not Found": len(attempted) - successes},
    }
    write_text(pool / "shards" / f"{name}_stats.json", json.dumps(stats, indent=4) + "\n")
    downloads, metadata = _schemas()
    write_parquet(pool / "shards" / f"{name}.parquet", pa.Table.from_pylist(attempted, schema=downloads))
    write_parquet(pool / "metadata" / f"{name}.parquet", pa.Table.from_pylist(listed, schema=metadata), mtime_of(spec))
    return {"rows": len(listed), "samples": successes, "bytes": size}


def render_evalset(args: dict[str, Any]) -> dict[str, Any]:
    """Writes one evaluation set: EVALSETS/wds_NAME_test. Args: ``directory``, ``spec``, ``task`` key."""
    spec = WorldSpec.from_json(args["spec"])
    if args["task"] not in TASKS:
        raise ValueError(f"render_evalset: task must be one of {', '.join(TASKS)}; got {args['task']!r}")
    task = TASKS[args["task"]]
    home = Path(args["directory"]) / "evalsets" / task.directory
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
        size += write_tar(
            home / "test" / f"{shard}.tar", members(begin, min(count, begin + EVALSET_SHARD_ROWS)), mtime_of(spec)
        )
    write_text(home / "test" / "nshards.txt", str(shards))
    if task.classes:
        write_text(home / "classnames.txt", "\n".join(task.classes) + "\n")
        write_text(home / "zeroshot_classification_templates.txt", "\n".join(task.templates) + "\n")
    if task.kind in ("retrieval", "association"):
        write_text(home / "dataset_type.txt", task.kind)
    if task.kind == "association":
        write_text(home / "riddles.json", json.dumps(riddles(spec), indent=1) + "\n")
    return {"pictures": count, "bytes": size}


def finish_world(args: dict[str, Any]) -> dict[str, Any]:
    """Writes truth.parquet, evalsets/tasks.json and world.json. Args: ``directory``, ``spec``."""
    spec, directory = WorldSpec.from_json(args["spec"]), Path(args["directory"])
    table = truth_table(spec)
    write_parquet(directory / "truth.parquet", table)
    write_text(directory / "evalsets" / "tasks.json", json.dumps(task_table(spec), indent=1) + "\n")
    write_text(directory / "world.json", json.dumps(spec.to_json(), indent=1) + "\n")
    return {"rows": table.num_rows}


def render_teacher_shard(args: dict[str, Any]) -> dict[str, Any]:
    """Writes one shard of clean English pairs outside the pool. Args: ``directory``, ``spec``, ``shard``."""
    spec, shard = WorldSpec.from_json(args["spec"]), int(args["shard"])
    begin = shard * TEACHER_SHARD_ROWS
    end = min(spec.teacher_pairs, begin + TEACHER_SHARD_ROWS)
    if not 0 <= begin < end:
        raise ValueError(f"render_teacher_shard: no shard {shard} of {spec.teacher_pairs} pairs")

    def members() -> Iterator[tuple[str, bytes]]:
        for number in range(begin, end):
            stream = Stream(spec.seed, "teacher", number)
            scene = draw_scene(stream)
            longer = stream.integer(spec.min_side, spec.max_side)
            size = (longer, round(longer / stream.pick((1.0, 1.25, 4 / 3, 1.5))))
            data = encode_picture(paint_scene(scene, size), "jpg", 90)
            text, key = english_caption(scene, stream), f"{shard:08d}{number - begin:04d}"
            about = {
                "uid": hex_id(spec.seed, "teacher", number),
                "caption": text,
                "key": key,
                "status": "success",
                "width": size[0],
                "height": size[1],
                "original_width": size[0],
                "original_height": size[1],
                "sha256": hashlib.sha256(data).hexdigest(),
            }
            yield f"{key}.jpg", data
            yield f"{key}.json", _dumps(about)
            yield f"{key}.txt", text.encode()

    path = Path(args["directory"]) / "teacher" / "shards" / f"{shard:08d}.tar"
    size = write_tar(path, members())
    write_text(path.with_name(f"{shard:08d}_stats.json"), json.dumps({"count": end - begin, "successes": end - begin}))
    return {"samples": end - begin, "bytes": size}


def _run(piece: Piece) -> tuple[str, dict[str, Any]]:
    name, function, args = piece
    return name, globals()[function.partition(":")[2]](args)


def _run_all(pieces: list[Piece], workers: int) -> dict[str, dict[str, Any]]:
    if workers < 1:
        raise ValueError(f"workers must be at least 1; got {workers}")
    if workers == 1:
        return dict(map(_run, pieces))
    # spawned, not forked: the caller may have threads
    context, count = multiprocessing.get_context("spawn"), min(workers, len(pieces))
    with ProcessPoolExecutor(count, mp_context=context, initializer=start_worker, initargs=(os.getpid(),)) as pool:
        with spawning():
            results = pool.map(_run, pieces)
        return dict(results)


def render_world(directory: str | Path, spec: WorldSpec | None = None, *, workers: int = 2) -> dict[str, Any]:
    """Renders a whole world: pool/, evalsets/, truth.parquet, world.json (teacher/ is left to render_teacher).

    Returns each piece's counts. With more than one worker, processes are spawned: a script that calls this needs
    the usual ``if __name__ == "__main__"``. Default spec: 45 seconds of processor time, 125 MB of disk.
    """
    return _run_all(plan_world(spec or WorldSpec(), directory), workers)


def render_teacher(directory: str | Path, spec: WorldSpec | None = None, *, workers: int = 2) -> dict[str, Any]:
    """Renders the teacher's clean pairs into DIRECTORY/teacher/shards; returns each piece's counts."""
    pieces = plan_teacher(spec or WorldSpec(), directory)
    return _run_all(pieces, workers) if pieces else {}
