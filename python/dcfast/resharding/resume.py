"""Going on with a run: whether an output directory holds it, and which of its shards are whole."""

from __future__ import annotations

import os

from dcfast._core import hashing as core_hashing
from dcfast._core import reshard as core_reshard
from dcfast.errors import RunError, SubsetError
from dcfast.resharding.files import flat_json, write_bytes
from dcfast.resharding.layout import BLOCK, IDX_FORMAT, KEY_FILE, RECORD, SHARD_FORMAT, STATS_FORMAT
from dcfast.resharding.output import is_temporary, recorded_arguments, remove_outputs
from dcfast.resharding.sources import open_subset, subset_array
from dcfast.storage.inputs import open_input

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from typing import TypeVar

    import numpy as np
    from numpy.typing import NDArray

    from dcfast.resharding.output import OutputShards
    from dcfast.resharding.plan import ReshardPlan
    from dcfast.resharding.sources import OpenSubset

    T = TypeVar("T")

# of the key's own form: a run that another version began has another
_KEY_FORM = "2:"
_OTHER = "choose another place, or pass overwrite=True instead of resume"


def plan_key(plan: ReshardPlan, subset: OpenSubset, more: Iterable[bool | tuple[str, str | int]]) -> str:
    """A hash of all that decides the bytes of the output: options, subset, cuts, and what the input shards are.

    Args:
        more: text and numbers that decide them, too.
    Cost: one read of the subset, and of the cuts.
    """
    arrays = plan.arrays
    hashes = [_hash(part) for part in (subset, arrays["cuts"], arrays["repeats"], arrays["exclude"], arrays["rows"])]
    place = plan.shards_dir if "://" in plan.shards_dir else os.path.abspath(plan.shards_dir)
    parts = [hashes, plan.inputs, sorted(plan.options.items()), place, list(more)]
    return _KEY_FORM + repr(core_hashing.xxh3_128(repr(parts).encode("utf-8", "surrogatepass")))


def _hash(buffer: bytes | OpenSubset | NDArray[np.uint64]) -> tuple[int, int]:
    if isinstance(buffer, core_reshard.UidFile):
        return core_hashing.xxh3_128(buffer.view())
    if isinstance(buffer, bytes):
        return core_hashing.xxh3_128(buffer)
    import numpy as np

    return core_hashing.xxh3_128(np.ascontiguousarray(buffer).view(np.uint8).data)


def begin_run(out: str, key: str, resume: bool, sync: bool) -> None:
    """Notes what is being written; clears what is there, or (resume) makes sure that it is of this very run.

    Raises:
        RunError: it is of another, or of none.
    """
    noted = os.path.join(out, KEY_FILE)
    if resume and os.path.lexists(noted):
        from dcfast.resharding.records import RunKey

        begun = _read(noted, RunKey).reshard_key
        if not begun.startswith(_KEY_FORM):
            raise RunError(f"output {out} holds a run that another version of dcfast began: {_OTHER}")
        same = begun == key
    elif resume and os.path.exists(os.path.join(out, "meta.json")):
        same = False
    elif resume and os.path.isdir(out) and not all(is_temporary(name) for name in os.listdir(out)):
        raise RunError(f"output {out} holds no run that could be resumed; choose another place, or pass overwrite=True")
    else:
        remove_outputs(out, keep_below=0)
        same = True
    if not same:
        raise RunError(f"output {out} holds another run (other input, subset or options); {_OTHER}")
    write_bytes(noted, flat_json({"reshard_key": key}), sync=sync)


