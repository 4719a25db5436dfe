"""The terms of the filter language: what each name means, needs, and calls the samples it drops.

To add a filter, write a builder that returns a Term and name it in ``TEXT_TERMS`` or ``IMAGE_TERMS``. See
docs/filters.md.
"""

from __future__ import annotations

from dcfast.filters.expression import Call, nearest_name
from dcfast.filters.image_terms import IMAGE_TERMS
from dcfast.filters.term import Term
from dcfast.filters.text_terms import TEXT_TERMS

_TERMS = {**TEXT_TERMS, **IMAGE_TERMS}


def build_term(call: Call) -> Term:
    """The term of a call; FilterError where there is no such name, or it does not take these arguments."""
    if call.name in _TERMS:
        return _TERMS[call.name](call)
    hint = nearest_name(call.name, tuple(sorted(_TERMS)))
    call.source.error(f"unknown filter {call.name[:60]!r}{hint}", call.begin, call.end)
