"""``import_pool``: looks at a folder, says what is there, and makes a pool of it that a run takes as it is."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from dcfast.acquire.account import Account, PassedOver
from dcfast.acquire.datasets import has_pictures, plan_parts, write_part
from dcfast.acquire.found import Found, look
from dcfast.acquire.pictures import LISTING, list_pictures, write_pictures
from dcfast.acquire.samples import Written
from dcfast.acquire.shards import (
    PlacedShard,
    ShardLook,
    fitting_rules,
    look_at_shards,
    metadata_beside,
    names_in_pool,
    place_shards,
)
from dcfast.engine import Engine, open_engine
from dcfast.engine.piece import Piece, read_marker
from dcfast.engine.progress import Progress, Silent
from dcfast.errors import DcfastError, PoolError, RunError
from dcfast.index.pool import POOL_FILE, PoolFile, group_files
from dcfast.process.options import check_options, option
from dcfast.process.shared_options import UID_FROM
from dcfast.storage.atomic import link_or_copy, remove_leftovers, write_json
from dcfast.storage.lock import locked
from dcfast.storage.paths import LOCK_NAME, absolute, make_directory, not_left_empty, path_argument
from dcfast.storage.records import Count, Record, plain, read_record, replaced

S = TypeVar("S", bound=Record)
KINDS = ("auto", "shards", "pictures", "datasets")
SETTINGS = "state/import/settings.json"
_OWN = ("shards", "metadata", "state", POOL_FILE, LOCK_NAME)
_LEAST_UIDS = 0.9
"""Share of the samples that have uids of their own, from which on these are taken."""


@dataclass(frozen=True)
class ImportOptions:
    """What is imported, and how."""

    directory: str = option(
        "", "what you have", metavar="DIR", flags=("directory",), parse=path_argument, required=True
    )
    out: str = option("", "the pool that is made", metavar="POOL", parse=path_argument, required=True)
    kind: str = option(
        "auto",
        "what is taken of DIR: shards (tars), pictures with captions beside them or in tables, or datasets of Hugging "
        "Face (Arrow of save_to_disk, parquet with pictures); auto: the first of shards, datasets, pictures there is",
        choices=KINDS,
    )
    uid_from: str = option(
        "auto",
        "rule of the uids (docs/formats.md); auto: those of the samples' json where nearly all have one, else key",
        metavar="RULE",
        choices=("auto", *UID_FROM.choices),
    )
    text_column: str = option("", "column or key of the captions", usual="the first of the usual names that is there")
    image_column: str = option(
        "", "column of the pictures, or of their file names", usual="the first of the usual names that is there"
    )
    shard_size: int = option(10_000, "samples in a shard that is written", least=1)
    workers: int = option(os.cpu_count() or 1, "pieces at work at once", least=1, usual="the number of cores")
    copy: bool = option(False, "copy shards that could be linked")
    overwrite: bool = option(False, "redo in a pool that was imported otherwise")
    quiet: bool = option(False, "no progress")


class ImportReport(Record):
    """What an import did.

    Attributes:
        samples: that a run will find.   linked, rewritten, copied, written: shards.
        metadata_linked, metadata_written: files.
        passed: what was passed over, and why.   notes: what a run will say of the pool, in words.
    """

    kind: str
    uid_from: str
    samples: Count
    linked: Count = 0
    rewritten: Count = 0
    copied: Count = 0
    written: Count = 0
    metadata_linked: Count = 0
    metadata_written: Count = 0
    passed: PassedOver = PassedOver()
    notes: list[str] = []


class _Identity(Record):
    """What makes an import what it is."""

    directory: str
    kind: str
    uid_from: str
    text_column: str
    image_column: str
    shard_size: int
    copy: bool


class _Import:
    """An import at work: its options, its pool, its engine."""

    def __init__(self, options: ImportOptions, out: Path, engine: Engine) -> None:
        self.options, self.out, self.engine = options, out, engine
        self.found: Found
        self.account = Account()

    def do(self, pieces: Sequence[Piece[S]]) -> list[S]:
        """The statistics of pieces, in order; those that are done are skipped."""
        stats = {i: marked for i, p in enumerate(pieces) if (marked := read_marker(self.out, p)) is not None}
        waiting = [i for i in range(len(pieces)) if i not in stats]
        show = Silent if self.options.quiet else Progress
        if waiting:
            (self.out / POOL_FILE).unlink(missing_ok=True)  # what it says is of what is now redone
            total = sum(pieces[i].weight for i in waiting)
            with show(pieces[waiting[0]].step, total=total, pieces=len(waiting)) as bar:
                for done, result in self.engine.map(str(self.out), [pieces[i] for i in waiting]):
                    stats[waiting[done]] = result
                    bar.advance(pieces[waiting[done]].weight)
        return [stats[i] for i in range(len(pieces))]

    def path(self, name: str) -> str:
        return os.path.join(self.found.root, name)


def import_pool(options: ImportOptions, say: Callable[[str], None] = lambda line: None) -> ImportReport:
    """Makes a pool of a folder.

    Args:
        say: is given a line when what is there is known.
    Returns:
        what was done; also in ``POOL/pool.json``, which is written last.
    Raises:
        PoolError: there is nothing that can be imported; says what there is, and what was expected, all at once.
        RunError: the pool is another's, lies in the folder, or cannot be linked from there.   ValueError: options.
        OSError: the folder or the pool cannot be read or written.
    After a kill at any moment the same call goes on. The bytes do not depend on the number of workers. Memory: 500
    bytes a shard and table, the names of the largest folder; a worker: a shard's index (100 bytes a sample), a picture.
    """
    check_options(options)
    root, out = absolute(os.path.expanduser(options.directory)), Path(absolute(os.path.expanduser(options.out)))
    _refuse_places(root, out)
    busy = f"--out {out}: another import is at work there; wait for it, or choose another"
    with not_left_empty(out), locked(make_directory(out, "--out") / LOCK_NAME, busy):
        found = look(root)
        kind = _kind_of(found, options)
        say(f"{root}: {found.words}; taken: {kind}")
        _claim(out, _identity(options, root, kind), overwrite=options.overwrite)
        remove_leftovers(out)
        with open_engine("local", options.workers) as engine:
            work = _Import(options, out, engine)
            work.found = found
            work.account.take([found.passed.record])
            try:
                report = {"shards": _shards, "pictures": _pictures, "datasets": _datasets}[kind](work)
            except DcfastError:
                if not _holds_anything(out):  # so that other options can be tried
                    shutil.rmtree(out / "state", ignore_errors=True)
                raise
        write_json(out / POOL_FILE, plain(PoolFile(report.uid_from, plain(report))))
        return report


def _refuse_places(root: str, out: Path) -> None:
    if os.path.isfile(root):
        raise PoolError(f"{root}: it is a file; give the folder that it lies in")
    if not os.path.isdir(root):
        raise PoolError(f"{root}: no such directory; expected the folder with what is to be imported")
    real_root, real_out = os.path.realpath(root), os.path.realpath(out)
    if os.path.commonpath([real_root, real_out]) in (real_root, real_out):
        raise RunError(f"--out {out} and {root} lie in each other; choose another place for the pool")


def _identity(options: ImportOptions, root: str, kind: str) -> _Identity:
    return _Identity(
        os.path.realpath(root),
        kind,
        options.uid_from,
        options.text_column,
        options.image_column,
        options.shard_size,
        options.copy,
    )


def _claim(out: Path, identity: _Identity, *, overwrite: bool) -> None:
    """Makes the directory this import's; RunError where it is another's, or a stranger's."""
    strangers = sorted(entry.name for entry in out.iterdir() if entry.name not in _OWN)
    state = out / "state"
    strangers += [
        f"state/{entry.name}" for entry in (state.iterdir() if state.is_dir() else ()) if entry.name != "import"
    ]
    if (out / SETTINGS).exists():
        try:
            before = read_record(out / SETTINGS, _Identity)
        except DcfastError:
            before = None
        if before != identity and not overwrite:
            raise RunError(
                f"--out {out} holds another import (of {getattr(before, 'directory', 'an unknown folder')}); choose "
                "another place, or --overwrite to make this one there"
            )
    elif strangers or _holds_anything(out) or (out / POOL_FILE).exists():
        there = ", ".join(strangers[:5]) or "shards, metadata"
        raise RunError(f"--out {out} is not empty ({there}), and no import made it; choose another place")
    write_json(out / SETTINGS, plain(identity))


