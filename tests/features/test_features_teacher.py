"""The teacher: from the world's clean pairs, or from pairs of a given pool that are then never kept."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from dcfast.errors import RunError, SubsetError
from dcfast.models.clip import load_model
from dcfast.run.workflow import run
from dcfast.rundir.settings import Settings
from dcfast.stages import teacher
from dcfast.storage.hashing import sha256_file
from dcfast.uids.sets import save_subset, uid_parse, uid_sort
from pool_builder import Sample, plain_pool, uid_of

WORLD = {"rows": 120, "rows_per_shard": 60, "eval_scale": 0.05, "teacher_pairs": 40}


@pytest.fixture(autouse=True)
def _short_training(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(
        teacher, "RECIPE", {"samples_seen": 32, "global_batch": 16, "checkpoints": 1, "warmup_steps": 1}
    )
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_the_world_from_its_clean_pairs_to_an_image_based_subset(tmp_path: Path) -> None:
    out = tmp_path / "run"
    text = "image_based_intersect_clip_score(l14, fraction=0.5) & ~contaminated"
    settings = Settings(world=WORLD, filter=text, train=False, device="cpu")
    summaries = run(out, settings, last="filter")
    about = summaries["teacher"]
    assert about.samples == WORLD["teacher_pairs"]
    assert about.samples_seen == 32
    assert about.content_hash == sha256_file(out / "teacher/teacher.safetensors")
    assert not about.held_out
    assert summaries["features"].by_teacher == ["b32", "l14"]
    assert summaries["features"].models[0].content_hash == about.content_hash
    assert load_model("dcfast-tiny", str(out / "teacher/teacher.safetensors")).embed_dim > 0

    # the target is the clean pictures, and both halves of the filter hold of what is kept
    target = np.load(out / "filter/target.npy")
    assert len(target) == WORLD["teacher_pairs"]
    np.testing.assert_allclose(np.linalg.norm(target.astype(np.float32), axis=1), 1, atol=2e-3)
    (clusters,) = summaries["filter"].clusters.values()
    assert clusters.clusters == 1
    kept = {f["uid"] for f in pq.read_table(out / "fates.parquet").to_pylist() if f["fate"] == "kept"}
    limit = float(summaries["filter"].thresholds["clip_l14_similarity_score:0.5"])
    tables = [pq.read_table(p).to_pylist() for p in sorted((out / "features/metadata").glob("*.parquet"))]
    score = {row["uid"]: row["clip_l14_similarity_score"] for table in tables for row in table}
    assert kept
    assert all(score[uid] >= limit for uid in kept)

    # again: nothing is done. The weights lost: the same ones are made again from the finished training
    weights = out / "teacher/teacher.safetensors"
    written = weights.stat().st_mtime_ns
    run(out, settings, last="features")
    assert weights.stat().st_mtime_ns == written
    weights.unlink()
    assert run(out, settings, last="teacher")["teacher"] == about


def test_pairs_of_a_pool_are_held_out(tmp_path: Path) -> None:
    builder = plain_pool(tmp_path / "pool", 40, 2)
    builder.shards[1].append(Sample(77, jpg=b"broken"))
    pool = builder.write()
    trusted = uid_sort(uid_parse([uid_of(n) for n in (*range(0, 40, 2), 77, 8888)])[0])
    save_subset(tmp_path / "trusted.npy", trusted)
    settings = Settings(
        pool=str(pool),
        features={"l14": "teacher"},
        teacher_uids=str(tmp_path / "trusted.npy"),
        filter="no_filter",
        train=False,
        device="cpu",
    )
    summaries = run(tmp_path / "run", settings, last="filter")
    assert summaries["teacher"].held_out
    fates = {f["uid"]: (f["fate"], f["reason"]) for f in pq.read_table(tmp_path / "run/fates.parquet").to_pylist()}
    assert fates[uid_of(4)] == ("dropped", "teacher_pairs")
    assert fates[uid_of(5)] == ("kept", None)
    assert fates[uid_of(77)][0] == "quarantined"
    assert summaries["filter"].fates["kept"] == 20
    scored = pq.read_table(tmp_path / "run/features/metadata/00000000.parquet")["clip_l14_similarity_score"]
    assert scored.null_count == 0

    # other pairs: another training, and the old one is gone
    (first,) = (tmp_path / "run/teacher").glob("training-*")
    save_subset(tmp_path / "trusted.npy", trusted[2:])
    with pytest.raises(RunError, match=r"the uid file .*trusted\.npy holds other uids than it did"):
        run(tmp_path / "run", settings, last="filter")
    again = run(tmp_path / "run", settings, last="filter", overwrite=True)
    assert again["teacher"].content_hash != summaries["teacher"].content_hash
    (second,) = (tmp_path / "run/teacher").glob("training-*")
    assert second != first
    assert json.loads((tmp_path / "run/teacher/teacher.json").read_text())["content_hash"] == (
        again["teacher"].content_hash
    )


def test_a_world_without_clean_pairs_has_no_teacher(tmp_path: Path) -> None:
    small = {"rows": 20, "rows_per_shard": 20, "eval_scale": 0.01, "teacher_pairs": 0}
    with pytest.raises(RunError, match=r"no pairs for a teacher \(teacher_pairs is 0\)"):
        run(tmp_path / "run", Settings(world=small, train=False, device="cpu"), last="teacher")
    assert not (tmp_path / "run").exists()


def test_too_few_trusted_pairs_are_said_before_any_work(tmp_path: Path) -> None:
    pool = plain_pool(tmp_path / "pool", 24, 1).write()
    trusted = tmp_path / "trusted.npy"
    settings = Settings(
        pool=str(pool), features={"l14": "teacher"}, teacher_uids=str(trusted), train=False, device="cpu"
    )
    message = "and the teacher needs at least 16, one batch of its training. Name more trusted pairs of the pool"
    for count in (0, 1, 15):
        save_subset(trusted, uid_sort(uid_parse([uid_of(n) for n in range(count)])[0]))
        with pytest.raises(ValueError, match=f"--teacher-uids {trusted}: {count} pairs, {message}"):
            run(tmp_path / "run", settings, last="teacher")
    assert not (tmp_path / "run/index").exists()
    trusted.write_bytes(b"no subset")
    with pytest.raises(SubsetError, match="subset file"):
        run(tmp_path / "run", settings, last="teacher")
    assert not (tmp_path / "run/index").exists()
    # which of them the pool has, only the index can tell: said before the training
    save_subset(trusted, uid_sort(uid_parse([uid_of(n) for n in range(9, 109)])[0]))
    with pytest.raises(SubsetError, match=f"--teacher-uids {trusted}: 15 of its 100 pairs are in the pool, {message}"):
        run(tmp_path / "run", settings, last="teacher")
    assert not list((tmp_path / "run/teacher").glob("*"))


def test_a_given_pool_is_never_scored_by_a_teacher_unasked(tmp_path: Path) -> None:
    pool = plain_pool(tmp_path / "pool", 4, 1).write()
    with pytest.raises(ValueError, match="need pairs of the pool that it may train on"):
        run(tmp_path / "run", Settings(pool=str(pool), features={"l14": "teacher"}), last="index")
    summary = run(tmp_path / "run", Settings(pool=str(pool), train=False), last="filter")
    assert "features" not in summary
    assert not (tmp_path / "run/features").exists()
