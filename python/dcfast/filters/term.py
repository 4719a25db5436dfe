"""What a term of the filter language is, and the rows it is asked of."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from dcfast.filters import language, rules, wordnet
from dcfast.filters.expression import Call
from dcfast.filters.functions import FilterFunction
from dcfast.filters.rules import Mask, Numbers
from dcfast.filters.score_sources import ScoreSource
from dcfast.filters.thresholds import Quantile, parse_threshold
from dcfast.filters.tokens import quoted
from dcfast.uids.sets import uid_isin

if TYPE_CHECKING:
    import pyarrow as pa

    from dcfast.filters.sampling import Sampling

CONTAMINATED, DUPLICATE, ORACLE, TEACHER_PAIRS = "contaminated", "duplicate", "oracle", "teacher_pairs"
DRAWN = "drawn by sample"
RUN_SETS = (CONTAMINATED, DUPLICATE, ORACLE, TEACHER_PAIRS)  # uid sets that the run itself makes, and their terms
OWN_SETS = (*RUN_SETS, DRAWN)  # with what sample(...) drew; other names are paths

TEXT, WIDTH, HEIGHT = "text", "original_width", "original_height"
SCORES = {"b32": "clip_b32_similarity_score", "l14": "clip_l14_similarity_score"}
FEATURES_OPTIONS = {"b32": "--features b32=ViT-B-32:openai", "l14": "--features l14=ViT-L-14:openai"}
"""What is typed to have the score and the embeddings of each made, where the metadata does not bring them."""

# What a term may need beyond NumPy and pyarrow.
LANGUAGE_MODEL, WORDNET, GCLD3 = "language model", "wordnet", "gcld3"
MODELS: dict[str, Callable[[pa.Array], Mask]] = {
    LANGUAGE_MODEL: lambda captions: language.is_english(captions),
    WORDNET: lambda captions: wordnet.has_imagenet_word(captions.to_pylist()),
    GCLD3: lambda captions: language.is_english_gcld3(captions.to_pylist()),
}
"""What says of each caption, none of them null, whether it passes."""

_ASKED_AT_ONCE = 8192  # captions that are copied, or Python strings, at a time

ClusterRows = Mask | Callable[[Mask], Mask]
"""(n,) bool, the rows in a target's clusters; or what finds it for the pending rows of a mask, read only there."""


@dataclass
class Rows:
    """A batch under evaluation: columns made ready once, and what models said of the rows asked about."""

    batch: pa.RecordBatch
    thresholds: Mapping[str, float | str] = field(default_factory=dict)
    uid_sets: Mapping[str, npt.NDArray[np.void]] = field(default_factory=dict)
    uids: npt.NDArray[np.void] | None = None
    clusters: Mapping[str, ClusterRows] = field(default_factory=dict)
    scores: Mapping[str, Numbers] = field(default_factory=dict)
    _numbers: dict[str, Numbers] = field(default_factory=dict)
    _texts: dict[str, pa.Array] = field(default_factory=dict)
    _verdicts: dict[str, npt.NDArray[np.int8]] = field(default_factory=dict)

    @property
    def num_rows(self) -> int:
        return int(self.batch.num_rows)

    @property
    def text(self) -> pa.Array:
        """The captions, valid UTF-8."""
        return self.texts(TEXT)

    def texts(self, column: str) -> pa.Array:
        """A column of texts, valid UTF-8."""
        if column not in self._texts:
            self._texts[column] = rules.valid_text(self.batch.column(column))
        return self._texts[column]

    def numbers(self, column: str) -> Numbers:
        """A numeric column, NaN for null."""
        if column not in self._numbers:
            self._numbers[column] = rules.numbers(self.batch.column(column))
        return self._numbers[column]

    def ask(self, model: str, pending: Mask) -> Mask:
        """The verdicts of one of ``MODELS``, asked only where ``pending`` and not asked before; null captions fail."""
        known = self._verdicts.setdefault(model, np.full(self.num_rows, -1, np.int8))
        selected = np.flatnonzero(pending & (known < 0))
        known[selected] = 0
        for begin in range(0, len(selected), _ASKED_AT_ONCE):
            some = selected[begin : begin + _ASKED_AT_ONCE]
            captions = self.text.take(some)
            if captions.null_count:
                some = some[captions.is_valid().to_numpy(zero_copy_only=False)]
                captions = captions.drop_null()
            known[some] = MODELS[model](captions)
        return np.equal(known, 1)

    def ask_function(self, function: FilterFunction, pending: Mask) -> Mask:
        """What a function of somebody else's says of the pending rows; False elsewhere."""
        selected = np.flatnonzero(pending)
        passes = np.zeros(self.num_rows, np.bool_)
        if len(selected):
            batch = self.batch if len(selected) == self.num_rows else self.batch.take(selected)
            passes[selected] = function.ask(batch)
        return passes

    def members(self, name: str) -> Mask:
        """Rows whose uid is in a set."""
        if self.uids is None or name not in self.uid_sets:
            missing = "uids" if self.uids is None else f"uid_sets[{name!r}]"
            raise ValueError(f"Filter.evaluate: {missing} must be given for this filter")
        # loading a set checked that it is sorted; pieces, not threads, fill the cores here
        return uid_isin(self.uids, self.uid_sets[name], check=False, threads=1)

    def in_clusters(self, clusters: Clusters, pending: Mask) -> Mask:
        """Rows whose nearest centroid is a target's; read only where ``pending``."""
        if clusters.key not in self.clusters:
            raise ValueError(f"Filter.evaluate: clusters[{clusters.key!r}] must be given for this filter")
        members = self.clusters[clusters.key]
        return members(pending) if callable(members) else members

    def given_scores(self, source: ScoreSource) -> Numbers:
        """The rows' scores of a source, NaN where it has none."""
        if source.key not in self.scores:
            raise ValueError(f"Filter.evaluate: scores[{source.key!r}] must be given for this filter")
        return self.scores[source.key]

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


