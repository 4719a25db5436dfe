"""A piece of work: a typed function that writes files, and the marker that says it is done.

The function is made a ``PieceFunction`` by ``@piece``: it takes the run directory and arguments that JSON can hold, and
returns statistics, a ``Record``. Everything it writes goes to a temporary name and is renamed
(``dcfast.storage.atomic``), then the marker is written. The marker holds a key, a hash of the function's version and
name, its arguments and the fingerprint of its input files (size and mtime in ns), the sizes of the outputs, and a
checksum of itself: a later run skips the piece where all of these are as they were.
"""

from __future__ import annotations

import functools
import hashlib
import importlib
import inspect
import json
import typing
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Concatenate, Generic, ParamSpec, TypeVar

from dcfast._core import system as core_system
from dcfast.errors import PoolError
from dcfast.storage.atomic import synced_together, write_json
from dcfast.storage.records import Count, Record, as_record, plain, read_record

P = ParamSpec("P")
S = TypeVar("S", bound=Record)
R_co = TypeVar("R_co", bound=Record, covariant=True)


class Nothing(Record):
    """The statistics of a piece that has none."""


class PieceFunction(Generic[P, R_co]):
    """A function of the run directory and arguments, as processes and markers know it: by module and name.

    Args:
        function: at the top of its module.
        version: raised when the bytes it writes change.
        native: nearly all of its time is outside of Python (the core, Arrow, the disk), so that threads of one process
            do as well as processes, which take a second to start.
    """

    def __init__(self, function: Callable[Concatenate[Path, P], R_co], version: int, native: bool) -> None:
        self.function, self.version, self.native = function, version, native
        self.name = f"{function.__module__}:{function.__qualname__}"
        functools.update_wrapper(self, function)

    @functools.cached_property
    def stats_type(self) -> type[R_co]:
        kind: type[R_co] = typing.get_type_hints(self.function)["return"]
        return kind

    @functools.cached_property
    def defaults(self) -> dict[str, object]:
        """Parameter -> its default, of those that have one."""
        parameters = inspect.signature(self.function).parameters.values()
        return {p.name: p.default for p in parameters if p.default is not p.empty}

    def __call__(self, out: Path, *args: P.args, **kwargs: P.kwargs) -> R_co:
        return self.function(out, *args, **kwargs)

    def __reduce__(self) -> tuple[Callable[[str], object], tuple[str]]:
        return _resolve, (self.name,)

    def piece(
        self,
        step: str,
        name: str,
        *,
        inputs: Iterable[str] = (),
        outputs: Iterable[str] = (),
        weight: int = 1,
        gpus: float = 0.0,
        native: bool | None = None,
    ) -> Callable[P, Piece[R_co]]:
        """What makes a piece of the function's arguments, which are given by name; the others: see ``Piece``."""

        def with_arguments(*args: P.args, **kwargs: P.kwargs) -> Piece[R_co]:
            inspect.signature(self.function).bind(Path(), *args, **kwargs)
            chosen = self.native if native is None else native
            return Piece(step, name, self, kwargs, tuple(inputs), tuple(outputs), weight, gpus, chosen)

        return with_arguments


def piece(
    *, version: int = 1, native: bool = False
) -> Callable[[Callable[Concatenate[Path, P], S]], PieceFunction[P, S]]:
    """Makes a function one of pieces: see ``PieceFunction``."""
    return lambda function: PieceFunction(function, version, native)


def _resolve(name: str) -> object:
    module, _, function = name.partition(":")
    return getattr(importlib.import_module(module), function)


@dataclass(frozen=True)
class Piece(Generic[R_co]):
    """One unit of work of one step; ``PieceFunction.piece`` makes it.

    Attributes:
        step: ``stage/step``, the folder of its marker.
        name: unique in its step, sorts in the order of the data.
        arguments: of the function, by name; absolute paths of inputs outside the run directory are allowed.
        inputs: files whose size and mtime decide whether the piece must run again; relative paths are below
            the run directory.
        outputs: the files it writes, relative to the run directory.
        weight: its share of the step's work, for progress (bytes, as a rule).
        gpus: share of a GPU that it takes where a cluster has any; local pieces share those of their machine by
            ``dcfast.models.devices``.
        native: as of its function, unless said otherwise.
    """

    step: str
    name: str
    function: PieceFunction[..., R_co]
    arguments: dict[str, object]
    inputs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    weight: int = 1
    gpus: float = 0.0
    native: bool = False

    def marker_path(self, out: Path) -> Path:
        return out / "state" / self.step / f"{self.name}.json"


class _Marker(Record):
    key: str
    outputs: dict[str, Count]
    stats: dict[str, object]
    check: str = ""


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


def piece_key(out: Path, piece: Piece[S]) -> str:
    function = piece.function
    usual = function.defaults
    # without those that are the function's defaults: a new argument with a default redoes nothing
    given = {name: value for name, value in piece.arguments.items() if name not in usual or value != usual[name]}
    text = json.dumps([function.version, function.name, plain(given), list(piece.outputs)], sort_keys=True)
    both = text + fingerprint_files(out, piece.inputs)
    return hashlib.sha256(both.encode("utf-8", "surrogateescape")).hexdigest()


NOT_DONE = "not done yet"


def read_marker(out: Path, piece: Piece[S]) -> S | None:
    """The statistics of a piece that is done and unchanged, else None. A marker that cannot be read, or was altered by
    another hand, counts as absent."""
    found = look_at_piece(out, piece)
    return None if isinstance(found, str) else found


def look_at_piece(out: Path, piece: Piece[S]) -> S | str:
    """The statistics of a piece that is done and unchanged, else in words why it has to be done: ``NOT_DONE``, or what
    has changed since it was."""
    path = piece.marker_path(out)
    try:
        marker = read_record(path, _Marker)
        stats = as_record(marker.stats, piece.function.stats_type, str(path))
    except FileNotFoundError:
        return NOT_DONE
    except (OSError, ValueError):
        return "its marker cannot be read"
    if marker.check not in ("", _checksum(marker.outputs, marker.stats)):  # older markers have none
        return "its marker was altered"
    if marker.key != piece_key(out, piece):
        return "what it reads, or its settings, have changed since"
    for name, size in marker.outputs.items():
        try:
            is_whole = (out / name).stat().st_size == size
        except OSError:
            return f"{name} is gone"
        if not is_whole:
            return f"{name} has another size than was written"
    return stats


def _checksum(outputs: dict[str, int], stats: object) -> str:
    # as they come back from the file, whose keys are text
    text = json.dumps(json.loads(json.dumps([outputs, stats])), sort_keys=True)
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()


def perform(out: str, piece: Piece[S]) -> S:
    """Runs a piece in this process and writes its marker; returns its statistics."""
    root = Path(out)
    key = piece_key(root, piece)  # before the work: an input that changes meanwhile makes the marker stale
    lost = core_system.count_lost_maps()
    with synced_together(root / "state"):
        stats = piece.function(root, **piece.arguments)
    # in a thread the error of a map that was cut is raised elsewhere; of a piece beside this one it costs a repeat
    core_system.refuse_maps_lost_since(lost)
    outputs = {name: (root / name).stat().st_size for name in piece.outputs}
    marker = {"key": key, "outputs": outputs, "stats": plain(stats), "check": _checksum(outputs, plain(stats))}
    # not synced: one that a crash of the machine takes is a piece that is done again
    write_json(piece.marker_path(root), marker, sync=False)
    return stats
