"""A filter that is ready to run: what it needs, and for each row of metadata whether and why it is dropped."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from dcfast.errors import PoolError, did_you_mean
from dcfast.filters import language, wordnet
from dcfast.filters.catalog import build_term, build_without_code
from dcfast.filters.expression import And, Call, Expression, Not, Or, parse
from dcfast.filters.functions import FilterFunction
from dcfast.filters.rules import Mask, Numbers
from dcfast.filters.sample_terms import SAMPLE, refuse_misplaced
from dcfast.filters.sampling import Sampling
from dcfast.filters.score_sources import ColumnScore, ScoreFile, ScoreSource, with_parts
from dcfast.filters.term import (
    FEATURES_OPTIONS,
    GCLD3,
    LANGUAGE_MODEL,
    MODELS,
    RUN_SETS,
    SCORES,
    TEXT,
    WORDNET,
    ClusterRows,
    Clusters,
    Rows,
    Term,
)
from dcfast.filters.thresholds import Quantile
from dcfast.index.metadata import COLUMN_TYPES, column_matches

if TYPE_CHECKING:
    import pyarrow as pa

KEPT = "kept"  # reasons[0]


def _terms(node: Expression) -> Iterator[Term]:
    """The leaves, in written order."""
    if isinstance(node, Term):
        yield node
    elif isinstance(node, (Not, And, Or)):
        for child in (node.child,) if isinstance(node, Not) else node.children:
            yield from _terms(child)


def _cost(node: Expression) -> float:
    return sum(term.cost for term in _terms(node))


def _how_to_have(column: str) -> str:
    """What brings a column that metadata lacks, where dcfast can make it; ends with a comma."""
    option = next((FEATURES_OPTIONS[prefix] for prefix, name in SCORES.items() if name == column), "")
    return f"have it computed ({option}), " if option else ""


def _is_sampling(node: Expression) -> bool:
    return isinstance(node, Term) and node.sampling is not None


def _needs_images(node: Expression, npz: bool) -> bool:
    """Whether an expression cannot be decided by metadata and files of scores alone."""
    return any(
        term.uid_set in RUN_SETS
        or term.sampling is not None
        or (not npz and (term.clusters is not None or (term.scores is not None and _needs_embeddings(term.scores))))
        for term in _terms(node)
    )


def _needs_embeddings(source: ScoreSource) -> bool:
    return not all(part.parts or isinstance(part, (ScoreFile, ColumnScore)) for part in with_parts([source]))


def _holds(node: Expression, rows: Rows, pending: Mask) -> Mask:
    """Where an expression is true; read only where ``pending``. Cheap parts go first: truth has no order."""
    if isinstance(node, Not):
        return np.logical_not(_holds(node.child, rows, pending))
    if isinstance(node, And):
        result = pending.copy()
        for child in sorted(node.children, key=_cost):
            result &= _holds(child, rows, result)
        return result
    if isinstance(node, Or):
        result = np.zeros(rows.num_rows, np.bool_)
        for child in sorted(node.children, key=_cost):
            result |= _holds(child, rows, pending & ~result) & ~result
        return result
    assert isinstance(node, Term)
    return np.equal(node.first_failure(rows, pending), 0)


def _clause_reasons(clause: Expression) -> tuple[str, ...]:
    """What a failing clause of the top-level conjunction is called: one name a rule of a term, else one name."""
    if isinstance(clause, Term):
        return tuple(rule.reason for rule in clause.rules)
    if isinstance(clause, Not):
        child = clause.child
        return (str(child) if isinstance(child, Term) and child.uid_set is not None else str(clause),)
    return (f"not ({clause})",)


class Filter:
    """A compiled filter expression. Equal filters have equal canonical text, which is ``str(filter)``.

    Attributes:
        text: as it was given.
        terms: the leaves, each once, in written order.
        columns: for each term (canonical text) the metadata columns it reads. The uid column is not among them.
        column_names: all of them once, sorted.
        uid_sets: names of the uid sets it needs, in written order: "contaminated", or the path of a uid file.
        quantiles: (column, fraction) pairs whose threshold is needed; ``thresholds`` is keyed by their ``.key``.
        clusters: whose membership is needed; the ``clusters`` of ``evaluate`` are keyed by their ``.key``.
        scores: sources whose scores are needed; the ``scores`` of ``evaluate`` are keyed by their ``.key``, also the
            ``column`` of a quantile of theirs.
        score_limits: the first limit on each of these by its key: what is written, or the quantile.
        functions: in Python, that it asks; see ``check_functions``.
        sampling: what copies are drawn among the rows that pass the rest; None where all of them are kept once.
        unasked: canonical text of the terms in Python that are not run, see ``compile_filter``.
        needs: of "language model", "wordnet", "gcld3", those that it uses; see ``check_needs``.
        reasons: what the codes of ``evaluate`` mean; reasons[0] is "kept".
    Example: ``batch.filter(pa.array(compile_filter("words >= 3").evaluate(batch) == 0))``
    """

    def __init__(self, text: str, root: Expression) -> None:
        self.text = text
        self._root = root
        self._canonical = str(root)
        clauses = root.children if isinstance(root, And) else (root,)
        # what is drawn depends on the others, wherever it is written: its reason comes last
        self._clauses = tuple(sorted(clauses, key=_is_sampling))
        self.sampling: Sampling | None = next((c.sampling for c in clauses if isinstance(c, Term) and c.sampling), None)
        terms = list(dict.fromkeys(_terms(root)))
        self.terms = terms
        self.columns: dict[str, tuple[str, ...]] = {term.text: term.columns for term in terms if term.columns}
        self.column_names: list[str] = sorted({name for names in self.columns.values() for name in names})
        self.uid_sets: list[str] = [term.uid_set for term in terms if term.uid_set is not None]
        self.quantiles: list[Quantile] = [term.quantile for term in terms if term.quantile is not None]
        clusters = [term.clusters for term in terms if term.clusters is not None]
        scores = [term.scores for term in terms if term.scores is not None]
        self.scores: list[ScoreSource] = list({source.key: source for source in scores}.values())
        self.score_limits: dict[str, float | Quantile | None] = {
            term.scores.key: term.quantile or term.threshold for term in reversed(terms) if term.scores is not None
        }
        self.functions: list[FilterFunction] = [term.function for term in terms if term.function is not None]
        self.unasked: list[str] = [term.text for term in terms if term.is_unasked]
        self.clusters: list[Clusters] = list(dict.fromkeys(clusters))
        self.needs: list[str] = sorted({need for term in terms for need in term.needs})
        self._names = [_clause_reasons(clause) for clause in self._clauses]
        self.reasons: list[str] = [KEPT, *dict.fromkeys(name for names in self._names for name in names)]

    def __str__(self) -> str:
        return self._canonical

    def __repr__(self) -> str:
        return f"compile_filter({self._canonical!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Filter) and self._canonical == other._canonical

    def __hash__(self) -> int:
        return hash(self._canonical)

    def __reduce__(self) -> tuple[object, ...]:
        return (partial(compile_filter, run_code=not self.unasked), (self.text,))

    @property
    def candidates(self) -> Filter:
        """The filter of the rows that ``sample`` draws among; itself where nothing is drawn.

        Its reasons are those of the whole, less the last.
        """
        if self.sampling is None:
            return self
        others = self._clauses[:-1]
        root = And(others) if len(others) > 1 else others[0] if others else Term("no_filter", cost=0.0)
        return Filter(str(root), root)

    def part(self, *, of_metadata: bool, npz: bool) -> Filter | None:
        """The clauses of the top-level conjunction that need no image, or those that do; None where there are none.

        Images are needed by ``contaminated``, ``duplicate`` and the other sets that a run makes itself, by what is
        drawn among the rows that pass the rest, and, unless the metadata has its ``npz`` files, by what is scored or
        clustered by embeddings. A row passes the filter where it passes both parts.
        """
        clauses = [clause for clause in self._clauses if _needs_images(clause, npz) != of_metadata]
        root = And(tuple(clauses)) if len(clauses) > 1 else clauses[0] if clauses else None
        return None if root is None else Filter(str(root), root)

    @property
    def is_native(self) -> bool:
        """Whether it is evaluated outside of Python: by Arrow and the core, not a caption at a time."""
        return not self.functions and not {WORDNET, GCLD3} & set(self.needs)

    def check_columns(self, schema: pa.Schema, file: str) -> None:
        """Checks that a metadata file has what the filter reads.

        PoolError: a column is missing or of another type; names the filter, the column and the file.
        """
        import pyarrow as pa

        for term in self.terms:
            for name in term.columns:
                indices = schema.get_all_field_indices(name)
                if len(indices) != 1:
                    what = "needs the column" if not indices else "found more than once the column"
                    hint = "" if indices else did_you_mean(name, schema.names, cutoff=0.75)
                    raise PoolError(
                        f"filter {term} {what} {name!r}: {file} has {', '.join(schema.names) or 'no columns'}; "
                        f"{_how_to_have(name)}leave the filter out, or give metadata with this column{hint}"
                    )
                kind = schema.field(indices[0]).type
                use = term.uses.get(name, "text" if name == TEXT else "number")
                if use == "any":
                    continue
                is_null = pa.types.is_null(kind.value_type if pa.types.is_dictionary(kind) else kind)
                if not is_null and not column_matches(use, kind):  # nothing but null fits every use
                    expected = COLUMN_TYPES[use][0]
                    raise PoolError(
                        f"filter {term} needs {expected} in the column {name!r}: {file} has {kind}; write the column so"
                    )

    def check_needs(self) -> None:
        """Loads the models and lists that the filter uses, so that what is missing is known before the work starts.

        MissingDependencyError: the message says how to get it.   FilterError: a Python function cannot be imported.
        """
        import pyarrow as pa

        for model in self.needs:
            MODELS[model](pa.array([], pa.string()))
        for function in self.functions:
            function.fingerprint()

    def check_functions(self, batch: pa.RecordBatch) -> None:
        """FilterError where a Python function of the filter fails on some rows, or is not pure."""
        for function in self.functions:
            function.check_pure(batch)

    def fingerprint(self) -> dict[str, str | dict[str, str | int]]:
        """What verdicts depend on besides the metadata and the uid sets. MissingDependencyError: it is not there."""
        parts: dict[str, str | dict[str, str | int]] = {"expression": self._canonical}
        if LANGUAGE_MODEL in self.needs:
            parts["language_model"] = language.model_fingerprint()
        if WORDNET in self.needs:
            parts["text_based"] = wordnet.text_fingerprint()
        parts |= {function.term: function.fingerprint() for function in self.functions}
        return parts

    def evaluate(
        self,
        batch: pa.RecordBatch,
        thresholds: Mapping[str, float | str] | None = None,
        uid_sets: Mapping[str, npt.NDArray[np.void]] | None = None,
        uids: npt.NDArray[np.void] | None = None,
        clusters: Mapping[str, ClusterRows] | None = None,
        scores: Mapping[str, Numbers] | None = None,
    ) -> npt.NDArray[np.uint16]:
        """Which rows are kept, and for the others the rule that dropped them.

        The code of a dropped row is that of the first clause, in written order, of the top-level conjunction that
        it fails, and in a baseline of the first rule in its fixed order; whatever is computed in which order.
        Models and clusters are asked only about rows that no clause or rule before them dropped.

        Args:
            batch: n rows with the columns of ``column_names`` (as ``check_columns`` wants them).
            thresholds: for each of ``quantiles`` its ``key`` and ``QuantileSearch.threshold`` (or threshold_text).
            uid_sets: for each of ``uid_sets`` a sorted "u8,u8" array.
            uids: (n,) "u8,u8", the rows' uids; None where ``uid_sets`` is empty.
            clusters: for each of ``clusters`` its ``key`` and (n,) bool: the nearest centroid is a target's; or a
                function that is given the pending rows, (n,) bool, and returns that, right where they are pending.
            scores: for each of ``scores`` its ``key`` and (n,) floats, NaN where there is none.
        Returns:
            (n,) uint16, indices into ``reasons``; 0 is kept.
        Raises:
            ValueError: a threshold, a uid set, a cluster's rows, scores or the uids are missing or of another length.
            FilterError: a Python function of the filter fails.
            MissingDependencyError: see ``check_needs``.
        Memory: O(n), and the captions that models are asked about as str.   Source: docs/filters.md.
        """
        if uids is not None and len(uids) != batch.num_rows:
            raise ValueError(f"Filter.evaluate: uids must have {batch.num_rows} rows, as batch; got {len(uids)}")
        for key, mask in (clusters or {}).items():
            if not callable(mask) and len(mask) != batch.num_rows:
                raise ValueError(f"Filter.evaluate: clusters[{key!r}] must have {batch.num_rows} rows; got {len(mask)}")
        for key, given in (scores or {}).items():
            if len(given) != batch.num_rows:
                raise ValueError(f"Filter.evaluate: scores[{key!r}] must have {batch.num_rows} rows; got {len(given)}")
        rows = Rows(batch, thresholds or {}, uid_sets or {}, uids, clusters or {}, scores or {})
        codes = np.zeros(rows.num_rows, np.uint16)
        pending = np.ones(rows.num_rows, np.bool_)
        for clause, names in zip(self._clauses, self._names, strict=True):
            if isinstance(clause, Term):
                failed = clause.first_failure(rows, pending)
            else:
                failed = (pending & ~_holds(clause, rows, pending)).astype(np.uint8)
            code_of = np.array([0, *(self.reasons.index(name) for name in names)], np.uint16)
            codes[pending] = code_of[failed[pending]]
            pending &= failed == 0
        return codes


def compile_filter(text: str, *, run_code: bool = True) -> Filter:
    """The filter of an expression like ``basic_filter & clip_score(l14, fraction=0.3) & ~contaminated``.

    Nothing is loaded or read but plugins that it names: a filter can be compiled where its models and files are not.

    Args:
        run_code: False for words that may be a stranger's: Python functions and plugins are neither imported nor asked,
            whatever is done with the filter; ``unasked`` has them.
    Raises:
        TypeError: text is not a str.
        FilterError: it cannot be read, or names what does not exist; the message points at the place.
    Source: docs/filters.md.
    Example: ``str(compile_filter("~contaminated&words>=3"))``
    """
    samples: list[Call] = []

    def build(call: Call) -> Term:
        if call.name == SAMPLE:
            samples.append(call)
        return build_term(call) if run_code else build_without_code(call)

    root = parse(text, build)
    refuse_misplaced(root, samples)
    return Filter(text, root)
