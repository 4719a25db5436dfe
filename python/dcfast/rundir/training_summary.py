"""What a training writes down beside its checkpoints, in ``OUT/train``: summary, times, and the lines of its log."""

from __future__ import annotations

from typing import ClassVar

from dcfast.rundir.summary import Summary
from dcfast.storage.records import Count, Record


class TrainedSource(Record):
    """One source of samples; the fingerprint is equal for shards and for an index with the subset of the same samples.

    Attributes:
        weight: how often each of its samples is taken, relative to those of other sources.
    """

    samples: Count = 0
    fingerprint: str = ""
    weight: float = 1.0


class DecoderDifference(Record):
    """Grey levels between the pixels of the training's decoder and Pillow's, on some of its own samples."""

    samples: Count
    mean: float
    largest: Count


class TrainingSummary(Summary):
    """``summary.json``: what was trained; equal settings give equal summaries.

    Attributes:
        checkpoint, checkpoints: the last one, and all that are there, relative to the training's ``out``.
        recipe: fields of ``Scale``, and ``resample``, ``loss`` and ``decoder``.
        non_standard: in words, what departs from the scale's recipe.
        replaced: samples that stand in for one that could not be used.
        decoder_difference: None for Pillow, whole pictures.
    """

    stage: ClassVar[str] = "train"

    model: str
    checkpoint: str
    checkpoint_sha256: str | None = None
    checkpoints: list[str] = []
    scale: str | None = None
    seed: int | None = None
    steps: Count | None = None
    samples_seen: Count | None = None
    recipe: dict[str, bool | int | float | str | None] = {}
    recipe_hash: str = ""
    non_standard: list[str] = []
    sources: list[TrainedSource] = []
    loss_first: float | None = None
    loss_last: float | None = None
    logit_scale: float | None = None
    replaced: Count = 0
    decoder_difference: DecoderDifference | None = None
    world_size: Count | None = None
    accumulation: Count | None = None
    notes: list[str] = []
    versions: dict[str, str] = {}


class TrainingTimes(Record, omit_defaults=True):
    """``timing.json``, of the last start that took a step: no part of a result, so apart from the summary.

    Attributes:
        decoded_by_pillow: pictures that the core left to Pillow, of all ranks in this start, by kind.
        dali_refused_batches, dali_refused_samples: what Pillow decoded instead, over all starts; None for other
            decoders.
    """

    seconds: float
    samples: Count
    samples_per_second: float
    world_size: Count | None = None
    workers: Count | None = None
    decoded_by_pillow: dict[str, Count] = {}
    dali_refused_batches: Count | None = None
    dali_refused_samples: Count | None = None


class LogLine(Record):
    """A line of ``log.jsonl``, which has the steps of all starts that were kept.

    Attributes:
        samples_seen, replaced: since the training began, over all ranks.
        loss: mean over the ranks.
        seconds: since the line before.
        wait: share of them in which the rank that waited longest had no data; None by an older version.
        memory: bytes that a rank has taken at most, of its GPU or, on the CPU, of its machine.
        gradient_norm: Euclidean, over all parameters and ranks; None where it is no number.
    """

    step: Count
    samples_seen: Count
    loss: float
    learning_rate: float
    logit_scale: float | None = None
    replaced: Count = 0
    world_size: Count = 1
    seconds: float = 0.0
    wait: float | None = None
    memory: Count | None = None
    gradient_norm: float | None = None


class EvaluationLine(Record):
    """A line of ``evaluations.jsonl``: scores of a checkpoint while the training went on (``--evaluate-every``).

    Attributes:
        scores: main metric by the key of the evaluation set.
    """

    step: Count
    checkpoint: str
    scores: dict[str, float]
