"""``python -m dcfast.run``: the workflow from a pool to a subset, a trained model, its scores and a report."""

from __future__ import annotations

from dcfast.run.comparison import run_branch
from dcfast.run.workflow import (
    decontaminate,
    dedup,
    evaluate,
    features,
    filter_metadata,
    index,
    main,
    report,
    reshard,
    run,
    signatures,
    stage,
    teacher,
    train,
    verify,
    world,
)

__all__ = [
    "decontaminate",
    "dedup",
    "evaluate",
    "features",
    "filter_metadata",
    "index",
    "main",
    "report",
    "reshard",
    "run",
    "run_branch",
    "signatures",
    "stage",
    "teacher",
    "train",
    "verify",
    "world",
]
