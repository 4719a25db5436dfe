"""The term ``sample(score(...), soft_cap=P, total=N)``: copies drawn by score among the rows that pass all the rest.

It stands by itself or in the top-level conjunction, once: what it draws depends on all rows together, so that neither
its opposite nor an alternative to it is a set of rows that could be told one by one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from dcfast.filters.expression import And, Argument, Call, Expression, Not, Or
from dcfast.filters.rules import MAX_SEED
from dcfast.filters.sampling import DRAW, MOST_COPIES, MOST_PENALTY, Sampling
from dcfast.filters.score_sources import ScoreSource
from dcfast.filters.score_terms import column_names, score_source
from dcfast.filters.term import DRAWN, Rule, Term

SAMPLE = "sample"
_EXAMPLE = 'sample(score("scores.parquet"), soft_cap=0.15, total=128000000, seed=0)'
_CAPS = ("soft_cap", "hard_cap")
_NAMES = ("score", *_CAPS, "total", "seed", "draw", "temperature")


def _source(call: Call, given: dict[str, Argument]) -> ScoreSource:
    argument = given.get("score")
    if argument is None or argument.part is None or argument.weight != 1.0:
        call.error(f"sample needs a score first: {_EXAMPLE}", argument)
    return score_source(argument, call)


def _whole(call: Call, given: dict[str, Argument], name: str, low: int, high: int = MAX_SEED) -> int:
    """An argument that is a whole number from ``low`` to ``high``."""
    value = call.number(name, given[name])
    if not (low <= value <= high and value.is_integer()):
        call.error(f"sample: {name} must be a whole number, {low} to {high:,}; got {value!r}", given[name])
    return int(value)


def _sample(call: Call) -> Term:
    given = call.by_name(_NAMES, 1, f"write it as {_EXAMPLE}")
    source = _source(call, given)
    caps = [name for name in _CAPS if name in given]
    if len(caps) != 1:
        what = "both; give one of them" if caps else "neither"
        call.error(f"sample needs soft_cap=... (a penalty) or hard_cap=... (copies); got {what}", None)
    if "total" not in given:
        call.error(f"sample needs total=..., the copies to draw (DataComp: the samples seen): {_EXAMPLE}")
    if "draw" in given and caps == ["hard_cap"]:
        call.error("sample: draw is the size of a round under a soft cap; leave it out with hard_cap", given["draw"])
    soft = call.number("soft_cap", given["soft_cap"]) if "soft_cap" in given else None
    if soft is not None and not 0.0 < soft <= MOST_PENALTY:
        advice = f"must be above 0 and at most {MOST_PENALTY:g} (each row once is hard_cap=1)"
        call.error(f"sample: soft_cap {advice}; got {soft!r}", given["soft_cap"])
    heat = call.number("temperature", given["temperature"]) if "temperature" in given else 1.0
    if not heat > 0.0:
        call.error(f"sample: temperature must be above 0; got {heat!r}", given["temperature"])
    sampling = Sampling(
        source,
        _whole(call, given, "total", 1),
        soft,
        _whole(call, given, "hard_cap", 1, MOST_COPIES) if soft is None else None,
        _whole(call, given, "seed", 0) if "seed" in given else 0,
        _whole(call, given, "draw", 1) if "draw" in given else DRAW,
        heat,
    )
    # asked when all is drawn, by a run's report and the like: the drawn are those of subset_metadata.npy
    drawn = Rule(sampling.text, lambda rows, _: rows.members(DRAWN))
    columns = tuple(column_names(source))
    return Term(sampling.text, (drawn,), columns, uid_set=DRAWN, scores=source, sampling=sampling, cost=0.1)


def refuse_misplaced(root: Expression, calls: Sequence[Call]) -> None:
    """FilterError where ``sample`` stands elsewhere than in the top-level conjunction, or more than once.

    Args:
        calls: of ``sample``, in written order, to point at.
    """
    if not calls:
        return
    if len(calls) > 1:
        calls[1].error("one sample(...) an expression; leave one out, or mix the scores and draw once")
    children = root.children if isinstance(root, And) else (root,)
    if any(isinstance(child, Term) and child.sampling is not None for child in children):
        return
    if any(isinstance(child, Not) for child in _path(root)):
        calls[0].error("sample(...) draws copies and has no opposite; put ~ on the filters before it: ~A & sample(...)")
    calls[0].error("sample(...) cannot be an alternative; draw among what either passes: (A | B) & sample(...)")


def _path(node: Expression) -> list[Expression]:
    """From the root to the term ``sample``; empty where it is not below the node."""
    if isinstance(node, Term):
        return [node] if node.sampling is not None else []
    children = (node.child,) if isinstance(node, Not) else node.children if isinstance(node, (And, Or)) else ()
    for child in children:
        if path := _path(child):
            return [node, *path]
    return []


SAMPLE_TERMS: dict[str, Callable[[Call], Term]] = {SAMPLE: _sample}
