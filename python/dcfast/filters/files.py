"""The files that an expression names: uids, scores, functions, and the centroids and targets of its clusters."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from dcfast.filters.expression import Argument, Call, parse
from dcfast.filters.function_terms import PYTHON
from dcfast.filters.image_terms import CLUSTERS
from dcfast.filters.tokens import quoted


class _File(NamedTuple):
    """A path in an expression; ``rest`` is what else stands in its string."""

    term: str
    argument: Argument
    path: str
    rest: str = ""


def _file(call: Call, argument: Argument, place: int) -> _File | None:
    if argument.kind != "string" or not argument.value:
        return None
    value, is_first = str(argument.value), place == 0 and argument.keyword in (None, "path")
    if call.name == "uids" or (call.name == "score" and (is_first or argument.keyword == "path")):
        return _File(call.name, argument, value)
    if call.name == PYTHON and is_first:
        module, colon, name = value.rpartition(":")
        return _File(call.name, argument, module, f"{colon}{name}") if module.endswith(".py") else None
    return _File(call.name, argument, value) if argument.keyword in CLUSTERS else None


def _files(text: str) -> list[_File]:
    """The paths of an expression, in written order."""
    files: list[_File] = []

    def note(call: Call) -> Call:
        for each in call.with_parts():
            found = (_file(each, argument, place) for place, argument in enumerate(each.arguments))
            files.extend(file for file in found if file is not None)
        return call

    parse(text, note)
    return files


def move_files(text: str, place: Callable[[str], str]) -> str:
    """The expression with ``place(path)`` for each path in it, and else as it was written.

    TypeError: text is not a str.   FilterError: it cannot be read; names that do not exist are let through.
    """
    for _, argument, path, rest in reversed(_files(text)):
        value = quoted(place(path) + rest)
        word = value if argument.keyword is None else f"{argument.keyword}={value}"
        text = f"{text[: argument.begin]}{word}{text[argument.end :]}"
    return text


def named_files(text: str) -> list[str]:
    """The paths that an expression names, in written order.   Raises as ``move_files``."""
    return [file.path for file in _files(text)]


def named_code(text: str) -> list[str]:
    """The Python functions that an expression names, as ``FILE.py:function`` or ``module:function``."""
    found: list[str] = []

    def note(call: Call) -> Call:
        if call.name == PYTHON and call.arguments:
            found.append(str(call.arguments[0].value))
        return call

    parse(text, note)
    return found


def uid_files(text: str) -> list[str]:
    """The paths of uid files that an expression names, in written order.   Raises as ``move_files``."""
    return [file.path for file in _files(text) if file.term == "uids"]
