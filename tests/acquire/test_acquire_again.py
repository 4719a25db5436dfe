"""An acquisition that is given again elsewhere, or with other lists: nothing that came is lost, or fetched twice."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from acquisitions import acquire, causes, made, web_of, write_list
from dcfast import save_subset, uid_parse
from dcfast.acquire import ImageOptions
from dcfast.errors import PoolError, RunError
from dcfast.storage.listing import temporary_name
from dcfast.uids import uid_sort
from hostile_bytes import picture
from hostile_web import HostileWeb, hostile_web
from pool_builder import uid_of

COUNT = 6


@pytest.fixture
def web() -> Iterator[HostileWeb]:
    with hostile_web({f"/{n}.jpg": picture(seed=n) for n in range(COUNT)}) as running:
        yield running


@pytest.fixture
def table(web: HostileWeb, tmp_path: Path) -> Path:
    return write_list(tmp_path / "lists/l.parquet", [web.at(f"/{n}.jpg") for n in range(COUNT)])


@pytest.mark.parametrize("of_subset", [False, True])
def test_a_pool_that_was_moved_and_a_list_that_was_touched_keep_what_came(
    of_subset: bool, web: HostileWeb, table: Path, tmp_path: Path
) -> None:
    subset = tmp_path / "subset.npy"
    save_subset(subset, uid_sort(uid_parse([uid_of(n) for n in range(4)])[0]))
    more = {"subset": str(subset)} if of_subset else {}
    first = acquire(tmp_path / "pool", table, web_of(web), **more)
    before, asked = made(tmp_path / "pool"), len(web.requests)
    web.files.clear()  # what is gone from the web is in the pool alone
    (tmp_path / "pool").rename(tmp_path / "moved")
    os.utime(table)
    shutil.move(subset, tmp_path / "other.npy")
    os.utime(tmp_path / "other.npy")
    more = {"subset": str(tmp_path / "other.npy")} if of_subset else {}
    assert acquire(tmp_path / "moved", table, web_of(web), **more) == first
    assert (made(tmp_path / "moved"), len(web.requests)) == (before, asked)


def test_lists_that_are_refused_do_not_stay_in_the_pool(web: HostileWeb, table: Path, tmp_path: Path) -> None:
    out = tmp_path / "pool"
    first = acquire(out, table, web_of(web))
    write_list(tmp_path / "lists/m.parquet", [web.at("/1.jpg")], first=50)
    with pytest.raises(RunError, match=r"lists holds m\.parquet, without which .*pool was begun: choose another --out"):
        acquire(out, tmp_path / "lists", web_of(web))
    assert os.listdir(out / "metadata") == ["l.parquet"]
    assert acquire(out, table, web_of(web)) == first
    with pytest.raises(RunError, match=r"--update-lock would change the lists in .*metadata.*choose another --out"):
        acquire(out, table, web_of(web), update_lock=True)


def test_a_pool_without_its_state_is_not_written_over(web: HostileWeb, table: Path, tmp_path: Path) -> None:
    out = tmp_path / "pool"
    acquire(out, table, web_of(web))
    before = made(out)
    shutil.rmtree(out / "state")
    web.files.clear()
    with pytest.raises(RunError, match=r"was made by an acquisition whose state is gone: bring .*state/acquire back"):
        acquire(out, table, web_of(web))
    assert made(out) == before


def test_what_others_are_writing_below_a_pool_stays(web: HostileWeb, table: Path, tmp_path: Path) -> None:
    out = tmp_path / "pool"
    names = [temporary_name("a"), f"shards/{temporary_name('a')}", f"runs/mine/{temporary_name('a')}"]
    for name in names:
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (out / name).write_bytes(b"half")
    acquire(out, table, web_of(web))
    assert [(out / name).exists() for name in names] == [False, False, True]


def test_lists_that_are_links_are_taken_for_what_they_lead_to(web: HostileWeb, table: Path, tmp_path: Path) -> None:
    (tmp_path / "links").mkdir()
    (tmp_path / "links/l.parquet").symlink_to("../lists/l.parquet")
    out = tmp_path / "deep/below/pool"
    acquire(out, tmp_path / "links", web_of(web))
    assert not (out / "metadata/l.parquet").is_symlink()
    assert causes(out) == {"": COUNT}


def test_lists_that_were_renamed_otherwise_are_refused(web: HostileWeb, table: Path, tmp_path: Path) -> None:
    out, other = tmp_path / "pool", [f"title {n}" for n in range(COUNT)]
    write_list(table, [web.at(f"/{n}.jpg") for n in range(COUNT)], title=other, alt=other)
    first = acquire(out, table, web_of(web), caption_column="title")
    assert acquire(out, table, web_of(web), caption_column="title") == first
    with pytest.raises(
        RunError, match=r"l\.parquet was made of another file than .*, or by other columns: choose anoth"
    ):
        acquire(out, table, web_of(web), caption_column="alt")
    with pytest.raises(RunError, match=r"is another file than"):
        acquire(out, table, web_of(web))
    write_list(table, [web.at("/1.jpg")], title=["other"])
    with pytest.raises(RunError, match=r"l\.parquet was made of another file than"):
        acquire(out, table, web_of(web), caption_column="title")


@pytest.mark.parametrize("column", [None, [1] * COUNT])
def test_hashes_that_are_to_be_verified_must_be_there(
    column: list[int] | None, web: HostileWeb, table: Path, tmp_path: Path
) -> None:
    more = {} if column is None else {"sha256": column}
    write_list(table, [web.at(f"/{n}.jpg") for n in range(COUNT)], **more)
    with pytest.raises(PoolError, match=r"--verify-sha256 needs a column sha256 of strings.*l\.parquet"):
        acquire(tmp_path / "pool", table, web_of(web), ImageOptions(verify_sha256=True))
    assert web.requests == []


def test_names_that_are_no_utf8_are_said_with_what_to_do(web: HostileWeb, table: Path, tmp_path: Path) -> None:
    odd = tmp_path / os.fsdecode(b"b\xff.parquet")
    shutil.copy(table, odd)
    with pytest.raises(PoolError, match=r"its path is no UTF-8, and Arrow opens no other; rename the file, or its fol"):
        acquire(tmp_path / "pool", odd, web_of(web))
    write_list(table, [web.at("/0.jpg")], column_xx=["a"])
    (tmp_path / "columns.parquet").write_bytes(table.read_bytes().replace(b"column_xx", b"column_\xff\xfe"))
    for more in ({}, {"caption_column": "column_xx"}):
        with pytest.raises(PoolError, match=r"columns\.parquet: the name of a column is no UTF-8, or .*names in UTF-8"):
            acquire(tmp_path / "pool", tmp_path / "columns.parquet", web_of(web), **more)
    assert web.requests == []
    assert not list(tmp_path.glob("pool/**/*.parquet"))
