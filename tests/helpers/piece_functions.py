"""Pieces for the tests of the stage runner: importable functions, as worker processes need them."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
from dcfast.storage.atomic import write_bytes
from dcfast.storage.npz import load_array


def square(out: str, args: dict[str, Any]) -> dict[str, Any]:
    source = args.get("source")
    value = int(Path(source).read_text()) if source else args["value"]
    write_bytes(Path(out) / args["output"], str(value * value).encode())
    with open(Path(out) / "calls.log", "a") as log:
        log.write(args["output"] + "\n")
    return {"value": value * value}


def fail(out: str, args: dict[str, Any]) -> dict[str, Any]:
    raise ValueError(f"piece {args['value']} cannot be done")


def die(out: str, args: dict[str, Any]) -> dict[str, Any]:
    os.kill(os.getpid(), signal.SIGKILL)
    return {}


def slow(out: str, args: dict[str, Any]) -> dict[str, Any]:
    time.sleep(args["seconds"])
    return square(out, args)


def visible_gpus(out: str, args: dict[str, Any]) -> dict[str, Any]:
    return {"visible": os.environ.get("CUDA_VISIBLE_DEVICES", "all")}


def process(out: str, args: dict[str, Any]) -> dict[str, Any]:
    return {"process": os.getpid()}


def read_cut(out: str, args: dict[str, Any]) -> dict[str, Any]:
    """Reads a file that is cut while it is mapped, by NumPy alone, and lets go of it before anybody looks."""
    path = Path(out) / args["input"]
    array = load_array(path, mmap=True)
    os.truncate(path, 4096)
    total = int(np.add.reduce(array))
    del array
    return {"sum": total}
