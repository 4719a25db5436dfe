"""What a run knows of a sample, in plain words: (label, text) lines, for a terminal and for a page."""

from __future__ import annotations

from dcfast.dedup import duplicates, evidence
from dcfast.filters.rules import (
    BASIC_MAX_ASPECT,
    BASIC_MIN_SIDE,
    CHARACTERS_ABOVE,
    LAION2B_MIN_SCORE,
    TOKENS_ABOVE,
)
from dcfast.filters.term import CONTAMINATED, DUPLICATE, ORACLE, TEACHER_PAIRS
from dcfast.inspection.copies import NearCopies, NearCopy
from dcfast.inspection.facts import DuplicateFacts, RuleVerdict, SampleFacts, Value
from dcfast.report.facts.samples import EvidenceRow
from dcfast.report.text import clean, count

Line = tuple[str, str]

_FOREIGN = "the language model does not call the caption English"
_SHORT = f"the caption has at most {CHARACTERS_ABOVE} characters"
RULE_WORDS = {
    # reason of a built-in rule, without the name of its term -> why it drops a sample
    "words": "the caption has fewer than 3 words",
    "characters": _SHORT,
    "size": f"the smaller side of the picture is below {BASIC_MIN_SIDE} pixels",
    "aspect": f"one side of the picture is more than {BASIC_MAX_ASPECT:g} times the other",
    "language": _FOREIGN,
    "tokens": f"the caption has at most {TOKENS_ABOVE} token",
    "cluster": "the nearest cluster of its embedding is none of the target's",
    "no ImageNet-21k word": "no word of the caption names a class of ImageNet-21k",
    f"not ({CONTAMINATED})": "the picture is a copy of a picture of an evaluation set",
    CONTAMINATED: "the picture is a copy of a picture of an evaluation set",
    f"not ({DUPLICATE})": "the picture is a copy of another one, which is kept (duplicates.parquet)",
    DUPLICATE: "the picture is a copy of another one, which is kept (duplicates.parquet)",
    ORACLE: "the truth of the built-in world calls it faulty",
    TEACHER_PAIRS: "the teacher trained on it, so that it is held out",
}
BOUNDS = {
    # reason of a built-in rule, without the name of its term -> what it compares with
    "words": "kept from 3",
    "characters": f"kept from {CHARACTERS_ABOVE + 1}",
    "size": f"kept where both are {BASIC_MIN_SIDE} or more",
    "aspect": f"kept up to {BASIC_MAX_ASPECT:g} to 1",
    "score": f"kept from {LAION2B_MIN_SCORE:g}",
}
_LAION = f"the CLIP score is below {LAION2B_MIN_SCORE:g}"
FATE_WORDS = {
    "kept": "kept: the filter passes it, and it is in subset.npy",
    "dropped": "dropped by the filter",
    "quarantined": "quarantined: it cannot be trained on",
    "missing": "missing: a metadata row has this uid, and no sample of the shards",
    "unlisted": "unlisted: it stands in the shards, and no metadata row has its uid",
}
_DRAWS = "sample("
_LOW_SCORE = "the score is below the threshold"


def headline(facts: SampleFacts) -> str:
    """The outcome in one sentence."""
    if facts.fate is None:
        if facts.filter is None:
            return "no outcome yet: the filter stage has not run"
        if first_failure(facts) is not None:
            says = "the filter drops its metadata row"
        elif any(rule.passes is None for rule in facts.rules):
            says = "not every rule was asked of its metadata row"
        else:
            says = "the filter passes its metadata row"
        return f"no outcome yet: the shards are not there; {says}"
    words = FATE_WORDS.get(facts.fate, facts.fate)
    return f"{words}: {clean(facts.reason)}" if facts.reason and facts.fate in ("dropped", "quarantined") else words


def first_failure(facts: SampleFacts) -> RuleVerdict | None:
    """The first rule, in the order of the expression, that drops the sample's metadata row."""
    return next((rule for rule in facts.rules if rule.passes is False), None)


