"""Ctrl-C, SIGTERM, SIGHUP and SIGUSR1 end a command within seconds, with a line and without orphans, whatever it does.

A signal becomes a KeyboardInterrupt, as always; but Python raises that between two of its own instructions, and a call
into the core, torch or a disk may be minutes away from the next. So a thread watches for the signal too, and ends the
process where it has not ended by itself in time. That is safe at any moment: files are renamed when they are whole.

A training has hours to lose: there SIGTERM, SIGHUP (its terminal was closed) and SIGUSR1 (Slurm's warning,
``--signal=USR1@60``) are ``postponed`` until a checkpoint is saved.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType

from dcfast.process.exit_codes import interrupted

GRACE_SECONDS = 2.0
"""How long a stopped command may take to close its files and end its workers by itself."""
SAVE_SECONDS = 25.0
"""How long a training may take from SIGTERM to its end; schedulers kill after 30 seconds."""
POSTPONED = (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)
"""What a training waits with until a checkpoint is saved; the first that came to any rank in this order."""
_SIGNALS = (signal.SIGINT, *POSTPONED)
Handler = Callable[[int, FrameType | None], object] | int | None
_before_command: dict[int, Handler] = {}
"""The handlers that were there before a command that runs now; empty where none runs."""
_grace: dict[int, float] = dict.fromkeys(_SIGNALS, GRACE_SECONDS)
_listeners: list[Callable[[int], None]] = []


class Stopped(KeyboardInterrupt):
    """The process was asked to end by a signal."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def stoppable(command: Callable[[], int], line: str) -> int:
    """Runs a command from the shell; returns its exit status, or 128 + the signal that stopped it: 130, 143, 129,
    138.

    Args:
        command: returns its exit status; its workers die with this process (``start_worker``).
        line: what standard error gets where it is stopped: how to go on; nothing where it is empty.
    Errors of the command are raised, but for those of a stopped one: where a signal reached its workers too, as that of
    systemd or Slurm does, they end in any order. Outside of the main thread signals are left as they are.
    """
    if threading.current_thread() is not threading.main_thread():
        return command()
    signals: list[int] = []
    try:
        with _watched(line, signals):
            status = command()
    except KeyboardInterrupt as stop:
        signals.append(stop.number if isinstance(stop, Stopped) else signal.SIGINT)
    except BaseException:
        if not signals:
            raise
    else:
        if status == 0 or not signals:
            return status
    with suppress(OSError):  # of a terminal that was closed
        sys.stderr.write(f"{line}\n" if line else "")
        sys.stderr.flush()
    return 128 + signals[0]


@contextmanager
def _watched(line: str, signals: list[int]) -> Iterator[None]:
    def stop(number: int, frame: FrameType | None) -> None:
        signals.append(number)
        _pass_on(number)
        raise Stopped(number)

    read_end, write_end = os.pipe()
    os.set_blocking(write_end, False)
    # one that is ignored stays so (nohup, a job in the background of a script), and one that is not Python's is left
    ours = [number for number in _SIGNALS if signal.getsignal(number) not in (signal.SIG_IGN, None)]
    before: dict[int, Handler] = {number: signal.signal(number, stop) for number in ours}
    # a forked process takes the handlers from here: that of a command's start would end it instead of raising
    usual = signal.default_int_handler
    _before_command.update({n: usual if handler is interrupted else handler for n, handler in before.items()})
    usual_hook, sys.unraisablehook = sys.unraisablehook, _unraisable
    earlier = signal.set_wakeup_fd(write_end, warn_on_full_buffer=False)
    ended = threading.Event()
    # set_wakeup_fd is written to by the C handler, even while the main thread is far from Python
    watcher = threading.Thread(target=_watch, args=(read_end, ended, line), name="dcfast-stop", daemon=True)
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)  # it inherits this: they are the main thread's
    watcher.start()
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    try:
        yield
    finally:
        ended.set()
        signal.set_wakeup_fd(earlier, warn_on_full_buffer=False)
        sys.unraisablehook = usual_hook
        _before_command.clear()
        for number, handler in before.items():
            signal.signal(number, handler)
        os.write(write_end, b"\0")  # ends the watcher, also where a forked process holds the pipe open
        watcher.join()
        os.close(write_end)
        os.close(read_end)


