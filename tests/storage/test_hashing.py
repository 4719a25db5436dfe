"""XXH3 hashes against the xxhash package, and what happens when a range is not there."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from dcfast import CorruptDataError, hash_members
from dcfast._core.hashing import xxh3_64
from dcfast.storage.hashing import hash_bytes, hash_file, sha256_file
from hypothesis import given
from hypothesis import strategies as st

# published by the authors of XXH3 for the empty input, seed 0
EMPTY_128 = "99aa06d3014798d86001c324468d497f"
EMPTY_64 = 0x2D06800538D394C2


def hex_of(hashes: np.ndarray) -> list[str]:
    return [f"{hi:016x}{lo:016x}" for hi, lo in hashes.tolist()]


@pytest.fixture(scope="module")
def blob(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("hashing") / "a shard with spaces.tar"
    path.write_bytes(np.random.default_rng(0).bytes(5_000_011))
    return path


def test_empty() -> None:
    assert hash_bytes(b"") == EMPTY_128
    assert xxh3_64(b"") == EMPTY_64


@given(st.binary(max_size=2000))
def test_buffers_match_the_xxhash_package(data: bytes) -> None:
    xxhash = pytest.importorskip("xxhash")
    assert hash_bytes(data) == xxhash.xxh3_128_hexdigest(data)
    assert xxh3_64(bytearray(data)) == xxhash.xxh3_64_intdigest(data)
    assert xxh3_64(np.frombuffer(data, np.uint8)) == xxhash.xxh3_64_intdigest(data)


def test_buffers_that_are_not_contiguous_are_refused() -> None:
    with pytest.raises((ValueError, BufferError), match="contiguous"):
        hash_bytes(np.zeros(10, np.uint8)[::2])
    with pytest.raises(TypeError, match="bytes-like"):
        hash_bytes("text")


@pytest.mark.parametrize("size", [0, 1, 16, 17, 240, 241, 1009, 524_287, 524_288, 524_289, 1_048_577, 3_000_017])
def test_files_match_the_xxhash_package(tmp_path: Path, size: int) -> None:
    xxhash = pytest.importorskip("xxhash")
    data = np.random.default_rng(size).bytes(size)
    path = tmp_path / "file"
    path.write_bytes(data)
    assert hash_file(path) == xxhash.xxh3_128_hexdigest(data)
    assert hex_of(hash_members(path, [0], [size])) == [xxhash.xxh3_128_hexdigest(data)]


@pytest.mark.parametrize("threads", [None, 1, 3])
@pytest.mark.parametrize("order", ["as in the file", "shuffled", "repeated"])
def test_members(blob: Path, threads: int | None, order: str) -> None:
    xxhash = pytest.importorskip("xxhash")
    data = blob.read_bytes()
    rng = np.random.default_rng(1)
    # small and neighbouring, far apart, empty, overlapping, and longer than any buffer
    offsets = np.concatenate([np.arange(0, 200_000, 512), rng.integers(0, len(data), 300), [0, 7, len(data), 100]])
    sizes = np.concatenate(
        [rng.integers(0, 700, 391), rng.integers(0, 90_000, 300), [len(data), 2_500_000, 0, 1 << 20]]
    )
    sizes = np.minimum(sizes, len(data) - offsets)
    if order == "shuffled":
        pick = rng.permutation(len(offsets))
    elif order == "repeated":
        pick = rng.integers(0, len(offsets), 1009)
    else:
        pick = np.argsort(offsets, kind="stable")
    offsets, sizes = offsets[pick], sizes[pick]
    got = hash_members(blob, offsets, sizes, threads=threads)
    assert got.dtype == np.dtype("u8,u8")
    assert hex_of(got) == [
        xxhash.xxh3_128_hexdigest(data[o : o + s]) for o, s in zip(offsets.tolist(), sizes.tolist(), strict=True)
    ]


def test_no_members(blob: Path) -> None:
    assert hash_members(blob, [], []).shape == (0,)
    assert hash_members(blob, np.empty(0, np.uint64), np.empty(0, np.int32)).shape == (0,)


@pytest.mark.parametrize(
    ("offset", "size"),
    [(5_000_000, 12), (5_000_012, 0), (0, 5_000_012), (2**64 - 1, 2**64 - 1), (10, 2**64 - 1)],
)
def test_a_range_beyond_the_end_names_file_and_offset(blob: Path, offset: int, size: int) -> None:
    offsets = np.array([0, offset], np.uint64)
    sizes = np.array([5, size], np.uint64)
    with pytest.raises(
        CorruptDataError, match=r"range 1 of \d+ bytes ends beyond the end of the file \(5000011"
    ) as caught:
        hash_members(blob, offsets, sizes)
    assert caught.value.path == str(blob)
    assert caught.value.offset == offset
    assert str(blob) in str(caught.value)


def test_bad_arguments(blob: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="offsets and sizes must be equally long; got 2 and 1"):
        hash_members(blob, [0, 1], [1])
    with pytest.raises(ValueError, match="offsets must not be negative; got -1"):
        hash_members(blob, [-1], [1])
    with pytest.raises(TypeError, match="sizes must hold integers; got dtype float64"):
        hash_members(blob, [0], [1.0])
    with pytest.raises(ValueError, match=r"offsets must be one-dimensional; got shape \(1, 1\)"):
        hash_members(blob, [[0]], [1])
    with pytest.raises(FileNotFoundError, match="missing"):
        hash_members(tmp_path / "missing", [0], [1])
    with pytest.raises(IsADirectoryError):
        hash_file(tmp_path)


def test_names_that_are_not_utf_8(tmp_path: Path) -> None:
    path = os.fsencode(tmp_path) + b"/\xff\xfe"
    Path(os.fsdecode(path)).write_bytes(b"x")
    assert hash_file(os.fsdecode(path)) == hash_bytes(b"x")


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_ranges_of_memory_hash_as_those_of_a_file(blob: Path, threads: int) -> None:
    rng = np.random.default_rng(threads)
    offsets = rng.integers(0, 4_000_000, 500)
    # few long ones among many short ones, and empty ones
    sizes = np.where(rng.random(500) < 0.02, rng.integers(0, 1_000_000, 500), rng.integers(0, 300, 500))
    expected = hash_members(blob, offsets, sizes)
    data = blob.read_bytes()
    for source in (data, bytearray(data), memoryview(data), np.frombuffer(data, np.uint8), np.memmap(blob, mode="r")):
        assert np.array_equal(hash_members(source, offsets, sizes, threads=threads), expected)
    assert hash_members(b"", [], []).shape == (0,)
    assert hex_of(hash_members(b"", [0], [0])) == [EMPTY_128]


def test_ranges_beyond_the_data_are_refused() -> None:
    with pytest.raises(ValueError, match=r"range 1 of 3 bytes at 8 ends beyond the end of the data \(10 bytes\)"):
        hash_members(b"0123456789", [0, 8], [10, 3])
    with pytest.raises(ValueError, match="ends beyond"):
        hash_members(b"0123456789", [11], [0])
    with pytest.raises(ValueError, match="ends beyond"):
        hash_members(b"0123456789", [2], [2**64 - 1])
    with pytest.raises(TypeError, match="bytes-like"):
        hash_members(10, [0], [1])


def test_machines_without_avx2_hash_the_same(blob: Path) -> None:
    sizes = [0, 1, 3, 4, 8, 9, 16, 17, 128, 129, 240, 241, 1023, 1024, 1025, 5003, 1_048_577, 4_999_999]
    script = (
        "import sys, dcfast.storage.hashing as h\n"
        "data, sizes = open(sys.argv[1], 'rb').read(), [int(n) for n in sys.argv[2:]]\n"
        "print(h.hash_members(data, [7] * len(sizes), sizes).tolist(), h.hash_file(sys.argv[1]))\n"
        "print(h.hash_members(sys.argv[1], [7] * len(sizes), sizes).tolist())\n"
    )
    printed = [
        subprocess.run(
            [sys.executable, "-c", script, str(blob), *map(str, sizes)],
            env={**os.environ, "DCFAST_ISA": isa},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for isa in ("baseline", "")
    ]
    assert printed[0] == printed[1]
    assert printed[0].count("(") == 2 * len(sizes)


@pytest.mark.parametrize("size", [0, 1, 1 << 18, 5_000_011])
def test_sha256_of_a_file(tmp_path: Path, size: int) -> None:
    data = np.random.default_rng(size).bytes(size)
    (tmp_path / "a").write_bytes(data)
    assert sha256_file(tmp_path / "a") == sha256_file(str(tmp_path / "a")) == hashlib.sha256(data).hexdigest()
    with pytest.raises(FileNotFoundError, match="missing"):
        sha256_file(tmp_path / "missing")
