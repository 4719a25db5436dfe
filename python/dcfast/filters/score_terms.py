"""The terms that stand on scores of rows: files, columns, embeddings, mixtures; and scores as parts of other terms."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from dcfast.filters import rules
from dcfast.filters.expression import Argument, Call, nearest_name
from dcfast.filters.rules import Mask
from dcfast.filters.score_sources import (
    ArrayScore,
    ColumnScore,
    ContrastScore,
    DensityScore,
    MixedScore,
    ScoreFile,
    ScoreSource,
    SemanticScore,
    TargetScore,
    WithinScore,
)
from dcfast.filters.term import SCORES, Measure, Rows, Rule, Term, Test
from dcfast.filters.thresholds import Quantile

UID = "uid"
LIMITS = ("fraction", "threshold")
TEMPERATURE = 0.01
"""Of OpenAI's CLIP."""
SHUFFLES, MOST_SHUFFLES = 10, 1_000
CLUSTERS, MOST_CLUSTERS = 100, 1_000_000
TAU = 0.5
NORMALIZE = ("minmax", "rank")
PARTS_OF = ("mix", "within")
"""Terms that take scores as arguments."""
Given = dict[str, Argument]


@dataclass(frozen=True)
class Kind:
    """How a source is written: ``names`` of its arguments, the first ``positional`` of which need no name."""

    names: tuple[str, ...]
    positional: int
    example: str
    build: Callable[[Call, Given], ScoreSource]


def _word(call: Call, given: Given, name: str, example: str) -> str:
    """An argument that is a name or a string, not empty."""
    if name not in given:
        call.error(f"{call.name} needs {name}: {example}")
    argument = given[name]
    if argument.kind in ("number", "part") or not argument.value:
        call.error(f"{call.name}: {name} must be a name, or text in quotes: {example}", argument)
    return str(argument.value)


def _whole(call: Call, given: Given, name: str, usual: int, low: int, high: int) -> int:
    """An argument that is a whole number, or what it is where it is not given."""
    if name not in given:
        return usual
    value = call.number(name, given[name])
    if not (low <= value <= high and value.is_integer()):
        call.error(f"{call.name}: {name} must be a whole number, {low} to {high:,}; got {value!r}", given[name])
    return int(value)


def _positive(call: Call, given: Given, name: str, usual: float) -> float:
    if name not in given:
        return usual
    value = call.number(name, given[name])
    if not value > 0:
        call.error(f"{call.name}: {name} must be above 0; got {value!r}", given[name])
    return value


def _arch(call: Call, given: Given) -> str:
    """The embeddings a score is made of: the prefix of their arrays, ``l14`` of ``l14_img``."""
    return _word(call, given, "arch", f"{call.name}(l14, ...)")


def _seed(call: Call, given: Given) -> int:
    return _whole(call, given, "seed", 0, 0, rules.MAX_SEED)


def _file(call: Call, given: Given) -> ScoreSource:
    path = given.get("path")
    if path is None or path.kind != "string" or not path.value:
        call.error('score needs a parquet, npz or npy file in quotes: score("scores.parquet", fraction=0.3)', path)
    file = ScoreFile(str(path.value), _word(call, given, "column", "column=NAME") if "column" in given else "score")
    if file.column == UID:
        call.error("score: column must be that of the scores, not uid", given["column"])
    return file


def _clip_score(call: Call, given: Given) -> ScoreSource:
    arch = _arch(call, given)
    if arch not in SCORES:
        call.error(f"clip_score: expected {' or '.join(SCORES)}; got {arch!r}{nearest_name(arch, tuple(SCORES))}")
    return ColumnScore(SCORES[arch])


def _contrast(call: Call, given: Given) -> ScoreSource:
    return ContrastScore(
        _arch(call, given),
        _whole(call, given, "shuffles", SHUFFLES, 1, MOST_SHUFFLES),
        _seed(call, given),
        _positive(call, given, "temperature", TEMPERATURE),
    )


def _target(call: Call, given: Given) -> str | None:
    if "target" not in given:
        return None
    argument = given["target"]
    if argument.kind != "string" or not argument.value:
        call.error(f'{call.name}: put the path of an .npy in quotes: target="imagenet.npy"', argument)
    return str(argument.value)


def _normsim(call: Call, given: Given) -> ScoreSource:
    p = given.get("p")
    shown = "inf" if p is None else str(p.value).removesuffix(".0")
    if shown not in ("2", "inf"):
        call.error(f"normsim: p must be 2 or inf; got {shown!r}", p)
    return TargetScore("normsim", _arch(call, given), _target(call, given), shown)


def _vas(call: Call, given: Given) -> ScoreSource:
    return TargetScore("vas", _arch(call, given), _target(call, given))


def _clusters(call: Call, given: Given) -> int:
    return _whole(call, given, "clusters", CLUSTERS, 1, MOST_CLUSTERS)


