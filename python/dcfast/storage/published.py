"""What leaves the machine: reports, manifests, results and studies name places by their last part.

A path says who worked where, on which machine, beside whose data. What a run needs to go on keeps its paths in files
that are not published: ``state/`` of a run directory, ``train/settings.json`` (SECURITY.md).
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from typing import TypeVar, cast

from dcfast.storage.inputs import StrPath

T = TypeVar("T")
_END = r"(?=[/\s'\",;:()\[\]{}<>|]|$)"
_QUOTED = re.compile(r"(['\"])(?:file://)?/[^'\"\n]*?([^/'\"\n]+)/?\1")
_BARE = re.compile(r"(?:(?<![\w.:/~*-])|(?<=:)(?!//))(?:file://|~[\w-]*(?=/))?/[^\s'\",;:()\[\]{}<>|]*")


def base_name(path: str) -> str:
    """The last part of a path or URL, or of each of several that ``::`` joins."""
    parts = [part.rstrip("/").rpartition("/")[2] for part in path.split("::")]
    return "::".join(part or "/" for part in parts)


def without_places(value: T, places: Iterable[StrPath | None] = (), *, all_texts: bool = True) -> T:
    """A JSON value with the last part of each absolute path in place of the path, in texts and in keys.

    Args:
        places: directories and files whose paths are known, also where they have spaces.
        all_texts: other paths, too: not of strangers' texts, in which a slash may stand for anything.
    Cost: a look at each text that has a slash.
    """
    known = sorted({os.fspath(place).rstrip("/") for place in places if place is not None} - {""}, key=len)
    patterns = [
        (re.compile(rf"(?<![\w./-]){re.escape(place)}{_END}"), base_name(place))
        for place in reversed(known)
        if place.startswith("/") or "://" in place
    ]

    def walk(value: object) -> object:
        if isinstance(value, str):
            return _text(value, patterns, all_texts) if "/" in value else value
        if isinstance(value, (list, tuple)):
            return [walk(item) for item in value]
        if not isinstance(value, dict):
            return value
        fields: dict[object, object] = {}
        for key, item in value.items():
            is_path = isinstance(key, str) and key.startswith("/")  # it may have spaces
            name = base_name(key) if is_path and all_texts else walk(key)
            while name in fields:  # two files of one name
                name = f"{name}'"
            fields[name] = walk(item)
        return fields

    return cast(T, walk(value))


def _text(text: str, patterns: list[tuple[re.Pattern[str], str]], all_texts: bool) -> str:
    for pattern, name in patterns:
        text = pattern.sub(lambda _, name=name: name, text)  # type: ignore[misc]
    if all_texts:
        text = _QUOTED.sub(r"\1\2\1", text)
        text = _BARE.sub(lambda path: base_name(path[0]), text)
    return text
