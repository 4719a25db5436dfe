"""Small tables, summaries and sources for the tests of the report."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
from dcfast.dedup.evidence import evidence_schema
from dcfast.rundir.layout import fate_schema
from dcfast.rundir.run_dir import Run
from dcfast.rundir.settings import Settings
from pool_builder import uid_of

NEEDED: dict[str, dict[str, Any]] = {
    "decontaminate": {"available": False, "uids": 0},
    "filter": {"filter": "no_filter", "fates": {}, "subset": None, "thresholds": None, "models": {}},
}
"""Fields that the summaries of stages always have."""


def run_of(out: Path, **settings: Any) -> Run:
    """A run over a given pool, which is not there; ``pool`` None is the built-in world."""
    return Run(out, Settings(**{"pool": str(out / "pool"), "compare": "no_filter", **settings}))


def write_summary(out: Path, stage: str, value: dict[str, Any]) -> None:
    (out / "state").mkdir(parents=True, exist_ok=True)
    (out / "state" / f"{stage}.json").write_text(json.dumps({**NEEDED.get(stage, {}), **value}))


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


def result(key: str, score: float | None, checkpoint: str, **changes: Any) -> dict[str, Any]:
    """A line of eval_results.jsonl."""
    usual = {
        "key": key,
        "dataset": key.title(),
        "metrics": {"main_metric": score},
        "main_metric_name": "acc1",
        "chance": 0.1,
        "kind": "classification",
        "benchmark": False,
        "complete": True,
        "pictures": 100,
        "unreadable": 0,
        "notes": [],
        "state": "the same pictures",
        "checkpoint": checkpoint,
    }
    return usual | changes


def trained(out: Path, checkpoint: str, lines: list[dict[str, Any]], **changes: Any) -> Path:
    """A run directory with a training that ended in ``checkpoint``, its log, and results."""
    summary = {
        "model": "dcfast-tiny",
        "scale": "tiny",
        "seed": 0,
        "samples_seen": 1_000,
        "steps": 10,
        "recipe": {"samples_seen": 1_000, "global_batch": 100},
        "recipe_hash": "a" * 64,
        "checkpoint": "train/checkpoints/epoch_1.pt",
        "checkpoint_sha256": checkpoint,
        "loss_first": 5.0,
        "loss_last": 1.0,
        "logit_scale": 15.0,
        "replaced": 0,
        "non_standard": [],
        "notes": [],
        "sources": [{"samples": 40}],
    }
    (out / "train").mkdir(parents=True, exist_ok=True)
    (out / "train" / "summary.json").write_text(json.dumps(summary | changes))
    log = [{"samples_seen": 100 * n, "loss": 5.0 - n / 2, "logit_scale": 14.0 + n / 10} for n in range(1, 9)]
    (out / "train" / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in log))
    (out / "eval_results.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (out / "state").mkdir(exist_ok=True)
    return out


def copies(samples: int, **evalsets: int) -> dict[str, Any]:
    """What the filter stage records of kept samples that are copies of evaluation pictures."""
    return {"samples": samples, "evalsets": evalsets}


def paired(
    out: Path,
    mine: dict[str, float | None],
    other: dict[str, float | None],
    *,
    seen: tuple[dict[str, Any] | None, dict[str, Any] | None] = (None, None),
    **changes: Any,
) -> Path:
    """A run and its comparison run with no_filter; ``changes`` are of the comparison's training, ``seen`` what the two
    trained on of evaluation pictures."""
    trained(out, "c" * 64, [result(key, score, "c" * 64) for key, score in mine.items()])
    compare = out / "compare" / "no_filter"
    trained(compare, "d" * 64, [result(key, score, "d" * 64) for key, score in other.items()], **changes)
    chosen = {"filter": "basic_filter", "subset": 40, "fates": {"kept": 40, "dropped": 60}}
    write_summary(out, "filter", {**chosen, "contaminated": seen[0]})
    everything = {"filter": "no_filter", "subset": 100, "fates": {"kept": 100}}
    write_summary(compare, "filter", {**everything, "contaminated": seen[1]})
    return out
