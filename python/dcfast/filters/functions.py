"""Filters that are Python functions: of a plugin, or ``python("module:function", columns...)`` in an expression.

A function is given a ``pyarrow.RecordBatch`` with the columns it asks for and returns a boolean a row. It must be pure:
what it says of a row may depend on nothing but that row's values, for rows come in batches of any size, and only those
that nothing before it dropped. ``check_pure`` tries that on some rows before the work. A hash of what it is made of is
part of ``Filter.fingerprint``: another source, and the filter is asked again.

Nothing of ``python(...)`` is imported until rows are asked about, so an expression can be read and shown safely.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from importlib.machinery import SourceFileLoader
from typing import TYPE_CHECKING, NoReturn, TypeVar

import numpy as np
import numpy.typing as npt

from dcfast.errors import FilterError, first_line
from dcfast.filters.sources import NoSourceError, Sources, sources_of
from dcfast.plugins import PluginUse
from dcfast.storage.hashing import hash_bytes, hash_file
from dcfast.storage.paths import absolute

if TYPE_CHECKING:
    import pyarrow as pa

Mask = npt.NDArray[np.bool_]
Value = str | int | float
Function = Callable[..., object]
"""Of a record batch, and of keyword arguments."""
F = TypeVar("F", bound=Function)
COLUMNS = "dcfast_columns"
"""Attribute of a plugin's function: the columns it is given."""
SAMPLE_ROWS = 1_000
"""Of the metadata, that purity is tried on."""


def filter_function(*columns: str) -> Callable[[F], F]:
    """Makes a function the filter of a plugin: it is given these columns of the metadata, in this order.

    Of a ``pyarrow.RecordBatch`` of n rows it returns (n,) booleans, as Arrow's or NumPy's.

    Example::

        @filter_function("text")
        def short(batch):
            return pc.less(pc.utf8_length(batch["text"]), 40)
    """

    def mark(function: F) -> F:
        setattr(function, COLUMNS, columns)
        return function

    return mark


@dataclass(frozen=True)
class FilterFunction:
    """A function as an expression names it.

    Attributes:
        term: canonical, for messages and the fingerprint.
        where: ``module:function``, or ``FILE.py:function``.
        arguments: given by keyword.
        plugin: whose it is, where it is a plugin's.
    """

    term: str
    where: str
    columns: tuple[str, ...]
    arguments: Mapping[str, Value] = field(default_factory=dict)
    plugin: PluginUse | None = None

    def load(self) -> Function:
        """The function. FilterError: it cannot be imported, is none, or does not take the arguments."""
        module, _, name = self.where.rpartition(":")
        try:
            function = _attribute(_module(module, _version(module)), name)
        except Exception as error:  # of somebody else's code: anything
            raise self._refused(f"{self.where} cannot be imported ({_said(error)})") from error
        if not callable(function):
            raise self._refused(f"{self.where} is no function, but a {type(function).__name__}")
        try:
            inspect.signature(function).bind(None, **self.arguments)
        except TypeError as error:
            raise self._refused(f"{self.where} does not take a batch and these arguments ({error})") from None
        return function

    def fingerprint(self) -> dict[str, str | int]:
        """What its verdicts depend on: the hash of the named file, that of the other files and constants that it is
        made of (``dcfast.filters.sources``), and a plugin's package and version."""
        self.load()
        try:
            made = _made(self.where, _version(self.where.rpartition(":")[0]))
        except NoSourceError as error:
            raise self._refused(
                f"{self.where} has no source file in Python ({error}), so that a change of it would not be seen"
            ) from None
        first, *others = map(hash_file, made.files)
        parts: dict[str, str | int] = {"function": self.where.rpartition("/")[2], "source": first}
        if others or made.constants:
            parts["steps"] = hash_bytes("\n".join([*others, *made.constants]).encode("utf-8", "surrogatepass"))
        return (
            parts if self.plugin is None else {**parts, "package": self.plugin.package, "version": self.plugin.version}
        )

    def ask(self, batch: pa.RecordBatch) -> Mask:
        """(n,) bool: what it says of n rows, null as False. FilterError: it fails, or returns something else."""
        import pyarrow as pa

        function, given = self.load(), batch.select(list(self.columns))
        try:
            answer = function(given, **self.arguments)
        except Exception as error:
            raise self._refused(f"it failed on {batch.num_rows:,} rows ({_said(error)}){_place(error)}") from error
        if isinstance(answer, pa.ChunkedArray):
            answer = answer.combine_chunks()
        if isinstance(answer, pa.Array) and pa.types.is_boolean(answer.type):
            answer = np.asarray(answer.fill_null(False), np.bool_)
        if not isinstance(answer, np.ndarray) or answer.dtype != np.bool_ or answer.shape != (batch.num_rows,):
            raise self._refused(f"expected a boolean array of {batch.num_rows:,} rows; got {_shape(answer)}")
        return answer

    def check_pure(self, batch: pa.RecordBatch) -> None:
        """FilterError where it says something else of the same rows asked again, or asked in other company."""
        if not batch.num_rows:
            return
        first = self.ask(batch)
        for how, rows in _other_ways(batch.num_rows):
            part = batch.take(rows)
            differ = np.flatnonzero(self.ask(part) != first[rows])
            if len(differ):
                raise self._refused(
                    f"it is not pure: of {batch.num_rows:,} rows it said one thing, and of row {rows[differ[0]]} "
                    f"another {how}; its answer may depend on that row's values alone (no chance, no clock, nothing "
                    "kept between calls, nothing of other rows)"
                )

    def _refused(self, problem: str) -> FilterError:
        return FilterError(f"filter {self.term}: {problem}")


