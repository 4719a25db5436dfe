"""The terms of one's own that need no code: a column compared, words counted, patterns of text."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from dcfast.filters import rules
from dcfast.filters.expression import COMPARISONS, Argument, Call, Comparison
from dcfast.filters.score_terms import LIMITS, column_term
from dcfast.filters.term import COUNTS, TEXT, Measure, Rows, Rule, Term
from dcfast.filters.tokens import quoted, spelled

if TYPE_CHECKING:
    import pyarrow as pa


def _name(call: Call, given: dict[str, Argument], name: str) -> str:
    """An argument that is a name or a string, not empty."""
    argument = given[name]
    if argument.kind in ("number", "part") or not argument.value:
        call.error(f"{call.name}: {name} must be a name, or text in quotes", argument)
    return str(argument.value)


def _comparison(call: Call) -> Comparison:
    if call.comparison is None:
        shown = "column(original_width)" if call.name == "column" else call.name
        call.error(f"{call.name} needs a comparison ({' '.join(COMPARISONS)}): {shown} >= 5")
    value = call.comparison.value
    if isinstance(value, str) and not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:
            call.error(f"{call.name} is compared with text that is no UTF-8")
    return call.comparison


def _compared(
    text: str, values: Callable[[Rows], pa.Array], comparison: Comparison, said: Mapping[str, Measure] | None = None
) -> tuple[str, tuple[Rule, ...]]:
    """The canonical text of a comparison, and its rules: no value is a reason of its own."""
    sign, value = comparison
    text = f"{text} {sign} {quoted(value) if isinstance(value, str) else repr(value)}"
    has_value = Rule(f"{text}: null", lambda rows, _: rules.is_known(values(rows)))
    return text, (has_value, Rule(text, lambda rows, _: rules.compared(values(rows), sign, value), said or {}))


def _column(call: Call) -> Term:
    given = call.by_name(("name", *LIMITS), 1, "it takes one column: column(original_width) >= 512")
    if "name" not in given:
        call.error("column needs the name of a column: column(original_width) >= 512")
    name = _name(call, given, "name")
    if len(given) > 1:
        if call.comparison is not None:
            call.error("column has fraction= or threshold=, and a comparison; write one of them")
        return column_term(call, name, given)
    comparison = _comparison(call)
    text, made = _compared(f"column({spelled(name)})", lambda rows: rows.batch.column(name), comparison)
    use = "text" if isinstance(comparison.value, str) else "number"
    return Term(text, made, (name,), uses={name: use}, cost=0.05)


def _counted(count: Measure) -> Callable[[Call], Term]:
    """The builder of a term that compares a number of each caption."""

    def build(call: Call) -> Term:
        comparison = _comparison(call)
        if call.arguments:
            call.error(f"{call.name} takes no arguments: {call.name} >= 5", call.arguments[0])
        if isinstance(comparison.value, str):
            call.error(f"{call.name} is a number; got text: {call.name} >= 5")
        text, made = _compared(call.name, count, comparison, {call.name: count})
        return Term(text, made, (TEXT,), cost=0.5)

    return build


def _matches(call: Call) -> Term:
    given = call.by_name(("pattern", "column"), 1, 'it takes a pattern, and column=: matches(r"\\bdog", column=text)')
    if "pattern" not in given or given["pattern"].kind != "string":
        call.error('matches needs a pattern in quotes: matches(r"\\bdog")', given.get("pattern"))
    pattern, column = str(given["pattern"].value), _name(call, given, "column") if "column" in given else TEXT
    import pyarrow as pa

    try:
        rules.matches(pa.array([""]), pattern)
    except ValueError as error:
        call.error(f"matches: {error}", given["pattern"])
    text = f"matches({quoted(pattern)}{'' if column == TEXT else f', column={spelled(column)}'})"
    has_value = Rule(f"{text}: null", lambda rows, _: rules.is_known(rows.texts(column)))
    found = Rule(text, lambda rows, _: rules.matches(rows.texts(column), pattern))
    return Term(text, (has_value, found), (column,), uses={column: "text"}, cost=1.0)


VALUE_TERMS: dict[str, Callable[[Call], Term]] = {
    "column": _column,
    "words": _counted(COUNTS["words"]),
    "characters": _counted(COUNTS["characters"]),
    "matches": _matches,
}
COMPARED = ("column", "words", "characters")
"""Terms that a comparison stands behind."""
