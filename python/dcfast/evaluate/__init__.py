"""Evaluate a CLIP model: DataComp's 40 tasks, the built-in world's, and any set in the same layout.

``python -m dcfast.evaluate --model NAME --checkpoint FILE --evalsets DIR --out DIR``; see docs/evaluation.md.
"""

from __future__ import annotations

from dcfast.evaluate.evaluation import check_evalsets, evaluate_model, results_dir
from dcfast.evaluate.results import EvaluationSummary, Result
from dcfast.evaluate.tasks import EvalTask, datacomp_tasks, find_tasks

__all__ = [
    "EvalTask",
    "EvaluationSummary",
    "Result",
    "check_evalsets",
    "datacomp_tasks",
    "evaluate_model",
    "find_tasks",
    "results_dir",
]
