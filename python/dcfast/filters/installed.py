"""Data files that other packages bring: found without importing the package, or where the environment says."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable, Iterable
from pathlib import Path

from dcfast.errors import MissingDependencyError


def find_installed(
    what: str,
    variable: str,
    places: Iterable[Path],
    expected: str,
    missing: str,
    is_usable: Callable[[Path], bool] = Path.is_file,
) -> Path:
    """The path that a variable of the environment names, else the first of some places that is usable.

    Raises:
        MissingDependencyError: what the variable names is not ``expected``; or ``missing``, where it names nothing.
    """
    given = os.environ.get(variable)
    if given:
        places, missing = [Path(given)], f"{what}: ${variable} names {given!r}, which is not {expected}"
    for place in places:
        if is_usable(place):
            return place
    raise MissingDependencyError(missing)


def in_package(name: str, *parts: str) -> list[Path]:
    """Where a file of a package would be. Imports nothing: packages with data import torch, or a downloader."""
    spec = importlib.util.find_spec(name)
    return [Path(folder, *parts) for folder in (spec.submodule_search_locations or [])] if spec else []
