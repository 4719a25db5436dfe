"""What dcfast doctor says of a Python, a processor, folders, a locale and a terminal that are not as they should be."""

from __future__ import annotations

import io
import os
import sys
from pathlib import Path

import pytest
from dcfast.doctor import checks, surroundings
from dcfast.doctor.checks import Row
from test_doctor import COMMAND, Terminal


@pytest.mark.parametrize(
    ("version", "status", "needed", "text"),
    [
        ((3, 10), "broken", True, "too old: dcfast needs 3.11 to 3.14"),
        ((3, 11), "ok", True, ""),
        ((3, 14), "ok", True, ""),
        ((3, 15), "broken", False, "newer than what dcfast was made for, 3.11 to 3.14"),
    ],
)
def test_python(version: tuple[int, ...], status: str, needed: bool, text: str) -> None:
    row = checks.python_row(version)
    assert (row.status, row.needed) == (status, needed)
    assert text in row.detail
    assert status == "ok" or COMMAND.search(row.fix)


def test_the_oldest_python_is_that_of_the_project(repo_root: Path) -> None:
    oldest = ".".join(map(str, checks.PYTHONS[0]))
    assert f'requires-python = ">={oldest},' in (repo_root / "pyproject.toml").read_text()


V2 = "cx16 lahf_lm popcnt pni ssse3 sse4_1 sse4_2"


@pytest.mark.parametrize(
    ("flags", "status", "text"),
    [
        (f"{V2} avx2 avx512bw", ["ok", "ok"], "AVX2, AVX-512"),
        (V2, ["ok", "missing"], "no AVX2: the code for every x86-64-v2 machine is used"),
        (V2.replace("popcnt ", ""), ["broken", "missing"], "lacks popcnt"),
    ],
)
def test_processor(tmp_path: Path, flags: str, status: list[str], text: str) -> None:
    (tmp_path / "cpuinfo").write_text(f"model name\t: Old One\nflags\t\t: {flags}\n\nmodel name\t: Old One\n")
    rows = list(checks.cpu(tmp_path / "cpuinfo"))
    assert [row.status for row in rows] == status
    assert text in " ".join(row.detail for row in rows)
    assert all(COMMAND.search(row.fix) for row in rows if row.fix)
    (tmp_path / "cpuinfo").write_text("processor\t: 0\nFeatures\t: fp asimd\n")
    assert [row.status for row in checks.cpu(tmp_path / "cpuinfo")] == ["info"]


def rows() -> dict[str, Row]:
    return {row.name: row for row in surroundings.surroundings(False)}


def test_all_is_well_here() -> None:
    assert set(rows()) == {"home", "cache of models", "temporary files", "locale", "terminal"}


def test_folders_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.delenv("HF_HOME", raising=False)
    real = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: str(path) != str(home) and real(path, mode))
    found = rows()
    for name, place in (("home", home), ("cache of models", home / ".cache/huggingface")):
        assert found[name].status == "broken"
        assert found[name].detail == f"{place}: cannot be written (Permission denied)"
        assert COMMAND.search(found[name].fix)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "other"))
    assert rows()["cache of models"] == Row("cache of models", "info", str(tmp_path / "other"))
    monkeypatch.setenv("HOME", str(tmp_path / "home/file"))
    (home / "file").write_text("")
    assert "File exists" in rows()["home"].detail


def test_no_folder_for_temporary_files(monkeypatch: pytest.MonkeyPatch) -> None:
    def nowhere() -> str:
        raise FileNotFoundError(2, "No usable temporary directory found in ['/tmp']")

    monkeypatch.setattr(surroundings.tempfile, "gettempdir", nowhere)
    row = rows()["temporary files"]
    assert (row.status, row.needed) == ("broken", True)
    assert COMMAND.search(row.fix)


def test_locale(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(surroundings.locale, "getencoding", lambda: "ANSI_X3.4-1968")
    row = rows()["locale"]
    assert (row.status, row.fix) == ("broken", "export LC_ALL=C.UTF-8")
    monkeypatch.setattr(surroundings.locale, "getencoding", lambda: "UTF-8")
    assert rows()["locale"].status == "info"


def test_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.setattr(sys, "stdout", Terminal())
    row = rows()["terminal"]
    assert row.status == "broken"
    assert row.detail.startswith("40 columns")
    assert COMMAND.search(row.fix)
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("NO_COLOR", "1")
    assert rows()["terminal"] == Row("terminal", "info", "100 columns (NO_COLOR: without colours)")
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    assert "a pipe or a file" in rows()["terminal"].detail
