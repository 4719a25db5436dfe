"""npy and npz: the bytes that NumPy writes, whole or in blocks, and what is wrong with other files is said."""

from __future__ import annotations

import ast
import io
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path

import dcfast
import numpy as np
import pytest
from dcfast.errors import CorruptDataError
from dcfast.features.spec import FeatureModel, feature_models, parse_model
from dcfast.storage.npz import (
    Array,
    array_bytes,
    iterate_npz,
    load_array,
    map_npz,
    npz_arrays,
    parse_array,
    save_array,
    save_scratch,
    write_npy,
    write_npz,
)


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


ARRAYS = {
    "numbers": np.arange(12, dtype=np.float32).reshape(3, 4),
    "columns first": np.asfortranarray(np.arange(12.0).reshape(3, 4)),
    "every other": np.arange(20)[::2],
    "uids": np.zeros(3, "u8,u8,u8"),
    "big-endian": np.arange(5, dtype=">i4"),
    "empty": np.zeros((0, 7), np.float16),
    "no row": np.zeros((3, 0)),
    "one number": np.array(7),
    "flags": np.array([True, False]),
}


@pytest.mark.parametrize("array", ARRAYS.values(), ids=ARRAYS)
def test_an_array_is_what_numpy_writes_and_comes_back(array: np.ndarray, tmp_path: Path) -> None:
    path = tmp_path / "below" / "ours.npy"
    np.save(tmp_path / "numpy.npy", array)
    save_array(path, array)
    assert path.read_bytes() == (tmp_path / "numpy.npy").read_bytes() == array_bytes(array)
    assert [p.name for p in path.parent.iterdir()] == ["ours.npy"]
    save_scratch(tmp_path / "scratch.npy", array)
    assert (tmp_path / "scratch.npy").read_bytes() == path.read_bytes()
    parsed = parse_array(path.read_bytes())
    for found in (
        load_array(path),
        load_array(str(path), mmap=True),
        parsed,
        parse_array(memoryview(path.read_bytes())),
    ):
        assert found.dtype == array.dtype
        np.testing.assert_array_equal(found, array)
    assert not load_array(path, mmap=True).flags.writeable
    if array.flags.c_contiguous and array.ndim:
        write_npy(path, array.shape, array.dtype, blocks_of(array, 2))
        assert path.read_bytes() == array_bytes(array)


def test_an_array_is_whole_or_absent(tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    save_array(path, np.arange(3), sync=False)
    with pytest.raises(ValueError, match="Object arrays cannot be saved"):
        save_array(path, np.array([{}], dtype=object))
    with pytest.raises(ValueError, match="2 of 5 rows were written"):
        write_npy(path, (5,), np.int64, [np.arange(2)])
    with pytest.raises(IsADirectoryError):
        save_array(tmp_path, np.arange(3))
    assert load_array(path).tolist() == [0, 1, 2]
    assert [p.name for p in tmp_path.iterdir()] == ["a.npy"]


def damaged() -> dict[str, bytes]:
    data = array_bytes(np.arange(1000, dtype=np.float32))
    buffer = io.BytesIO()
    np.save(buffer, np.array([{}, 1], dtype=object), allow_pickle=True)
    zipped = io.BytesIO()
    np.savez(zipped, a=np.arange(3))
    return {
        "empty": b"",
        "cut in the magic": data[:4],
        "cut in the header": data[:60],
        "cut at the data": data[:128],
        "one byte short": data[:-1],
        "not an array": b"not an array at all, but long enough to be read as one" * 3,
        "a pickle": pickle.dumps(list(range(100))),
        "pickled objects": buffer.getvalue(),
        "an archive": zipped.getvalue(),
        "another version": data[:6] + b"\x09\x00" + data[8:],
        "no dict": data.replace(b"{'descr'", b"('descr'"),
        "a parser's error": data.replace(b"(1000,)", b"((((((("),
        "far too large": data.replace(b"(1000,), }" + b" " * 12, b"(1000000000000000,), }"),
        "negative": data.replace(b"(1000,)", b"(-100,)"),
        "another dtype": data.replace(b"<f4", b"<x4"),
    }


@pytest.mark.parametrize("mmap", [False, True])
@pytest.mark.parametrize("kind", damaged())
def test_a_damaged_array_is_named(kind: str, mmap: bool, tmp_path: Path) -> None:
    path = tmp_path / "signatures.npy"
    path.write_bytes(damaged()[kind])
    with pytest.raises(CorruptDataError, match=r"signatures\.npy is no npy file that can be read \(.+\)") as caught:
        load_array(path, mmap=mmap)
    assert caught.value.path == str(path)
    with pytest.raises(ValueError, match=r".") as caught_of_bytes:
        parse_array(damaged()[kind])
    assert type(caught_of_bytes.value) is ValueError


def test_what_is_no_file_is_the_systems_error(tmp_path: Path) -> None:
    for mmap in (False, True):
        with pytest.raises(FileNotFoundError):
            load_array(tmp_path / "nowhere.npy", mmap=mmap)
        with pytest.raises(IsADirectoryError):
            load_array(tmp_path, mmap=mmap)


def test_more_bytes_than_the_array_are_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    path.write_bytes(array_bytes(np.arange(3)) + b"more")
    assert load_array(path).tolist() == load_array(path, mmap=True).tolist() == [0, 1, 2]


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_an_array_of_an_npz_is_mapped_or_read(save: Callable[..., None], tmp_path: Path) -> None:
    arrays = {
        "a": np.random.default_rng(0).normal(size=(301, 7)).astype(np.float16),
        "none": np.empty((0, 7), np.float32),
        "long": np.arange(100_000),
    }
    save(tmp_path / "x.npz", **arrays)
    for name, array in arrays.items():
        got = map_npz(tmp_path / "x.npz", name)
        assert got.dtype == array.dtype
        assert np.array_equal(got, array)
        assert np.array_equal(got[[0, -1]] if len(got) else got, array[[0, -1]] if len(array) else array)
    with pytest.raises(CorruptDataError, match="holds no array 'b'"):
        map_npz(tmp_path / "x.npz", "b")


@pytest.mark.lint
def test_npy_and_npz_are_read_and_written_here_alone() -> None:
    package = Path(dcfast.__file__).parent
    own = {"save", "savez", "savez_compressed", "load"}
    found = []
    for path in package.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_bytes())):
            if (
                isinstance(node, ast.Attribute)
                and isinstance(node.value, ast.Name)
                and node.value.id in ("np", "numpy")
            ):
                if node.attr in {*own, "lib"}:
                    found.append(path.relative_to(package).as_posix())
            elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "numpy":
                found += [path.relative_to(package).as_posix() for name in node.names if name.name in {*own, "lib"}]
    assert set(found) == {"storage/npz.py"}
