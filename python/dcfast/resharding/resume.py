"""Going on with a run: whether an output directory holds it, and which of its shards are whole."""

from __future__ import annotations

import os

from dcfast._core import hashing as core_hashing
from dcfast.errors import CorruptDataError, RunError, SubsetError
from dcfast.resharding.files import write_flat_json
from dcfast.resharding.layout import BLOCK, IDX_FORMAT, KEY_FILE, RECORD, SHARD_FORMAT, STATS_FORMAT
from dcfast.resharding.output import is_temporary, recorded_arguments, remove_outputs
from dcfast.resharding.sources import open_subset, subset_array
from dcfast.storage.inputs import open_input

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from dcfast.resharding.contents import ShardContents
    from dcfast.resharding.edit import BlurOptions
    from dcfast.resharding.plan import ReshardPlan, ShardSources

__all__ = ["begin_run", "has_ended", "is_whole", "plan_key"]

# of the key's own form: a run that another version began has another
_KEY_FORM = "2:"
_OTHER = "choose another place, or pass overwrite=True instead of resume"


def plan_key(plan: ReshardPlan, subset: Any, more: list[Any]) -> str:
    """A hash of all that decides the bytes of the output: options, subset, cuts, and what the input shards are.

    Args:
        more: text and numbers that decide them, too.
    Cost: one read of the subset, and of the cuts.
    """
    hashes = [core_hashing.xxh3_128(_bytes_of(part)) for part in (subset, *plan.buffers.values())]
    options = sorted(plan.options.items())
    words = [hashes, plan.inputs, options, os.path.abspath(plan.shards_dir), more]
    return _KEY_FORM + repr(core_hashing.xxh3_128(repr(words).encode("utf-8", "surrogatepass")))


def _bytes_of(buffer: Any) -> Any:
    if isinstance(buffer, bytes) or not hasattr(buffer, "dtype"):
        return buffer
    import numpy as np

    return np.ascontiguousarray(buffer).view(np.uint8).data


def begin_run(out: str, key: str, resume: bool, sync: bool) -> None:
    """Notes what is being written; clears what is there, or (resume) makes sure that it is of this very run.

    Raises:
        RunError: it is of another, or of none.
    """
    noted = os.path.join(out, KEY_FILE)
    if resume and os.path.lexists(noted):
        found = _read_object(noted)
        if "quick_key" in found or not str(found.get("reshard_key")).startswith(_KEY_FORM):
            raise RunError(f"output {out} holds a run that another version of dcfast began: {_OTHER}")
        same = found.get("reshard_key") == key
    elif resume and os.path.exists(os.path.join(out, "meta.json")):
        same = False
    elif resume and os.path.isdir(out) and not all(is_temporary(name) for name in os.listdir(out)):
        raise RunError(f"output {out} holds no run that could be resumed; choose another place, or pass overwrite=True")
    else:
        remove_outputs(out, keep_below=0)
        same = True
    if not same:
        raise RunError(f"output {out} holds another run (other input, subset or options); {_OTHER}")
    write_flat_json(noted, {"reshard_key": key}, sync=sync)


def has_ended(out: str, plan: ReshardPlan, subset: Any, arguments: dict[str, Any]) -> bool:
    """Whether a run with these arguments, of this subset, has been finished here.

    Raises:
        RunError: one has, and what it left cannot be read.
    """
    if os.path.exists(os.path.join(out, KEY_FILE)) or not os.path.exists(os.path.join(out, "meta.json")):
        return False
    meta, sizes = (_read_object(os.path.join(out, name)) for name in ("meta.json", "sizes.json"))
    expected: dict[str, Any] = dict(recorded_arguments(plan.options, arguments))
    if "arguments_xxh3" not in meta:  # of before places were left out
        expected = {name: str(value) for name, value in {**plan.options, **arguments}.items()}
    expected["output_shard_count"] = plan.num_output_shards
    # the pool may have changed since: then its counts are others, nearly always
    for name in ("processed_count", "missing_count"):
        expected[name] = plan.counts[name]
    planned = {SHARD_FORMAT.format(k): n for k, n in enumerate(plan.samples())}
    if sizes != planned and "blur_failed" not in meta:
        return False
    given = {name for name, value in meta.items() if isinstance(value, str) and "format" not in name}
    if any(meta.get(name) != value for name, value in expected.items()) or not given <= set(expected):
        return False
    return _holds_subset(os.path.join(out, "sample_ids.npy"), subset)


def _holds_subset(path: str, subset: Any) -> bool:
    import numpy as np

    try:
        return bool(np.array_equal(subset_array(open_subset(path)), subset_array(subset)))
    except (OSError, SubsetError) as error:
        raise RunError(f"{error}; nothing can be resumed here, pass overwrite=True instead") from None


def _read_object(path: str) -> dict[str, Any]:
    from dcfast.storage.json_files import read_json

    why = "nothing can be resumed here, pass overwrite=True instead"
    try:
        data = read_json(path, names=True)
    except FileNotFoundError:
        raise RunError(f"{path} is missing; {why}") from None
    except ValueError as error:
        raise RunError(f"{error}; {why}") from None
    if not isinstance(data, dict):
        raise RunError(f"{path}: expected an object; {why}")
    return data


def is_whole(sources: ShardSources, k: int, out: str, blur: BlurOptions | None, idx: bool) -> bool:
    """Whether output shard k of a plan, known to be of this plan, can be left as it is. Payloads are not read.

    Compared are the samples that ``_stats.json`` counts, the size of the tar, and the bytes of the index file. What
    blur changed has no size that is known beforehand: such a tar is walked by its headers, to its very end.

    Cost: two stats and a short read; one look into the index where the planned size is a bound, for shuffled shards
    and for index files; one read of the headers and json members of an edited shard.
    """
    from dcfast.storage.json_files import read_json

    tar, idx_path = (os.path.join(out, form.format(k)) for form in (SHARD_FORMAT, IDX_FORMAT))
    try:
        size = os.stat(tar).st_size
        stats = read_json(os.path.join(out, STATS_FORMAT.format(k)), names=True)
        counts = [stats["successes"], stats["blur_failed"] if blur is not None else 0]
    except (OSError, ValueError, KeyError, TypeError):
        return False
    if any(type(count) is not int for count in counts) or sum(counts) != int(sources.plan.cuts[k]["samples"]):
        return False
    if blur is not None:
        return _walks_to_its_end(tar, size, counts[0], idx_path if idx else None)
    planned = sources.plan.shuffle_seed is None and size == int(sources.plan.cuts[k]["tar_bytes"])
    if planned and not idx:
        return True
    contents = sources.contents(k)
    return size == _tar_bytes(contents) and (not idx or _holds(idx_path, contents.idx_text()))


def _tar_bytes(contents: ShardContents) -> int:
    """What the tar of these members measures."""
    from dcfast.interop.wds2idx import payload_offsets

    if len(contents.size) == 0:
        return RECORD
    return _end_of_tar(payload_offsets(contents.member_names(), contents.size)[-1] + int(contents.size[-1]))


def _end_of_tar(payload_end: int) -> int:
    # padding to a block, two zero blocks, padding to whole records
    blocks = -(-payload_end // BLOCK) * BLOCK + 2 * BLOCK
    return -(-blocks // RECORD) * RECORD


def _walks_to_its_end(tar: str, size: int, samples: int, idx: str | None) -> bool:
    from dcfast.resharding.members import list_members

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


def _holds(path: str, expected: bytes) -> bool:
    try:
        with open_input(path) as file:
            return file.read(len(expected) + 1) == expected
    except OSError:
        return False
