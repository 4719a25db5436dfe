"""The house: wings import downwards only, nothing goes round in a circle, and late imports save something."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.lint


def lint(folder: Path, repo_root: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(repo_root / "cmake/check_imports.py"), str(folder / "dcfast")]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=100, check=False)


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory, repo_root: Path) -> Path:
    """A folder with the sources of dcfast, to plant things in."""
    folder = tmp_path_factory.mktemp("house")
    shutil.copytree(
        repo_root / "python/dcfast", folder / "dcfast", ignore=shutil.ignore_patterns("*.so", "__pycache__")
    )
    return folder


def test_levels_and_circles(copy: Path, repo_root: Path) -> None:
    done = lint(copy, repo_root)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 kept, 0 broken" in done.stdout


def planted(lines: dict[str, list[str]], copy: Path, repo_root: Path) -> subprocess.CompletedProcess[str]:
    """What is said of the house with some lines at the end of some of its files: file -> lines."""
    before = {wing: (copy / "dcfast" / wing).read_text() for wing in lines}
    try:
        for wing, text in before.items():
            (copy / "dcfast" / wing).write_text(text + "\n" + "\n".join(lines[wing]) + "\n")
        return lint(copy, repo_root)
    finally:
        for wing, text in before.items():
            (copy / "dcfast" / wing).write_text(text)


@pytest.mark.parametrize("late", [False, True])
def test_forbidden_imports_are_found(late: bool, copy: Path, repo_root: Path) -> None:
    lines = {
        "storage/atomic.py": ["import dcfast.index.pool", "import dcfast.storage.npz"],
        "uids/sets.py": ["from dcfast.run import run"],
    }
    if late:
        lines = {wing: ["def late() -> None:", *(f"    {line}" for line in its)] for wing, its in lines.items()}
    done = planted(lines, copy, repo_root)
    assert done.returncode == 1, done.stderr
    for said in (
        "dcfast.storage is not allowed to import dcfast.index",
        "dcfast.uids is not allowed to import dcfast.run",
        "No cycles are allowed in dcfast.storage",
    ):
        assert said in " ".join(done.stdout.split()), said


def test_late_imports(copy: Path, repo_root: Path) -> None:
    said = {
        "import json": "json: is not in HEAVY",
        "from dcfast.errors import PoolError": "dcfast.errors: brings nothing heavy",
        "import importlib; importlib.import_module('dcfast.run')": "imports by a name",
        "__import__('dcfast.run')": "imports by a name",
        "import torch": "",
        "import dcfast.loss": "",
    }
    lines = ["def late() -> None:", *(f"    {line}" for line in said)]
    done = planted({"uids/sets.py": lines}, copy, repo_root)
    first = len((copy / "dcfast/uids/sets.py").read_text().splitlines()) + 3  # a blank line, and the function's own
    assert done.returncode == 1, done.stderr
    for number, words in enumerate(said.values(), first):
        told = [line for line in done.stdout.splitlines() if f"uids/sets.py:{number}:" in line]
        assert any(words in line for line in told) if words else not told, done.stdout


def test_the_top_is_empty(repo_root: Path) -> None:
    top = {path.name for path in (repo_root / "python/dcfast").glob("*.py")}
    assert top == {"__init__.py", "__main__.py", "cli.py", "errors.py", "scales.py"}
    for name in ("resharder", "pool_refresh"):  # names of commands whose wing has another
        assert [path.name for path in (repo_root / "python/dcfast" / name).glob("*.*")] == ["__main__.py"]


ONE_PLACE = {
    "an image is opened": (r"Image\.open\(", "images/decode.py"),
    "the tars of a folder are listed": (r"\.endswith\(\"\.tar\"\)|glob\(\"\*\.tar\"\)", "storage/listing.py"),
    "a parquet file is read": (r"pq\.(ParquetFile|read_\w+)\(", "storage/parquet.py"),
    "a lock is taken": (r"fcntl\.flock\(", "storage/lock.py"),
    "text is cut into lines": (r"\.split\(\"\\n\" if|\.splitlines\(|\.readlines\(", "storage/lines.py"),
    "work is done ahead by threads": (r"ThreadPoolExecutor\(", "process/read_ahead.py"),
    "a file is hashed by SHA-256": (r"file_digest\(file, \"sha256\"", "storage/hashing.py"),
    "an npy is written or read": (r"np\.(save|savez\w*|load)\(", "storage/npz.py"),
    "JSON is parsed": (r"json\.(JSONDecoder|loads?)\((?!json\.dumps)", "storage/json_files.py"),
    "a file is mapped": (r"open_memmap\(|mmap_mode=|core_system\.MappedFile\(", "storage/mapped.py"),
    "the nearest name is looked for": (r"get_close_matches\(", "errors.py"),
    "a tar header is parsed": (r"tarfile\.open\([^)]*\"r", ""),
}
"""Job -> what its code looks like, and the one file of the package where it stands."""


@pytest.mark.parametrize("job", ONE_PLACE)
def test_one_job_has_one_place(job: str, repo_root: Path) -> None:
    package = repo_root / "python/dcfast"
    pattern, place = ONE_PLACE[job]
    found = {str(path.relative_to(package)) for path in package.rglob("*.py") if re.search(pattern, path.read_text())}
    assert found == ({place} if place else set())


MOST_LINES = 60


def test_no_function_is_longer_than_a_page(repo_root: Path) -> None:
    """Lines of a function less its docstring: it does one thing, or is cut."""
    long = []
    for path in sorted((*(repo_root / "python/dcfast").rglob("*.py"), *(repo_root / "kernels").glob("*.py"))):
        for node in ast.walk(ast.parse(path.read_bytes())):
            if not isinstance(node, ast.FunctionDef):
                continue
            lines = node.end_lineno - node.lineno + 1
            if ast.get_docstring(node) is not None:
                lines -= node.body[0].end_lineno - node.body[0].lineno + 1
            if lines > MOST_LINES:
                long.append(f"{path.relative_to(repo_root)}: {node.name} has {lines} lines")
    assert long == []


HANDS_ON = {
    "dedup/signature_file.py": "what its rows are stands in signature_rows",
    "report/text.py": "the page takes its functions as filters",
    "uids/sets.py": "the face takes its list from here",
}
"""Module -> why it lists what is public, though it is no face."""


def test_faces_alone_list_what_is_public(repo_root: Path) -> None:
    """A module behind a face needs no second list: what is private there begins with an underscore."""
    package = repo_root / "python/dcfast"
    listing = {str(path.relative_to(package)) for path in package.rglob("*.py") if "__all__ = " in path.read_text()}
    assert {name for name in listing if not name.endswith("__init__.py")} == set(HANDS_ON)
