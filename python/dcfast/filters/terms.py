"""The terms of the filter language: what each name means, needs, and calls the samples it drops.

To add a filter, write a builder that returns a Term and name it in ``TERMS``. See docs/filters.md.
"""

from __future__ import annotations

import difflib
import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import numpy.typing as npt

from dcfast.filters import language, rules, wordnet
from dcfast.filters.drawn import MAX_SEED, drawn
from dcfast.filters.expression import Argument, Call
from dcfast.filters.rules import Mask
from dcfast.filters.thresholds import Quantile, parse_threshold
from dcfast.filters.tokens import quoted

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["CONTAMINATED", "TERMS", "Clusters", "Rows", "Rule", "Term", "build_term"]

CONTAMINATED = "contaminated"
ORACLE, TEACHER_PAIRS = "oracle", "teacher_pairs"
RUN_SETS = (CONTAMINATED, ORACLE, TEACHER_PAIRS)  # uid sets that the run itself makes; other names are paths
TEXT, WIDTH, HEIGHT = "text", "original_width", "original_height"
SCORES = {"b32": "clip_b32_similarity_score", "l14": "clip_l14_similarity_score"}

# What a term may need beyond NumPy and pyarrow.
LANGUAGE_MODEL, WORDNET, GCLD3 = "language model", "wordnet", "gcld3"
_ASKED_AT_ONCE = 8192  # captions that are Python strings at a time


class Rows:
    """A batch under evaluation: columns made ready once, and what models said of the rows asked about."""

    def __init__(
        self,
        batch: pa.RecordBatch,
        thresholds: Mapping[str, float | str],
        uid_sets: Mapping[str, npt.NDArray[Any]],
        uids: npt.NDArray[Any] | None,
        clusters: Mapping[str, Mask] | None = None,
    ) -> None:
        self.batch = batch
        self.thresholds = thresholds
        self.uid_sets = uid_sets
        self.uids = uids
        self.clusters = clusters or {}
        self.num_rows: int = batch.num_rows
        self._ready: dict[str, Any] = {}
        self._verdicts: dict[str, npt.NDArray[np.int8]] = {}

    def text(self) -> pa.Array:
        """The captions, valid UTF-8."""
        if TEXT not in self._ready:
            self._ready[TEXT] = rules.valid_text(self.batch.column(TEXT))
        return self._ready[TEXT]

    def numbers(self, column: str) -> npt.NDArray[Any]:
        """A numeric column, NaN for null."""
        if column not in self._ready:
            self._ready[column] = rules.numbers(self.batch.column(column))
        return cast("npt.NDArray[Any]", self._ready[column])

    def sides(self) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
        """Original width and height."""
        return self.numbers(WIDTH), self.numbers(HEIGHT)

    def ask(self, model: Callable[[list[str]], Mask], pending: Mask) -> Mask:
        """A per-caption model's verdicts, asked only where ``pending`` and not asked before; null captions fail."""
        known = self._verdicts.setdefault(model.__name__, np.full(self.num_rows, -1, np.int8))
        wanted = np.flatnonzero(pending & (known < 0))
        known[wanted] = 0
        for begin in range(0, len(wanted), _ASKED_AT_ONCE):
            some = wanted[begin : begin + _ASKED_AT_ONCE]
            captions = self.text().take(some)
            present = captions.is_valid().to_numpy(zero_copy_only=False)
            known[some[present]] = model(captions.drop_null().to_pylist())
        return cast("Mask", known == 1)

    def members(self, name: str) -> Mask:
        """Rows whose uid is in a set."""
        if self.uids is None or name not in self.uid_sets:
            missing = "uids" if self.uids is None else f"uid_sets[{name!r}]"
            raise ValueError(f"Filter.evaluate: {missing} must be given for this filter")
        from dcfast.uids import uid_isin

        # loading a set checked that it is sorted; pieces, not threads, fill the cores here
        return uid_isin(self.uids, self.uid_sets[name], check=False, threads=1)

    def in_clusters(self, clusters: Clusters) -> Mask:
        """Rows whose nearest centroid is a target's."""
        if clusters.key not in self.clusters:
            raise ValueError(f"Filter.evaluate: clusters[{clusters.key!r}] must be given for this filter")
        return self.clusters[clusters.key]

    def threshold(self, quantile: Quantile) -> float:
        """The score that a quantile was found to be."""
        if quantile.key not in self.thresholds:
            raise ValueError(f"Filter.evaluate: thresholds[{quantile.key!r}] must be given for this filter")
        return parse_threshold(self.thresholds[quantile.key])


@dataclass(frozen=True)
class Clusters:
    """Which clusters of image embeddings a term keeps: those that are nearest to a target's embedding.

    Attributes:
        centroids: path of an ``.npy``, or None: computed on the pool.
        target: path of an ``.npy`` of embeddings, or None: the built-in world's clean pictures.
    """

    centroids: str | None
    target: str | None

    @property
    def arguments(self) -> str:
        """As they stand in the expression; empty where both are None."""
        given = (("centroids", self.centroids), ("target", self.target))
        return ", ".join(f"{name}={quoted(value)}" for name, value in given if value is not None)

    @property
    def key(self) -> str:
        """What ``Filter.evaluate`` finds the rows' answers by."""
        return f"clusters({self.arguments})"


