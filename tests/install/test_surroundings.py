"""A run where little is as usual: a locale that is not UTF-8, no home, no programs, a pipe, a narrow terminal."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import struct
import subprocess
import sys
import termios
from pathlib import Path

import pytest
from pool_builder import PoolBuilder, Sample

CAPTION = "ein schöner Abend am See, 日本の夕方, with many colourful boats and lights"
ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Path:
    samples = [Sample(n, caption=CAPTION if n % 2 else "a picture of coloured clouds") for n in range(8)]
    return PoolBuilder(tmp_path_factory.mktemp("street") / "pool", [samples]).write()


def bare(**more: str) -> dict[str, str]:
    """An environment with nothing but the path of the packages: a home that takes no files, no program on PATH."""
    kept = {name: value for name, value in os.environ.items() if name.startswith(("OPENBLAS", "OMP_"))}
    return {**kept, "PYTHONPATH": os.pathsep.join(sys.path), "PATH": "/nowhere", "HOME": "/proc/nobody", **more}


def command(pool: Path, out: Path) -> list[str]:
    words = ["--pool", str(pool), "--out", str(out), "--filter", "no_filter", "--no-train", "--workers", "1"]
    return [sys.executable, "-m", "dcfast.run", *words]


def test_a_run_in_an_ascii_locale_without_home_or_programs(pool: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = subprocess.run(command(pool, out), env=bare(**ASCII), cwd=tmp_path, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode("utf-8", "replace")
    assert b"\x1b" not in done.stdout + done.stderr
    report = json.loads((out / "report.json").read_bytes())
    assert report
    assert "schöner Abend" in (out / "report.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("option", ["--pool", "--out"])
def test_names_of_files_that_a_locale_cannot_read(option: str, pool: Path, tmp_path: Path) -> None:
    street = tmp_path / "Straße"
    street.mkdir()
    for name in ("shards", "metadata"):
        (street / name).symlink_to(pool / name)
    words = command(street, tmp_path / "out") if option == "--pool" else command(pool, street / "out")
    done = subprocess.run(words, env=bare(**ASCII), capture_output=True, check=False)
    assert done.returncode == 1
    assert b"is read as ascii in this locale; expected UTF-8: set PYTHONUTF8=1, or LC_ALL=C.UTF-8" in done.stderr


def test_a_terminal_of_40_columns(pool: Path, tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 40, 0, 0))
    environment = bare(LC_ALL="C.UTF-8", TERM="xterm", NO_COLOR="1")
    with subprocess.Popen(
        command(pool, tmp_path / "out"), env=environment, stdin=theirs, stdout=theirs, stderr=theirs
    ) as process:
        os.close(theirs)
        said = b""
        try:
            while piece := os.read(ours, 65536):
                said += piece
        except OSError:  # the other side has closed it
            pass
        os.close(ours)
        assert process.wait(100) == 0, said
    assert b"Traceback" not in said
    assert b"\x1b[3" not in said  # colours
    bars = [line for line in said.decode().replace("\n", "\r").split("\r") if "%|" in line]
    assert all(len(line) <= 40 for line in bars), bars
