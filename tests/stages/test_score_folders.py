"""Files of scores are looked at by their headers before they are read, and all of them before any work."""

from __future__ import annotations

import tracemalloc
import zipfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from dcfast.errors import CorruptDataError, PoolError
from dcfast.filters.score_sources import ArrayScore, ScoreFile
from dcfast.stages.filter import score_arrays
from dcfast.stages.filter.mixed import check_column
from dcfast.stages.filter.score_files import check_score_file
from dcfast.stages.filter.scores import check_scores
from dcfast.storage.npz import npz_arrays

ROWS = 4


@pytest.fixture
def run(tmp_path: Path) -> Any:
    """A pool of two metadata files, as far as the checks look at it."""
    paths = [tmp_path / f"pool/{name}.parquet" for name in ("a", "b")]
    paths[0].parent.mkdir()
    for path in paths:
        pq.write_table(pa.table({"uid": [f"{i:032x}" for i in range(ROWS)]}), path)
    return SimpleNamespace(pool=SimpleNamespace(metadata=[str(path) for path in paths]))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "scores"
    path.mkdir()
    np.save(path / "a.npy", np.zeros(ROWS, np.float32))
    np.save(path / "b.npy", np.zeros(ROWS, np.float32))
    return path


def refused(run: Any, folder: Path, words: str) -> None:
    with pytest.raises(PoolError, match=words):
        check_scores(run, [ScoreFile(str(folder))])


@pytest.mark.parametrize("suffix", ["npy", "npz"])
def test_a_file_that_would_grow_is_not_read(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    many = np.zeros(4_000_000, np.float32)
    if suffix == "npz":
        np.savez_compressed(path, score=many)
    else:
        np.save(path, many)
    del many
    tracemalloc.start()
    with pytest.raises(PoolError, match="one for each of the 4 rows"):
        score_arrays._row_scores(str(path), "score", ROWS)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2_000_000


def test_a_header_of_more_than_the_file_holds(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive, archive.open("score.npy", "w") as member:
        np.lib.format.write_array_header_1_0(member, {"descr": "<f4", "fortran_order": False, "shape": (1 << 58,)})
    with pytest.raises(CorruptDataError, match=r"score\.npy is cut off"):
        npz_arrays(tmp_path / "a.npz")


def test_folders_of_two_kinds(run: Any, folder: Path) -> None:
    check_scores(run, [ScoreFile(str(folder))])
    np.savez(folder / "b.npz", score=np.ones(ROWS))
    refused(run, folder, r"expected one of b\.npz and b\.npy; remove one")
    (folder / "b.npz").unlink()
    pq.write_table(pa.table({"uid": ["0" * 32], "score": [0.5]}), folder / "c.parquet")
    refused(run, folder, r"NumPy files \(a\.npy\) and parquet files \(c\.parquet\): expected one kind; give")


def test_each_file_is_looked_at_first(run: Any, folder: Path) -> None:
    np.save(folder / "b.npy", np.zeros(ROWS + 1, np.float32))
    refused(run, folder, r"b\.npy: .* each of the 4 rows .* shape \(5,\)")
    (folder / "b.npy").unlink()
    np.savez(folder / "b.npz", other=np.zeros(ROWS))
    refused(run, folder, r"b\.npz has no array 'score' \(other\); name")
    source = ArrayScore("quality")
    pool = Path(run.pool.metadata[0]).parent
    np.savez(pool / "a.npz", quality=np.zeros(ROWS))
    with pytest.raises(PoolError, match=r"b\.npz, which is not there; download"):
        check_column(run, source)


def test_a_header_of_text_uids_is_looked_at_too(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "s.npz", "w") as archive:
        for name, descr in (("uid", "<U32"), ("score", "<f4")):
            with archive.open(f"{name}.npy", "w") as member:
                header = {"descr": descr, "fortran_order": False, "shape": (1 << 48,)}
                np.lib.format.write_array_header_1_0(member, header)
    with pytest.raises(CorruptDataError, match="cut off"):  # and no list of as many runs is begun
        check_score_file(ScoreFile(str(tmp_path / "s.npz")))
