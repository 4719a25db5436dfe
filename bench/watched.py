"""A command and all its processes: seconds, and their peak of memory together."""

from __future__ import annotations

import os
import subprocess
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from bench import harness
from bench.harness import Timed

__all__ = ["Watched", "environment"]


def _tree_bytes(root: int) -> int:
    """Anonymous and shared bytes of a process and all below it."""
    total, open_ids = 0, [root]
    while open_ids:
        pid = open_ids.pop()
        total += harness.resident(pid)
        try:
            for task in Path(f"/proc/{pid}/task").iterdir():
                open_ids += map(int, (task / "children").read_text().split())
        except OSError:  # it has ended
            continue
    return total


def environment() -> dict[str, str]:
    """Of both sides: where Python may not keep what it has compiled, each run would compile dcfast anew."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}


class Watched:
    """Runs a command; its seconds, and its tree's peak of memory over all runs."""

    def __init__(self, command: Sequence[str], cwd: Path, env: dict[str, str]) -> None:
        self.command, self.cwd, self.env = command, cwd, env
        self.peak, self.seconds = 0, 0.0

    def run(self) -> Timed:
        began = time.perf_counter()
        child = subprocess.Popen(
            self.command, cwd=self.cwd, env=self.env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        ended = threading.Event()

        def watch() -> None:
            while not ended.wait(0.05):
                self.peak = max(self.peak, _tree_bytes(child.pid))

        watcher = threading.Thread(target=watch)
        watcher.start()
        output = child.communicate()[0]
        self.seconds = time.perf_counter() - began
        ended.set()
        watcher.join()
        if child.returncode != 0:
            raise RuntimeError(f"{' '.join(self.command)} exited with {child.returncode}: {output[-1000:]}")
        return Timed(self.seconds, None)
