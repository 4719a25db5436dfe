"""JSON of other tools."""

from __future__ import annotations

from typing import Any

from dcfast.interop.shards import LARGEST, PathLike
from dcfast.storage import json_files

MOST_JSON_BYTES = 512 << 20
"""Of a list of the shards of a pool: a million of them are 100 MB."""


def read_json(path: PathLike, what: str) -> Any:
    return json_files.read_json(path, what, most=MOST_JSON_BYTES, names=True)


def is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= LARGEST
