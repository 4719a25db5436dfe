"""Stage features on pools with all that goes wrong, against one pair at a time through open_clip's own calls."""

from __future__ import annotations

import io
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from dcfast.errors import CheckpointError, CorruptDataError, PoolError
from dcfast.features import metadata
from dcfast.images import costs, decode
from dcfast.index import pool as pool_module
from dcfast.run.workflow import run
from dcfast.rundir.settings import Settings
from dcfast.uids.sets import open_records
from features_reference import MODEL, clip, embed_one, pool_samples, save_checkpoint
from pool_builder import PoolBuilder, Sample, picture, uid_of

SCORE = "clip_l14_similarity_score"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_checkpoint(tmp_path_factory.mktemp("model") / "clip.safetensors")


def encoded(mode: str, fmt: str) -> bytes:
    from PIL import Image

    buffer = io.BytesIO()
    with Image.open(io.BytesIO(picture(77))) as image:
        image.convert(mode).save(buffer, fmt)
    return buffer.getvalue()


def odd_pool(root: Path) -> PoolBuilder:
    first = [Sample(n) for n in range(33)]  # more than one chunk of the reader
    second = [
        Sample(100, jpg=picture(100)[:300]),
        Sample(101, jpg=b""),
        Sample(102, jpg=b"<html>not found</html>"),
        Sample(103, without=("jpg",)),
        Sample(104, without=("txt",)),
        Sample(105, txt=b"\xff\xfe not UTF-8 \xc3"),
        Sample(106, txt=b""),
        Sample(107, listed=False),
        Sample(108, jpg=encoded("L", "JPEG")),
        Sample(109, jpg=encoded("CMYK", "JPEG")),
        Sample(110, jpg=encoded("RGBA", "PNG")),
        Sample(111, jpg=encoded("P", "GIF")),
        Sample(112, caption="ein Hund, 犬, " + "🐕" * 3000),
    ]
    # one uid three times: only the last has a picture that decodes
    third = [
        Sample(200, jpg=b"broken", uid=uid_of(999)),
        Sample(201, without=("jpg",), uid=uid_of(999), listed=False),
        Sample(202, uid=uid_of(999), listed=False),
    ]
    return PoolBuilder(root, [first, second, [], third], missing=[5000, 5001])


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory, checkpoint: Path) -> tuple[Path, Path, dict[str, Any]]:
    root = tmp_path_factory.mktemp("odd")
    pool = odd_pool(root / "pool").write()
    settings = Settings(pool=str(pool), features={"l14": f"{MODEL}:{checkpoint}"}, train=False)
    summary = run(root / "run", settings, last="features", workers=1)["features"]
    return pool, root / "run", summary


def test_every_row_equals_one_pair_at_a_time(odd: tuple[Path, Path, dict[str, Any]], checkpoint: Path) -> None:
    pool, out, _ = odd
    model = clip(str(checkpoint))
    samples = pool_samples(pool)
    seen = 0
    for file in sorted((pool / "metadata").glob("*.parquet")):
        made = out / "features/metadata" / file.name
        before, after = pq.read_table(file), pq.read_table(made)
        assert after.drop_columns([SCORE]).equals(before)
        assert after.schema.field(SCORE).type == pa.float32()
        with np.load(made.with_suffix(".npz"), allow_pickle=False) as arrays:
            image, text = arrays["l14_img"], arrays["l14_txt"]
        assert image.dtype == text.dtype == np.float16
        assert image.shape == text.shape == (before.num_rows, model.embed_dim)
        for row, (uid, score) in enumerate(zip(after["uid"].to_pylist(), after[SCORE].to_pylist(), strict=True)):
            members = samples.get(uid, {})
            if uid == uid_of(999):
                members = {"jpg": picture(202), "txt": Sample(202).caption.encode()}
            caption = members["txt"].decode("utf-8", "replace")[:2048] if "txt" in members else None
            one = embed_one(model, members.get("jpg"), caption)
            assert (score is None) == np.isnan(one[2])
            if score is not None:
                assert score == pytest.approx(one[2], abs=2e-5)
            np.testing.assert_allclose(image[row], one[0], atol=2e-3)
            if "jpg" in members:
                np.testing.assert_allclose(text[row], one[1], atol=2e-3)
            seen += 1
    assert seen == 33 + 2 + 12 + 1


