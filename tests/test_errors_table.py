"""docs/errors.md: every message that a command can print on failure, each with what to do, as the source has it."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

pytestmark = pytest.mark.lint

SOURCE = """
MENDS = {"a": "write it again", "b": "x"}

def _refusal(name, message):
    return PoolError(f"pool {name}: {message}")

def look(path, size):
    hint = f"; did you mean {path!r}?" if size else ""
    if size > 1:
        raise RunError(f"{path} is full" + hint)
    if size > 2:
        raise _refusal(path, f"{size} rows are gone; bring them back")
    if size > 3:
        raise ValueError(f"size must be at least 1; got {size}")
    if size > 4:
        raise CorruptDataError(f"{path}: " + MENDS[size])
    if size > 5:
        raise RunError(f"{path} is lost")
    try:
        raise RuntimeError("no message of a command")
    except RuntimeError as error:
        raise CorruptDataError(f"{path}: {error}") from error
"""
CORE = """
  if (n > 3) throw Error(Code::corrupt_data, cat("block ", i, " of \\"", n, "\\" ends (too early)"), path, 3);
  refuse_argument("ids must be sorted; got ", n);
"""


@pytest.fixture(scope="module")
def maker(repo_root: Path) -> Any:
    # a module, not its globals alone: its dataclass looks for where it was made
    module = ModuleType("make_errors")
    sys.modules["make_errors"] = module
    module.__dict__.update(runpy.run_path(str(repo_root / "cmake/make_errors.py"), run_name="make_errors"))
    yield module
    del sys.modules["make_errors"]


def test_the_table_is_that_of_the_source_and_all_say_what_to_do(maker: Any, repo_root: Path) -> None:
    messages = maker.messages()
    lacking = [f"{m.wing}, {m.kind}: {m.text}" for m in messages if not m.advice]
    assert not lacking, "say in the message what to do:\n" + "\n".join(lacking)
    assert len(messages) > 600
    kept = (repo_root / "docs/errors.md").read_text(encoding="utf-8")
    assert maker.text(messages) == kept, "docs/errors.md is old: make stubs, or python cmake/make_errors.py"


def test_what_is_read_off_a_source(maker: Any, tmp_path: Path) -> None:
    package, core = tmp_path / "python/dcfast/index", tmp_path / "csrc/core/uids"
    package.mkdir(parents=True)
    core.mkdir(parents=True)
    (package / "look.py").write_text(SOURCE)
    (core / "look.cpp").write_text(CORE)
    found = {m.text: m for m in maker.messages(tmp_path)}
    assert {text: (m.kind, m.advice) for text, m in found.items()} == {
        "… is full; did you mean …?": ("RunError", "did you mean …?"),
        "pool …: … rows are gone; bring them back": ("PoolError", "bring them back"),
        "size must be at least 1; got …": ("ValueError", "size must be at least 1"),
        "…: write it again": ("CorruptDataError", "write it again"),
        "… is lost": ("RunError", ""),
        'block … of "…" ends (too early)': ("CorruptDataError", maker.BY_CLASS["CorruptDataError"]),
        "ids must be sorted; got": ("ValueError", maker.BY_CORE["ValueError"]),
    }
    assert found["ids must be sorted; got"].wing == "the core, uids"