def _holds_anything(out: Path) -> bool:
    """Whether shards or metadata were put into a pool."""
    return any((out / name).is_symlink() or any((out / name).glob("*")) for name in ("shards", "metadata"))


def _kind_of(found: Found, options: ImportOptions) -> str:
    """What is imported; PoolError where there is nothing of the kind."""
    images = [] if found.tars and options.kind != "datasets" else _with_pictures(found, options.image_column)
    there = {
        "shards": bool(found.tars),
        "datasets": bool(found.arrow or images),
        "pictures": bool(found.pictures),
    }
    wanted = (
        next((kind for kind, is_there in there.items() if is_there), "") if options.kind == "auto" else options.kind
    )
    if not there.get(wanted):
        expected = {
            "shards": "shards (*.tar)",
            "datasets": "Arrow files or parquet with a column of pictures",
            "pictures": "pictures (.jpg, .png, .webp, ...) with captions beside them or in a table",
        }
        raise PoolError(
            f"{found.root}: nothing that can be imported; it holds {found.words}. Expected "
            + (expected[wanted] if wanted else "; or ".join(expected.values()))
        )
    return wanted


def _with_pictures(found: Found, image_column: str) -> list[str]:
    return [name for name in found.parquet if has_pictures(os.path.join(found.root, name), image_column)]


