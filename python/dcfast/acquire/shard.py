"""One shard of a list as a piece of work, and the statistics of what became of its rows."""

from __future__ import annotations

import asyncio
import hashlib
import json
import multiprocessing
import time
from dataclasses import asdict
from pathlib import Path

from dcfast.acquire.causes import CAUSES
from dcfast.acquire.files import Outcomes, shard_paths, write_shard, write_stats
from dcfast.acquire.memory import arrow_of_the_system
from dcfast.acquire.options import ImageOptions, WebOptions
from dcfast.acquire.retry import FETCHED_AGAIN, fetched_later
from dcfast.acquire.rows import RowRange
from dcfast.acquire.spool import Fetched, Spool
from dcfast.acquire.stats import ShardStats, stats_of
from dcfast.engine.piece import piece
from dcfast.images.resize import silence_codecs
from dcfast.storage.atomic import write_json
from dcfast.storage.records import Record, as_record, plain, read_record

STATE = "state/acquire"
WEB_FILE = f"{STATE}/web.json"
"""How images are asked for; no part of what a shard is."""
SUBSET_FILE = f"{STATE}/subset.json"
"""Where the subset lies; what it is, is part of the pool's settings."""


class _Place(Record):
    path: str | None


def live_path(out: Path, shard: int) -> Path:
    """Where a shard at work says how far it is."""
    return out / STATE / "live" / f"{shard:08d}.json"


def spool_path(out: Path, shard: int) -> Path:
    """The journal of a shard at work. It is removed once the shard's marker is there, which stands for it then."""
    return out / STATE / "spool" / f"{shard:08d}.spool"


@piece(version=1)
@arrow_of_the_system()
def fetch_shard(
    out: Path,
    shard: int,
    table: str,
    first: int,
    count: int,
    has_keys: bool,
    shard_size: int,
    uid_from: str,
    of_subset: bool,
    image: dict[str, object],
) -> ShardStats:
    """Fetches the rows of a shard and writes its files.

    Args:
        table, first, count: the rows, of a parquet file below ``out``.   has_keys: they have keys of their own.
        of_subset: those of the uids of ``SUBSET_FILE`` alone.   image: ``ImageOptions``.
    Memory: ``web.Web``, ``DECODERS`` images, and 1 kB a row. Disk: the images twice until the shard is whole.
    """
    from dcfast.acquire.fetching import fetch_rows

    began = time.time()
    if multiprocessing.parent_process() is not None:  # the libraries of codecs write what they like to the terminal
        silence_codecs()
    chosen = as_record(image, ImageOptions, "image options")
    subset = read_record(out / SUBSET_FILE, _Place).path if of_subset else None
    rows_of = RowRange(str(out / table), first, count, None if has_keys else shard, shard_size, uid_from, subset)
    schema, rows = rows_of.read()
    identity = json.dumps([table, first, count, has_keys, shard_size, uid_from, of_subset, image], sort_keys=True)
    spool = Spool(spool_path(out, shard), hashlib.sha256(identity.encode()).hexdigest())
    try:
        for number, cause in fetched_later(out, shard, rows).items():
            if number not in spool:
                spool.add(Fetched(number, CAUSES[cause].status, cause, FETCHED_AGAIN), b"")
        if any(number not in spool for number in rows.numbers):
            web = as_record(read_record(out / WEB_FILE, dict[str, object]), WebOptions, str(out / WEB_FILE))
            asyncio.run(fetch_rows(rows, spool, chosen, web, live_path(out, shard)))
        found = Outcomes(rows, spool)
        write_shard(out, shard, found, schema, chosen)
        stats = stats_of(found)
        own = {"causes": stats.causes, "drifted": stats.drifted, "attempts": stats.attempts}
        write_stats(shard_paths(out, shard)[2], found, began, time.time(), own)
    finally:
        spool.close()
        live_path(out, shard).unlink(missing_ok=True)
    return stats


def subset_file(out: Path, path: str | None) -> None:
    """Writes down where the subset lies."""
    write_json(out / SUBSET_FILE, plain(_Place(path)))


def web_file(out: Path, options: WebOptions) -> None:
    """Writes down how images are asked for."""
    write_json(out / WEB_FILE, asdict(options))
