"""Rows that failed, fetched again: into new shards, under their old keys, without a file being rewritten."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from acquisitions import acquire, causes, made, outcomes, web_of, write_list
from dcfast import save_subset, uid_parse, uid_sort
from dcfast.acquire import AcquireOptions, AcquireSummary, WebOptions, acquire_pool
from dcfast.acquire.pool import _Acquisition
from dcfast.cli import main
from dcfast.errors import RunError
from hostile_bytes import picture
from hostile_web import HostileWeb, hostile_web
from pool_builder import uid_of

ROWS = ["/0.jpg", "status_500", "status_403", "status_404", "/1.jpg", "status_502", "status_410"]
FIRST = {"server_error": 2, "refused": 1, "gone": 2}
SIZE = 3


@pytest.fixture
def web() -> Iterator[HostileWeb]:
    with hostile_web({f"/{n}.jpg": picture(seed=n) for n in range(2)}) as running:
        yield running


def table_of(web: HostileWeb, place: Path, **columns: object) -> Path:
    return write_list(place, [web.at(one) if one.startswith("/") else web.url(one) for one in ROWS], **columns)


def options(web: HostileWeb) -> WebOptions:
    return web_of(web, retries=0, robots=False)


@pytest.fixture
def pool(web: HostileWeb, tmp_path: Path) -> Path:
    """Three shards of which five rows failed."""
    summary = acquire(tmp_path / "pool", table_of(web, tmp_path / "l.parquet"), options(web), shard_size=SIZE)
    assert summary.causes == FIRST
    return tmp_path / "pool"


def again(web: HostileWeb, pool: Path, *retry: str, **more: str) -> AcquireSummary:
    chosen = list(retry) or None
    return acquire(pool, pool.parent / "l.parquet", options(web), shard_size=SIZE, retry=chosen, **more)


def comes(web: HostileWeb, *names: str) -> None:
    """From now on these are images."""
    web.files.update({f"/{name}.jpg": picture(seed=len(name)) for name in names})


def files(pool: Path) -> dict[Path, tuple[int, bytes]]:
    places = [*(pool / "shards").iterdir(), *(pool / "outcomes").iterdir()]
    return {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in places}


def test_what_may_be_there_on_another_day(web: HostileWeb, pool: Path) -> None:
    before, asked = files(pool), len(web.requests)
    comes(web, "status_500", "status_403", "status_404")
    summary = again(web, pool, "later")
    assert {path: after for path, after in files(pool).items() if path in before} == before, "nothing is rewritten"
    assert sorted(one.path for one in web.requests[asked:]) == [f"/status_{n}.jpg" for n in (403, 500, 502)]
    assert (summary.rows, summary.successes, summary.causes) == (7, 4, {"server_error": 1, "gone": 2})
    assert (summary.retried, summary.shards, summary.attempts) == (3, 4, 10)
    new = pq.read_table(pool / "shards/00000003.parquet").to_pylist()
    assert [row["key"] for row in new] == ["000000001", "000000002", "000000012"], "the keys that they had"
    assert [row["uid"] for row in new] == [uid_of(n) for n in (1, 2, 5)]
    assert [row["status"] for row in new] == ["success", "success", "failed_to_download"]
    assert new[0]["caption"] == "a drawing of row 1"
    assert json.loads((pool / "acquired.json").read_text())["causes"] == summary.causes
    assert again(web, pool) == summary, "and it stays so"


def test_causes_by_name_and_again_and_again(web: HostileWeb, pool: Path) -> None:
    comes(web, "status_404")
    assert again(web, pool, "gone").causes == {"server_error": 2, "refused": 1, "gone": 1}
    assert again(web, pool, "gone").causes == {"server_error": 2, "refused": 1, "gone": 1}, "410 fails again"
    comes(web, "status_410", "status_502")
    summary = again(web, pool, "gone", "server_error")
    assert summary.causes == {"server_error": 1, "refused": 1}
    assert (summary.successes, summary.retried) == (5, 2 + 1 + 3)
    shards = [pq.read_table(pool / f"shards/{n:08d}.parquet", columns=["key"])["key"].to_pylist() for n in range(3, 6)]
    assert shards == [["000000010", "000000020"], ["000000020"], ["000000020", "000000001", "000000012"]]


def test_nothing_to_fetch_again_is_said(web: HostileWeb, pool: Path) -> None:
    before, said = files(pool), list[str]()
    given = AcquireOptions(
        out=str(pool), urls=str(pool.parent / "l.parquet"), shard_size=SIZE, retry=["tls"], quiet=True
    )
    acquire_pool(given, options(web), say=said.append)
    assert said == ["no row is left that failed by tls"]
    assert files(pool) == before
    with pytest.raises(ValueError, match=r"--retry must be one of .*later; got 'gnoe'; did you mean 'gone'"):
        again(web, pool, "gnoe")


def test_a_round_that_was_stopped_goes_on_and_no_other_begins(
    web: HostileWeb, pool: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*given: object) -> bool:
        raise KeyboardInterrupt

    monkeypatch.setattr(_Acquisition, "_fetch_round", stop)
    with pytest.raises(KeyboardInterrupt):
        again(web, pool, "later")
    monkeypatch.undo()
    assert not (pool / "shards/00000003.tar").exists()
    comes(web, "status_500")
    summary = again(web, pool, "later")
    assert summary.causes == {"server_error": 1, "refused": 1, "gone": 2}
    assert summary.retried == 3
    assert len(json.loads((pool / "state/acquire/retries.json").read_text())) == 1
    assert again(web, pool, "later").retried == 5


def test_more_rows_than_a_shard_has(web: HostileWeb, pool: Path) -> None:
    comes(web, "status_500", "status_403", "status_404", "status_502", "status_410")
    summary = again(web, pool, "later", "gone")
    assert (summary.successes, summary.causes, summary.retried) == (7, {}, 5)
    assert sorted(path.name for path in (pool / "shards").glob("*.tar")) == [f"{n:08d}.tar" for n in range(5)]
    run = ["run", "--pool", str(pool), "--no-train", "--to", "verify", "--out", str(pool.parent / "run")]
    assert main([*run, "--quiet", "--workers", "1", "--filter", "no_filter"]) == 0


def test_the_bytes_of_a_retry_are_those_of_any_other(web: HostileWeb, pool: Path) -> None:
    comes(web, "status_500", "status_403", "status_502")
    again(web, pool, "later")
    shards = made(pool)
    for path in [*(pool / "shards").glob("00000003*"), *(pool / "state/acquire/shards").glob("00000003*")]:
        path.unlink()
    again(web, pool)
    assert made(pool) == shards


@pytest.mark.parametrize("kind", ["subset", "url"])
def test_of_a_subset_and_of_lists_without_uids(kind: str, web: HostileWeb, tmp_path: Path) -> None:
    columns = {"uid": []} if kind == "url" else {"face_bboxes": [[[0.1, 0.1, 0.2, 0.2]]] * len(ROWS)}
    table_of(web, tmp_path / "l.parquet", **columns)
    save_subset(tmp_path / "s.npy", uid_sort(uid_parse([uid_of(n) for n in (0, 1, 3)])[0]))
    more = {"subset": str(tmp_path / "s.npy")} if kind == "subset" else {}
    pool = tmp_path / "pool"
    before = again(web, pool, **more)
    uids = {row["url"]: row["uid"] for row in outcomes(pool)}
    comes(web, "status_500")
    summary = again(web, pool, "later", **more)
    assert summary.successes == before.successes + 1
    last = outcomes(pool)[len(uids) :]
    assert {row["url"]: row["uid"] for row in last}.items() <= uids.items()
    assert len(last) == (1 if kind == "subset" else 3)
    assert causes(pool)[""] == summary.successes


def test_a_sidecar_of_other_rows_is_refused(web: HostileWeb, pool: Path) -> None:
    table = pq.read_table(pool / "shards/00000000.parquet")
    pq.write_table(table.take([1, 0, 2]), pool / "shards/00000000.parquet")
    with pytest.raises(RunError, match=r"00000000\.parquet .*are not of the same rows: remove the shard"):
        _plan(web, pool)


def _plan(web: HostileWeb, pool: Path) -> None:
    """A retry that trusts the markers."""
    from dcfast.acquire.retry import plan_round

    plan_round(pool, ["server_error"], iter(range(3)), [], SIZE)
