"""A piece of work: a typed function that writes files, and the marker that says it is done.

The function is made a ``PieceFunction`` by ``@piece``: it takes the run directory and arguments that JSON can hold, and
returns statistics, a ``Record``. Everything it writes goes to a temporary name and is renamed
(``dcfast.storage.atomic``), then the marker is written. The marker holds a key, a hash of the function's version and
name, its arguments and the fingerprint of its input files (size and mtime in ns), the sizes of the outputs, and a
checksum of itself: a later run skips the piece where all of these are as they were. Beside the key stand short hashes
of what it was made of, by which a run can say why it does a piece again.
"""

from __future__ import annotations

import functools
import hashlib
import importlib
import inspect
import json
import typing
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Concatenate, Generic, ParamSpec, TypeVar

from dcfast._core import system as core_system
from dcfast.errors import PoolError
from dcfast.storage.atomic import synced_together, write_json
from dcfast.storage.records import Count, Record, as_record, plain, read_record

P = ParamSpec("P")
AT_PIECE = "at work: "
"""Begins the note that an error of a piece carries: which one it was."""
_MOST_INPUTS = 512
"""Whose hashes stand in a marker."""
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
        self.function: Callable[Concatenate[Path, P], R_co] = function
        self.version: int = version
        self.native: bool = native
        self.name: str = f"{function.__module__}:{function.__qualname__}"
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
            the run directory. An object behind a URL is a text of the URL, its size and its version.
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


class _MadeOf(Record):
    """What a key was made of, by short hashes: of each argument, and of each input in its order, if not too many."""

    version: Count
    arguments: dict[str, str]
    inputs: list[str] | None


class _Marker(Record):
    key: str
    outputs: dict[str, Count]
    stats: dict[str, object]
    check: str = ""
    made_of: _MadeOf | None = None


def _described_files(out: Path, files: Iterable[str]) -> Iterator[bytes]:
    """Name, size and modification time of each file; PoolError names one that has vanished."""
    for name in files:
        if "://" in name:  # an object behind a URL, with its size and version in words
            yield f"{name}\0".encode("utf-8", "surrogateescape")
            continue
        path = out / name  # an absolute name stays itself
        try:
            status = path.stat()
        except FileNotFoundError:
            raise PoolError(f"{path} is gone, but the run still needs it; bring it back or use a new --out") from None
        yield f"{name}\0{status.st_size}\0{status.st_mtime_ns}\0".encode("utf-8", "surrogateescape")


def fingerprint_files(out: Path, files: Iterable[str]) -> str:
    """A hash of names, sizes and modification times; PoolError names a file that has vanished."""
    digest = hashlib.sha256()
    for described in _described_files(out, files):
        digest.update(described)
    return digest.hexdigest()


def _given(piece: Piece[S]) -> dict[str, object]:
    """The arguments without those that are the function's defaults: a new one with a default redoes nothing."""
    usual = piece.function.defaults
    return {name: value for name, value in piece.arguments.items() if name not in usual or value != usual[name]}


def piece_key(out: Path, piece: Piece[S]) -> str:
    return _key(piece, fingerprint_files(out, piece.inputs))


def _key(piece: Piece[S], inputs: str) -> str:
    function = piece.function
    text = json.dumps([function.version, function.name, plain(_given(piece)), list(piece.outputs)], sort_keys=True)
    return hashlib.sha256((text + inputs).encode("utf-8", "surrogateescape")).hexdigest()


def _key_and_made_of(out: Path, piece: Piece[S]) -> tuple[str, _MadeOf]:
    """Both by one look at the inputs."""
    described = [*_described_files(out, piece.inputs)]
    return _key(piece, hashlib.sha256(b"".join(described)).hexdigest()), _made_of(piece, described)


def _short_hash(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:8]


def _made_of(piece: Piece[S], inputs: list[bytes]) -> _MadeOf:
    arguments = {
        name: _short_hash(json.dumps(plain(value), sort_keys=True).encode("utf-8", "surrogateescape"))
        for name, value in _given(piece).items()
    }
    hashes = [_short_hash(described) for described in inputs] if len(inputs) <= _MOST_INPUTS else None
    return _MadeOf(piece.function.version, arguments, hashes)


