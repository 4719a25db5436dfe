"""The terms of the filter language: what each name means, needs, and calls the samples it drops.

To add a filter, write a builder that returns a Term and name it in ``TERMS``. See docs/filters.md.
"""

from __future__ import annotations

from collections.abc import Callable

from dcfast.filters.expression import Call
from dcfast.filters.image_terms import IMAGE_TERMS
from dcfast.filters.term import (
    CONTAMINATED,
    ORACLE,
    TEACHER_PAIRS,
    Term,
    nearest_name,
)
from dcfast.filters.text_terms import (
    basic_filter,
    clip_score,
    laion2b,
    no_filter,
    random_term,
    run_set,
    text_based,
    uid_file,
)

__all__ = ["TERMS", "build_term"]


TERMS: dict[str, Callable[[Call], Term]] = {
    "basic_filter": basic_filter,
    "clip_score": clip_score,
    CONTAMINATED: run_set,
    "laion2b": laion2b,
    "no_filter": no_filter,
    ORACLE: run_set,
    "random": random_term,
    TEACHER_PAIRS: run_set,
    "text_based": text_based,
    "uids": uid_file,
    **IMAGE_TERMS,
}


def build_term(call: Call) -> Term:
    """The term of a call; FilterError where there is no such name, or it does not take these arguments."""
    if call.name in TERMS:
        return TERMS[call.name](call)
    hint = nearest_name(call.name, tuple(sorted(TERMS)))
    call.source.error(f"unknown filter {call.name[:60]!r}{hint}", call.begin, call.end)