def _pass_rest(work: _Import, kind: str) -> None:
    """Counts what is there of the kinds that are not taken."""
    found, add = work.found, work.account.add
    if kind != "shards":
        add("shards (*.tar), since something else is taken: --kind shards", *_some(found.tars))
    if kind != "datasets":
        add("Arrow files, since something else is taken: --kind datasets", *_some(found.arrow))
    if kind != "pictures":
        add("loose pictures, since something else is taken: --kind pictures", "", found.pictures)
        add("tables, since something else is taken", *_some(found.tables))


def _some(names: Sequence[str]) -> tuple[str, int]:
    return (names[0], len(names)) if names else ("", 0)


def _keep_only(out: Path, folder: str, names: Sequence[str]) -> None:
    """Removes what an earlier import of other files left in a folder of the pool."""
    place, kept = out / folder, set(names)
    if place.is_symlink() or not place.is_dir():
        return
    for entry in place.iterdir():
        if entry.name not in kept and not entry.is_dir():
            entry.unlink()


def _total(work: _Import, kind: str, rule: str, stats: Sequence[Written]) -> ImportReport:
    work.account.take(s.passed for s in stats)
    return ImportReport(kind=kind, uid_from=rule, samples=sum(s.samples for s in stats))


def _finish(work: _Import, report: ImportReport) -> ImportReport:
    report = replaced(report, passed=work.account.record)
    if not report.samples:
        why = "; ".join(report.passed.lines) or "there are none"
        raise PoolError(f"{work.found.root}: no sample with a picture and a caption. Passed over: {why}")
    return report


def _pictures(work: _Import) -> ImportReport:
    options, found, out = work.options, work.found, work.out
    _pass_rest(work, "pictures")
    rule = "json" if options.uid_from == "auto" else options.uid_from
    chunks = list_pictures(found, out, options.shard_size, options.image_column, options.text_column, work.account)
    names = [f"{number:08d}" for number in range(len(chunks))]
    stats = work.do(
        [
            write_pictures.piece("import/pictures", name, outputs=_outputs(name), weight=chunk.pairs)(
                number=number, root=found.root, chunk=chunk, uid_from=rule, text_column=options.text_column
            )
            for number, (name, chunk) in enumerate(zip(names, chunks, strict=True))
        ]
    )
    (out / LISTING).unlink(missing_ok=True)  # it is as large as all captions together
    return _written(work, "pictures", rule, names, stats)


def _datasets(work: _Import) -> ImportReport:
    options, found = work.options, work.found
    _pass_rest(work, "datasets")
    images = _with_pictures(found, options.image_column)
    others = [name for name in found.parquet if name not in set(images)]
    work.account.add("parquet files without a column of pictures", *_some(others))
    rule = "json" if options.uid_from == "auto" else options.uid_from
    files = sorted([*found.arrow, *images])
    parts = plan_parts(found.root, files, options.image_column, options.text_column, options.shard_size, work.account)
    names = [f"{number:08d}" for number in range(len(parts))]
    stats = work.do(
        [
            write_part.piece(
                "import/datasets",
                name,
                inputs=[work.path(part.file)],
                outputs=_outputs(name),
                weight=part.end - part.begin,
            )(number=number, root=found.root, part=part, uid_from=rule)
            for number, (name, part) in enumerate(zip(names, parts, strict=True))
        ]
    )
    return _written(work, "datasets", rule, names, stats)


def _outputs(name: str) -> list[str]:
    return [f"shards/{name}.tar", f"metadata/{name}.parquet"]


