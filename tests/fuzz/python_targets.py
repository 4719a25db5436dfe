"""What is fuzzed of the readers in Python: a target takes bytes and lets pass the errors that its reader promises.

Any other error, and a promise that is not kept, is a finding. ``fuzz_python.py`` runs them under coverage, the tests on
the inputs that earlier runs kept.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable

from dcfast.errors import DcfastError, FilterError
from dcfast.filters import compile_filter
from dcfast.storage.json_files import parse_json
from dcfast.storage.npz import iterate_npz, load_array, npz_arrays, parse_array
from dcfast.storage.parquet import ParquetFile

_FILE = os.memfd_create("input")
_PATH = f"/proc/{os.getpid()}/fd/{_FILE}"


def _file(data: bytes) -> str:
    os.ftruncate(_FILE, 0)
    os.pwrite(_FILE, data, 0)
    return _PATH


def read_filter(data: bytes) -> None:
    """An expression is refused, or means what its own text means."""
    try:
        made = compile_filter(data.decode("utf-8", "surrogateescape"))
    except FilterError:
        return
    assert compile_filter(str(made)) == made


def read_json(data: bytes) -> None:
    """A value is refused, or can be written and read again."""
    try:
        value = parse_json(data)
    except ValueError:
        return
    written = json.dumps(value, allow_nan=False, ensure_ascii=False).encode()
    assert parse_json(written) == value


def read_arrays(data: bytes) -> None:
    """The first byte chooses: npy of a member, npy of a file, npz."""
    kind, data = data[:1], data[1:]
    try:
        if kind < b"\x55":
            assert parse_array(data).nbytes <= len(data)
        elif kind < b"\xaa":
            assert load_array(_file(data)).nbytes <= len(data)
        else:
            path = _file(data)
            for name in npz_arrays(path):
                for block in iterate_npz(path, name, 4):
                    assert len(block) <= 4
    except (DcfastError, ValueError):
        return


def read_parquet(data: bytes) -> None:
    try:
        with ParquetFile(_file(data)) as file:
            for batch in file.batches(rows=64):
                assert len(batch) <= 64
    except DcfastError:
        return


TARGETS: dict[str, Callable[[bytes], None]] = {
    "filter": read_filter,
    "json": read_json,
    "arrays": read_arrays,
    "parquet": read_parquet,
}
