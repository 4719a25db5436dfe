"""Pools of shards: which of them can be used, by what rule they have uids, and how they come into the pool."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from dcfast.errors import PoolError, RunError
from dcfast.importing.options import ImportOptions, ImportReport
from dcfast.importing.samples import own_file
from dcfast.importing.shards import (
    PlacedShard,
    ShardLook,
    fitting_rules,
    look_at_shards,
    metadata_beside,
    names_in_pool,
    place_shards,
)
from dcfast.importing.work import Work, finished, keep_only, pass_rest, some_of, total_of
from dcfast.index.pool import group_files
from dcfast.storage.atomic import link_or_copy
from dcfast.storage.records import replaced

_READ_BY_THREADS = 20_000
"""Samples whose json and captions are read in Python in less time than processes take to start."""
_LEAST_UIDS = 0.9
"""Share of the samples that have uids of their own, from which on these are taken."""


def take_shards(work: Work) -> ImportReport:
    options, found, out = work.options, work.found, work.out
    pass_rest(work, "shards")
    looks = _looks(work)
    rule = _rule_of(looks, options)
    chosen = _usable(work, looks)
    whole = _whole_metadata(work, chosen, rule)
    names = names_in_pool([found.tars[i] for i in chosen])
    shards = [_placed(work, looks[i], i, name, rule, bool(whole)) for i, name in zip(chosen, names, strict=True)]
    how = _how(work, shards)
    groups = group_files([shard.name for shard in shards])
    read = sum(looks[i].samples for i, shard in zip(chosen, shards, strict=True) if shard.rewrite or not shard.metadata)
    stats = work.do(
        [
            place_shards.piece(
                "import/place",
                f"{number:05d}",
                inputs=[p for s in part for p in (s.source, s.metadata) if p],
                outputs=[
                    *(f"shards/{s.name}" for s in part if how != "folder"),
                    *(f"metadata/{_stem(s.name)}.parquet" for s in part if not whole),
                ],
                weight=sum(os.path.getsize(s.source) for s in part),
                native=read < _READ_BY_THREADS,
            )(shards=part, how=how, uid_from=rule, text_column=options.text_column, list_all=not whole)
            for number, (first, group) in enumerate(groups)
            for part in [shards[first : first + len(group)]]
        ]
    )
    tables = [os.path.basename(name) for name in names_in_pool(whole)] if whole else []
    for source, name in zip(whole, tables, strict=True):
        _link_table(work.path(source), own_file(out, "metadata", name))
    if how != "folder":
        keep_only(out, "shards", names)
    keep_only(out, "metadata", tables or [f"{_stem(name)}.parquet" for name in names])
    linked = len(whole) or sum(s.metadata_linked for s in stats)
    report = replaced(
        total_of(work, "shards", rule, stats),
        linked=sum(s.linked for s in stats),
        rewritten=sum(s.rewritten for s in stats),
        copied=sum(s.copied for s in stats),
        metadata_linked=linked,
        metadata_written=0 if whole else len(shards) - linked,
        notes=_notes([looks[i] for i in chosen], rule, options),
    )
    return finished(work, report)


def _stem(name: str) -> str:
    return os.path.splitext(name)[0]


def _link_table(source: str, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    with suppress(FileNotFoundError):
        target.unlink()
    link_or_copy(os.path.realpath(source), target)


def _looks(work: Work) -> list[ShardLook]:
    found = work.found
    paths = [work.path(name) for name in found.tars]
    groups = group_files(paths)
    stats = work.do(
        [
            look_at_shards.piece(
                "import/look",
                f"{number:05d}",
                inputs=[*(p for p in group if os.path.isfile(p)), *(b for p in group if (b := metadata_beside(p)))],
                weight=sum(os.path.getsize(p) for p in group if os.path.isfile(p)),
            )(shards=group, text_column=work.options.text_column)
            for number, (_, group) in enumerate(groups)
        ]
    )
    return [one for group in stats for one in group.looks]


def _rule_of(looks: Sequence[ShardLook], options: ImportOptions) -> str:
    if options.uid_from != "auto":
        return options.uid_from
    usable, with_uid = sum(one.usable for one in looks), sum(one.with_uid for one in looks)
    return "json" if usable and with_uid >= _LEAST_UIDS * usable else "key"


def _usable(work: Work, looks: Sequence[ShardLook]) -> list[int]:
    """The shards with a sample that can be trained on; the others are passed over, each with its reason."""
    chosen = []
    for i, (name, one) in enumerate(zip(work.found.tars, looks, strict=True)):
        if one.with_caption:
            chosen.append(i)
            continue
        ends = f" (members end in {', '.join(one.exts)})" if one.exts else ""
        if one.usable:
            reason = f"shards in which no picture has a caption, in txt or json{ends}"
        elif one.samples:
            reason = f"shards without a picture{ends}"
        else:
            reason = f"shards without a sample{f': {one.damage}' if one.damage else ''}"
        work.account.add(reason, name)
    if not chosen:
        why = "; ".join(work.account.record.lines)
        raise PoolError(
            f"{work.found.root}: none of its {len(looks):,} shards can be used; mend what is wrong, or name "
            f"another folder. Passed over: {why}"
        )
    return chosen


def _placed(work: Work, one: ShardLook, i: int, name: str, rule: str, whole: bool) -> PlacedShard:
    source = work.found.tars[i]
    renamed = os.path.basename(source) != name  # the rule "key" goes by the name
    beside = metadata_beside(work.path(source)) if rule in one.fits and not whole else ""
    takes = beside and not (rule == "key" and renamed)
    rewrite = one.with_caption > one.with_txt
    return PlacedShard(os.path.realpath(work.path(source)), name, rewrite, beside if takes else "")


def _whole_metadata(work: Work, chosen: Sequence[int], rule: str) -> list[str]:
    """Parquet files of the whole pool, as DataComp's: with uids, and beside no shard; others are passed over."""
    beside = {_stem(name) for name in work.found.tars}
    alone = [name for name in work.found.parquet if _stem(name) not in beside]
    fitting = [name for name in alone if rule == "json" and "json" in fitting_rules(work.path(name))]
    if not fitting:
        work.account.add("parquet files beside no shard of their name, and without uids and captions", *some_of(alone))
        return []
    work.account.add(
        "parquet files without uids and captions", *some_of([name for name in alone if name not in set(fitting)])
    )
    used = [work.found.tars[i] for i in chosen]
    return fitting + [
        os.path.relpath(path, work.found.root)
        for name in used
        if (path := metadata_beside(work.path(name))) and "json" in fitting_rules(path)
    ]


