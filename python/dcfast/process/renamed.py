"""Old names of keywords, which go on for a release: docs/versions.md."""

from __future__ import annotations

import functools
import inspect
import warnings
from collections.abc import Callable, Hashable, Mapping
from typing import Any, NamedTuple, TypeVar

F = TypeVar("F", bound=Callable[..., Any])


class Renamed(NamedTuple):
    """A keyword, or some values of one that has other values now, and what is said instead.

    Attributes:
        values: old value -> new one; those that are not in it stay as they are.
    """

    old: str
    new: str
    values: Mapping[object, object] = {}


def takes_old_names(*names: Renamed) -> Callable[[F], F]:
    """A decorator: the function takes the old names, too, with a DeprecationWarning. Type checkers see the new alone.

    TypeError where an old name and its new one are given together.
    """

    def decorate(function: F) -> F:
        parameters = inspect.signature(function).parameters

        @functools.wraps(function)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            for old, new, values in names:
                # values that are renamed are texts and numbers; a list has no hash
                known = isinstance(kwargs.get(old), Hashable) and kwargs.get(old) in values
                if old not in kwargs or (old in parameters and not known):
                    continue
                value = kwargs.pop(old)
                now = values[value] if known else value
                if new in kwargs:
                    raise TypeError(f"{function.__name__}: {old} is an old name of {new}; pass {new} alone")
                said = (
                    f"{function.__name__}: {old}={value!r} is {new}={now!r} now; the old form goes with a later release"
                )
                warnings.warn(said, DeprecationWarning, stacklevel=2)
                kwargs[new] = now
            return function(*args, **kwargs)

        return wrapper  # type: ignore[return-value]

    return decorate
