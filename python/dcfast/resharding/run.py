"""One reshard from pool to verified output, by the plan and the workers of the other modules."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from dcfast.errors import RunError, SubsetError
from dcfast.resharding.boxes import make_box_table
from dcfast.resharding.contents import open_subset
from dcfast.resharding.edit import BlurOptions
from dcfast.resharding.inputs import Inputs, Pool, StrPath, open_inputs
from dcfast.resharding.layout import EDIT_COUNTS, SHARD_FORMAT
from dcfast.resharding.output import (
    KEY_FILE,
    check_free_space,
    finish_reshard,
    is_temporary,
    plan_key,
    refuse_input_in_output,
    refuse_output,
    remove_outputs,
)
from dcfast.resharding.plan import ReshardPlan, make_plan
from dcfast.resharding.quick import quick_key
from dcfast.resharding.selection import chosen_shards, damage_of
from dcfast.resharding.verify import verify_output_shards
from dcfast.resharding.write import write_output_shards
from dcfast.storage.atomic import write_json
from dcfast.storage.hashing import hash_bytes
from dcfast.storage.temporary import temporary_folder

if TYPE_CHECKING:
    from dcfast.resharding.boxes import BoxTable, Metadata

__all__ = ["run_reshard"]


def run_reshard(
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
    """``dcfast.resharder.reshard`` with all its options."""
    if overwrite and resume:
        raise ValueError("reshard: overwrite removes what resume would go on with; pass one of them")
    if not 0 <= threads < 1 << 32:
        raise ValueError(f"reshard: threads must be 0 (one per core) to 2^32 - 1; got {threads}")
    out = Path(output_dir)
    inputs = open_inputs(pool, shards_dir)
    try:
        opened = open_subset(subset, check=True)
    except OSError as error:
        words = f"the subset file cannot be read: {error.strerror}"
        raise type(error)(error.errno, words, error.filename) from None
    refuse_output(out, inputs, overwrite=overwrite, may_hold=overwrite or resume or dry_run)
    subset_file = None if isinstance(subset, np.ndarray) else subset
    files = inputs.files()
    if overwrite:
        others = [path for path in (subset_file, boxes) if isinstance(path, (str, os.PathLike))]
        refuse_input_in_output(out, [*files, *others])
    # of the shards before they are indexed, as the short way takes it
    quick = _quick_key(inputs, subset_file, shard_size, max_bytes) if resume and (out / KEY_FILE).exists() else None
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
        if damage := list(damage_of(segments, plan.options)):
            report["damage"] = damage
        if inputs.notes:
            report["notes"] = inputs.notes
        if first_shard or num_shards is not None:
            report["chosen_shards"] = chosen_shards(segments, plan.options)
        if dry_run:
            return report
        arguments: dict[str, Any] = {
            "input_dir": "::".join(os.fspath(directory) for directory in inputs.directories),
            "subset_file": "" if subset_file is None else subset_file,
        }
        if blur is not None:
            arguments |= {"apply_blur": apply_blur, "inject_blur_metadata": inject_boxes, "webp_quality": webp_quality}
            arguments["boxes_xxh3"] = _hashes(blur.table)
        described = None if blur is None else [blur.apply, blur.inject, blur.quality, _hashes(blur.table)]
        key = plan_key(plan, opened, segments, {"idx": idx, "blur": described})
        if not (resume and _has_ended(out, plan, opened, arguments)):
            plain = blur is None and plan.shuffle_seed is None and not (idx or first_shard)
            plain = plain and num_shards is None and exclude is None and pool_records is None
            _begin(out, key, resume, sync, quick if plain else None)
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
        finish_reshard(plan, subset, out, arguments=arguments, sync=sync, edited=blur is not None)
        names = ("tar_bytes", "skipped", "mended", *(EDIT_COUNTS if blur is not None else ()))
        report |= {name: written[name] for name in names}
        if verify:
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
    with temporary_folder("dcfast-boxes-") as folder:
        yield BlurOptions(make_box_table(boxes, subset, folder), apply, inject, quality)


def _hashes(table: BoxTable) -> str:
    parts = (np.ascontiguousarray(array).view(np.uint8).data for array in (table.records, table.boxes))
    return " ".join(hash_bytes(part) for part in parts)


def _has_ended(out: Path, plan: ReshardPlan, subset: NDArray[Any], arguments: dict[str, Any]) -> bool:
    """Whether a run with these arguments, of this subset, has been finished here."""
    if (out / KEY_FILE).exists() or not (out / "meta.json").exists():
        return False
    meta, sizes = _read_object(out / "meta.json"), _read_object(out / "sizes.json")
    expected: dict[str, Any] = {name: str(value) for name, value in {**plan.options, **arguments}.items()}
    expected["output_shard_count"] = plan.num_output_shards
    # the pool may have changed since: then its counts are others, nearly always
    for name in ("processed_count", "missing_count"):
        expected[name] = plan.counts[name]
    planned = {SHARD_FORMAT.format(k): int(n) for k, n in enumerate(plan.cuts["samples"])}
    if sizes != planned and "blur_failed" not in meta:
        return False
    given = {name for name, value in meta.items() if isinstance(value, str) and "format" not in name}
    if any(meta.get(name) != value for name, value in expected.items()) or not given <= set(expected):
        return False
    try:
        return bool(np.array_equal(open_subset(out / "sample_ids.npy"), subset))
    except (OSError, SubsetError) as error:
        raise RunError(f"{error}; nothing can be resumed here, pass overwrite=True instead") from None


def _quick_key(inputs: Inputs, subset: StrPath | None, shard_size: int, max_bytes: int) -> str | None:
    """The key of a short run of this input, None where there is no such run."""
    if subset is None or inputs.segments is not None or len(inputs.directories) > 1:
        return None
    return quick_key([os.path.join(inputs.base, n) for n in inputs.names], os.fspath(subset), shard_size, max_bytes)


def _read_object(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise RunError(f"{path} is missing; nothing can be resumed here, pass overwrite=True instead") from None
    except (ValueError, RecursionError) as error:
        raise RunError(f"{path}: not json: {error}; nothing can be resumed here, pass overwrite=True instead") from None
    if not isinstance(data, dict):
        raise RunError(f"{path}: expected an object; nothing can be resumed here, pass overwrite=True instead")
    return data


def _begin(out: Path, key: str, resume: bool, sync: bool, quick: str | None) -> None:
    """Notes what is being written; clears what is there, or (resume) makes sure that it is of this very run."""
    if resume and (out / KEY_FILE).exists():
        noted = _read_object(out / KEY_FILE)
        short = quick is not None and noted.get("quick_key") == quick
        found = key if short else noted.get("reshard_key")
    elif resume and (out / "meta.json").exists():
        found = None
    elif resume and out.is_dir() and not all(is_temporary(path.name) for path in out.iterdir()):
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