def why_to_do(out: Path, piece: Piece[S]) -> list[str]:
    """Why a piece whose marker does not hold (``read_marker``) is done again, in words; nothing of one that is new.

    PoolError: an input has vanished.
    """
    path = piece.marker_path(out)
    if not path.exists():
        return []
    try:
        marker = read_record(path, _Marker)
        as_record(marker.stats, piece.function.stats_type, str(path))
    except (OSError, ValueError):
        return ["its marker cannot be read"]
    if marker.check not in ("", _checksum(marker.outputs, marker.stats)):
        return ["its marker was altered"]
    key, now = _key_and_made_of(out, piece)
    if marker.key == key:
        altered = [name for name, size in marker.outputs.items() if not _has_size(out / name, size)]
        return [f"output {altered[0]} is gone or altered"] if altered else []
    before = marker.made_of
    if before is None:
        return ["an input or argument changed (its marker is of an older release)"]
    if before.version != now.version:
        return ["this release does it another way"]
    names = sorted(before.arguments | now.arguments)
    changed = [name for name in names if before.arguments.get(name) != now.arguments.get(name)]
    words = [f"argument {name} changed" for name in changed]
    if before.inputs != now.inputs or not changed:
        words.append(_changed_inputs(piece.inputs, before.inputs or [], now.inputs or []))
    return words


def _changed_inputs(names: tuple[str, ...], before: list[str], now: list[str]) -> str:
    if len(before) != len(now):
        return f"{len(now)} inputs, {len(before)} before"
    changed = [name for name, old, new in zip(names, before, now, strict=False) if old != new]
    if not changed:
        return "an input changed"
    more = f" and {len(changed) - 1} more" if len(changed) > 1 else ""
    return f"input {'/'.join(Path(changed[0]).parts[-2:])}{more} changed"


def _has_size(path: Path, size: int) -> bool:
    try:
        return path.stat().st_size == size
    except OSError:
        return False


def read_marker(out: Path, piece: Piece[S]) -> S | None:
    """The statistics of a piece that is done and unchanged, else None. A marker that cannot be read, or was altered by
    another hand, counts as absent."""
    path = piece.marker_path(out)
    try:
        marker = read_record(path, _Marker)
        stats = as_record(marker.stats, piece.function.stats_type, str(path))
    except (OSError, ValueError):
        return None
    if marker.check not in ("", _checksum(marker.outputs, marker.stats)):  # older markers have none
        return None
    if marker.key != piece_key(out, piece):
        return None
    return stats if all(_has_size(out / name, size) for name, size in marker.outputs.items()) else None


def _checksum(outputs: dict[str, int], stats: object) -> str:
    # as they come back from the file, whose keys are text
    text = json.dumps(json.loads(json.dumps([outputs, stats])), sort_keys=True)
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()


def perform(out: str, piece: Piece[S]) -> S:
    """Runs a piece in this process and writes its marker; returns its statistics."""
    root = Path(out)
    # before the work: an input that changes meanwhile makes the marker stale
    key, made_of = _key_and_made_of(root, piece)
    lost = core_system.count_lost_maps()
    try:
        with synced_together(root / "state"):
            stats = piece.function(root, **piece.arguments)
    except BaseException as error:
        error.add_note(f"{AT_PIECE}{piece.step}/{piece.name}")
        raise
    # in a thread the error of a map that was cut is raised elsewhere; of a piece beside this one it costs a repeat
    core_system.refuse_maps_lost_since(lost)
    outputs = {name: (root / name).stat().st_size for name in piece.outputs}
    marker = {
        "key": key,
        "outputs": outputs,
        "stats": plain(stats),
        "check": _checksum(outputs, plain(stats)),
        "made_of": plain(made_of),
    }
    # not synced: one that a crash of the machine takes is a piece that is done again
    write_json(piece.marker_path(root), marker, sync=False)
    return stats
