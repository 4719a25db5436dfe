"""The output directory of a reshard: what may be in it, its companions, and the space it takes.

Importing this module imports nothing but the core, see the package.
"""

from __future__ import annotations

import errno
import os

from dcfast._core import hashing as core_hashing
from dcfast.errors import RunError
from dcfast.process.compute import thread_count
from dcfast.resharding.files import flat_json, plain_path, write_bytes
from dcfast.resharding.layout import EDIT_COUNTS, KEY_FILE, SHARD_FORMAT, STATS_FORMAT
from dcfast.resharding.plan import ShardSources, open_plan
from dcfast.resharding.sources import open_subset, subset_array
from dcfast.storage.inputs import open_input
from dcfast.storage.listing import is_temporary_name
from dcfast.storage.whole import whole_file

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from dcfast.resharding.edit import BlurOptions
    from dcfast.resharding.inputs import Inputs
    from dcfast.resharding.plan import ReshardPlan
    from dcfast.resharding.records import EditedStats, PlanOptions
    from dcfast.resharding.sources import OpenSubset, SegmentItem, StrPath, Subset

# what a run writes, under its name or a temporary one
_COMPANIONS = ("meta.json", "sample_ids.npy", "sizes.json", KEY_FILE)
_SHARD_ENDS = (".tar", ".idx", "_stats.json")
_PATH_ARGUMENTS = ("input_dir", "subset_file")
# a stats file and its directory entry, on file systems with blocks of 4 KiB
_BYTES_A_STATS_FILE = 8192
_BYTES_OF_BOXES = 1024  # in a json, with the padding of its member
_BYTES_A_LINE = 80  # of an index file, for each member


class OutputShards:
    """The output shards of a plan, in a directory.

    Attributes:
        plan, sources: what they are made of.   out: the directory.
        threads, blur, idx: see ``write_output_shards``.
    """

    def __init__(
        self,
        plan: ReshardPlan | StrPath,
        subset: Subset | OpenSubset,
        out_dir: StrPath,
        segments: Sequence[SegmentItem] | None,
        threads: int | None,
        blur: BlurOptions | None,
        idx: bool,
    ) -> None:
        self.plan: ReshardPlan = open_plan(plan)
        self.out: str = plain_path(out_dir)
        self.threads: int = thread_count(threads) or os.cpu_count() or 1
        self.sources: ShardSources = ShardSources(self.plan, subset, segments, keep=self.threads + 1)
        self.blur: BlurOptions | None = blur
        self.idx: bool = idx

    def path(self, form: str, k: int) -> str:
        return os.path.join(self.out, form.format(k))


def recorded_arguments(options: PlanOptions, arguments: Mapping[str, str | int]) -> dict[str, str]:
    """What meta.json says of a run's arguments, as text: it is published with the shards, so paths have their last
    part alone. ``arguments_xxh3`` is the hash of all of them as they were given, by which a run is known again.
    """
    given = {name: str(value) for name, value in (*options.items(), *arguments.items())}
    digest = core_hashing.xxh3_128(flat_json(given))  # storage.hashing would take longer to import
    paths = {name: "::".join(map(_last_part, given[name].split("::"))) for name in _PATH_ARGUMENTS if name in given}
    return {**given, **paths, "arguments_xxh3": b"".join(half.to_bytes(8) for half in digest).hex()}


def _last_part(path: str) -> str:
    return os.path.basename(path.rstrip("/")) or path


