"""The output directory of a reshard: what may be in it, its companions, and the space it takes."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from dcfast._core import hashing as core_hashing
from dcfast.errors import RunError
from dcfast.index.rows import SegmentLike, open_segment
from dcfast.resharding.contents import open_subset
from dcfast.resharding.layout import EDIT_COUNTS, KEY_FILE, SHARD_FORMAT, STATS_FORMAT
from dcfast.resharding.plan import ReshardPlan
from dcfast.storage.atomic import TEMPORARY_PREFIX, atomic_path, write_json
from dcfast.storage.npz import write_npy

if TYPE_CHECKING:
    from dcfast.resharding.edit import BlurOptions
    from dcfast.resharding.inputs import Inputs

__all__ = [
    "KEY_FILE",
    "check_free_space",
    "finish_reshard",
    "is_temporary",
    "plan_key",
    "refuse_input_in_output",
    "refuse_output",
    "remove_outputs",
]

# what a run writes, under its name or a temporary one
_OUTPUT = re.compile(
    rf"({re.escape(TEMPORARY_PREFIX)}.*-)?"
    r"(?:(\d{8,})(?:\.tar|\.idx|_stats\.json)|meta\.json|sample_ids\.npy|sizes\.json|reshard_key\.json)"
)
# a stats file and its directory entry, on file systems with blocks of 4 KiB
_BYTES_A_STATS_FILE = 8192
_BYTES_OF_BOXES = 1024  # in a json, with the padding of its member
_BYTES_A_LINE = 80  # of an index file, for each member


def plan_key(
    plan: ReshardPlan,
    subset: NDArray[Any],
    segments: Iterable[SegmentLike | str | os.PathLike[str]],
    more: dict[str, Any],
) -> str:
    """A hash of all that decides the bytes of the output: options, subset, cuts, and what the input shards are.

    Cost: one read of the subset; the cuts; name, size and time of each input shard.
    """
    digest = hashlib.sha256()
    for array in (np.asarray(subset), plan.cuts, plan.repeats, plan.exclude):
        digest.update(
            repr((len(array), core_hashing.xxh3_128(np.ascontiguousarray(array).view(np.uint8).data))).encode()
        )
    digest.update(json.dumps([plan.options, os.path.abspath(plan.shards_dir), more], sort_keys=True).encode())
    for item in segments:
        segment = open_segment(item, verify=False)
        shards = zip(segment.shard_names, segment.shard_sizes, segment.shard_mtimes_ns, strict=True)
        digest.update(json.dumps([[name, int(size), int(mtime)] for name, size, mtime in shards]).encode())
    return digest.hexdigest()


def finish_reshard(
    plan: ReshardPlan | str | os.PathLike[str],
    subset: NDArray[Any] | str | os.PathLike[str],
    out_dir: str | os.PathLike[str],
    *,
    arguments: dict[str, Any] | None = None,
    sync: bool = True,
    edited: bool = False,
) -> dict[str, Any]:
    """Writes sample_ids.npy, sizes.json and, last, meta.json; removes shards that an earlier plan left.

    meta.json has the names of the reference: arguments as text, counts as numbers. What does not decide the
    output (number of workers, working directory, times, the output's own place) is left out, so that it is the
    same bytes for the same output.

    Args:
        arguments: more to record, such as input_dir and subset_file.
        edited: the shards were written with ``blur``: count what they hold by their ``_stats.json``.
    Returns:
        What meta.json holds.
    Raises:
        RunError: an output shard of the plan is not there.
    """
    opened = plan if isinstance(plan, ReshardPlan) else ReshardPlan.load(plan)
    out = Path(out_dir)
    out.mkdir(parents=True, exist_ok=True)
    remove_outputs(out, keep_below=opened.num_output_shards, keep_key=True)
    with os.scandir(out) as entries:
        present = {entry.name for entry in entries}
    for k in range(opened.num_output_shards):
        for name in (SHARD_FORMAT.format(k), STATS_FORMAT.format(k)):
            if name not in present:
                raise RunError(f"finish_reshard: {out / name} is missing; write output shard {k} first")
    _copy_subset(subset, out / "sample_ids.npy", sync)
    sizes = {SHARD_FORMAT.format(k): int(n) for k, n in enumerate(opened.cuts["samples"])}
    edits: dict[str, int] = {}
    if edited:
        stats = [json.loads((out / STATS_FORMAT.format(k)).read_bytes()) for k in range(opened.num_output_shards)]
        sizes = {SHARD_FORMAT.format(k): int(one["successes"]) for k, one in enumerate(stats)}
        edits = {name: sum(int(one.get(name, 0)) for one in stats) for name in EDIT_COUNTS}
    write_json(out / "sizes.json", sizes, sync=sync)
    recorded = {
        **{name: str(value) for name, value in {**opened.options, **(arguments or {})}.items()},
        "shard_format": SHARD_FORMAT,
        "output_shard_format": SHARD_FORMAT,
        "output_shard_stats_format": STATS_FORMAT,
        "output_shard_count": opened.num_output_shards,
        "processed_count": opened.counts["processed_count"],
        "output_count": sum(sizes.values()),
        "missing_count": opened.counts["missing_count"],
        **edits,
    }
    write_json(out / "meta.json", recorded, sync=sync)
    (out / KEY_FILE).unlink(missing_ok=True)
    return recorded


def check_free_space(
    plan: ReshardPlan,
    out_dir: str | os.PathLike[str],
    *,
    refuse: bool = True,
    blur: BlurOptions | None = None,
    idx: bool = False,
) -> tuple[int, int]:
    """(needed, free) bytes for the output of a plan; outputs that are replaced count as free.

    Pictures that are blurred can grow: with ``blur.apply`` twice the bytes of the plan are asked for.

    Raises:
        OSError (ENOSPC): needed is more than free, where ``refuse``.
    """
    out = Path(out_dir)
    subset_bytes = plan.counts["subset_count"] * 16 + _BYTES_A_STATS_FILE
    tars = plan.counts["tar_bytes"] * (2 if blur is not None and blur.apply else 1)
    needed = tars + plan.num_output_shards * _BYTES_A_STATS_FILE + subset_bytes
    if blur is not None and blur.inject:
        needed += plan.counts["output_count"] * _BYTES_OF_BOXES
    if idx:
        needed += plan.counts["member_count"] * _BYTES_A_LINE
    present = out.absolute()
    while not present.exists():
        present = present.parent
    free = shutil.disk_usage(present).free + sum(path.stat().st_blocks * 512 for path in _outputs(out, 0))
    if refuse and needed > free:
        message = (
            f"not enough space: the output needs {needed} bytes, but only {free} are free; "
            f"free {needed - free} more or choose another place"
        )
        raise OSError(errno.ENOSPC, message, os.fspath(out))
    return needed, free


def refuse_output(out: Path, inputs: Inputs, *, overwrite: bool, may_hold: bool) -> None:
    """Raises RunError where an output directory is none, is or hides the pool, or holds something and must not.

    With ``overwrite`` neither may lie in the other, links followed: a pool's companions have the names of those that a
    run replaces.
    """
    if out.exists() and not out.is_dir():
        raise RunError(f"output {out} is not a directory; choose another place")
    above = next((parent for parent in out.absolute().parents if parent.exists()), None)
    if above is not None and not above.is_dir():
        raise RunError(f"output {out} cannot be made: {above} is a file; choose another place")
    if any(base.exists() and out.exists() and os.path.samefile(out, base) for base in inputs.directories):
        raise RunError(f"output {out} is the pool itself; choose another place")
    real = os.path.realpath(out)
    for given in inputs.given:
        pool = os.path.realpath(given)
        if real == os.path.join(pool, "shards"):
            raise RunError(f"output {out} is where pool {given} would have its shards; choose another place")
        # the directory that an index is relative to may be that of all pools
        inside = inputs.segments is None and os.path.commonpath([real, pool]) == pool
        if overwrite and (inside or os.path.commonpath([real, pool]) == real):
            how = "is" if real == pool else "lies in" if inside else "holds"
            raise RunError(
                f"output {out} ({real}) {how} the pool {given} ({pool}): overwrite=True would replace meta.json, "
                "sizes.json and shards there; choose another place"
            )
    # of a run that ended before its first shard the key alone is left
    if out.exists() and not may_hold and any(path.name != KEY_FILE for path in out.iterdir()):
        go_on = "to go on with a run that has not ended, pass resume=True; " if (out / KEY_FILE).exists() else ""
        raise RunError(f"output {out} is not empty; {go_on}choose another place, or pass overwrite=True")


def is_temporary(name: str) -> bool:
    """Whether a name is that of a file that a killed run was writing: nothing of a run that could be lost."""
    match = _OUTPUT.fullmatch(name)
    return match is not None and match[1] is not None


def refuse_input_in_output(out: Path, read: Iterable[str | os.PathLike[str]]) -> None:
    """Raises RunError where one of the files to be read would be removed to make place in an output directory.

    Cost: an lstat a file.
    """
    if not out.is_dir():
        return
    real = os.path.realpath(out)
    inside = [path for path in read if os.path.islink(path) or os.path.realpath(os.path.dirname(path) or ".") == real]
    for path in inside:
        target = os.path.realpath(path)
        if os.path.dirname(target) == real and _OUTPUT.fullmatch(os.path.basename(target)):
            raise RunError(
                f"output {out}: {target} is read by this run, and overwrite=True would remove it; "
                "choose another output, or copy that file elsewhere first"
            )


def _outputs(out: Path, keep_below: int) -> list[Path]:
    """Output shards numbered keep_below and above, their companions, and what a killed run left of them."""
    if not out.is_dir():
        return []
    found = []
    for path in out.iterdir():
        match = _OUTPUT.fullmatch(path.name)
        if match is None or not path.is_file():
            continue
        temporary, number = match.groups()
        if temporary or int(number or 0) >= keep_below:
            found.append(path)
    return found


def remove_outputs(out: Path, keep_below: int, *, keep_key: bool = False) -> None:
    """Removes output shards numbered keep_below and above, their companions, and what a killed run left."""
    for path in _outputs(out, keep_below):
        if not (keep_key and path.name == KEY_FILE):
            path.unlink()


def _copy_subset(subset: NDArray[Any] | str | os.PathLike[str], target: Path, sync: bool) -> None:
    """An .npy is copied as it is; an array or a raw memmap gets the header of one."""
    if not isinstance(subset, np.ndarray):
        with open(subset, "rb") as source:
            if source.read(6) == b"\x93NUMPY":
                source.seek(0)
                with atomic_path(target, sync=sync) as temporary, open(temporary, "wb") as file:
                    shutil.copyfileobj(source, file, 1 << 20)
                return
    array = open_subset(subset)
    blocks = (array[begin : begin + (1 << 16)] for begin in range(0, len(array), 1 << 16))
    write_npy(target, array.shape, array.dtype, blocks, sync=sync)
