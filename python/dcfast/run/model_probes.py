"""How fast a device trains a model and computes its embeddings, by short trials with weights of seed 0.

A trial goes on for ``SECONDS``, or for one unit of work where that takes longer.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import asdict
from functools import lru_cache

from dcfast.features.embed import encode
from dcfast.features.pairs import CHUNK, SegmentPairs
from dcfast.images.decode import quiet
from dcfast.index.segments import Segment
from dcfast.models.clip import ClipModel, load_model
from dcfast.models.devices import one_thread
from dcfast.scales import RECIPE_FIELDS, Scale
from dcfast.train import TrainSettings, TrainSource
from dcfast.train.learner import create_learner
from dcfast.train.ranks import Ranks

SECONDS = 0.3
STEP_SECONDS = 1.0  # of training steps, which are most of a run
BATCH_ON_GPU = 256  # samples a step that is tried
BATCH_ON_CPU = 128  # of small models: as in their recipe
BATCH_OF_LARGE = 1  # of a model that takes pictures of 224 pixels, on the processor: a sample takes seconds there


def repeat_for_a_while(work: Callable[[], int], least: float = SECONDS) -> float:
    """Seconds a unit of a work that returns how many it did; it is done at least once."""
    done, started = 0, time.monotonic()
    while True:
        more = work()
        done += more
        spent = time.monotonic() - started
        if spent >= least or not more:
            return spent / max(done, 1)


def device_name(device: str) -> str:
    """A device as its maker names it."""
    if device != "cpu":
        import torch

        return torch.cuda.get_device_name()
    return f"the processor ({len(os.sched_getaffinity(0))} cores)"


@lru_cache(maxsize=8)
def step_seconds(recipe: Scale, loss: str, device: str) -> float:
    """Of a training step, a sample: forth and back and the optimizer, as a recipe has them, changed or not."""
    import torch
    from open_clip_train.precision import get_autocast

    changes = {name: value for name, value in asdict(recipe).items() if name in RECIPE_FIELDS}
    settings = TrainSettings(
        ".", (TrainSource(shards="."),), scale=recipe.name, overrides=changes, loss=loss, device=device
    )
    learner = create_learner(settings, Ranks(device=device))
    size = learner.image_size
    batch = BATCH_ON_GPU if device != "cpu" else BATCH_ON_CPU if size < 128 else BATCH_OF_LARGE
    images = torch.zeros((batch, 3, size, size), device=device)
    texts = torch.ones((batch, learner.bare.context_length), dtype=torch.long, device=device)
    autocast = get_autocast(recipe.precision, device_type=torch.device(device).type)

    def step() -> int:
        learner.optimizer.zero_grad()
        with autocast():
            losses = learner.loss(**learner.model(images, texts), output_dict=True)
        sum(losses.values()).backward()
        learner.optimizer.step()
        if device != "cpu":
            torch.cuda.synchronize()
        return batch

    if batch > 1:
        step()  # the first makes the optimizer's state, and on a GPU the kernels
    return repeat_for_a_while(step, STEP_SECONDS)


@lru_cache(maxsize=8)
def _loaded(model: str, device: str) -> ClipModel:
    return load_model(model, device=device)


def embed_seconds(model: str, device: str, segment: Segment, shard_dir: str) -> float:
    """Of a pair: decoded, tokenized and through the model, in one process of a run."""
    clip = _loaded(model, device)
    pairs = SegmentPairs(segment, shard_dir, [clip])
    firsts = iter(range(0, len(pairs), CHUNK))

    def some() -> int:
        first = next(firsts, None)
        if first is None:
            return 0
        chunk = pairs.chunk(first)
        encode(clip.model.encode_image, chunk.images[0], device).cpu()
        encode(clip.model.encode_text, chunk.tokens[0], device).cpu()
        return len(chunk.status)

    with quiet, one_thread(device):
        try:
            return repeat_for_a_while(some)
        finally:
            pairs.close()
