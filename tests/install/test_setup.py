"""What `make` says where it cannot set up, and where packages come from: no package is installed here."""

from __future__ import annotations

import importlib.util
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from types import ModuleType

import pytest

TOOLS = ("sh", "bash", "sed", "find", "env", "id", "uname", "rm", "cat", "dirname", "touch", "expand", "setarch")


@pytest.fixture
def bare_path(tmp_path: Path) -> Path:
    """A folder to have as PATH: a shell and its tools, no compiler, no git, no apt-get, no Python."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in TOOLS:
        place = shutil.which(name)
        if place:
            (folder / name).symlink_to(place)
    return folder


def pretending(place: Path, version: tuple[int, int, int]) -> None:
    """A Python that says it is of another version."""
    said = ".".join(map(str, version))
    fake = f"import sys; sys.version_info = {version}; sys.version = {said!r}; exec(sys.argv.pop(1))"
    command = f'[ "$1" = -c ] || exit 9; exec {shlex.quote(sys.executable)} -c {shlex.quote(fake)} "$2"'
    place.write_text(f"#!/bin/sh\n{command}\n", encoding="utf-8")
    place.chmod(0o755)


def make(repo_root: Path, tmp_path: Path, path: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """`make run` with an environment that is not there yet."""
    command = [shutil.which("make") or "make", "run", f"VENV={tmp_path / 'env'}", *words]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    environment |= {"PATH": str(path)}
    return subprocess.run(
        command, cwd=repo_root, env=environment, capture_output=True, text=True, timeout=100, check=False
    )


@pytest.mark.parametrize("version", [(3, 9, 18), (3, 10, 99), (3, 15, 0), (2, 7, 18)])
def test_a_python_too_old_or_too_new(version: tuple[int, int, int], repo_root: Path, tmp_path: Path, bare_path: Path):
    pretending(tmp_path / "python", version)
    done = make(repo_root, tmp_path, bare_path, f"PYTHON={tmp_path / 'python'}")
    assert done.returncode == 2
    said = f"{tmp_path}/python is {'.'.join(map(str, version))}. Name another: make run PYTHON="
    assert f"dcfast needs Python 3.11 to 3.14; {said}" in done.stderr
    assert not (tmp_path / "env").exists()


def test_no_python_that_fits(repo_root: Path, tmp_path: Path, bare_path: Path) -> None:
    pretending(bare_path / "python3", (3, 9, 2))
    done = make(repo_root, tmp_path, bare_path)
    assert done.returncode == 2
    assert "dcfast needs Python 3.11 to 3.14: none found. Name one: make run PYTHON=" in done.stderr


def test_the_first_python_that_fits_is_taken(repo_root: Path, tmp_path: Path, bare_path: Path) -> None:
    pretending(bare_path / "python3", (3, 9, 2))
    pretending(bare_path / "python3.12", (3, 12, 1))
    done = make(repo_root, tmp_path, bare_path, "--dry-run")
    assert f'"{bare_path}/python3.12" -m venv' in done.stdout


def test_no_compiler_and_nobody_to_install_one(repo_root: Path, tmp_path: Path, bare_path: Path) -> None:
    done = make(repo_root, tmp_path, bare_path, f"PYTHON={sys.executable}")
    assert done.returncode == 2
    assert "dcfast is built from source, and this machine lacks" in done.stderr
    assert "As root: apt-get install g++" in done.stderr
    assert not (tmp_path / "env").exists()


def test_bounds_agree(repo_root: Path) -> None:
    project = tomllib.loads((repo_root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    makefile = (repo_root / "Makefile").read_text(encoding="utf-8")
    low, high = re.fullmatch(r">=3\.(\d+),<3\.(\d+)", project["requires-python"]).groups()  # type: ignore[union-attr]
    assert f"PYTHON_FITS := (3, {low}) <= sys.version_info < (3, {high})" in makefile
    named = {name for name in project["classifiers"] if re.search(r":: 3\.\d+$", name)}
    assert named <= {f"Programming Language :: Python :: 3.{n}" for n in range(int(low), int(high))}
    torch = [r for r in project["optional-dependencies"]["train"] if r.startswith("torch")]
    assert f"TORCH ?= {' '.join(map(repr, torch))}\n" in makefile


def test_every_dependency_is_bounded_on_both_sides(repo_root: Path) -> None:
    project = tomllib.loads((repo_root / "pyproject.toml").read_text(encoding="utf-8"))
    groups = [project["build-system"]["requires"], project["project"]["dependencies"]]
    groups += project["project"]["optional-dependencies"].values()
    unbounded = [r for group in groups for r in group if not re.match(r"dcfast\[|[\w.\[\]-]+>=[\d.]+,<[\d.]+$", r)]
    assert not unbounded


# --- cmake/install.py -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def installer(repo_root: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("install", repo_root / "cmake/install.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


LISTED = """:env:.find-links='/a/wheels /b'
global.index-url='https://packages.example/simple'
global.extra-index-url='file:///c/simple https://user:pa%20ss@d.example/simple'
global.find-links='/overruled'
global.constraint='/etc/pip/constraints.txt'
install.no-index='false'
list.format='columns'
"""


def test_settings_of_pip_are_handed_on(installer: ModuleType, tmp_path: Path) -> None:
    always = {"UV_INDEX_STRATEGY": "unsafe-best-match", "UV_NATIVE_TLS": "1"}
    cache = {"XDG_CACHE_HOME": str(tmp_path)}
    assert installer.uv_variables("", cache) == always
    assert installer.uv_variables(LISTED, cache) == {
        **always,
        "UV_DEFAULT_INDEX": "https://packages.example/simple",
        "UV_INDEX": "file:///c/simple https://user:pa%20ss@d.example/simple",
        "UV_FIND_LINKS": "/a/wheels,/b",
        "UV_CONSTRAINT": "/etc/pip/constraints.txt",
    }
    given = {**cache, "UV_DEFAULT_INDEX": "https://mine.example", "UV_INDEX_STRATEGY": "first-index"}
    kept = installer.uv_variables(LISTED, given)
    assert "UV_DEFAULT_INDEX" not in kept
    assert "UV_INDEX_STRATEGY" not in kept
    assert installer.uv_variables("global.no-index='true'", cache)["UV_NO_INDEX"] == "1"


def test_a_home_that_takes_no_files_needs_no_cache(installer: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/proc/nobody")
    assert installer.uv_variables("", {})["UV_NO_CACHE"] == "1"


@pytest.mark.parametrize(("words", "asked"), [(["numpy"], ["uv", "pip"]), (["--lowest", "test"], ["uv"])])
def test_pip_has_the_last_word_but_about_lowest_versions(
    words: list[str], asked: list[str], installer: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uv = tmp_path / "uv"
    uv.write_text(f"#!/bin/sh\necho uv >>{tmp_path}/asked\nexit 2\n", encoding="utf-8")
    uv.chmod(0o755)
    pip = tmp_path / "pip"
    pip.write_text(f"#!/bin/sh\n[ $1 = config ] || echo pip >>{tmp_path}/asked\nexit 0\n", encoding="utf-8")
    pip.chmod(0o755)
    monkeypatch.setattr(installer, "find_uv", lambda: str(uv))
    monkeypatch.setattr(installer, "PIP", (str(pip),))
    assert installer.main(words) == (0 if "pip" in asked else 2)
    assert (tmp_path / "asked").read_text().split() == asked
