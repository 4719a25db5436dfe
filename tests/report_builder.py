"""Small tables, summaries and sources for the tests of the report."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa
from dcfast.report.collect import Source
from dcfast.stages.decontaminate import evidence_schema
from dcfast.stages.fates import fate_schema
from dcfast.stages.run_dir import Settings
from pool_builder import uid_of


def source_of(out: Path, **changes: Any) -> Source:
    values: dict[str, Any] = {"settings": asdict(Settings()), "shard_dir": out / "shards-of-pool", "world": False}
    return Source(out, **(values | changes))


def write_summary(out: Path, stage: str, value: dict[str, Any]) -> None:
    (out / "state").mkdir(parents=True, exist_ok=True)
    (out / "state" / f"{stage}.json").write_text(json.dumps(value))


def evidence(rows: list[tuple[int, str, str, int]]) -> Any:
    """A table of contamination: (row, evaluation set, method, distance) each."""
    return pa.Table.from_pylist(
        [
            {
                "shard": "00000000.tar",
                "row": row,
                "key": f"k{row}",
                "uid": uid_of(row),
                "evalset": name,
                "evalset_shard": "0.tar",
                "evalset_key": f"s{row}",
                "method": method,
                "distance": distance,
            }
            for row, name, method, distance in rows
        ],
        schema=evidence_schema(),
    )


def fates(rows: list[tuple[int, str, str | None]]) -> Any:
    return pa.Table.from_pylist(
        [
            {"shard": "00000000.tar", "row": n, "key": f"k{n}", "uid": uid_of(n), "fate": fate, "reason": reason}
            for n, fate, reason in rows
        ],
        schema=fate_schema(),
    )