def test_summary_counts_every_sample(odd: tuple[Path, Path, dict[str, Any]]) -> None:
    _, out, summary = odd
    assert summary.samples == 33 + 13 + 3
    assert summary.status == {"ok": 33 + 8 + 1, "does not decode": 4, "no picture": 2, "no caption": 1}
    assert summary.rows == 48
    assert summary.rows_found == 46
    assert summary.scored == {SCORE: 33 + 7 + 1}
    assert summary.models[0].prefixes == ["l14"]
    assert len(summary.models[0].content_hash) == 64
    assert not any(p.name.startswith(".tmp-") for p in (out / "features").rglob("*"))


def tree(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()}


@pytest.mark.parametrize("group", [1, 4, 5, 6, 7])
def test_row_groups_of_any_size_give_the_same_columns(
    odd: tuple[Path, Path, dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, group: int
) -> None:
    """Parquet's reader ends a batch of text or lists with its row group: rows must not slip against the scores."""
    pool, out, _ = odd
    monkeypatch.setattr(metadata, "BATCH_ROWS", 5)
    columns = metadata.SegmentColumns(out, [first for first, _ in pool_module.Pool.open(pool).segments()])
    for file in sorted((pool / "metadata").glob("*.parquet")):
        expected = out / "features/metadata" / file.name
        key = next((out / "features/segments").glob("*-img.npy")).name.split("-")[1]
        model = metadata.Filled(key, ["l14"], clip(None).embed_dim)
        cut, made = tmp_path / file.name, tmp_path / "made" / file.name
        made.parent.mkdir(exist_ok=True)
        pq.write_table(pq.read_table(file), cut, row_group_size=group)
        records = open_records(out / "index/pool.npy")
        metadata.write_features(cut, made, columns, records, [model])
        assert pq.read_table(made).equals(pq.read_table(expected))
        assert made.with_suffix(".npz").read_bytes() == expected.with_suffix(".npz").read_bytes()


@pytest.mark.long
def test_two_workers_write_the_same_bytes(
    odd: tuple[Path, Path, dict[str, Any]], tmp_path: Path, checkpoint: Path
) -> None:
    pool, out, summary = odd
    settings = Settings(pool=str(pool), features={"l14": f"{MODEL}:{checkpoint}"}, train=False)
    assert run(tmp_path / "run", settings, last="features", workers=2)["features"] == summary
    assert tree(tmp_path / "run/features") == tree(out / "features")


def test_only_what_changed_is_done_again(tmp_path: Path, checkpoint: Path) -> None:
    builder = PoolBuilder(tmp_path / "pool", [[Sample(1), Sample(2)], [Sample(3)]])
    pool = builder.write()
    model = shutil.copy(checkpoint, tmp_path / "model.safetensors")
    settings = Settings(pool=str(pool), features={"b32": f"{MODEL}:{model}"}, train=False)
    run(tmp_path / "run", settings, last="features")
    place = tmp_path / "run/features"
    times = {p: p.stat().st_mtime_ns for p in place.rglob("*") if p.is_file()}
    run(tmp_path / "run", settings, last="features")
    assert {p: p.stat().st_mtime_ns for p in times} == times

    (place / "segments/00001-b32-img.npy").unlink()  # as if killed before it was there
    run(tmp_path / "run", settings, last="features")
    redone = {p.name for p, when in times.items() if p.stat().st_mtime_ns != when}
    assert {n for n in redone if n.startswith("0000") and "-b32-" in n} == {
        f"00001-b32-{what}.npy" for what in ("img", "txt", "score")
    }

    save_checkpoint(Path(model), seed=6)  # another model: everything
    before = pq.read_table(place / "metadata/00000000.parquet")
    run(tmp_path / "run", settings, last="features")
    after = pq.read_table(place / "metadata/00000000.parquet")
    assert not after["clip_b32_similarity_score"].equals(before["clip_b32_similarity_score"])


def test_segments_of_several_shards_and_a_cut_one(
    tmp_path: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool_module, "MAX_SEGMENTS", 2)
    pool = PoolBuilder(tmp_path / "pool", [[Sample(10 * s + n) for n in range(3)] for s in range(5)]).write()
    last = pool / "shards/00000004.tar"
    last.write_bytes(last.read_bytes()[:9000])  # ends within the second sample or the third
    settings = Settings(pool=str(pool), features={"l14": f"{MODEL}:{checkpoint}"}, train=False)
    summary = run(tmp_path / "run", settings, last="features")["features"]
    assert len(list((tmp_path / "run/features/segments").glob("*-status.npy"))) == 2
    assert summary.samples - summary.rows_found in (0, 1)  # a cut sample may have lost its uid
    model, found = clip(str(checkpoint)), 0
    for file in sorted((tmp_path / "run/features/metadata").glob("*.parquet")):
        table = pq.read_table(file)
        with np.load(file.with_suffix(".npz")) as arrays:
            image = arrays["l14_img"]
        for row, uid in enumerate(table["uid"].to_pylist()):
            number = next(n for n in range(50) if uid_of(n) == uid)
            if table[SCORE][row].as_py() is None:
                assert number > 40
                continue
            found += 1
            one = embed_one(model, picture(number), Sample(number).caption)
            np.testing.assert_allclose(image[row], one[0], atol=2e-3)
            assert table[SCORE][row].as_py() == pytest.approx(one[2], abs=2e-5)
    assert found in (13, 14)


def test_huge_and_thin_pictures_are_too_large(
    tmp_path: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from PIL import Image

    buffer = io.BytesIO()
    Image.new("RGB", (60_000, 1)).save(buffer, "PNG")  # at a height of 64 pixels: 3,840,000 x 64
    samples = [
        Sample(1, jpg=buffer.getvalue()),
        Sample(2, jpg=picture(2, (90, 60))),
        Sample(3, jpg=picture(3, (120, 60))),
        Sample(4, jpg=picture(4, (60, 60)) + b"\0" * 20_000),
    ]
    monkeypatch.setattr(costs, "MAX_PIXELS", 60_000)
    monkeypatch.setattr(costs, "MAX_BYTES", 20_000)
    pool = PoolBuilder(tmp_path / "pool", [samples]).write()
    settings = Settings(pool=str(pool), features={"l14": f"{MODEL}:{checkpoint}"}, train=False)
    summary = run(tmp_path / "run", settings, last="features")["features"]
    assert summary.status == {"ok": 2, "too large": 2}
    monkeypatch.setattr(costs, "MAX_PIXELS", 120 * 60 - 1)
    with pytest.raises(decode.BadImage, match="more than 7,199 pixels"):
        decode.load_image(samples[2].jpg or b"")
    assert decode.load_image(samples[1].jpg or b"").size == (90, 60)


def test_the_pools_columns_and_arrays_stay_unless_asked_for(tmp_path: Path, checkpoint: Path) -> None:
    def columns(rows: list[dict[str, Any]]) -> dict[str, list[Any]]:
        return {
            "clip_b32_similarity_score": [0.25] * len(rows),
            SCORE: [0.5] * len(rows),
        }

    pool = PoolBuilder(tmp_path / "pool", [[Sample(1), Sample(2)]]).write(columns)
    given = {name: np.full((2, 4), i, np.float16) for i, name in enumerate(("b32_img", "l14_img", "dedup"))}
    np.savez(pool / "metadata/00000000.npz", **given)
    settings = Settings(pool=str(pool), features={"l14": f"{MODEL}:{checkpoint}"}, train=False)
    run(tmp_path / "run", settings, last="features")
    made = tmp_path / "run/features/metadata/00000000.parquet"
    table = pq.read_table(made)
    assert table["clip_b32_similarity_score"].to_pylist() == [0.25, 0.25]
    assert 0.5 not in table[SCORE].to_pylist()
    with np.load(made.with_suffix(".npz")) as arrays:
        assert sorted(arrays) == ["b32_img", "dedup", "l14_img", "l14_txt"]
        np.testing.assert_array_equal(arrays["b32_img"], given["b32_img"])
        assert arrays["l14_img"].shape == (2, clip(str(checkpoint)).embed_dim)

    np.savez(pool / "metadata/00000000.npz", b32_img=np.zeros((3, 4), np.float16))
    with pytest.raises(PoolError, match=r"b32_img has shape \(3, 4\), but 00000000.parquet has 2 rows"):
        run(tmp_path / "run", settings, last="features")


def test_one_model_for_both_prefixes_is_run_once(tmp_path: Path, checkpoint: Path) -> None:
    pool = PoolBuilder(tmp_path / "pool", [[Sample(1), Sample(2)]]).write()
    spec = f"{MODEL}:{checkpoint}"
    run(tmp_path / "run", Settings(pool=str(pool), features={"l14": spec, "b32": spec}, train=False), last="features")
    assert not list((tmp_path / "run/features/segments").glob("*l14*"))
    table = pq.read_table(tmp_path / "run/features/metadata/00000000.parquet")
    assert table["clip_b32_similarity_score"].equals(table[SCORE])
    with np.load(tmp_path / "run/features/metadata/00000000.npz") as arrays:
        np.testing.assert_array_equal(arrays["b32_img"], arrays["l14_img"])


def test_a_score_filter_reads_the_made_columns(tmp_path: Path, checkpoint: Path) -> None:
    bad = [Sample(50, jpg=picture(50)[:300]), Sample(51, without=("jpg",))]
    pool = PoolBuilder(tmp_path / "pool", [[Sample(n) for n in range(9)], bad], missing=[900]).write()
    settings = Settings(
        scale="small",  # pictures are not decoded for their own sake
        pool=str(pool),
        features={"l14": f"{MODEL}:{checkpoint}"},
        filter="clip_score(l14, fraction=0.5)",
        train=False,
        device="cpu",
    )
    summary = run(tmp_path / "run", settings, last="filter")["filter"]
    tables = [pq.read_table(p) for p in sorted((tmp_path / "run/features/metadata").glob("*.parquet"))]
    scores = np.concatenate([t[SCORE].to_numpy() for t in tables])
    uids = np.concatenate([t["uid"].to_numpy() for t in tables])
    threshold = -np.sort(-scores)[int(len(scores) * 0.5)]
    fates = pq.read_table(tmp_path / "run/fates.parquet").to_pylist()
    assert {f["uid"] for f in fates if f["fate"] == "kept"} == set(uids[scores >= threshold])
    assert {f["uid"]: f["reason"] for f in fates if f["fate"] == "quarantined"} == {
        uid_of(50): "picture: does not decode",
        uid_of(51): "no picture",
    }
    assert summary.fates["kept"] == 7


@pytest.mark.parametrize(
    ("features", "error", "words"),
    [
        ({"l14": "dcfast-tinny:x.pt"}, ValueError, "did you mean 'dcfast-tiny'"),
        ({"b32": "ViT-B-32:opneai"}, ValueError, "did you mean 'openai'"),
        ({"l14": "dcfast-tiny"}, ValueError, "must be NAME:PRETRAINED"),
        ({"l14": "dcfast-tiny:"}, ValueError, "must be NAME:PRETRAINED"),
        ({"l15": "teacher"}, ValueError, "did you mean 'l14'"),
    ],
)
def test_bad_models_are_named(tmp_path: Path, features: dict[str, str], error: type[Exception], words: str) -> None:
    pool = PoolBuilder(tmp_path / "pool", [[Sample(1)]]).write()
    with pytest.raises(error, match=words):
        run(tmp_path / "run", Settings(pool=str(pool), features=features, train=False), last="features")
    assert not (tmp_path / "run/index").exists()


def test_a_checkpoint_of_another_model_or_cut_off(tmp_path: Path, checkpoint: Path) -> None:
    pool = PoolBuilder(tmp_path / "pool", [[Sample(1)]]).write()
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(checkpoint.read_bytes()[:5000])
    with pytest.raises(CorruptDataError, match=r"cut\.safetensors"):
        run(tmp_path / "a", Settings(pool=str(pool), features={"l14": f"{MODEL}:{cut}"}, train=False), last="features")
    import torch

    other = tmp_path / "other.pt"
    torch.save({"state_dict": {"logit_scale": torch.zeros(())}}, other)
    with pytest.raises(CheckpointError, match="another architecture than dcfast-tiny"):
        run(
            tmp_path / "b", Settings(pool=str(pool), features={"l14": f"{MODEL}:{other}"}, train=False), last="features"
        )


def test_a_shard_that_changed_is_named(tmp_path: Path, checkpoint: Path) -> None:
    pool = PoolBuilder(tmp_path / "pool", [[Sample(1)], [Sample(2)]]).write()
    settings = Settings(pool=str(pool), features={"l14": f"{MODEL}:{checkpoint}"}, train=False)
    run(tmp_path / "run", settings, last="signatures")
    os.utime(pool / "shards/00000001.tar", ns=(0, 0))
    with pytest.raises(PoolError, match=r"00000001.tar of .* has changed since it was indexed"):
        run(tmp_path / "run", settings, first="features", last="features")