def finish_reshard(
    plan: ReshardPlan | StrPath,
    subset: Subset,
    out_dir: StrPath,
    *,
    arguments: Mapping[str, str | int] | None = None,
    sync: bool = True,
    edited: bool = False,
) -> dict[str, str | int]:
    """Writes sample_ids.npy, sizes.json and, last, meta.json; removes shards that an earlier plan left.

    meta.json has the names of the reference: arguments as text (of paths the last part), counts as numbers. What does
    not decide the output (number of workers, working directory, times, the output's own place) is left out, so that
    it is the same bytes for the same output.

    Args:
        arguments: more to record, such as input_dir and subset_file.
        edited: the shards were written with ``blur``: count what they hold by their ``_stats.json``.
    Returns:
        What meta.json holds: text, and counts as numbers.
    Raises:
        RunError: an output shard of the plan is not there.
    """
    opened = open_plan(plan)
    out = plain_path(out_dir)
    os.makedirs(out, exist_ok=True)
    remove_outputs(out, keep_below=opened.num_output_shards, keep_key=True)
    present = set(os.listdir(out))
    for k in range(opened.num_output_shards):
        for name in (SHARD_FORMAT.format(k), STATS_FORMAT.format(k)):
            if name not in present:
                path = os.path.join(out, name)
                raise RunError(f"finish_reshard: {path} is missing; write output shard {k} first")
    _copy_subset(subset, os.path.join(out, "sample_ids.npy"), sync)
    samples, edits = opened.samples(), {}
    if edited:
        stats = _read_stats(out, opened.num_output_shards)
        samples = [shard.successes for shard in stats]
        edits = {name: sum(getattr(shard, name) for shard in stats) for name in EDIT_COUNTS}
    sizes = {SHARD_FORMAT.format(k): count for k, count in enumerate(samples)}
    write_bytes(os.path.join(out, "sizes.json"), flat_json(sizes), sync=sync)
    meta: dict[str, str | int] = {
        **recorded_arguments(opened.options, arguments or {}),
        "shard_format": SHARD_FORMAT,
        "output_shard_format": SHARD_FORMAT,
        "output_shard_stats_format": STATS_FORMAT,
        "output_shard_count": opened.num_output_shards,
        "processed_count": opened.counts["processed_count"],
        "output_count": sum(samples),
        "missing_count": opened.counts["missing_count"],
        **edits,
    }
    write_bytes(os.path.join(out, "meta.json"), flat_json(meta), sync=sync)
    if KEY_FILE in present:
        os.unlink(os.path.join(out, KEY_FILE))
    return meta


def _read_stats(out: str, count: int) -> list[EditedStats]:
    from dcfast.resharding.records import EditedStats
    from dcfast.storage.records import read_record

    return [read_record(os.path.join(out, STATS_FORMAT.format(k)), EditedStats) for k in range(count)]


def check_free_space(
    plan: ReshardPlan, out_dir: StrPath, *, refuse: bool = True, blur: BlurOptions | None = None, idx: bool = False
) -> tuple[int, int]:
    """(needed, free) bytes for the output of a plan; outputs that are replaced count as free.

    Pictures that are blurred can grow: with ``blur.apply`` twice the bytes of the plan are asked for.

    Raises:
        OSError (ENOSPC): needed is more than free, where ``refuse``.
    """
    out = plain_path(out_dir)
    subset_bytes = plan.counts["subset_count"] * 16 + _BYTES_A_STATS_FILE
    tars = plan.counts["tar_bytes"] * (2 if blur is not None and blur.apply else 1)
    needed = tars + plan.num_output_shards * _BYTES_A_STATS_FILE + subset_bytes
    if blur is not None and blur.inject:
        needed += plan.counts["output_count"] * _BYTES_OF_BOXES
    if idx:
        needed += plan.counts["member_count"] * _BYTES_A_LINE
    free = free_bytes(out) + sum(os.stat(path).st_blocks * 512 for path in _outputs(out, 0))
    if refuse and needed > free:
        message = (
            f"not enough space: the output needs {needed} bytes, but only {free} are free; "
            f"free {needed - free} more or choose another place"
        )
        raise OSError(errno.ENOSPC, message, out)
    return needed, free


def free_bytes(path: str) -> int:
    """Of the file system that a path is on, or would be."""
    present = os.path.abspath(path)
    while not os.path.exists(present):
        present = os.path.dirname(present)
    status = os.statvfs(present)
    return status.f_bavail * status.f_frsize


