"""Ctrl-C and SIGTERM end a command within seconds, with one line and without orphans, whatever it is at.

A signal becomes a KeyboardInterrupt, as always; but Python raises that between two of its own instructions, and a call
into the core, torch or a disk may be minutes away from the next. So a thread watches for the signal too, and ends the
process where it has not ended by itself in time. That is safe at any moment: files are renamed when they are whole.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

__all__ = ["Stopped", "spawning", "start_worker", "stoppable"]

GRACE_SECONDS = 2.0
"""How long a stopped command may take to close its files and end its workers by itself."""
_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stopped(KeyboardInterrupt):
    """The process was asked to end by a signal."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number


def stoppable(command: Callable[[], int], line: str) -> int:
    """Runs a command from the shell; returns its exit status, or 128 + the signal where one stopped it: 130, 143.

    Args:
        command: returns its exit status; its workers die with this process (``start_worker``).
        line: what standard error gets where it is stopped: how to go on.
    Errors of the command are raised. Outside of the main thread signals are left as they are.
    """
    if threading.current_thread() is not threading.main_thread():
        return command()
    try:
        with _watched(line):
            return command()
    except KeyboardInterrupt as stopped:
        sys.stderr.write(f"{line}\n")
        sys.stderr.flush()
        number = stopped.number if isinstance(stopped, Stopped) else signal.SIGINT
        return 128 + number


@contextmanager
def _watched(line: str) -> Iterator[None]:
    received, told = os.pipe()
    os.set_blocking(told, False)
    before = {number: signal.signal(number, _stop) for number in _SIGNALS}
    earlier = signal.set_wakeup_fd(told, warn_on_full_buffer=False)
    ended = threading.Event()
    # set_wakeup_fd is written to by the C handler, even while the main thread is far from Python
    watcher = threading.Thread(target=_watch, args=(received, ended, line), name="dcfast-stop", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        ended.set()
        signal.set_wakeup_fd(earlier, warn_on_full_buffer=False)
        for number, handler in before.items():
            signal.signal(number, handler)
        os.close(told)  # ends the watcher
        watcher.join()
        os.close(received)


def _stop(number: int, frame: FrameType | None) -> None:
    raise Stopped(number)


def _watch(received: int, ended: threading.Event, line: str) -> None:
    number = 0
    while number not in _SIGNALS:
        data = os.read(received, 1)
        if not data:
            return
        number = data[0]
    if not ended.wait(GRACE_SECONDS):
        os.write(2, f"{line}\n".encode())
        os._exit(128 + number)


@contextmanager
def spawning() -> Iterator[None]:
    """While processes are started: they begin without Ctrl-C, which would find them in the midst of their imports.

    The mask is inherited; a signal that comes meanwhile reaches this process at the end of the block.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def start_worker(parent: int) -> None:
    """First thing in a worker process of this machine: it dies with the run that started it."""
    import ctypes

    # A worker must not outlive a run that was killed: it would go on writing beside the next one.
    pr_set_pdeathsig = 1
    ctypes.CDLL(None, use_errno=True).prctl(pr_set_pdeathsig, signal.SIGKILL)
    if os.getppid() != parent:  # the run died before the call above
        os._exit(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the run itself stops the workers