def _semdedup(call: Call, given: Given) -> ScoreSource:
    return SemanticScore(_arch(call, given), _clusters(call, given), _seed(call, given))


def _density(call: Call, given: Given) -> ScoreSource:
    sizes = [name for name in ("total", "fraction") if name in given]
    if len(sizes) != 1:
        call.error(f"density needs total=... or fraction=...; got {'both; give one of them' if sizes else 'neither'}")
    if sizes == ["total"]:
        size = f"total={_whole(call, given, 'total', 0, 1, rules.MAX_SEED)}"
    else:
        size = f"fraction={call.number('fraction', given['fraction'])!r}"
    tau = _positive(call, given, "tau", TAU)
    return DensityScore(_arch(call, given), _clusters(call, given), size, tau, _seed(call, given))


def _mix(call: Call, given: Given) -> ScoreSource:
    parts = [argument for argument in call.arguments if argument.kind == "part"]
    normalize = _word(call, given, "normalize", "normalize=rank") if "normalize" in given else "minmax"
    if normalize not in NORMALIZE:
        call.error(f"mix: normalize must be minmax or rank; got {normalize!r}", given["normalize"])
    if len(parts) < 2:
        call.error('mix needs two scores or more: mix(0.7 * score("a.parquet"), clip_score(l14), fraction=0.3)')
    for argument in parts:
        if argument.keyword is not None:
            call.error("mix: a score stands without a name: 0.5 * column(NAME)", argument)
    weights = tuple(argument.weight for argument in parts)
    if not any(weights):
        call.error("mix: all weights are 0; give one that is not")
    return MixedScore(tuple(score_source(argument, call) for argument in parts), weights, normalize)


def _within(call: Call, given: Given) -> ScoreSource:
    parts = [argument for argument in call.arguments if argument.kind == "part"]
    example = "within(s_cliploss(l14), normsim(l14), first=0.3, fraction=0.2)"
    if len(parts) != 2 or "first" not in given:
        call.error(f"within needs two scores and first=, the fraction that the first one leaves: {example}")
    for argument in parts:
        if argument.keyword is not None or argument.weight != 1.0:
            call.error(f"within: a score stands without a name or a weight: {example}", argument)
    first = call.number("first", given["first"])
    if not 0.0 < first <= 1.0:
        call.error(f"within: first must be above 0 and at most 1; got {first!r}", given["first"])
    return WithinScore(tuple(score_source(argument, call) for argument in parts), first)


SOURCES: dict[str, Kind] = {
    "score": Kind(("path", "column"), 1, 'score("scores.parquet", fraction=0.3)', _file),
    "column": Kind(("name",), 1, "column(NAME)", lambda call, given: ColumnScore(_word(call, given, "name", "NAME"))),
    "array": Kind(
        ("name",), 1, "array(NAME, fraction=0.3)", lambda call, given: ArrayScore(_word(call, given, "name", "NAME"))
    ),
    "clip_score": Kind(("arch",), 1, "clip_score(l14)", _clip_score),
    "s_cliploss": Kind(
        ("arch", "shuffles", "seed", "temperature"), 1, "s_cliploss(l14, fraction=0.3, shuffles=10, seed=0)", _contrast
    ),
    "normsim": Kind(("arch", "target", "p"), 1, 'normsim(l14, target="imagenet.npy", p=inf, fraction=0.2)', _normsim),
    "vas": Kind(("arch", "target"), 1, 'vas(l14, target="imagenet.npy", fraction=0.3)', _vas),
    "semdedup": Kind(("arch", "clusters", "seed"), 1, "semdedup(l14, clusters=100, eps=0.05)", _semdedup),
    "density": Kind(
        ("arch", "clusters", "total", "fraction", "tau", "seed"), 1, "density(l14, total=1000000, tau=0.5)", _density
    ),
    "within": Kind(("first",), 0, "within(s_cliploss(l14), normsim(l14), first=0.3, fraction=0.2)", _within),
    "mix": Kind(("normalize",), 0, 'mix(0.7 * score("a.parquet"), clip_score(l14), fraction=0.3)', _mix),
}
"""Every source by its name: what may stand as a part of ``mix``."""


def _arguments(call: Call, kind: Kind, *more: str) -> Given:
    """The arguments of a source by name, but for the parts of those that take any."""
    plain = [argument for argument in call.arguments if call.name not in PARTS_OF or argument.kind != "part"]
    parts = next((argument for argument in plain if argument.kind == "part"), None)
    if parts is not None:
        call.error(
            f"{call.name} takes no scores as arguments; {' and '.join(PARTS_OF)} do: mix(0.5 * a, b)",
            parts,
        )
    without = Call(call.name, tuple(plain), call.source, call.begin, call.end, call.close)
    return without.by_name((*kind.names, *more), kind.positional, f"write it as {kind.example}")


