"""How fast this machine is, by short trials of the code that a run is made of: what ``--dry-run`` reckons with.

Trials take some tenths of a second each, those of models seconds (``dcfast.run.model_probes``). What is tried is the
pool's own first shard; where the built-in world is not rendered yet, shards of it are painted into a temporary folder.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from dcfast.features.spec import feature_models
from dcfast.filters import compile_filter
from dcfast.images.signatures import image_signatures
from dcfast.index.build import write_segment
from dcfast.index.metadata import open_metadata, parse_uids
from dcfast.index.segments import Segment
from dcfast.models.devices import count_gpus, resolve_device
from dcfast.run.model_probes import (
    TRIAL_SECONDS,
    device_name,
    embed_seconds,
    model_size,
    repeat_for_a_while,
    step_seconds,
)
from dcfast.rundir.run_dir import Run
from dcfast.scales import Scale
from dcfast.stages.filter.outcomes import resolve_expression
from dcfast.stages.teacher import teacher_model, teacher_recipe
from dcfast.storage.http import PATIENT
from dcfast.storage.inputs import open_input
from dcfast.storage.ranges import RemoteShard
from dcfast.storage.temporary import temporary_folder
from dcfast.uids.sets import UID_DTYPE
from dcfast.world.plan import PoolPiece
from dcfast.world.spec import WorldSpec

TRIED_ROWS = 32  # of a painted shard
TRIED_PICTURES = 16  # at a time
TRIED_METADATA = 4096  # rows of a batch that is filtered at a time
READ_BYTES = 1 << 26


@dataclass
class Rates:
    """Seconds a unit of work, on one core but for those of models; 0.0 where it was not tried.

    Attributes:
        render: a pair of the built-in world.   index, read: a byte of shards.   picture: one decoded and hashed.
        filter: a metadata row.   train: a sample of a training step, by all of the device.
        embed: model -> a pair through it, of one process.   decode: model -> a pair decoded and tokenized for it.
        reckoned: models too large for their embeddings to be tried.   gpus: of this machine, where models run on them.
        picture_bytes, pair_bytes: of the shard that was tried, on average.
        how: what was tried, in words.
    """

    render: float = 0.0
    index: float = 0.0
    read: float = 0.0
    picture: float = 0.0
    filter: float = 0.0
    train: dict[str, float] = field(default_factory=dict)
    embed: dict[str, float] = field(default_factory=dict)
    decode: dict[str, float] = field(default_factory=dict)
    reckoned: list[str] = field(default_factory=list)
    gpus: int = 0
    picture_bytes: float = 0.0
    pair_bytes: float = 0.0
    how: list[str] = field(default_factory=list)


_TRIED_BYTES = 16 << 20
"""Of a shard behind a URL."""


@contextmanager
def _tried_shard(run: Run, rates: Rates) -> Iterator[Path]:
    """The shard that is tried: the pool's first, or one that is painted for it."""
    if run.settings.shards_from is not None:
        with temporary_folder("dcfast-probe-shard-") as folder:
            yield _begin_of(run.pool.shard_path(run.pool.shards[0]), folder / run.pool.shards[0])
        return
    if not run.is_world or run.has_summary("world"):
        yield Path(run.pool.shard_path(run.pool.shards[0]))
        return
    from dcfast.world.render import render_piece

    changes = {"rows": 2 * TRIED_ROWS, "rows_per_shard": TRIED_ROWS}
    spec = WorldSpec.from_json({**run.world_spec.to_json(), **changes})
    with temporary_folder("dcfast-probe-world-") as folder:
        render_piece(PoolPiece(spec=spec, shard=0), folder)  # loads what the next one has loaded
        started = time.monotonic()
        render_piece(PoolPiece(spec=spec, shard=1), folder)
        rates.render = (time.monotonic() - started) / TRIED_ROWS
        yield folder / "pool/shards/00000001.tar"


def _begin_of(url: str, path: Path) -> Path:
    """A copy of the first MB of a shard behind a URL."""
    source = RemoteShard(url, PATIENT)
    size, _ = source.open()
    path.write_bytes(source.read(0, min(size, _TRIED_BYTES)) or b"")
    return path


def measure(run: Run, stages: Sequence[str]) -> Rates:
    """The rates that the estimates of some stages need.

    Cost: some tenths of a second each; of a model as long as ``dcfast.run.model_probes`` may try it. One shard is
    indexed whole.
    """
    rates = Rates()
    if "filter" in stages and (not run.is_world or run.has_summary("world")):
        _try_filter(run, rates)
    if run.metadata_only:
        return rates
    with _tried_shard(run, rates) as shard, temporary_folder("dcfast-probe-") as folder:
        size = shard.stat().st_size
        name = shard.name if rates.render == 0.0 else f"a painted shard of {TRIED_ROWS} pairs"
        rates.index = repeat_for_a_while(lambda: _index(shard, folder / "tried.dcx", size))
        rates.read = repeat_for_a_while(lambda: _read(shard))
        segment = Segment.open(folder / "tried.dcx")
        _try_pictures(segment, shard, rates)
        rates.pair_bytes = size / max(segment.num_samples, 1)
        rates.how.append(f"reading, indexing and decoding of {name}, on one core")
        _try_models(run, stages, segment, str(shard.parent), rates)
    return rates


