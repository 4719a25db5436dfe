"""A status as lines for a terminal of any width, or for a pipe."""

from __future__ import annotations

import re
import shlex
import time

from dcfast.engine.progress import amount, duration, step_line
from dcfast.errors import printable
from dcfast.process.terminal import beginning, cut_to, paint, width
from dcfast.rundir.recorder import DONE, FAILED, RUNNING, STOPPED
from dcfast.status.facts import GONE, TO_DO, UNTOLD, RunStatus, StageStatus
from dcfast.storage.records import replaced

_COLOURS = {DONE: "32", RUNNING: "36", FAILED: "31", GONE: "31", STOPPED: "33", TO_DO: "2", UNTOLD: "33"}
_STATE_WIDTH = 7
_MOST_OF_STATE = 16
"""Columns of a state that no release of ours writes: it is shown as it stands."""
_MOST_OF_TEXT = 4 << 10
"""Characters of a text that are shown: an error may be of any length."""


def status_lines(status: RunStatus, columns: int, *, colours: bool = False) -> list[str]:
    """The lines of a status, none wider than ``columns`` but those of the log, which are broken.

    Texts of others are made printable here.
    """
    lines = [*_head(status, columns, colours), ""]
    names = max((len(stage.name) for stage in status.stages), default=0)
    lines += [_stage_line(stage, names, columns, colours) for stage in status.stages]
    if status.log:
        lines += ["", "last lines of its log:", *(piece for line in status.log for piece in _broken(line, columns))]
    for part in status.parts:
        lines += ["", *status_lines(part, columns, colours=colours)]
    return lines


def _painted(text: str, state: str, colours: bool) -> str:
    return paint(text, _COLOURS[state]) if colours and state in _COLOURS else printable(text)


def _state_in_words(state: str) -> str:
    return _STATES.get(state) or cut_to(printable(state[:_MOST_OF_TEXT]), _MOST_OF_STATE)


def _start_of(text: str) -> str:
    return text if len(text) <= _MOST_OF_TEXT else f"{text[:_MOST_OF_TEXT]} ... ({len(text):,} characters)"


def _head(status: RunStatus, columns: int, colours: bool) -> list[str]:
    name = f"compare {status.name}" if status.name is not None else status.run
    state = _state_in_words(status.state)
    if width(name) + 2 + width(state) > columns:  # the end of a path tells more than its beginning
        name = "..." + name[-max(8, columns - 5 - width(state)) :]
    head = f"{printable(name)}: {_painted(state, status.state, colours)}"
    lines = [head, *(piece for text in _about(status) for piece in _wrapped(text, columns))]
    if status.error is not None:
        where = f"{status.piece}: " if status.piece else ""
        lines += [_painted(piece, FAILED, colours) for piece in _broken(f"  {where}{status.error}", columns)]
    return lines + _how_it_goes_on(status, columns)


_STATES = {UNTOLD: "not at work"}


def _about(status: RunStatus) -> list[str]:
    """Process, machine and times, a sentence each."""
    if status.pid is None or status.started is None:
        return ["no start of it has told anything: it is of an older release, or has not begun"]
    who = f"process {status.pid} on {status.host}"
    job = f", Slurm job {status.job}" if status.job else ""
    many = "1 worker" if status.workers == 1 else f"{status.workers} workers"
    ranks = many.replace("worker", "rank")
    how = {"ray": f"Ray, {many}", "slurm": f"Slurm, {many}", "train": f"a training by itself, {ranks}"}.get(
        str(status.engine), many
    )
    if status.state == RUNNING:
        silent = status.silent or 0.0
        sign = f", last sign of life {duration(silent)} ago" if silent > 20 else ""
        return [f"{who}{job} ({how}), for {duration(time.time() - status.started)}{sign}"]
    if status.state == GONE:
        why = "gives no sign of life: it was killed, or its machine is down"
        if status.alive is False:
            why = "is gone: it was killed (by hand, or the machine ran out of memory)"
        ago = duration(status.silent or 0.0)
        return [f"{who}{job} {why}; last sign of life {ago} ago"]
    ended = status.ended or status.started
    ago, took = duration(time.time() - ended), duration(ended - status.started)
    return [f"{ago} ago, after {took}: {who}{job} ({how})"]


def _how_it_goes_on(status: RunStatus, columns: int) -> list[str]:
    """Of a run that did not come to its end: the checkpoint that is there, and the command."""
    if status.state not in (FAILED, GONE, STOPPED):
        return []
    lines = []
    if status.checkpoint is not None:
        lines = _wrapped(f"latest checkpoint of its training: {status.checkpoint}", columns)
    text = "the same command goes on where it was"
    if status.command is None:
        return [*lines, *_wrapped(text, columns)]
    return [*lines, *_wrapped(f"{text}:", columns), *_command_lines(status.command, columns)]


def _command_lines(command: str, columns: int) -> list[str]:
    """A command as a shell takes it, broken between its words; a word that is wider than the terminal is cut."""
    try:
        words = [shlex.quote(word) for word in shlex.split(command)]
    except ValueError:  # somebody wrote to the file
        words = command.split()
    lines, line = [], ""
    for word in map(printable, words):
        if line and width(f"    {line} {word} \\") > columns:
            lines.append(f"    {line} \\")
            line = ""
        line = f"{line} {word}" if line else word
    return [piece for text in [*lines, f"    {line}"] for piece in _broken(text, columns)]


def _stage_line(stage: StageStatus, names: int, columns: int, colours: bool) -> str:
    words = _state_in_words(stage.state)
    state = _painted(words, stage.state, colours) + " " * (_STATE_WIDTH - width(words))
    room = columns - 2 - names - 2 - _STATE_WIDTH - 2
    text = printable(_stage_text(stage, room))
    return f"  {stage.name:<{names}}  {state}  {cut_to(text, max(room, 0))}".rstrip()


def _stage_text(stage: StageStatus, room: int) -> str:
    if stage.state in (RUNNING, FAILED, STOPPED):
        if stage.step is None:
            return ""
        # the stage's name stands before it
        step = replaced(stage.step, step=stage.step.step.removeprefix(f"{stage.name}/"))
        line = step_line(step, max(room, 12)).removeprefix(f"{stage.name}: ")
        return line if stage.state == RUNNING else line.partition(", ")[0]
    if stage.unchanged == 0:
        return "nothing to do"
    if stage.unchanged is not None:
        return f"unchanged, {amount(stage.unchanged, 'pieces' if stage.unchanged != 1 else 'piece')}"
    if stage.state == TO_DO or stage.seconds is None or stage.pieces is None:
        return ""
    many = amount(stage.pieces, "pieces" if stage.pieces != 1 else "piece")
    return f"{many}, {duration(stage.seconds)}"


def _wrapped(text: str, columns: int) -> list[str]:
    """Lines broken at spaces, but not between a number and its unit."""
    lines, line = [], ""
    for word in re.split(r" +(?!(?:s|min|h|days)\b)", printable(_start_of(text))):
        if line and width(line) + 1 + width(word) > columns - 2:
            lines.append(f"  {line}")
            line = ""
        line = f"{line} {word}" if line else word
    return [*lines, f"  {line}"] if line else lines


def _broken(text: str, columns: int) -> list[str]:
    """A line cut where the terminal ends, at a space where there is one not far before; what follows is set in."""
    rest, lines = printable(_start_of(text)).replace("\n", " "), []
    while len(part := beginning(rest, columns)) < len(rest):
        space = part.rfind(" ")
        part = part[:space] if space > len(part) // 2 else part
        lines.append(part)
        rest = "    " + rest[len(part) :].lstrip(" ")
    return [*lines, rest]
