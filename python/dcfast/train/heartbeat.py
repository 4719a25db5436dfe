"""Signs of life between the ranks of a training, so that none waits half an hour for one that was stopped.

Each rank writes a small file anew every few seconds from a thread of its own; rank 0 looks at all of them, the others
at rank 0's. A rank whose machine died, or that was stopped, no longer writes: whoever sees that ends its own process,
and with it the training. Files, not messages: a collective call that hangs is what is to be noticed.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

_LOOKS = 6
"""How often a rank writes and looks within the time after which another one counts as gone."""


class Heartbeat:
    """Writes this rank's signs of life and watches those of others, from ``start`` to ``stop``.

    Args:
        folder: of the files, on a file system that all ranks share; made here.
        start: a name of this start of the training, the same on all ranks.
        rank, size: this one among all.
        seconds: without a sign until a rank counts as gone; 0 writes and watches nothing.
        gone: called in the thread with the rank that is gone; it ends the process.
    A rank is watched from its first sign on, which it gives when its first step is done: imports, compilers and a cold
    disk may take long. A process that was itself stopped for a while begins to watch anew.
    Cost: one small file written per rank and ``seconds / 6``; rank 0 reads all of them.
    """

    def __init__(
        self, folder: Path, start: str, rank: int, size: int, seconds: float, gone: Callable[[int], None]
    ) -> None:
        self._folder, self._start, self._rank, self._seconds, self._gone = folder, start, rank, seconds, gone
        self._others = [r for r in range(size) if r != rank] if rank == 0 else [0]
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begins, once; from then on this rank is watched by others."""
        if self._thread is None and self._seconds > 0:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._thread = threading.Thread(target=self._run, name="dcfast-heartbeat", daemon=True)
            self._thread.start()

    def stop(self, in_order: bool = True) -> None:
        """Ends it. The file of a rank that ends in order is removed; where it failed, the others see it stand still."""
        self._ended.set()
        if self._thread is not None:
            self._thread.join()
            if in_order:
                self._path(self._rank).unlink(missing_ok=True)

    def _path(self, rank: int) -> Path:
        return self._folder / f"rank-{rank:05d}"

    def _run(self) -> None:
        pause = self._seconds / _LOOKS
        seen: dict[int, tuple[bytes, float]] = {}  # what a rank's file held, and when that was new
        count, due = 0, time.monotonic()
        while not self._ended.wait(max(0.0, due - time.monotonic())):
            count += 1
            with suppress(OSError):  # a full disk must not end a training that writes nothing else meanwhile
                self._path(self._rank).write_text(f"{self._start} {count}", encoding="ascii")
            now = time.monotonic()
            if now - due > self._seconds / 2:
                seen.clear()  # this very process was stopped: what others did meanwhile is not known
            for rank in self._others:
                self._look(rank, seen, now)
            due = now + pause

    def _look(self, rank: int, seen: dict[int, tuple[bytes, float]], now: float) -> None:
        try:
            held = self._path(rank).read_bytes()
        except FileNotFoundError:
            held = b""
        except OSError:  # a mount that went away: no sign of life either
            held = seen[rank][0] if rank in seen else b""
        if not held.startswith(self._start.encode()):
            seen.pop(rank, None)  # not yet begun, ended in order, or what a killed training left
        elif rank not in seen or held != seen[rank][0]:
            seen[rank] = (held, now)
        elif now - seen[rank][1] > self._seconds:
            self._gone(rank)


def end_process(line: str, status: int) -> None:
    """Ends this process from any thread, whatever the others wait for; files are whole or absent at any moment."""
    with suppress(OSError):  # a terminal that was closed
        os.write(2, f"{line}\n".encode())
    os._exit(status)
