"""Shards that img2dataset made: taken as they are where their rows are those of the lists; and why a row failed."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from dcfast.acquire.causes import FAILED_RESIZE, SUCCESS, cause_of_status
from dcfast.acquire.files import data_path, shard_paths
from dcfast.acquire.options import ImageOptions
from dcfast.acquire.rows import Row, RowRange
from dcfast.errors import RunError
from dcfast.index.metadata import METADATA
from dcfast.storage.parquet import ParquetFile
from dcfast.storage.records import Count, Record, read_record

if TYPE_CHECKING:
    import pyarrow as pa

UNTOLD = "foreign"
"""The cause of a row of a shard whose sidecar does not say it."""
_REMOVE = "remove the shard, and it is fetched again"
_TEXTS: tuple[tuple[str, str], ...] = (
    (r"X-Robots-Tag", "opt_out"),
    (r"hash mismatch", "hash_mismatch"),
    (r"unknown url type|no host given", "invalid_url"),
    (r"Errno -3\]|Temporary failure in name resolution", "dns_temporary"),
    (r"Errno -[25]\]|Name or service not known|No address associated", "dns_not_found"),
    (r"timed out", "timeout"),
    (r"CERTIFICATE_VERIFY_FAILED|\[SSL", "tls"),
    # its own fault: it quotes no URL
    (r"can't encode|can't contain control characters", "unforeseen"),
)
"""What Python's exceptions say; of anything else the connection failed."""
_HTTP = re.compile(r"HTTP Error (\d{3})")


class ForeignStats(Record):
    """``_stats.json`` of img2dataset's; ours has a field of its own."""

    count: Count
    successes: Count
    dcfast: object = None


class ForeignShard(NamedTuple):
    """A shard that another tool made whole: rows, those with an image, cause -> rows of the others."""

    rows: int
    successes: int
    causes: Counter[str]


def own_shard(out: Path, numbers: Sequence[int]) -> Path | None:
    """The sidecar of the first or the last shard of these that this tool made whole; None where another did."""
    for number in {*numbers[:1], *numbers[-1:]}:
        _, sidecar, stats, _ = shard_paths(out, number)
        if stats.exists() and read_record(stats, ForeignStats, advice=_REMOVE).dcfast is not None:
            return sidecar
    return None


def foreign_shard(out: Path, rows_of: RowRange, image: ImageOptions) -> ForeignShard | None:
    """What a shard has that another tool made whole, with the keys and URLs that it would have here; None: there is
    none.

    RunError: it has others: its lists, their order or the shard size were different.
    """
    shard, form = rows_of.shard or 0, image.output_format
    data, (_, sidecar, stats, _) = data_path(out, shard, form), shard_paths(out, shard)
    if not stats.exists():
        return None
    counts = read_record(stats, ForeignStats, advice=_REMOVE)
    if counts.dcfast is not None:  # of ours, before its marker was written
        return None
    if form != "parquet" and not data.exists():
        raise RunError(
            f"{data} is missing, though {stats.name} is there: bring it back, or remove both, and it is fetched; or "
            "give the --output-format that the shard has"
        )
    try:
        with ParquetFile(sidecar, METADATA) as file:
            names = ["key", "url", *([image.encode_format] if form == "parquet" else [])]
            lacking = [name for name in names if file.schema.names.count(name) != 1]
            if lacking:
                raise RunError(
                    f"{sidecar} has no column {lacking[0]}: no tool that is known made it, or in another "
                    "--output-format. Move it away, or give that one"
                )
            theirs = file.read(["key", "url"])
    except FileNotFoundError:
        raise RunError(f"{sidecar} is missing, though {stats.name} is there; remove both, and it is fetched") from None
    expected = {row.key: row.url for row in rows_of.read()[1]}
    found = dict(zip(theirs["key"].to_pylist(), theirs["url"].to_pylist(), strict=True))
    if found != expected:
        wrong = next((key for key in found if expected.get(key, "") != found[key]), "a key that lacks")
        raise RunError(
            f"{sidecar} was made of other lists, in another order, or with another shard size: {wrong}. The ids of new "
            "shards would not agree with its; give another --out, or the lists and --shard-size that it was made with"
        )
    causes = Counter(_causes(sidecar).values())
    if rest := counts.count - counts.successes - causes.total():
        causes = Counter({UNTOLD: counts.count - counts.successes}) if rest < 0 else causes + Counter({UNTOLD: rest})
    return ForeignShard(counts.count, counts.successes, causes)


def foreign_failures(out: Path, rows_of: RowRange) -> tuple[pa.Schema, list[tuple[Row, str]]]:
    """The rows of a shard of another tool that failed, in the order of their keys, and why; of any other shard none.

    Their texts, boxes and hashes are the list's, of whose columns the schema is. Errors: as of ``RowRange.read``.
    """
    import pyarrow as pa

    _, sidecar, stats, _ = shard_paths(out, rows_of.shard or 0)
    causes = _causes(sidecar) if stats.exists() and sidecar.exists() else {}
    if not causes:
        return pa.schema([]), []
    schema, rows = rows_of.read()
    return schema, [(row, causes[row.key]) for row in rows if row.key in causes]


def _causes(sidecar: Path) -> dict[str, str]:
    """Key -> why its row failed, of those that did; nothing where the sidecar has no such columns."""
    columns = ["key", "status", "error_message"]
    with ParquetFile(sidecar, METADATA) as file:
        if any(file.schema.names.count(name) != 1 for name in columns):
            return {}
        table = file.read(columns)
    rows = zip(*(table[name].to_pylist() for name in columns), strict=True)
    return {str(key): cause_of(str(status), str(text or "")) for key, status, text in rows if status != SUCCESS}


def cause_of(status: str, text: str) -> str:
    """Which of ``CAUSES`` img2dataset's ``status`` and ``error_message`` stand for."""
    if status == FAILED_RESIZE:
        return "by_rule" if re.search(r"too (?:small|large)", text) else "undecodable"
    if match := _HTTP.search(text):
        return cause_of_status(int(match[1]), asks_for_patience=False)
    return next((cause for pattern, cause in _TEXTS if re.search(pattern, text)), "connection")
