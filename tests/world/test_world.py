"""The built-in world: layout, truth, evaluation sets, determinism."""

from __future__ import annotations

import hashlib
import io
import json
import os
import tarfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from dcfast.images.perceptual import perceptual_hash
from dcfast.storage.records import as_record, plain
from dcfast.world import WorldSpec, plan_teacher, plan_world, render_teacher, render_world
from dcfast.world.evalsets import eval_bytes
from dcfast.world.files import mtime_of
from dcfast.world.plan import EvalSetPiece, PoolPiece, TeacherPiece, TruthPiece
from dcfast.world.render import render_piece
from dcfast.world.tasks import TASKS, task_size, task_table
from dcfast.world.truth import truth_table
from PIL import Image

# defects frequent enough that a world of 300 rows has every one of them
DENSE = WorldSpec.small(
    seed=5,
    truncated=0.02,
    empty=0.02,
    garbage=0.02,
    no_json=0.02,
    no_caption=0.02,
    no_uid=0.02,
    cmyk=0.02,
    turned=0.02,
    flat=0.02,
    leak_exact=0.04,
    leak_near=0.06,
    unlisted=0.03,
    repeated_uid=0.02,
    face_box=0.1,
)


def _members(path: Path) -> dict[str, bytes]:
    with tarfile.open(path) as archive:
        return {m.name: archive.extractfile(m).read() for m in archive}  # type: ignore[union-attr]


