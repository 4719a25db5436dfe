"""The statistics of a shard: what became of its rows, in numbers."""

from __future__ import annotations

import heapq
from collections import Counter

from dcfast.acquire.causes import CAUSES, SUCCESS
from dcfast.acquire.files import Outcomes, has_drifted
from dcfast.storage.records import Count, Record

MOST_NAMED = 20
"""Hosts, and hashes of several rows, that the statistics of a shard name."""


class HostStats(Record):
    """What a host took: rows, those that failed, seconds of all attempts."""

    rows: Count
    failures: Count
    seconds: float


class Live(Record):
    """How far a shard at work is: rows that are done, those that succeeded, and the hosts that others wait for."""

    rows: Count
    done: Count
    successes: Count
    waiting: dict[str, Count]


class ShardStats(Record):
    """What became of the rows of a shard.

    Attributes:
        causes: cause -> rows.   drifted: successes whose SHA-256 is not the list's.   expected: those that have one.
        attempts: requests, redirects aside.   received: bytes that came; written: of images.
        hosts: those that took longest.   repeated: SHA-256 -> rows of the shard, of those of several URLs.
    """

    rows: Count
    successes: Count
    causes: dict[str, Count]
    drifted: Count
    expected: Count
    attempts: Count
    received: Count
    written: Count
    hosts: dict[str, HostStats]
    repeated: dict[str, Count]


def most_often(counts: Counter[str]) -> list[tuple[str, int]]:
    """The ``MOST_NAMED`` that were counted most often, in the same order whatever was counted first."""
    return heapq.nsmallest(MOST_NAMED, counts.items(), key=lambda one: (-one[1], one[0]))


def stats_of(found: Outcomes) -> ShardStats:
    """The statistics of rows and what became of them. Memory: some bytes a host, 250 a row."""
    from dcfast.acquire.addresses import host_of

    hosts: dict[str, list[float]] = {}
    images: set[tuple[bytes, int]] = set()  # of each its SHA-256, and what its URL is known by
    causes, drift, sums = Counter[str](), Counter[bool | None](), Counter[str]()
    for row, fetched in found:
        causes[fetched.cause] += 1
        drift[has_drifted(row, fetched)] += 1
        sums["successes"] += fetched.status == SUCCESS
        sums["attempts"] += fetched.attempts
        sums["received"] += fetched.size
        if fetched.sha256:
            images.add((bytes.fromhex(fetched.sha256), hash(row.url)))
        host = hosts.setdefault(host_of(row.url), [0, 0, 0.0])
        host[0] += 1
        host[1] += fetched.status != SUCCESS
        host[2] += fetched.seconds
    longest = sorted(hosts.items(), key=lambda one: (-one[1][2], one[0]))[:MOST_NAMED]
    hashes = Counter(sha.hex() for sha, _ in images)
    return ShardStats(
        rows=len(found),
        successes=sums["successes"],
        causes={name: causes[name] for name in CAUSES if causes[name]},
        drifted=drift[True],
        expected=drift[True] + drift[False],
        attempts=sums["attempts"],
        received=sums["received"],
        written=found.spool.image_bytes(),
        hosts={name: HostStats(int(n), int(bad), round(seconds, 3)) for name, (n, bad, seconds) in longest},
        repeated={sha: many for sha, many in most_often(hashes) if many > 1},
    )
