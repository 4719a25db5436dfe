"""image_based through the workflow, against a slow version of DataComp's rule."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from dcfast.errors import CorruptDataError, FilterError, PoolError
from dcfast.run.workflow import run
from dcfast.rundir.layout import UNASKED
from dcfast.rundir.settings import Settings
from dcfast.rundir.summaries import ClusterCounts
from dcfast.similarity.centroids import kmeans
from dcfast.stages.filter import centroids as stage
from pool_builder import plain_pool, uid_of

DIM, COUNT = 8, 30
GOOD = "a photograph of a dog running on a beach"


def unit(rows: np.ndarray) -> np.ndarray:
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float16)


CENTRES = unit(np.random.default_rng(1).normal(size=(4, DIM))).astype(np.float32)
LABELS = np.random.default_rng(2).integers(0, 4, COUNT)
POINTS = unit(CENTRES[LABELS] + np.random.default_rng(3).normal(scale=0.05, size=(COUNT, DIM)))


def embedded_pool(root: Path, points: np.ndarray = POINTS) -> Path:
    """A pool with scores and L/14 image embeddings, as one downloads it."""
    given = iter(range(COUNT))

    def columns(rows: list[dict[str, Any]]) -> dict[str, list[Any]]:
        return {"clip_l14_similarity_score": [next(given) / COUNT for _ in rows]}

    pool = plain_pool(root, COUNT, 3).write(columns)
    for number in range(3):
        np.savez(pool / f"metadata/{number:08d}.npz", l14_img=points[number * 10 : (number + 1) * 10])
    return pool


def kept(out: Path) -> set[str]:
    return {f["uid"] for f in pq.read_table(out / "fates.parquet").to_pylist() if f["fate"] == "kept"}


def save(path: Path, array: np.ndarray) -> str:
    np.save(path, array)
    return str(path)


def settings_of(pool: Path, text: str, **more: Any) -> Settings:
    return Settings(pool=str(pool), filter=text, train=False, device="cpu", **more)


def test_given_centroids_and_target(tmp_path: Path) -> None:
    points = POINTS.copy()
    points[4] = 0  # no embedding
    points[17, 3] = np.nan
    pool = embedded_pool(tmp_path / "pool", points)
    wanted = {1, 3}
    target = unit(np.repeat(CENTRES[[1, 3, 1]], 2, axis=0) + 0.01)
    text = f"image_based(centroids='{save(tmp_path / 'c.npy', CENTRES)}', target='{save(tmp_path / 't.npy', target)}')"
    summary = run(tmp_path / "run", settings_of(pool, text), last="filter")["filter"]
    expected = {
        uid_of(i)
        for i in range(COUNT)
        if i not in (4, 17) and int(np.argmax(points[i].astype(np.float32) @ CENTRES.T)) in wanted
    }
    assert kept(tmp_path / "run") == expected
    assert 0 < len(expected) < COUNT
    (about,) = summary.clusters.values()
    assert about == ClusterCounts(clusters=4, chosen=2, rows_asked=COUNT, rows_inside=len(expected))
    assert summary.reasons == {"image_based: cluster": COUNT - len(expected)}

    both = text.replace("image_based(", "image_based_intersect_clip_score(l14, fraction=0.4, ")
    run(tmp_path / "both", settings_of(pool, both), last="filter")
    assert kept(tmp_path / "both") == expected & {uid_of(i) for i in range(COUNT - int(COUNT * 0.4) - 1, COUNT)}


def test_centroids_of_the_pool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stage, "ROWS_PER_CLUSTER", 5)
    points = POINTS.copy()
    points[[2, 11]] = 0
    pool = embedded_pool(tmp_path / "pool", points)
    text = f"image_based(target='{save(tmp_path / 't.npy', CENTRES[:1])}')"
    summary = run(tmp_path / "run", settings_of(pool, text), last="filter")["filter"]
    usable = np.delete(points, [2, 11], axis=0)
    again = usable.astype(np.float32)
    again = (again / np.linalg.norm(again, axis=1, keepdims=True)).astype(np.float16)
    found = kmeans(again, COUNT // 5, seed=0)
    np.testing.assert_array_equal(np.load(tmp_path / "run/filter/centroids.npy"), found.centroids)
    aim = int(np.argmax(CENTRES[0] @ found.centroids.T))
    assert kept(tmp_path / "run") == {
        uid_of(i)
        for i in range(COUNT)
        if i not in (2, 11) and int(np.argmax(points[i].astype(np.float32) @ found.centroids.T)) == aim
    }
    (about,) = summary.clusters.values()
    assert (about.points, about.clusters, about.iterations) == (28, 6, 20)

    # killed in iteration 7, as its markers tell: the rest is done again and nothing else, to the same bytes
    states = tmp_path / "run/state/filter/kmeans"
    before = {p.name: p.stat().st_mtime_ns for p in states.glob("*.npy")}
    bytes_before = (tmp_path / "run/filter/centroids.npy").read_bytes()
    (tmp_path / "run/state/filter.json").unlink()
    for turn in range(7, 20):
        (states / f"{turn:02d}.npy").unlink()
    run(tmp_path / "run", settings_of(pool, text), last="filter", workers=2)
    after = {p.name: p.stat().st_mtime_ns for p in states.glob("*.npy")}
    assert [n for n in sorted(before) if after[n] != before[n]] == [f"{t:02d}.npy" for t in range(7, 20)]
    assert (tmp_path / "run/filter/centroids.npy").read_bytes() == bytes_before


def test_the_share_that_is_clustered_is_drawn_by_seed_file_and_row(tmp_path: Path) -> None:
    pool = embedded_pool(tmp_path / "pool")
    files = [str(pool / f"metadata/{n:08d}.parquet") for n in range(3)]

    def drawn(first: int, some: list[str], seed: int = 0) -> np.ndarray:
        stats = stage.sample_points(
            tmp_path, files=some, first=first, share=0.4, seed=seed, language_model={}, output="points.npy"
        )
        points = np.load(tmp_path / "points.npy")
        assert points.shape == (stats.points, DIM)
        return points

    together = drawn(0, files)
    assert 0 < len(together) < COUNT
    apart = np.concatenate([drawn(i, [name]) for i, name in enumerate(files)])
    np.testing.assert_array_equal(together, apart)
    assert drawn(0, files, seed=1).tobytes() != together.tobytes()


def captioned_pool(root: Path, foreign: set[int]) -> Path:
    """``embedded_pool`` with captions that are not English."""
    pool = embedded_pool(root)
    for number, path in enumerate(sorted((pool / "metadata").glob("*.parquet"))):
        table = pq.read_table(path)
        rows = range(number * 10, number * 10 + 10)
        texts = ["ein schöner Abend am See mit vielen Booten" if i in foreign else GOOD for i in rows]
        pq.write_table(table.set_column(table.schema.get_field_index("text"), "text", pa.array(texts)), path)
    return pool


def test_rows_that_captions_or_scores_drop_are_not_asked(tmp_path: Path) -> None:
    foreign = {1, 5, 12, 29}
    pool = captioned_pool(tmp_path / "pool", foreign)
    centroids, target = save(tmp_path / "c.npy", CENTRES), save(tmp_path / "t.npy", CENTRES[[0, 2]])
    inside = {i for i in range(COUNT) if int(np.argmax(POINTS[i].astype(np.float32) @ CENTRES.T)) in (0, 2)}
    given = f"centroids='{centroids}', target='{target}'"
    for text, asked in (
        (f"image_based({given})", set(range(COUNT)) - foreign),
        (f"image_based_intersect_clip_score(l14, threshold=0.5, {given})", set(range(15, COUNT)) - foreign),
    ):
        out = tmp_path / f"run{len(asked)}"
        summary = run(out, settings_of(pool, text), last="filter", workers=2)["filter"]
        (about,) = summary.clusters.values()
        assert (about.rows_asked, about.rows_inside) == (len(asked), len(asked & inside))
        assert kept(out) == {uid_of(i) for i in asked & inside}
        known = np.concatenate([np.load(out / f"filter/clusters/0/{n:08d}.npy") for n in range(3)])
        assert known.tolist() == [UNASKED if i not in asked else i in inside for i in range(COUNT)]


def test_a_row_is_asked_about_once_for_two_terms_and_each_set_keeps_its_own(tmp_path: Path) -> None:
    pool = captioned_pool(tmp_path / "pool", {3})
    centroids = save(tmp_path / "c.npy", CENTRES)
    one, two = save(tmp_path / "1.npy", CENTRES[:1]), save(tmp_path / "2.npy", CENTRES[1:2])
    text = " | ".join(
        (
            f"image_based_intersect_clip_score(l14, threshold=0.5, centroids='{centroids}', target='{one}')",
            f"image_based(centroids='{centroids}', target='{one}')",
            f"image_based(centroids='{centroids}', target='{two}')",
        )
    )
    summary = run(tmp_path / "run", settings_of(pool, text), last="filter")["filter"]
    nearest = [int(np.argmax(POINTS[i].astype(np.float32) @ CENTRES.T)) for i in range(COUNT)]
    assert kept(tmp_path / "run") == {uid_of(i) for i in range(COUNT) if nearest[i] in (0, 1) and i != 3}
    first, second = summary.clusters.values()
    assert first.rows_asked == COUNT - 1
    assert second.rows_asked == sum(n != 0 for i, n in enumerate(nearest) if i != 3)


def test_points_of_kmeans_are_rows_that_pass_the_captions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stage, "ROWS_PER_CLUSTER", 6)
    foreign = {0, 7, 8, 21}
    pool = captioned_pool(tmp_path / "pool", foreign)
    text = f"image_based(target='{save(tmp_path / 't.npy', CENTRES[:1])}')"
    summary = run(tmp_path / "run", settings_of(pool, text), last="filter")["filter"]
    (about,) = summary.clusters.values()
    assert (about.points, about.clusters) == (COUNT - 4, COUNT // 6)  # as many clusters as for all rows
    usable = np.delete(POINTS, sorted(foreign), axis=0).astype(np.float32)
    usable = (usable / np.linalg.norm(usable, axis=1, keepdims=True)).astype(np.float16)
    found = kmeans(usable, COUNT // 6, seed=0)
    np.testing.assert_array_equal(np.load(tmp_path / "run/filter/centroids.npy"), found.centroids)


def test_how_many_clusters() -> None:
    assert [stage.num_clusters(n) for n in (1, 127, 128, 12_800, 12_800_000, 12_800_000_000)] == [
        *(1, 1, 1, 100, 100_000, 100_000)
    ]


def test_what_is_missing_is_said_before_any_work(tmp_path: Path) -> None:
    pool = embedded_pool(tmp_path / "pool")
    centroids, target = save(tmp_path / "c.npy", CENTRES), save(tmp_path / "t.npy", CENTRES)

    def refused(text: str, error: type[Exception], words: str, where: Path = pool) -> None:
        with pytest.raises(error, match=words):
            run(tmp_path / "run", settings_of(where, text), last="filter")
        assert not (tmp_path / "run/state/index.json").exists()

    refused("image_based", FilterError, 'needs target="embeddings.npy"')
    refused(f"image_based(target='{tmp_path}/none.npy')", FileNotFoundError, r"none\.npy")
    refused(f"image_based(target='{save(tmp_path / 'o.npy', np.zeros(3))}')", CorruptDataError, "shape .3,.")
    (tmp_path / "torch.npy").write_bytes(b"PK\x03\x04 pickled by torch")
    refused(f"image_based(target='{tmp_path}/torch.npy')", CorruptDataError, "target .*torch")
    (tmp_path / "pickle.npy").write_bytes(b"\x80\x04}q\x00.")
    refused(f"image_based(centroids='{tmp_path}/pickle.npy', target='{target}')", CorruptDataError, "torch has pickled")
    refused(f"image_based(target='{save(tmp_path / 'i.npy', np.zeros((3, 2), int))}')", CorruptDataError, "got int64")
    refused(f"image_based(target='{save(tmp_path / 'e.npy', np.zeros((0, 2)))}')", CorruptDataError, r"e\.npy")
    bare = shutil.copytree(pool, tmp_path / "bare")
    (bare / "metadata/00000002.npz").unlink()
    other = shutil.copytree(pool, tmp_path / "other")
    np.savez(other / "metadata/00000000.npz", b32_img=POINTS)
    refused(f"image_based(centroids='{centroids}', target='{target}')", PoolError, "needs image embeddings", other)
    refused(f"image_based(centroids='{centroids}', target='{target}')", PoolError, r"l14_img in .*00000002\.npz", bare)


def test_embeddings_of_two_models_are_refused(tmp_path: Path) -> None:
    pool = embedded_pool(tmp_path / "pool")
    good, other = save(tmp_path / "g.npy", CENTRES), save(tmp_path / "o.npy", CENTRES[:, :5])
    for centroids, target, error, words in (
        (good, other, FilterError, "has 5 dimensions, the centroids have 8"),
        (other, other, PoolError, "embeddings of two models"),
    ):
        text = f"image_based(centroids='{centroids}', target='{target}')"
        with pytest.raises(error, match=words):
            run(tmp_path / "run", settings_of(pool, text), last="filter", overwrite=True)


def test_other_rows_in_npz_than_in_parquet_are_refused(tmp_path: Path) -> None:
    pool = embedded_pool(tmp_path / "pool")
    np.savez(pool / "metadata/00000001.npz", l14_img=POINTS[:9])
    both = save(tmp_path / "c.npy", CENTRES)
    with pytest.raises(PoolError, match=r"00000001\.npz has 9 rows and .*00000001\.parquet 10"):
        run(tmp_path / "run", settings_of(pool, f"image_based(centroids='{both}', target='{both}')"), last="filter")
