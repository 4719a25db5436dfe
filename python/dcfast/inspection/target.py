"""What ``dcfast why`` and ``dcfast inspect`` are given: a uid, a shard, a sample of a shard, or a run directory."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import NamedTuple

from dcfast.errors import RunError
from dcfast.rundir.claim import read_settings
from dcfast.rundir.run_dir import Run
from dcfast.storage.paths import absolute

_UID = re.compile(r"[0-9A-Fa-f]{32}\Z")
_SHARD = re.compile(r".+\.tar\Z", re.DOTALL)
_SAMPLE = re.compile(r"(?P<shard>.+\.tar)/(?P<key>[^/].*)\Z", re.DOTALL)


class Target(NamedTuple):
    """One of uid, shard (with or without key), or none of them: the whole run."""

    run: Run
    uid: str | None = None
    shard: str | None = None
    key: str | None = None


def is_run(path: str) -> bool:
    return os.path.isfile(os.path.join(path, "state", "settings.json"))


def stored_run(out: str | os.PathLike[str]) -> Run:
    """A run as its directory says it is, to look at: nothing is locked or written. RunError: it is none."""
    root = Path(absolute(os.path.expanduser(out)))
    if not is_run(str(root)):
        raise RunError(
            f"--out {root} is no run directory: it has no state/settings.json. Give one that dcfast run made"
        )
    run = Run(root, read_settings(root / "state" / "settings.json"))
    run.look_for_shards("filter")
    return run


def read_target(word: str, out: str) -> Target:
    """What a word names, in the run directory ``out``.

    Raises:
        ValueError: it is neither a uid, nor a shard, nor a run.   RunError: ``out`` is no run directory.
    """
    if _UID.match(word):
        return Target(stored_run(out), uid=word.lower())
    if is_run(word):
        return Target(stored_run(word))
    if sample := _SAMPLE.match(word):
        return Target(stored_run(out), shard=_shard_name(sample["shard"]), key=sample["key"])
    if _SHARD.match(word):
        return Target(stored_run(out), shard=_shard_name(word))
    raise ValueError(f"expected a uid of 32 hex digits, SHARD.tar, SHARD.tar/KEY or a run directory; got {word!r}")


def _shard_name(word: str) -> str:
    """The name that the index knows a shard by: of a path its last part."""
    return os.path.basename(word)
