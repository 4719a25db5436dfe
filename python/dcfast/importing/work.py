"""An import at work: its pieces, and what all kinds of it share."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

from dcfast.engine import Engine
from dcfast.engine.piece import Piece, read_marker
from dcfast.engine.progress import Progress, Silent
from dcfast.errors import PoolError
from dcfast.importing.account import Account
from dcfast.importing.found import Found
from dcfast.importing.options import ImportOptions, ImportReport
from dcfast.importing.samples import Written
from dcfast.index.pool import POOL_FILE
from dcfast.storage.records import Record, replaced

S = TypeVar("S", bound=Record)


class Work:
    """An import at work: its options, its pool, its engine."""

    def __init__(self, options: ImportOptions, out: Path, engine: Engine) -> None:
        self.options: ImportOptions = options
        self.out: Path = out
        self.engine: Engine = engine
        self.found: Found
        self.account: Account = Account()

    def do(self, pieces: Sequence[Piece[S]]) -> list[S]:
        """The statistics of pieces, in order; those that are done are skipped."""
        stats = {i: marked for i, p in enumerate(pieces) if (marked := read_marker(self.out, p)) is not None}
        waiting = [i for i in range(len(pieces)) if i not in stats]
        show = Silent if self.options.quiet else Progress
        if waiting:
            (self.out / POOL_FILE).unlink(missing_ok=True)  # what it says is of what is now redone
            total = sum(pieces[i].weight for i in waiting)
            with show(pieces[waiting[0]].step, total=total, pieces=len(waiting)) as bar:
                for done, result in self.engine.map(str(self.out), [pieces[i] for i in waiting]):
                    stats[waiting[done]] = result
                    bar.advance(pieces[waiting[done]].weight)
        return [stats[i] for i in range(len(pieces))]

    def path(self, name: str) -> str:
        return os.path.join(self.found.root, name)


def pass_rest(work: Work, kind: str) -> None:
    """Counts what is there of the kinds that are not taken."""
    found, add = work.found, work.account.add
    if kind != "shards":
        add("shards (*.tar), since something else is taken: --kind shards", *some_of(found.tars))
    if kind != "datasets":
        add("Arrow files, since something else is taken: --kind datasets", *some_of(found.arrow))
    if kind != "pictures":
        add("loose pictures, since something else is taken: --kind pictures", "", found.pictures)
        add("tables, since something else is taken", *some_of(found.tables))


def some_of(names: Sequence[str]) -> tuple[str, int]:
    return (names[0], len(names)) if names else ("", 0)


def keep_only(out: Path, folder: str, names: Sequence[str]) -> None:
    """Removes what an earlier import of other files left in a folder of the pool."""
    place, kept = out / folder, set(names)
    if place.is_symlink() or not place.is_dir():
        return
    for entry in place.iterdir():
        if entry.name not in kept and not entry.is_dir():
            entry.unlink()


def total_of(work: Work, kind: str, rule: str, stats: Sequence[Written]) -> ImportReport:
    work.account.take(s.passed for s in stats)
    return ImportReport(kind=kind, uid_from=rule, samples=sum(s.samples for s in stats))


def finished(work: Work, report: ImportReport) -> ImportReport:
    report = replaced(report, passed=work.account.record)
    if not report.samples:
        why = "; ".join(report.passed.lines) or "there are none"
        raise PoolError(
            f"{work.found.root}: no sample with a picture and a caption; mend what is wrong, or "
            f"name another folder. Passed over: {why}"
        )
    return report