def why(rule: RuleVerdict) -> str:
    """Why a rule drops a sample: what it looks at, and the values it found."""
    term, _, part = rule.rule.rpartition(": ")
    if rule.rule.startswith(_DRAWS):
        return "it was not drawn among the rows that pass the rest"
    if rule.limit is not None and (part == "score" or not term):
        words = f"{_LOW_SCORE}, {rule.limit:.6g}"
    elif term == "laion2b" and part == "score":
        words = _LAION
    else:
        words = RULE_WORDS.get(part, "") or (_LOW_SCORE if "clip_score" in rule.rule else "")
    values = ", ".join(f"{name} is {_value(value)}" for name, value in _values(rule).items())
    return ": ".join(filter(None, (words, values)))


def _values(rule: RuleVerdict) -> dict[str, Value]:
    """What a rule looks at: of built-in rules that of its kind alone."""
    part = rule.rule.rpartition(": ")[2]
    if part in ("words", "characters", "language", "tokens", "cluster", "no ImageNet-21k word"):
        return {part: rule.values[part]} if part in rule.values else {}
    return rule.values


def _value(value: float | int | str | None) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    return "null" if value is None else clean(str(value), 80)


def lines(facts: SampleFacts, *, details: bool = False) -> list[Line]:
    """What is known of a sample; ``details``: hashes and what only a look at the sample needs, too."""
    said: list[Line] = [("outcome", headline(facts))]
    failed = first_failure(facts)
    if failed is not None and facts.fate in ("dropped", "missing", None) and (words := why(failed)):
        said.append(("because", words))
    said += _copy_lines(facts)
    if facts.key is not None:
        said.append(("sample", clean(f"{facts.shard}/{facts.key}, row {facts.row}")))
    said.append(("uid", facts.uid or "none"))
    said += [("amiss", words) for words in facts.amiss]
    said += _captions(facts)
    if facts.filter:
        said.append(("filter", clean(facts.filter, 2_000)))
    said += [("rule", _rule_line(rule)) for rule in _a_line_each(facts.rules)]
    if facts.rules_problem:
        said.append(("rule", f"cannot be asked again: {clean(facts.rules_problem, 400)}"))
    if facts.metadata is not None:
        said += _metadata_lines(facts)
    if facts.picture is not None:
        said += _picture_lines(facts, details=details)
    said += _copies_of_evaluation(facts)
    if facts.duplicate is not None:
        said += _duplicate_lines(facts.duplicate)
    said += [("same uid", clean(place)) for place in facts.repeats[:5]]
    if len(facts.repeats) > 5:
        said.append(("same uid", f"and {count(len(facts.repeats) - 5)} more"))
    return said + _near_lines(facts.copies)


def _copy_lines(facts: SampleFacts) -> list[Line]:
    """How often a sample is written, where it is not once; what was drawn of one that is not there."""
    drawn, written = facts.drawn or 0, facts.written or 0
    if facts.fate == "kept" and written > 1:
        return [("copies", f"{count(written)}: it is written to the new shards and trained on that often")]
    if facts.fate != "kept" and drawn > 1:
        return [("copies", f"{count(drawn)} in subset_metadata.npy, and none to train on")]
    if facts.fate == "kept" and any(rule.rule.startswith(_DRAWS) for rule in facts.rules):
        return [("copies", "1")]
    return []


def _captions(facts: SampleFacts) -> list[Line]:
    said = [] if facts.key is None else [("caption", facts.caption if facts.caption is not None else "none")]
    given = facts.metadata.caption if facts.metadata is not None else None
    if given is not None and (facts.caption is None or clean(given) != facts.caption):
        said.append(("metadata", f"its caption there: {clean(given)}"))
    return said


def _a_line_each(rules: list[RuleVerdict]) -> list[RuleVerdict]:
    """Without those that ask whether there is a value: the comparison that follows drops, and shows, what has none."""
    names = {rule.rule for rule in rules}
    return [rule for rule in rules if rule.rule.rpartition(": ")[0] not in names]