def _unraisable(problem: sys.UnraisableHookArgs) -> None:
    # a signal within a destructor is lost there; the watcher ends the process all the same
    if not isinstance(problem.exc_value, Stopped):
        sys.__unraisablehook__(problem)


def _after_fork() -> None:
    # a forked process (a worker of torch's) has the handlers and the pipe: its SIGTERM is none of its parent's
    if _before_command:
        signal.set_wakeup_fd(-1)
        for number, handler in _before_command.items():
            signal.signal(number, handler)
        _before_command.clear()
    _listeners.clear()


os.register_at_fork(after_in_child=_after_fork)


def _watch(read_end: int, ended: threading.Event, line: str) -> None:
    number = 0
    while number not in _SIGNALS:
        number = os.read(read_end, 1)[0]
        if number == 0:
            return
    if not ended.wait(_grace[number]):
        with suppress(OSError):
            os.write(2, f"{line}\n".encode() if line else b"")
        os._exit(128 + number)


@contextmanager
def postponed(seconds: float = SAVE_SECONDS) -> Iterator[Callable[[], int | None]]:
    """For the time of a block SIGTERM, SIGHUP and SIGUSR1 raise nothing: the block asks whether one came, and ends.

    Args:
        seconds: from SIGTERM until the process is ended all the same, where a command runs (``stoppable``).
    Yields:
        A function that returns the signal that came, or None.
    Raises:
        Stopped: at the end of the block, where a signal came.
    Signals that are ignored, or that somebody else handles, are left alone; so are all outside of the main thread.
    """
    came: list[int] = []
    before: dict[int, Handler] = {}

    def note(number: int, frame: FrameType | None) -> None:
        came.append(number)
        _pass_on(number)

    if threading.current_thread() is threading.main_thread():
        number: int
        for number in POSTPONED:
            if signal.getsignal(number) is signal.SIG_DFL or number in _before_command:
                before[number] = signal.signal(number, note)
    try:
        with _granted(seconds, before):
            yield lambda: came[0] if came else None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if came:
        raise Stopped(came[0])


@contextmanager
def _granted(seconds: float, numbers: Iterable[int]) -> Iterator[None]:
    """For the time of a block a command has longer to end after some signals."""
    usual = dict(_grace)
    # SIGTERM is followed by SIGKILL; how long before its end a job is warned by SIGUSR1, its owner said
    _grace.update({n: seconds if n == signal.SIGTERM else threading.TIMEOUT_MAX for n in numbers})
    try:
        yield
    finally:
        _grace.update(usual)


@contextmanager
def passed_on(listener: Callable[[int], None]) -> Iterator[None]:
    """For the time of a block somebody hears of each signal as it comes: a process beside this one saves at once too.

    Where a command runs it has the time of ``postponed`` to end, also where nothing is postponed here.

    Args:
        listener: called with the signal, in the main thread, before anything else becomes of it.
    """
    _listeners.append(listener)
    try:
        with _granted(SAVE_SECONDS, POSTPONED):
            yield
    finally:
        _listeners.remove(listener)


def _pass_on(number: int) -> None:
    for listener in _listeners:
        listener(number)


@contextmanager
def handlers_kept() -> Iterator[None]:
    """While a library starts that puts its own handlers in place of a command's, as Ray does; else it changes nothing.

    Not for the time of the block: a signal within it is the library's.
    """
    here = threading.current_thread() is threading.main_thread()
    before = {number: signal.getsignal(number) for number in _before_command} if here else {}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@contextmanager
def spawning() -> Iterator[None]:
    """While processes are started: they begin without Ctrl-C, which would find them in the midst of their imports.

    The mask is inherited. A signal that comes meanwhile is not lost: it is raised at the end of the block, or within it
    where another thread takes it.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def end_with_parent(number: int) -> None:
    """From now on this process gets a signal when the one that started it dies."""
    pr_set_pdeathsig = 1
    ctypes.CDLL(None, use_errno=True).prctl(pr_set_pdeathsig, number)


def start_worker(parent: int) -> None:
    """First thing in a worker process of this machine: it dies with the run that started it."""
    # A worker must not outlive a run that was killed: it would go on writing beside the next one.
    end_with_parent(signal.SIGKILL)
    if os.getppid() != parent:  # the run died before the call above
        os._exit(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the run itself stops the workers
