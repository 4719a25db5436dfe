"""Subset files, record files, the merge of runs, and the bytes that docs give for them."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from dcfast import CorruptDataError, SubsetError
from dcfast.uids import sets as u
from dcfast.uids.sets import RECORD_DTYPE, UID_DTYPE
from hypothesis import given, settings
from hypothesis import strategies as st

ROOT = Path(__file__).resolve().parents[2]


def random_uids(n: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 2**64, (n, 2), dtype=np.uint64).view(UID_DTYPE).ravel()


def random_records(n: int, seed: int = 0, values: int = 2**63) -> np.ndarray:
    rng = np.random.default_rng(seed)
    records = np.zeros(n, RECORD_DTYPE)
    records["f0"] = rng.integers(0, values, n)
    records["f1"] = rng.integers(0, 3, n)
    records["f2"] = rng.integers(0, 3, n)
    return u.record_sort(records)


def leftovers(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name.startswith(".tmp-"))


# -- subset files ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [0, 1, 2, 10, 1009])
@pytest.mark.parametrize("mmap", [True, False])
def test_round_trip_is_numpy_save(tmp_path: Path, n: int, mmap: bool) -> None:
    uids = u.uid_sort(random_uids(n))
    path = tmp_path / "sub folder" / "subset.npy"
    u.save_subset(path, uids)
    np.save(tmp_path / "numpy.npy", uids)
    assert path.read_bytes() == (tmp_path / "numpy.npy").read_bytes()
    loaded = u.load_subset(path, mmap=mmap)
    assert type(loaded) is np.ndarray
    assert loaded.dtype == UID_DTYPE
    assert np.array_equal(loaded, uids)
    assert leftovers(path.parent) == []


def test_mapped_is_read_only_and_outlives_the_file_object(tmp_path: Path) -> None:
    u.save_subset(tmp_path / "s.npy", u.uid_sort(random_uids(100)))
    loaded = u.load_subset(tmp_path / "s.npy")
    assert not loaded.flags.writeable
    (tmp_path / "s.npy").unlink()
    assert len(np.unique(loaded)) == 100
    assert np.array_equal(u.uid_union(loaded, loaded), loaded)


def test_raw_memmap_and_other_header_versions(tmp_path: Path) -> None:
    uids = u.uid_sort(random_uids(1009))
    uids.tofile(tmp_path / "raw")
    assert np.array_equal(u.load_subset(tmp_path / "raw"), uids)
    assert np.array_equal(u.load_subset(tmp_path / "raw", mmap=False), uids)
    with open(tmp_path / "v2.npy", "wb") as file:
        np.lib.format.write_array(file, uids, version=(2, 0))
    assert np.array_equal(u.load_subset(tmp_path / "v2.npy"), uids)
    repeated = np.repeat(uids, 2)
    u.save_subset(tmp_path / "repeated.npy", repeated)
    assert np.array_equal(u.load_subset(tmp_path / "repeated.npy"), repeated)


def _npy(array: np.ndarray, tmp_path: Path) -> bytes:
    np.save(tmp_path / "made.npy", array)
    return (tmp_path / "made.npy").read_bytes()


def _bad_subsets(tmp_path: Path) -> dict[str, tuple[bytes, str]]:
    uids = u.uid_sort(random_uids(10))
    good = _npy(uids, tmp_path)
    swapped = uids.copy()
    swapped[[4, 5]] = swapped[[5, 4]]
    with open(tmp_path / "object.npy", "wb") as file:
        np.lib.format.write_array(file, np.array([{}], object), allow_pickle=True)
    return {
        "truncated": (good[:-1], "its header says 10 rows, which are 288 bytes; the file has 287: it is truncated"),
        "header only": (good[:128], "the file has 128: it is truncated"),
        "cut header": (good[:50], "header that cannot be read"),
        "just magic": (good[:6], "header that cannot be read"),
        "followed": (good + good, "the file has 576: it is followed by other bytes"),
        "unsorted": (
            _npy(swapped, tmp_path),
            r"expected uids sorted by high then low half; got [0-9a-f]{32} at row 5 aft",
        ),
        "raw unsorted": (swapped.tobytes(), "expected uids sorted"),
        "raw odd size": (uids.tobytes()[:-3], "no .npy header and 157 bytes, which is 13 more than a multiple of 16"),
        "big-endian": (_npy(uids.astype(">u8,>u8"), tmp_path), r"expected dtype \"u8,u8\".*got.*>u8"),
        "plain u8": (_npy(np.zeros(4, "u8"), tmp_path), 'expected dtype "u8,u8"'),
        "records": (_npy(np.zeros(4, RECORD_DTYPE), tmp_path), 'expected dtype "u8,u8"'),
        "other names": (_npy(uids.view([("high", "u8"), ("low", "u8")]), tmp_path), 'expected dtype "u8,u8"'),
        "two dimensions": (_npy(uids.reshape(2, 5), tmp_path), r"one-dimensional array; got shape \(2, 5\)"),
        "scalar": (_npy(uids[0], tmp_path), r"one-dimensional array; got shape \(\)"),
        "pickled": ((tmp_path / "object.npy").read_bytes(), 'expected dtype "u8,u8"'),
        "version": (good[:6] + b"\x09\x00" + good[8:], "format version 9.0|cannot be read"),
        "huge": (
            good.replace(b"(10,), }" + b" " * 15, b"(18446744073709551,), }"),
            "says 18446744073709551 rows.*truncated",
        ),
        "empty": (b"", "got 0 bytes"),
        "zip": (b"PK\x03\x04" + bytes(28), "got a zip archive"),
        "parquet": (b"PAR1" + bytes(28), "got a parquet file"),
        "text": (b"00112233445566778899aabbccddeeff\n", "33 bytes, which is 1 more"),
    }


BAD = ["truncated", "header only", "cut header", "just magic", "followed", "unsorted", "raw unsorted", "raw odd size",
       "big-endian", "plain u8", "records", "other names", "two dimensions", "scalar", "pickled", "version", "huge",
       "empty", "zip", "parquet", "text"]  # fmt: skip


@pytest.mark.parametrize("case", BAD)
@pytest.mark.parametrize("mmap", [True, False])
def test_bad_subset_files(tmp_path: Path, case: str, mmap: bool) -> None:
    cases = _bad_subsets(tmp_path)
    assert sorted(cases) == sorted(BAD)
    content, message = cases[case]
    path = tmp_path / "bad subset.npy"
    path.write_bytes(content)
    with pytest.raises(SubsetError, match=message) as caught:
        u.load_subset(path, mmap=mmap)
    assert str(path) in str(caught.value)


def test_missing_subset_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        u.load_subset(tmp_path / "no.npy")
    with pytest.raises(IsADirectoryError):
        u.load_subset(tmp_path)


def test_unchecked_load(tmp_path: Path) -> None:
    uids = random_uids(10)
    np.save(tmp_path / "s.npy", uids)
    assert np.array_equal(u.load_subset(tmp_path / "s.npy", check=False), uids)


def test_save_refuses_and_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "s.npy"
    u.save_subset(path, u.uid_sort(random_uids(3)))
    before = path.read_bytes()
    with pytest.raises(ValueError, match=r"uids must be sorted; element \d+ is below.*uid_sort\(uids\)"):
        u.save_subset(path, random_uids(100))
    with pytest.raises(TypeError, match='uids must be a NumPy array of dtype "u8,u8"; got uint64'):
        u.save_subset(path, np.zeros(3, "u8"))
    with pytest.raises(TypeError, match="got list"):
        u.save_subset(path, [])  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"one-dimensional; got shape \(1, 3\)"):
        u.save_subset(path, np.zeros((1, 3), UID_DTYPE))
    assert path.read_bytes() == before
    assert leftovers(tmp_path) == []


# -- runs -----------------------------------------------------------------------------------------------------


def reference_merge(runs: list[np.ndarray], unique: bool) -> np.ndarray:
    everything = np.concatenate(runs)
    everything = everything[np.lexsort([everything[name] for name in reversed(everything.dtype.names or ())])]
    if not unique:
        return everything
    keys = np.stack([everything["f0"], everything["f1"]], axis=1)
    keep = np.ones(len(everything), bool)
    keep[1:] = (keys[1:] != keys[:-1]).any(axis=1)
    return everything[keep]


@pytest.mark.parametrize("records", [True, False])
@pytest.mark.parametrize("unique", [True, False])
@pytest.mark.parametrize(("memory", "files"), [(1 << 20, 3), (1 << 20, 256), (1 << 26, 7), (1 << 26, 256)])
def test_merge_is_the_same_whatever_the_fan_in(
    tmp_path: Path, records: bool, unique: bool, memory: int, files: int
) -> None:
    sizes = [0, 1, 2, 1009, 5003, 0, 7] * 5
    runs = [random_records(n, i, 50) for i, n in enumerate(sizes)]
    if not records:
        runs = [u.uid_sort(run[["f0", "f1"]].astype(UID_DTYPE)) for run in runs]
    paths = [tmp_path / f"run {i}.npy" for i in range(len(runs))]
    for path, run in zip(paths, runs, strict=True):
        (u.save_records if records else u.save_subset)(path, run)
    out = tmp_path / "out" / "merged [1].npy"
    want = reference_merge(runs, unique)
    report = u.merge_runs(paths, out, unique=unique, memory_bytes=memory, max_open_files=files)
    assert report.rows_in == sum(sizes)
    assert report.rows_out == len(want)
    # what fits the memory three times is sorted anew
    assert report.passes == {(1 << 20, 3): 6, (1 << 20, 256): 2, (1 << 26, 7): 1, (1 << 26, 256): 1}[memory, files]
    np.save(tmp_path / "want.npy", want)
    assert out.read_bytes() == (tmp_path / "want.npy").read_bytes()
    assert [path.name for path in out.parent.iterdir()] == [out.name]
    assert np.array_equal(u.open_records(out, check=True) if records else np.load(out), want)


@settings(max_examples=30, deadline=None)
@given(
    runs=st.lists(
        st.lists(st.tuples(*[st.sampled_from([0, 1, 2, 2**64 - 1])] * 3), max_size=12), min_size=1, max_size=9
    )
)
def test_merge_of_any_runs(tmp_path_factory: pytest.TempPathFactory, runs: list[list[tuple[int, int, int]]]) -> None:
    folder = tmp_path_factory.mktemp("merge")
    paths = []
    for i, run in enumerate(runs):
        paths.append(folder / f"{i}.npy")
        np.save(paths[-1], np.array(sorted(run), RECORD_DTYPE))
    u.merge_runs(paths, folder / "all.npy", memory_bytes=1 << 20, max_open_files=4)
    assert np.load(folder / "all.npy").tolist() == sorted(row for run in runs for row in run)
    u.merge_runs(paths, folder / "unique.npy", unique=True)
    first: dict[tuple[int, int], int] = {}
    for hi, lo, payload in sorted(row for run in runs for row in run):
        first.setdefault((hi, lo), payload)
    assert np.load(folder / "unique.npy").tolist() == [(*key, first[key]) for key in sorted(first)]


def test_runs_larger_than_their_buffers(tmp_path: Path) -> None:
    # 1 MiB for 13 runs: each is read through a buffer of less than 70 kB, many times
    runs = [random_records(20_011, i) for i in range(13)]
    paths = [tmp_path / f"{i}.npy" for i in range(13)]
    for path, run in zip(paths, runs, strict=True):
        u.save_records(path, run)
    u.merge_runs(paths, tmp_path / "out.npy", memory_bytes=1 << 20)
    assert np.array_equal(u.open_records(tmp_path / "out.npy"), reference_merge(runs, False))


def test_the_result_may_replace_a_run(tmp_path: Path) -> None:
    a, b = random_records(100, 1), random_records(100, 2)
    u.save_records(tmp_path / "pool.npy", a)
    u.save_records(tmp_path / "new.npy", b)
    u.merge_runs([tmp_path / "pool.npy", tmp_path / "new.npy"], tmp_path / "pool.npy")
    assert np.array_equal(u.open_records(tmp_path / "pool.npy"), reference_merge([a, b], False))


def test_bad_runs_are_named(tmp_path: Path) -> None:
    good = tmp_path / "good.npy"
    bad = tmp_path / "bad run.npy"
    out = tmp_path / "out.npy"
    u.save_records(good, random_records(1009))
    records = random_records(100_003)
    swapped = records.copy()
    swapped[[70_000, 70_001]] = swapped[[70_001, 70_000]]

    def attempt(content: bytes, message: str, offset: int | None) -> None:
        bad.write_bytes(content)
        with pytest.raises(CorruptDataError, match=message) as caught:
            u.merge_runs([good, bad], out, memory_bytes=1 << 20)
        assert caught.value.path == str(bad)
        assert caught.value.offset == offset
        assert not out.exists()
        assert leftovers(tmp_path) == []

    whole = _npy(records, tmp_path)
    attempt(_npy(swapped, tmp_path), r"run is not sorted: row 70001 .* is below the row before", 192 + 24 * 70_001)
    attempt(whole[:-1], r"the header says 100003 rows \(2400264 bytes\).*it is truncated", len(whole) - 1)
    attempt(whole + b"x", "followed by other bytes", len(whole))
    attempt(whole[:60], "ends inside its .npy header", 60)
    attempt(b"", "got an empty file", 0)
    attempt(b"PAR1" + bytes(40), "does not begin with its magic bytes", 0)
    attempt(_npy(np.zeros(3, UID_DTYPE), tmp_path), "expected dtype .* as in the first run; got", 0)
    attempt(_npy(np.zeros(3, "f8"), tmp_path), "got '<f8'", 10)
    attempt(_npy(np.zeros((2, 3), RECORD_DTYPE), tmp_path), r"one-dimensional array; got shape \(2, 3\)", 10)
    attempt(whole[:6] + b"\x03\x00" + whole[8:], "version 1.0 or 2.0; got 3.0", 6)
    bad.unlink()
    with pytest.raises(FileNotFoundError) as missing:
        u.merge_runs([good, bad], out)
    assert str(bad) in str(missing.value)


@pytest.mark.parametrize("rows", ["18446744073709551615", "99999999999999999999999", "-1", "9223372036854775807"])
def test_impossible_row_counts_do_not_overflow(tmp_path: Path, rows: str) -> None:
    header = (
        f"{{'descr': [('f0', '<u8'), ('f1', '<u8')], 'fortran_order': False, 'shape': ({rows},), }}".ljust(117) + "\n"
    )
    path = tmp_path / "bad.npy"
    path.write_bytes(b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode() + bytes(16))
    with pytest.raises(CorruptDataError, match=r"more than any file|truncated|one-dimensional") as caught:
        u.merge_runs([path], tmp_path / "out.npy")
    assert (caught.value.path, caught.value.offset is None) == (str(path), False)
    with pytest.raises(SubsetError):
        u.load_subset(path)


def test_bad_merge_arguments(tmp_path: Path) -> None:
    u.save_records(tmp_path / "a.npy", random_records(3))
    paths = [tmp_path / "a.npy"]
    out = tmp_path / "out.npy"
    with pytest.raises(ValueError, match="run_paths must name at least one file"):
        u.merge_runs([], out)
    with pytest.raises(TypeError, match="sequence of paths; got one path"):
        u.merge_runs(tmp_path / "a.npy", out)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="memory_bytes must be at least 1048576; got 5"):
        u.merge_runs(paths, out, memory_bytes=5)
    with pytest.raises(ValueError, match="max_open_files must be at least 3; got 2"):
        u.merge_runs(paths, out, max_open_files=2)
    assert leftovers(tmp_path) == []


def test_open_records_refuses(tmp_path: Path) -> None:
    path = tmp_path / "r.npy"
    u.save_subset(path, u.uid_sort(random_uids(3)))
    with pytest.raises(CorruptDataError, match='expected dtype "u8,u8,u8"'):
        u.open_records(path)
    random_records(4).tofile(path)
    with pytest.raises(CorruptDataError, match="cannot be read"):
        u.open_records(path)
    np.save(path, random_records(9)[::-1])
    assert len(u.open_records(path)) == 9
    with pytest.raises(CorruptDataError, match="row 1 is below row 0"):
        u.open_records(path, check=True)
    path.write_bytes(b"")
    with pytest.raises(CorruptDataError, match="got 0 bytes"):
        u.open_records(path)


# -- documentation --------------------------------------------------------------------------------------------


def test_the_worked_examples_of_the_docs(tmp_path: Path) -> None:
    documents = [
        path for path in sorted((ROOT / "docs").glob("*.md")) if "## Subset file and uid records" in path.read_text()
    ]
    assert len(documents) == 1
    section = documents[0].read_text().split("## Subset file and uid records", 1)[1].split("\n## ", 1)[0]
    subset_hex, record_hex = (bytes.fromhex(block) for block in re.findall(r"```hex\n(.*?)```", section, re.S))
    texts = re.findall(r"`([0-9a-f]{32})`", section)
    uids, _ = u.uid_parse(texts[:2])
    path = tmp_path / "subset.npy"
    u.save_subset(path, uids)
    content = path.read_bytes()
    assert len(content) == 160
    assert content[128:] == subset_hex
    assert content[:10] == bytes.fromhex("93 4e 55 4d 50 59 01 00 76 00")
    assert content[127:128] == b"\n"
    header = "{'descr': [('f0', '<u8'), ('f1', '<u8')], 'fortran_order': False, 'shape': (N,), }"
    assert header in section
    assert content[10:127].decode().rstrip() == header.replace("N", "2")
    record = np.array([(*uids[0].tolist(), 3 << 32 | 5)], RECORD_DTYPE)
    assert record.tobytes() == record_hex
    u.save_records(path, record)
    assert path.read_bytes()[8:10] == bytes.fromhex("b6 00")
    assert path.read_bytes()[192:] == record_hex
