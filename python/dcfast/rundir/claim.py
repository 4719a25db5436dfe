"""Settings that mean the same from everywhere: their paths in one form, and what lies behind the uid files.

A run is resumed from another directory, by another link, after a file was replaced. So the settings that a run
directory holds name every place by its real path, and every uid file by the hash of its content, too.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import asdict, fields, replace
from functools import lru_cache
from pathlib import Path

from dcfast.errors import RunError
from dcfast.filters.files import move_files, uid_files
from dcfast.index.pool import pool_uid_rule
from dcfast.process.caption_places import move_captions
from dcfast.process.options import Option
from dcfast.rundir.settings import NO_COMPARISON, Settings
from dcfast.storage.hashing import hash_file
from dcfast.storage.inputs import StrPath
from dcfast.storage.json_files import read_json
from dcfast.storage.paths import absolute, real
from dcfast.storage.records import as_record

PLACES = ("pool", "evalsets", "teacher_uids")
EXPRESSIONS = ("filter", "compare")
RUN_CODE = Option("let a filter's python(...) run that the run in --out or a manifest names, and not this command line")
"""An option of every command that may ask the filter of a run directory, which may be a stranger's."""
_SCHEMA = "local-dir:"


def located(settings: Settings, place: Callable[[str], str] = real) -> Settings:
    """The settings with ``place(path)`` for every path in them: directories, uid files, checkpoints, expressions; and
    the rule of uids that the pool itself names.

    Raises:
        FilterError: an expression cannot be read.   ValueError: places of captions cannot.
        CorruptDataError: the pool's ``pool.json`` cannot.
    """

    def moved(path: str | None) -> str | None:
        return None if path is None else place(path)

    def rewritten(expression: str | None) -> str | None:
        return expression if expression is None or expression == NO_COMPARISON else move_files(expression, place)

    features = settings.features
    older = settings.dedup_against
    captions = move_captions(settings.caption_from, place)
    return replace(
        settings,
        pool=moved(settings.pool),
        dedup_against=older and [place(pool) for pool in older],
        uid_from=settings.uid_from if settings.pool is None else pool_uid_rule(settings.pool, settings.uid_from),
        evalsets=moved(settings.evalsets),
        signatures=settings.signatures and [*map(place, settings.signatures)],
        teacher_uids=moved(settings.teacher_uids),
        filter=rewritten(settings.filter),
        compare=rewritten(settings.compare),
        caption_from=captions,
        caption_weights=None if captions is None else settings.caption_weights,
        features=features and {prefix: _model(text, place) for prefix, text in features.items()},
    )


def _model(text: str, place: Callable[[str], str]) -> str:
    """A feature model, whose weights may be a file: ``NAME:FILE`` or ``local-dir:DIR``, but not ``NAME:TAG``."""
    if text.startswith(_SCHEMA):
        return f"{_SCHEMA}{place(text.removeprefix(_SCHEMA))}" if text != _SCHEMA else text
    name, colon, weights = text.partition(":")
    is_path = os.sep in weights or weights.startswith("~") or os.path.isfile(weights)
    return f"{name}:{place(weights)}" if colon and is_path and name != "hf-hub" else text


def with_uid_hashes(settings: Settings) -> Settings:
    """The settings (``located``) with the hash of each uid file they name; a file that is not there has none.

    Cost: one read of each file, once a process and version of it.
    """
    names = [settings.teacher_uids] if settings.teacher_uids is not None else []
    for expression in (settings.filter, settings.compare):
        if expression is not None and expression != NO_COMPARISON:
            names += uid_files(expression)
    hashes = {name: digest for name in sorted(set(names)) if (digest := _content(name)) is not None}
    return replace(settings, uid_hashes=hashes or None)


def _content(path: str) -> str | None:
    try:
        status = os.stat(path)
        return _hashed(path, status.st_size, status.st_mtime_ns) if os.path.isfile(path) else None
    except OSError:
        return None  # the check of the run's stages says what is wrong with it


@lru_cache(maxsize=64)
def _hashed(path: str, size: int, mtime_ns: int) -> str:
    del size, mtime_ns  # part of the cache's key only
    return hash_file(path)


def read_settings(path: Path) -> Settings:
    """The settings that a run directory holds; one written before a setting existed has its default.

    Raises:
        FileNotFoundError: there are none.   ValueError: the file was altered.
    """
    known = {field.name for field in fields(Settings)}
    stored = read_json(path, names=True)
    if not isinstance(stored, dict):
        raise ValueError(f"{path}: expected the settings of a run, an object; got a {type(stored).__name__}")
    return Settings(**{name: value for name, value in stored.items() if name in known})


def stored_settings(out: StrPath) -> Settings | None:
    """The settings of the run in a directory; None where there is none.   RunError: they cannot be read."""
    path = Path(out) / "state" / "settings.json"
    if not path.is_file():
        return None
    try:
        return as_record(asdict(read_settings(path)), Settings, str(path))
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise RunError(unreadable(path)) from error


def unreadable(path: Path) -> str:
    """What is to be said of settings that were altered."""
    return f"{path} cannot be read; choose another --out, or remove the directory"


def differences(before: Settings, now: Settings) -> list[str]:
    """In words, what makes ``now`` (with hashes) another run than ``before``; empty where it is the same."""
    there, here = asdict(located(before)), asdict(located(now))
    changes = [
        f"{name}: {_said(getattr(before, name))} there, {_said(value)} now"
        for name, value in here.items()
        if name != "uid_hashes" and there[name] != value
    ]
    known, seen = before.uid_hashes or {}, now.uid_hashes or {}
    changed = [path for path in seen if known.get(path, seen[path]) != seen[path]]
    return [*changes, *(f"the uid file {path} holds other uids than it did" for path in changed)]


def _said(value: object) -> str:
    return "default" if value is None else repr(value)


def kept_spelling(before: Settings, now: Settings) -> Settings:
    """The same run's settings, as they stand already: other names of the same files would have its pieces redone.

    Only those that mean the same from everywhere are kept. Hashes of files that are gone are kept, too.
    """
    fixed = located(before, absolute)
    kept = {
        name: value
        for name in (*PLACES, *EXPRESSIONS, "features", "dedup_against", "caption_from")
        if (value := getattr(before, name)) == getattr(fixed, name)
    }
    hashes = {**(before.uid_hashes or {}), **(now.uid_hashes or {})}
    return replace(now, **kept, uid_hashes=hashes or None)
