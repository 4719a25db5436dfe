"""The settings of a run: what makes it what it is. Each is written here once (``dcfast.process.options``)."""

from __future__ import annotations

import argparse
import math
from dataclasses import dataclass

from dcfast.dedup import options as duplicates
from dcfast.dedup.thresholds import MAX_DISTANCE, MAX_DISTANCE_256
from dcfast.process.caption_places import caption_departures, parse_captions
from dcfast.process.options import Option, option
from dcfast.process.shared_options import (
    CAPTION_FROM,
    CAPTION_WEIGHTS,
    DECODER,
    DEVICE,
    EVAL_LIMIT,
    EVAL_SETS,
    LOSS,
    PRECISION,
    SAMPLES_SEEN,
    SEED,
    UID_FROM,
)
from dcfast.scales import SCALES, Scale, changed_recipe, check_recipe_field, recipe_departures, scale
from dcfast.storage.json_files import parse_json
from dcfast.storage.paths import path_argument

TEACHER = "teacher"
"""The model of a feature column that means: the teacher of this run."""
NO_COMPARISON = "none"


def _features(words: list[str]) -> dict[str, str]:
    """``["l14=ViT-L-14:openai"]`` as prefix -> model; ``["none"]`` is {}."""
    models: dict[str, str] = {}
    for text in words if words != ["none"] else ():
        prefix, sign, model = text.partition("=")
        if not sign or not prefix or not model:
            raise ValueError(f"--features takes PREFIX=MODEL, e.g. l14=ViT-L-14:openai, or none; got {text!r}")
        if prefix in models:
            raise ValueError(f"--features: {prefix} is given twice; leave one out")
        models[prefix] = model
    return models


def _world(words: list[str]) -> dict[str, float]:
    """``["rows=3200"]`` as changes to the world's specification."""
    changes: dict[str, float] = {}
    for text in words:
        name, _, value = text.partition("=")
        try:
            number = parse_json(value)
        except ValueError:
            number = None
        if not isinstance(number, (int, float)) or not math.isfinite(number):
            raise ValueError(f"--world takes NAME=NUMBER, e.g. rows=3200; got {text!r}")
        changes[name] = number
    return changes


Override = bool | int | float | str
"""A value of a recipe's field."""


def _override(text: str) -> tuple[str, object]:
    """``learning_rate=1e-3`` as name and value; a value that is no JSON is text."""
    name, equals, value = text.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError(f"expected NAME=VALUE, e.g. learning_rate=1e-3; got {text!r}")
    try:
        check_recipe_field(name)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    try:
        return name, parse_json(value)
    except ValueError:
        return name, value


SET = Option(
    "change the frozen recipe on purpose: then it is no scale of DataComp's, and manifest, results and report say so",
    flags=("--set",),
    metavar="NAME=VALUE",
    parse=_override,
    append=True,
    gather=dict,
)


