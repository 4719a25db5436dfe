"""A piece of work: an importable function of JSON arguments that writes files, and the marker that says it is done.

The function has the form ``f(out: str, args: dict) -> dict``: ``out`` is the run directory, the returned
statistics are JSON. Everything a piece writes goes to a temporary name and is renamed (``dcfast.storage.atomic``), then
the marker is written. The marker holds a key, a hash of the stage's version, the function, its arguments and the
fingerprint of its input files (size and mtime in ns), the sizes of the outputs, and a checksum of itself: a later run
skips the piece where all of these are as they were.
"""

from __future__ import annotations

import hashlib
import importlib
import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dcfast._core import system as core_system
from dcfast.errors import PoolError
from dcfast.storage.atomic import synced_together, write_json
from dcfast.storage.json_files import read_json

__all__ = ["Marker", "Piece", "fingerprint_files", "perform", "piece_key", "read_marker"]


@dataclass(frozen=True)
class Piece:
    """One unit of work of one step.

    Attributes:
        step: ``stage/step``, the folder of its marker.
        name: unique in its step, sorts in the order of the data.
        function: ``module:function``.
        args: JSON arguments; absolute paths of inputs outside the run directory are allowed.
        inputs: files whose size and mtime decide whether the piece must run again; relative paths are below
            the run directory.
        outputs: the files it writes, relative to the run directory.
        version: of the code; raised when the bytes it writes change.
        weight: its share of the step's work, for progress (bytes, as a rule).
        gpus: share of a GPU that it takes where a cluster has any; local pieces share those of their machine by
            ``dcfast.models.devices``.
        native: nearly all of its time is outside of Python (the core, Arrow, the disk), so that threads of one process
            do as well as processes, which take a second to start.
    """

    step: str
    name: str
    function: str
    args: dict[str, Any]
    inputs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    version: int = 1
    weight: int = 1
    gpus: float = 0.0
    native: bool = False

    def marker_path(self, out: Path) -> Path:
        return out / "state" / self.step / f"{self.name}.json"


@dataclass(frozen=True)
class Marker:
    key: str
    outputs: dict[str, int]
    stats: dict[str, Any] = field(default_factory=dict)


def fingerprint_files(out: Path, files: Iterable[str]) -> str:
    """A hash of names, sizes and modification times; PoolError names a file that has vanished."""
    digest = hashlib.sha256()
    for name in files:
        path = out / name  # an absolute name stays itself
        try:
            status = path.stat()
        except FileNotFoundError:
            raise PoolError(f"{path} is gone, but the run still needs it; bring it back or use a new --out") from None
        digest.update(f"{name}\0{status.st_size}\0{status.st_mtime_ns}\0".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def piece_key(out: Path, piece: Piece) -> str:
    text = json.dumps([piece.version, piece.function, piece.args, list(piece.outputs)], sort_keys=True)
    both = text + fingerprint_files(out, piece.inputs)
    return hashlib.sha256(both.encode("utf-8", "surrogateescape")).hexdigest()


def read_marker(out: Path, piece: Piece) -> Marker | None:
    """The marker of a piece that is done and unchanged, else None. One that cannot be read, or was altered by another
    hand, counts as absent."""
    try:
        raw = read_json(piece.marker_path(out), names=True)
        marker = Marker(str(raw["key"]), dict(raw["outputs"]), dict(raw["stats"]))
        if "check" in raw and raw["check"] != _checksum(raw["outputs"], raw["stats"]):  # older markers have none
            return None
    except (OSError, ValueError, KeyError, TypeError):
        return None
    if marker.key != piece_key(out, piece):
        return None
    for name, size in marker.outputs.items():
        try:
            if (out / name).stat().st_size != size:
                return None
        except OSError:
            return None
    return marker


def _checksum(outputs: dict[str, Any], stats: dict[str, Any]) -> str:
    # as they come back from the file, whose keys are text
    text = json.dumps(json.loads(json.dumps([outputs, stats])), sort_keys=True)
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()


def _resolve(function: str) -> Any:
    module, _, name = function.partition(":")
    return getattr(importlib.import_module(module), name)


def perform(out: str, piece: Piece) -> dict[str, Any]:
    """Runs a piece in this process and writes its marker; returns its statistics."""
    root = Path(out)
    key = piece_key(root, piece)  # before the work: an input that changes meanwhile makes the marker stale
    lost = core_system.count_lost_maps()
    with synced_together(root / "state"):
        stats = _resolve(piece.function)(out, piece.args)
    # in a thread the error of a map that was cut is raised elsewhere; of a piece beside this one it costs a repeat
    core_system.refuse_maps_lost_since(lost)
    outputs = {name: (root / name).stat().st_size for name in piece.outputs}
    check = _checksum(outputs, stats)
    # not synced: one that a crash of the machine takes is a piece that is done again
    write_json(piece.marker_path(root), {"key": key, "outputs": outputs, "stats": stats, "check": check}, sync=False)
    return dict(stats)
