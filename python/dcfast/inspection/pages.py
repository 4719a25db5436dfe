"""The pages of ``dcfast inspect``: one sample with its copies, or a draw of samples by what became of them."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from dcfast.inspection.facts import Inspector, SampleFacts
from dcfast.inspection.words import evidence_words, headline, lines, near_words
from dcfast.report.facts.draw import Choice, Draw
from dcfast.report.facts.samples import GalleryRow
from dcfast.report.page.gallery import Gallery, Group
from dcfast.report.page.images import NO_SAMPLE, EvalsetPreviews, Preview, thumbnail
from dcfast.report.page.page import Card
from dcfast.report.text import clean, count
from dcfast.rundir.layout import FATES
from dcfast.rundir.lookup import Place
from dcfast.storage.published import without_places
from dcfast.storage.records import replaced

SUBJECT_SIDE = 640
"""Pixels of the picture of a page that is of one sample."""


def sample_page(inspector: Inspector, place: Place | None, facts: SampleFacts) -> Gallery:
    """A page of one sample: its picture, all that is known of it, and its copies."""
    preview = NO_SAMPLE if place is None else inspector.preview(place)
    if place is not None and preview.picture.uri:
        data = inspector.previews.picture(place.shard, place.row)
        preview = preview if data is None else Preview(thumbnail(data, SUBJECT_SIDE), preview.caption)
    row = GalleryRow(facts.shard, facts.row, facts.key, facts.uid, facts.reason, facts.fate)
    subject = Card(row, preview, _published(inspector, lines(facts, details=True)))
    title = f"Sample {facts.key}" if facts.key is not None else f"Metadata row of uid {facts.uid}"
    groups = [*_evaluation_group(inspector, facts), *_near_group(inspector, facts)]
    return Gallery(title, inspector.run.out.name, None, [headline(facts)], groups, subject)


def _published(inspector: Inspector, said: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """Lines without the places of this machine."""
    return [(label, without_places(text, inspector.run.places, all_texts=False)) for label, text in said]


def _evaluation_group(inspector: Inspector, facts: SampleFacts) -> list[Group]:
    if not facts.evidence:
        return []
    previews = EvalsetPreviews.of_directory(inspector.run.out, inspector.run.evalset_dir)
    cards = []
    for hit in facts.evidence:
        sample = previews.sample(str(hit.evalset), str(hit.evalset_shard), str(hit.evalset_key))
        row = GalleryRow(hit.evalset_shard, None, hit.evalset_key)
        cards.append(Card(row, Preview(sample.picture, evidence_words(hit))))
    return [Group("Pictures of evaluation sets that it matches", "quarantined", cards)]


def _near_group(inspector: Inspector, facts: SampleFacts) -> list[Group]:
    copies = facts.copies
    if copies is None or not copies.nearest:
        return []
    cards = [
        Card(
            GalleryRow(copy.shard, copy.row, copy.key, copy.uid, near_words(copy), copy.fate),
            inspector.previews.sample(copy.shard, copy.row),
        )
        for copy in copies.nearest
    ]
    note = f"The nearest of {count(copies.found)} among the {count(copies.looked)} samples of the pool."
    return [Group("Near copies in the pool", "dropped", cards, note)]


def drawn_page(inspector: Inspector, choice: Choice, drawn: Draw) -> Gallery:
    """A page of drawn samples, grouped by outcome and reason; frequent groups first, in the order of the outcomes."""
    run = inspector.run
    expression = inspector.chosen.filter if inspector.chosen is not None else None
    groups: dict[tuple[str, str], list[Card]] = {}
    for row in drawn.rows:
        card = _card(inspector, row)
        groups.setdefault((str(row.fate or ""), str(row.reason or "")), []).append(card)
    order = {fate: place for place, fate in enumerate(FATES)}
    ordered = sorted(groups.items(), key=lambda item: (order.get(item[0][0], len(order)), -len(item[1]), item[0][1]))
    return Gallery(
        without_places(wanted(choice), run.places),
        run.out.name,
        None if expression is None else without_places(expression, run.places),
        of_how_many(choice, drawn),
        [Group(_group_title(fate, reason), fate or "missing", cards) for (fate, reason), cards in ordered],
    )


def _card(inspector: Inspector, row: GalleryRow) -> Card:
    if row.shard is None or row.key is None:
        facts, sample = inspector.facts(None, row.uid), NO_SAMPLE
    else:
        _, number, inside = inspector.samples.shard(row.shard)
        place = Place(row.shard, row.row or 0, number, inside.start + (row.row or 0))
        facts, sample = inspector.facts(place), inspector.preview(place)
    score = row.clip_score
    if score is None and facts.metadata is not None:
        scores = [v for k, v in facts.metadata.values.items() if k.startswith("clip_") and isinstance(v, float)]
        score = round(scores[-1], 4) if scores else None
    said = [line for line in lines(facts) if line[0] not in ("caption", "sample", "outcome", "filter")]
    return Card(replaced(row, clip_score=score), sample, _published(inspector, said))


def _group_title(fate: str, reason: str) -> str:
    return f"{fate or 'no outcome yet'}{f', {reason}' if reason else ''}".capitalize()


def wanted(choice: Choice) -> str:
    """What was asked for, in words."""
    parts: Iterable[str] = filter(
        None,
        (
            f"shard {choice.shard}" if choice.shard is not None else "",
            choice.fate or "",
            f"for {choice.reason!r}" if choice.reason is not None else "",
            f"that pass {choice.expression}" if choice.expression is not None else "",
        ),
    )
    words = ", ".join(parts)
    return f"Samples: {clean(words, 400)}" if words else "Samples of the run"


def of_how_many(choice: Choice, drawn: Draw) -> list[str]:
    """Sentences that say what the samples shown are a sample of."""
    is_whole = drawn.of is not None and drawn.looked >= drawn.of
    looked = f"{'all ' if is_whole else ''}{count(drawn.looked)} {drawn.unit}"
    if not is_whole:
        looked += f", a sample{f' of {count(drawn.of)}' if drawn.of is not None else ''} from all over the pool"
    shown = f"{count(len(drawn.rows))} shown"
    if choice.expression is not None:
        sentences = [f"{shown}; {count(drawn.matching)} pass the expression, of {looked}."]
    elif choice.fate is not None or choice.reason is not None:
        sentences = [f"{shown} of {count(drawn.matching)} that are as asked, among {looked}."]
    else:
        sentences = [f"{shown} of {looked}."]
    if len(drawn.rows) < drawn.matching or not is_whole:
        sentences.append(f"A fixed draw by seed {choice.seed}; another --seed shows others.")
    if not is_whole and len(drawn.rows) < choice.most:
        sentences.append("--all looks at every row.")
    return sentences


def write_place(path: str) -> Path:
    """Where a page is written; ValueError for a name that is no html file's."""
    place = Path(path)
    if place.suffix.lower() not in (".html", ".htm"):
        raise ValueError(f"--html must name a file that ends in .html; got {path!r}")
    return place
