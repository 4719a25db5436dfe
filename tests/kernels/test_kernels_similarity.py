"""The Triton kernels of similarity, the very same that run on a GPU, in Triton's interpreter."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from interpreter import Run, interpreter

pytest.importorskip("triton", reason="the kernels need Triton")
pytestmark = pytest.mark.xdist_group("kernels")


@pytest.fixture(scope="module")
def run() -> Iterator[Run]:
    """Runs a case of ``gpu_search_cases`` in a process with Triton's interpreter."""
    with interpreter("gpu_search_cases.py") as ask:
        yield ask


# tiles are 32 x 32 here
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize(("n", "m", "d"), [(1, 1, 16), (33, 65, 16), (64, 200, 48), (2, 97, 80)])
def test_screens(run: Run, n: int, m: int, d: int, dtype: str) -> None:
    assert run("screens", n=n, m=m, d=d, dtype=dtype) == ""


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16", "int8"])
@pytest.mark.parametrize("d", [1, 8, 37])
def test_sums_of_pairs(run: Run, d: int, dtype: str) -> None:
    assert run("sums", d=d, dtype=dtype) == ""


@pytest.mark.parametrize(("dtype", "half"), [("float32", "float16"), ("bfloat16", "bfloat16"), ("int8", "float16")])
@pytest.mark.parametrize("d", [3, 130])
def test_copies(run: Run, d: int, dtype: str, half: str) -> None:
    assert run("halves", d=d, dtype=dtype, half=half) == ""


@pytest.mark.parametrize("metric", ["cos", *(pytest.param(m, marks=pytest.mark.long) for m in ("ip", "l2"))])
def test_answers(run: Run, metric: str) -> None:
    assert run("answers", n=33, m=50, d=24, metric=metric) == ""


def test_a_wrong_case_is_told(run: Run) -> None:
    assert "KeyError" in run("no such case")
