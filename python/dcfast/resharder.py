"""Reshard: a subset of a pool as new shards in DataComp's layout, byte for byte the same for any workers.

``reshard`` does it in one call, ``python -m dcfast.resharder`` from the shell with the arguments of DataComp's
resharder.py. The pieces are there for a run on many workers: ``make_plan`` once, ``write_output_shards`` for any ranges
of output shards in any order, ``finish_reshard`` once.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from dcfast.atomic import write_json
from dcfast.errors import RunError
from dcfast.reshard_contents import open_subset
from dcfast.reshard_inputs import Pool, StrPath, open_inputs
from dcfast.reshard_output import (
    KEY_FILE,
    check_free_space,
    finish_reshard,
    plan_key,
    refuse_output,
    remove_outputs,
)
from dcfast.reshard_plan import CUT_DTYPE, ReshardPlan, make_plan, plan_cuts
from dcfast.reshard_rows import first_copies, repeated_uids, select_rows
from dcfast.reshard_write import write_output_shards

if TYPE_CHECKING:
    from dcfast.reshard_boxes import Metadata
    from dcfast.reshard_edit import BlurOptions
    from dcfast.reshard_verify import verify_output_shards

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


def __getattr__(name: str) -> Any:
    # imported by those who verify
    if name != "verify_output_shards":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from dcfast.reshard_verify import verify_output_shards

    return verify_output_shards


def reshard(
    pool: Pool,
    output_dir: StrPath,
    subset: NDArray[Any] | StrPath,
    *,
    shards_dir: StrPath | None = None,
    shard_size: int = 10_000,
    max_bytes: int = 3_000_000_000,
    first_shard: int = 0,
    num_shards: int | None = None,
    shuffle_seed: int | None = None,
    exclude: NDArray[Any] | None = None,
    pool_records: NDArray[Any] | None = None,
    boxes: Metadata | None = None,
    apply_blur: bool = False,
    inject_boxes: bool = False,
    webp_quality: int = 100,
    idx: bool = False,
    overwrite: bool = False,
    resume: bool = False,
    dry_run: bool = False,
    verify: bool = False,
    threads: int = 0,
    sync: bool = True,
    check_mtime: bool = True,
) -> dict[str, Any]:
    """Writes a subset of a pool as new shards, as DataComp's resharder does, in a fixed order.

    Args:
        pool: a directory of shards (or one with ``shards`` in it), or several, taken one after the other, and indexed
            first; or index segments (paths or objects, in pool order), with ``shards_dir`` the directory their shard
            names are relative to.
        output_dir: made where missing; refused where it holds anything, unless ``overwrite``: then earlier output
            shards and their companions are removed, other files stay.
        subset: "u8,u8" sorted array, or a subset file. A uid that stands m times is written m times.
        shard_size, max_bytes: a new output shard begins before the sample at which one of them is reached.
        first_shard, num_shards: take only input shards with these numbers in their names.
        shuffle_seed: put all samples in the order of a permutation keyed by it; see ``make_plan``.
        exclude, pool_records: see ``make_plan``.
        boxes: metadata with the boxes of pictures (``make_box_table``), for ``apply_blur``: pictures with boxes are
            blurred in them and become ``.webp`` of ``webp_quality``, and samples whose picture has boxes and cannot be
            decoded are left out; and for ``inject_boxes``: boxes are written into the json as ``face_bboxes``.
        idx: write index files for DALI along.
        resume: go on with a run that was killed: the same arguments, the same output_dir. Output shards that are there
            are kept; an ended run is left as it is.
        dry_run: plan and report, touch nothing.
        verify: read the output again and compare it with the plan and the sources (``verify_output_shards``).
        threads: at work at the same time; 0 means one per core.
        sync, check_mtime: see ``write_output_shards``.
    Returns:
        The plan's counts (see ``make_plan``; ``missing_count`` are entries of the subset that no asked shard has),
        ``needed_bytes``, ``free_bytes`` and, unless dry_run, ``tar_bytes`` as written, ``skipped`` (shards that a
        resumed run found done), with boxes ``blurred``, ``injected`` and ``blur_failed``, with verify ``verified``.
    Raises:
        PoolError: no shards, or metadata without boxes.   RunError: output_dir is not empty, is the pool, or (resume)
        holds another run.   OSError (ENOSPC): too little free space, found before anything is removed or written.
        CorruptDataError: verify found a difference.   What plan and writing raise.
    Memory: see ``make_plan``, ``make_box_table`` and ``write_output_shards``.
    Cost: one read and one write of the selected payloads.
    """
    out = Path(output_dir)
    inputs = open_inputs(pool, shards_dir)
    opened = open_subset(subset, check=True)
    refuse_output(out, inputs.directories, overwrite or resume or dry_run)
    with inputs.indexed(threads) as segments, _blur(boxes, opened, apply_blur, inject_boxes, webp_quality) as blur:
        plan = make_plan(
            segments,
            opened,
            shards_dir=inputs.base,
            shard_size=shard_size,
            max_bytes=max_bytes,
            first_shard=first_shard,
            num_shards=num_shards,
            exclude=exclude,
            pool_records=pool_records,
            shuffle_seed=shuffle_seed,
        )
        needed, free = check_free_space(plan, out, refuse=not dry_run, blur=blur, idx=idx)
        report: dict[str, Any] = {**plan.counts, "needed_bytes": needed, "free_bytes": free}
        if dry_run:
            return report
        key = plan_key(plan, opened, segments, {"idx": idx, "blur": _described(blur)})
        _begin(out, key, resume, sync)
        workers = threads or os.cpu_count() or 1
        written = write_output_shards(
            plan,
            opened,
            0,
            plan.num_output_shards,
            out,
            segments=segments,
            threads=workers,
            sync=sync,
            check_mtime=check_mtime,
            blur=blur,
            idx=idx,
            skip_whole=resume,
        )
        arguments: dict[str, Any] = {
            "input_dir": "::".join(os.fspath(directory) for directory in inputs.directories),
            "subset_file": "" if isinstance(subset, np.ndarray) else subset,
            "reshard_key": key,
        }
        if blur is not None:
            arguments |= {"apply_blur": apply_blur, "inject_blur_metadata": inject_boxes, "webp_quality": webp_quality}
        finish_reshard(plan, subset, out, arguments=arguments, sync=sync, edited=blur is not None)
        names = ("tar_bytes", "skipped", *(("blurred", "injected", "blur_failed") if blur is not None else ()))
        report |= {name: written[name] for name in names}
        if verify:
            from dcfast.reshard_verify import verify_output_shards

            report["verified"] = verify_output_shards(
                plan, opened, out, segments=segments, threads=workers, strict=True, blur=blur, idx=idx
            )
    return report


@contextmanager
def _blur(
    boxes: Metadata | None, subset: NDArray[Any], apply: bool, inject: bool, quality: int
) -> Iterator[BlurOptions | None]:
    """The boxes of the subset, gathered for the time of the run."""
    if not (apply or inject):
        if boxes is not None:
            raise ValueError("reshard: boxes are given, but neither apply_blur nor inject_boxes")
        yield None
        return
    if boxes is None:
        raise ValueError("reshard: apply_blur and inject_boxes need boxes, the metadata to take them from")
    from dcfast.reshard_boxes import make_box_table
    from dcfast.reshard_edit import BlurOptions

    with tempfile.TemporaryDirectory(prefix="dcfast-boxes-") as folder:
        yield BlurOptions(make_box_table(boxes, subset, folder), apply, inject, quality)


def _described(blur: BlurOptions | None) -> Any:
    if blur is None:
        return None
    from dcfast import _core

    arrays = (blur.table.records, blur.table.boxes)
    hashes = [_core.xxh3_128(np.ascontiguousarray(array).view(np.uint8).data) for array in arrays]
    return [blur.apply, blur.inject, blur.quality, hashes]


def _begin(out: Path, key: str, resume: bool, sync: bool) -> None:
    """Notes what is being written; clears what is there, or (resume) makes sure that it is of this very run."""
    if resume and (out / KEY_FILE).exists():
        found = json.loads((out / KEY_FILE).read_bytes()).get("reshard_key")
    elif resume and (out / "meta.json").exists():
        found = json.loads((out / "meta.json").read_bytes()).get("reshard_key")
    elif resume and out.is_dir() and any(out.iterdir()):
        raise RunError(f"output {out} holds no run that could be resumed; choose another place, or pass overwrite=True")
    else:
        remove_outputs(out, keep_below=0)
        found = key
    if found != key:
        raise RunError(
            f"output {out} holds another run (other input, subset or options); choose another place, or pass "
            "overwrite=True instead of resume"
        )
    write_json(out / KEY_FILE, {"reshard_key": key}, sync=sync)


if __name__ == "__main__":
    import sys

    from dcfast.reshard_cli import main

    sys.exit(main())