def score_source(argument: Argument, call: Call) -> ScoreSource:
    """The source that an argument of a term is, like ``column(x)`` of ``mix(0.5 * column(x), ...)``; without a limit.

    FilterError: it is no score, or does not take its arguments; the message points at it.
    """
    part = argument.part
    if part is None:
        call.error(f"{call.name}: expected a score like column(NAME) or s_cliploss(l14)", argument)
    if part.name not in SOURCES:
        call.error(f"{call.name}: {part.name!r} is no score{nearest_name(part.name, tuple(SOURCES))}", argument)
    kind = SOURCES[part.name]
    return kind.build(part, _arguments(part, kind))


def _limit(call: Call, given: Given, names: tuple[str, ...] = LIMITS) -> tuple[str, float]:
    """The one limit that is given: its name and number."""
    limits = [name for name in names if name in given]
    if len(limits) != 1:
        what = "both; give one of them" if limits else "neither"
        call.error(f"{call.name} needs {'=... or '.join(names)}=...; got {what}")
    (name,) = limits
    return name, call.number(name, given[name])


def _score_of(source: ScoreSource) -> dict[str, Measure]:
    return {"score": lambda rows: rows.given_scores(source)}


def limited_term(source: ScoreSource, limit: str, value: float) -> Term:
    """The term that keeps rows whose score is at least a threshold, or among the top fraction of the whole pool."""
    text = f"{source.key.removesuffix(')')}, {limit}={value!r})"
    quantile = Quantile(source.key, value) if limit == "fraction" else None
    made = (
        Rule(f"{text}: no score", lambda rows, _: ~np.isnan(rows.given_scores(source))),
        Rule(text, _at_least(source, quantile, value), _score_of(source)),
    )
    columns = tuple(column_names(source))
    return Term(text, made, columns, quantile=quantile, scores=source, threshold=None if quantile else value)


def column_names(source: ScoreSource) -> list[str]:
    """The columns of the metadata that a source is made of."""
    if isinstance(source, ColumnScore):
        return [source.name]
    return list(dict.fromkeys(name for part in source.parts for name in column_names(part)))


def _at_least(source: ScoreSource, quantile: Quantile | None, written: float) -> Test:
    def passes(rows: Rows, _: Mask) -> Mask:
        limit = written if quantile is None else rows.threshold(quantile)
        return rules.score_at_least(rows.given_scores(source), limit, written=quantile is None)

    return passes


def _scored(name: str) -> Callable[[Call], Term]:
    """The builder of a term that is a source with fraction= or threshold=."""
    kind = SOURCES[name]

    def build(call: Call) -> Term:
        given = _arguments(call, kind, *LIMITS)
        limit, value = _limit(call, given)
        return limited_term(kind.build(call, given), limit, value)

    return build


def _semdedup_term(call: Call) -> Term:
    kind = SOURCES["semdedup"]
    given = _arguments(call, kind, "eps", "fraction")
    limit, value = _limit(call, given, ("eps", "fraction"))
    if limit == "eps" and not 0 <= value <= 2:
        call.error(f"semdedup: eps must be 0 to 2, 1 less a cosine; got {value!r}", given["eps"])
    return limited_term(kind.build(call, given), limit, value)


def _density_term(call: Call) -> Term:
    source = SOURCES["density"].build(call, _arguments(call, SOURCES["density"]))
    made = (
        Rule(f"{source.key}: no score", lambda rows, _: ~np.isnan(rows.given_scores(source))),
        Rule(source.key, _at_least(source, None, 1.0), _score_of(source)),
    )
    return Term(source.key, made, scores=source, threshold=1.0)


def column_term(call: Call, name: str, given: Given) -> Term:
    """``column(NAME, fraction=F)`` or ``threshold=``: the column is read where it stands."""
    limit, value = _limit(call, given)
    if not math.isfinite(value):
        call.error(f"column: {limit} must be a number", given[limit])
    text = f"{ColumnScore(name).key.removesuffix(')')}, {limit}={value!r})"
    quantile = Quantile(name, value) if limit == "fraction" else None

    def passes(rows: Rows, _: Mask) -> Mask:
        bound = value if quantile is None else rows.threshold(quantile)
        return rules.score_at_least(rows.numbers(name), bound, written=quantile is None)

    has_value = Rule(f"{text}: null", lambda rows, _: rules.is_known(rows.batch.column(name)))
    made = (has_value, Rule(text, passes))
    return Term(text, made, (name,), quantile=quantile, uses={name: "number"}, cost=0.05)


SCORE_TERMS: dict[str, Callable[[Call], Term]] = {
    **{name: _scored(name) for name in ("score", "array", "s_cliploss", "normsim", "vas", "within", "mix")},
    "semdedup": _semdedup_term,
    "density": _density_term,
}
