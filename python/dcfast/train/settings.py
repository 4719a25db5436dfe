"""What a training is: settings, the recipe they resolve to, and what of it is not the scale's own."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from dcfast.process.caption_places import CaptionFrom, caption_departures, parse_captions
from dcfast.process.options import check_options, option
from dcfast.process.shared_options import (
    CACHE_DIR,
    CACHE_SIZE,
    CAPTION_FROM,
    CAPTION_WEIGHTS,
    COMPILE,
    COPY_TO,
    DECODER,
    DEVICE,
    EVALUATE_EVERY,
    EVALUATE_SETS,
    FSDP,
    LOSS,
    REPORT_TO,
    SEED,
)
from dcfast.rundir.settings import SET, Override
from dcfast.scales import RECIPE_FIELDS, SCALES, Scale, changed_recipe, recipe_departures, scale
from dcfast.storage.http import RemoteOptions
from dcfast.storage.paths import check_source, path_argument
from dcfast.storage.records import Record
from dcfast.train.reporters import check_reporters

PATH: dict[str, Any] = {"metavar": "DIR", "parse": path_argument}  # Any: words of an ``Option``
_DURATION = {"least": 0, "most": sys.float_info.max}  # not inf, which is no number of minutes


@dataclass(frozen=True)
class TrainSource:
    """Where samples come from: new shards, or an index with a subset. Both give the same batches.

    Attributes:
        shards: directory of ``*.tar``, as the reshard stage or DataComp's resharder writes them, or the URL of one.
        index: directory of index segments (or a run that has one in ``index/``), instead of ``shards``.
        shards_dir: with ``index``: the directory its shard names are relative to, or the URL of it.
        subset: with ``index``: the subset file.
        positions: with ``index``, instead of ``subset``: npy of u64 row ids in canonical order (``write_positions``).
        weight: how often a sample of this source is taken, relative to those of other sources.
    Example: ``TrainSource(index="index", shards_dir="pool", subset="subset.npy")``
    """

    shards: str | None = None
    index: str | None = None
    shards_dir: str | None = None
    subset: str | None = None
    positions: str | None = None
    weight: float = 1.0

    def __post_init__(self) -> None:
        if (self.shards is None) == (self.index is None):
            raise ValueError("a source needs either shards=DIR, or index=DIR with shards_dir and a subset")
        if self.index is not None and (self.subset is None) == (self.positions is None):
            raise ValueError(f"source index={self.index!r} needs either subset= or positions=")
        if self.index is not None and self.shards_dir is None:
            raise ValueError(f"source index={self.index!r} needs shards_dir=, the directory of the indexed shards")
        for name, place in (("shards", self.shards), ("index", self.index), ("shards_dir", self.shards_dir)):
            if place is not None:
                check_source(place, name)
        if not 0 < self.weight < float("inf"):
            raise ValueError(f"weight of a source must be a positive number; got {self.weight}")

    def __str__(self) -> str:
        return self.shards or f"{self.index} with {self.subset or self.positions}"


class Identity(Record, omit_defaults=True):
    """What decides the result of a training; workers, threads, the place of the files and saving do not.

    Attributes:
        sources: fingerprints; empty where they are not known yet.
        captions, caption_weights: where they come from, where that is not the member txt alone.
        weights_by: where the weights are not of samples.
    """

    recipe: dict[str, bool | int | float | str]
    scale: str
    seed: int
    resample: bool
    block: int
    window: int
    loss: str
    decoder: str
    weights: list[float]
    sources: list[str] = []
    captions: list[str] = []
    caption_weights: list[float] = []
    weights_by: str | None = None


def _check_least_1(values: object, *names: str) -> None:
    for name in names:
        if getattr(values, name) < 1:
            raise ValueError(f"{name} must be at least 1; got {getattr(values, name)}")


@dataclass(frozen=True)
class TrainSettings:
    """A training. JSON-able: ``asdict`` and ``dcfast.storage.records.as_record``.

    Attributes:
        sources: at least one.
        block, window: of the order, see ``dcfast.access.order``.
        The others are options: docs/options.md.
    Raises ValueError, by ``recipe``: an unknown field, or a value that makes no sense.
    Example: ``TrainSettings("trained", parse_sources("new_shards"), scale="small").recipe().model``
    """

    out: str = option("", "writes DIR/train; goes on with the training that is there", required=True, **PATH)
    sources: tuple[TrainSource, ...] = ()
    scale: str = option("tiny", "whose recipe is followed", choices=tuple(SCALES))
    overrides: Mapping[str, Override] = option(
        {}, replace(SET, help="depart from the recipe; the training is then marked as non-standard")
    )
    seed: int = option(0, SEED)
    resample: bool = option(
        True, "each sample once a pass, instead of drawing with replacement as DataComp does", flags=("--no-resample",)
    )
    accumulation: int = option(1, "micro-batches a step on each rank", least=1)
    loss: str = option("dcfast", LOSS)
    decoder: str = option("pil", DECODER)
    device: str = option("auto", DEVICE)
    block: int = 64
    window: int = 64
    save_every_minutes: float = option(
        10.0, "save a checkpoint every M minutes, too; the last two are kept; 0 = never", metavar="M", **_DURATION
    )
    save_every_steps: int | None = option(None, "the same every N steps", least=1)
    max_replaced: float = option(
        0.01,
        "of samples that cannot be used and are replaced; above it, within 4,096 samples or at the end, training "
        "stops; a part of those may have a few more by chance, but none with 0",
        metavar="SHARE",
        least=0,
        most=1,
    )
    rank_timeout: float = option(
        60.0,
        "until training ends without a sign of life from a rank, or samples for it, but for the first step; 0 = never",
        metavar="SECONDS",
        **_DURATION,
    )
    weights_by: str = option(
        "sample",
        "what a weight of a source is of: sample, each of its samples; shard, each of its shards, whatever they hold",
        choices=("sample", "shard"),
    )
    caption_from: list[str] = option([], CAPTION_FROM)
    caption_weights: list[float] = option([], CAPTION_WEIGHTS)
    cache_dir: str | None = option(None, CACHE_DIR)
    cache_size: float = option(100.0, CACHE_SIZE)
    copy_to: str | None = option(None, replace(COPY_TO, parse=path_argument))
    workers: int | None = option(
        None,
        "threads that read and decode ahead, per rank; changes no result",
        usual="by the number of cores",
        least=0,
    )
    compile: bool = option(False, COMPILE)
    fsdp: bool = option(False, FSDP)
    threads: int | None = option(None, "threads of torch on the CPU", usual="as torch chooses", least=1)
    log_every: int = option(10, "steps between lines of log.jsonl", least=1)
    report_to: list[str] | None = option(None, REPORT_TO)
    evaluate_every: int | None = option(None, EVALUATE_EVERY)
    evaluate_on: str | None = option(
        None, "with --evaluate-every: holds the evaluation sets (wds_*_test directories)", **PATH
    )
    evaluate_sets: list[str] | None = option(None, replace(EVALUATE_SETS, usual="all of --evaluate-on"))

    def __post_init__(self) -> None:
        self.recipe()
        check_options(self)
        if not self.sources:
            raise ValueError("sources must name at least one directory of shards, or index and subset")
        _check_least_1(self, "block", "window")
        check_reporters(self.report_to or ())
        if (self.evaluate_every is None) != (self.evaluate_on is None):
            raise ValueError(
                "evaluate_every (how often) and evaluate_on (the directory of evaluation sets) belong together; got "
                "one of them: give both, or none"
            )
        self.captions()
        if self.copy_to is not None:
            check_source(self.copy_to, "copy_to")
        is_weighed = len({s.weight for s in self.sources}) > 1 or (self.weights_by == "shard" and len(self.sources) > 1)
        if not self.resample and is_weighed:
            raise ValueError(
                "weights of sources need resample=True; without it each sample comes as often as any other"
            )

    def captions(self) -> tuple[CaptionFrom, ...]:
        """Where captions come from; ValueError where that makes no sense."""
        return parse_captions(self.caption_from, self.caption_weights)

    def remote(self) -> RemoteOptions:
        """How shards behind URLs are read: a server that is away for a moment is asked again for 45 s."""
        cache_bytes = int(self.cache_size * 1e9)
        return RemoteOptions(retries=30, deadline_s=45.0, cache_dir=self.cache_dir, cache_bytes=cache_bytes)

    def recipe(self) -> Scale:
        """The scale's recipe with the overrides; ValueError for an unknown field or a value that makes no sense."""
        return changed_recipe(scale(self.scale), self.overrides)

    def non_standard(self) -> list[str]:
        """In words, what departs from the scale's recipe; empty = standard. Rounding and hardware do not count."""
        departures = recipe_departures(scale(self.scale), self.recipe())
        departures += [] if self.resample else ["samples without replacement"]
        return departures + caption_departures(self.captions())

    def identity(self, sources: Sequence[str] = ()) -> Identity:
        """What training it is; with the fingerprints of its sources, where they are known."""
        recipe, values = asdict(self.recipe()), asdict(self)
        captions = [str(place) for place in self.captions()]
        is_txt = captions == ["txt"]
        return Identity(
            captions=[] if is_txt else captions,
            caption_weights=[] if is_txt else [place.weight for place in self.captions()],
            weights_by=None if self.weights_by == "sample" else self.weights_by,
            recipe={name: recipe[name] for name in RECIPE_FIELDS},
            weights=[source.weight for source in self.sources],
            sources=list(sources),
            **{name: values[name] for name in ("scale", "seed", "resample", "block", "window", "loss", "decoder")},
        )

    def shared(self) -> object:
        """What must be the same on every rank, for ``differences``: all but the workers, threads and cache of each."""
        values = asdict(replace(self, workers=None, threads=None, cache_dir=None, cache_size=100.0))
        return {**values, "sources": dict(enumerate(values["sources"]))}

    def recipe_hash(self) -> str:
        """SHA-256 of the recipe alone, hex."""
        return hashlib.sha256(json.dumps(self.identity().recipe, sort_keys=True).encode()).hexdigest()


