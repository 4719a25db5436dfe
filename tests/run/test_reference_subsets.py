"""Small pools that bend DataComp's rules, before their shards are there, against what its ``baselines.py`` wrote.

The reference's answers are numbers, made once by running it (with the versions that it pins) on the same metadata.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from dcfast.run.workflow import run
from dcfast.rundir.settings import Settings
from dcfast.uids.sets import load_subset

CAPTION = "a photograph of a dog running on the beach"
L14 = "clip_l14_similarity_score"
AXES = np.eye(8, 768, dtype=np.float32)
HALF, LIMIT = "clip_score(l14, fraction=0.5)", "clip_score(l14, threshold=0.25)"
IMAGE = "image_based(centroids='{c}', target='{t}')"


def rows(numbers: list[int], **columns: Any) -> pa.Table:
    plain = {"text": [CAPTION] * len(numbers), L14: pa.array([0.3] * len(numbers), pa.float32())}
    sides = dict.fromkeys(("original_width", "original_height"), [500] * len(numbers))
    return pa.table({"uid": [f"{n:032x}" for n in numbers], **plain, **sides, **columns})


def scored(numbers: list[int], scores: list[float | None]) -> pa.Table:
    return rows(numbers, **{L14: pa.array(scores, pa.float32())})


FALLING = [0.9, 0.8, 0.7, 0.6, 0.5, 0.4]
CASES: dict[str, tuple[list[pa.Table], str, list[int]]] = {
    # metadata files, filter, the uids that DataComp's subset file has
    "uid in two files, both pass": ([rows([1, 2]), rows([2, 3])], "no_filter", [1, 2, 2, 3]),
    "uid in two files, one passes": ([rows([1, 2]), scored([2, 3], [0.1, 0.3])], LIMIT, [1, 2, 3]),
    "uid twice in a file": ([rows([1, 1, 2])], "no_filter", [1, 1, 2]),
    "a fraction of all rows": ([scored([0, 1, 2, 3, 4, 5], FALLING)], HALF, [0, 1, 2, 3]),
    "equal scores": ([scored([0, 1, 2, 3, 4], [0.3] * 5)], HALF, [0, 1, 2, 3, 4]),
    "no score": ([scored([1, 2, 3], [0.3, None, float("nan")])], LIMIT, [1]),
    "a file without rows": ([rows([1]), rows([]), rows([2])], LIMIT, [1, 2]),
    "no size": (
        [rows([1, 2, 3], original_width=[500, None, 500], original_height=[500, 500, None])],
        "basic_filter",
        [1],
    ),
    "sizes of 0 and less": (
        [rows([1, 2, 3], original_width=[500, 0, -500], original_height=[500, 500, -500])],
        "basic_filter",
        [1],
    ),
    "sizes are floats": ([rows([1, 2], original_width=[500.0, float("nan")])], "basic_filter", [1]),
}
IMAGES: dict[str, tuple[list[pa.Table], list[np.ndarray], np.ndarray, np.ndarray, list[int]]] = {
    # metadata files, their embeddings, centroids, target, the uids of DataComp's subset file
    "two equal centroids": ([rows([0, 1, 2])], [AXES[[0, 1, 2]]], AXES[[1, 0, 0, 2]], AXES[:1], [0]),
    "halfway between two centroids": (
        [rows([0, 1])],
        [np.stack([AXES[0] + AXES[1], AXES[2]])],
        AXES[:3],
        AXES[1:2],
        [],
    ),
    "uid in two files, one picture is inside": (
        [rows([1, 2]), rows([2, 3])],
        [AXES[[0, 0]], AXES[[1, 0]]],
        AXES[:3],
        AXES[:1],
        [1, 2, 3],
    ),
}


def subset_of(tmp_path: Path, files: list[pa.Table], text: str) -> list[int]:
    (tmp_path / "pool/metadata").mkdir(parents=True, exist_ok=True)
    for number, table in enumerate(files):
        pq.write_table(table, tmp_path / f"pool/metadata/{number:08d}.parquet")
    run(tmp_path / "run", Settings(pool=str(tmp_path / "pool"), filter=text, train=False, device="cpu"), last="filter")
    uids = np.asarray(load_subset(tmp_path / "run/subset_metadata.npy"))
    assert not uids["f0"].any()
    return uids["f1"].tolist()


@pytest.mark.parametrize("name", CASES)
def test_the_subset_is_the_references(name: str, tmp_path: Path) -> None:
    files, text, expected = CASES[name]
    assert subset_of(tmp_path, files, text) == expected


@pytest.mark.parametrize("name", IMAGES)
def test_the_subset_of_pictures_is_the_references(name: str, tmp_path: Path) -> None:
    files, embeddings, centroids, target, expected = IMAGES[name]
    (tmp_path / "pool/metadata").mkdir(parents=True)
    for number, points in enumerate(embeddings):
        np.savez(tmp_path / f"pool/metadata/{number:08d}.npz", l14_img=points.astype(np.float16))
    np.save(tmp_path / "c.npy", centroids)
    np.save(tmp_path / "t.npy", np.concatenate([target] * 5))
    assert subset_of(tmp_path, files, IMAGE.format(c=tmp_path / "c.npy", t=tmp_path / "t.npy")) == expected
