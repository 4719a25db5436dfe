"""What type checkers see of the package: its names as they are, its results by what was given, and nothing unknown."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PROGRAM = ROOT / "tests/helpers/typos.py"
Errors = set[tuple[int, str]]
"""(line, code) of each."""
# where the packages are that both checkers must find: a virtual environment's, and those that it borrows
PACKAGES = [str(ROOT / "python"), *(path for path in sys.path if path.endswith("site-packages"))]

pytestmark = pytest.mark.lint


def marked(which: int) -> Errors:
    """The errors that the program asks for: of mypy (0), or of pyright (1)."""
    lines = enumerate(PROGRAM.read_text(encoding="utf-8").splitlines(), 1)
    marks = ((number, re.search(r"# E: (\S+) \| (\S+)$", line)) for number, line in lines)
    return {(number, mark[which + 1]) for number, mark in marks if mark}


def pyright() -> list[str]:
    """The command of pyright, or of basedpyright, which is made of it and carries its own node."""
    for name in ("pyright", "basedpyright"):
        if importlib.util.find_spec(name) is not None:
            return [sys.executable, "-m", name]
        if command := os.environ.get("DCFAST_PYRIGHT") or shutil.which(name):
            return [command]
    pytest.skip("pyright is not installed: pip install basedpyright")


def answer(command: list[str], folder: Path, **environment: str) -> str:
    done = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, check=False, timeout=900, env={**os.environ, **environment}
    )
    assert done.returncode in (0, 1), done.stdout + done.stderr
    return done.stdout


def test_mypy_refuses_each_typo_and_nothing_else() -> None:
    pytest.importorskip("mypy", reason="mypy is not installed: pip install mypy")
    command = [sys.executable, "-m", "mypy", "--output", "json", str(PROGRAM)]
    found = [json.loads(line) for line in answer(command, ROOT, MYPYPATH=PACKAGES[0]).splitlines() if line[0] == "{"]
    own = [error for error in found if error["file"].endswith(PROGRAM.name) and error["severity"] == "error"]
    assert {(error["line"], error["code"]) for error in own} == marked(0)


def test_pyright_refuses_each_typo_and_nothing_else(tmp_path: Path) -> None:
    command = pyright()
    shutil.copy(PROGRAM, tmp_path)
    (tmp_path / "pyrightconfig.json").write_text(
        json.dumps({"extraPaths": PACKAGES, "typeCheckingMode": "standard", "reportMissingModuleSource": False})
    )
    found = json.loads(answer([*command, "--outputjson", PROGRAM.name], tmp_path))["generalDiagnostics"]
    own = {(error["range"]["start"]["line"] + 1, error["rule"]) for error in found if error["severity"] == "error"}
    assert marked(1) <= own  # of a call with overloads it says two things
    assert {line for line, _ in own} == {line for line, _ in marked(1)}


def test_every_public_type_is_known(tmp_path: Path) -> None:
    command = [*pyright(), "--verifytypes", "dcfast", "--ignoreexternal", "--outputjson"]
    known = json.loads(answer(command, tmp_path, PYTHONPATH=os.pathsep.join(PACKAGES)))["typeCompleteness"]
    unknown = [symbol["name"] for symbol in known["symbols"] if symbol["isExported"] and not symbol["isTypeKnown"]]
    assert (known["completenessScore"], unknown) == (1, [])
    assert known["exportedSymbolCounts"]["withKnownType"] > 5000  # it looked at the package, and not beside it
