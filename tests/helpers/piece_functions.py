"""Pieces for the tests of the stage runner: importable functions, as worker processes need them."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, ClassVar, NoReturn

import numpy as np
import pytest
from dcfast.engine.local import LocalEngine
from dcfast.engine.piece import Nothing, Piece, piece
from dcfast.engine.progress import Silent
from dcfast.rundir.run_dir import Run
from dcfast.rundir.summary import Summary
from dcfast.stages.runner import Do, Steps
from dcfast.storage.atomic import write_bytes
from dcfast.storage.npz import load_array
from dcfast.storage.records import Record


class FoundError(Exception):
    """Ends a stage before its first step."""


def first_piece(steps: Steps, run: Run) -> Piece[Any]:
    """The first piece of a stage."""

    class Found(Do):
        def __call__(self, step: Iterable[Piece[Any]]) -> NoReturn:
            raise FoundError(next(iter(step)))

    with pytest.raises(FoundError) as caught:
        steps(run, Found(run, LocalEngine(1), Silent))
    piece = caught.value.args[0]
    assert isinstance(piece, Piece)
    return piece


class Value(Record):
    value: int


class Visible(Record):
    visible: str


class Demo(Summary):
    stage: ClassVar[str] = "demo"
    sum: int
    order: list[int]


@piece()
def square(out: Path, value: int, output: str, source: str | None = None) -> Value:
    number = int(Path(source).read_text()) if source else value
    write_bytes(out / output, str(number * number).encode())
    with open(out / "calls.log", "a") as log:
        log.write(output + "\n")
    return Value(number * number)


@piece()
def fail(out: Path, value: int) -> Value:
    raise ValueError(f"piece {value} cannot be done")


@piece()
def die(out: Path) -> Nothing:
    os.kill(os.getpid(), signal.SIGKILL)
    return Nothing()


@piece()
def die_once(out: Path, value: int, output: str) -> Value:
    mark = out / f"died-{value}"
    if value % 2 and not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return square(out, value, output)


@piece()
def slow(out: Path, seconds: float, value: int, output: str) -> Value:
    time.sleep(seconds)
    return square(out, value, output)


@piece()
def visible_gpus(out: Path) -> Visible:
    return Visible(os.environ.get("CUDA_VISIBLE_DEVICES", "all"))


@piece()
def process(out: Path) -> Value:
    return Value(os.getpid())


@piece()
def read_cut(out: Path, input: str) -> Value:
    """Reads a file that is cut while it is mapped, by NumPy alone, and lets go of it before anybody looks."""
    path = out / input
    array = load_array(path, mmap=True)
    os.truncate(path, 4096)
    total = int(np.add.reduce(array))
    del array
    return Value(total)
