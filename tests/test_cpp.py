"""The C++ tests, run by pytest: those that `make test` built with the extension, else built here."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest


def _tool(name: str) -> str | None:
    """A tool beside the interpreter (a virtual environment that is not activated), else on PATH."""
    beside = Path(sys.executable).with_name(name)
    return str(beside) if beside.is_file() else shutil.which(name)


def _run(*command: str) -> str:
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=600, env={**os.environ, "PATH": path}, check=False
    )
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
    return done.stdout


@pytest.fixture(scope="session")
def cpp_build(repo_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A build directory with the C++ tests compiled; the newest one of the tree, brought up to date."""
    cmake = _tool("cmake")
    if cmake is None or _tool("ninja") is None:
        pytest.skip("cmake and ninja are not installed: pip install cmake ninja")
    built = [path.parent for path in repo_root.glob("build/cp3*/CTestTestfile.cmake")]
    if built:
        folder = max(built, key=lambda path: path.stat().st_mtime)
    else:
        folder = tmp_path_factory.mktemp("cpp")
        options = ["-G", "Ninja", "-DDCFAST_PYTHON=OFF", "-DDCFAST_CUDA=OFF", "-DDCFAST_TESTS=ON"]
        _run(cmake, "-S", str(repo_root), "-B", str(folder), *options)
    _run(cmake, str(folder))  # files may have come since it was configured
    _run(cmake, "--build", str(folder))
    return folder


def test_cpp(cpp_build: Path) -> None:
    ctest = _tool("ctest")
    assert ctest is not None
    listed = json.loads(_run(ctest, "--test-dir", str(cpp_build), "--show-only=json-v1"))
    names = {test["name"] for test in listed["tests"]}
    sources = {path.stem.removeprefix("test_") for path in Path(__file__).parent.glob("cpp/*/test_*.cpp")}
    assert names == sources, "tests/cpp/CMakeLists.txt does not list every test"
    _run(ctest, "--test-dir", str(cpp_build), "--output-on-failure")


#: the folders of csrc/core, ground first: each may include those before it
LEVELS = ("system", "tokens", "uids", "hashing", "similarity", "images", "filters", "index", "access", "reshard")


def test_the_folders_of_the_core_include_downwards(repo_root: Path) -> None:
    core = repo_root / "csrc/core"
    assert {path.name for path in core.iterdir()} == set(LEVELS)
    upwards = []
    for path in sorted(core.glob("*/*.?pp")):
        for included in re.findall(r'^#include "([^"]+)"', path.read_text(encoding="utf-8"), re.MULTILINE):
            folder = re.fullmatch(r"core/(\w+)/\w+\.hpp", included)
            assert folder is not None, f"{path}: {included} is not core/<folder>/<file>.hpp"
            if LEVELS.index(folder[1]) > LEVELS.index(path.parent.name):
                upwards.append(f"{path.relative_to(core)} includes {included}")
    assert not upwards


#: names of the standard library -> the header that declares them. Others bring them along with one compiler, and no
#: more with the next: GCC 16 took <cstdint> out of <string>.
DECLARED_IN = {
    r"u?int(8|16|32|64)_t\b": "cstdint",
    r"(size_t|byte|ptrdiff_t)\b": "cstddef",
    r"(string|to_string)\b": "string",
    r"string_view\b": "string_view",
    r"vector\b": "vector",
    r"array\b": "array",
    r"span\b": "span",
    r"(pair|move|exchange|swap)\b": "utility",
    r"(tuple|tie)\b": "tuple",
    r"(optional|nullopt)\b": "optional",
    r"(unique_ptr|shared_ptr)\b": "memory",
    r"function\b": "functional",
    r"numeric_limits\b": "limits",
    r"(memcpy|memcmp|memset|memchr)\b": "cstring",
    r"(sqrt|exp2?|log|nearbyint|ceil|floor|isnan|isfinite)\b": "cmath",
    r"(popcount|bit_cast|countr_zero|bit_width|endian)\b": "bit",
    r"(sort|min|max|clamp|fill|copy|lower_bound|upper_bound|any_of|all_of|ranges::\w+)\(": "algorithm",
}


def _headers_behind(path: Path, folders: tuple[Path, ...]) -> set[str]:
    """The headers of the standard library that a file includes, itself or by headers of ours."""
    headers: set[str] = set()
    for system, own in re.findall(r'^#include (?:<(\S+)>|"(\S+)")', path.read_text(encoding="utf-8"), re.MULTILINE):
        ours = [folder / own for folder in folders if own and (folder / own).is_file()]
        headers |= _headers_behind(ours[0], folders) if ours else {system}
    return headers


def test_each_file_includes_what_it_uses(repo_root: Path) -> None:
    folders = tuple(repo_root / name for name in ("csrc", "tests/cpp", "tests/fuzz"))
    files = ("csrc/core/**/*.?pp", "csrc/bindings/*.?pp", "tests/cpp/**/*.?pp", "tests/fuzz/*.?pp")
    missing = []
    for path in sorted(path for pattern in files for path in repo_root.glob(pattern)):
        code = re.sub("//.*", "", path.read_text(encoding="utf-8"))
        headers = _headers_behind(path, folders)
        for name, header in DECLARED_IN.items():
            if header not in headers and (used := re.search(rf"\bstd::{name}", code)):
                missing.append(f"{path.relative_to(repo_root)} has {used[0]} without <{header}>")
    assert not missing, "\n".join(missing)
