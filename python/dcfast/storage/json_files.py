"""JSON that strangers may have written: the one reader of it, strict and bounded.

Python's own reads numbers of any length and meaning (``NaN``, ``1e999``), halves of characters that nothing can print,
objects with a key twice, of which it takes the last, and fails in its own ways where values are nested deeply. All that
is an error here that names the file. The bounds: docs/limits.md.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from typing import Any, NoReturn

from dcfast.errors import CorruptDataError
from dcfast.storage.inputs import StrPath, read_input
from dcfast.storage.lines import MOST_TEXT_BYTES, split_lines

Json = None | bool | int | float | str | list["Json"] | dict[str, "Json"]
"""Any value of JSON."""
MOST_JSON_BYTES = 64 << 20
"""Of a file, where its reader knows no other bound. Values take up to 30 times as much memory."""
MOST_DEPTH = 100
"""Lists and objects within each other."""
MOST_DIGITS = 20
"""Of a whole number: 64 bits have no more."""

_TOKEN = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"?|[\[\]{}]', re.DOTALL)
_HALF = re.compile(r"\\u[dD][89a-fA-F]|[\ud800-\udfff]")
_LONE = re.compile("[\ud800-\udfff]")
_LONE_BUT_NAMES = re.compile("[\ud800-\udc7f\udd00-\udfff]")


def read_json(  # Any: whatever a stranger wrote; its reader looks at it
    path: StrPath, what: str = "", *, most: int = MOST_JSON_BYTES, names: bool = False, advice: str = ""
) -> Any:
    """The value in a JSON file.

    Args:
        what: the file is, for the message.
        most: bytes.
        names: texts may be names of files, which need not be UTF-8 (``os.fsdecode``): of files that dcfast writes.
        advice: what to do, for the message.
    Raises:
        CorruptDataError: it is no JSON, or see ``parse_json``; names it.   OSError: it cannot be read.
    """
    data = read_input(path, most)
    try:
        return parse_json(data, names=names)
    except ValueError as error:
        where = f"{what} {path}" if what else path
        raise CorruptDataError(f"{where}: {error}{'; ' if advice else ''}{advice}", path=path) from None


def read_json_lines(path: StrPath) -> list[Any]:  # Any: as read_json
    """The values of a file with one on each line. Errors as ``read_json``, with the line."""
    values = []
    for number, line in enumerate(split_lines(read_input(path, MOST_TEXT_BYTES)), 1):
        try:
            values.append(parse_json(line))
        except ValueError as error:
            raise CorruptDataError(f"{path}, line {number}: {error}", path=path) from None
    return values


def parse_json(data: bytes | str, *, names: bool = False, any_number: bool = False, as_it_is: bool = False) -> Any:
    """The value of a JSON text, whose length its reader has bounded.

    Args:
        names: as for ``read_json``.
        any_number: ``NaN`` and numbers beyond a double are floats, as other tools write scores that they lack.
        as_it_is: of a value that is written again and looked at by nobody, the depth alone is bounded.
    Raises:
        ValueError: no JSON; a key twice in an object; nested deeper than ``MOST_DEPTH``; a number that is none
            (``NaN``), longer than ``MOST_DIGITS``, or beyond a double; half of a character. It names no file.
    Memory: about 30 times the text. Cost: twice that of ``json.loads``.
    """
    try:
        text = data if isinstance(data, str) else data.decode(json.detect_encoding(data), "surrogatepass")
        _check_depth(text)
        value = (_PLAIN if as_it_is else _ANY_NUMBER if any_number else _STRICT).decode(text.removeprefix("\ufeff"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"not json: {error}") from None
    if not as_it_is and _HALF.search(text) is not None:
        _check_halves(value, _LONE_BUT_NAMES if names else _LONE)
    return value


def _check_depth(text: str) -> None:
    if text.count("[") + text.count("{") <= MOST_DEPTH:
        return
    depth = 0
    for token in _TOKEN.finditer(text):
        first = token[0][0]
        depth += (first in "[{") - (first in "]}")
        if depth > MOST_DEPTH:
            raise ValueError(f"not json: nested too deeply, in more than {MOST_DEPTH} lists and objects")


def _check_halves(value: Json, halves: re.Pattern[str]) -> None:
    values = [value]
    while values:
        value = values.pop()
        if isinstance(value, dict):
            values += [*value, *value.values()]
        elif isinstance(value, list):
            values += value
        elif isinstance(value, str) and (half := halves.search(value)):
            raise ValueError(f"not json: half of a character, {half[0]!r} without its other half, is no text")


def _object(pairs: list[tuple[str, Json]]) -> dict[str, Json]:
    """An object of json in which no key stands twice: which one counts, readers do not agree on."""
    fields = dict(pairs)
    if len(fields) < len(pairs):
        twice = next(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)
        raise ValueError(f"expected each key once in an object; got {_shown(twice)} more than once")
    return fields


def _integer(text: str) -> int:
    if len(text.lstrip("-")) > MOST_DIGITS:
        raise ValueError(f"not json: expected whole numbers of at most {MOST_DIGITS} digits; got {_shown(text)}")
    return int(text)


def _number(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"not json: expected numbers that a double holds; got {_shown(text)}")
    return value


def _no_number(text: str) -> NoReturn:
    raise ValueError(f"not json: expected numbers; got {text}, which is none")


_PLAIN = json.JSONDecoder()
_ANY_NUMBER = json.JSONDecoder(object_pairs_hook=_object, parse_int=_integer)
_STRICT = json.JSONDecoder(
    object_pairs_hook=_object, parse_int=_integer, parse_float=_number, parse_constant=_no_number
)


def _shown(text: str) -> str:
    shown = ascii(text)
    return shown if len(shown) <= 80 else f"{shown[:60]}... ({len(text):,} characters)"