@dataclass(frozen=True)
class Rule:
    """One reason to drop a sample. ``passes(rows, pending)`` is read only where ``pending``."""

    reason: str
    passes: Callable[[Rows, Mask], Mask]


@dataclass(frozen=True)
class Term:
    """A leaf of an expression.

    Attributes:
        text: canonical; parses back to an equal term, and equal terms have equal text.
        rules: in the fixed order in which the first failing one names the reason; cheap ones first.
        columns: metadata columns it reads.
        needs: models and libraries beyond NumPy and pyarrow.
        cost: of a row, roughly in microseconds; cheaper terms are tried first where the order shows in nothing.
    """

    text: str
    rules: tuple[Rule, ...] = field(default=(), compare=False)
    columns: tuple[str, ...] = field(default=(), compare=False)
    needs: tuple[str, ...] = field(default=(), compare=False)
    uid_set: str | None = field(default=None, compare=False)
    quantile: Quantile | None = field(default=None, compare=False)
    clusters: Clusters | None = field(default=None, compare=False)
    cost: float = field(default=0.01, compare=False)

    def __str__(self) -> str:
        return self.text

    def first_failure(self, rows: Rows, pending: Mask) -> npt.NDArray[np.uint8]:
        """For each pending row 0 where all rules pass, else 1 + the first rule that fails; (n,), 0 elsewhere."""
        failed = np.zeros(rows.num_rows, np.uint8)
        pending = pending.copy()
        for number, rule in enumerate(self.rules, 1):
            if not pending.any():
                break
            fails = pending & ~rule.passes(rows, pending)
            failed[fails] = number
            pending &= ~fails
        return failed


def _english(rows: Rows, pending: Mask) -> Mask:
    return rows.ask(language.is_english, pending)


def _imagenet_word(rows: Rows, pending: Mask) -> Mask:
    return rows.ask(wordnet.has_imagenet_word, pending)


def _english_gcld3(rows: Rows, pending: Mask) -> Mask:
    return rows.ask(language.is_english_gcld3, pending)


def _no_arguments(call: Call) -> None:
    if call.arguments:
        first = call.arguments[0]
        call.source.error(f"{call.name} takes no arguments", first.begin, call.arguments[-1].end)


def _no_filter(call: Call) -> Term:
    _no_arguments(call)
    return Term("no_filter", cost=0.0)


def _basic_filter(call: Call) -> Term:
    _no_arguments(call)
    return Term(
        "basic_filter",
        (
            Rule("basic_filter: words", lambda rows, _: rules.enough_words(rows.text())),
            Rule("basic_filter: characters", lambda rows, _: rules.enough_characters(rows.text())),
            Rule("basic_filter: size", lambda rows, _: rules.large_enough(*rows.sides())),
            Rule("basic_filter: aspect", lambda rows, _: rules.moderate_aspect(*rows.sides())),
            Rule("basic_filter: language", _english),
        ),
        (TEXT, WIDTH, HEIGHT),
        (LANGUAGE_MODEL,),
        cost=10.0,
    )


def _text_based(call: Call) -> Term:
    _no_arguments(call)
    return Term(
        "text_based",
        (
            Rule("text_based: no ImageNet-21k word", _imagenet_word),
            Rule("text_based: language", _english),
        ),
        (TEXT,),
        (LANGUAGE_MODEL, WORDNET),
        cost=12.0,
    )


def _laion2b(call: Call) -> Term:
    _no_arguments(call)
    column, minimum = SCORES["b32"], rules.LAION2B_MIN_SCORE
    return Term(
        "laion2b",
        (
            Rule("laion2b: score", lambda rows, _: rules.score_at_least(rows.numbers(column), minimum, written=True)),
            Rule("laion2b: language", _english_gcld3),
        ),
        (TEXT, column),
        (GCLD3,),
        cost=20.0,
    )