def _tree(root: Path) -> dict[str, tuple[str, int]]:
    return {
        str(path.relative_to(root)): (hashlib.sha256(path.read_bytes()).hexdigest(), path.stat().st_mtime_ns)
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("a world")
    render_world(root, DENSE, workers=1)
    return root


@pytest.fixture(scope="module")
def truth(world: Path) -> list[dict[str, Any]]:
    return pq.read_table(world / "truth.parquet").to_pylist()


@pytest.fixture(scope="module")
def samples(world: Path) -> dict[str, dict[str, bytes]]:
    found: dict[str, dict[str, bytes]] = {}
    for path in sorted((world / "pool" / "shards").glob("*.tar")):
        for name, data in _members(path).items():
            key, _, extension = name.partition(".")
            found.setdefault(key, {})[extension] = data
    return found


# --- the pool's files -----------------------------------------------------------------------------------


def test_pool_layout(world: Path, truth: list[dict[str, Any]], samples: dict[str, dict[str, bytes]]) -> None:
    names = [f"{shard:08d}" for shard in range(3)]
    assert sorted(p.name for p in (world / "pool" / "shards").iterdir()) == sorted(
        name + end for name in names for end in (".tar", ".parquet", "_stats.json")
    )
    assert sorted(p.name for p in (world / "pool" / "metadata").iterdir()) == [name + ".parquet" for name in names]
    metadata = pq.ParquetDataset(world / "pool" / "metadata").read()
    assert metadata.column_names == [
        "uid",
        "url",
        "text",
        "original_width",
        "original_height",
        "face_bboxes",
        "sha256",
    ]
    assert metadata.schema.field("face_bboxes").type == pa.list_(pa.list_(pa.float64()))
    assert metadata.num_rows == 300
    assert metadata["uid"].to_pylist() == [row["uid"] for row in truth if not row["unlisted"]]
    assert all(len(uid) == 32 and set(uid) <= set("0123456789abcdef") for uid in metadata["uid"].to_pylist())
    assert any(metadata["face_bboxes"].to_pylist())
    for name in names:
        stats = json.loads((world / "pool" / "shards" / f"{name}_stats.json").read_text())
        rows = pq.read_table(world / "pool" / "shards" / f"{name}.parquet").to_pylist()
        assert stats["count"] == len(rows)
        assert stats["successes"] == sum(key.startswith(name) for key in samples)
        assert stats["successes"] == sum(row["status"] == "success" for row in rows)


def test_members_of_a_sample_are_adjacent(world: Path) -> None:
    for path in sorted((world / "pool" / "shards").glob("*.tar")):
        with tarfile.open(path) as archive:
            infos = archive.getmembers()
        assert all(info.mtime == 0 and info.isreg() for info in infos)
        keys = [info.name.partition(".")[0] for info in infos]
        changes = [key for i, key in enumerate(keys) if i == 0 or keys[i - 1] != key]
        assert len(changes) == len(set(changes))
        assert path.stat().st_mtime_ns == mtime_of(DENSE) * 10**9


def test_webdataset_reads_the_pool(world: Path, samples: dict[str, dict[str, bytes]]) -> None:
    wds = pytest.importorskip("webdataset")
    paths = [str(p) for p in sorted((world / "pool" / "shards").glob("*.tar"))]
    read = {s["__key__"]: s for s in wds.WebDataset(paths, shardshuffle=False)}
    assert set(read) == set(samples)
    for key, members in samples.items():
        assert {k: v for k, v in read[key].items() if not k.startswith("__")} == members


def test_every_sample_is_what_the_truth_says(
    world: Path, truth: list[dict[str, Any]], samples: dict[str, dict[str, bytes]]
) -> None:
    metadata = pq.ParquetDataset(world / "pool" / "metadata").read().to_pylist()
    broken = Counter()
    assert len({row["key"] for row in truth}) == len(truth)
    assert set(samples) == {row["key"] for row in truth if not row["missing"]}
    for row in truth:
        listed = None if row["row"] is None else metadata[row["row"]]
        assert (listed is None) == row["unlisted"]
        if listed is not None:
            assert row["small"] == (min(listed["original_width"], listed["original_height"]) < 200)
        if row["missing"]:
            continue
        sample, kind = samples[row["key"]], row["broken"]
        broken[kind] += 1
        assert set(sample) == {"jpg", "json", "txt"} - {"no_json": {"json"}, "no_caption": {"txt"}}.get(kind, set())
        about = json.loads(sample.get("json", b"{}"))
        if kind not in ("no_json", "no_uid"):
            assert about["uid"] == row["uid"]
        assert ("uid" in about) == (kind not in ("no_json", "no_uid"))
        text = sample["txt"].decode() if "txt" in sample else about["caption"]
        if about:
            assert about["caption"] == text
            assert about["key"] == row["key"]
        if listed is not None:
            assert listed["text"] == text
        if kind == "empty":
            assert sample["jpg"] == b""
        if kind in ("truncated", "empty", "garbage"):
            with pytest.raises(OSError, match=r"truncated|identify"), Image.open(io.BytesIO(sample["jpg"])) as picture:
                picture.load()
            assert hashlib.sha256(sample["jpg"]).hexdigest() != about["sha256"]
            continue
        with Image.open(io.BytesIO(sample["jpg"])) as picture:
            picture.load()
            assert picture.format == "JPEG"
            assert (picture.mode == "CMYK") == (row["odd"] == "cmyk")
            assert (picture.getexif().get(0x0112) == 6) == (row["odd"] == "turned")
            if about and row["odd"] != "turned":
                assert picture.size == (about["width"], about["height"])
            if row["flat"]:
                assert np.asarray(picture.convert("L")).std() < 2
        if about:
            assert hashlib.sha256(sample["jpg"]).hexdigest() == about["sha256"]
    assert set(broken) == {"", "truncated", "empty", "garbage", "no_json", "no_caption", "no_uid"}
    assert {row["odd"] for row in truth} == {"", "cmyk", "turned"}
    assert sum(row["flat"] for row in truth) > 0


def test_copies_and_leaks(world: Path, truth: list[dict[str, Any]], samples: dict[str, dict[str, bytes]]) -> None:
    own = {row["uid"]: row["key"] for row in truth if not row["repeated_uid"]}
    pictures: dict[tuple[str, str], bytes] = {}
    for directory in (world / "evalsets").glob("wds_*_test"):
        for path in (directory / "test").glob("*.tar"):
            for name, data in _members(path).items():
                if name.endswith((".jpg", ".png", ".webp")):
                    pictures[directory.name, name.partition(".")[0]] = data

    def distance(a: bytes, b: bytes) -> int:
        return (perceptual_hash(a).hash ^ perceptual_hash(b).hash).bit_count()

    seen = Counter()
    for row in truth:
        if row["missing"] or row["broken"] in ("truncated", "empty", "garbage"):
            continue
        data = samples[row["key"]]["jpg"]
        if row["exact_duplicate_of"]:
            seen["exact duplicate"] += 1
            assert data == samples[own[row["exact_duplicate_of"]]]["jpg"]
        if row["near_duplicate_of"]:
            seen["near duplicate"] += 1
            base = samples[own[row["near_duplicate_of"]]]["jpg"]
            assert data != base
            assert distance(data, base) <= 10
        if row["leak"]:
            seen["leak " + row["leak"]] += 1
            base = pictures[row["leak_set"], row["leak_key"]]
            assert (data == base) == (row["leak"] == "exact")
            if not row["flat"]:
                assert distance(data, base) <= 8
    assert all(seen[name] > 3 for name in ("exact duplicate", "near duplicate", "leak exact", "leak near"))


def test_repeated_uids_are_those_of_another_row(truth: list[dict[str, Any]]) -> None:
    counts = Counter(row["uid"] for row in truth)
    repeated = [row for row in truth if row["repeated_uid"]]
    assert repeated
    assert sum(count - 1 for count in counts.values()) == len(repeated)


# --- evaluation sets --------------------------------------------------------------------------------------


def test_every_kind_of_the_38_is_there() -> None:
    assert Counter(task.kind for task in TASKS.values()) == {
        "classification": 6,
        "wilds": 3,
        "fairness": 2,
        "fairness_multilabel": 1,
        "retrieval": 1,
        "association": 1,
    }
    assert {task.main_metric for task in TASKS.values()} == {
        "acc1",
        "mean_per_class_recall",
        "mean_recall@1",
        "jaccard_score_10-12",
        "F1-macro_all",
        "acc_worst_region",
        "acc_top5_wg",
        "acc_wg",
        "",
    }
    default = WorldSpec()
    assert all(200 <= task_size(default, task) <= 500 for task in TASKS.values())


@pytest.mark.parametrize("key", list(TASKS))
def test_evaluation_set(world: Path, key: str) -> None:
    task, entry = TASKS[key], {t["key"]: t for t in json.loads(task_table(DENSE))}[key]
    assert entry in json.loads((world / "evalsets" / "tasks.json").read_text())
    home = world / "evalsets" / task.directory
    shards = int((home / "test" / "nshards.txt").read_text())
    assert sorted(p.name for p in (home / "test").glob("*.tar")) == [f"{i}.tar" for i in range(shards)]
    found: dict[str, dict[str, bytes]] = {}
    for i in range(shards):
        for name, data in _members(home / "test" / f"{i}.tar").items():
            found.setdefault(name.partition(".")[0], {})[name.partition(".")[2]] = data
    assert len(found) == entry["size"]
    labels = Counter()
    for sample in found.values():
        with Image.open(io.BytesIO(sample[task.extension])) as picture:
            picture.load()
            assert picture.format == {"jpg": "JPEG", "png": "PNG", "webp": "WEBP"}[task.extension]
        if "cls" in sample:
            labels[int(sample["cls"])] += 1
        if task.groups.columns:
            values = np.load(io.BytesIO(sample["npy"]), allow_pickle=False)
            assert values.shape == (len(task.groups.columns),)
            assert values.dtype == np.int64
            assert 0 <= values[task.groups.columns.index(task.groups.by)] < len(task.groups.names)
            if "y" in task.groups.columns:
                assert values[task.groups.columns.index("y")] == int(sample["cls"])
    if task.kind in ("classification", "wilds", "fairness"):
        classes = (home / "classnames.txt").read_text().splitlines()
        templates = (home / "zeroshot_classification_templates.txt").read_text().splitlines()
        assert set(labels) == set(range(len(classes)))
        assert all("{c}" in template for template in templates)
    elif task.kind == "fairness_multilabel":
        lines = [
            *(home / "classnames.txt").read_text().splitlines(),
            *(home / "zeroshot_classification_templates.txt").read_text().splitlines(),
        ]
        assert {line.partition(":")[0] for line in lines} == {"race", "gender", "age", "toxic"}
    elif task.kind == "retrieval":
        assert (home / "dataset_type.txt").read_text() == "retrieval"
        assert all(len(sample["txt"].decode().split("\n")) == 5 for sample in found.values())
    else:
        assert (home / "dataset_type.txt").read_text() == "association"
        riddles = json.loads((home / "riddles.json").read_text())
        assert {len(riddle["candidates"]) for riddle in riddles} == {5, 6, 10, 12}
        for riddle in riddles:
            assert set(riddle["associations"]) < set(riddle["candidates"]) <= set(found)
            assert len(set(riddle["candidates"])) == len(riddle["candidates"])


def test_the_imbalanced_set_is_imbalanced() -> None:
    from dcfast.world.evalsets import eval_sample

    counts = Counter(eval_sample(WorldSpec(), "world/objects", i).label for i in range(320))
    assert len(counts) == 24
    assert max(counts.values()) > 3 * min(counts.values())


# --- pieces and determinism -------------------------------------------------------------------------------


def test_two_processes_in_another_order_write_the_same_bytes(world: Path, tmp_path: Path) -> None:
    for piece in reversed(plan_world(DENSE)):
        as_json = json.loads(json.dumps(plain(piece)))
        render_piece(as_record(as_json, type(piece), "a piece"), tmp_path / "reversed")
    expected = _tree(world)
    assert _tree(tmp_path / "reversed") == expected
    render_world(tmp_path / "parallel", DENSE, workers=2)
    assert _tree(tmp_path / "parallel") == expected
    assert not list(tmp_path.rglob(".tmp-*"))


def test_one_piece_alone_and_over_old_files(world: Path, tmp_path: Path) -> None:
    for _ in range(2):
        render_piece(PoolPiece(spec=DENSE, shard=1), tmp_path)
        render_piece(EvalSetPiece(spec=DENSE, task="world/slides"), tmp_path)
        render_piece(TruthPiece(spec=DENSE), tmp_path)
    expected = _tree(world)
    got = _tree(tmp_path)
    assert got == {name: expected[name] for name in got}


def test_another_seed_is_another_world() -> None:
    a, b = truth_table(WorldSpec.small(seed=1)), truth_table(WorldSpec.small(seed=2))
    assert not set(a["uid"].to_pylist()) & set(b["uid"].to_pylist())
    assert eval_bytes(WorldSpec(seed=1), "world/shapes", 0) != eval_bytes(WorldSpec(seed=2), "world/shapes", 0)


@pytest.mark.parametrize("rows", [1, 2, 7])
def test_tiny_worlds(tmp_path: Path, rows: int) -> None:
    spec = WorldSpec(rows=rows, rows_per_shard=3, exact_duplicate=0.4, near_duplicate=0.4)
    for shard in range(spec.num_shards):
        render_piece(PoolPiece(spec=spec, shard=shard), tmp_path)
    assert pq.ParquetDataset(tmp_path / "pool" / "metadata").read().num_rows == rows


def test_bad_piece_arguments(tmp_path: Path) -> None:
    spec = WorldSpec.small()
    with pytest.raises(ValueError, match="shard must be 0 to 2; got 3"):
        render_piece(PoolPiece(spec=spec, shard=3), tmp_path)
    with pytest.raises(ValueError, match=r"task must be one of world/shapes.*; got 'cifar10'"):
        render_piece(EvalSetPiece(spec=spec, task="cifar10"), tmp_path)
    with pytest.raises(ValueError, match="no shard 1 of 100 pairs"):
        render_piece(TeacherPiece(spec=spec, shard=1), tmp_path)
    with pytest.raises(ValueError, match="workers must be at least 1; got 0"):
        render_world(tmp_path, WorldSpec.small(), workers=0)
    assert not os.listdir(tmp_path)


def test_teacher_pairs_are_clean_and_outside_the_pool(tmp_path: Path, truth: list[dict[str, Any]]) -> None:
    spec = WorldSpec.small(teacher_pairs=40)
    assert len(plan_teacher(spec)) == 1
    render_teacher(tmp_path, spec, workers=1)
    members = _members(tmp_path / "teacher" / "shards" / "00000000.tar")
    assert len(members) == 120
    uids = {json.loads(data)["uid"] for name, data in members.items() if name.endswith(".json")}
    assert len(uids) == 40
    assert not uids & {row["uid"] for row in truth}
    for name, data in members.items():
        if name.endswith(".jpg"):
            with Image.open(io.BytesIO(data)) as picture:
                picture.load()
    assert render_teacher(tmp_path, WorldSpec.small(teacher_pairs=0)) == {}
