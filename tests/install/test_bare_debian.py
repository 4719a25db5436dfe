"""The script of a bare Debian, stopped: what it made is gone. That it reaches a report is part of `make soak`."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

# like debootstrap in what matters here: a log, a root, and more files in it after a while
SLOW_DEBOOTSTRAP = """#!/bin/sh
echo begun
for root; do case $root in */root) break;; esac; done
mkdir -p "$root/usr"
sleep 1
mkdir -p "$root/var"
echo late >"$root/var/late"
"""


def can_have_own_mounts() -> bool:
    command = ["unshare", "--mount", "--propagation", "private", "true"]
    return bool(shutil.which("unshare")) and subprocess.run(command, capture_output=True, check=False).returncode == 0


@pytest.mark.soak
def test_stopped_by_sigterm_it_leaves_nothing(repo_root: Path, tmp_path: Path) -> None:
    if os.geteuid() != 0 or not can_have_own_mounts() or not shutil.which("apt-get"):
        pytest.skip("needs root with mounts of its own, and apt-get")
    debootstrap = tmp_path / "bin/debootstrap"
    debootstrap.parent.mkdir()
    debootstrap.write_text(SLOW_DEBOOTSTRAP, encoding="utf-8")
    debootstrap.chmod(0o755)
    folder = tmp_path / "debian"
    folder.mkdir()
    script = subprocess.Popen(
        ["bash", str(repo_root / "tests/install/bare_debian.sh"), str(tmp_path / "none.whl"), str(folder)],
        env={**os.environ, "PATH": f"{debootstrap.parent}:{os.environ['PATH']}"},
        stdout=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 60
    while not (folder / "root/usr").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert (folder / "root/usr").exists()
    script.send_signal(signal.SIGTERM)
    assert script.wait(timeout=60) == 143
    time.sleep(1.2)  # a debootstrap that outlived the script would have written by now
    assert not folder.exists()
