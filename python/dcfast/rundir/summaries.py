"""What the stages of a run recorded, as records; each stands in ``state/<stage>.json`` and is read again by others.

The files lie in the run directory and may have been altered: a field of another type is said by file and name before
anything is computed from it. A field with a default may be missing in the file of an older release.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from math import isfinite
from pathlib import Path
from typing import Annotated, Any, ClassVar, NamedTuple, TypeVar

import msgspec

from dcfast.errors import CorruptDataError
from dcfast.storage.json_files import read_json
from dcfast.storage.records import Count, Record, as_record, read_record

__all__ = [
    "ComparedSet",
    "DecontaminateSummary",
    "EvaluateSummary",
    "FeatureModelSummary",
    "FeaturesSummary",
    "FilterSummary",
    "IndexSummary",
    "KeptCopies",
    "ReportSummary",
    "ReshardSummary",
    "SignaturesSummary",
    "Summary",
    "TeacherSummary",
    "VerifySummary",
    "WorldSummary",
    "check_fields",
    "equals_json",
    "find_summary",
    "load_object",
    "read_summary",
]

_MEND = "the file was altered: remove it, and run the same command again without --from, which makes it anew"
Decimal = Annotated[str, msgspec.Meta(pattern=r"^[-+0-9.eE]+$|^-?inf$|^nan$")]
"""A number as text, exact."""
R = TypeVar("R", bound=Record)
T = TypeVar("T")


class Summary(Record):
    """Of a stage."""

    stage: ClassVar[str] = ""


class WorldSummary(Summary):
    stage: ClassVar[str] = "world"
    spec: dict[str, int | float | str | bool | None]
    rows: Count
    samples: Count
    evalsets: Count


class IndexSummary(Summary):
    """Counts of the pool; ``with_uid`` are samples with a usable uid, ``rows_with_uid`` the records of the index."""

    stage: ClassVar[str] = "index"
    samples: Count
    shards: Count = 0
    members: Count = 0
    bytes: Count = 0
    with_uid: Count = 0
    damaged_shards: Count = 0
    strays: Count = 0
    segments: Count = 0
    rows_with_uid: Count = 0
    notes: list[str] = []


class ComparedSet(Record):
    """The signatures of an evaluation set; ``damage``: (file, what may hide images of it)."""

    name: str
    pictures: Count = 0
    unreadable: Count = 0
    flat: Count = 0
    damage: list[tuple[str, str]] = []


class SignaturesSummary(Summary):
    """``decoded``: whether images were; ``status``: how decoding went -> samples."""

    stage: ClassVar[str] = "signatures"
    decoded: bool = False
    pictures: Count = 0
    flat: Count = 0
    status: dict[str, Count] = {}
    evalsets: list[ComparedSet] = []
    notes: list[str] = []


class TeacherSummary(Summary):
    stage: ClassVar[str] = "teacher"
    model: str
    samples: Count
    samples_seen: Count
    recipe: dict[str, int | float | str | bool | None]
    loss_last: float | None
    content_hash: str
    held_out: bool = False


class FeatureModelSummary(Record):
    """A model whose columns stand under ``prefixes``."""

    key: str
    prefixes: list[str]
    name: str
    content_hash: str | None
    dim: Count


class FeaturesSummary(Summary):
    stage: ClassVar[str] = "features"
    models: list[FeatureModelSummary]
    by_teacher: list[str] = []
    samples: Count = 0
    status: dict[str, Count] = {}
    rows: Count = 0
    rows_found: Count = 0
    scored: dict[str, Count] = {}
    notes: list[str] = []


class DecontaminateSummary(Summary):
    """``available``: whether there were evaluation sets; ``max_distance`` None: there were none."""

    stage: ClassVar[str] = "decontaminate"
    available: bool
    uids: Count
    samples: Count = 0
    content: Count = 0
    flat: Count = 0
    evidence_rows: Count = 0
    max_distance: Annotated[int, msgspec.Meta(ge=0, le=64)] | None = None


class KeptCopies(Record):
    """Kept samples that are copies of evaluation images: all, and of each set that was compared."""

    samples: Count
    evalsets: dict[str, Count]


class FilterSummary(Summary):
    """``subset`` is None where the pool has no shards yet; ``thresholds``: key -> number as text."""

    stage: ClassVar[str] = "filter"
    filter: str
    fates: dict[str, Count]
    subset: Count | None
    thresholds: dict[str, Decimal] | None
    models: dict[str, str | dict[str, str | int]]
    clusters: dict[str, dict[str, int | float | str | bool | None]] = {}
    metadata_rows: Count = 0
    malformed_uids: Count = 0
    metadata_outcomes: dict[str, Count] = {}
    subset_metadata: Count | None = None
    contaminated: KeptCopies | None = None
    reasons: dict[str, Count] = {}
    damage: list[tuple[str, str]] = []
    damaged_shards: Count = 0
    repeated_in_pool: Count = 0
    repeated_in_metadata: Count = 0
    notes: list[str] = []


class ReshardSummary(Summary):
    stage: ClassVar[str] = "reshard"
    output_shards: Count
    samples: Count = 0
    missing: Count = 0
    tar_bytes: Count = 0


class VerifySummary(Summary):
    """``ok`` where every payload agrees with its source and the fates add up; else ``problems``."""

    stage: ClassVar[str] = "verify"
    ok: bool
    problems: list[str] = []
    contaminated_in_subset: Count = 0
    shards: Count = 0
    written: Count = 0
    members: Count = 0
    payload_bytes: Count = 0
    mismatches: Count = 0
    rows: Count = 0
    sample_rows: Count = 0
    kept: Count = 0
    missing: Count = 0
    without_fate: Count = 0
    without_reason: Count = 0
    kept_outside_subset: Count = 0
    copies: Count = 0


class EvaluateSummary(Summary):
    """``available``: whether there were evaluation sets; ``scores`` and ``chance`` by set."""

    stage: ClassVar[str] = "evaluate"
    available: bool = False
    scores: dict[str, float | None] = {}
    chance: dict[str, float | None] = {}
    checkpoint: str | None = None
    model: str = ""
    results: str = ""
    averages: dict[str, float | None] = {}
    own_average: float | None = None
    missing: list[str] = []
    failed: dict[str, str] = {}
    partial: list[str] = []
    unlisted: list[str] = []
    pictures: Count = 0
    unreadable: Count = 0
    notes: list[str] = []


class ReportSummary(Summary):
    """``report``: the page."""

    stage: ClassVar[str] = "report"
    kept: Count
    standard: bool
    pictures: Count
    pairs: Count
    report: str = "report.html"


def read_summary(path: Path, kind: type[R]) -> R:
    """A record of a run directory.

    Raises:
        FileNotFoundError: it is not there.   CorruptDataError: it is no JSON object, or a field is missing or of
        another type; names file and field.
    """
    return read_record(path, kind, advice=_MEND)


def find_summary(path: Path, kind: type[T]) -> T | None:
    """The same where it is there; None where there is no file, or what is in it is no JSON object or an empty one.

    Raises CorruptDataError: a field is missing or of another type; names file and field.
    """
    try:
        value = read_json(path, names=True)
    except (OSError, ValueError):
        return None
    return as_record(value, kind, str(path), _MEND) if isinstance(value, dict) and value else None


_MOST = (1 << 63) - 1


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


def equals_json(path: Path, value: object) -> bool:
    """Whether a file holds this JSON value; what cannot be read does not."""
    try:
        return bool(read_json(path, names=True) == value)
    except (FileNotFoundError, ValueError):
        return False
