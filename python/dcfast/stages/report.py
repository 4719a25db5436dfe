"""Stage ``report``: ``report.json`` and ``report.html``, from what the other stages recorded.

One piece. It is made again when a summary, the manifest or a table has changed; times alone do not count, so that
a run with nothing to do leaves the report as it is.
"""

from __future__ import annotations

import hashlib
from dataclasses import asdict
from pathlib import Path
from typing import Any

from dcfast.engine.piece import Piece
from dcfast.errors import PoolError
from dcfast.evaluate.tasks import compared_sets
from dcfast.index.pool import shard_folder
from dcfast.report.facts.collect import Source, collect
from dcfast.report.page.images import EvalReader, PoolReader
from dcfast.report.page.page import look_up, render
from dcfast.rundir.run_dir import Run
from dcfast.rundir.stage_table import STAGES
from dcfast.stages.runner import Steps
from dcfast.storage.atomic import write_bytes, write_json
from dcfast.storage.inputs import read_input
from dcfast.storage.json_files import MOST_JSON_BYTES
from dcfast.storage.published import without_places

__all__ = ["steps", "write_report"]

VERSION = 5
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


def write_report(out: str, args: dict[str, Any]) -> dict[str, Any]:
    """Piece: gathers the numbers, reads the few pictures shown, writes both files.

    Memory: a batch of a table, one picture, and 65,536 metadata rows. Cost: about a second, and the time that the
    filter takes for these rows, whatever the size of the pool.
    """
    root = Path(out)
    sets = _evalsets(args["evalset_dir"])
    source = Source(root, args["settings"], shard_folder(args["pool_dir"]), args["world"])
    report = collect(source)
    pictures = look_up(report, PoolReader(root, source.shard_dir), EvalReader(root, sets))
    report = _published(report, source)
    page = render(report, pictures)
    write_json(root / "report.json", report)
    write_bytes(root / "report.html", page.encode("utf-8"))
    return {
        "report": "report.html",
        "kept": report["fates"].get("kept", 0),
        "standard": report["standard"],
        "pictures": sum(len(cards) for cards in pictures.values()),
        "pairs": len(pictures["pairs"]),
    }


def steps(run: Run) -> Steps:
    """The one piece."""
    evalset_dir = run.evalset_dir
    stats = yield [
        Piece(
            "report/page",
            "page",
            "dcfast.stages.report:write_report",
            {
                "settings": asdict(run.settings),
                "pool_dir": str(run.pool_dir),
                "evalset_dir": None if evalset_dir is None else str(evalset_dir),
                "world": run.is_world,
                "recorded": _digest(run.out),
            },
            inputs=tuple(name for name in TABLES if (run.out / name).exists()),
            outputs=("report.json", "report.html"),
            version=VERSION,
        )
    ]
    return stats[0]
