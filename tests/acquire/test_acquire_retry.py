"""Rows that failed, fetched again: into new shards, under their old keys, without a file being rewritten."""

from __future__ import annotations

import json
import tarfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from acquisitions import acquire, causes, made, outcomes, web_of, write_list
from dcfast import save_subset, uid_parse, uid_sort
from dcfast.acquire import AcquireOptions, AcquireSummary, WebOptions, acquire_pool
from dcfast.acquire.foreign import cause_of
from dcfast.acquire.pool import _Acquisition
from dcfast.acquire.retry import FETCHED_AGAIN
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
    from dcfast.acquire.rows import RowRange

    lists = str(pool / "metadata/l.parquet")
    shards = [RowRange(lists, SIZE * n, min(SIZE, len(ROWS) - SIZE * n), n, SIZE, "json", None) for n in range(3)]
    plan_round(pool, ["server_error"], shards, [], SIZE)


def keys_in_tars(pool: Path) -> Counter[str]:
    """Key of a sample -> how often it stands in the tars of a pool."""
    found: Counter[str] = Counter()
    for path in (pool / "shards").glob("*.tar"):
        with tarfile.open(path) as tar:
            found.update(member.name.partition(".")[0] for member in tar if member.name.endswith(".jpg"))
    return found


@pytest.mark.parametrize("lost", [(0,), (0, 3), (0, 1, 2, 3, 4), (3,)])
def test_a_shard_that_is_made_anew_has_no_sample_of_a_retry(lost: tuple[int, ...], web: HostileWeb, pool: Path) -> None:
    comes(web, "status_500")
    again(web, pool, "later")  # 500 came; 403 and 502 did not
    comes(web, "status_403")
    before = again(web, pool, "refused")
    samples, rows = keys_in_tars(pool), outcomes(pool)
    assert set(samples.values()) == {1}
    comes(web, "status_404", "status_502", "status_410")  # whatever would come now
    for number in lost:
        (pool / f"shards/{number:08d}.tar").unlink()
    said = list[str]()
    given = AcquireOptions(out=str(pool), urls=str(pool.parent / "l.parquet"), shard_size=SIZE, quiet=True, workers=1)
    after = acquire_pool(given, options(web), say=said.append)
    assert after is not None
    found = keys_in_tars(pool)
    assert set(found.values()) == {1}, "no sample twice"
    assert samples.keys() <= found.keys(), "and none is lost"
    assert after.successes == found.total()
    # the rows that a round holds are not asked for in the shards before it, and fail there by what they had failed by
    anew = [row for row in outcomes(pool) if row["error_message"] == FETCHED_AGAIN]
    held = {"000000001", "000000002", "000000012"}
    assert {row["key"] for row in anew} <= held
    was = {(row["key"], row["cause"]) for row in rows}
    assert {(row["key"], row["cause"]) for row in anew} <= was
    assert [bool(anew), bool(said)] == [True, True]
    first = 4 if lost == (3,) else 3
    assert f"--retry had fetched again stay in its shards, from {first:08d} on, and are left out of these" in said[0]
    assert after.causes.get("refused", 0) == 0
    assert after.rows == before.rows
    assert acquire_pool(given, options(web)) == after, "and it stays so"


def test_failures_of_img2dataset_are_fetched_again(web: HostileWeb, tmp_path: Path) -> None:
    hashes = [f"{n:064x}" for n in range(len(ROWS))]
    table = table_of(web, tmp_path / "l.parquet", sha256=hashes, face_bboxes=[[[0.1, 0.1, 0.2, 0.2]]] * len(ROWS))
    pool = tmp_path / "pool"
    acquire(pool, table, options(web), shard_size=SIZE)
    for path in [*(pool / "outcomes").glob("00000000*"), *(pool / "state/acquire/shards").glob("00000000*")]:
        path.unlink()
    stats = pool / "shards/00000000_stats.json"
    stats.write_text(json.dumps({**json.loads(stats.read_text()), "dcfast": None}))
    sidecar = pool / "shards/00000000.parquet"
    pq.write_table(pq.read_table(sidecar).take([2, 1, 0]), sidecar)  # in the order in which they came
    before = files(pool)
    comes(web, "status_500", "status_403")
    summary = again(web, pool, "later")
    assert (summary.foreign, summary.retried, summary.causes) == (1, 3, {"server_error": 1, "gone": 2})
    assert {path: after for path, after in files(pool).items() if path in before} == before
    assert keys_in_tars(pool) == dict.fromkeys(["000000000", "000000001", "000000002", "000000011"], 1)
    rows = [row for row in outcomes(pool) if row["key"] in ("000000001", "000000002")]
    assert [row["uid"] for row in rows] == [uid_of(1), uid_of(2)]
    assert [row["expected_sha256"] for row in rows] == hashes[1:3], "the list's, which the sidecar does not have"
    assert pq.read_table(pool / "shards/00000003.parquet")["face_bboxes"].to_pylist()[0] == [[0.1, 0.1, 0.2, 0.2]]
    assert again(web, pool) == summary
    pq.write_table(pq.read_table(sidecar).drop_columns(["error_message"]), sidecar)
    assert again(web, pool).causes["foreign"] == 2, "a sidecar that does not say why"


@pytest.mark.parametrize(
    ("status", "text", "cause"),
    [
        ("failed_to_download", "HTTP Error 404: Not Found", "gone"),
        ("failed_to_download", "HTTP Error 403: Forbidden", "refused"),
        ("failed_to_download", "HTTP Error 429: Too Many Requests", "throttled"),
        ("failed_to_download", "HTTP Error 503: Service Unavailable", "server_error"),
        ("failed_to_download", "HTTP Error 302: The HTTP server returned a redirect error ...", "redirects"),
        ("failed_to_download", "<urlopen error [Errno -3] Temporary failure in name resolution>", "dns_temporary"),
        ("failed_to_download", "<urlopen error [Errno -2] Name or service not known>", "dns_not_found"),
        ("failed_to_download", "<urlopen error [Errno -5] No address associated with hostname>", "dns_not_found"),
        ("failed_to_download", "<urlopen error timed out>", "timeout"),
        ("failed_to_download", "The read operation timed out", "timeout"),
        ("failed_to_download", "[Errno 104] Connection reset by peer", "connection"),
        ("failed_to_download", "IncompleteRead(10 bytes read, 20 more expected)", "connection"),
        (
            "failed_to_download",
            "<urlopen error [SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed: x (_ssl.c:1006)>",
            "tls",
        ),
        ("failed_to_download", "'ascii' codec can't encode character '\\xfc' in position 5", "unforeseen"),
        ("failed_to_download", "<urlopen error unknown url type: htp>", "invalid_url"),
        ("failed_to_download", "Use of image disallowed by X-Robots-Tag directive", "opt_out"),
        ("failed_to_download", "hash mismatch", "hash_mismatch"),
        ("failed_to_resize", "Image decoding error", "undecodable"),
        ("failed_to_resize", "aspect ratio too large", "by_rule"),
        ("failed_to_resize", "image too small", "by_rule"),
    ],
)
def test_what_img2dataset_says_is_classed(status: str, text: str, cause: str) -> None:
    assert cause_of(status, text) == cause
