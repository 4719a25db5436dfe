"""Locks between processes: held by one at a time, let go of by a kill, found again where their file was removed."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from dcfast.errors import RunError
from dcfast.storage import lock as module
from dcfast.storage.lock import locked, take_lock

HOLDER = """
import sys
from dcfast.storage.lock import locked
with locked(sys.argv[1], "busy"):
    print("held", flush=True)
    sys.stdin.read()
"""


@contextmanager
def holder(path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds a lock until its input ends, or it is killed."""
    words = [sys.executable, "-c", HOLDER, str(path)]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process


def test_one_process_at_a_time(tmp_path: Path) -> None:
    path = tmp_path / ".lock"
    with holder(path):
        with pytest.raises(RunError, match=r"^it is busy$"), locked(path, "it is busy"):
            pass
        with pytest.raises(BlockingIOError):
            take_lock(path)
    with locked(path, "it is busy"), pytest.raises(RunError), locked(path, "twice in one process"):
        pass
    with pytest.raises(KeyError), locked(path, "let go of by the block before"):
        raise KeyError
    with locked(path, "let go of by an error"):
        pass


def test_a_kill_lets_it_go(tmp_path: Path) -> None:
    with holder(tmp_path / ".lock") as process:
        process.send_signal(signal.SIGKILL)
        process.wait()
        with locked(tmp_path / ".lock", "held by the dead"):
            pass


def test_a_program_that_is_started_does_not_hold_it(tmp_path: Path) -> None:
    with locked(tmp_path / ".lock", "busy"):
        sleeper = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, close_fds=False)
    try:
        with locked(tmp_path / ".lock", "held by a child"):
            pass
    finally:
        sleeper.communicate(b"\n")


def test_a_file_that_was_removed(tmp_path: Path) -> None:
    path = tmp_path / ".lock"
    with holder(path):
        path.unlink()
        with locked(path, "busy"):  # nothing can be done about the first holder: the file was its lock
            assert path.exists()
            with pytest.raises(RunError), locked(path, "the new file is a lock as good as the old"):
                pass


@pytest.mark.parametrize("recreated", [False, True])
def test_a_file_that_is_removed_while_it_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recreated: bool
) -> None:
    path = tmp_path / ".lock"
    turns: list[int] = []

    def flock(lock: int, how: int) -> None:
        if not turns:
            path.unlink()
            if recreated:
                path.touch()
        turns.append(lock)
        real(lock, how)

    real = fcntl.flock
    monkeypatch.setattr(module.fcntl, "flock", flock)
    lock = take_lock(path)
    assert len(turns) == 2
    assert os.path.samestat(os.fstat(lock), path.stat())
    os.close(lock)


def test_folders_and_links(tmp_path: Path) -> None:
    lock = take_lock(tmp_path, folder=True)
    with pytest.raises(BlockingIOError):
        take_lock(tmp_path, folder=True)
    os.close(lock)
    with pytest.raises(FileNotFoundError):
        take_lock(tmp_path / "nowhere", folder=True)
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError):
        take_lock(tmp_path / "file", folder=True)
    (tmp_path / "link").symlink_to(tmp_path / "file")
    with pytest.raises(OSError, match="symbolic links"):
        take_lock(tmp_path / "link", follow=False)
    os.close(take_lock(tmp_path / "link"))
    os.close(take_lock(tmp_path / "private", mode=0o600))
    assert (tmp_path / "private").stat().st_mode & 0o777 == 0o600


def test_no_descriptor_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: Any) -> None:
        raise OSError("no locks available")

    before = os.listdir("/proc/self/fd")
    lock = take_lock(tmp_path / ".lock")
    for _ in range(3):
        with pytest.raises(BlockingIOError):
            take_lock(tmp_path / ".lock")
    os.close(lock)
    monkeypatch.setattr(module.fcntl, "flock", refuse)
    with pytest.raises(OSError, match="no locks"):
        take_lock(tmp_path / ".lock")
    assert os.listdir("/proc/self/fd") == before
