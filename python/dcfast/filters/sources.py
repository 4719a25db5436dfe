"""What a Python function is made of, as far as that can be known without reading its code: files, and constants.

The file of the module that an expression names; that of each step from there to the code: what ``functools.partial``,
a bound method or a decorator's ``__wrapped__`` stands for, the class of an object that is called; those of functions
in closures and arguments; and the constants that all of these hold. Not seen are what a file imports, global
variables, data files, and values that can change, such as lists and arrays.
"""

from __future__ import annotations

import functools
import inspect
import os
from types import CellType
from typing import NamedTuple

_CONSTANT = (bool, int, float, complex, str, bytes, type(None))


class Sources(NamedTuple):
    """Files without repeats, that of the named module first; and constants as Python writes them."""

    files: tuple[str, ...]
    constants: tuple[str, ...]


class NoSourceError(ValueError):
    """A step has no source file in Python; the message is what it is."""


def sources_of(module: object, function: object) -> Sources:
    """What ``function``, found in ``module``, is made of.   NoSourceError: a step of it is not written in Python."""
    found = _Found()
    found.file(module)
    found.step(function)
    return Sources(tuple(found.files), tuple(found.constants))


class _Found:
    def __init__(self) -> None:
        self.files: dict[str, None] = {}
        self.constants: list[str] = []
        self._seen: list[object] = []  # kept, so that no other object has the place of one

    def file(self, part: object, of: object = None) -> None:
        """The file of a module, function or class; NoSourceError names ``of``, where it stands for that."""
        try:
            source = inspect.getsourcefile(part)  # type: ignore[arg-type]  # TypeError says that it has none
        except TypeError:
            source = None
        if source is None or not os.path.isfile(source):
            named = part if of is None else of
            raise NoSourceError(str(getattr(named, "__name__", type(named).__name__)))
        self.files.setdefault(source)

    def step(self, part: object) -> None:
        """What is called, or stands behind it."""
        if any(part is other for other in self._seen):
            return
        self._seen.append(part)
        if isinstance(part, (functools.partial, functools.partialmethod)):
            self.step(part.func)
            self._held(part.args, tuple(sorted(part.keywords.items())))
        elif inspect.ismethod(part):
            self.step(part.__func__)
            self._try(type(part.__self__))
            self._attributes(part.__self__)
        elif inspect.isfunction(part):
            self.file(part)
            self._held(part.__defaults__, tuple(sorted((part.__kwdefaults__ or {}).items())))
            self._held(*(cell.cell_contents for cell in part.__closure__ or () if _is_filled(cell)))
            if hasattr(part, "__wrapped__"):
                self.step(part.__wrapped__)
        elif hasattr(part, "__wrapped__") and not inspect.isclass(part):  # of functools.lru_cache
            self.step(part.__wrapped__)
        else:
            self._object(part)

    def _object(self, part: object) -> None:
        """The files of a class, or of an object's, and of the classes that it is made of; the object's constants."""
        of = part if inspect.isclass(part) else type(part)
        self.file(of, part)
        for base in of.__mro__[1:]:
            if base.__module__ != "builtins":
                self._try(base)
        if of is not part:
            self._attributes(part)

    def _attributes(self, part: object) -> None:
        if hasattr(part, "__dict__") and not inspect.isclass(part):
            self._held(tuple(sorted(vars(part).items(), key=lambda item: item[0])))

    def _held(self, *values: object) -> None:
        """What closures, arguments and attributes hold: constants, and what is called."""
        for value in values:
            if type(value) in _CONSTANT:
                self.constants.append(repr(value))
            elif isinstance(value, tuple):
                self._held(*value)
            elif callable(value):
                self._try(value)

    def _try(self, part: object) -> None:
        try:
            self.step(part)
        except NoSourceError:
            return  # NumPy's own, for example: the versions of packages are not looked at


def _is_filled(cell: CellType) -> bool:
    try:
        cell.cell_contents  # noqa: B018  # ValueError tells
    except ValueError:
        return False
    return True
