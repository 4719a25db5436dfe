"""The Triton kernels of the losses, the very same that run on a GPU, in Triton's interpreter against float64."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from interpreter import Run, interpreter

pytest.importorskip("triton", reason="the kernels need Triton")
pytestmark = pytest.mark.xdist_group("kernels")


@pytest.fixture(scope="module")
def run() -> Iterator[Run]:
    """Runs a case of ``kernel_cases`` in a process with Triton's interpreter."""
    with interpreter("kernel_cases.py") as ask:
        yield ask


# tiles are 32 x 32 here
@pytest.mark.parametrize("n", [1, 2, 3, 31, 32, 33, 65, 127, 129])
def test_clip_sizes(run: Run, n: int) -> None:
    assert run("clip", n=n, d=40, scale=14.2857) == ""


@pytest.mark.parametrize("d", [1, 8, 17, 33, 64, 96])
def test_clip_widths(run: Run, d: int) -> None:
    assert run("clip", n=37, d=d, scale=14.2857, dtype="bfloat16" if d == 17 else "float32") == ""


@pytest.mark.parametrize("scale", [0.0, 1e-3, 1.0, 100.0, -5.0])
def test_clip_scales(run: Run, scale: float) -> None:
    assert run("clip", n=65, d=40, scale=scale) == ""


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize(("n", "d", "scale"), [(97, 40, 14.2857), (64, 64, 100.0), (1, 8, 100.0)])
def test_clip_half_precision(run: Run, dtype: str, n: int, d: int, scale: float) -> None:
    assert run("clip", n=n, d=d, scale=scale, dtype=dtype) == ""


@pytest.mark.parametrize("scale", [14.2857, 50.0])
def test_clip_on_a_fitted_batch(run: Run, scale: float) -> None:
    """The loss is small, and so is what is left of the positives' gradient: neither may be lost to cancellation."""
    assert run("clip", n=97, d=64, scale=scale, like=0.6) == ""


def test_clip_in_chunks(run: Run) -> None:
    """Of 128, 128 and 1 rows."""
    assert run("clip", n=257, d=16, scale=14.2857, chunk_rows=128) == ""


@pytest.mark.parametrize(
    ("bm", "bn", "bk", "warps", "group", "sub"),
    [
        (64, 32, 16, 2, 8, False),
        pytest.param(32, 64, 32, 1, 2, True, marks=pytest.mark.long),
        pytest.param(64, 64, 64, 4, 1, True, marks=pytest.mark.long),
    ],
)
def test_clip_tiles_and_descriptors(run: Run, bm: int, bn: int, bk: int, warps: int, group: int, sub: bool) -> None:
    assert run("clip_tiles", bm=bm, bn=bn, bk=bk, warps=warps, group=group, sub=sub) == ""


@pytest.mark.parametrize("dtype", ["float32", pytest.param("bfloat16", marks=pytest.mark.long)])
def test_clip_repeats_to_the_bit(run: Run, dtype: str) -> None:
    assert run("clip_repeats", dtype=dtype) == ""


def test_clip_beyond_the_exponent_window(run: Run) -> None:
    assert run("clip_flag") == ""


def test_not_finite_shows(run: Run) -> None:
    assert run("clip_not_finite") == ""


def test_clip_odd_features(run: Run) -> None:
    assert run("clip_odd_features") == ""


def test_clip_views(run: Run) -> None:
    assert run("clip_views") == ""


@pytest.mark.parametrize(
    ("ranks", "rows", "scale", "dtype"),
    [
        (4, 10, 25.0, "float32"),
        pytest.param(2, 33, 100.0, "float32", marks=pytest.mark.long),
        pytest.param(2, 33, 10.0, "float16", marks=pytest.mark.long),
    ],
)
def test_clip_rows_of_ranks(run: Run, ranks: int, rows: int, scale: float, dtype: str) -> None:
    assert run("clip_ranks", ranks=ranks, rows=rows, scale=scale, dtype=dtype) == ""


@pytest.mark.parametrize("rows", [1, 31, 50])
def test_clip_blocks_anywhere(run: Run, rows: int) -> None:
    assert run("clip_online", rows=rows) == ""


@pytest.mark.parametrize(
    ("n", "d", "scale", "bias", "dtype", "chunk_rows"),
    [
        (1, 8, 10.0, -10.0, "float32", 0),
        (31, 17, 10.0, -10.0, "float32", 0),
        (65, 40, 100.0, -16.0, "float32", 0),
        (33, 16, 10.0, None, "float32", 0),
        (257, 16, 10.0, -5.0, "float32", 128),
        (97, 40, 30.0, -12.0, "bfloat16", 0),
        (64, 64, 10.0, -10.0, "float16", 0),
    ],
)
def test_siglip(run: Run, n: int, d: int, scale: float, bias: float | None, dtype: str, chunk_rows: int) -> None:
    assert run("siglip", n=n, d=d, scale=scale, bias=bias, dtype=dtype, chunk_rows=chunk_rows) == ""


def test_siglip_blocks(run: Run) -> None:
    assert run("siglip_blocks") == ""


def test_a_wrong_case_is_told(run: Run) -> None:
    """The process between does not swallow failures."""
    assert "KeyError" in run("no such case")
