"""Index files for NVIDIA DALI's webdataset reader, in the form of its ``wds2idx`` (v1.2), beside output shards."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from dcfast._core import reshard as core_reshard
from dcfast.resharding.contents import ShardContents

__all__ = ["IDX_FORMAT", "idx_text", "payload_offsets"]

IDX_FORMAT = "{:08d}.idx"
_BLOCK = 512


def idx_text(contents: ShardContents) -> bytes:
    """The file: ``v1.2 SAMPLES``, then a line a sample: ``ext offset size name`` of each member, between spaces.

    Raises:
        ValueError: a name with white space, which this format cannot hold.
    Cost: O(members).
    """
    names = [contents.name(i).encode("utf-8", "surrogateescape") for i in range(len(contents.size))]
    for name in names:
        if len(name.split()) != 1 or name.strip() != name:
            raise ValueError(f"idx: member {name!r} has white space in its name; DALI's index files cannot name it")
    offset = payload_offsets(names, contents.size)
    lines: list[list[bytes]] = [[] for _ in range(len(contents.uid))]
    for i, sample in enumerate(contents.member_sample.tolist()):
        ext = names[i].split(b".", 1)[1]
        lines[sample].append(b"%b %d %d %b" % (ext, offset[i], contents.size[i], names[i]))
    head = b"v1.2 %d\n" % len(contents.uid)
    return head + b"".join(b" ".join(line) + b"\n" for line in lines)


def payload_offsets(names: list[bytes], size: NDArray[np.uint64]) -> list[int]:
    """Where the payloads begin in a tar of members of these names and sizes. Cost: O(members)."""
    plain = _BLOCK
    header: Any = [
        plain if name.isascii() and len(name) <= 100 else len(core_reshard.tar_member_header(name, int(n)))
        for name, n in zip(names, size, strict=True)
    ]
    header = np.array(header, np.int64)
    length = size.astype(np.int64)
    whole = header + length + -length % _BLOCK
    offsets: list[int] = (np.cumsum(whole) - whole + header).tolist()
    return offsets