Test = Callable[[Rows, Mask], Mask]
Measure = Callable[[Rows], "pa.Array | Mask | Numbers"]
"""A value a row."""


@dataclass(frozen=True)
class Rule:
    """One reason to drop a sample. ``passes(rows, pending)`` is read only where ``pending``.

    Attributes:
        values: what it looks at where that is no column of the metadata, by name; for who asks why.
    """

    reason: str
    passes: Test
    values: Mapping[str, Measure] = field(default_factory=dict)


@dataclass(frozen=True)
class Term:
    """A leaf of an expression.

    Attributes:
        text: canonical; parses back to an equal term, and equal terms have equal text.
        rules: in the fixed order in which the first failing one names the reason; cheap ones first.
        columns: metadata columns it reads.
        uses: of those that are neither ``text`` nor numbers: what the column is for (``COLUMN_TYPES``), or "any".
        needs: models and libraries beyond NumPy and pyarrow.
        sampling: it draws copies, among the rows that pass all other clauses.
        scores: whose scores it compares; with ``threshold`` where one is written, else with that of ``quantile``.
        is_unasked: a Python function that is not to be run, so that its rule has no answer.
        cost: of a row, roughly in microseconds; cheaper terms are tried first where the order shows in nothing.
    """

    text: str
    rules: tuple[Rule, ...] = field(default=(), compare=False)
    columns: tuple[str, ...] = field(default=(), compare=False)
    needs: tuple[str, ...] = field(default=(), compare=False)
    uid_set: str | None = field(default=None, compare=False)
    quantile: Quantile | None = field(default=None, compare=False)
    clusters: Clusters | None = field(default=None, compare=False)
    scores: ScoreSource | None = field(default=None, compare=False)
    threshold: float | None = field(default=None, compare=False)
    sampling: Sampling | None = field(default=None, compare=False)
    function: FilterFunction | None = field(default=None, compare=False)
    uses: Mapping[str, str] = field(default_factory=dict, compare=False)
    is_unasked: bool = field(default=False, compare=False)
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


COUNTS: Mapping[str, Measure] = {
    "words": lambda rows: rules.count_words(rows.text),
    "characters": lambda rows: rules.count_characters(rows.text),
}
"""What is counted of a caption."""


def named_rules(term: str, **tests: Test) -> tuple[Rule, ...]:
    """The rules of a term by what they look at: a dropped sample is called by both."""
    return tuple(
        Rule(f"{term}: {name}", passes, {name: COUNTS[name]} if name in COUNTS else {})
        for name, passes in tests.items()
    )


def asks(model: str) -> Test:
    return lambda rows, pending: rows.ask(model, pending)


def without_arguments(term: Term) -> Callable[[Call], Term]:
    """The builder of a term that is its name alone."""

    def build(call: Call) -> Term:
        if call.arguments:
            call.error(f"{call.name} takes no arguments", call.arguments[0]._replace(end=call.arguments[-1].end))
        return term

    return build
