"""The fields of what a run recorded of itself that are read again: stage summaries, the training's, the manifest.

The files lie in the run directory and may have been altered. A field of another type is said by file and name before
anything is computed from it; fields that are not named here are only shown.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from math import isfinite
from pathlib import Path
from typing import Any, NamedTuple

from dcfast.errors import CorruptDataError
from dcfast.storage.json_files import read_json

__all__ = ["check_fields", "equals_json", "load_object"]

_MOST = (1 << 63) - 1
_MEND = "the file was altered: remove it, and run the same command again without --from, which makes it anew"


class _Kind(NamedTuple):
    words: str
    holds: Callable[[Any], bool]


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value <= _MOST


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) <= _MOST and isfinite(value)


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_decimal(value: Any) -> bool:
    if not isinstance(value, str):
        return False
    try:
        float(value)
    except ValueError:
        return False
    return True


def _each(holds: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, dict) and all(map(holds, value.values()))


def _list(holds: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, list) and all(map(holds, value))


def _record(*counts: str, text: str | None = None) -> Callable[[Any], bool]:
    return lambda value: (
        isinstance(value, dict)
        and all(_is_count(value.get(name, 0)) for name in counts)
        and (text is None or _is_text(value.get(text)))
    )


def _optional(kind: _Kind) -> _Kind:
    return _Kind(f"{kind.words} or null", lambda value: value is None or kind.holds(value))


COUNT = _Kind("a whole number of 0 or more", _is_count)
NUMBER = _Kind("a number", _is_number)
TRUTH = _Kind("true or false", lambda value: isinstance(value, bool))
TEXT = _Kind("text", _is_text)
COUNTS = _Kind("an object of whole numbers of 0 or more", _each(_is_count))
DECIMALS = _Kind("an object of numbers as text", _each(_is_decimal))
TEXTS = _Kind("a list of texts", _list(_is_text))
OBJECT = _Kind("an object", lambda value: isinstance(value, dict))
EVALSETS = _Kind(
    "a list of objects with a name and whole numbers", _list(_record("pictures", "unreadable", "flat", text="name"))
)
SOURCES = _Kind("a list of objects with a number of samples", _list(_record("samples")))
PAIRS = _Kind("a list of pairs", _list(lambda value: isinstance(value, list) and len(value) == 2))

_TRAINING = {
    "samples_seen": COUNT,
    "steps": COUNT,
    "replaced": COUNT,
    "seed": _Kind("a whole number", lambda value: type(value) is int),
    "model": TEXT,
    "recipe": OBJECT,
    "recipe_hash": TEXT,
    "checkpoint": TEXT,
    "checkpoint_sha256": TEXT,
    "loss_first": _optional(NUMBER),
    "loss_last": _optional(NUMBER),
    "logit_scale": _optional(NUMBER),
    "non_standard": TEXTS,
    "notes": TEXTS,
    "sources": SOURCES,
}
FIELDS: dict[str, dict[str, _Kind]] = {
    "index": {
        **dict.fromkeys(("samples", "shards", "bytes", "damaged_shards", "with_uid", "rows_with_uid"), COUNT),
        "notes": TEXTS,
    },
    "signatures": {"notes": TEXTS, "evalsets": EVALSETS},
    "decontaminate": {
        "available": TRUTH,
        **dict.fromkeys(("uids", "samples", "content", "flat"), COUNT),
        "max_distance": _Kind("a whole number of 0 to 64", lambda value: _is_count(value) and value <= 64),
    },
    "filter": {
        "filter": TEXT,
        **dict.fromkeys(("fates", "reasons", "metadata_outcomes"), COUNTS),
        **dict.fromkeys(("subset_metadata", "metadata_rows", "malformed_uids", "damaged_shards"), COUNT),
        "subset": _optional(COUNT),
        **dict.fromkeys(("repeated_in_pool", "repeated_in_metadata"), COUNT),
        "thresholds": _optional(DECIMALS),
        "damage": PAIRS,
        "notes": TEXTS,
    },
    "reshard": dict.fromkeys(("output_shards", "samples", "missing", "tar_bytes"), COUNT),
    "verify": {"ok": TRUTH, "members": COUNT, "payload_bytes": COUNT},
    "train": _TRAINING,
    "train/summary": _TRAINING,
    "evaluate": {"notes": TEXTS},
    "manifest": {
        **dict.fromkeys(("versions", "settings", "subset", "subset_metadata"), OBJECT),
        "non_standard": TEXTS,
        **dict.fromkeys(("recipe_sha256", "command"), TEXT),
    },
}
"""File -> field -> what it must be, where it is there."""
NEEDED = {
    "index": ("samples",),
    "decontaminate": ("available", "uids"),
    "filter": ("filter", "fates", "subset", "thresholds", "models"),
    "reshard": ("output_shards",),
    "train/summary": ("model", "checkpoint"),
}
"""What later stages cannot do without."""


def check_fields(value: dict[str, Any], what: str, path: Path) -> dict[str, Any]:
    """The value as it is.

    Args:
        what: a stage, ``train/summary`` or ``manifest``; of others nothing is known.
        path: where it was read, for the message.
    Raises:
        CorruptDataError: a field is not of its type; names file and field.
    """
    for name, kind in FIELDS.get(what, {}).items():
        if name in value and not kind.holds(value[name]):
            got = json.dumps(value[name])
            shown = got if len(got) <= 80 else got[:80] + "..."
            raise CorruptDataError(f"{path}: {name} must be {kind.words}; got {shown}; {_MEND}", path=str(path))
    return value


def load_object(path: Path, what: str) -> dict[str, Any]:
    """What a file of a run directory holds.

    Raises:
        FileNotFoundError: it is not there.   CorruptDataError: it is no JSON object, lacks what later stages need, or
        see ``check_fields``.
    """
    value = read_json(path, names=True, advice=_MEND)
    if not isinstance(value, dict):
        raise CorruptDataError(f"{path}: expected a json object; got {type(value).__name__}; {_MEND}", path=str(path))
    for name in NEEDED.get(what, ()):
        if name not in value:
            raise CorruptDataError(f"{path}: {name} is missing; {_MEND}", path=str(path))
    return check_fields(value, what, path)


def equals_json(path: Path, value: Any) -> bool:
    """Whether a file holds this JSON value; what cannot be read does not."""
    try:
        return bool(read_json(path, names=True) == value)
    except (FileNotFoundError, ValueError):
        return False
