"""Acquisitions of tests: lists of URLs, and what became of their rows."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dcfast.acquire import AcquireOptions, AcquireSummary, ImageOptions, WebOptions, acquire_pool
from hostile_web import HostileWeb
from pool_builder import uid_of

CAPTION = "a drawing of row"


def write_list(path: Path, urls: Sequence[str | None], first: int = 0, **columns: Any) -> Path:
    """A list whose rows have the uids of ``first`` and on; ``columns`` come to url, text and uid, or replace them."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    numbers = range(first, first + len(urls))
    usual = {
        "uid": [uid_of(n) for n in numbers],
        "url": pa.array(urls, pa.string()),
        "text": [f"{CAPTION} {n}" for n in numbers],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    found = {name: values for name, values in {**usual, **columns}.items() if len(values)}
    pq.write_table(pa.table(found), path)
    return path


def web_of(web: HostileWeb, **changed: Any) -> WebOptions:
    """How the hostile web is asked for, quickly."""
    usual = {
        "allow_private": ["127.0.0.1/32", "::1/128"],
        "nameservers": [web.dns.address],
        "timeout": 1.5,
        "backoff": 0.05,
        "max_wait": 3.0,
        "host_rate": 0.0,
        "max_bytes": 3 << 20,
    }
    return WebOptions(**{**usual, **changed})


def acquire(
    out: Path, urls: Path, web: WebOptions | None = None, image: ImageOptions | None = None, **options: Any
) -> AcquireSummary:
    """A pool of a list; it says nothing."""
    found = {"workers": 1, "quiet": True, **options}
    summary = acquire_pool(AcquireOptions(out=str(out), urls=str(urls), **found), web, image)
    assert summary is not None
    return summary


def outcomes(out: Path) -> list[dict[str, Any]]:
    """What became of each row, of all shards in their order."""
    import pyarrow.parquet as pq

    return [row for path in sorted((out / "outcomes").glob("*.parquet")) for row in pq.read_table(path).to_pylist()]


def causes(out: Path) -> Counter[str]:
    """Cause -> rows, "" for those that succeeded."""
    return Counter(row["cause"] for row in outcomes(out))


def made(out: Path) -> dict[str, str]:
    """Name -> hash of the tars and sidecars of a pool, which depend on nothing but what servers answered."""
    paths = [*(out / "shards").glob("*.tar"), *(out / "shards").glob("*.parquet")]
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(paths)}
