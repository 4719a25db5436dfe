"""What hosts see of an acquisition: how often, how many at once, as whom; and what is asked of the DNS."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest
from acquisitions import acquire, causes, outcomes, web_of, write_list
from dcfast.acquire import WebOptions, resolver
from dcfast.acquire import web as web_module
from hostile_bytes import picture
from hostile_exchange import Request
from hostile_web import HostileWeb, hostile_web


@pytest.fixture(scope="module")
def web() -> Iterator[HostileWeb]:
    with hostile_web({f"/{n}.jpg": picture(seed=n) for n in range(40)}) as running:
        yield running


def files(web: HostileWeb, host: str, count: int) -> list[str]:
    return [web.at(f"/{n}.jpg", host=f"{host}.hostile.test") for n in range(count)]


def came(web: HostileWeb, host: str) -> list[Request]:
    return web.requests_of(f"{host}.hostile.test")


def gaps(requests: list[Request]) -> list[float]:
    return [after.at - before.at for before, after in itertools.pairwise(requests)]


def test_connections_to_a_host_are_few_and_kept(web: HostileWeb, tmp_path: Path) -> None:
    before = web.connections
    acquire(
        tmp_path / "pool", write_list(tmp_path / "l.parquet", files(web, "kept", 40)), web_of(web, host_connections=3)
    )
    assert len(came(web, "kept")) == 40
    assert web.connections - before <= 4
    assert web.most_at_once["kept.hostile.test"] <= 3
    assert causes(tmp_path / "pool") == {"": 40}


def test_as_many_at_once_as_are_allowed(web: HostileWeb, tmp_path: Path) -> None:
    urls = [web.url("late", f"n={n}", host="busy.hostile.test") for n in range(12)]
    table = write_list(tmp_path / "l.parquet", urls)
    acquire(tmp_path / "pool", table, web_of(web, host_connections=4), workers=16)  # one shard: one is at work
    assert web.most_at_once["busy.hostile.test"] == 4
    assert causes(tmp_path / "pool") == {"": 12}


def test_workers_share_the_limits_of_a_host() -> None:
    share = WebOptions(host_connections=8, host_rate=50.0).divided(4)
    assert (share.host_connections, share.host_rate) == (2, 12.5)
    assert WebOptions(host_connections=2).divided(4).host_connections == 1


def test_requests_a_second_to_a_host(web: HostileWeb, tmp_path: Path) -> None:
    urls = [*files(web, "slow", 6), *files(web, "other", 6)]
    acquire(tmp_path / "pool", write_list(tmp_path / "l.parquet", urls), web_of(web, host_rate=10.0, robots=False))
    for host in ("slow", "other"):
        assert len(came(web, host)) == 6
        assert sum(gaps(came(web, host))) >= 0.3  # of 0.5; the first may come late on a busy machine


def test_a_host_that_asks_for_patience_is_not_asked_meanwhile(web: HostileWeb, tmp_path: Path) -> None:
    urls = [web.url("throttled_once", host="patient.hostile.test"), *files(web, "patient", 5), *files(web, "quick", 3)]
    acquire(tmp_path / "pool", write_list(tmp_path / "l.parquet", urls), web_of(web, host_connections=1))
    assert causes(tmp_path / "pool") == {"": 9}
    first, *others = gaps(came(web, "patient"))
    assert first >= 0.99, "Retry-After: 1"
    assert max(others) < 0.9
    assert max(request.at for request in came(web, "quick")) < came(web, "patient")[1].at


def test_a_crawl_delay_is_kept(web: HostileWeb, tmp_path: Path) -> None:
    web.robots["crawl.hostile.test"] = "User-agent: dcfast\nCrawl-delay: 0.3\n"
    acquire(
        tmp_path / "pool", write_list(tmp_path / "l.parquet", files(web, "crawl", 4)), web_of(web, host_connections=1)
    )
    assert len(came(web, "crawl")) == 4
    assert sum(gaps(came(web, "crawl"))) >= 0.89


def test_robots_is_asked_once_an_origin_by_an_agent_with_a_contact(web: HostileWeb, tmp_path: Path) -> None:
    web.robots["once.hostile.test"] = "User-agent: dcfast\nDisallow: /1\n"
    options = web_of(web, contact="crawl@example.org")
    summary = acquire(tmp_path / "pool", write_list(tmp_path / "l.parquet", files(web, "once", 20)), options)
    assert len(web.requests_of("once.hostile.test", robots=True)) == 1
    assert summary.causes == {"robots": 11}  # 1, and 10 to 19
    assert not [one for one in came(web, "once") if one.path.startswith("/1")]
    agents = {one.headers["user-agent"] for one in web.requests if one.host == "once.hostile.test"}
    assert agents == {options.user_agent}
    assert options.user_agent.startswith("dcfast/")
    assert options.user_agent.endswith(" (+crawl@example.org)")


def test_cookies_last_as_long_as_the_redirects_of_a_row(web: HostileWeb, tmp_path: Path) -> None:
    urls = [web.url("redirect_cookie", host="biscuit.hostile.test"), *files(web, "biscuit", 3)]
    acquire(tmp_path / "pool", write_list(tmp_path / "l.parquet", urls), web_of(web, host_connections=1))
    assert causes(tmp_path / "pool") == {"": 4}
    assert [one.headers.get("cookie") for one in came(web, "biscuit")][2:] == ["gate=open", None, None, None]


def test_a_dead_host_is_given_up_and_no_other(web: HostileWeb, tmp_path: Path) -> None:
    dead = [web.at(f"/{n}.jpg", host="dead.hostile.test", port="closed") for n in range(40)]
    options = web_of(web, host_connections=4, host_failures=10)
    summary = acquire(tmp_path / "pool", write_list(tmp_path / "l.parquet", [*dead, *files(web, "alive", 10)]), options)
    assert summary.successes == 10
    assert summary.causes["connection"] + summary.causes["host_down"] == 40
    rows = [row for row in outcomes(tmp_path / "pool") if row["cause"] == "host_down"]
    assert len(rows) >= 20
    assert {row["attempts"] for row in rows} == {0}
    assert sum(row["attempts"] for row in outcomes(tmp_path / "pool")) - 10 <= 10 + 4


def test_a_host_is_not_blamed_for_where_it_leads(web: HostileWeb, tmp_path: Path) -> None:
    """A shortener of links to a dead host goes on with its other links; the dead host is given up all the same."""
    dead = [web.url("redirect_closed", f"n={n}", host="short.hostile.test") for n in range(30)]
    urls = [*dead, *[web.url("redirect_308", f"n={n}", host="short.hostile.test") for n in range(5)]]
    options = web_of(web, host_connections=2, host_failures=5)
    summary = acquire(tmp_path / "pool", write_list(tmp_path / "l.parquet", urls), options)
    assert summary.successes == 5
    assert summary.causes["host_down"] >= 20
    assert sum(summary.causes.values()) == 30
    assert len([one for one in came(web, "short") if one.path.startswith("/redirect_closed")]) < 60


def leads(web: HostileWeb, source: str, target: str, count: int) -> list[str]:
    """URLs of a host, each of which a redirect leads to another host from."""
    return [
        web.url("redirect_to", f"to={target}.hostile.test&n={n}", host=f"{source}.hostile.test") for n in range(count)
    ]


def test_a_host_that_redirects_lead_to_has_its_limits(web: HostileWeb, tmp_path: Path) -> None:
    """Many hosts lead to one, which has rows of its own."""
    urls = [url for n in range(6) for url in leads(web, f"from{n}", "store", 2)]
    urls += files(web, "store", 4)
    options = web_of(web, host_connections=2, host_rate=20.0, robots=False)
    acquire(tmp_path / "pool", write_list(tmp_path / "l.parquet", urls), options)
    assert causes(tmp_path / "pool") == {"": 16}
    assert len(came(web, "store")) == 16
    assert web.most_at_once["store.hostile.test"] <= 2
    assert sum(gaps(came(web, "store"))) >= 0.9 * 15 / 20
    rows = outcomes(tmp_path / "pool")
    assert {row["attempts"] for row in rows} == {1}, "redirects aside"
    assert [row["final_url"] is not None and "//store.hostile.test" in row["final_url"] for row in rows] == (
        [True] * 12 + [False] * 4
    )


def test_hosts_that_lead_to_each_other_do_not_wait_for_ever(web: HostileWeb, tmp_path: Path) -> None:
    urls = [*leads(web, "left", "right", 12), *leads(web, "right", "left", 12)]
    options = web_of(web, host_connections=1, robots=False, timeout=5.0)
    summary = acquire(tmp_path / "pool", write_list(tmp_path / "l.parquet", urls), options)
    assert (summary.successes, summary.attempts) == (24, 24)
    assert [web.most_at_once[f"{host}.hostile.test"] for host in ("left", "right")] == [1, 1]


def test_a_wait_for_the_turn_of_another_host_is_not_of_the_deadline(web: HostileWeb, tmp_path: Path) -> None:
    web.robots["calm.hostile.test"] = "User-agent: dcfast\nCrawl-delay: 0.4\n"
    urls = leads(web, "hasty", "calm", 6)
    acquire(tmp_path / "pool", write_list(tmp_path / "l.parquet", urls), web_of(web, timeout=1.0, host_connections=1))
    assert causes(tmp_path / "pool") == {"": 6}
    assert sum(gaps(came(web, "calm"))) >= 1.9


def test_a_name_is_asked_for_once(web: HostileWeb, tmp_path: Path) -> None:
    acquire(tmp_path / "pool", write_list(tmp_path / "l.parquet", files(web, "named", 20)), web_of(web))
    assert web.dns.queries("named.hostile.test") == 2  # A and AAAA


def test_an_answer_that_changes_leads_to_no_private_address(
    web: HostileWeb, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DNS rebinding: each answer is looked at, and what was looked at is what is connected to."""
    for module in (resolver, web_module):
        monkeypatch.setattr(module, "REMEMBERED_SECONDS", 0.0)
    monkeypatch.setattr(web.dns, "ttl_s", 0)  # which c-ares keeps to
    web.dns.names["rebind.hostile.test"] = lambda earlier: ["127.0.0.1"] if earlier == 0 else ["10.0.0.1"]
    web.dns.names["mixed.hostile.test"] = ["10.0.0.1", "127.0.0.1", "169.254.169.254"]
    urls = [web.url("http10", f"n={n}", host="rebind.hostile.test") for n in range(3)]
    urls += [web.url("http10", f"n={n}", host="mixed.hostile.test") for n in range(3)]
    options = web_of(web, host_connections=1, robots=False)
    acquire(tmp_path / "pool", write_list(tmp_path / "l.parquet", urls), options)
    assert [row["cause"] for row in outcomes(tmp_path / "pool")] == [
        "",
        "private_address",
        "private_address",
        "",
        "",
        "",
    ]
    assert web.dns.queries("rebind.hostile.test") >= 4
