"""Checks of what a caller passes to the core: what passes, as what, and the words where it does not."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from dcfast.process.arguments import integer, uint64_array, unsigned_array


@pytest.mark.parametrize("values", [[], [1, 2], range(3), np.arange(9, dtype=np.int8)[::2], np.arange(4, dtype=">u2")])
def test_integers_of_any_dtype(values: Any) -> None:
    found = unsigned_array(values, "rows")
    assert found.dtype == np.uint64
    assert found.flags.c_contiguous
    assert found.tolist() == list(values)
    assert unsigned_array(np.empty(0, np.float32), "rows").dtype == np.uint64


@pytest.mark.parametrize(
    ("values", "error", "words"),
    [
        ([0.5], TypeError, "rows must hold integers; got dtype float64"),
        ([True], TypeError, "rows must hold integers; got dtype bool"),
        (["a"], TypeError, "rows must hold integers; got dtype <U1"),
        (7, ValueError, r"rows must be one-dimensional; got shape \(\)"),
        ([[1]], ValueError, r"rows must be one-dimensional; got shape \(1, 1\)"),
        ([3, -2], ValueError, "rows must not be negative; got -2"),
    ],
)
def test_what_is_no_array_of_numbers_from_0(values: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=f"^{words}$"):
        unsigned_array(values, "rows")


def test_a_negative_index_is_an_index_error_where_asked() -> None:
    with pytest.raises(IndexError, match="rows must not be negative; got -1"):
        unsigned_array([-1], "rows", negative=IndexError)


def test_uint64_alone() -> None:
    hashes = np.arange(10, dtype=np.uint64)
    assert uint64_array(hashes, "a", "hashes") is hashes
    assert uint64_array([], "a", "hashes").dtype == np.uint64
    strided = uint64_array(hashes[::2], "a", "hashes")
    assert strided.flags.c_contiguous
    assert strided.tolist() == [0, 2, 4, 6, 8]
    odd = np.frombuffer(bytes(17), np.uint8)[1:].view(np.uint64)
    assert uint64_array(odd, "a", "hashes").flags.aligned
    for wrong in ([1, 2], np.empty(0, np.int64), np.zeros(3, np.uint32)):
        with pytest.raises(TypeError, match=r"^a must have dtype uint64 \(hashes\); got"):
            uint64_array(wrong, "a", "hashes")
    with pytest.raises(ValueError, match="a must be one-dimensional"):
        uint64_array(np.zeros((2, 2), np.uint64), "a", "hashes")


def test_numbers() -> None:
    assert integer(np.int32(-3), "n") == -3
    assert type(integer(np.uint8(3), "n")) is int
    for wrong in (True, 1.0, "1", None):
        with pytest.raises(TypeError, match=f"^n must be an integer; got {type(wrong).__name__}$"):
            integer(wrong, "n")
