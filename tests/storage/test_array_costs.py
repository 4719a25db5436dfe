"""What an npy or npz may cost: header, shape, type, compression and directory are looked at before anything is read.

A module that reads arrays by another way than those of the table fails the first test.
"""

from __future__ import annotations

import re
import struct
import time
import tracemalloc
import zipfile
import zlib
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dcfast.errors import CorruptDataError, SubsetError
from dcfast.storage import npz, zip_directory
from dcfast.storage.npz import iterate_npz, load_array, map_npz, npz_arrays, parse_array
from dcfast.uids import load_subset, merge_runs, open_records

ZEROS = bytes(1 << 20)


def header(text: str, version: int = 1, length: int | None = None) -> bytes:
    size = struct.pack("<H" if version == 1 else "<I", len(text) if length is None else length)
    return b"\x93NUMPY" + bytes([version, 0]) + size + text.encode()


def described(descr: Any, shape: Any) -> bytes:
    return header(repr({"descr": descr, "fortran_order": False, "shape": shape}) + "\n")


BAD = {
    "a header of 2 GB": header("", 2, 2 << 30),
    "a header of 60 kB": header("(" * 60_000 + "\n"),
    "a header that is cut": header("{'descr'", 1, 5000),
    "rows of 4 TB": described("<f4", (2, 1 << 40)),
    "a shape of 10^37": described("<f4", (1 << 62, 1 << 62)),
    "nothing of 10^37": described("<f4", (0, 1 << 62, 1 << 62)),
    "a trillion of no bytes": described("|V0", (1 << 40,)),
    "a negative shape": described("<f4", (-1, 4)),
    "Python objects": described("|O", (3,)) + bytes(24),
    "Python objects in a record": described([("a", "|O"), ("b", "<f4")], (3,)) + bytes(40),
    "data that is missing": described("<f4", (1 << 28,)) + bytes(100),
}
PATHS: dict[str, tuple[Callable[[Path], Any], tuple[type[Exception], ...]]] = {
    "load_array": (load_array, (CorruptDataError,)),
    "load_array, mapped": (lambda path: load_array(path, mmap=True), (CorruptDataError,)),
    "parse_array": (lambda path: parse_array(path.read_bytes()), (ValueError,)),
    "load_subset": (load_subset, (SubsetError,)),
    "open_records": (open_records, (CorruptDataError,)),
    "merge_runs": (lambda path: merge_runs([path], path.with_name("merged.npy")), (CorruptDataError,)),
    "npz_arrays": (lambda path: npz_arrays(packed(path)), (CorruptDataError,)),
    "map_npz": (lambda path: map_npz(packed(path), "a"), (CorruptDataError,)),
    "iterate_npz": (lambda path: [len(block) for block in iterate_npz(packed(path), "a")], (CorruptDataError,)),
}


def packed(path: Path) -> Path:
    target = path.with_suffix(".npz")
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.write(path, "a.npy")
    return target


def test_every_reader_of_arrays_is_known(repo_root: Path) -> None:
    package = repo_root / "python/dcfast"
    reads = re.compile(r"np\.load\(|open_memmap\(|np\.memmap\(|np\.fromfile\(|lib\.format\.read_|zipfile\.ZipFile\(")
    found = {p.relative_to(package).as_posix() for p in package.rglob("*.py") if reads.search(p.read_text())}
    assert found - {"storage/mapped.py"} <= {
        "storage/npz.py",
        "storage/zip_directory.py",
        "uids/files.py",  # by npz.read_header
        "resharding/plan.py",  # its own scratch files
        "resharding/boxes.py",  # its own scratch files
        "filters/wordnet.py",  # a corpus that the user installed
    }


HEADERS_ALONE = ("data that is missing", "npz_arrays")


@pytest.mark.parametrize(("name", "path"), sorted({*product(BAD, PATHS)} - {HEADERS_ALONE}))
def test_bad_arrays_cost_nothing_in_any_path(name: str, path: str, tmp_path: Path) -> None:
    file = tmp_path / "x.npy"
    file.write_bytes(BAD[name])
    read, errors = PATHS[path]
    tracemalloc.start()
    begin = time.process_time()
    try:
        with pytest.raises(errors) as refused:
            read(file)
        assert time.process_time() - begin < 5
        assert tracemalloc.get_traced_memory()[1] < 16 << 20
    finally:
        tracemalloc.stop()
    assert len(str(refused.value)) < 1000
    assert path == "parse_array" or "x.np" in str(refused.value)


