"""The files that an expression names: uid files, and the centroids and targets of its clusters."""

from __future__ import annotations

from collections.abc import Callable

from dcfast.filters.expression import Argument, Call, parse
from dcfast.filters.image_terms import CLUSTERS
from dcfast.filters.tokens import quoted


def _files(text: str) -> list[tuple[Call, Argument]]:
    """The arguments of an expression that are paths, in written order."""
    files: list[tuple[Call, Argument]] = []

    def note(call: Call) -> Call:
        files.extend(
            (call, argument)
            for argument in call.arguments
            if argument.kind == "string" and argument.value and (call.name == "uids" or argument.keyword in CLUSTERS)
        )
        return call

    parse(text, note)
    return files


def move_files(text: str, place: Callable[[str], str]) -> str:
    """The expression with ``place(path)`` for each path in it, and else as it was written.

    TypeError: text is not a str.   FilterError: it cannot be read; names that do not exist are let through.
    """
    for _, argument in reversed(_files(text)):
        value = quoted(place(str(argument.value)))
        word = value if argument.keyword is None else f"{argument.keyword}={value}"
        text = f"{text[: argument.begin]}{word}{text[argument.end :]}"
    return text


def uid_files(text: str) -> list[str]:
    """The paths of uid files that an expression names, in written order.   Raises as ``move_files``."""
    return [str(argument.value) for call, argument in _files(text) if call.name == "uids"]
