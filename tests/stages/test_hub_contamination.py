"""Contamination by pictures of evaluation sets that lie in the caches of Hugging Face's hub."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq
import pytest
from dcfast.run.workflow import run
from dcfast.rundir.settings import Settings
from evalset_builder import picture as colour
from hub_builder import set_file, write_cache
from pool_builder import PoolBuilder, Sample, evalset, picture, uid_of


def _pool(root: Path) -> str:
    shard = [Sample(number) for number in range(6)]
    shard[2] = Sample(2, jpg=colour("red"))
    shard[4] = Sample(4, jpg=picture(900))
    builder = PoolBuilder(root, [shard])
    builder.write()
    return str(root)


@pytest.mark.parametrize("layout", ["script", "today", "hub"])
def test_pictures_in_a_cache_are_looked_for(layout: str, tmp_path: Path) -> None:
    sets = write_cache(tmp_path / "sets", layout)
    evalset(sets, "first", {"s0": picture(900)})
    settings = Settings(pool=_pool(tmp_path / "pool"), evalsets=str(sets), filter="~contaminated", train=False)
    found = run(tmp_path / "run", settings)
    names = ["first", "misc-winogavil", "retrieval-flickr_1k_test_image_text_retrieval"]
    assert [(one.name, one.pictures) for one in found["signatures"].evalsets] == list(
        zip(names, (1, 8, 8), strict=True)
    )
    key = "row 1" if layout == "hub" else "red.png"  # parquet is not unpacked for its names
    hits = pq.read_table(tmp_path / "run/contamination.parquet").to_pylist()
    assert {
        (hit["uid"], hit["evalset"], hit["evalset_key"], hit["method"]) for hit in hits if hit["uid"] == uid_of(2)
    } == {(uid_of(2), name, key, "content") for name in names[1:]}
    assert found["filter"].fates["kept"] == 4
    assert "not shown" in (tmp_path / "run/report.html").read_text()  # of the pair, but the page is whole


def test_a_cache_that_cannot_be_read_is_noted(tmp_path: Path) -> None:
    sets = write_cache(tmp_path / "sets", "today")
    file = set_file(sets, "today", "winogavil")
    file.write_bytes(file.read_bytes()[:1000])
    settings = Settings(pool=_pool(tmp_path / "pool"), evalsets=str(sets), filter="~contaminated", train=False)
    notes = run(tmp_path / "run", settings, last="signatures")["signatures"].notes
    assert len(notes) == 1
    assert notes[0].startswith("evaluation set misc-winogavil: winogavil-test.arrow cannot be read: ")
    assert notes[0].endswith("what it hides was not compared, so contamination may be missed")
