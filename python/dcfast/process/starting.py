"""From the first line of a command to its ``main``: Ctrl-C ends it without a word, an error is one line.

A command imports for a second or more. Python would answer a signal, or a library that is broken, with a traceback of
whatever module is just being imported. Only a process that is a command of dcfast is touched, never one that imports
dcfast for itself. ``dcfast.process.command`` takes over in ``main``.
"""

from __future__ import annotations

# nothing but what Python has loaded by itself: until the handler stands, Ctrl-C shows a traceback. `signal` and
# `typing` would bring enum, functools and re
import _signal
import os
import sys

from dcfast.process.exit_codes import interrupted


def begin() -> None:
    """Called as the package begins to be imported. Does nothing in a process that is no command of dcfast."""
    if not _is_command():
        return
    if _signal.getsignal(_signal.SIGINT) is _signal.default_int_handler:  # one that is ignored stays so
        _signal.signal(_signal.SIGINT, interrupted)
    sys.excepthook = _report


def _is_command() -> bool:
    """Whether this process was started as ``dcfast``, or is being started by ``python -m dcfast...``."""
    arguments: list[str] = getattr(sys, "argv", None) or [""]
    if arguments[0] == "-m":  # what Python puts there until the module's file is found
        whole: list[str] = sys.orig_argv
        module = whole[whole.index("-m") + 1] if "-m" in whole[:-1] else ""
        return module.partition(".")[0] == "dcfast"
    return os.path.basename(arguments[0]) == "dcfast"


def _report(kind: type[BaseException], error: BaseException, trace: object) -> None:
    from dcfast.process.command import report

    report(error)
