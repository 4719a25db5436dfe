"""Stage ``report``: ``report.json`` and ``report.html``, from what the other stages recorded.

One piece. It is made again when a summary, the manifest or a table has changed; times alone do not count, so that
a run with nothing to do leaves the report as it is.
"""

from __future__ import annotations

import hashlib
from dataclasses import asdict
from pathlib import Path
from typing import Any

from dcfast.engine.piece import piece
from dcfast.errors import PoolError
from dcfast.evaluate.tasks import compared_sets
from dcfast.index.pool import shard_folder
from dcfast.report.facts.collect import Source, collect
from dcfast.report.page.images import EvalReader, PoolReader
from dcfast.report.page.page import look_up, render
from dcfast.rundir.run_dir import Run, Settings
from dcfast.rundir.stage_table import STAGES
from dcfast.rundir.summaries import ReportSummary
from dcfast.stages.runner import Do
from dcfast.storage.atomic import write_bytes, write_json
from dcfast.storage.inputs import read_input
from dcfast.storage.json_files import MOST_JSON_BYTES
from dcfast.storage.published import without_places

__all__ = ["steps", "write_report"]

TABLES = (
    "fates.parquet",
    "quarantine.parquet",
    "contamination.parquet",
    "contaminated.npy",
    "subset.npy",
    "eval_results.jsonl",
    "train/summary.json",
)


STRANGERS = ("gallery", "quarantine", "damage", "contamination", "comparison")
"""Parts of a report that quote samples, in which a slash need not begin a path."""


def _digest(out: Path) -> str:
    """Of everything small that the report is made of, by content: it may be written anew without a change."""
    digest = hashlib.sha256()
    recorded = [out / "manifest.json", *(out / "state" / f"{s}.json" for s in STAGES if s != "report")]
    recorded += sorted(out.glob("compare/*/state/*.json"))
    for path in recorded:
        content = read_input(path, MOST_JSON_BYTES) if path.exists() else b"absent"
        digest.update(path.name.encode() + b"\0" + content + b"\0")
    return digest.hexdigest()


def _evalsets(directory: str | None) -> list[tuple[str, list[str]]]:
    if directory is None:
        return []
    try:
        return compared_sets(Path(directory))
    except PoolError:  # gone since: the pairs have placeholders
        return []


def _published(report: dict[str, Any], source: Source) -> dict[str, Any]:
    """The report without the places of this machine; of strangers' texts the run's own places alone."""
    places = source.run.places
    return {k: without_places(v, places, all_texts=k not in STRANGERS) for k, v in report.items()}


@piece(version=5)
def write_report(
    out: Path, settings: Settings, pool_dir: str, evalset_dir: str | None, world: bool, recorded: str
) -> ReportSummary:
    """Piece: gathers the numbers, reads the few images shown, writes both files.

    Args:
        recorded: digest of what the stages recorded, for the piece's key.
    Memory: a batch of a table, one image, and 65,536 metadata rows. Cost: about a second, and the time that the
    filter takes for these rows, whatever the size of the pool.
    """
    del recorded
    source = Source(out, asdict(settings), shard_folder(pool_dir), world)
    report = collect(source)
    pictures = look_up(report, PoolReader(out, source.shard_dir), EvalReader(out, _evalsets(evalset_dir)))
    report = _published(report, source)
    page = render(report, pictures)
    write_json(out / "report.json", report)
    write_bytes(out / "report.html", page.encode("utf-8"))
    return ReportSummary(
        kept=report["fates"].get("kept", 0),
        standard=report["standard"],
        pictures=sum(len(cards) for cards in pictures.values()),
        pairs=len(pictures["pairs"]),
    )


def steps(run: Run, do: Do) -> ReportSummary:
    """The one piece."""
    tables = [name for name in TABLES if (run.out / name).exists()]
    page = write_report.piece("report/page", "page", inputs=tables, outputs=["report.json", "report.html"])
    [summary] = do(
        [
            page(
                settings=run.settings,
                pool_dir=str(run.pool_dir),
                evalset_dir=None if run.evalset_dir is None else str(run.evalset_dir),
                world=run.is_world,
                recorded=_digest(run.out),
            )
        ]
    )
    return summary
