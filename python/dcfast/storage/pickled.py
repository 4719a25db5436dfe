"""What a pickle holds that carries something of dcfast to another process: values, and files by their paths.

A pickle is for a process that runs now, not for keeping: another version of dcfast refuses it, and so does a file that
has changed.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, TypeVar

from dcfast._core import version as core_version
from dcfast.errors import CorruptDataError, PoolError
from dcfast.storage.inputs import StrPath

T = TypeVar("T")
FileState = tuple[int, int]
"""Size and modification time in ns: what tells one version of a file from another."""


def reduced(name: str, make: Callable[..., T], *state: object) -> tuple[Callable[..., T], tuple[Any, ...]]:
    """What ``__reduce__`` returns so that ``make(*state)`` is called in a process with the same version of dcfast.

    Args:
        name: of the class, for the error.   make: found by its name there, so no lambda.
    """
    return _make, (core_version, name, make, *state)


def _make(pickled_by: str, name: str, make: Callable[..., T], *state: object) -> T:
    if pickled_by != core_version:
        raise CorruptDataError(
            f"{name}: pickled by dcfast {pickled_by}, and this process has {core_version}; expected the same version: "
            "install one for both, or write files instead of pickles"
        )
    return make(*state)


def file_state(path: StrPath) -> FileState | None:
    """The state of a file, taken before it is opened; None where there is none, as its opening says."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_size, status.st_mtime_ns


def check_state(path: StrPath, expected: FileState | None) -> None:
    """PoolError where a file is not the one that was opened in the process that handed it on."""
    now = file_state(path)
    if now is None or now != expected:
        found = "no file" if now is None else f"{now[0]:,} bytes of {now[1]} ns"
        was = "no file" if expected is None else f"{expected[0]:,} bytes of {expected[1]} ns"
        raise PoolError(
            f"{path}: it has changed since the process that handed it on opened it: expected {was}, got {found}; "
            "open the index anew there, and hand that on"
        )
