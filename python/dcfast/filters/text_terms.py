"""The terms that stand on captions, sizes, scores and uids."""

from __future__ import annotations

from collections.abc import Callable

from dcfast.filters import rules
from dcfast.filters.expression import Call, nearest_name
from dcfast.filters.rules import Mask
from dcfast.filters.term import (
    GCLD3,
    HEIGHT,
    LANGUAGE_MODEL,
    OWN_SETS,
    RUN_SETS,
    SCORES,
    TEXT,
    WIDTH,
    WORDNET,
    Rows,
    Rule,
    Term,
    Test,
    asks,
    named_rules,
    without_arguments,
)
from dcfast.filters.thresholds import Quantile
from dcfast.filters.tokens import quoted


def _at_least(column: str, written: float) -> Test:
    return lambda rows, _: rules.score_at_least(rows.numbers(column), written, written=True)


_BASIC_FILTER = named_rules(
    "basic_filter",
    words=lambda rows, _: rules.enough_words(rows.text),
    characters=lambda rows, _: rules.enough_characters(rows.text),
    size=lambda rows, _: rules.large_enough(rows.numbers(WIDTH), rows.numbers(HEIGHT)),
    aspect=lambda rows, _: rules.moderate_aspect(rows.numbers(WIDTH), rows.numbers(HEIGHT)),
    language=asks(LANGUAGE_MODEL),
)
_TEXT_BASED = named_rules("text_based", **{"no ImageNet-21k word": asks(WORDNET), "language": asks(LANGUAGE_MODEL)})
_LAION2B = named_rules("laion2b", score=_at_least(SCORES["b32"], rules.LAION2B_MIN_SCORE), language=asks(GCLD3))
_NAMES_ALONE = (
    Term("no_filter", cost=0.0),
    Term("basic_filter", _BASIC_FILTER, (TEXT, WIDTH, HEIGHT), (LANGUAGE_MODEL,), cost=10.0),
    Term("text_based", _TEXT_BASED, (TEXT,), (LANGUAGE_MODEL, WORDNET), cost=12.0),
    Term("laion2b", _LAION2B, (TEXT, SCORES["b32"]), (GCLD3,), cost=20.0),
)


def clip_score(call: Call) -> Term:
    given = call.by_name(("arch", "fraction", "threshold"), 1, "write fraction=... or threshold=...")
    names = " or ".join(SCORES)
    if "arch" not in given:
        call.error(f"clip_score needs {names}: clip_score(l14, fraction=0.3)")
    arch = given.pop("arch")
    if arch.value not in SCORES:
        hint = nearest_name(str(arch.value), tuple(SCORES))
        call.error(f"clip_score: expected {names}; got {arch.value!r}{hint}", arch)
    if len(given) != 1:
        what = "both; give one of them" if given else "neither"
        call.error(f"clip_score needs fraction=... or threshold=...; got {what}")
    ((name, limit),) = given.items()
    value, column = call.number(name, limit), SCORES[str(arch.value)]
    text = f"clip_score({arch.value}, {name}={value!r})"
    if name == "threshold":
        return Term(text, (Rule(text, _at_least(column, value)),), (column,))
    quantile = Quantile(column, value)
    best = Rule(text, lambda rows, _: rules.score_at_least(rows.numbers(column), rows.threshold(quantile)))
    return Term(text, (best,), (column,), quantile=quantile)


def _uid_term(text: str, name: str) -> Term:
    return Term(text, (Rule(f"not ({text})", lambda rows, _: rows.members(name)),), uid_set=name, cost=0.1)


def _random(call: Call) -> Term:
    given = call.by_name(("fraction", "seed"), 2, "it takes a fraction and a seed: random(0.3, seed=1)")
    if "fraction" not in given:
        call.error("random needs a fraction: random(0.3)")
    fraction = call.number("fraction", given["fraction"])
    seed = call.number("seed", given["seed"]) if "seed" in given else 0.0
    if not (0.0 <= seed <= rules.MAX_SEED and seed.is_integer()):
        call.error(f"random: seed must be a whole number, 0..2^53-1; got {seed!r}", given["seed"])
    number = int(seed)
    text = f"random({fraction!r}, seed={number})"

    def passes(rows: Rows, _: Mask) -> Mask:
        if rows.uids is None:
            raise ValueError("Filter.evaluate: uids must be given for this filter")
        return rules.drawn(rows.uids, fraction, number)

    return Term(text, (Rule(text, passes),), cost=0.05)


def _uid_file(call: Call) -> Term:
    if len(call.arguments) != 1 or call.arguments[0].keyword not in (None, "path"):
        call.error('uids needs one quoted path: uids("my uids.npy")')
    (path,) = call.arguments
    if path.kind != "string":
        call.error('uids: put the path in quotes: uids("my uids.npy")', path)
    name = str(path.value)
    if not name:
        call.error("the path of a uid file is empty", path)
    if name in OWN_SETS:
        name = f"./{name}"  # a file of this name must not be taken for the set
    return _uid_term(f"uids({quoted(name)})", name)


TEXT_TERMS: dict[str, Callable[[Call], Term]] = {
    **{term.text: without_arguments(term) for term in _NAMES_ALONE},
    **{name: without_arguments(_uid_term(name, name)) for name in RUN_SETS},
    "clip_score": clip_score,
    "random": _random,
    "uids": _uid_file,
}
