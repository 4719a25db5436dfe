"""Paths that a command line or a caller names: never empty, and for outputs directories that can be made."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

__all__ = ["absolute", "make_directory", "path_argument"]


def path_argument(text: str) -> str:
    """The ``type`` of an argparse argument that is a path: an empty one would be the working directory by chance."""
    if not text:
        raise argparse.ArgumentTypeError("expected a path; got an empty text")
    return text


def make_directory(path: str | os.PathLike[str], argument: str) -> Path:
    """Makes an output directory where it is missing, with those above it.

    Args:
        argument: what the path was given as, for the message.
    Raises:
        OSError: it is a file, lies below one, or cannot be made; the same class as the system's error.
    """
    directory = Path(path)
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        is_file = isinstance(error, (FileExistsError, NotADirectoryError))
        why = "it is a file, or lies below one" if is_file else f"it cannot be made: {error.strerror}"
        words = f"{argument} must be a directory that is there or can be made; {why}. Choose another place"
        raise type(error)(error.errno, words, os.fspath(path)) from None
    return directory


def absolute(path: str | os.PathLike[str]) -> str:
    """An absolute path as text, symlinks kept as the user wrote them."""
    return os.path.abspath(os.fspath(path))