def _how(work: Work, shards: Sequence[PlacedShard]) -> str:
    """How shards come into the pool: hard links, copies, or one link to their folder where the disk is another one.

    RunError: none of it can be done.
    """
    plain_ones = [shard for shard in shards if not shard.rewrite]
    if work.options.copy or not plain_ones:
        return "copy"
    folder = work.out / "shards"
    folder.mkdir(exist_ok=True)
    probe = work.out / "state" / "import" / "probe"
    probe.unlink(missing_ok=True)
    try:
        os.link(plain_ones[0].source, probe)
        probe.unlink()
        return "link"
    except OSError as error:
        reason = error.strerror
    folders = {os.path.dirname(work.path(name)) for name in work.found.tars}
    whole = len(plain_ones) == len(shards) == len(work.found.tars) and not work.found.alone
    if whole and len(folders) == 1:
        with suppress(OSError):
            folder.rmdir()
        if not folder.exists():
            folder.symlink_to(os.path.realpath(folders.pop()))
            return "folder"
    raise RunError(
        f"--out {work.out}: {plain_ones[0].source} cannot be linked from there ({reason}); choose a place on the "
        "disk of the shards, or copy them (--copy)"
    )


def _notes(looks: Sequence[ShardLook], rule: str, options: ImportOptions) -> list[str]:
    """What a run will quarantine of the shards that are taken."""
    samples, usable = sum(one.samples for one in looks), sum(one.usable for one in looks)
    counts = {
        "have no picture, or are cut off": samples - usable,
        "have no caption": usable - sum(one.with_caption for one in looks),
        "have no uid in their json": usable - sum(one.with_uid for one in looks) if rule == "json" else 0,
    }
    notes = [
        f"{count:,} of {samples:,} samples {what}: a run will quarantine them"
        for what, count in counts.items()
        if count
    ]
    damaged = [one.damage for one in looks if one.damage]
    if damaged:
        notes.append(f"{len(damaged):,} shards are damaged; what is whole in them is read (the first: {damaged[0]})")
    if rule != "json" and options.uid_from == "auto":
        notes.append(
            "the samples have no uids of their own: they are made of shard name and key (--uid-from key), which "
            "pool.json says, so that a run knows; renaming a shard of the pool changes its uids"
        )
    return notes