def _rule_line(rule: RuleVerdict) -> str:
    if rule.passes is None:
        return f"{clean(rule.text)}: not asked: it is code that the run directory names; read it, then add --run-code"
    values = ", ".join(f"{name} {_value(value)}" for name, value in _values(rule).items())
    term, _, part = rule.rule.rpartition(": ")
    bound = BOUNDS.get(part, "") if term else ""
    if rule.limit is not None and (part == "score" or not bound):
        bound = f"kept from {rule.limit:.6g}"
    values = ", ".join(filter(None, (values, bound))) if values else ""
    verdict = "passes" if rule.passes else "drops it"
    return f"{clean(rule.text)}: {verdict}{f' ({values})' if values else ''}"


def _metadata_lines(facts: SampleFacts) -> list[Line]:
    metadata = facts.metadata
    assert metadata is not None
    more = f"; {count(metadata.rows)} rows have this uid" if metadata.rows > 1 else ""
    said = [("metadata", clean(f"{metadata.file}, row {metadata.row}{more}"))]
    return said + [("metadata", f"{clean(name, 80)}: {_value(value)}") for name, value in metadata.values.items()]


def _picture_lines(facts: SampleFacts, *, details: bool) -> list[Line]:
    picture = facts.picture
    assert picture is not None
    if picture.status != "ok":
        return [("picture", f"not decoded: {picture.status}")]
    flat = ", flat: it has no perceptual hash to compare" if picture.flat else ""
    said = [("picture", f"{picture.width} x {picture.height} pixels{flat}")]
    if details:
        said.append(("content", f"{picture.content_hash} (XXH3-128 of its bytes)"))
        said.append(("looks", f"{picture.perceptual_hash} (perceptual hash)"))
    return said


def alike(distance: int, *, identical: bool) -> str:
    """How two pictures are alike."""
    return "identical bytes" if identical else f"looks alike, {distance} of 64 bits apart"


def _copies_of_evaluation(facts: SampleFacts) -> list[Line]:
    if not facts.evidence and facts.contaminated:
        return [("copy of", "its uid is contaminated by another sample with the same uid")]
    return [("copy of", evidence_words(row)) for row in facts.evidence]


def evidence_words(row: EvidenceRow) -> str:
    how = evidence.alike(row.method, row.distance, row.score)
    return clean(f"evaluation set {row.evalset}, {row.evalset_shard}/{row.evalset_key}: {how}")


def _duplicate_lines(row: DuplicateFacts) -> list[Line]:
    def place(pool: str | None, shard: str | None, key: str | None) -> str:
        return f"{f'{pool}, ' if pool else ''}{shard}/{key}"

    kept, link = (
        place(row.kept_pool, row.kept_shard, row.kept_key),
        place(row.link_pool, row.link_shard, row.link_key),
    )
    how = duplicates.alike(row.method, row.distance, row.score, row.variant)
    said = [("duplicate", clean(f"of {link}: {how}"))]
    if row.steps > 1:
        said.append(("duplicate", clean(f"the one of its group that is kept is {kept}, {row.steps} links away")))
    return said


def near_words(copy: NearCopy) -> str:
    """How a copy in the pool is alike, and what became of it."""
    reason = f", {copy.reason}" if copy.reason else ""
    how = alike(copy.distance, identical=copy.identical)
    return clean(f"{how} ({copy.fate or 'no outcome yet'}{reason})")


def _near_lines(copies: NearCopies | None) -> list[Line]:
    if copies is None:
        return []
    if copies.problem is not None:
        return [("near", copies.problem)]
    among = f"within {copies.max_distance} bits among the {count(copies.looked)} samples of the pool"
    if not copies.found:
        return [("near", f"no copy {among}")]
    said = [("near", f"{count(copies.found)} {among}")]
    said += [("near", clean(f"{copy.shard}/{copy.key}: {near_words(copy)}")) for copy in copies.nearest]
    return said
