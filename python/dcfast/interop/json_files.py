"""JSON of others, read strictly."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from dcfast.errors import CorruptDataError
from dcfast.interop.shards import LARGEST, PathLike


def read_json(path: PathLike, what: str) -> Any:
    try:
        return json.loads(Path(path).read_bytes(), object_pairs_hook=_object)
    except TwiceError as error:
        raise CorruptDataError(f"{what} {os.fspath(path)}: {error}", path=os.fspath(path)) from error
    except (ValueError, RecursionError) as error:
        raise CorruptDataError(f"{what} {os.fspath(path)}: not json: {error}", path=os.fspath(path)) from error


class TwiceError(ValueError):
    pass


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of json in which no key stands twice: which one counts, readers do not agree on."""
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise TwiceError(f"expected each key once in an object; got {twice!r} more than once")
    return found


def is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= LARGEST
