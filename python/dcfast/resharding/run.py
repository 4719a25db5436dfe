"""A reshard from pool to verified output. Importing this module imports nothing but the core, see the package."""

from __future__ import annotations

import os
from contextlib import contextmanager

from dcfast.errors import did_you_mean
from dcfast.process.compute import thread_count
from dcfast.process.renamed import Renamed, takes_old_names
from dcfast.resharding.files import plain_path
from dcfast.resharding.inputs import open_inputs
from dcfast.resharding.output import (
    OutputShards,
    check_free_space,
    finish_reshard,
    refuse_input_in_output,
    refuse_output,
)
from dcfast.resharding.plan import make_plan
from dcfast.resharding.resume import begin_run, has_ended, plan_key
from dcfast.resharding.sources import open_subset, subset_array
from dcfast.resharding.write import write_shards
from dcfast.storage.listing import first_notes
from dcfast.storage.lock import locked

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from dcfast.resharding.boxes import Metadata
    from dcfast.resharding.edit import BlurOptions
    from dcfast.resharding.inputs import Inputs, Pool
    from dcfast.resharding.plan import ReshardPlan
    from dcfast.resharding.records import ReshardReport
    from dcfast.resharding.sources import OpenSubset, SegmentItem, StrPath, Subset


@takes_old_names(Renamed("output_dir", "out"))
def reshard(
    pool: Pool,
    out: StrPath,
    subset: Subset,
    *,
    shards_dir: StrPath | None = None,
    shard_size: int = 10_000,
    max_bytes: int = 3_000_000_000,
    first_shard: int = 0,
    num_shards: int | None = None,
    shuffle_seed: int | None = None,
    exclude: NDArray[np.integer] | None = None,
    pool_records: NDArray[np.void] | None = None,
    boxes: Metadata | None = None,
    apply_blur: bool = False,
    inject_boxes: bool = False,
    webp_quality: int = 100,
    idx: bool = False,
    overwrite: bool = False,
    resume: bool = False,
    dry_run: bool = False,
    verify: bool = False,
    threads: int | None = None,
    sync: bool = True,
    check_mtime: bool = True,
    uid_from: str = "json",
) -> ReshardReport:
    """Writes a subset of a pool as new shards, as DataComp's resharder does, in a fixed order.

    Args:
        pool: a directory of shards (or one with ``shards`` in it), a tar, a pattern with braces or stars
            (``dcfast.storage.shards.find_shards``), or several of these, taken one after the other; or the URL of a
            directory of shards (``s3://...``), of which the selected members are fetched, into a file beside each
            output shard under way. They are indexed first (a ``sizes.json`` is not needed, and not read). Or index
            segments (paths or objects, in pool order), with ``shards_dir`` the directory, or its URL, that their shard
            names are relative to.
        out: made where missing; refused where it holds anything, unless ``overwrite``: then earlier output
            shards and their companions are removed, other files stay. ``overwrite`` is refused where one of pool and
            output lies in the other.
        subset: "u8,u8" sorted array, or a subset file. A uid that stands m times is written m times.
        shard_size, max_bytes: a new output shard begins before the sample at which one of them is reached.
        first_shard, num_shards: take only input shards with these numbers in their names. A slice without a shard is
            an empty output; one that begins beyond the last is an error.
        shuffle_seed: put all samples in the order of a permutation keyed by it; see ``make_plan``.
        exclude, pool_records: see ``make_plan``.
        boxes: metadata with the boxes of pictures (``make_box_table``), for ``apply_blur``: pictures with boxes are
            blurred in them and become ``.webp`` of ``webp_quality``, and samples whose picture has boxes and cannot be
            decoded, or whose boxes are refused, are left out; and for ``inject_boxes``: boxes are written into the json
            as ``face_bboxes``, and samples whose json cannot be read keep it as it is. The range of ``webp_quality``
            always counts.
        idx: write index files for DALI along.
        resume: go on with a run that was killed: the same arguments, the same ``out``. Output shards that are there
            are kept where they are whole (``resume.is_whole``; payloads are not read: that is ``verify``), of an ended
            run with these arguments and this subset too. Not with ``overwrite``.
        dry_run: plan and report, touch nothing.
        verify: read the output again and compare it with the plan and the sources (``verify_output_shards``).
        threads: at work at the same time; None means one per core.
        sync, check_mtime: see ``write_output_shards``.
        uid_from: where the uids come from, ``json``, ``url`` or ``key`` (hashes of these): those of directories of
            shards, and of the rows of ``boxes``. Index segments have theirs: with ``boxes`` give what they are of.
    Returns:
        A dict with the numbers of the plan and, unless dry_run, of what was written: ``records.ReshardReport`` says
        which. Those of boxes, damage, notes and verification are there where they apply.
    Raises:
        PoolError: no shards, none from first_shard on, metadata without boxes, without a row of the subset, or by
        another rule of uids than the index.   RunError: ``out`` is not empty, is the pool, is written to by another
        process, or (resume) holds another run.   OSError (ENOSPC): too little free space, found before anything is
        removed or written.   CorruptDataError: verify found a difference.   What plan and writing raise.
    Memory: see ``make_plan``, ``make_box_table`` and ``write_output_shards``; of a directory of shards also the columns
    of 256 of them, while they are indexed.
    Cost: one read and one write of the selected payloads. With a directory, a subset file and plain options nothing but
    the core is imported, not NumPy either.
    Example: ``reshard("pool", "new", "subset.npy", shard_size=4)["output_count"] == 6``
    """
    _check_values((pool, out, subset), webp_quality, uid_from, overwrite and resume)
    out, threads = plain_path(out), thread_count(threads) or None
    inputs = open_inputs(pool, shards_dir)
    opened = _open_subset(subset)
    refuse_output(out, inputs, overwrite=overwrite, may_hold=overwrite or resume or dry_run)
    files = [*inputs.files(), *(path for path in (subset, boxes) if isinstance(path, (str, os.PathLike)))]
    if overwrite:
        refuse_input_in_output(out, files)
    segments = inputs.indexed(threads or 0, uid_from)
    with _blur(boxes, opened, apply_blur, inject_boxes, webp_quality, uid_from, inputs.segments or ()) as blur:
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
            threads=threads,
        )
        space = check_free_space(plan, out, refuse=not dry_run, blur=blur, idx=idx)
        report = _planned(plan, space, inputs.notes, blur)
        if not dry_run:
            shards = OutputShards(plan, opened, out, segments, threads, blur, idx)
            _write(report, shards, opened, subset, inputs, uid_from, overwrite, resume, sync, check_mtime)
            if verify:
                from dcfast.resharding.verify import verify_shards

                report["verified"] = verify_shards(shards, 0, plan.num_output_shards, strict=True)
    return report