def has_ended(out: str, plan: ReshardPlan, subset: OpenSubset, arguments: Mapping[str, str | int]) -> bool:
    """Whether a run with these arguments, of this subset, has been finished here.

    Raises:
        RunError: one has, and what it left cannot be read.
    """
    if os.path.exists(os.path.join(out, KEY_FILE)) or not os.path.exists(os.path.join(out, "meta.json")):
        return False
    meta = _read(os.path.join(out, "meta.json"), dict[str, str | int | float | bool | None])
    sizes = _read(os.path.join(out, "sizes.json"), dict[str, int])
    planned = {SHARD_FORMAT.format(k): n for k, n in enumerate(plan.samples())}
    if sizes != planned and "blur_failed" not in meta:
        return False
    texts: dict[str, str] = recorded_arguments(plan.options, arguments)
    if "arguments_xxh3" not in meta:  # of before paths were cut to their last part
        texts = {name: str(value) for name, value in (*plan.options.items(), *arguments.items())}
    # the pool may have changed since: then its counts are others, nearly always
    counts = {name: plan.counts[name] for name in ("output_shard_count", "processed_count", "missing_count")}
    given = {name for name, value in meta.items() if isinstance(value, str) and "format" not in name}
    if any(meta.get(name) != value for name, value in (texts | counts).items()) or not given <= set(texts):
        return False
    import numpy as np

    try:
        written = subset_array(open_subset(os.path.join(out, "sample_ids.npy")))
        return bool(np.array_equal(written, subset_array(subset)))
    except (OSError, SubsetError) as error:
        raise RunError(f"{error}; nothing can be resumed here, pass overwrite=True instead") from None


def _read(path: str, kind: type[T]) -> T:
    from dcfast.storage.records import read_record

    why = "nothing can be resumed here, pass overwrite=True instead"
    try:
        return read_record(path, kind)
    except FileNotFoundError:
        raise RunError(f"{path} is missing; {why}") from None
    except ValueError as error:
        raise RunError(f"{error}; {why}") from None


def is_whole(shards: OutputShards, k: int) -> bool:
    """Whether an output shard, known to be of this plan, can be left as it is. Payloads are not read.

    Compared are the samples that ``_stats.json`` counts, the size of the tar, and the bytes of the index file. What
    blur changed has no size that is known beforehand: such a tar is walked by its headers, to its very end.

    Cost: two stats and a short read; one look into the index where the planned size is a bound, for shuffled shards
    and for index files; one read of the headers and json members of an edited shard.
    """
    from dcfast.interop.wds2idx import index_text
    from dcfast.resharding.records import EditedStats, ShardStats
    from dcfast.storage.records import read_record

    tar, is_edited = shards.path(SHARD_FORMAT, k), shards.blur is not None
    try:
        size = os.stat(tar).st_size
        stats = read_record(shards.path(STATS_FORMAT, k), EditedStats if is_edited else ShardStats)
    except (OSError, ValueError):
        return False
    left_out = stats.blur_failed if isinstance(stats, EditedStats) else 0
    cut = shards.plan.cuts[k]
    if stats.successes + left_out != int(cut["samples"]):
        return False
    if not is_edited and shards.plan.shuffle_seed is None and size == int(cut["tar_bytes"]) and not shards.idx:
        return True
    try:
        if is_edited:
            names, sizes, sample = _walked(tar, stats.successes)
        else:
            contents = shards.sources.contents(k)
            names, sizes, sample = contents.member_names(), contents.size, contents.member_sample
        return size == _tar_bytes(names, sizes) and (
            not shards.idx or holds_bytes(shards.path(IDX_FORMAT, k), index_text(names, sizes, sample, stats.successes))
        )
    except (OSError, ValueError):
        return False


def _tar_bytes(names: list[bytes], size: NDArray[np.uint64]) -> int:
    """What the tar of these members measures."""
    from dcfast.interop.wds2idx import payload_offsets

    if not names:
        return RECORD
    # padding to a block, two zero blocks, padding to whole records
    blocks = -(-(payload_offsets(names, size)[-1] + int(size[-1])) // BLOCK) * BLOCK + 2 * BLOCK
    return -(-blocks // RECORD) * RECORD


def _walked(tar: str, samples: int) -> tuple[list[bytes], NDArray[np.uint64], NDArray[np.uint32]]:
    """Name, size and sample of each member of a tar; ValueError where it does not have so many samples."""
    import numpy as np

    from dcfast.resharding.contents import list_members

    members, _, size = list_members(tar)
    names = [name.as_py() for name in members]
    keys = [name.split(b".", 1)[0] for name in names]
    number_of = {key: number for number, key in enumerate(dict.fromkeys(keys))}
    if len(number_of) != samples:
        raise ValueError(f"{tar}: expected {samples} samples; got {len(number_of)}")
    return names, size, np.array([number_of[key] for key in keys], np.uint32)


def holds_bytes(path: str, expected: bytes) -> bool:
    """Whether a file has these bytes, and no more. Raises OSError where it cannot be read."""
    with open_input(path) as file:
        return file.read(len(expected) + 1) == expected
