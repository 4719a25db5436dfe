"""Libraries that need not be installed: looked for before hours of work, not when they are first used."""

from __future__ import annotations

import importlib.util

from dcfast.errors import MissingDependencyError


def require_library(name: str, user: str, how: str = "pip install 'dcfast[run]'") -> None:
    """MissingDependencyError where a module cannot be found, without importing it.

    Args:
        name: of the module.
        user: what needs it, for the message.
        how: to get it.
    """
    if importlib.util.find_spec(name) is None:
        raise MissingDependencyError(f"{user} needs {name}, which is not installed; {how}")