def refuse_output(out: str, inputs: Inputs, *, overwrite: bool, may_hold: bool) -> None:
    """Raises RunError where an output directory is none, is or hides the pool, or holds something and must not.

    With ``overwrite`` neither may lie in the other, links followed: a pool's companions have the names of those that a
    run replaces.
    """
    exists = os.path.exists(out)
    if exists and not os.path.isdir(out):
        raise RunError(f"output {out} is not a directory; choose another place")
    above = os.path.dirname(_absolute(out))
    while not os.path.exists(above):
        above = os.path.dirname(above)
    if not os.path.isdir(above):
        raise RunError(f"output {out} cannot be made: {above} is a file; choose another place")
    if any(exists and os.path.exists(base) and os.path.samefile(out, base) for base in inputs.directories):
        raise RunError(f"output {out} is the pool itself; choose another place")
    real = os.path.realpath(out)
    for given in (place for place in inputs.given if "://" not in place):
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
    names = os.listdir(out) if exists and not may_hold else []
    if any(name != KEY_FILE for name in names):
        go_on = "to go on with a run that has not ended, pass resume=True; " if KEY_FILE in names else ""
        raise RunError(f"output {out} is not empty; {go_on}choose another place, or pass overwrite=True")


def _absolute(path: str) -> str:
    """Without a look at ``..``, behind which a link may stand."""
    return path if path.startswith("/") else os.path.join(os.getcwd(), path)


def refuse_input_in_output(out: str, read: Iterable[StrPath]) -> None:
    """Raises RunError where one of the files to be read would be removed to make place in an output directory.

    Cost: an lstat a file.
    """
    if not os.path.isdir(out):
        return
    real = os.path.realpath(out)
    inside = [path for path in read if os.path.islink(path) or os.path.realpath(os.path.dirname(path) or ".") == real]
    for path in inside:
        target = os.path.realpath(path)
        if os.path.dirname(target) == real and _output_name(os.path.basename(target)) is not None:
            raise RunError(
                f"output {out}: {target} is read by this run, and overwrite=True would remove it; "
                "choose another output, or copy that file elsewhere first"
            )


def is_temporary(name: str) -> bool:
    """Whether a name is that of a file that a killed run was writing: nothing of a run that could be lost."""
    known = _output_name(name)
    return known is not None and known[0]


def _output_name(name: str) -> tuple[bool, int] | None:
    """Of what a run writes: whether the name is a temporary one, and the number of its shard, or 0. Else None."""
    before, dash, name = name.rpartition("-")
    if dash and not is_temporary_name(f"{before}-{name}"):
        return None
    if name in _COMPANIONS:
        return bool(dash), 0
    for end in _SHARD_ENDS:
        digits = name.removesuffix(end)
        if digits != name and len(digits) >= 8 and digits.isdecimal():
            return bool(dash), int(digits)
    return None


def _outputs(out: str, keep_below: int) -> list[str]:
    """Output shards numbered keep_below and above, their companions, and what a killed run left of them."""
    paths = []
    for name in os.listdir(out) if os.path.isdir(out) else []:
        known = _output_name(name)
        path = os.path.join(out, name)
        if known is not None and (known[0] or known[1] >= keep_below) and os.path.isfile(path):
            paths.append(path)
    return paths


def remove_outputs(out: str, keep_below: int, *, keep_key: bool = False) -> None:
    """Removes output shards numbered keep_below and above, their companions, and what a killed run left."""
    for path in _outputs(out, keep_below):
        if not (keep_key and os.path.basename(path) == KEY_FILE):
            os.unlink(path)


def _copy_subset(subset: Subset, target: str, sync: bool) -> None:
    """An .npy is copied as it is; an array or a raw memmap gets the header of one."""
    if isinstance(subset, (str, os.PathLike)):
        with open_input(subset) as source:
            if source.read(6) == b"\x93NUMPY":
                source.seek(0)
                with whole_file(target, sync=sync) as temporary, open(temporary, "wb") as file:
                    while block := source.read(1 << 20):
                        file.write(block)
                return
    from dcfast.storage.npz import write_npy

    array = subset_array(open_subset(subset))
    blocks = (array[begin : begin + (1 << 16)] for begin in range(0, len(array), 1 << 16))
    write_npy(target, array.shape, array.dtype, blocks, sync=sync)
