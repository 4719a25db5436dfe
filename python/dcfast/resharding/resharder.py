"""The public function of a reshard. Importing this module imports nothing but the core, see the package."""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from numpy.typing import NDArray

    from dcfast.resharding.boxes import Metadata
    from dcfast.resharding.inputs import Pool, StrPath

__all__ = ["reshard"]


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
            first (a ``sizes.json`` in it is not needed, and not read); or index segments (paths or objects, in pool
            order), with ``shards_dir`` the directory their shard names are relative to.
        output_dir: made where missing; refused where it holds anything, unless ``overwrite``: then earlier output
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
            decoded are left out; and for ``inject_boxes``: boxes are written into the json as ``face_bboxes``, and
            samples whose json cannot be read keep it as it is. The range of ``webp_quality`` always counts.
        idx: write index files for DALI along.
        resume: go on with a run that was killed: the same arguments, the same output_dir. Output shards that are there
            are kept where they are whole (``reshard_whole``; payloads are not read: that is ``verify``), of an ended
            run with these arguments and this subset too. Not with ``overwrite``.
        dry_run: plan and report, touch nothing.
        verify: read the output again and compare it with the plan and the sources (``verify_output_shards``).
        threads: at work at the same time; 0 means one per core.
        sync, check_mtime: see ``write_output_shards``.
    Returns:
        The plan's counts (see ``make_plan``; ``missing_count`` are entries of the subset that no asked shard has),
        ``needed_bytes``, ``free_bytes``, with first_shard or num_shards ``chosen_shards`` of the input, where asked
        input shards are damaged ``damage`` (list of {shard, offset, message}: samples behind the offset may be
        missing), where files or directories among the shards are passed over ``notes`` (sentences that name them), and,
        unless dry_run, ``tar_bytes`` as written, ``skipped`` (shards that a resumed run found done), ``mended`` (that
        it found cut or altered, and wrote again), with boxes ``blurred``, ``injected``, ``blur_failed`` and
        ``inject_failed``, with verify ``verified``.
    Raises:
        PoolError: no shards, none from first_shard on, or metadata without boxes.   RunError: output_dir is not empty,
        is the pool, or (resume) holds another run.   OSError (ENOSPC): too little free space, found before anything is
        removed or written.   CorruptDataError: verify found a difference.   What plan and writing raise.
    Memory: see ``make_plan``, ``make_box_table`` and ``write_output_shards``.
    Cost: one read and one write of the selected payloads. A directory of at most 64 shards and 16 GiB, by a subset file
    of at most a million uids, with plain options, is done by the core alone, without importing NumPy.
    """
    options = dict(locals())
    for name, path in (("pool", pool), ("output_dir", output_dir), ("subset", subset)):
        if isinstance(path, str) and not path:
            raise ValueError(f"reshard: {name} must be a path; got an empty text")
    if isinstance(webp_quality, bool) or not isinstance(webp_quality, int) or not 0 <= webp_quality <= 100:
        raise ValueError(f"reshard: webp_quality must be a whole number of 0 to 100; got {webp_quality!r}")
    if isinstance(pool, (str, os.PathLike)) and isinstance(subset, (str, os.PathLike)):
        from dcfast.resharding.quick import quick_reshard

        report = quick_reshard(options)
        if report is not None:
            return report
    from dcfast.resharding.run import run_reshard

    return run_reshard(**options)