def _clip_score(call: Call) -> Term:
    given: dict[str, Argument] = {}
    for argument in call.arguments:
        name = argument.keyword
        if name is None and "arch" not in given:
            name = "arch"
        elif name is None:
            call.source.error("clip_score: write fraction=... or threshold=...", argument.begin, argument.end)
        if name not in ("arch", "fraction", "threshold"):
            hint = _nearest(name, ("arch", "fraction", "threshold"))
            call.source.error(f"clip_score has no argument {name!r}{hint}", argument.begin, argument.end)
        if name in given:
            call.source.error(f"clip_score: {name} is given twice", argument.begin, argument.end)
        given[name] = argument
    names = " or ".join(SCORES)
    if "arch" not in given:
        call.source.error(f"clip_score needs {names}: clip_score(l14, fraction=0.3)", call.begin, call.close)
    arch = given["arch"]
    if arch.value not in SCORES:
        hint = _nearest(str(arch.value), tuple(SCORES))
        call.source.error(f"clip_score: expected {names}; got {arch.value!r}{hint}", arch.begin, arch.end)
    limits = [given[name] for name in ("fraction", "threshold") if name in given]
    if len(limits) != 1:
        what = "both; give one of them" if limits else "neither"
        call.source.error(f"clip_score needs fraction=... or threshold=...; got {what}", call.begin, call.close)
    (limit,) = limits
    if not isinstance(limit.value, float):
        call.source.error(f"clip_score: {limit.keyword} must be a number", limit.begin, limit.end)
    value, column = limit.value, SCORES[str(arch.value)]
    text = f"clip_score({arch.value}, {limit.keyword}={value!r})"
    if limit.keyword == "threshold":
        at_least = Rule(text, lambda rows, _: rules.score_at_least(rows.numbers(column), value, written=True))
        return Term(text, (at_least,), (column,))
    if not 0.0 < value <= 1.0:
        call.source.error(f"clip_score: fraction must be above 0 and at most 1; got {value!r}", limit.begin, limit.end)
    quantile = Quantile(column, value)
    best = Rule(text, lambda rows, _: rules.score_at_least(rows.numbers(column), rows.threshold(quantile)))
    return Term(text, (best,), (column,), quantile=quantile)


def _uid_term(text: str, name: str) -> Term:
    return Term(text, (Rule(f"not ({text})", lambda rows, _: rows.members(name)),), uid_set=name, cost=0.1)


def _run_set(call: Call) -> Term:
    _no_arguments(call)
    return _uid_term(call.name, call.name)


def _random(call: Call) -> Term:
    given: dict[str, Argument] = {}
    for argument in call.arguments:
        name = argument.keyword or ("fraction" if not given else "seed")
        if name not in ("fraction", "seed") or name in given or not isinstance(argument.value, float):
            call.source.error("random takes a fraction and a seed: random(0.3, seed=1)", argument.begin, argument.end)
        given[name] = argument
    if "fraction" not in given:
        call.source.error("random needs a fraction: random(0.3)", call.begin, call.close)
    fraction = float(given["fraction"].value)
    seed = float(given["seed"].value) if "seed" in given else 0.0
    if not 0.0 < fraction <= 1.0:
        place = given["fraction"]
        call.source.error(f"random: fraction must be above 0 and at most 1; got {fraction!r}", place.begin, place.end)
    if not (0.0 <= seed <= MAX_SEED and seed.is_integer()):
        place = given["seed"]
        call.source.error(f"random: seed must be a whole number, 0..2^53-1; got {seed!r}", place.begin, place.end)
    number = int(seed)
    text = f"random({fraction!r}, seed={number})"

    def passes(rows: Rows, _: Mask) -> Mask:
        if rows.uids is None:
            raise ValueError("Filter.evaluate: uids must be given for this filter")
        return drawn(rows.uids, fraction, number)

    return Term(text, (Rule(text, passes),), cost=0.05)


def _uids(call: Call) -> Term:
    if len(call.arguments) != 1 or call.arguments[0].keyword not in (None, "path"):
        call.source.error('uids needs one quoted path: uids("my uids.npy")', call.begin, call.close)
    (path,) = call.arguments
    if path.kind != "string":
        call.source.error('uids: put the path in quotes: uids("my uids.npy")', path.begin, path.end)
    name = str(path.value)
    if not name:
        call.source.error("the path of a uid file is empty", path.begin, path.end)
    if name in RUN_SETS:
        name = f"./{name}"  # a file of this name must not be taken for the set
    return _uid_term(f"uids({quoted(name)})", name)


TERMS: dict[str, Callable[[Call], Term]] = {
    "basic_filter": _basic_filter,
    "clip_score": _clip_score,
    CONTAMINATED: _run_set,
    "laion2b": _laion2b,
    "no_filter": _no_filter,
    ORACLE: _run_set,
    "random": _random,
    TEACHER_PAIRS: _run_set,
    "text_based": _text_based,
    "uids": _uids,
}


@functools.cache
def _builders() -> dict[str, Callable[[Call], Term]]:
    from dcfast.filters.image_terms import IMAGE_TERMS  # it builds on this module

    return dict(sorted({**TERMS, **IMAGE_TERMS}.items()))


def _nearest(name: str, known: tuple[str, ...]) -> str:
    close = difflib.get_close_matches(name.lower(), known, n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else f"; known: {', '.join(known)}"


def build_term(call: Call) -> Term:
    """The term of a call; FilterError where there is no such name, or it does not take these arguments."""
    builders = _builders()
    if call.name in builders:
        return builders[call.name](call)
    hint = _nearest(call.name, tuple(builders))
    call.source.error(f"unknown filter {call.name[:60]!r}{hint}", call.begin, call.end)
