"""What became of all rows of a pool: added up shard by shard, and told as a table of causes."""

from __future__ import annotations

import heapq
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from dcfast.acquire.causes import CAUSES
from dcfast.acquire.foreign import UNTOLD, ForeignShard
from dcfast.acquire.stats import MOST_NAMED, HostStats, ShardStats, most_often
from dcfast.storage.records import Count, Record, read_record

ACQUIRED = "acquired.json"
"""Of a pool: ``AcquireSummary``."""
_MOST_HELD = 20_000
"""Hosts, and hashes, that are remembered while shards are added up."""


class Placeholder(Record):
    """One SHA-256 that came for several URLs of a shard: most often a server's picture for what is gone.

    ``rows``: at least so many have it; a shard names the 20 that it has most often.
    """

    sha256: str
    rows: Count


class Host(Record):
    """A host, and what it took."""

    name: str
    rows: Count
    failures: Count
    seconds: float


class AcquireSummary(Record):
    """What became of the rows of a pool; ``acquired.json``.

    Attributes:
        rows: asked for.   listed: of all lists, a subset's and others.   successes: with an image.
        causes: cause -> rows, of those without.   drifted, expected: as of a shard.
        retried: rows that were fetched again; of them those that came in the end count as successes.
        foreign: shards of another tool.   resize: ``scaled`` or ``exact``.
        hosts: those that took longest.   placeholders: SHA-256 that came for several URLs.
        chosen_by: the filter of metadata that chose the subset, where a run did.
    Example: ``acquire_pool(AcquireOptions(out="new", urls="list.parquet")).causes == {"invalid_url": 1}``
    """

    listed: Count
    rows: Count
    successes: Count
    causes: dict[str, Count]
    drifted: Count
    expected: Count
    attempts: Count
    received: Count
    written: Count
    shards: Count
    retried: Count
    foreign: Count
    resize: str
    hosts: list[Host]
    placeholders: list[Placeholder]
    chosen_by: str = ""

    @property
    def lines(self) -> list[str]:
        """For people: what came, and a table of why the rest did not."""
        share = f" ({100 * self.successes / self.rows:.1f}%)" if self.rows else ""
        found = [
            f"{self.successes:,} images of {self.rows:,} rows{share} in {self.shards:,} shards; "
            f"{self.received / 1e6:,.1f} MB came, {self.written / 1e6:,.1f} MB were written, "
            f"{self.attempts:,} requests"
        ]
        if self.causes:
            width = max(map(len, self.causes))
            found += ["", f"{'cause':{width}}  {'rows':>12}         "]
            for name, rows in self.causes.items():
                share = f"{100 * rows / self.rows:5.1f}%" if self.rows else ""
                words = CAUSES[name].words if name in CAUSES else "another tool did not say why"
                found.append(f"{name:{width}}  {rows:12,}  {share}  {words}")
        if self.expected:
            found.append(f"{self.drifted:,} of {self.expected:,} images are not the bytes of the list's SHA-256")
        for one in self.placeholders[:5]:
            found.append(f"one image came for {one.rows:,} rows and more, a placeholder perhaps: SHA-256 {one.sha256}")
        return found


@dataclass
class Sum:
    """Adds up shards. Memory: bounded by ``_MOST_HELD`` hosts and hashes."""

    rows: int = 0
    successes: int = 0
    causes: Counter[str] = field(default_factory=Counter)
    drifted: int = 0
    expected: int = 0
    attempts: int = 0
    received: int = 0
    written: int = 0
    shards: int = 0
    retried: int = 0
    foreign: int = 0
    hosts: dict[str, HostStats] = field(default_factory=dict)
    repeated: Counter[str] = field(default_factory=Counter)

    def add(self, stats: ShardStats, *, is_retry: bool = False) -> None:
        """A shard, or one of a retry: the causes that its rows had before are taken off by the caller."""
        self.shards += bool(stats.rows)
        if is_retry:
            self.retried += stats.rows
        else:
            self.rows += stats.rows
        self.successes += stats.successes
        self.causes += Counter(stats.causes)
        self.drifted += stats.drifted
        self.expected += stats.expected
        self.attempts += stats.attempts
        self.received += stats.received
        self.written += stats.written
        for name, host in stats.hosts.items():
            had = self.hosts.get(name, HostStats(0, 0, 0.0))
            self.hosts[name] = HostStats(
                had.rows + host.rows, had.failures + host.failures, round(had.seconds + host.seconds, 3)
            )
        self.repeated.update(stats.repeated)
        if len(self.hosts) > 2 * _MOST_HELD:
            self.hosts = dict(heapq.nlargest(_MOST_HELD, self.hosts.items(), key=lambda one: one[1].seconds))
        if len(self.repeated) > 2 * _MOST_HELD:
            self.repeated = Counter(dict(self.repeated.most_common(_MOST_HELD)))

    def add_foreign(self, theirs: ForeignShard) -> None:
        """A shard of another tool."""
        self.rows += theirs.rows
        self.successes += theirs.successes
        self.shards += 1
        self.foreign += 1
        self.causes += theirs.causes

    def summary(self, listed: int, resize: str, chosen_by: str) -> AcquireSummary:
        """The record of it."""
        longest = sorted(self.hosts.items(), key=lambda one: (-one[1].seconds, one[0]))[:MOST_NAMED]
        return AcquireSummary(
            listed=listed,
            rows=self.rows,
            successes=self.successes,
            causes={name: self.causes[name] for name in (*CAUSES, UNTOLD) if self.causes[name]},
            drifted=self.drifted,
            expected=self.expected,
            attempts=self.attempts,
            received=self.received,
            written=self.written,
            shards=self.shards,
            retried=self.retried,
            foreign=self.foreign,
            resize=resize,
            chosen_by=chosen_by,
            hosts=[Host(name, host.rows, host.failures, host.seconds) for name, host in longest],
            placeholders=[Placeholder(sha, rows) for sha, rows in most_often(self.repeated) if rows >= 10],
        )


def read_acquired(pool: Path) -> AcquireSummary | None:
    """What became of the rows of a pool that was acquired; None for others. CorruptDataError: it cannot be read."""
    path = pool / ACQUIRED
    return (
        read_record(path, AcquireSummary, advice="give the command that made the pool again")
        if path.is_file()
        else None
    )


def unasked_rows(pool: Path) -> int:
    """The metadata rows of a pool that no image was asked for, since only a subset's were acquired."""
    acquired = read_acquired(pool)
    return 0 if acquired is None else max(0, acquired.listed - acquired.rows)