def _write(
    report: ReshardReport,
    shards: OutputShards,
    opened: OpenSubset,
    subset: Subset,
    inputs: Inputs,
    uid_from: str,
    overwrite: bool,
    resume: bool,
    sync: bool,
    check_mtime: bool,
) -> None:
    """Writes the output, and puts what was done into the report."""
    plan, out, blur = shards.plan, shards.out, shards.blur
    edits: dict[str, str | int] = {} if blur is None else _blur_arguments(blur)
    if uid_from != "json":
        edits["uid_from"] = uid_from
    arguments = {
        "input_dir": "::".join(inputs.directories),
        "subset_file": os.fspath(subset) if isinstance(subset, (str, os.PathLike)) else "",
        **edits,
    }
    os.makedirs(out, exist_ok=True)
    with locked(out, f"output directory {out}: another reshard is at work there; wait for it", folder=True):
        # it may have ended just now
        refuse_output(out, inputs, overwrite=overwrite, may_hold=overwrite or resume)
        if not (resume and has_ended(out, plan, opened, arguments)):
            begin_run(out, plan_key(plan, opened, [shards.idx, *edits.items()]), resume, sync)
        count = plan.num_output_shards
        written = write_shards(shards, 0, count, sync=sync, check_mtime=check_mtime, skip_whole=resume)
        meta = finish_reshard(plan, subset, out, arguments=arguments, sync=sync, edited=blur is not None)
    report["tar_bytes"], report["skipped"], report["mended"] = (
        written[name] for name in ("tar_bytes", "skipped", "mended")
    )
    if blur is not None:
        report["blurred"], report["injected"] = written["blurred"], written["injected"]
        report["blur_failed"], report["inject_failed"] = written["blur_failed"], written["inject_failed"]
    report["output_count"] = int(meta["output_count"])  # of the plan less what was left out


