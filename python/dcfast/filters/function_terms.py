"""The terms that are Python functions: ``python("FILE.py:function", columns...)``, and those of plugins."""

from __future__ import annotations

from dcfast.errors import FilterError
from dcfast.filters.expression import Argument, Call
from dcfast.filters.functions import COLUMNS, FilterFunction, Value
from dcfast.filters.rules import Mask
from dcfast.filters.term import Rows, Rule, Term
from dcfast.filters.tokens import quoted, spelled
from dcfast.plugins import FILTERS, find_plugin

PYTHON = "python"
_EXAMPLE = 'python("my_filters.py:is_good", text, original_width, least=3)'


def _keywords(call: Call, arguments: list[Argument]) -> dict[str, Value]:
    """What a function is given by keyword, in the order of the names; whole numbers as int."""
    given: dict[str, Value] = {}
    for argument in arguments:
        name, value = str(argument.keyword), argument.value
        if name in given:
            call.error(f"{call.name}: {name} is given twice", argument)
        given[name] = int(value) if isinstance(value, float) and value.is_integer() else value
    return dict(sorted(given.items()))


def _written(arguments: dict[str, Value]) -> list[str]:
    return [f"{name}={quoted(value) if isinstance(value, str) else repr(value)}" for name, value in arguments.items()]


def _term(function: FilterFunction) -> Term:
    said = {f"{function.where.rpartition(':')[2]}()": lambda rows: function.ask(rows.batch)}
    return Term(
        function.term,
        (Rule(function.term, lambda rows, pending: rows.ask_function(function, pending), said),),
        function.columns,
        function=function,
        uses=dict.fromkeys(function.columns, "any"),
        cost=50.0,
    )


def python(call: Call) -> Term:
    """The term of a function that is named by its place; nothing is imported."""
    given = [argument for argument in call.arguments if argument.keyword is None]
    if not given or given[0].kind != "string":
        call.error(
            f"python needs a function in quotes, then the columns that it is given: {_EXAMPLE}", next(iter(given), None)
        )
    where, *columns = (str(argument.value) for argument in given)
    module, _, name = where.rpartition(":")
    if not module or not name.replace(".", "_").isidentifier():
        call.error(f'python: expected "module:function" or "FILE.py:function"; got {where!r}', given[0])
    for argument in given[1:]:
        if argument.kind == "number" or not argument.value:
            call.error("python: the columns are names, or names in quotes; numbers are given by keyword", argument)
    if not columns:
        call.error(f"python: name the columns of the metadata that {name} is given: {_EXAMPLE}", given[0])
    arguments = _keywords(call, [argument for argument in call.arguments if argument.keyword is not None])
    text = f"{PYTHON}({', '.join([quoted(where), *map(spelled, columns), *_written(arguments)])})"
    return _term(FilterFunction(text, where, tuple(columns), arguments))


def _plugin_text(call: Call) -> str:
    """Canonical."""
    arguments = _keywords(call, [argument for argument in call.arguments if argument.keyword is not None])
    return f"{call.name}({', '.join(_written(arguments))})" if arguments else call.name


def unasked_term(call: Call) -> Term:
    """The term of a function or a plugin that is neither imported nor asked; asked all the same, it is FilterError."""
    text = python(call).text if call.name == PYTHON else _plugin_text(call)

    def refuse(rows: Rows, pending: Mask) -> Mask:
        raise FilterError(f"filter {text}: it is Python code that is not to be run; compile it with run_code=True")

    return Term(text, (Rule(text, refuse),), is_unasked=True, cost=50.0)


def plugin_term(call: Call) -> Term | None:
    """The term of an installed plugin, which is imported; None where there is none of that name.

    Raises:
        PluginError: it cannot be loaded, or is no filter.   FilterError: it does not take these arguments.
    """
    plugin = find_plugin(FILTERS, call.name)
    if plugin is None:
        return None
    function = plugin.load("a filter")
    columns = getattr(function, COLUMNS, None)
    if not callable(function) or not columns:
        raise plugin.refuse("it is no function that dcfast.filters.filter_function(columns...) has marked")
    for argument in call.arguments:
        if argument.keyword is None:
            call.error(
                f"{call.name}, a filter of package {plugin.use.package}, takes arguments by name=value", argument
            )
    arguments = _keywords(call, list(call.arguments))
    made = FilterFunction(_plugin_text(call), plugin.entry.value, tuple(columns), arguments, plugin.use)
    try:
        made.load()
    except FilterError as error:
        call.error(str(error).partition(": ")[2])
    return _term(made)
