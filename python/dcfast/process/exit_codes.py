"""What the exit status of a command means: the same for all of them."""

from __future__ import annotations

import _signal  # as `signal`, without enum: see dcfast.process.starting
import os

DONE = 0
FAILED = 1
USAGE = 2
LOST = 3
PEER_LOST = 75
HUNG_UP = 128 + _signal.SIGHUP
INTERRUPTED = 128 + _signal.SIGINT
WARNED = 128 + _signal.SIGUSR1
TERMINATED = 128 + _signal.SIGTERM

MEANINGS: dict[int, str] = {
    DONE: "done",
    FAILED: "failed, or refused before work: data, files, a filter or a run are not as they must be, or something "
    "unforeseen",
    USAGE: "nothing was done: arguments that make no sense, or a scale without its pool (what it needs is printed)",
    LOST: "a run kept nothing, or lost over half of its pool before the filter: a warning says why and what to do",
    PEER_LOST: "a rank of a training, where another has gone: who started them says what happened",
    HUNG_UP: "stopped by SIGHUP: its terminal was closed",
    INTERRUPTED: "stopped by Ctrl-C (SIGINT)",
    WARNED: "stopped by SIGUSR1, as Slurm warns of the end of a job",
    TERMINATED: "stopped by SIGTERM",
}


def interrupted(number: int, frame: object) -> None:
    """The handler of SIGINT while no command is at work: nothing was begun, so there is nothing to say."""
    os._exit(INTERRUPTED)
