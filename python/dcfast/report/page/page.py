"""Renders the report as one HTML file: no request leaves it, no script is in it.

Everything shown passes the template's escaping; pictures are data URIs that this package encoded itself.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from dcfast.errors import MissingDependencyError
from dcfast.report import text
from dcfast.report.facts.copies import sentences
from dcfast.report.page.images import EvalReader, PoolReader, Sample
from dcfast.report.page.plots import plots_of

__all__ = ["Pictures", "look_up", "render"]

HERE = Path(__file__).parent

FATE_WORDS = {
    "kept": "in the subset",
    "dropped": "by the filter",
    "quarantined": "cannot be trained on",
    "missing": "metadata row without a sample",
    "unlisted": "sample without a metadata row",
}
METHOD_WORDS = {"content": "identical bytes", "perceptual": "looks alike"}

Pictures = dict[str, list[dict[str, Any]]]
"""Cards of the page by section: kept, dropped (row, sample), pairs (row, sample, evaluation)."""


def look_up(report: dict[str, Any], pool: PoolReader, evals: EvalReader) -> Pictures:
    """Reads the samples that the report names, and writes their captions into it."""
    found: Pictures = {}
    for fate, rows in report["gallery"].items():
        found[fate] = []
        for row in rows:
            sample = _of_pool(pool, row)
            row["caption"], row["caption_bytes"] = sample.caption, sample.caption_bytes
            found[fate].append({"row": row, "sample": sample})
    found["pairs"] = [
        {
            "row": row,
            "sample": _of_pool(pool, row),
            "evaluation": evals.sample(str(row["evalset"]), str(row["evalset_shard"]), str(row["evalset_key"])),
        }
        for row in report["contamination"]["pairs"]
    ]
    return found


def _of_pool(pool: PoolReader, row: dict[str, Any]) -> Sample:
    return pool.sample(str(row["shard"]), int(row["row"] or 0))


def _total(report: dict[str, Any]) -> int:
    """Samples of the shards: what the kept are a part of."""
    counted = sum(n for fate, n in report["fates"].items() if fate != "missing")
    return int(report["index"].get("samples") or counted)


def _plain(value: Any) -> Any:
    """What parquet and JSON give, as text for a table cell; None is a dash."""
    if value is None or value == "":
        return "\u2013"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return text.count(value)
    return text.clean(value if isinstance(value, str) else json.dumps(value, sort_keys=True), 400)


def _passes(one: dict[str, Any]) -> str:
    """How often a training went over its data."""
    return f"{one['samples_seen'] / one['samples']:.1f}" if one["samples"] and one["samples_seen"] else "\u2013"


def _letter(number: int) -> str:
    """A, B, ..., Z, A1, B1, ...: what a rule of the filter is called in a narrow table."""
    return chr(ord("A") + number % 26) + (str(number // 26) if number >= 26 else "")


def render(report: dict[str, Any], pictures: Pictures) -> str:
    """The page as text. The same report and pictures give the same bytes."""
    try:
        import jinja2
    except ImportError as error:
        raise MissingDependencyError("the report needs Jinja: pip install 'dcfast[run]'") from error
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters |= {
        "count": text.count,
        "size": text.size,
        "duration": text.duration,
        "clean": text.clean,
        "share": text.share,
        "points": text.points,
        "decimal": text.decimal,
        "rounded": text.rounded,
        "plain": _plain,
        "pretty": lambda value: json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False),
    }
    template = environment.get_template("page.html.j2")
    page = template.render(
        report=report,
        pictures=pictures,
        total=_total(report),
        plots=plots_of(report),
        copies=sentences(report),
        passes=_passes,
        letter=_letter,
        percent=text.percent,
        fate_words=FATE_WORDS,
        method_words=METHOD_WORDS,
    )
    return page.encode("utf-8", "replace").decode("utf-8")
