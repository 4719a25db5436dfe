"""What every command goes through: it can be stopped, and whatever is wrong is said in a line, never by a traceback.

Errors that are foreseen are those of ``dcfast.errors``, of the system (``OSError``), and bad arguments
(``ValueError``, ``TypeError``) that dcfast itself refused: their message says what to do. Of any other the line names
the class and the file that the traceback was written to; with DCFAST_TRACEBACK=1 it is printed as well.
"""

from __future__ import annotations

import json
import os
import re
import sys
import time
from collections.abc import Callable
from contextlib import suppress

from dcfast.errors import DcfastError, NothingKeptError, TooFewKeptError, first_line, printable
from dcfast.process.exit_codes import FAILED, LOST, USAGE
from dcfast.process.signals import stoppable
from dcfast.process.terminal import say

_TORCHRUN_FILE = "TORCHELASTIC_ERROR_FILE"
TRACEBACK_VARIABLE = "DCFAST_TRACEBACK"
_REMOTE_FILE = re.compile(r'^  File "([^"]+)", line \d+', re.MULTILINE)
_PACKAGE = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "")
HINTS = {
    "MemoryError": "less at a time needs less memory: fewer --workers, a smaller batch",
    "OutOfMemoryError": "less at a time needs less memory: a smaller batch, or a GPU with more",
    "BrokenProcessPool": "a process of it died: killed, or out of memory. The same command goes on",
    "ImportError": "`dcfast doctor` says what is missing and how to get it",
    "ModuleNotFoundError": "`dcfast doctor` says what is missing and how to get it",
}
"""Class of an error of a library -> what to do about it."""


def run_command(command: Callable[[], int], line: str) -> int:
    """Runs a command from the shell; returns its exit status (``dcfast.process.exit_codes``).

    Args:
        command: returns its exit status; what it raises is said on standard error.
        line: what standard error gets where Ctrl-C or SIGTERM stops it: how to go on.
    """
    # names of files need not be text: what cannot be encoded is shown by escapes, not raised after hours of work
    if getattr(sys.stdout, "errors", None) == "strict":
        sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    try:
        status = stoppable(command, line)
        sys.stdout.flush()
        return status
    except BrokenPipeError as error:
        if error.filename is not None:
            return report(error)
        # who read our output has ended (`| head`): not worth a word, and what is still to be written goes nowhere
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
        return FAILED
    except Exception as error:
        return report(error)


def status_of(error: BaseException) -> int:
    """The exit status that an error stands for: bad arguments that dcfast refused are usage, a run that kept nothing
    has its own, all else has failed."""
    if isinstance(error, NothingKeptError):
        return LOST
    is_usage = isinstance(error, (ValueError, TypeError)) and not isinstance(error, (DcfastError, OSError))
    return USAGE if is_usage and _is_foreseen(error) else FAILED


def report(error: BaseException) -> int:
    """Says on standard error what is wrong; returns the exit status that it stands for."""
    if os.environ.get(TRACEBACK_VARIABLE, "0") not in ("", "0"):
        import traceback

        say("".join(traceback.format_exception(error)), error=True, end="")
    if isinstance(error, TooFewKeptError) and error.outcome:
        say(error.outcome, error=True)
    own = printable(str(error).strip()) or type(error).__name__
    own = own if _is_foreseen(error) else _unforeseen(error)
    say(f"error: {own}", error=True)
    _note_for_torchrun(own)
    return status_of(error)


def _note_for_torchrun(message: str) -> None:
    """torchrun asks its ranks for what it shows as the cause of their end; the first of them is the one."""
    if path := os.environ.get(_TORCHRUN_FILE):
        extra = {"py_callstack": message, "timestamp": str(int(time.time()))}
        with suppress(OSError), open(path, "x", encoding="utf-8") as file:
            json.dump({"message": {"message": message, "extraInfo": extra}}, file)


def _is_foreseen(error: BaseException) -> bool:
    if isinstance(error, DcfastError) or (isinstance(error, OSError) and error.errno is not None):
        return True
    return isinstance(error, (ValueError, TypeError, OSError)) and _is_ours(error)


def _is_ours(error: BaseException) -> bool:
    """Whether dcfast's own code raised it, here or in a worker process: not a library that it calls."""
    cause = error.__cause__
    if type(cause).__name__ == "_RemoteTraceback":  # of a worker of concurrent.futures: its traceback as text
        files = _REMOTE_FILE.findall(str(cause))
        return bool(files) and files[-1].startswith(_PACKAGE)
    place = error.__traceback__
    while place is not None and place.tb_next is not None:
        place = place.tb_next
    module = place.tb_frame.f_globals.get("__name__", "") if place is not None else ""
    return str(module).partition(".")[0] in ("dcfast", "__main__")


def _unforeseen(error: BaseException) -> str:
    kind, line = type(error).__name__, first_line(error)
    message = kind if line == kind else f"{kind}: {line}"
    hint = next((HINTS[c.__name__] for c in type(error).__mro__ if c.__name__ in HINTS), "dcfast did not foresee this")
    place = _write_traceback(error)
    where = f"the traceback is in {place}" if place else f"{TRACEBACK_VARIABLE}=1 prints the traceback"
    return f"{message} ({hint}; {where})"


def _write_traceback(error: BaseException) -> str | None:
    """The file with the traceback, the command line and the version; None where no file can be written."""
    import tempfile
    import traceback

    package = sys.modules.get("dcfast")
    head = f"dcfast {getattr(package, '__version__', '')}, Python {sys.version.split()[0]}\n{' '.join(sys.argv)}\n\n"
    text = head + "".join(traceback.format_exception(error))
    try:
        number, place = tempfile.mkstemp(prefix="dcfast-traceback-", suffix=".txt")
        with open(number, "w", encoding="utf-8", errors="backslashreplace") as file:
            file.write(printable(text))
    except OSError:
        return None
    return place
