"""``--dry-run``: what a run would do, in pieces, bytes and estimated time, without doing any of it."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from dcfast.evaluate.folders import evalset_tars
from dcfast.index.metadata import count_metadata_rows
from dcfast.rundir.run_dir import Run, Settings
from dcfast.rundir.stage_table import STAGES
from dcfast.scales import scale
from dcfast.stages.teacher import RECIPE

__all__ = ["describe", "plan"]

# Bytes a second and core, as measured on one 2.x GHz server core with warm caches. An estimate says the order of
# magnitude: disks and networks are often the limit. Decoding goes by bytes of JPEG, evaluation by bytes of parquet.
RATES = {"index": 2e9, "signatures": 60e6, "filter": 8e6, "reshard": 600e6, "verify": 1e9}
# Of the stages that run models, as measured at tiny on two cores: training, and the others as a share of it. Features
# go by rows of the pool: a third of what training on as many samples takes, and decoding, which on a CPU is most of it.
SECONDS_A_SAMPLE_ON_CPU = 1.5e-3
WORLD_BYTES, WORLD_SECONDS = 1e4, 3.5e-3  # a pair of the built-in world
FEATURES_SHARE, FEATURES_SHARE_ON_CPU, EVALUATE_SHARE = 0.3, 1.8, 0.02


def _size(paths: list[str]) -> int:
    return sum(os.path.getsize(p) for p in paths)


def plan(out: Path, settings: Settings, workers: int, stages: Sequence[str] = STAGES) -> dict[str, Any]:
    """The plan as data: pool counts, and for each stage pieces, bytes read, bytes written at most, seconds.

    Args:
        stages: names of those that would run; of these, the ones that this run has are planned.
    """
    run = Run(Path(os.path.abspath(out)), settings)
    run.look_for_shards(stages[-1])
    if run.is_world and not run.has_summary("world"):
        return {"world": True, "stages": [], "out": str(run.out)}
    pool = run.pool
    shard_bytes = _size([pool.shard_path(n) for n in pool.shards])
    metadata_bytes = _size(pool.metadata)
    rows = sum(count_metadata_rows(path) for path in pool.metadata)
    eval_bytes = 0
    evalsets = 0
    if run.evalset_dir is not None:
        found = evalset_tars(run.evalset_dir)
        evalsets, eval_bytes = len(found), _size([t for _, tars in found for t in tars])

    def stage(name: str, pieces: int, read: int, write: int) -> dict[str, Any]:
        return {
            "stage": name,
            "pieces": pieces,
            "read": read,
            "write": write,
            "seconds": read / RATES.get(name, 1e9) / workers,
        }

    return {
        "world": False,
        "out": str(run.out),
        "shards": len(pool.shards),
        "shard_bytes": shard_bytes,
        "metadata_files": len(pool.metadata),
        "metadata_rows": rows,
        "evalsets": evalsets,
        "gpu_hours": _gpu_hours(run) if "train" in stages else None,
        "stages": [
            one
            for one in _all_stages(run, stage, rows, shard_bytes, metadata_bytes, evalsets, eval_bytes)
            if one["stage"] in stages
        ],
        "free_bytes": shutil.disk_usage(_existing(run.out)).free,
    }


def _all_stages(
    run: Run,
    stage: Callable[[str, int, int, int], dict[str, Any]],
    rows: int,
    shard_bytes: int,
    metadata_bytes: int,
    evalsets: int,
    eval_bytes: int,
) -> list[dict[str, Any]]:
    segments, groups = len(run.pool.segments()), len(run.pool.metadata_groups())
    outputs = rows // run.settings.shard_size
    return [
        stage("index", segments + 1, shard_bytes, 100 * rows),
        stage("signatures", segments + evalsets, shard_bytes + eval_bytes, 40 * rows),
        *_features(run, segments, groups, shard_bytes, rows),
        stage("decontaminate", segments + 2, 64 * rows, 0),
        stage("filter", 2 * groups + segments + 4, metadata_bytes, 90 * rows),
        stage("reshard", segments + outputs + 2, shard_bytes, shard_bytes),
        stage("verify", outputs + 1, 2 * shard_bytes, 0),
        *_training(run, evalsets, eval_bytes),
        stage("report", 1, 0, 2_000_000),
    ]


def _trainings(run: Run) -> int:
    return 0 if not run.settings.train else 1 if run.compare is None else 2


def _gpu_hours(run: Run) -> float | None:
    """Of all trainings, from the paper's figure for the scale; None where it gives none."""
    recipe = scale(run.settings.scale)
    if recipe.gpu_hours is None:
        return None
    return _trainings(run) * recipe.gpu_hours * _samples_seen(run) / recipe.samples_seen


