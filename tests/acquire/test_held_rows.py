"""What a shard holds of its rows: little a row, and the same row whenever it is looked at."""

from __future__ import annotations

import math
import os
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest
from dcfast.acquire.causes import SUCCESS
from dcfast.acquire.files import Outcomes
from dcfast.acquire.rows import Row, Rows
from dcfast.acquire.spool import Fetched, Spool
from dcfast.acquire.turns import Turns

COUNT = 4_000


def _row(number: int) -> Row:
    url, boxes = f"http://h{number}.de/a/picture/{number}.jpg", [[0.1, 0.2, 0.3, 0.4]]
    return Row(number, f"{number:012d}", f"{number:032x}", url, f"a caption of row {number}", boxes, None)


def _bytes_a_row(make: Callable[[], object]) -> float:
    tracemalloc.start()
    try:
        kept = make()
        assert kept is not None
        return tracemalloc.get_traced_memory()[0] / COUNT
    finally:
        tracemalloc.stop()


def test_rows_are_the_same_whenever_they_are_looked_at() -> None:
    given = [
        _row(3),
        Row(7, "é", None, None, None, None, "ab" * 32, "its url has more than 65,536 characters"),
        Row(8, "k", "u", "http://a.de/�", "", [[0, 1, 1, 0.5], []], None),  # whole numbers stay such
        _row(1 << 40),
    ]
    rows = Rows(given)
    assert list(rows) == list(rows) == given
    assert [rows.of(row.number) for row in reversed(given)] == given[::-1]
    assert repr(rows.of(8).boxes) == repr(given[2].boxes)
    assert list(rows.numbers) == [3, 7, 8, 1 << 40]
    assert (len(rows), len(Rows())) == (4, 0)
    odd = Rows([Row(0, "k", None, None, None, [[math.nan, math.inf]], None)]).of(0).boxes
    assert odd is not None
    assert math.isnan(odd[0][0])
    assert odd[0][1] == math.inf


def test_outcomes_come_in_parts_and_again(tmp_path: Path) -> None:
    rows, spool = Rows(map(_row, range(5))), Spool(tmp_path / "1.spool", "a" * 64)
    for number in (4, 0, 2, 1, 3):
        spool.add(Fetched(number, SUCCESS, message=f"of {number}"), b"image")
    found = Outcomes(rows, spool)
    assert [(row.number, one.number, one.message) for row, one in found] == [(n, n, f"of {n}") for n in range(5)]
    assert [[row.number for row, _ in part] for part in found.parts(2)] == [[0, 1], [2, 3], [4]]
    assert list(found) == list(found)
    assert len(found) == 5
    spool.close()


def test_a_row_takes_some_hundred_bytes(tmp_path: Path) -> None:
    def spool() -> Spool:
        made = Spool(tmp_path / "1.spool", "a" * 64)
        for number in range(1_000, 1_000 + COUNT):
            made.add(Fetched(number, SUCCESS, final_url="u" * 100, sha256="5" * 64, exif="{}" * 50), b"image")
        return made

    def turns() -> Turns:
        made = Turns(8, 0.0, 0)
        for number in range(COUNT):
            made.add(number, f"h{number}.de")
        return made

    assert _bytes_a_row(lambda: Rows(map(_row, range(COUNT)))) <= 350
    assert _bytes_a_row(spool) <= 200
    assert _bytes_a_row(turns) <= 400, "a host a row"


@pytest.mark.parametrize(("given", "expected"), [(None, "system"), ("mimalloc", "mimalloc")])
def test_arrow_has_the_allocator_of_the_system(given: str | None, expected: str) -> None:
    name = "ARROW_DEFAULT_MEMORY_POOL"
    code = (
        "import os\nfrom dcfast.acquire.memory import load_arrow\nload_arrow()\nimport pyarrow as pa\n"
        f"print(pa.default_memory_pool().backend_name, os.environ.get({name!r}))"
    )
    surroundings = {key: value for key, value in os.environ.items() if key != name}
    surroundings |= {} if given is None else {name: given}
    done = subprocess.run(
        [sys.executable, "-c", code], env=surroundings, capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.split() == [expected, str(given)]
