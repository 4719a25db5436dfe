"""What computing features costs, for ``--dry-run``: images a second and GPU-hours."""

from __future__ import annotations

from collections.abc import Sequence

from dcfast.features.spec import feature_models
from dcfast.run.model_probes import model_size
from dcfast.run.probes import Rates
from dcfast.rundir.run_dir import Run
from dcfast.stages.teacher import teacher_model

A100_RATE = 312e12
"""Operations a second in float16, by its maker."""
ASSUMED_SHARE = 0.3
"""Of them, that a model reaches in a forward pass."""


def feature_names(run: Run) -> list[str]:
    """The models that compute a run's features, by name."""
    return [teacher_model() if model.is_teacher else model.name for model in feature_models(run.features)]


def pair_seconds(rates: Rates, names: Sequence[str], cores: int) -> float:
    """Of a pair decoded once and taken through some models, where they were tried, by the whole machine.

    Pieces fill its cores, or decode on them ahead of the models on its GPUs.
    """
    decode = max((rates.decode.get(name, 0.0) for name in names), default=0.0)
    models = sum(rates.embed.get(name, 0.0) for name in names)
    return max(decode / cores, models / rates.gpus) if rates.gpus else (decode + models) / cores


def feature_words(run: Run, rows: int, seconds: float | None, rates: Rates, before: bool) -> str:
    """A line of the plan.

    Args:
        seconds: for all rows; None where they are not known.
        before: whether they are of the last time here.
    """
    names = feature_names(run)
    assumed = [name for name in names if name in rates.reckoned]
    origin = f"(assumed of {', '.join(assumed)}, by its arithmetic)" if assumed else "as tried here"
    if before:
        origin = "by the last time here"
    said = ["not measured here"]
    gpus = rates.gpus
    if seconds:
        said = [f"about {_figure(rows / seconds)} images a second {origin}"]
        if gpus:
            said.append(f"{_figure(gpus * seconds / 3600)} GPU-hours")
    if not (seconds and gpus):
        rate = A100_RATE * ASSUMED_SHARE / sum(model_size(name).operations for name in names)
        said.append(
            f"on an A100 {_figure(rate)} a second and {_figure(rows / rate / 3600)} GPU-hours (assumed: "
            f"{ASSUMED_SHARE:.0%} of its {A100_RATE / 1e12:.0f} TFLOP/s, and cores that decode as fast)"
        )
    together = " in one pass" if len(names) > 1 else ""
    return f"features by {', '.join(names)}{together}: {'; '.join(said)}"


def _figure(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.2g}"
