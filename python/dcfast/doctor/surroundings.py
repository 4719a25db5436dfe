"""What ``dcfast doctor`` looks at around the process: folders it writes to, the locale, the terminal."""

from __future__ import annotations

import locale
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from dcfast.doctor.checks import Row, describe
from dcfast.storage.paths import check_writable

NARROW = 60
"""Columns that tables and messages want, at least."""


def surroundings(deep: bool) -> Iterator[Row]:
    """Home, the cache of models, the directory for temporary files; locale; terminal."""
    home = Path.home()
    models = os.environ.get("HF_HOME") or Path(os.environ.get("XDG_CACHE_HOME") or home / ".cache") / "huggingface"
    yield _folder_row(
        "home", home, 'mkdir -p "$HOME" && chmod u+rwx "$HOME", or another: export HOME=/a/folder/of/yours'
    )
    yield _folder_row("cache of models", models, "choose another: export HF_HOME=/a/folder/of/yours")
    yield _temporary_row()
    yield _locale_row()
    yield _terminal_row()


def _folder_row(name: str, folder: str | os.PathLike[str], fix: str) -> Row:
    try:
        check_writable(folder, name)
    except OSError as error:
        return Row(
            name, "broken", f"{os.fspath(folder)}: cannot be written ({error.errno and os.strerror(error.errno)})", fix
        )
    return Row(name, "info", os.fspath(folder))


def _temporary_row() -> Row:
    name = "temporary files"
    try:
        return Row(name, "info", tempfile.gettempdir())
    except OSError as error:
        fix = "choose a directory that can be written: export TMPDIR=/a/folder/of/yours"
        return Row(name, "broken", describe(error), fix, True)


def _locale_row() -> Row:
    encoding = locale.getencoding()
    if encoding.replace("-", "").lower() == "utf8":
        return Row("locale", "info", encoding)
    text = f"{encoding}: what is beyond it is shown by escapes, and names of files may be read wrongly"
    return Row("locale", "broken", text, "export LC_ALL=C.UTF-8")


def _terminal_row() -> Row:
    if not sys.stdout.isatty():
        return Row("terminal", "info", "none: output goes to a pipe or a file, without colours")
    columns = shutil.get_terminal_size().columns
    plain = " (NO_COLOR: without colours)" if os.environ.get("NO_COLOR") else ""
    text = f"{columns} columns{plain}"
    if columns < NARROW:
        return Row(
            "terminal", "broken", f"{text}: lines are broken", f"make its window wider, or: stty columns {NARROW}"
        )
    return Row("terminal", "info", text)
