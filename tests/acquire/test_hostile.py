"""The hostile web, asked for by an acquisition: each row ends in time, with the cause that it should have."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from acquisitions import acquire, outcomes, web_of, write_list
from dcfast.acquire import AcquireSummary
from hostile_catalogue import CATALOGUE
from hostile_urls import BAD_URLS, ODD_URLS, PRIVATE_URLS
from hostile_web import HostileWeb, hostile_web

TRIES, TIMEOUT = 3, 1.5
SLACK = 2.0
"""Seconds that a busy machine may lose beside deadlines and pauses."""


@pytest.fixture(scope="module")
def web() -> Iterator[HostileWeb]:
    with hostile_web() as running:
        yield running


@dataclass
class Acquired:
    """The acquisition of everything."""

    summary: AcquireSummary
    rows: list[dict[str, Any]]
    seconds: float

    def of(self, url: str | None) -> dict[str, Any]:
        return next(row for row in self.rows if row["url"] == url)


@pytest.fixture(scope="module")
def acquired(web: HostileWeb, tmp_path_factory: pytest.TempPathFactory) -> Acquired:
    place = tmp_path_factory.mktemp("hostile")
    good = [web.url(one.name) for one in web.behaviours("robots")]
    urls = write_list(place / "list.parquet", [*good, *BAD_URLS, *PRIVATE_URLS, *ODD_URLS])
    began = time.monotonic()
    summary = acquire(place / "pool", urls, web_of(web, timeout=TIMEOUT))
    return Acquired(summary, outcomes(place / "pool"), time.monotonic() - began)


@pytest.mark.parametrize("name", CATALOGUE)
def test_each_behaviour_has_its_cause(name: str, web: HostileWeb, acquired: Acquired) -> None:
    one = CATALOGUE[name]
    if one not in web.behaviours("robots"):
        pytest.skip("needs IPv6")
    row = acquired.of(web.url(name))
    assert row["cause"] in one.causes(), row
    if name != "length_too_short":  # whether the rest is taken for the next answer, and tried again, is chance
        assert row["attempts"] == one.attempts_of(TRIES, row["cause"]), row
    assert row["seconds"] <= row["attempts"] * TIMEOUT + SLACK
    assert (row["status"] == "success") == (row["cause"] == "") == (row["error_message"] is None)


def test_all_of_it_ends_in_time_and_is_counted(acquired: Acquired) -> None:
    found: dict[str, int] = {}
    for row in acquired.rows:
        found[row["cause"]] = found.get(row["cause"], 0) + 1
    assert acquired.summary.successes == found.pop("")
    assert acquired.summary.causes == found
    assert acquired.summary.rows == len(acquired.rows)
    assert acquired.summary.attempts == sum(row["attempts"] for row in acquired.rows)
    assert acquired.seconds <= TRIES * TIMEOUT + 0.05 + 0.1 + 3 * SLACK


@pytest.mark.parametrize("number", range(len(BAD_URLS)))
def test_what_is_no_url_is_not_asked_for(number: int, acquired: Acquired) -> None:
    row = acquired.of(BAD_URLS[number])
    allowed = {"invalid_url"} if number < len(BAD_URLS) - 2 else {"invalid_url", "dns_not_found"}
    assert row["cause"] in allowed, row
    assert row["attempts"] == 1
    assert row["http_status"] is None


@pytest.mark.parametrize("url", PRIVATE_URLS)
def test_private_addresses_are_not_asked(url: str, acquired: Acquired) -> None:
    assert acquired.of(url)["cause"] == "private_address"


@pytest.mark.parametrize("url", ODD_URLS)
def test_nor_are_those_that_only_libraries_of_c_read(url: str, acquired: Acquired) -> None:
    assert acquired.of(url)["cause"] in ("private_address", "invalid_url", "dns_not_found")
