"""Arrow's columns, whoever made them; and its stream files, as Hugging Face's ``datasets`` caches them: the one opener.

The file is mapped, so a batch takes no memory of its own, and what a batch says of itself must hold: it is validated
in full before anything is taken from it. Compressed batches, which decode to more than they take, and dictionaries are
refused: that library writes neither. Format: Arrow's IPC, whose messages are flatbuffers (Message.fbs).
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from dcfast.errors import CorruptDataError
from dcfast.storage.inputs import StrPath, check_input
from dcfast.storage.mapped import map_array

if TYPE_CHECKING:
    import pyarrow as pa

Ints = npt.NDArray[np.int64]

_HEADER, _COMPRESSION = 2, 3  # fields of Message, of RecordBatch


class ArrowStream:
    """An Arrow stream file, and its ``schema``."""

    def __init__(self, path: StrPath) -> None:
        """Opens a file and reads its schema. OSError; CorruptDataError: it is no Arrow stream."""
        import pyarrow as pa

        self.path: str = os.fspath(path)
        size = check_input(self.path).st_size
        self._bytes = map_array(self.path, np.uint8, (size,))
        self._begin = self._bytes.ctypes.data if size else 0
        try:
            self._messages = pa.ipc.MessageReader.open_stream(pa.BufferReader(pa.py_buffer(self._bytes)))
            self.schema: pa.Schema = pa.ipc.read_schema(self._messages.read_next_message())
        except (pa.ArrowException, OSError, StopIteration, EOFError) as error:
            raise self._damaged(error) from None

    def _damaged(self, error: object) -> CorruptDataError:
        reason = " ".join(str(error).split()) or "it is cut off"
        return CorruptDataError(f"{self.path} is no whole Arrow stream ({reason[:200]})", path=self.path)

    def batches(self) -> Iterator[pa.RecordBatch]:
        """The record batches, once. CorruptDataError: a damaged one, or see the module. Memory: none but the map."""
        import pyarrow as pa

        while True:
            try:
                message = self._messages.read_next_message()
                if message.type != "record batch" or _is_compressed(message.metadata.to_pybytes()):
                    raise self._damaged(f"a {message.type} that is compressed, or no record batch")
                batch = pa.ipc.read_record_batch(message, self.schema)
                batch.validate(full=True)
            except (StopIteration, EOFError):
                return
            except (pa.ArrowException, OSError, struct.error) as error:
                raise self._damaged(error) from None
            yield batch

    def place(self, data: npt.NDArray[np.uint8]) -> int:
        """Where in the file a buffer of a batch begins. CorruptDataError: it was made anew, as of lists with nulls."""
        at = data.ctypes.data - self._begin
        if not 0 <= at <= len(self._bytes) - len(data):
            raise self._damaged("a list that is null, but not empty")
        return at


def arrow_column(values: object) -> pa.Array | pa.ChunkedArray | None:
    """A column as pyarrow has it, not copied: its own, or one that comes by Arrow's C interface. None: neither.

    The libraries that keep texts in another form than Arrow's (pandas' ``string[python]``) copy them once.
    """
    if hasattr(values, "__arrow_c_array__") or hasattr(values, "__arrow_c_stream__"):
        import pyarrow as pa

        if isinstance(values, pa.Array | pa.ChunkedArray):
            return values
        return pa.array(values) if hasattr(values, "__arrow_c_array__") else pa.chunked_array(values)
    return None


def text_buffers(column: pa.Array) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.signedinteger]]:
    """The bytes of a column of strings or binaries, and the (n + 1,) int32 or int64 offsets of its texts in them.

    Views where the type has offsets, else (views, fixed sizes) of a copy. A null is whatever its offsets say.
    """
    import pyarrow as pa

    kind = column.type
    wide = pa.types.is_large_string(kind) or pa.types.is_large_binary(kind)
    if not wide and not (pa.types.is_string(kind) or pa.types.is_binary(kind)):
        column, wide = column.cast(pa.large_binary()), True
    dtype: type[np.signedinteger] = np.int64 if wide else np.int32
    _, offsets, data = column.buffers()
    begins = np.zeros(1, dtype)  # of an empty column there may be no offsets
    if len(column):
        begins = np.frombuffer(offsets, dtype)[column.offset : column.offset + len(column) + 1]
    return np.empty(0, np.uint8) if data is None else np.frombuffer(data, np.uint8), begins


def binary_spans(stream: ArrowStream, values: pa.Array) -> tuple[Ints, Ints]:
    """(offsets in the file, sizes) of a binary or string array of one of its batches; size -1 for null."""
    if values.null_count == len(values):
        return np.zeros(len(values), np.int64), np.full(len(values), -1, np.int64)
    data, offsets = text_buffers(values)
    at = offsets.astype(np.int64)
    begin = stream.place(data) if len(data) else 0
    valid = values.is_valid().to_numpy(zero_copy_only=False)
    return at[:-1] + begin, np.where(valid, np.diff(at), -1)


def _is_compressed(message: bytes) -> bool:
    """Whether a message's record batch says that its buffers are compressed. struct.error: it makes no sense."""
    (root,) = struct.unpack_from("<I", message, 0)
    header = _field(message, root, _HEADER)
    if not header:
        return False
    (step,) = struct.unpack_from("<I", message, header)
    return _field(message, header + step, _COMPRESSION) != 0


def _field(message: bytes, table: int, number: int) -> int:
    """Where a field of a flatbuffers table lies; 0 where the table has none."""
    (back,) = struct.unpack_from("<i", message, table)
    (size,) = struct.unpack_from("<H", message, table - back)
    if 4 + 2 * number >= size:
        return 0
    (at,) = struct.unpack_from("<H", message, table - back + 4 + 2 * number)
    return table + at if at else 0
