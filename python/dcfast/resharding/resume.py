"""Whether an output shard that is there is whole: its size, its companions, and of an edited one its headers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from dcfast.errors import CorruptDataError
from dcfast.resharding.contents import ShardContents, ShardSources
from dcfast.resharding.idx import IDX_FORMAT, idx_text, payload_offsets
from dcfast.resharding.layout import BLOCK, RECORD
from dcfast.resharding.members import list_members

if TYPE_CHECKING:
    from dcfast.resharding.edit import BlurOptions

__all__ = ["is_whole"]


def is_whole(sources: ShardSources, k: int, out: Path, blur: BlurOptions | None, idx: bool) -> bool:
    """Whether output shard k of a plan, known to be of this plan, can be left as it is. Payloads are not read.

    Compared are the samples that ``_stats.json`` counts, the size of the tar, and the bytes of the index file. What
    blur changed has no size that is known beforehand: such a tar is walked by its headers, to its very end.

    Cost: two stats and a short read; one look into the index where the planned size is a bound, for shuffled shards
    and for index files; one read of the headers and json members of an edited shard.
    """
    tar = out / f"{k:08d}.tar"
    try:
        size = tar.stat().st_size
        stats = json.loads((out / f"{k:08d}_stats.json").read_bytes())
        counts = [stats["successes"], stats["blur_failed"] if blur is not None else 0]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return False
    if any(type(count) is not int for count in counts) or sum(counts) != int(sources.plan.cuts[k]["samples"]):
        return False
    if blur is not None:
        return _walks_to_its_end(tar, size, counts[0], out / IDX_FORMAT.format(k) if idx else None)
    planned = sources.plan.shuffle_seed is None and size == int(sources.plan.cuts[k]["tar_bytes"])
    if planned and not idx:
        return True
    contents = sources.contents(k)
    return size == _tar_bytes(contents) and (not idx or _holds(out / IDX_FORMAT.format(k), idx_text(contents)))


def _tar_bytes(contents: ShardContents) -> int:
    """What the tar of these members measures."""
    if len(contents.size) == 0:
        return RECORD
    names = [contents.name(i).encode("utf-8", "surrogateescape") for i in range(len(contents.size))]
    return _end_of_tar(payload_offsets(names, contents.size)[-1] + int(contents.size[-1]))


def _end_of_tar(payload_end: int) -> int:
    # padding to a block, two zero blocks, padding to whole records
    blocks = -(-payload_end // BLOCK) * BLOCK + 2 * BLOCK
    return -(-blocks // RECORD) * RECORD


def _walks_to_its_end(tar: Path, size: int, samples: int, idx: Path | None) -> bool:
    try:
        names, offset, length = list_members(tar)
    except (OSError, CorruptDataError):
        return False
    texts = [name.as_py() for name in names]
    if len({text.split(b".", 1)[0] for text in texts}) != samples:
        return False
    if size != (_end_of_tar(int(offset[-1] + length[-1])) if texts else RECORD):
        return False
    if idx is None:
        return True
    lines: dict[bytes, list[bytes]] = {}
    for text, begin, count in zip(texts, offset.tolist(), length.tolist(), strict=True):
        key, ext = text.split(b".", 1)
        lines.setdefault(key, []).append(b"%b %d %d %b" % (ext, begin, count, text))
    head = b"v1.2 %d\n" % samples
    return _holds(idx, head + b"".join(b" ".join(line) + b"\n" for line in lines.values()))


def _holds(path: Path, expected: bytes) -> bool:
    try:
        return path.read_bytes() == expected
    except OSError:
        return False