def differences(first: object, other: object) -> list[tuple[str, object, object]]:
    """Where two nested objects of JSON differ: (name, value in the first, in the other), by name, parts after dots."""
    before, after = dict(_leaves(first)), dict(_leaves(other))
    names = sorted(before.keys() | after.keys())
    return [(n, before.get(n), after.get(n)) for n in names if before.get(n) != after.get(n)]


def _leaves(value: object, name: str = "") -> Iterator[tuple[str, object]]:
    if not isinstance(value, Mapping):
        yield name, value
        return
    for key, item in value.items():
        yield from _leaves(item, f"{name}.{key}" if name else str(key))


def parse_sources(shards: str, weights: str | None = None) -> tuple[TrainSource, ...]:
    """Several directories of shards as DataComp writes them: ``A::B``, with weights ``1::2`` or None.

    A source's weight is that of each of its samples: at equal weights every sample is as likely as any other; with
    ``weights_by="shard"`` of each of its shards.
    Raises ValueError: an empty directory, weights that are no numbers, or another number of them.
    Example: ``[source.weight for source in parse_sources("a::b", "1::2")] == [1, 2]``
    """
    directories = shards.split("::")
    numbers = ["1"] * len(directories) if weights is None else weights.split("::")
    if not all(directories):
        raise ValueError(f"shards {shards!r}: expected directories joined by '::'; one is empty")
    if len(numbers) != len(directories):
        raise ValueError(f"weights {weights!r}: expected {len(directories)} numbers joined by '::', one a directory")
    try:
        values = [float(w) for w in numbers]
    except ValueError:
        raise ValueError(f"weights {weights!r}: expected numbers joined by '::'") from None
    return tuple(TrainSource(shards=d, weight=w) for d, w in zip(directories, values, strict=True))
