"""How fast a device trains a model and computes its embeddings, by short trials with weights of seed 0.

A trial goes on for ``SECONDS``, or for one unit of work where that takes longer. A model whose trial would take more
than ``TRIAL_SECONDS`` is not made: its time is reckoned from its arithmetic, at the rate of matrix products here.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict, dataclass
from functools import lru_cache

from dcfast.errors import MissingDependencyError
from dcfast.features.embed import BATCH, encode, encode_pictures
from dcfast.features.pairs import CHUNK, SegmentPairs
from dcfast.images.decode import quiet
from dcfast.index.segments import Segment
from dcfast.models.clip import ClipModel, create_model, load_model
from dcfast.models.devices import one_thread
from dcfast.scales import RECIPE_FIELDS, Scale
from dcfast.train import TrainSettings, TrainSource
from dcfast.train.learner import create_learner
from dcfast.train.ranks import Ranks

SECONDS = 0.3
STEP_SECONDS = 1.0  # of training steps, which are most of a run
RATE_SECONDS = 0.1  # of matrix products
TRIAL_SECONDS = 3.0  # that a trial of a model may be expected to take, with its making
BATCH_ON_GPU = 256  # samples a step that is tried
BATCH_ON_CPU = 128  # of small models: as in their recipe
BATCH_OF_LARGE = 1  # of a model that takes pictures of 224 pixels, on the processor: a sample takes seconds there
SIDE_ON_GPU, SIDE_ON_CPU = 4096, 512  # of the matrices
PASSES_TO_MAKE = 4  # over all weights, each about as long as drawing them: default and own values, optimizer or hash


@dataclass(frozen=True)
class ModelSize:
    """What is known of a model without its weights.

    Attributes:
        parameters: numbers of its state.
        operations: multiplications and additions for a pair, forth.
        image_size: side of its pictures, in pixels.
    """

    parameters: int
    operations: int
    image_size: int


@lru_cache(maxsize=8)
def model_size(model: str) -> ModelSize:
    """Of a model by name. Cost: tenths of a second, no memory for weights; a model that reads numbers back as it is
    made is made in full."""
    try:
        return _measured_size(model, "meta")
    except (MissingDependencyError, RuntimeError):  # as one line, or as torch says it
        return _measured_size(model, "cpu")


def _measured_size(model: str, device: str) -> ModelSize:
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    with torch.device(device), torch.no_grad():
        made = create_model(model, seed=0, device=device)
        size = made.visual.image_size
        side = int(size[0] if isinstance(size, (tuple, list)) else size)
        pairs = 2  # statistics of a batch need more than one
        texts = torch.ones((pairs, made.context_length), dtype=torch.long)
        with FlopCounterMode(display=False) as counter:
            made(torch.zeros((pairs, 3, side, side)), texts)
    parameters = sum(value.numel() for value in made.state_dict().values())
    return ModelSize(parameters, counter.get_total_flops() // pairs, side)


def matmul_rate(device: str, precision: str) -> float:
    """Multiplications and additions a second of matrix products, in a precision as open_clip's training names it."""
    import torch
    from open_clip_train.precision import get_autocast

    side = SIDE_ON_CPU if device == "cpu" else SIDE_ON_GPU
    matrix = torch.ones((side, side), device=device)
    with get_autocast(precision, device_type=torch.device(device).type)():

        def multiply() -> int:
            torch.mm(matrix, matrix)
            if device != "cpu":
                torch.cuda.synchronize()
            return 2 * side**3

        multiply()  # the first loads what the others use
        return 1 / repeat_for_a_while(multiply, RATE_SECONDS)


def _seconds_to_make(size: ModelSize) -> float:
    """Expected, of a model and what goes with it."""
    import torch

    few = torch.empty(1 << 18)

    def draw() -> int:
        few.normal_(generator=torch.Generator())
        return len(few)

    return PASSES_TO_MAKE * size.parameters * repeat_for_a_while(draw, 0.0)


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


def step_seconds(recipe: Scale, loss: str, device: str, reckoned: list[str]) -> float:
    """Of a training step, a sample: forth and back and the optimizer, as a recipe has them, changed or not.

    Args:
        reckoned: is given the model's name where it is too large to be tried.
    """
    size = model_size(recipe.model)
    batch = _batch(size, device)
    passes = 4 if recipe.grad_checkpointing else 3  # forth, perhaps again, and back, which is twice that
    sample = passes * size.operations / matmul_rate(device, recipe.precision)
    if _seconds_to_make(size) + 2 * batch * sample > TRIAL_SECONDS:
        reckoned.append(recipe.model)
        return sample
    return _tried_step(recipe, loss, device)


def _batch(size: ModelSize, device: str) -> int:
    return BATCH_ON_GPU if device != "cpu" else BATCH_ON_CPU if size.image_size < 128 else BATCH_OF_LARGE


@lru_cache(maxsize=8)
def _tried_step(recipe: Scale, loss: str, device: str) -> float:
    import torch
    from open_clip_train.precision import get_autocast

    changes = {name: value for name, value in asdict(recipe).items() if name in RECIPE_FIELDS}
    settings = TrainSettings(
        ".", (TrainSource(shards="."),), scale=recipe.name, overrides=changes, loss=loss, device=device
    )
    learner = create_learner(settings, Ranks(device=device))
    size = learner.image_size
    batch = _batch(model_size(recipe.model), device)
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


def embed_seconds(
    model: str, device: str, segment: Segment, shard_dir: str, reckoned: list[str]
) -> tuple[float, float]:
    """Of a pair: to decode and tokenize it by one core, and to take it through the model, in one process of a run.

    ``reckoned`` as above; then nothing is decoded, and the first is 0.
    """
    with quiet, one_thread(device):
        size = model_size(model)
        pair = size.operations / matmul_rate(device, "fp32" if device == "cpu" else "amp")
        if _seconds_to_make(size) + min(CHUNK, segment.num_samples) * pair > TRIAL_SECONDS:
            reckoned.append(model)
            return 0.0, pair
        clip = _loaded(model, device)
        with closing(SegmentPairs(segment, shard_dir, [clip])) as pairs:
            chunk = pairs.chunk(0)  # its first bytes, and what is made once
            firsts = iter(range(0, len(pairs), CHUNK))

            def some() -> int:
                first = next(firsts, None)
                return 0 if first is None else len(pairs.chunk(first).status)

            decode = repeat_for_a_while(some)
        times = 1 if device == "cpu" else BATCH // CHUNK  # a GPU takes them together
        pixels = chunk.pixels[clip.pixels.shape].repeat(times, 1, 1, 1)
        tokens = chunk.tokens[0].repeat(times, 1)

        def through() -> int:
            encode_pictures(clip, pixels, device).cpu()
            encode(clip.model.encode_text, tokens, device).cpu()
            return len(pixels)

        if device != "cpu":
            through()  # the first loads kernels
        return decode, repeat_for_a_while(through)
