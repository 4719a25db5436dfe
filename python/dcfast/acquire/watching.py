"""Progress of shards at work: rows, the share that succeeds, and the hosts that others wait for."""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path

from dcfast.acquire.shard import STATE
from dcfast.acquire.stats import Live
from dcfast.engine.progress import Progress, StepProgress
from dcfast.errors import CorruptDataError
from dcfast.storage.records import read_record

_MOST_NAMED = 3
_MANY = 20
"""Rows of a host that wait, until it is named."""


class RowProgress(Progress):
    """Progress over rows: of shards that have ended, and of those at work, which say it in files of the pool."""

    def __init__(self, title: str, *, out: Path, total: int) -> None:
        super().__init__(title, total=total, pieces=0)
        self._out = out
        self._rows_ended = 0
        self._rows_asked = 0
        self._rows_succeeded = 0
        self._rows_first: int | None = None
        """Rows that were done at the first look: of an earlier run."""

    def ended_shard(self, rows: int, asked: int, successes: int) -> None:
        """A shard has ended; ``asked``: those of its rows that were asked for, a subset's say."""
        self._rows_ended += rows
        self._rows_asked += asked
        self._rows_succeeded += successes
        self.advance(rows)

    def state(self) -> StepProgress:
        """How far it is."""
        before = super().state()
        live = self._live()
        done = self._rows_ended + sum(one.done for one in live)
        asked = self._rows_asked + sum(one.done for one in live)
        successes = self._rows_succeeded + sum(one.successes for one in live)
        if self._rows_first is None and done:
            self._rows_first = done
        moved = done - (self._rows_first or 0)
        rate = moved / before.seconds if moved > 0 and before.seconds > 0 else None
        return StepProgress(
            step=self.title,
            pieces=self.pieces,
            pieces_done=before.pieces_done,
            unit="rows",
            done=done,
            total=self.total,
            seconds=before.seconds,
            still=None,
            rate=None if rate is None else float(f"{rate:.4g}"),
            seconds_left=round((self.total - done) / rate, 1) if rate else None,
            detail=_detail(done, asked, successes, live),
        )

    def _live(self) -> list[Live]:
        found = []
        for path in (self._out / STATE / "live").glob("*.json"):
            try:
                if time.time() - path.stat().st_mtime < 60.0:
                    found.append(read_record(path, Live))
            except (OSError, CorruptDataError):  # it has ended meanwhile
                continue
        return found


class SilentRows(RowProgress):
    """No output."""

    visible = False


def _detail(done: int, asked: int, successes: int, live: list[Live]) -> str:
    waiting: Counter[str] = Counter()
    for one in live:
        waiting.update(one.waiting)
    hosts = [f"{name} {rows:,}" for name, rows in waiting.most_common(_MOST_NAMED) if rows >= _MANY]
    share = f", {100 * successes / asked:.1f}% images" if asked else ""
    return f"{done:,} rows{share}" + (f"; waiting: {', '.join(hosts)}" if hosts else "")
