"""The lists of URLs of a pool: DataComp's from the hub, or those of one's own, under the names that a run knows."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

from dcfast.acquire.options import AcquireOptions
from dcfast.acquire.plan import check_lists, footer_hash
from dcfast.errors import PoolError, RunError
from dcfast.hub import LOCK_FILE
from dcfast.hub.metadata import fetch_metadata
from dcfast.index.metadata import METADATA, open_metadata
from dcfast.index.pool import list_parquet
from dcfast.storage.atomic import atomic_path, link_or_copy
from dcfast.storage.paths import absolute, make_directory

FOLDER = "metadata"
_MADE_OF = b"dcfast_made_of"
"""Of a list's schema: the file whose columns it has under other names."""


def take_lists(options: AcquireOptions, out: Path, say: Callable[[str], None], *, is_begun: bool) -> Path:
    """The folder of the pool's lists, which are there when it returns.

    Args:
        is_begun: images of the lists that are there were asked for; no list is changed then, and none comes to them.
    PoolError: there are none, or a column that is named is not there.   HubError: they cannot be had.
    RunError: they are not those that are there.
    """
    folder = out / FOLDER
    if options.update_lock and is_begun:
        raise RunError(
            f"--update-lock would change the lists in {folder}, by which images were fetched already: choose another "
            "--out for what the hub has today"
        )
    if options.scale is not None:
        lock = out / LOCK_FILE
        fetch_metadata(options.scale, out, npz=options.npz, lock=lock, update_lock=options.update_lock, say=say)
        return folder
    given = Path(absolute(options.urls or ""))
    names = list_parquet(given) if given.is_dir() else [given.name]
    if not given.exists():
        raise PoolError(f"--urls {given}: no such file or directory; expected a parquet file, or a folder of them")
    if given.is_file() and not given.name.endswith(".parquet"):
        raise PoolError(f"--urls {given}: expected a parquet file (*.parquet), or a folder of them")
    source = given if given.is_dir() else given.parent
    if source.resolve() == folder.resolve():
        return folder
    make_directory(folder, "--out")
    strangers = [name for name in list_parquet(folder) if name not in names]
    if strangers:
        raise RunError(f"{folder} holds {strangers[0]}, which --urls {given} does not: choose another --out")
    lacking = [name for name in names if not (folder / name).exists()] if is_begun else []
    if lacking:
        raise RunError(f"--urls {given} holds {lacking[0]}, without which {out} was begun: choose another --out")
    if not _renamed(options):
        check_lists(source, names)  # before one of them lies in the pool
    for name in names:
        _take(source / name, folder / name, options)
    return folder


def _take(source: Path, target: Path, options: AcquireOptions) -> None:
    """Links a list into the pool; writes it anew where columns are named."""
    renamed = _renamed(options)
    made_of = json.dumps([footer_hash(source), renamed], sort_keys=True).encode()
    if target.exists():
        if not renamed and footer_hash(source) != footer_hash(target):
            raise RunError(f"{target} is another file than {source}: choose another --out, or remove it")
        if renamed and _made_of(target) != made_of:
            raise RunError(
                f"{target} was made of another file than {source}, or by other columns: choose another --out, or "
                "remove it"
            )
        return
    if renamed:
        _write_renamed(source, target, renamed, made_of)
    else:
        link_or_copy(os.path.realpath(source), target)  # a link to a link would lead elsewhere from there


def _renamed(options: AcquireOptions) -> dict[str, str]:
    """Names of columns that are given -> those that a run knows."""
    named = {options.url_column: "url", options.caption_column: "text"}
    return {given: name for given, name in named.items() if given not in ("", name)}


def _made_of(path: Path) -> bytes | None:
    """What a list was written of, None where it was not written here."""
    with open_metadata(path) as file:
        return (file.schema.metadata or {}).get(_MADE_OF)


def _write_renamed(source: Path, target: Path, renamed: dict[str, str], made_of: bytes) -> None:
    """Writes a list with other names of columns, and what it was made of. Memory: a batch."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    with open_metadata(source) as file:
        names = file.schema.names
        for given in renamed:
            if names.count(given) != 1:
                had = ", ".join(names)
                raise PoolError(f"{METADATA.name} {source} has no column {given!r}; it has {had}: name one of these")
        # a column that had the name before gives way to the one that was named
        fields = [field for field in file.schema if field.name not in renamed.values() or field.name in renamed]
        schema = pa.schema(
            [field.with_name(renamed.get(field.name, field.name)) for field in fields], {_MADE_OF: made_of}
        )
        with atomic_path(target) as temporary, pq.ParquetWriter(temporary, schema, compression="zstd") as writer:
            for batch in file.batches([field.name for field in fields]):
                columns = [batch.column(field.name) for field in fields]
                writer.write_batch(pa.RecordBatch.from_arrays(columns, schema=schema))