def _check_values(places: tuple[object, ...], webp_quality: int, uid_from: str, both: bool) -> None:
    for name, place in zip(("pool", "out", "subset"), places, strict=True):
        if isinstance(place, str) and not place:
            raise ValueError(f"reshard: {name} must be a path; got an empty text")
    if both:
        raise ValueError("reshard: overwrite removes what resume would go on with; pass one of them")
    if isinstance(webp_quality, bool) or not isinstance(webp_quality, int) or not 0 <= webp_quality <= 100:
        raise ValueError(f"reshard: webp_quality must be a whole number of 0 to 100; got {webp_quality!r}")
    if uid_from not in ("json", "url", "key"):
        hint = did_you_mean(uid_from, ("json", "url", "key"))
        raise ValueError(f"reshard: uid_from must be one of json, url, key; got {uid_from!r}{hint}")


def _planned(
    plan: ReshardPlan, space: tuple[int, int], input_notes: Sequence[str], blur: BlurOptions | None
) -> ReshardReport:
    """What a report says of a plan: counts, bytes needed and free, damage, notes, boxes."""
    report: ReshardReport = {**plan.counts, "needed_bytes": space[0], "free_bytes": space[1]}
    if plan.options["first_shard"] or plan.options["num_shards"] is not None:
        report["chosen_shards"] = plan.chosen_shards
    if plan.damage:
        report["damage"] = plan.damage
    box_notes = blur.table.notes if blur is not None else ()
    if notes := [*input_notes, *_uid_notes(plan.counts), *first_notes(plan.notes), *box_notes]:
        report["notes"] = notes
    if blur is not None:
        report["boxes_refused"] = blur.table.refused
    return report


def _open_subset(subset: Subset) -> OpenSubset:
    try:
        return open_subset(subset, check=True)
    except OSError as error:
        problem = f"the subset file cannot be read: {error.strerror}"
        raise type(error)(error.errno, problem, error.filename) from None


@contextmanager
def _blur(
    boxes: Metadata | None,
    subset: OpenSubset,
    apply: bool,
    inject: bool,
    quality: int,
    uid_from: str,
    segments: Sequence[SegmentItem],
) -> Iterator[BlurOptions | None]:
    """The boxes of the subset, gathered for the time of the run."""
    if not (apply or inject):
        if boxes is not None:
            raise ValueError(
                "reshard: boxes are given, but neither apply_blur nor inject_boxes; pass one of them, or no boxes"
            )
        yield None
        return
    if boxes is None:
        raise ValueError("reshard: apply_blur and inject_boxes need boxes, the metadata to take them from")
    from dcfast.resharding.boxes import check_uid_rule, make_box_table
    from dcfast.resharding.edit import BlurOptions
    from dcfast.storage.temporary import temporary_folder

    check_uid_rule(segments, uid_from)
    with temporary_folder("dcfast-boxes-") as folder:
        yield BlurOptions(make_box_table(boxes, subset_array(subset), folder, uid_from), apply, inject, quality)


def _uid_notes(counts: ReshardReport) -> list[str]:
    if not counts["samples"] or counts["no_uid"] < counts["samples"]:
        return []
    return [
        f"none of the {counts['samples']:,} samples of the input has a uid, so that none can be in the subset; uids "
        "can be made of what is there: --uid-from url or key (docs/formats.md)"
    ]


def _blur_arguments(blur: BlurOptions) -> dict[str, str | int]:
    """What meta.json says of it, and what decides the bytes."""
    import numpy as np

    from dcfast.storage.hashing import hash_bytes

    views = [np.ascontiguousarray(array).view(np.uint8).data for array in (blur.table.records, blur.table.boxes)]
    return {
        "apply_blur": blur.apply,
        "inject_blur_metadata": blur.inject,
        "webp_quality": blur.quality,
        "boxes_xxh3": " ".join(map(hash_bytes, views)),
    }
