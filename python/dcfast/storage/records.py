"""Typed records in JSON: what one part of dcfast tells another, and what it writes down to read again.

A record is a ``Record`` with annotated fields. Files are read by the strict reader of ``dcfast.storage.json_files`` and
held against the types by msgspec; a field of another type is said by file and name before anything is computed from
it. Fields that a record does not name are passed over, so that a file of a later release can be read.
"""

from __future__ import annotations

import os
import re
import reprlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, TypeVar, cast, dataclass_transform

import msgspec

from dcfast.errors import CorruptDataError
from dcfast.storage.json_files import MOST_JSON_BYTES, read_json

T = TypeVar("T")
Count = Annotated[int, msgspec.Meta(ge=0, le=(1 << 63) - 1)]
"""A number of things."""

_PLACE = re.compile(r" - at `(?:key in )?\$\.?(.*)`$", re.DOTALL)
DECIMAL = r"^[-+]?(?:(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?|inf|Infinity|nan|NaN)\Z"
"""A number as text."""
_GOT = re.compile(r", got .*", re.DOTALL)
_CONSTANTS = {"None": "null", "True": "true", "False": "false"}
_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 80
_NAMES = {
    "int": "a whole number",
    "float": "a number",
    "str": "text",
    "bool": "true or false",
    "array": "a list",
    "object": "an object",
}


if TYPE_CHECKING:  # mypy cannot know of a base class that all that are made of it are frozen

    @dataclass_transform(frozen_default=True, field_specifiers=(msgspec.field,))
    class Record:
        """Fields with types; two records with equal fields are equal.

        ``omit_defaults``: a field that is None by default, and is None, is not written. Other defaults will not do:
        msgspec looks whether the value is the very same object.
        """

        def __init_subclass__(cls, *, omit_defaults: bool = False, kw_only: bool = False) -> None: ...

else:

    class Record(msgspec.Struct, frozen=True):
        """Fields with types; two records with equal fields are equal."""


def as_record(value: object, kind: type[T], where: str, advice: str = "") -> T:
    """A value of JSON as a record, or as anything else that msgspec knows (``list[Row]``, ``dict[str, Count]``).

    Args:
        where: the file, for the message.
        advice: what to do, for the message.
    Raises:
        CorruptDataError: a field is missing or of another type; names file and field.
    """
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        problem = _in_words(str(error), value)
    except (ValueError, RecursionError) as error:  # a name that is no UTF-8; nested too deeply
        problem = str(error)
    raise CorruptDataError(f"{where}: {problem}{'; ' if advice else ''}{advice}", path=where)


def _in_words(message: str, value: object) -> str:
    """What msgspec says of a value, with the names of JSON's types and the value itself."""
    place = _PLACE.search(message)
    field = place[1] if place is not None else ""
    text = re.sub(r"`([^`]+)`", lambda name: _named(name[1]), _PLACE.sub("", message))
    text = re.sub(r"text matching regex .*", "a number as text", text[:1].lower() + text[1:], flags=re.DOTALL)
    try:
        for name, number in re.findall(r"([^.\[\]]+)|\[(\d+)\]", field):
            value = value[int(number)] if number else value[name]  # type: ignore[index]
        got = _CONSTANTS.get(str(value)) if value is None or isinstance(value, bool) else None
        got = got or _SHORT.repr(value).encode("ascii", "backslashreplace").decode()
    except (TypeError, LookupError):
        got = ""
    if got and text.startswith("expected"):
        text = _GOT.sub("", text) + f"; got {got if len(got) <= 80 else got[:80] + '...'}"
    return f"{field}: {text}" if field else text


def _named(kinds: str) -> str:
    return " or ".join(_NAMES.get(kind, kind) for kind in kinds.split(" | "))


def read_record(
    path: str | os.PathLike[str],
    kind: type[T],
    *,
    most: int = MOST_JSON_BYTES,
    names: bool = True,
    advice: str = "",
) -> T:
    """The record in a JSON file.

    Args:
        most, names, advice: as for ``read_json``; by default of a file that dcfast wrote.
    Raises:
        CorruptDataError: it is no JSON, or see ``as_record``.   OSError: it cannot be read.
    """
    return as_record(read_json(path, most=most, names=names, advice=advice), kind, os.fspath(path), advice)


def plain(record: object) -> object:
    """A record, or lists and dicts of them, as values of JSON."""
    return msgspec.to_builtins(record, str_keys=True)


def replaced(record: T, **changes: object) -> T:
    """A record with other values in some of its fields."""
    return cast("T", msgspec.structs.replace(cast("msgspec.Struct", record), **changes))


def widened(record: object, kind: Callable[..., T], **more: object) -> T:
    """A record of a kind that has the same fields and more."""
    return kind(**msgspec.structs.asdict(cast("msgspec.Struct", record)), **more)
