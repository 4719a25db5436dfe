"""Stage ``report``: ``report.json`` and ``report.html``, from what the other stages recorded.

One piece. It is made again when a summary, the manifest or a table has changed; times alone do not count, so that
a run with nothing to do leaves the report as it is.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

from dcfast.acquire.summary import ACQUIRED
from dcfast.engine.piece import piece
from dcfast.index.pool import shard_folder
from dcfast.report.facts.collect import collect
from dcfast.report.page.images import EvalsetPreviews, PoolPreviews
from dcfast.report.page.page import look_up, render
from dcfast.rundir.recorder import PROGRESS
from dcfast.rundir.run_dir import Run
from dcfast.rundir.settings import Settings
from dcfast.rundir.stage_table import STAGES
from dcfast.rundir.summaries import ReportSummary
from dcfast.stages.runner import Do
from dcfast.storage.atomic import write_bytes, write_json
from dcfast.storage.inputs import read_input
from dcfast.storage.json_files import MOST_JSON_BYTES
from dcfast.storage.records import replaced

_GALLERY: ContextVar[str | None] = ContextVar("_GALLERY", default=None)
TABLES = (
    "fates.parquet",
    "quarantine.parquet",
    "contamination.parquet",
    "contaminated.npy",
    "duplicates.npy",
    "duplicates.parquet",
    "subset.npy",
    "eval_results.jsonl",
    "train/summary.json",
)


def _digest(out: Path, pool: Path) -> str:
    """Of everything small that the report is made of, by content: it may be written anew without a change."""
    digest = hashlib.sha256()
    recorded = [out / "manifest.json", pool / ACQUIRED, *(out / "state" / f"{s}.json" for s in STAGES if s != "report")]
    recorded += sorted(path for path in out.glob("compare/*/state/*.json") if path.name != PROGRESS)
    for path in recorded:
        content = read_input(path, MOST_JSON_BYTES) if path.exists() else b"absent"
        digest.update(path.name.encode() + b"\0" + content + b"\0")
    return digest.hexdigest()


@contextmanager
def gallery_of(expression: str | None) -> Iterator[None]:
    """Reports within the block show samples that pass this filter expression, too."""
    token = _GALLERY.set(expression)
    try:
        yield
    finally:
        _GALLERY.reset(token)


def make_report(run: Run, gallery: str | None = None) -> ReportSummary:
    """Gathers the numbers, reads the few pictures shown, writes both files.

    Memory: a batch of a table, one image, and 65,536 metadata rows. Cost: about a second, and the time that the
    filter takes for these rows, whatever the size of the pool.
    """
    report = collect(run, gallery)
    pool = PoolPreviews(run.out, shard_folder(run.pool_dir))
    pictures = look_up(report, pool, EvalsetPreviews.of_directory(run.out, run.evalset_dir))
    published = replaced(report, gallery=pictures.gallery).without_places(run.places)
    page = render(published, pictures)
    write_json(run.out / "report.json", published.as_json())
    write_bytes(run.out / "report.html", page.encode("utf-8"))
    pairs = len(pictures.pairs)
    cards = sum(map(len, pictures.cards.values()))
    return ReportSummary(report.fates.get("kept", 0), report.standard, cards + pairs, pairs)


@piece(version=8)
def write_report(out: Path, settings: Settings, recorded: str, gallery: str | None = None) -> ReportSummary:
    """Piece: see ``make_report``; ``recorded`` is the digest of what the stages recorded, for its key."""
    del recorded
    return make_report(Run(out, settings), gallery)


def steps(run: Run, do: Do) -> ReportSummary:
    """The one piece."""
    tables = [name for name in TABLES if (run.out / name).exists()]
    page = write_report.piece("report/page", "page", inputs=tables, outputs=["report.json", "report.html"])
    return do.one(page(settings=run.settings, recorded=_digest(run.out, run.pool_dir), gallery=_GALLERY.get()))
