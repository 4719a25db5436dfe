"""Renders the report as one HTML file: no request leaves it, no script is in it.

Everything shown passes the template's escaping; pictures are data URIs that this package encoded itself.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from dcfast.acquire.causes import CAUSES
from dcfast.dedup.evidence import alike
from dcfast.errors import MissingDependencyError
from dcfast.report import text
from dcfast.report.facts.document import Report
from dcfast.report.facts.samples import EvidenceRow, GalleryRow
from dcfast.report.page.charts import bars
from dcfast.report.page.copies import drawn_rows
from dcfast.report.page.images import NO_SAMPLE, EvalsetPreviews, PoolPreviews, Preview
from dcfast.report.page.plots import plotted_sets, training_curves
from dcfast.storage.records import plain, replaced

if TYPE_CHECKING:
    import jinja2

HERE = Path(__file__).parent


class Card(NamedTuple):
    """A sample of a gallery; ``lines``: (label, text) of what else is known."""

    row: GalleryRow
    sample: Preview
    lines: list[tuple[str, str]] = []


class Pair(NamedTuple):
    """A sample of the pool and the evaluation picture that it matches."""

    row: EvidenceRow
    sample: Preview
    evaluation: Preview


class Pictures(NamedTuple):
    """The cards of each section of the gallery, and the pairs of evidence."""

    cards: dict[str, list[Card]]
    pairs: list[Pair]

    @property
    def gallery(self) -> dict[str, list[GalleryRow]]:
        """The rows with the captions that were read."""
        return {section: [card.row for card in cards] for section, cards in self.cards.items()}


def look_up(report: Report, pool: PoolPreviews, evalsets: EvalsetPreviews) -> Pictures:
    """Reads the samples that the report names."""

    def card(row: GalleryRow) -> Card:
        sample = pool.sample(str(row.shard), row.row or 0) if row.shard is not None else NO_SAMPLE
        return Card(replaced(row, caption=sample.caption, caption_bytes=sample.caption_bytes), sample)

    cards = {section: [card(row) for row in rows] for section, rows in report.gallery.items()}
    pairs = [
        Pair(
            row,
            pool.sample(str(row.shard), row.row or 0),
            evalsets.sample(str(row.evalset), str(row.evalset_shard), str(row.evalset_key)),
        )
        for row in report.contamination.pairs
    ]
    return Pictures(cards, pairs)


def _total(report: Report) -> int:
    """Samples of the shards: what the kept are a part of."""
    counted = sum(count for fate, count in report.fates.items() if fate != "missing")
    return (report.index.samples if report.index is not None else 0) or counted


def _plain(value: object) -> str:
    """What records and JSON hold, as text for a table cell; None is a dash."""
    if value is None or value == "":
        return "\u2013"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return text.count(value)
    return text.clean(value if isinstance(value, str) else json.dumps(plain(value), sort_keys=True), 400)


def environment() -> jinja2.Environment:
    """Of the templates. MissingDependencyError: there is no Jinja."""
    try:
        import jinja2
    except ImportError as error:
        raise MissingDependencyError("the report needs Jinja: pip install 'dcfast[run]'") from error
    templates = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    templates.filters |= {name: getattr(text, name) for name in text.__all__} | {
        "plain": _plain,
        "fields": plain,
        "pretty": lambda value: json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False),
    }
    return templates


def render(report: Report, pictures: Pictures) -> str:
    """The page as text. The same report and pictures give the same bytes."""
    template = environment().get_template("page.html.j2")
    page = template.render(
        report=report,
        cards={"asked": [], "kept_faulty": [], "dropped_clean": [], **pictures.cards},  # the last in the world alone
        pairs=pictures.pairs,
        total=_total(report),
        sets=plotted_sets(report.scores),
        training_curves=training_curves,
        bars=bars,
        drawn_rows=drawn_rows,
        against=_plain(report.comparison and report.comparison.filter),
        percent=text.percent,
        alike=alike,
        cause_words={name: cause.words for name, cause in CAUSES.items()},
    )
    return page.encode("utf-8", "replace").decode("utf-8")
