"""Old names of keywords, which go on for a release: docs/versions.md.

Importing this module imports next to nothing: a short reshard is over before more would have been imported.
"""

from __future__ import annotations

import functools
import sys
import warnings

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any, TypeVar

    F = TypeVar("F", bound=Callable[..., Any])


class Renamed:
    """A keyword, or some values of one that has other values now, and what is said instead.

    Attributes:
        values: old value -> new one; those that are not in it stay as they are.
    """

    def __init__(self, old: str, new: str, values: Mapping[object, object] | None = None) -> None:
        self.old = old
        self.new = new
        self.values: Mapping[object, object] = values or {}

    def is_renamed(self, value: object) -> bool:
        """Whether a value has another name now: values that are renamed are texts and numbers; a list has no hash."""
        try:
            return value in self.values
        except TypeError:
            return False


def warn_of_old_form(said: str) -> None:
    """A DeprecationWarning that names the line of whoever called dcfast, through however many of its functions."""
    frame, depth = sys._getframe(), 1
    while frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] == "dcfast":
        frame, depth = frame.f_back, depth + 1
    warnings.warn(f"{said}; the old form goes with a later release", DeprecationWarning, stacklevel=depth)


def takes_old_names(*names: Renamed) -> Callable[[F], F]:
    """A decorator: the function takes the old names, too, with a DeprecationWarning. Type checkers see the new alone.

    TypeError where an old name and its new one are given together.
    """

    def decorate(function: F) -> F:
        code = function.__code__
        parameters = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]

        @functools.wraps(function)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            for name in names:
                old, new = name.old, name.new
                known = name.is_renamed(kwargs.get(old))
                if old not in kwargs or (old in parameters and not known):
                    continue
                value = kwargs.pop(old)
                now = name.values[value] if known else value
                place = parameters.index(new)
                if new in kwargs or place < min(len(args), code.co_argcount):
                    raise TypeError(f"{function.__name__}: {old} is an old name of {new}; pass {new} alone")
                warn_of_old_form(f"{function.__name__}: {old}={value!r} is {new}={now!r} now")
                kwargs[new] = now
            return function(*args, **kwargs)

        return wrapper  # type: ignore[return-value]

    return decorate
