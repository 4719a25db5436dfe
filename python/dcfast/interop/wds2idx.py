"""DALI's index files (``wds2idx``, v1.2): one beside each shard."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from dcfast._core import reshard as core_reshard
from dcfast.errors import CorruptDataError
from dcfast.interop.shards import BLOCK, LARGEST, Index, PathLike, file_name, shards_of
from dcfast.process.renamed import Renamed, takes_old_names
from dcfast.storage.atomic import write_bytes
from dcfast.storage.inputs import read_input

if TYPE_CHECKING:
    import pyarrow as pa
    from numpy.typing import NDArray


MOST_INDEX_BYTES = 64 << 20
"""Of a shard of a million members. They take some 20 times as much memory."""


@takes_old_names(Renamed("out_dir", "out"))
def write_wds2idx(index: Index, out: PathLike) -> list[Path]:
    """Writes the index files that DALI's webdataset reader takes (``index_paths``): one a shard, version 1.2.

    Args:
        index: a TarIndex, a Segment, or a sequence of segments or their paths.
        out: made where missing; shard ``00000007.tar`` becomes ``00000007.idx`` in it, each written atomically.
    Returns:
        The files, in the order of the shards.
    Raises:
        ValueError: a shard without samples (DALI refuses such an index), or a member whose name the format cannot
            hold: with white space, or with nothing after its dot; names the shard. Two shards of one file name.
    Memory: the text of one shard, about 60 bytes a member. Cost: from the mapped index, no tar is read.
    Source: the files of nvidia-dali's tool wds2idx; docs/formats.md.
    Example: ``write_wds2idx(segment, "dali")``
    """
    if not os.fspath(out):
        raise ValueError("write_wds2idx: out must be a path; got an empty text")
    paths: dict[Path, None] = {}
    for segment, number, name, _ in shards_of(index):
        path = Path(out) / (file_name(name).removesuffix(".tar") + ".idx")
        if path in paths:
            raise ValueError(f"write_wds2idx: two shards would be written as {path}; write them into two directories")
        write_bytes(path, segment._core.wds2idx(number))
        paths[path] = None
    return list(paths)


def index_text(names: list[bytes], size: NDArray[np.uint64], sample: NDArray[np.integer], samples: int) -> bytes:
    """The index file of a tar that is to be written: ``v1.2 SAMPLES``, then a line a sample.

    Args:
        names, size, sample: of each member, in the order in which they are written: ``KEY.EXT``, bytes, and the line it
            is in (below ``samples``).
    Raises:
        ValueError: a name with white space, which this format cannot hold.
    Cost: O(members).
    """
    for name in names:
        if len(name.split()) != 1 or name.strip() != name:
            raise ValueError(f"idx: member {name!r} has white space in its name; DALI's index files cannot name it")
    offset = payload_offsets(names, size)
    lines: list[list[bytes]] = [[] for _ in range(samples)]
    for i, line in enumerate(sample.tolist()):
        ext = names[i].split(b".", 1)[1]
        lines[line].append(b"%b %d %d %b" % (ext, offset[i], size[i], names[i]))
    head = b"v1.2 %d\n" % samples
    return head + b"".join(b" ".join(line) + b"\n" for line in lines)


def payload_offsets(names: list[bytes], size: NDArray[np.uint64]) -> list[int]:
    """Where the payloads begin in a tar of members of these names and sizes. Cost: O(members)."""
    header = np.array(
        [
            BLOCK if name.isascii() and len(name) <= 100 else len(core_reshard.tar_member_header(name, int(n)))
            for name, n in zip(names, size, strict=True)
        ],
        np.int64,
    )
    length = size.astype(np.int64)
    whole = header + length + -length % BLOCK
    offsets: list[int] = (np.cumsum(whole) - whole + header).tolist()
    return offsets


def read_wds2idx(path: PathLike) -> pa.Table:
    """The members that a DALI index file lists.

    Args:
        path: a file of version 1.1 or 1.2.
    Returns:
        pyarrow table: sample (int64, counted from 0), ext, offset (of the data), size (uint64), name (null in
        version 1.1), in the order of the file. Names that are not UTF-8 are backslash-escaped.
    Raises:
        CorruptDataError: another version or number of samples, fields missing or no numbers, an offset that is no
            multiple of 512, a member that ends at 2^63 or later, a last line without its end (as of a file that was
            cut off: half a number is a number); with path and offset of the line.   OSError: it cannot be read.
    Example: ``files = write_wds2idx(segment, "dali")``, ``read_wds2idx(files[0]).column("offset")``
    """
    import pyarrow as pa

    where = os.fspath(path)
    lines = read_input(path, MOST_INDEX_BYTES).split(b"\n")
    head = lines[0].split()

    def bad(what: str, line: int) -> CorruptDataError:
        at = sum(len(text) + 1 for text in lines[:line])
        return CorruptDataError(f"DALI index {where}, line {line + 1}: {what}", path=where, offset=at)

    count = _number(head[1]) if len(head) == 2 and head[0] in (b"v1.1", b"v1.2") else None
    if count is None:
        raise bad(f"expected 'v1.2 SAMPLES' or 'v1.1 SAMPLES'; got {_shown(lines[0])}", 0)
    if lines[-1] != b"":
        got = _shown(lines[-1][-40:])
        raise bad(f"expected a line end behind the last line; got {got}; cut off? make it again", len(lines) - 1)
    body = lines[1:-1]
    if len(body) != count:
        raise bad(f"expected {count} samples; got {len(body)}; cut off? make it again", 0)
    width = 4 if head[0] == b"v1.2" else 3
    members: list[tuple[int, str, int, int, str | None]] = []
    for sample, line in enumerate(body):
        fields = line.split()
        if not fields or len(fields) % width:
            raise bad(f"expected {width} fields a member; got {len(fields)}", sample + 1)
        for at in range(0, len(fields), width):
            offset, size = (_number(field) for field in fields[at + 1 : at + 3])
            if offset is None or size is None or offset % BLOCK or offset + size > LARGEST:
                got = _shown(b" ".join(fields[at:]))
                raise bad(f"expected an offset in blocks of 512 and a size; got {got}", sample + 1)
            name = _text(fields[at + 3]) if width == 4 else None
            members.append((sample, _text(fields[at]), offset, size, name))
    kinds = {"sample": pa.int64(), "ext": pa.string(), "offset": pa.uint64(), "size": pa.uint64(), "name": pa.string()}
    return pa.Table.from_pylist([dict(zip(kinds, member, strict=True)) for member in members], schema=pa.schema(kinds))


def _number(field: bytes) -> int | None:
    """A count of less than 2^63, written in decimal digits; None of anything else."""
    value = int(field) if field.isdigit() and len(field) <= 40 else -1
    return value if 0 <= value <= LARGEST else None


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "backslashreplace")


def _shown(raw: bytes) -> str:
    return repr(_text(raw[:80]))