def deflated(target: Path, name: str, parts: list[bytes], method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(target, "w", method) as archive, archive.open(name, "w", force_zip64=True) as member:
        for part in parts:
            member.write(part)
    return target


def test_wide_rows_and_many_rows_of_an_npz(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wide = deflated(tmp_path / "wide.npz", "a.npy", [described("<f2", (1, 1 << 25)), *[ZEROS] * 64])
    empty = deflated(tmp_path / "empty.npz", "a.npy", [described("<f2", (1 << 40, 0))])
    for path, words in ((wide, r"rows of 67,108,864 bytes; 1 to 1,048,576"), (empty, "rows of 0 bytes")):
        for read in (npz_arrays, lambda p: next(iterate_npz(p, "a"))):
            with pytest.raises(CorruptDataError, match=rf"{path.name}, a\.npy: .*{words}"):
                read(path)
    many = deflated(tmp_path / "many.npz", "a.npy", [described("<f2", (1 << 10, 1 << 11)), *[ZEROS] * 4])
    monkeypatch.setattr(npz, "MAX_BLOCK_BYTES", 1 << 20)
    assert [block.shape for block in iterate_npz(many, "a")] == [(256, 2048)] * 4
    monkeypatch.setattr(npz, "MAX_INFLATED_BYTES", 1 << 20)
    for read in (npz_arrays, lambda p: next(iterate_npz(p, "a"))):
        with pytest.raises(CorruptDataError, match=r"many\.npz.*arrays grow from [\d,]+ to 4,194,3.. bytes in all"):
            read(many)
    with zipfile.ZipFile(many, "a") as archive:  # so that the file is none that grows much
        archive.writestr("b.npy", bytes(1 << 16))
    for read in (npz_arrays, lambda p: next(iterate_npz(p, "a"))):
        with pytest.raises(CorruptDataError, match=r"many\.npz.*a\.npy grows from [\d,]+ to 4,194,3.. bytes"):
            read(many)


def test_arrays_that_lie_over_each_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The header of each has those behind it in its extra field: 5 kB that were copied as 100 arrays."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    raw = described("|u1", (1 << 10, 1 << 10)) + ZEROS
    data = packer.compress(raw) + packer.flush()
    told = (0, 33, zlib.crc32(raw), len(data), len(raw), 9)
    names = [b"a%04d.npy" % i for i in range(100)]
    body, directory = b"", b""
    for i, name in enumerate(names):
        directory += struct.pack("<4sHHHH2H3LHHHHHLL", b"PK\1\2", 20, 20, 0, 8, *told, 0, 0, 0, 0, 0, len(body)) + name
        body += struct.pack("<4sHHH2H3LHH", b"PK\3\4", 20, 0, 8, *told, (99 - i) * 39) + name
    end = struct.pack("<4sHHHHLLH", b"PK\5\6", 0, 0, 100, 100, len(directory), len(body + data), 0)
    (tmp_path / "a.npz").write_bytes(body + data + directory + end)
    monkeypatch.setattr(npz, "MAX_INFLATED_BYTES", 50 << 20)
    with pytest.raises(CorruptDataError, match=r"a\.npz.*arrays grow from [\d,]+ to 104,8[\d,]+ bytes in all"):
        npz_arrays(tmp_path / "a.npz")


def test_other_archives_are_no_npz(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    array = [described("<f2", (4, 4)), bytes(32)]
    bzip = deflated(tmp_path / "bzip.npz", "a.npy", array, zipfile.ZIP_BZIP2)
    with pytest.raises(CorruptDataError, match=r"compressed by method 12; expected none or deflate"):
        npz_arrays(bzip)
    locked = deflated(tmp_path / "locked.npz", "a.npy", array)
    data = bytearray(locked.read_bytes())
    for mark, at in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        data[data.index(mark) + at] |= 1
    locked.write_bytes(data)
    with pytest.raises(CorruptDataError, match=r"locked\.npz is no npz file .*encrypted"):
        npz_arrays(locked)
    many = tmp_path / "many.npz"
    with zipfile.ZipFile(many, "w") as archive:
        for i in range(1000):
            archive.writestr(f"a{i}.npy", b"")
    with pytest.raises(CorruptDataError, match=r"holds no array 'b' \(a0, a1") as refused:
        next(iterate_npz(many, "b"))
    assert len(str(refused.value)) < 500
    monkeypatch.setattr(zip_directory, "MAX_DIRECTORY_BYTES", 50_000)
    with pytest.raises(CorruptDataError, match=r"many\.npz is no npz file \(a directory of 5., ?\d+ bytes"):
        npz_arrays(many)
    sound = tmp_path / "sound.npz"
    np.savez(sound, a=np.ones((20_000, 4)))
    assert sum(len(block) for block in iterate_npz(sound, "a", rows=20_000)) == 20_000  # larger than a directory