def _try_models(run: Run, stages: Sequence[str], segment: Segment, shard_dir: str, rates: Rates) -> None:
    models = _models(run, stages)
    if not models:
        return
    device = resolve_device(run.settings.device)
    steps: list[str] = []
    embeddings = rates.reckoned
    rates.gpus = count_gpus(device)
    for model, recipe in models.items():
        if recipe is not None:
            least = replace(recipe, samples_seen=recipe.global_batch, checkpoints=1)  # of any length the same
            rates.train[model] = step_seconds(least, run.settings.loss, device, steps)
        decode, embed = embed_seconds(model, device, segment, shard_dir, embeddings)
        rates.decode[model], rates.embed[model] = decode or rates.picture, embed
    place = device_name(device)
    if tried := [model for model in models if model not in steps and model not in embeddings]:
        rates.how.append(f"training steps and embeddings of {', '.join(tried)} on {place}")
    kinds = (("training steps", rates.train, steps, embeddings), ("embeddings", rates.embed, embeddings, steps))
    for what, timed, reckoned, other in kinds:
        if alone := [model for model in other if model in timed and model not in reckoned]:
            rates.how.append(f"{what} of {', '.join(alone)} on {place}")
        for model in reckoned:
            millions = f"{model_size(model).parameters / 1e6:,.0f} million parameters"
            rates.how.append(
                f"{what} of {model}, too large to be tried in {TRIAL_SECONDS:.0f} s, by its {millions} and the rate of "
                f"matrix products on {place}"
            )


def _index(shard: Path, output: Path, size: int) -> int:
    write_segment([(str(shard), shard.name)], output, sync=False)
    return size


def _read(shard: Path) -> int:
    with open_input(shard) as file:
        return len(file.read(READ_BYTES))


def _try_pictures(segment: Segment, shard: Path, rates: Rates) -> None:
    place, offset, size = segment.image_places()
    rows = np.flatnonzero(place >= 0)
    if not len(rows):
        return
    chunks = iter(np.array_split(rows, -(-len(rows) // TRIED_PICTURES)))

    def some() -> int:
        chosen = next(chunks, rows[:0])
        if len(chosen):
            image_signatures(shard, offset[chosen].astype(np.uint64), size[chosen].astype(np.uint64), threads=1)
        return len(chosen)

    rates.picture = repeat_for_a_while(some)
    rates.picture_bytes = float(size[rows].mean())


def _try_filter(run: Run, rates: Rates) -> None:
    """The metadata's rows through the run's own filter, where its columns are there and it has no clusters to make."""
    path, rule = run.pool.metadata[0], run.settings.uid_from
    compiled = compile_filter(resolve_expression(run)[0])
    with open_metadata(path, rule) as file:
        can_try = not compiled.clusters and set(compiled.column_names) <= set(file.schema.names)
        columns = list(dict.fromkeys(["uid", *(compiled.column_names if can_try else ())]))
        batches = file.batches(columns, TRIED_METADATA)
        thresholds = {quantile.key: "0.0" for quantile in compiled.quantiles}
        sets = {name: np.empty(0, UID_DTYPE) for name in compiled.uid_sets}

        def some() -> int:
            batch = next(batches, None)
            if batch is None:
                return 0
            uids, _ = parse_uids(batch)
            if can_try:
                scores = {file.key: np.zeros(len(uids)) for file in compiled.scores}
                compiled.evaluate(batch, thresholds, sets, uids, scores=scores)
            return len(uids)

        rates.filter = repeat_for_a_while(some)
    what = "the filter" if can_try else "the uids alone (the filter's columns are made by the run)"
    if can_try and compiled.scores:
        what += " (zeros for its scores of files, whose join is not reckoned)"
    if compiled.sampling is not None:
        what += " (the draw of its copies is not reckoned)"
    rates.how.append(f"{what} on rows of {Path(path).name}")


def _models(run: Run, stages: Sequence[str]) -> dict[str, Scale | None]:
    """The models that stages run, and the recipe by which they are trained; of two, the run's own."""
    models: dict[str, Scale | None] = {}
    if "features" in stages:
        models |= {teacher_model() if m.is_teacher else m.name: None for m in feature_models(run.features)}
    if "teacher" in stages:
        models[teacher_model()] = teacher_recipe()
    recipe = run.settings.recipe()
    if "train" in stages or "evaluate" in stages:
        models[recipe.model] = recipe if "train" in stages else models.get(recipe.model)
    return models
