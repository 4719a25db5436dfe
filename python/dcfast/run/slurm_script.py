"""The batch script by which Slurm does a run on many nodes, and again where it was stopped."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from dcfast.engine.slurm import words_of
from dcfast.errors import CorruptDataError, RunError, printable
from dcfast.process.exit_codes import WARNED
from dcfast.process.options import option
from dcfast.storage.atomic import write_bytes
from dcfast.storage.inputs import read_input
from dcfast.storage.paths import path_argument

HEAD = "# Written by `dcfast launch slurm`"
_DAYS = re.compile(r"(\d+)-(\d{1,2})(?::(\d{1,2})(?::(\d{1,2}))?)?")
_CLOCK = re.compile(r"(\d+)(?::(\d{1,2})(?::(\d{1,2}))?)?")
_MOST_BYTES = 1 << 20
_EARLY_SECONDS = 60
"""Slurm may warn a job as much earlier."""


@dataclass(frozen=True)
class SlurmOptions:
    """What a job of Slurm is given. What its site sets by itself is left out."""

    nodes: int = option(1, "machines", least=1, required=True)
    gpus_per_node: int = option(0, "of each machine; a rank on each of them. 0 = one rank on the processor", least=0)
    cpus_per_task: int | None = option(None, "cores of a rank: it decodes on them", least=1, usual="as Slurm gives")
    time: str | None = option(None, "limit, as Slurm writes it: 24:00:00", metavar="TIME", usual="of the partition")
    partition: str | None = option(None, "to which the job goes", usual="Slurm's")
    account: str | None = option(None, "that pays for it", usual="Slurm's")
    sbatch: list[str] | None = option(
        None, "any other option of sbatch (--sbatch=--qos=low); may be repeated", metavar="OPTION", append=True
    )
    signal_seconds: int = option(
        120,
        "before its end a job is warned (SIGUSR1): a checkpoint is saved, and the job goes into the queue again",
        least=30,
        most=65_535,
    )
    script: str | None = option(None, "the script's file", metavar="FILE", usual="OUT.sbatch", parse=path_argument)
    submit: bool = option(False, "hand the script to sbatch")


def seconds_of(limit: str) -> int | None:
    """A limit of time as Slurm writes it, in seconds; None for no limit.

    ``MINUTES``, ``MINUTES:SECONDS``, ``HOURS:MINUTES:SECONDS``, ``DAYS-HOURS``, ``DAYS-HOURS:MINUTES``,
    ``DAYS-HOURS:MINUTES:SECONDS``.   ValueError: none of these.
    """
    if limit.upper() in ("UNLIMITED", "INFINITE", "-1"):
        return None
    if match := _DAYS.fullmatch(limit):
        days, hours, minutes, seconds = (int(part or 0) for part in match.groups())
        return ((days * 24 + hours) * 60 + minutes) * 60 + seconds
    if match := _CLOCK.fullmatch(limit):
        first, second, third = match.groups()
        if third is not None:
            return (int(first) * 60 + int(second)) * 60 + int(third)
        return int(first) * 60 + int(second or 0)
    raise ValueError(f"--time must be a limit as Slurm writes it (90, 24:00:00, 2-12:00); got {limit!r}")


def check_words(words: Sequence[str], what: str) -> None:
    """ValueError where a word has a line end or a sign that no terminal shows: in a script it would be a command."""
    for word in words:
        if not word.isprintable():
            raise ValueError(f"{what} has a sign that cannot stand in a script: {printable(word)!r}; leave it out")


def slurm_script(options: SlurmOptions, name: str, log: str, folder: str, words: Sequence[str]) -> str:
    """The script.

    Args:
        name: of the job.   log: its file, in which Slurm puts the job's number for ``%j``.
        folder: where the command is run.   words: arguments of ``dcfast.run``.
    Raises:
        ValueError: a word that cannot stand in a script, or a limit of time within which the warning would come.
    """
    given = [options.time, options.partition, options.account, name, log, folder, *(options.sbatch or [])]
    check_words([text for text in given if text], "the job")
    check_words(words, "the command")
    if options.time is not None:
        limit = seconds_of(options.time)
        if limit is not None and limit <= 2 * options.signal_seconds + _EARLY_SECONDS:
            raise ValueError(
                f"--time {options.time} is {limit} s, and the job is warned up to "
                f"{options.signal_seconds + _EARLY_SECONDS} s before its end: give it more time, or a shorter "
                "--signal-seconds"
            )
    for text in options.sbatch or []:
        if not text.startswith("-"):
            raise ValueError(f"--sbatch must be an option of sbatch, as --sbatch=--qos=low; got {text!r}")
    directives = [
        f"--job-name={name}",
        f"--nodes={options.nodes}",
        f"--ntasks-per-node={options.gpus_per_node or 1}",
        *([f"--gpus-per-node={options.gpus_per_node}"] if options.gpus_per_node else []),
        *([f"--cpus-per-task={options.cpus_per_task}"] if options.cpus_per_task else []),
        *([f"--time={options.time}"] if options.time else []),
        *([f"--partition={options.partition}"] if options.partition else []),
        *([f"--account={options.account}"] if options.account else []),
        "--requeue",
        "--open-mode=append",
        f"--output={log}",
        f"--signal=USR1@{options.signal_seconds}",
        *(options.sbatch or []),
    ]
    lines = "\n".join(f"#SBATCH {shlex.quote(directive)}" for directive in directives)
    cores = f" --cpus-per-task={options.cpus_per_task}" if options.cpus_per_task else ""
    command = shlex.join([sys.executable, "-m", "dcfast.run", *words])
    return f"""#!/bin/bash
{HEAD}: the same job, or the same file submitted again, goes on where it was stopped.
{lines}