def _seconds_a_sample(run: Run) -> float:
    """Of the training: one sample, forth and back."""
    recipe = scale(run.settings.scale)
    return SECONDS_A_SAMPLE_ON_CPU if recipe.gpu_hours is None else 3600 * recipe.gpu_hours / recipe.samples_seen


def _samples_seen(run: Run) -> int:
    return run.settings.samples_seen or scale(run.settings.scale).samples_seen


def _on_models(name: str, pieces: int, read: int, write: int, seconds: float) -> dict[str, Any]:
    return {"stage": name, "pieces": pieces, "read": read, "write": write, "seconds": seconds}


def _features(run: Run, segments: int, groups: int, shard_bytes: int, rows: int) -> list[dict[str, Any]]:
    found = []
    if run.asks_for("teacher"):
        seconds = SECONDS_A_SAMPLE_ON_CPU * RECIPE["samples_seen"]
        found.append(_on_models("teacher", 1, 0, 100_000_000, seconds))
    if run.asks_for("features"):
        size = 2 * rows * len(run.features) * 768 * 2
        models = len(set(run.features.values()))
        share = FEATURES_SHARE if scale(run.settings.scale).gpu_hours else FEATURES_SHARE_ON_CPU
        seconds = share * _seconds_a_sample(run) * rows * models
        found.append(_on_models("features", segments + groups, shard_bytes, size, seconds))
    return found


def _training(run: Run, evalsets: int, eval_bytes: int) -> list[dict[str, Any]]:
    times = _trainings(run)
    seconds = times * _seconds_a_sample(run) * _samples_seen(run)
    found = []
    if run.asks_for("train"):
        found.append(_on_models("train", times, 0, 0, seconds))
    if run.asks_for("evaluate"):
        pieces, read = times * evalsets, times * eval_bytes
        found.append(_on_models("evaluate", pieces, read, 0, EVALUATE_SHARE * seconds))
    return found


def _existing(path: Path) -> Path:
    while not path.exists():
        path = path.parent
    return path


def _amount(size: float) -> str:
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if size < 1000 or unit == "TB":
            return f"{size:,.0f} {unit}" if unit in ("B", "kB", "MB") else f"{size:,.1f} {unit}"
        size /= 1000
    raise AssertionError


def _time(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:,.1f} h"


def describe(
    out: Path, settings: Settings, workers: int, stages: Sequence[str] = STAGES, done: Sequence[str] = ()
) -> str:
    """The plan in words; ``stages`` as for ``plan``, and ``done`` those of them that this very run has been through."""
    if done:
        again = "the run looks whether what they read has changed since, and redoes what has"
        been = f"{len(done)} stages have been run ({', '.join(done)}); {again}"
        left = [name for name in stages if name not in done]
        if not left:
            return f"plan for {os.path.abspath(out)}\nnothing is to be done: its {been}"
        return f"{describe(out, settings, workers, left)}\nalready done: {been}"
    p = plan(out, settings, workers, stages)
    trains = "train" in stages
    run = Run(Path(os.path.abspath(out)), settings)
    head = f"plan for {p['out']} (nothing is done)\nsettings: {json.dumps(asdict(settings), ensure_ascii=False)}"
    if p["world"]:
        n = run.world_spec.rows
        others = ", ".join(name for name in stages if name != "world")
        then = f"then {others}" if others else "and nothing else"
        how = f", with {_trainings(run)} trainings, a few minutes; no GPU is needed" if trains else "; no training"
        return (
            f"{head}\nthe built-in world has not been rendered yet: {n:,} pairs, about {_amount(WORLD_BYTES * n)}, "
            f"about {_time(WORLD_SECONDS * n)} of a core; "
            f"{then}{how}"
        )
    lines = [
        head,
        f"pool: {p['shards']:,} shards ({_amount(p['shard_bytes'])}), {p['metadata_files']:,} metadata files, "
        f"{p['metadata_rows']:,} rows; {p['evalsets']} evaluation sets; {workers} workers",
        f"{'stage':<15}{'pieces':>9}{'reads':>12}{'writes at most':>16}{'about':>10}",
    ]
    lines += [
        f"{s['stage']:<15}{s['pieces']:>9,}{_amount(s['read']):>12}{_amount(s['write']):>16}{_time(s['seconds']):>10}"
        for s in p["stages"]
    ]
    total = sum(s["seconds"] for s in p["stages"])
    hours = p["gpu_hours"]
    cost = f"{_trainings(run)} trainings" if trains and _trainings(run) else "no training in this plan, 0 GPU-hours"
    if hours:
        cost += f", about {hours:,.0f} A100 GPU-hours (times are those of one GPU)"
    lines.append(f"in all about {_time(total)}; {cost}; free on the disk: {_amount(p['free_bytes'])}")
    return "\n".join(lines)