def _written(work: _Import, kind: str, rule: str, names: list[str], stats: list[Written]) -> ImportReport:
    _keep_only(work.out, "shards", [f"{name}.tar" for name in names])
    _keep_only(work.out, "metadata", [f"{name}.parquet" for name in names])
    report = _total(work, kind, rule, stats)
    return _finish(work, replaced(report, written=len(names), metadata_written=len(names)))


def _shards(work: _Import) -> ImportReport:
    options, found, out = work.options, work.found, work.out
    _pass_rest(work, "shards")
    looks = _looks(work)
    rule = _rule_of(looks, options)
    chosen = _usable(work, looks)
    whole = _whole_metadata(work, chosen, rule)
    names = names_in_pool([found.tars[i] for i in chosen])
    shards = [_placed(work, looks[i], i, name, rule, bool(whole)) for i, name in zip(chosen, names, strict=True)]
    how = _how(work, shards)
    groups = group_files([shard.name for shard in shards])
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
            )(shards=part, how=how, uid_from=rule, text_column=options.text_column, list_all=not whole)
            for number, (first, group) in enumerate(groups)
            for part in [shards[first : first + len(group)]]
        ]
    )
    tables = [os.path.basename(name) for name in names_in_pool(whole)] if whole else []
    for source, name in zip(whole, tables, strict=True):
        _link_table(work.path(source), out / "metadata" / name)
    if how != "folder":
        _keep_only(out, "shards", names)
    _keep_only(out, "metadata", tables or [f"{_stem(name)}.parquet" for name in names])
    linked = len(whole) or sum(s.metadata_linked for s in stats)
    report = replaced(
        _total(work, "shards", rule, stats),
        linked=sum(s.linked for s in stats),
        rewritten=sum(s.rewritten for s in stats),
        copied=sum(s.copied for s in stats),
        metadata_linked=linked,
        metadata_written=0 if whole else len(shards) - linked,
        notes=_notes([looks[i] for i in chosen], rule, options),
    )
    return _finish(work, report)


def _stem(name: str) -> str:
    return os.path.splitext(name)[0]


def _link_table(source: str, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    with suppress(FileNotFoundError):
        target.unlink()
    link_or_copy(os.path.realpath(source), target)


def _looks(work: _Import) -> list[ShardLook]:
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


def _usable(work: _Import, looks: Sequence[ShardLook]) -> list[int]:
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
        raise PoolError(f"{work.found.root}: none of its {len(looks):,} shards can be used. Passed over: {why}")
    return chosen


def _placed(work: _Import, one: ShardLook, i: int, name: str, rule: str, whole: bool) -> PlacedShard:
    source = work.found.tars[i]
    renamed = os.path.basename(source) != name  # the rule "key" goes by the name
    beside = metadata_beside(work.path(source)) if rule in one.fits and not whole else ""
    takes = beside and not (rule == "key" and renamed)
    rewrite = one.with_caption > one.with_txt
    return PlacedShard(os.path.realpath(work.path(source)), name, rewrite, beside if takes else "")


def _whole_metadata(work: _Import, chosen: Sequence[int], rule: str) -> list[str]:
    """Parquet files of the whole pool, as DataComp's: with uids, and beside no shard; others are passed over."""
    beside = {_stem(name) for name in work.found.tars}
    alone = [name for name in work.found.parquet if _stem(name) not in beside]
    fitting = [name for name in alone if rule == "json" and "json" in fitting_rules(work.path(name))]
    if not fitting:
        work.account.add("parquet files beside no shard of their name, and without uids and captions", *_some(alone))
        return []
    work.account.add(
        "parquet files without uids and captions", *_some([name for name in alone if name not in set(fitting)])
    )
    used = [work.found.tars[i] for i in chosen]
    return fitting + [
        os.path.relpath(path, work.found.root)
        for name in used
        if (path := metadata_beside(work.path(name))) and "json" in fitting_rules(path)
    ]


def _how(work: _Import, shards: Sequence[PlacedShard]) -> str:
    """How shards come into the pool: hard links, copies, or one link to their folder where the disk is another one.

    RunError: none of it can be done.
    """
    plain_ones = [shard for shard in shards if not shard.rewrite]
    if work.options.copy or not plain_ones:
        return "copy"
    folder = work.out / "shards"
    if folder.is_symlink():
        folder.unlink()
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
    if len(plain_ones) == len(shards) == len(work.found.tars) and len(folders) == 1:
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
