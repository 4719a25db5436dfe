"""Errors of the processes that make batches, carried to the training as they are.

torch's DataLoader raises a worker's error anew with a text of its own around it, and without what its class holds
besides a message. So a worker returns its error in place of a batch, and the training raises it.
"""

from __future__ import annotations

import pickle
import traceback
from dataclasses import dataclass
from typing import NoReturn

from dcfast.errors import RunError, first_line


@dataclass(frozen=True)
class Failure:
    """What a worker returns in place of a batch: its error, and the traceback as text."""

    error: Exception
    where: str

    @classmethod
    def of(cls, error: Exception) -> Failure:
        """The failure of a worker; an error that cannot travel between processes becomes a RunError that names it."""
        where = "".join(traceback.format_exception(error))
        try:
            copied = pickle.loads(pickle.dumps(error))  # noqa: S301  (our own)
            whole = type(copied) is type(error) and str(copied) == str(error)
        except Exception:  # whatever its class does when it is taken apart
            whole = False
        named = RunError(
            f"reading training samples failed: {type(error).__name__}: {error}. "
            "The same command goes on from the latest checkpoint"
        )
        return cls(error if whole else named, where)

    def reraise(self) -> NoReturn:
        """Raises the error; where it came from is a note of it, which a traceback shows and a message does not."""
        self.error.add_note(f"in a process that reads training samples:\n{self.where}")
        raise self.error


def worker_death(error: BaseException) -> RunError | None:
    """What to say where an error of torch means that a worker died; None for any other.

    torch raises it wherever the training happens to be, since a signal tells it.
    """
    if not isinstance(error, RuntimeError) or "DataLoader worker" not in str(error) or "Caught" in str(error):
        return None
    return RunError(
        f"a worker that reads training samples died ({first_line(error)}): killed, or out of memory. "
        "Run the same command again to go on from the latest checkpoint; fewer workers need less memory"
    )
