"""Reshard: a subset of a pool as new shards in DataComp's layout, byte for byte the same for any workers.

``reshard`` does it in one call. The pieces are there for a run on many workers: ``make_plan`` once,
``write_output_shards`` for any ranges of output shards in any order, ``finish_reshard`` once.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dcfast.atomic import TEMPORARY_PREFIX, atomic_path, write_json
from dcfast.errors import PoolError, RunError
from dcfast.reshard_contents import open_subset
from dcfast.reshard_plan import CUT_DTYPE, ReshardPlan, make_plan, plan_cuts
from dcfast.reshard_rows import SegmentLike, first_copies, repeated_uids, select_rows
from dcfast.reshard_verify import verify_output_shards
from dcfast.reshard_write import SHARD_FORMAT, STATS_FORMAT, write_output_shards

__all__ = [
    "CUT_DTYPE",
    "ReshardPlan",
    "check_free_space",
    "finish_reshard",
    "first_copies",
    "make_plan",
    "plan_cuts",
    "repeated_uids",
    "reshard",
    "select_rows",
    "verify_output_shards",
    "write_output_shards",
]

# what a run writes, under its name or a temporary one
_OUTPUT = re.compile(
    rf"({re.escape(TEMPORARY_PREFIX)}.*-)?(?:(\d{{8,}})(?:\.tar|_stats\.json)|meta\.json|sample_ids\.npy|sizes\.json)"
)
# input shards indexed together where a pool has no index yet
_SHARDS_A_SEGMENT = 256
# a stats file and its directory entry, on file systems with blocks of 4 KiB
_BYTES_A_STATS_FILE = 8192


def reshard(
    pool: str | os.PathLike[str] | Sequence[SegmentLike | str],
    output_dir: str | os.PathLike[str],
    subset: NDArray[Any] | str | os.PathLike[str],
    *,
    shards_dir: str | os.PathLike[str] | None = None,
    shard_size: int = 10_000,
    max_bytes: int = 3_000_000_000,
    first_shard: int = 0,
    num_shards: int | None = None,
    exclude: NDArray[Any] | None = None,
    pool_records: NDArray[Any] | None = None,
    overwrite: bool = False,
    dry_run: bool = False,
    threads: int = 0,
    sync: bool = True,
    check_mtime: bool = True,
) -> dict[str, Any]:
    """Writes a subset of a pool as new shards, as DataComp's resharder does, in a fixed order.

    Args:
        pool: a directory of shards (or one with ``shards`` in it), indexed first; or its index segments (paths or
            objects, in pool order), with ``shards_dir`` the directory their shard names are relative to.
        output_dir: made where missing; refused where it holds anything, unless ``overwrite``: then earlier output
            shards and their companions are removed, other files stay.
        subset: "u8,u8" sorted array, or a subset file. A uid that stands m times is written m times.
        shard_size, max_bytes: a new output shard begins before the sample at which one of them is reached.
        first_shard, num_shards: take only input shards with these numbers in their names.
        exclude, pool_records: see ``make_plan``.
        dry_run: plan and report, touch nothing.
        threads: output shards written at the same time; 0 means one per core.
        sync, check_mtime: see ``write_output_shards``.
    Returns:
        The plan's counts (see ``make_plan``; ``missing_count`` are entries of the subset that no asked shard has),
        ``needed_bytes``, ``free_bytes`` and, unless dry_run, ``tar_bytes`` as written.
    Raises:
        PoolError: no shards.   RunError: output_dir is not empty, or is the pool.   OSError (ENOSPC): too little free
        space, found before anything is removed or written.   What plan and writing raise.
    Memory: see ``make_plan`` and ``write_output_shards``.   Cost: one read and one write of the selected payloads.
    """
    out = Path(output_dir)
    base = _shards_dir(pool, shards_dir)
    opened = open_subset(subset, check=True)
    _refuse_output(out, base, overwrite or dry_run)
    with _indexed(pool, base, threads) as segments:
        plan = make_plan(
            segments,
            opened,
            shards_dir=base,
            shard_size=shard_size,
            max_bytes=max_bytes,
            first_shard=first_shard,
            num_shards=num_shards,
            exclude=exclude,
            pool_records=pool_records,
        )
        needed, free = check_free_space(plan, out, refuse=not dry_run)
        report: dict[str, Any] = {**plan.counts, "needed_bytes": needed, "free_bytes": free}
        if dry_run:
            return report
        _remove_outputs(out, keep_below=0)
        written = write_output_shards(
            plan,
            opened,
            0,
            plan.num_output_shards,
            out,
            segments=segments,
            threads=threads or os.cpu_count() or 1,
            sync=sync,
            check_mtime=check_mtime,
        )
    arguments = {"input_dir": os.fspath(base), "subset_file": "" if isinstance(subset, np.ndarray) else subset}
    finish_reshard(plan, subset, out, arguments=arguments, sync=sync)
    return {**report, "tar_bytes": written["tar_bytes"]}


def finish_reshard(
    plan: ReshardPlan | str | os.PathLike[str],
    subset: NDArray[Any] | str | os.PathLike[str],
    out_dir: str | os.PathLike[str],
    *,
    arguments: dict[str, Any] | None = None,
    sync: bool = True,
) -> dict[str, Any]:
    """Writes sample_ids.npy, sizes.json and, last, meta.json; removes shards that an earlier plan left.

    meta.json has the names of the reference: arguments as text, counts as numbers. What does not decide the
    output (number of workers, working directory, times, the output's own place) is left out, so that it is the
    same bytes for the same output.

    Args:
        arguments: more to record, such as input_dir and subset_file.
    Returns:
        What meta.json holds.
    Raises:
        RunError: an output shard of the plan is not there.
    """
    opened = plan if isinstance(plan, ReshardPlan) else ReshardPlan.load(plan)
    out = Path(out_dir)
    out.mkdir(parents=True, exist_ok=True)
    _remove_outputs(out, keep_below=opened.num_output_shards)
    with os.scandir(out) as entries:
        present = {entry.name for entry in entries}
    for k in range(opened.num_output_shards):
        for name in (SHARD_FORMAT.format(k), STATS_FORMAT.format(k)):
            if name not in present:
                raise RunError(f"finish_reshard: {out / name} is missing; write output shard {k} first")
    _copy_subset(subset, out / "sample_ids.npy", sync)
    sizes = {SHARD_FORMAT.format(k): int(n) for k, n in enumerate(opened.cuts["samples"])}
    write_json(out / "sizes.json", sizes, sync=sync)
    recorded = {
        **{name: str(value) for name, value in {**opened.options, **(arguments or {})}.items()},
        "shard_format": SHARD_FORMAT,
        "output_shard_format": SHARD_FORMAT,
        "output_shard_stats_format": STATS_FORMAT,
        "output_shard_count": opened.num_output_shards,
        "processed_count": opened.counts["processed_count"],
        "output_count": opened.counts["output_count"],
        "missing_count": opened.counts["missing_count"],
    }
    write_json(out / "meta.json", recorded, sync=sync)
    return recorded


def check_free_space(plan: ReshardPlan, out_dir: str | os.PathLike[str], *, refuse: bool = True) -> tuple[int, int]:
    """(needed, free) bytes for the output of a plan; outputs that are replaced count as free.

    Raises:
        OSError (ENOSPC): needed is more than free, where ``refuse``.
    """
    out = Path(out_dir)
    subset_bytes = plan.counts["subset_count"] * 16 + _BYTES_A_STATS_FILE
    needed = int(plan.cuts["tar_bytes"].sum()) + plan.num_output_shards * _BYTES_A_STATS_FILE + subset_bytes
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


def _shards_dir(
    pool: str | os.PathLike[str] | Sequence[SegmentLike | str], shards_dir: str | os.PathLike[str] | None
) -> Path:
    if not isinstance(pool, (str, os.PathLike)):
        if shards_dir is None:
            raise TypeError("reshard: shards_dir must be given where the pool is given by its index segments")
        if not pool:
            raise PoolError("reshard: the pool has no index segments")
        return Path(shards_dir)
    base = Path(pool)
    if (base / "shards").is_dir():
        base = base / "shards"
    if not base.is_dir():
        raise PoolError(f"reshard: pool {os.fspath(pool)} is not a directory")
    if not _shard_names(base):
        raise PoolError(f"reshard: pool {base} has no .tar files; expected shards such as 00000000.tar")
    return base


def _shard_names(base: Path) -> list[str]:
    return sorted(name for name in os.listdir(base) if name.endswith(".tar"))


@contextmanager
def _indexed(
    pool: str | os.PathLike[str] | Sequence[SegmentLike | str], base: Path, threads: int
) -> Iterator[Sequence[SegmentLike | str]]:
    """The pool's index segments; of a directory of shards they are made here and removed at the end."""
    if not isinstance(pool, (str, os.PathLike)):
        yield pool
        return
    from dcfast.shards import write_segment

    names = _shard_names(base)
    with tempfile.TemporaryDirectory(prefix="dcfast-index-") as index_dir:
        segments = []
        for begin in range(0, len(names), _SHARDS_A_SEGMENT):
            path = Path(index_dir) / f"{begin:08d}.dcx"
            chosen = names[begin : begin + _SHARDS_A_SEGMENT]
            # nobody needs this index after a crash
            write_segment(
                [(str(base / name), name) for name in chosen], path, threads, read_image_size=False, sync=False
            )
            segments.append(str(path))
        yield segments


def _refuse_output(out: Path, base: Path, may_hold: bool) -> None:
    if not out.exists():
        return
    if not out.is_dir():
        raise RunError(f"output {out} is not a directory")
    if base.exists() and os.path.samefile(out, base):
        raise RunError(f"output {out} is the pool itself; choose another place")
    if not may_hold and any(out.iterdir()):
        raise RunError(f"output {out} is not empty; choose another place, or pass overwrite=True")


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


def _remove_outputs(out: Path, keep_below: int) -> None:
    for path in _outputs(out, keep_below):
        path.unlink()


def _copy_subset(subset: NDArray[Any] | str | os.PathLike[str], target: Path, sync: bool) -> None:
    """An .npy is copied as it is; an array or a raw memmap gets the header of one."""
    with atomic_path(target, sync=sync) as temporary, open(temporary, "wb") as file:
        if not isinstance(subset, np.ndarray):
            with open(subset, "rb") as source:
                if source.read(6) == b"\x93NUMPY":
                    source.seek(0)
                    shutil.copyfileobj(source, file, 1 << 20)
                    return
        array = open_subset(subset)
        shape = {"descr": np.lib.format.dtype_to_descr(array.dtype), "fortran_order": False, "shape": array.shape}
        np.lib.format.write_array_header_1_0(file, shape)
        for begin in range(0, len(array), 1 << 16):
            file.write(np.ascontiguousarray(array[begin : begin + (1 << 16)]).tobytes())