def _other_ways(rows: int) -> Iterator[tuple[str, npt.NDArray[np.int64]]]:
    """Words, and rows to ask about: the same again, two parts, every other one, backwards."""
    every = np.arange(rows)
    cut = rows // 3
    yield "when it was asked again", every
    if cut:
        yield "when it was asked about a part of them", every[:cut]
        yield "when it was asked about a part of them", every[cut:]
    yield "when it was asked about every other one", every[::2]
    yield "when it was asked in another order", every[::-1].copy()


def _is_file(module: str) -> bool:
    return module.endswith(".py")


def _version(module: str) -> str:
    """The hash of a file of a module's source; empty of an installed module."""
    return hash_file(absolute(module)) if _is_file(module) else ""


def _attribute(module: object, name: str) -> object:
    found = module
    for part in name.split("."):
        found = getattr(found, part)
    return found


@lru_cache(maxsize=64)
def _made(where: str, version: str) -> Sources:
    """What a function is made of, as it was first seen: what it counts while it is asked is none of its constants."""
    name, _, attribute = where.rpartition(":")
    module = _module(name, version)
    return sources_of(module, _attribute(module, attribute))


class _Uncached(SourceFileLoader):
    """Compiles the source each time: compiled files are told apart by its size and seconds alone, and could be of the
    text before a change."""

    def path_stats(self, path: str) -> NoReturn:
        raise FileNotFoundError(path)  # as where nothing compiled lies


@lru_cache(maxsize=64)
def _module(name: str, version: str) -> object:
    del version  # part of the cache's key only
    if not _is_file(name):
        return importlib.import_module(name)
    path = absolute(name)
    known_as = f"dcfast_filter_{hash_bytes(os.fsencode(path))}"
    spec = importlib.util.spec_from_file_location(known_as, path, loader=_Uncached(known_as, path))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[known_as] = module  # dataclasses and pickles of it look there
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[known_as]
        raise
    return module


def _said(error: BaseException) -> str:
    return f"{type(error).__name__}: {first_line(error)}"


def _place(error: BaseException) -> str:
    """Where in the function's own file an error was raised."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return "" if trace is None else f", line {trace.tb_lineno} of {os.path.basename(trace.tb_frame.f_code.co_filename)}"


def _shape(answer: object) -> str:
    if isinstance(answer, np.ndarray):
        return f"{answer.dtype} of shape {answer.shape}"
    kind, length = getattr(answer, "type", ""), f" of {len(answer):,}" if hasattr(answer, "__len__") else ""
    return f"{type(answer).__name__}{length}{f' ({kind})' if kind else ''}"
