"""The terms of the filter language: what each name means, needs, and calls the samples it drops.

To add a filter, write a builder that returns a Term and name it in ``TEXT_TERMS``, ``VALUE_TERMS``,
``SCORE_TERMS`` or ``IMAGE_TERMS``.
See docs/filters.md.
"""

from __future__ import annotations

from collections.abc import Callable

from dcfast.errors import FilterError, UnknownFilterError
from dcfast.filters.expression import Call, nearest_name, parse
from dcfast.filters.function_terms import PYTHON, plugin_term, python, unasked_term
from dcfast.filters.image_terms import IMAGE_TERMS
from dcfast.filters.sample_terms import SAMPLE, SAMPLE_TERMS
from dcfast.filters.score_terms import PARTS_OF, SCORE_TERMS
from dcfast.filters.term import Term
from dcfast.filters.text_terms import TEXT_TERMS
from dcfast.filters.value_terms import COMPARED, VALUE_TERMS
from dcfast.plugins import FILTERS, PluginUse, find_plugin, plugin_names

TERMS: dict[str, Callable[[Call], Term]] = {
    **TEXT_TERMS,
    **VALUE_TERMS,
    **SCORE_TERMS,
    **IMAGE_TERMS,
    **SAMPLE_TERMS,
    PYTHON: python,
}
"""Name -> builder: dcfast's own filters, whose names no plugin may have."""


def build_term(call: Call) -> Term:
    """The term of a call; FilterError where there is no such name, or it does not take these arguments.

    PluginError: it is a plugin's, which is broken.
    """
    _refuse_parts(call)
    term = TERMS[call.name](call) if call.name in TERMS else plugin_term(call)
    if term is not None:
        if call.comparison is not None and call.name not in COMPARED:
            call.error(f"{call.name} is true or false, and not compared; {', '.join(COMPARED)} are")
        return term
    hint = nearest_name(call.name, tuple(sorted({*TERMS, *plugin_names(FILTERS)})))
    try:
        call.source.error(f"unknown filter {call.name[:60]!r}{hint}", call.begin, call.end)
    except FilterError as error:
        unknown = UnknownFilterError(str(error))
        unknown.name = call.name
        raise unknown from None


def _is_plugin(call: Call) -> bool:
    return call.name not in TERMS and call.name in plugin_names(FILTERS)


def build_without_code(call: Call) -> Term:
    """The same, but of Python functions and plugins terms that are not asked: nothing of them is imported."""
    _refuse_parts(call)
    return unasked_term(call) if call.name == PYTHON or _is_plugin(call) else build_term(call)


def _refuse_parts(call: Call) -> None:
    """FilterError where a term that takes no scores is given one as an argument."""
    part = next((argument for argument in call.arguments if argument.kind == "part"), None)
    if part is not None and call.name not in (*PARTS_OF, SAMPLE):
        call.error(
            f"{call.name} takes no filter or score as an argument; {', '.join(PARTS_OF)} and {SAMPLE} take scores: "
            "mix(0.5 * column(a), column(b), fraction=0.3)",
            part,
        )


def named_plugins(text: str) -> list[PluginUse]:
    """The plugins that an expression names, in written order; nothing of them is imported.   Raises as ``parse``."""
    found: list[PluginUse] = []

    def note(call: Call) -> Call:
        if _is_plugin(call) and (plugin := find_plugin(FILTERS, call.name)) is not None:
            found.append(plugin.use)
        return call

    parse(text, note)
    return found
