"""``--dry-run``: what a run would do, in pieces, bytes and estimated time, without doing any of it."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from dcfast.evaluate.tasks import compared_sets
from dcfast.index.metadata import count_metadata_rows
from dcfast.rundir.run_dir import Run
from dcfast.rundir.settings import Settings
from dcfast.rundir.stage_table import STAGES
from dcfast.scales import scale
from dcfast.stages.teacher import RECIPE

# Bytes a second and core, as measured on one 2.x GHz server core with warm caches. An estimate says the order of
# magnitude: disks and networks are often the limit. Decoding goes by bytes of JPEG, evaluation by bytes of parquet.
RATES = {"index": 2e9, "signatures": 60e6, "filter": 8e6, "reshard": 600e6, "verify": 1e9}
# Of the stages that run models, as measured at tiny on two cores: training, and the others as a share of it. Features
# go by rows of the pool: a third of what training on as many samples takes, and decoding, which on a CPU is most of it.
SECONDS_A_SAMPLE_ON_CPU = 1.5e-3
WORLD_BYTES, WORLD_SECONDS = 1e4, 3.5e-3  # a pair of the built-in world
FEATURES_SHARE, FEATURES_SHARE_ON_CPU, EVALUATE_SHARE = 0.3, 1.8, 0.02


@dataclass(frozen=True)
class StagePlan:
    """A stage: pieces, bytes read, bytes written at most, seconds."""

    stage: str
    pieces: int
    read: int
    write: int
    seconds: float


@dataclass(frozen=True)
class Plan:
    """Counts of the pool, what it costs on A100 GPUs where that is known, and the stages."""

    shards: int
    shard_bytes: int
    metadata_files: int
    metadata_rows: int
    evalsets: int
    gpu_hours: float | None
    stages: list[StagePlan]
    free_bytes: int


def plan(out: Path, settings: Settings, workers: int, stages: Sequence[str] = STAGES) -> Plan | None:
    """The plan as data; None where the built-in world has not been rendered yet.

    Args:
        stages: names of those that would run; of these, the ones that this run has are planned.
    """
    run = Run(Path(os.path.abspath(out)), settings)
    run.look_for_shards(stages[-1])
    if run.is_world and not run.has_summary("world"):
        return None
    pool = run.pool
    shard_bytes = pool.bytes_of(pool.shards)
    rows = sum(map(count_metadata_rows, pool.metadata))
    sets = [] if run.evalset_dir is None else [tars for _, tars in compared_sets(run.evalset_dir)]
    eval_bytes = sum(os.path.getsize(tar) for tars in sets for tar in tars)
    segments, groups, outputs = len(pool.segments()), len(pool.metadata_groups()), rows // settings.shard_size
    metadata_bytes = sum(map(os.path.getsize, pool.metadata))
    on_disk = [
        ("index", segments + 1, shard_bytes, 100 * rows),
        ("signatures", segments + len(sets), shard_bytes + eval_bytes, 40 * rows),
        ("decontaminate", segments + 2, 64 * rows, 0),
        ("filter", 2 * groups + segments + 4, metadata_bytes, 90 * rows),
        ("reshard", segments + outputs + 2, shard_bytes, shard_bytes),
        ("verify", outputs + 1, 2 * shard_bytes, 0),
        ("report", 1, 0, 2_000_000),
    ]
    planned = [
        *(StagePlan(*counts, counts[2] / RATES.get(counts[0], 1e9) / workers) for counts in on_disk),
        *_features(run, segments, groups, shard_bytes, rows),
        *_training(run, len(sets), eval_bytes),
    ]
    return Plan(
        shards=len(pool.shards),
        shard_bytes=shard_bytes,
        metadata_files=len(pool.metadata),
        metadata_rows=rows,
        evalsets=len(sets),
        gpu_hours=_gpu_hours(run) if "train" in stages else None,
        stages=sorted((s for s in planned if s.stage in stages), key=lambda s: STAGES.index(s.stage)),
        free_bytes=shutil.disk_usage(_existing(run.out)).free,
    )


def _trainings(run: Run) -> int:
    return 0 if not run.settings.train else 1 if run.compare is None else 2


def _gpu_hours(run: Run) -> float | None:
    """Of all trainings, from the paper's figure for the scale; None where it gives none."""
    recipe = scale(run.settings.scale)  # the frozen one, which the hours are of
    if recipe.gpu_hours is None:
        return None
    return _trainings(run) * recipe.gpu_hours * _samples_seen(run) / recipe.samples_seen


def _seconds_a_sample(run: Run) -> float:
    """Of the training: one sample, forth and back."""
    recipe = scale(run.settings.scale)
    return SECONDS_A_SAMPLE_ON_CPU if recipe.gpu_hours is None else 3600 * recipe.gpu_hours / recipe.samples_seen


def _samples_seen(run: Run) -> int:
    return run.settings.samples_seen or scale(run.settings.scale).samples_seen


def _features(run: Run, segments: int, groups: int, shard_bytes: int, rows: int) -> list[StagePlan]:
    planned = []
    if run.asks_for("teacher"):
        seconds = SECONDS_A_SAMPLE_ON_CPU * RECIPE["samples_seen"]
        planned.append(StagePlan("teacher", 1, 0, 100_000_000, seconds))
    if run.asks_for("features"):
        size = 2 * rows * len(run.features) * 768 * 2
        models = len(set(run.features.values()))
        share = FEATURES_SHARE if scale(run.settings.scale).gpu_hours else FEATURES_SHARE_ON_CPU
        seconds = share * _seconds_a_sample(run) * rows * models
        planned.append(StagePlan("features", segments + groups, shard_bytes, size, seconds))
    return planned


def _training(run: Run, evalsets: int, eval_bytes: int) -> list[StagePlan]:
    times = _trainings(run)
    seconds = times * _seconds_a_sample(run) * _samples_seen(run)
    planned = []
    if run.asks_for("train"):
        planned.append(StagePlan("train", times, 0, 0, seconds))
    if run.asks_for("evaluate"):
        pieces, read = times * evalsets, times * eval_bytes
        planned.append(StagePlan("evaluate", pieces, read, 0, EVALUATE_SHARE * seconds))
    return planned


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
    planned = plan(out, settings, workers, stages)
    trains = "train" in stages
    run = Run(Path(os.path.abspath(out)), settings)
    head = f"plan for {run.out} (nothing is done)\nsettings: {json.dumps(asdict(settings), ensure_ascii=False)}"
    if planned is None:
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
        f"pool: {planned.shards:,} shards ({_amount(planned.shard_bytes)}), {planned.metadata_files:,} metadata files, "
        f"{planned.metadata_rows:,} rows; {planned.evalsets} evaluation sets; {workers} workers",
        f"{'stage':<15}{'pieces':>9}{'reads':>12}{'writes at most':>16}{'about':>10}",
    ]
    lines += [
        f"{s.stage:<15}{s.pieces:>9,}{_amount(s.read):>12}{_amount(s.write):>16}{_time(s.seconds):>10}"
        for s in planned.stages
    ]
    total = sum(s.seconds for s in planned.stages)
    hours = planned.gpu_hours
    cost = f"{_trainings(run)} trainings" if trains and _trainings(run) else "no training in this plan, 0 GPU-hours"
    if hours:
        cost += f", about {hours:,.0f} A100 GPU-hours (times are those of one GPU)"
    lines.append(f"in all about {_time(total)}; {cost}; free on the disk: {_amount(planned.free_bytes)}")
    return "\n".join(lines)