cd {shlex.quote(folder)} || exit 1
echo "$(date '+%F %T') start ${{SLURM_RESTART_COUNT:-0}} of job $SLURM_JOB_ID on $SLURM_JOB_NODELIST"

# a rank for each task: they read Slurm's variables, and meet on the first node. USR1 comes to them, not to this script
status=0
srun{cores} --wait=300 \\
    {command} || status=$?
echo "$(date '+%F %T') ended with status $status"

# {WARNED}: warned of the end of its time, with a checkpoint saved. What Slurm takes away by itself (preemption, a node
# that failed) it requeues by itself
if [ "$status" -eq {WARNED} ]; then
    if [ "$SECONDS" -lt {options.signal_seconds} ]; then
        echo "warned after $SECONDS s of work: give the job more time (--time). It is not requeued"
    else
        scontrol requeue "$SLURM_JOB_ID"
    fi
fi
exit "$status"
"""


def write_script(path: Path, text: str) -> None:
    """Writes it; RunError where a file is there that is no script of this command."""
    if path.exists():
        with suppress(CorruptDataError):  # too large to be one
            if HEAD.encode() in read_input(path, _MOST_BYTES):
                write_bytes(path, text.encode())
                return
        raise RunError(f"{path} is there, and no script of this command: remove it, or name another (--script)")
    write_bytes(path, text.encode())


def submit(path: Path) -> str:
    """Hands a script to sbatch; the job's number.

    RunError: there is no sbatch here, or it refuses.
    """
    try:
        done = subprocess.run(
            ["sbatch", "--parsable", str(path)], capture_output=True, text=True, errors="replace", check=False
        )
    except FileNotFoundError:
        raise RunError(f"there is no sbatch here: submit {path} where Slurm is, or leave --submit out") from None
    number = done.stdout.strip().partition(";")[0]
    if done.returncode != 0 or not number.isdecimal():
        raise RunError(f"sbatch did not take {path}: {words_of(done)}; mend the job's options, and submit it again")
    return number