@dataclass(frozen=True)
class Settings:
    """What makes a run what it is; workers and engine are not part of it, since they change no byte.

    Attributes:
        features: {} for none; None is what suits the pool: both by the teacher in the built-in world, else none.
        uid_hashes: path -> XXH3-128 of the uid files that filters and ``teacher_uids`` name; set when a run is claimed.
        The others are options: docs/options.md.
    """

    scale: str = option("tiny", "of DataComp, or tiny", choices=tuple(SCALES))
    pool: str | None = option(
        None,
        "pool with shards/*.tar and metadata/*.parquet, or with both side by side as img2dataset writes them",
        metavar="DIR",
        usual="the built-in world",
        parse=path_argument,
    )
    shards_from: str | None = option(
        None,
        "the shards of --pool, where that has the metadata alone: the URL of their directory (s3://, gs://, hf://, "
        "https://)",
        metavar="URL",
    )
    evalsets: str | None = option(
        None,
        "evaluation sets, wds_*_test directories: contamination is looked for in them, and the model is scored",
        metavar="DIR",
        parse=path_argument,
    )
    filter: str | None = option(
        None, 'e.g. "basic_filter & clip_score(l14, fraction=0.3) & ~contaminated" (docs/filters.md)', metavar="EXPR"
    )
    seed: int = option(0, SEED)
    shard_size: int = option(10_000, "samples in an output shard", least=1)
    max_distance: int = option(
        MAX_DISTANCE, "perceptual hashes this close are contaminated", metavar="BITS", least=0, most=64
    )
    max_distance_256: int = option(
        MAX_DISTANCE_256, "the same of hashes of 256 bits", metavar="BITS", least=0, most=255
    )
    signatures: list[str] | None = option(
        None,
        "signature files of evaluation sets that are not at hand (dcfast evalsets sign): contamination is looked for "
        "by them, too",
        metavar="FILE",
        gather=lambda words: [path_argument(word) for word in words],
    )
    dedup: bool = option(False, "look for duplicates even where no filter asks for it (~duplicate)")
    dedup_against: list[str] | None = option(None, duplicates.AGAINST)
    dedup_methods: list[str] | None = option(None, duplicates.SEARCHED)
    dedup_max_distance: int = option(duplicates.DEFAULT_DISTANCE, duplicates.DISTANCE)
    dedup_max_distance_256: int = option(duplicates.DEFAULT_WIDE_DISTANCE, duplicates.WIDE_DISTANCE)
    dedup_variants: bool = option(False, duplicates.VARIANTS)
    dedup_chains: bool = option(False, duplicates.CHAINS)
    dedup_similarity: float = option(duplicates.DEFAULT_SIMILARITY, duplicates.SIMILARITY)
    dedup_embeddings: str = option(duplicates.EMBEDDINGS, duplicates.EMBEDDING)
    dedup_keep: str = option("largest", duplicates.KEPT)
    dedup_score: str = option(duplicates.SCORE_COLUMN, duplicates.SCORED)
    verify_images: bool = option(False, "decode every picture even where nothing else needs it")
    strict: bool = option(False, "a damaged shard is an error, not a note")
    features: dict[str, str] | None = option(
        None,
        "CLIP scores and embeddings to compute: b32 or l14 = NAME:PRETRAINED of open_clip (l14=ViT-L-14:openai), "
        "NAME:FILE, or teacher; none for none",
        metavar="PREFIX=MODEL",
        usual="both by the teacher in the built-in world, none for a pool",
        gather=_features,
    )
    uid_from: str = option("json", UID_FROM)
    teacher_uids: str | None = option(
        None,
        "subset file of trusted pairs of the pool: the teacher trains on them, and they are never kept",
        metavar="FILE",
        parse=path_argument,
    )
    train: bool = option(True, "the data half alone: no training, no evaluation", flags=("--no-train",))
    compare: str | None = option(
        None,
        "filter of a second training that the report shows beside this one, or none",
        metavar="EXPR",
        usual="no_filter at tiny, none elsewhere",
    )
    loss: str = option("dcfast", LOSS)
    device: str = option("auto", DEVICE)
    precision: str = option("auto", PRECISION)
    train_from: str = option(
        "index",
        "train from the pool and the subset, or from the new shards; the batches are the same",
        metavar="SOURCE",
        choices=("index", "shards"),
    )
    decoder: str = option("pil", DECODER)
    caption_from: list[str] | None = option(None, CAPTION_FROM)
    caption_weights: list[float] | None = option(None, CAPTION_WEIGHTS)
    keep_repeats: bool = option(
        False,
        "write a sample and train on it as often as metadata rows of its uid pass, as in DataComp, and not once",
    )
    samples_seen: int | None = option(None, SAMPLES_SEEN)
    sets: list[str] | None = option(None, EVAL_SETS)
    limit: int | None = option(None, EVAL_LIMIT)
    overrides: dict[str, Override] | None = option(None, SET)
    world: dict[str, int | float] | None = option(
        None,
        "changes to the built-in world's specification, e.g. rows=3200 (docs/world.md)",
        metavar="NAME=NUMBER",
        gather=_world,
    )
    uid_hashes: dict[str, str] | None = None

    @property
    def recipe_changes(self) -> dict[str, Override]:
        """What of the scale's recipe is changed."""
        changes = dict(self.overrides or {})
        return changes if self.samples_seen is None else {**changes, "samples_seen": self.samples_seen}

    def recipe(self) -> Scale:
        """The recipe that is followed. ValueError: a change of it makes no sense."""
        return changed_recipe(scale(self.scale), self.recipe_changes)

    def departures(self) -> list[str]:
        """In words, what of the recipe and its captions is not the scale's own; empty where nothing is."""
        captions = parse_captions(self.caption_from or [])
        return recipe_departures(scale(self.scale), self.recipe()) + caption_departures(captions)
