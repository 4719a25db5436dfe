"""What a stranger named or wrote is shown on a terminal, and in a log file, without being obeyed."""

from __future__ import annotations

import io
import json
import logging
import re
import subprocess
import sys
from pathlib import Path

import pytest
from dcfast.doctor import command as doctor
from dcfast.engine.progress import Progress
from dcfast.errors import PoolError, first_line, last_line, printable
from dcfast.process import command
from dcfast.process.parser import ArgumentParser
from dcfast.process.terminal import log_printably, say
from dcfast.rundir.settings import Settings
from dcfast.study.grid import Grid
from dcfast.study.output import markdown
from dcfast.study.records import Failure
from dcfast.study.study import collect
from tar_reference import make_tar, sample_members

NASTY = "a\x1b[31mred\x1b]0;title\x07\x1bP+q\x1b\\b\x9b1m\rover\x08\x7f\u202egnp.\u2066\u200f\u2028\ud800\x00z"
RAW = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def test_nothing_is_left_to_obey() -> None:
    shown = printable(NASTY)
    assert not RAW.search(shown)
    assert "red" in shown
    assert "gnp." in shown
    for code in range(0x250):
        shown = printable(f"x{chr(code)}y")
        assert not RAW.search(shown), hex(code)
    assert printable("a\n\tb é 日本 \U0001f600") == "a\n\tb é 日本 \U0001f600"
    for said in (first_line(ValueError(NASTY)), last_line(NASTY)):
        assert not RAW.search(said)
        assert "\n" not in said
    assert not RAW.search(printable("\x1b[" * 3 + "\x1b[31m" * 3 + "31m"))  # codes that removing others would make


def test_said(capsys: pytest.CaptureFixture[str]) -> None:
    say(NASTY)
    say(NASTY, error=True)
    with Progress(f"stage/{NASTY}", total=1, pieces=1) as bar:
        bar.advance(1)
    command.report(PoolError(NASTY))
    parser = ArgumentParser(prog="x")
    with pytest.raises(SystemExit):
        parser.parse_args([NASTY])
    out, err = capsys.readouterr()
    assert not RAW.search(out + err)
    assert err.count("red") == 4
    assert out.count("red") == 1


def test_an_error_of_a_library_and_its_traceback_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setenv("DCFAST_TRACEBACK", "1")
    try:
        json.loads("{" + NASTY.encode("utf-8", "replace").decode())
    except ValueError as error:
        command.report(RuntimeError(NASTY).with_traceback(error.__traceback__))
    assert not RAW.search(capsys.readouterr().err)
    (written,) = tmp_path.glob("dcfast-traceback-*.txt")
    text = written.read_text(encoding="utf-8")
    assert "RuntimeError" in text
    assert not RAW.search(text)


@pytest.mark.parametrize("how", ["log_printably()", "log_printably(all_of_it=True)"])
def test_logged(how: str) -> None:
    script = (
        "import logging, sys; from dcfast.process.terminal import log_printably\n"
        f"{how}\nlogging.getLogger('dcfast.train').warning('%s', sys.argv[1])\n"
        "logging.getLogger('PIL').warning('%s', sys.argv[1])"
    )
    word = NASTY.replace("\x00", "").replace("\ud800", "")
    done = subprocess.run([sys.executable, "-c", script, word], capture_output=True, text=True, check=True)
    assert done.stderr.count("red") == 2
    assert not RAW.search(done.stderr)
    assert logging.lastResort is not None
    log_printably()


def test_tables_and_pages() -> None:
    rows = [doctor.Row("n", "broken", NASTY, NASTY, section="s")]
    out = io.StringIO()
    doctor.render(rows, out)
    assert not RAW.search(out.getvalue())
    study = collect(Grid({}, (), (), Settings()), {}, (), (), [Failure("c", NASTY)])
    assert not RAW.search(printable(markdown(study)))


def test_commands_on_hostile_names(tmp_path: Path) -> None:
    """Names of shards, keys and members, by the commands that name them."""
    import numpy as np

    evil = "\x1b]0;x\x07\x1b[31m\u202e\udcff"
    pool = tmp_path / f"pool{evil}"
    pool.mkdir()
    make_tar(pool / f"00000000{evil}.tar", [m for i in range(3) for m in sample_members(i, 20)])
    tar = (pool / f"00000000{evil}.tar").read_bytes()
    (pool / f"00000001{evil}.tar").write_bytes(tar[: len(tar) // 2 - 100])
    (pool / f"00000002{evil}.tar.gz").write_bytes(b"")
    np.save(tmp_path / "s.npy", np.zeros(0, "u8,u8"))
    lines = (
        ["dcfast.resharder", "-i", pool, "-o", tmp_path / "o", "-s", tmp_path / "s.npy", "--verbose"],
        ["dcfast.resharder", "-i", pool, "-o", tmp_path / f"o{evil}", "-s", pool / f"none{evil}.npy"],
        ["dcfast.pool_refresh", tmp_path / f"index{evil}", pool],
        ["dcfast.run", "--pool", pool, "--out", tmp_path / "r", f"--no{evil}"],
    )
    for words in lines:
        done = subprocess.run([sys.executable, "-m", *words], capture_output=True, check=False, timeout=100)
        said = (done.stdout + done.stderr).decode("utf-8")
        assert said
        assert not RAW.search(said), (words, said)


SPEAKS = {
    "process/terminal.py",
    "process/signals.py",  # a constant line
    "process/renamed.py",  # to developers, by the warnings of their interpreter
    "doctor/command.py",  # its own colours around printable texts
    "doctor/gpu.py",  # programs of its own, whose last line is shown by last_line
}


def test_there_is_one_door(repo_root: Path) -> None:
    package = repo_root / "python/dcfast"
    doors = (r"(?<![\w.])print\(", r"sys\.std(err|out)\.write\(", r"\bout\.write\(text", r"warnings\.warn\(")
    pattern = "|".join([*doors, r"argparse\.ArgumentParser\([^)]"])
    found = {
        str(path.relative_to(package))
        for path in package.rglob("*.py")
        if re.search(pattern, path.read_text(encoding="utf-8"))
    }
    assert found <= SPEAKS
