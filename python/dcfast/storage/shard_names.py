"""Which names of a directory are shards, and why a name that looks like one is none: one rule for disks and URLs."""

from __future__ import annotations

import os
import re
from typing import NamedTuple

from dcfast.storage.atomic import TEMPORARY_PREFIX

__all__ = ["PassedOver", "is_shard_name", "passed_over_words", "printable", "reason_passed_over"]

_COMPRESSED = re.compile(r"\.(?:tar\.(?:gz|bz2|xz|zst|lz4|lzma|br|z)|tgz|tbz2?|txz|tzst)$", re.IGNORECASE)
_PARTIAL = re.compile(r"\.tar\.(?:part|partial|tmp|download|crdownload|incomplete)$", re.IGNORECASE)
_NAMED = 10
"""Entries that a sentence names."""


class PassedOver(NamedTuple):
    """An entry of a directory of shards that looks like one and is not taken: its name, and why, in words."""

    name: str
    reason: str


def is_shard_name(name: str) -> bool:
    """Whether a file of this name is a shard: ``*.tar`` in lower case; not hidden, which temporary files are too."""
    return name.endswith(".tar") and not name.startswith(".")


def reason_passed_over(name: str) -> str:
    """Why a file that is meant as a tar, by its name, is no shard; empty for shards and for all other files."""
    compressed, partial = _COMPRESSED.search(name), _PARTIAL.search(name)
    if is_shard_name(name) or not (name.lower().endswith(".tar") or compressed or partial):
        return ""
    if name.startswith(TEMPORARY_PREFIX) or partial:
        return "unfinished: its writer was stopped"
    if name.startswith("."):
        return "hidden"
    return "compressed: unpack it" if compressed else "the name must end in .tar, in lower case"


def printable(name: str) -> str:
    """A file name as text that can be printed and stored: bytes that are not UTF-8 are escaped."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def passed_over_words(passed_over: list[PassedOver]) -> str:
    """``passed over: a.tar.gz (compressed: unpack it), ...``; empty where nothing was."""
    if not passed_over:
        return ""
    named = ", ".join(f"{name} ({reason})" for name, reason in passed_over[:_NAMED])
    more = f", and {len(passed_over) - _NAMED:,} more" if len(passed_over) > _NAMED else ""
    return f"passed over: {named}{more}"
