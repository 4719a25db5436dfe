"""npz in blocks: the bytes that numpy.savez writes, and what is wrong with foreign files is said."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import pytest
from dcfast.errors import CorruptDataError
from dcfast.features.spec import FeatureModel, feature_models, parse_model
from dcfast.storage.npz import Array, iterate_npz, npz_arrays, write_npz


def blocks_of(array: np.ndarray, rows: int) -> list[np.ndarray]:
    return [array[i : i + rows] for i in range(0, len(array), rows)]


@pytest.mark.parametrize("n", [0, 1, 7, 8, 9, 101])
def test_written_in_blocks_is_what_numpy_writes(n: int, tmp_path: Path) -> None:
    rng = np.random.default_rng(n)
    arrays = {"b32_img": rng.normal(size=(n, 5)).astype(np.float16), "scores": rng.normal(size=n).astype(np.float32)}
    np.savez(tmp_path / "numpy.npz", **arrays)
    write_npz(tmp_path / "ours.npz", [(k, Array(a.shape, a.dtype), blocks_of(a, 8)) for k, a in arrays.items()])
    assert (tmp_path / "ours.npz").read_bytes() == (tmp_path / "numpy.npz").read_bytes()
    assert npz_arrays(tmp_path / "ours.npz") == {k: Array(a.shape, a.dtype) for k, a in arrays.items()}
    np.savez_compressed(tmp_path / "small.npz", **arrays)
    for name, array in arrays.items():
        for path in ("ours.npz", "small.npz"):
            parts = list(iterate_npz(tmp_path / path, name, 8))
            assert [len(p) for p in parts] == [min(8, n - i) for i in range(0, n, 8)]
            np.testing.assert_array_equal(np.concatenate([array[:0], *parts]), array)


@pytest.mark.parametrize("rows", [4, 6])
def test_other_rows_than_said_leave_no_file(rows: int, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="rows"):
        write_npz(tmp_path / "x.npz", [("a", Array((5, 2), np.dtype(np.float16)), [np.zeros((rows, 2))])])
    assert list(tmp_path.iterdir()) == []


def whole(path: Path) -> bytes:
    np.savez(path, a=np.arange(4000, dtype=np.float32).reshape(1000, 4))
    return path.read_bytes()


def test_cut_and_damaged_files_are_named(tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    data = whole(path)
    path.write_bytes(data[:-30])
    with pytest.raises(CorruptDataError, match=r"x\.npz is no npz file .* cut off or damaged"):
        npz_arrays(path)
    flipped = bytearray(data)
    flipped[5000] ^= 1
    path.write_bytes(flipped)
    with pytest.raises(CorruptDataError, match=r"x\.npz, a\.npy is damaged .*CRC"):
        list(iterate_npz(path, "a"))
    path.write_bytes(b"")
    with pytest.raises(CorruptDataError, match="no npz file"):
        list(iterate_npz(path, "a"))
    with pytest.raises(FileNotFoundError):
        npz_arrays(tmp_path / "nowhere.npz")


def test_foreign_contents_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    whole(path)
    with pytest.raises(CorruptDataError, match=r"holds no array 'l14_img' \(a\)"):
        list(iterate_npz(path, "l14_img"))
    np.savez(path, a=np.array([{"pickled": 1}], dtype=object))
    with pytest.raises(CorruptDataError, match=r"a\.npy: no array that can be read \(Python objects"):
        list(iterate_npz(path, "a"))
    np.savez(path, a=np.zeros((3, 2), order="F"))
    with pytest.raises(CorruptDataError, match="columns first"):
        npz_arrays(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.npy", b"not an array")
    with pytest.raises(CorruptDataError, match="no array that can be read"):
        npz_arrays(path)
    short = tmp_path / "short.npy"
    np.save(short, np.zeros((10, 2)))
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.npy", short.read_bytes()[:-16])  # a whole zip of half an array
    with pytest.raises(CorruptDataError, match="is cut off: 10 rows are missing"):
        list(iterate_npz(path, "a"))


def test_models_of_prefixes() -> None:
    assert parse_model("teacher") == ("teacher", None)
    assert parse_model("ViT-L-14:openai") == ("ViT-L-14", "openai")
    assert parse_model("ViT-L-14:/a:b.pt") == ("ViT-L-14", "/a:b.pt")
    assert parse_model("hf-hub:org/repo") == ("hf-hub:org/repo", None)
    assert feature_models({"l14": "teacher", "b32": "teacher"}) == [FeatureModel(("b32", "l14"), "teacher", None)]
    two = feature_models({"l14": "ViT-L-14:openai", "b32": "ViT-B-32:openai"})
    assert [m.key for m in two] == ["b32", "l14"]
    for text in ("ViT-B-32", ":openai", "ViT-B-32:", "", "hf-hub:"):
        with pytest.raises(ValueError, match="must be NAME:PRETRAINED"):
            parse_model(text)
    with pytest.raises(ValueError, match="the prefix must be one of b32, l14; got 'h14'"):
        feature_models({"h14": "teacher"})
