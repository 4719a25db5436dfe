"""``import_pool``: looks at a folder, says what is there, and makes a pool of it that a run takes as it is."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

from dcfast.engine import open_engine
from dcfast.errors import DcfastError, PoolError, RunError
from dcfast.importing.found import Found, look
from dcfast.importing.from_files import take_datasets, take_pictures, with_pictures
from dcfast.importing.from_shards import take_shards
from dcfast.importing.options import ImportOptions, ImportReport
from dcfast.importing.work import Work
from dcfast.index.pool import POOL_FILE, PoolFile
from dcfast.process.options import check_options
from dcfast.storage.atomic import remove_leftovers, write_json
from dcfast.storage.listing import is_shard_name
from dcfast.storage.lock import locked
from dcfast.storage.paths import LOCK_NAME, absolute, make_directory, not_left_empty
from dcfast.storage.records import Record, plain, read_record

SETTINGS = "state/import/settings.json"
_OWN = ("shards", "metadata", "state", POOL_FILE, LOCK_NAME)


class _Identity(Record):
    """What makes an import what it is."""

    directory: str
    kind: str
    uid_from: str
    text_column: str
    image_column: str
    shard_size: int
    copy: bool


def import_pool(options: ImportOptions, say: Callable[[str], None] = lambda line: None) -> ImportReport:
    """Makes a pool of a folder, or of one shard.

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
        _unlink_folders(out)
        remove_leftovers(out)
        with open_engine("local", options.workers) as engine:
            work = Work(options, out, engine)
            work.found = found
            work.account.take([found.passed.record])
            try:
                report = {"shards": take_shards, "pictures": take_pictures, "datasets": take_datasets}[kind](work)
            except DcfastError:
                if not _holds_anything(out):  # so that other options can be tried
                    shutil.rmtree(out / "state", ignore_errors=True)
                raise
        write_json(out / POOL_FILE, plain(PoolFile(report.uid_from, plain(report))))
        return report


def _refuse_places(root: str, out: Path) -> None:
    is_shard = os.path.isfile(root) and is_shard_name(os.path.basename(root))
    if os.path.isfile(root) and not is_shard:
        raise PoolError(f"{root}: it is a file; give the folder that it lies in, or one shard (*.tar)")
    if not is_shard and not os.path.isdir(root):
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
        if before != identity:
            _forget(out)
    elif strangers or _holds_anything(out) or (out / POOL_FILE).exists():
        there = ", ".join(strangers[:5]) or "shards, metadata"
        raise RunError(f"--out {out} is not empty ({there}), and no import made it; choose another place")
    write_json(out / SETTINGS, plain(identity))


def _forget(out: Path) -> None:
    """Removes what says that another import is done: its files may be replaced by others of the same sizes."""
    (out / POOL_FILE).unlink(missing_ok=True)
    for entry in (out / SETTINGS).parent.iterdir():
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)


def _unlink_folders(out: Path) -> None:
    """Removes the links by which a pool has the folder of another's shards: nothing may be written through them."""
    for name in ("shards", "metadata"):
        if (out / name).is_symlink():
            (out / POOL_FILE).unlink(missing_ok=True)  # until the link is there again
            (out / name).unlink()


def _holds_anything(out: Path) -> bool:
    """Whether shards or metadata were put into a pool."""
    return any((out / name).is_symlink() or any((out / name).glob("*")) for name in ("shards", "metadata"))


def _kind_of(found: Found, options: ImportOptions) -> str:
    """What is imported; PoolError where there is nothing of the kind."""
    images = [] if found.tars and options.kind != "datasets" else with_pictures(found, options.image_column)
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
            f"{found.root}: nothing that can be imported; it holds {found.words}. Name the folder of "
            + (expected[wanted] if wanted else "; or ".join(expected.values()))
            + ("; links alone have to be downloaded first, as by img2dataset" if found.parquet or found.tables else "")
        )
    return wanted
