"""``train``: from settings to checkpoints and a summary, on one process or many."""

from __future__ import annotations

import gc
import json
import os
import time
from argparse import Namespace
from collections.abc import Callable
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from dcfast.errors import MissingDependencyError, SubsetError
from dcfast.models.clip import create_model, file_sha256
from dcfast.storage.atomic import remove_leftovers, write_json
from dcfast.storage.paths import make_directory
from dcfast.train.batch import BatchSpec
from dcfast.train.batches import BatchMaker
from dcfast.train.dali import DaliDecoder, require_dali
from dcfast.train.loop import Ranks, Trainer, num_steps, use_channels_last, world_sizes
from dcfast.train.objective import create_loss
from dcfast.train.optimizer import create_optimizer, create_scaler
from dcfast.train.precision import warn_of_slow_precision
from dcfast.train.settings import TrainSettings
from dcfast.train.source import OpenSource, SourceFiles, prepare_source

__all__ = ["train"]


def train(settings: TrainSettings, *, on_step: Callable[[int], None] | None = None) -> dict[str, Any]:
    """Trains, or goes on with a training that was stopped, and returns its summary.

    Under torchrun every rank calls it with the same settings. Writes ``OUT/train``: ``checkpoints/epoch_K.pt``,
    ``log.jsonl``, ``summary.json``, ``timing.json``, ``replaced-RANK.jsonl``, ``refused-RANK.jsonl``.

    Args:
        on_step: called with the number of each step as it is taken.
    Returns:
        The summary, JSON: samples_seen, steps, recipe, recipe_hash, non_standard, sources with their fingerprints,
        the last checkpoint (relative to ``out``) and its SHA-256, losses, notes. Equal settings give equal summaries.
    Raises:
        ValueError: settings that make no sense; a number of ranks that does not divide the batch.
        SubsetError: an empty source, or fewer samples than a batch.   CheckpointError: ``out`` holds another training.
        NonFiniteLossError: the loss is NaN or infinite; the batch's uids are saved.
        MissingDependencyError: the decoder is ``dali`` and it is not installed.
    """
    recipe = settings.recipe()
    if settings.decoder == "dali":
        require_dali()
    ranks, started_here = _join(settings, recipe.global_batch)
    try:
        return _train(settings, ranks, on_step)
    finally:
        if started_here:
            _leave()


def _leave() -> None:
    """Ends the process group that this training began."""
    import torch.distributed as dist

    gc.collect()  # the wrapped model refers to the group from within a cycle, and must not outlive it
    dist.destroy_process_group()


def _join(settings: TrainSettings, global_batch: int) -> tuple[Ranks, bool]:
    """This process among the ranks, as open_clip finds it out; True where the process group was made here."""
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if global_batch % (world * settings.accumulation):
        sizes = ", ".join(map(str, world_sizes(global_batch, settings.accumulation)))
        raise ValueError(
            f"global batch {global_batch} does not divide among {world} ranks x accumulation {settings.accumulation}; "
            f"numbers of ranks that do: {sizes or 'none'}"
        )
    try:
        import torch
        from open_clip_train.distributed import init_distributed_device
    except ImportError as error:
        raise MissingDependencyError(
            f"training needs torch and open_clip's training parts, which cannot be imported ({error}); "
            "pip install 'dcfast[train]'"
        ) from error
    if settings.device.startswith("cuda") and not torch.cuda.is_available():
        raise ValueError("device 'cuda': torch finds no GPU here; use device 'cpu'")
    before = torch.distributed.is_available() and torch.distributed.is_initialized()
    arguments = Namespace(device=settings.device)
    if before:
        arguments.world_size, arguments.rank = torch.distributed.get_world_size(), torch.distributed.get_rank()
        arguments.local_rank = int(os.environ.get("LOCAL_RANK", "0"))
    else:
        init_distributed_device(arguments)
    return (
        Ranks(arguments.rank, arguments.world_size, arguments.local_rank, str(arguments.device)),
        arguments.world_size > 1 and not before,
    )


def _prepare(settings: TrainSettings, folder: Path, ranks: Ranks) -> tuple[list[SourceFiles], list[str]]:
    """The sources and their fingerprints: made by rank 0, known to all."""
    found: Any = None
    if ranks.rank == 0:
        try:
            files = [prepare_source(s, folder / "sources", i) for i, s in enumerate(settings.sources)]
            found = files, [OpenSource(f).fingerprint() for f in files]
        except Exception as error:  # the other ranks must not wait for what never comes
            found = error
    found = ranks.from_first(found)
    if isinstance(found, Exception):
        raise found
    files, fingerprints = found
    total, batch = sum(f.count for f in files), settings.recipe().global_batch
    if total < batch:
        raise SubsetError(
            f"the sources hold {total} samples, fewer than one batch of {batch}; "
            "a batch must not repeat a sample for want of others: choose a looser filter"
        )
    return list(files), list(fingerprints)


def _batch_spec(settings: TrainSettings, files: list[SourceFiles], ranks: Ranks, model: Any) -> BatchSpec:
    recipe = settings.recipe()
    size = model.visual.image_size
    return BatchSpec(
        sources=tuple(files),
        weights=tuple(s.weight for s in settings.sources),
        model=recipe.model,
        image_size=int(size[0] if isinstance(size, (tuple, list)) else size),
        global_batch=recipe.global_batch,
        accumulation=settings.accumulation,
        world_size=ranks.world_size,
        rank=ranks.rank,
        seed=settings.seed,
        crop_scale=recipe.crop_scale,
        resample=settings.resample,
        block=settings.block,
        window=settings.window,
        decoder=settings.decoder,
    )


def _workers(settings: TrainSettings, ranks: Ranks) -> int:
    if settings.workers is not None:
        return settings.workers
    local = int(os.environ.get("LOCAL_WORLD_SIZE", str(ranks.world_size)))
    cores = len(os.sched_getaffinity(0)) // max(1, local)
    # on the CPU the training wants the cores itself
    return max(1, cores // 2) if ranks.device == "cpu" else max(1, min(cores - 1, 16))


def _train(settings: TrainSettings, ranks: Ranks, on_step: Callable[[int], None] | None) -> dict[str, Any]:
    import torch

    started = time.monotonic()
    recipe = settings.recipe()
    folder = Path(settings.out) / "train"
    make_directory(folder, "out")
    if ranks.rank == 0:
        remove_leftovers(folder)
        warn_of_slow_precision(recipe.precision, ranks.device)
    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    files, fingerprints = _prepare(settings, folder, ranks)
    identity = {**settings.identity(), "sources": fingerprints}
    bare = create_model(recipe.model, seed=settings.seed, device=ranks.device, precision=recipe.precision)
    if recipe.grad_checkpointing:
        bare.set_grad_checkpointing()
    if ranks.device != "cpu":
        torch.set_float32_matmul_precision("high")  # TF32 where float32 is multiplied, as open_clip's main allows
    channels_last = use_channels_last(bare)
    model = bare
    if ranks.world_size > 1:
        where = [torch.device(ranks.device)] if ranks.device != "cpu" else None
        model = torch.nn.parallel.DistributedDataParallel(bare, device_ids=where)
    trainer = Trainer(
        folder=folder,
        spec=_batch_spec(settings, files, ranks, bare),
        ranks=ranks,
        recipe=recipe,
        identity=identity,
        model=model,
        bare=bare,
        loss=create_loss(settings.loss, ranks.rank, ranks.world_size),
        optimizer=create_optimizer(model, recipe),
        scaler=create_scaler(recipe.precision, ranks.device),
        workers=_workers(settings, ranks),
        log_every=settings.log_every,
        save_every=settings.save_every_steps,
        channels_last=channels_last,
        on_step=on_step,
    )
    trainer.resume()
    resumed_at = trainer.step
    trainer.run()
    summary: dict[str, Any] = {}
    if ranks.rank == 0:
        summary = _summary(settings, trainer, files, fingerprints)
        write_json(folder / "summary.json", summary)
        _write_timing(folder, trainer, resumed_at, time.monotonic() - started)
    summary = dict(ranks.from_first(summary))
    ranks.barrier()  # nobody leaves while another still talks to it
    return summary


def _write_timing(folder: Path, trainer: Trainer, resumed_at: int, seconds: float) -> None:
    # times are no part of any result, so they stand apart from the summary
    done = (trainer.steps - resumed_at) * trainer.spec.global_batch
    if done:
        rate = {"seconds": round(seconds, 3), "samples": done, "samples_per_second": round(done / seconds, 2)}
        about = {"world_size": trainer.ranks.world_size, "workers": trainer.workers}
        write_json(folder / "timing.json", {**rate, **about, **_refusals(folder, trainer.spec.decoder)})


def _refusals(folder: Path, decoder: str) -> dict[str, Any]:
    """What DALI refused and Pillow decoded, over all starts of a training.

    A picture is refused by one version of DALI and not by another, on a GPU and not without one, and a batch for want
    of memory: no part of the summary, which equal settings make equal.
    """
    if decoder != "dali":
        return {}
    lines = [line for path in sorted(folder.glob("refused-*.jsonl")) for line in path.read_text("ascii").splitlines()]
    samples = sum(int(json.loads(line)["samples"]) for line in lines)
    return {"dali_refused_batches": len(lines), "dali_refused_samples": samples}


def _dali_version(settings: TrainSettings) -> dict[str, str]:
    if settings.decoder != "dali":
        return {}
    from nvidia import dali

    return {"nvidia-dali": str(dali.__version__)}


def _decoder_difference(trainer: Trainer) -> dict[str, Any] | None:
    """Grey levels between the decoder and Pillow's, over the pixels of 64 samples of the first step."""
    if trainer.spec.decoder == "pil":
        return None
    batch, reference = (
        BatchMaker(replace(trainer.spec, decoder=name)).make(0, 0, 0, 64) for name in (trainer.spec.decoder, "pil")
    )
    if batch.encoded is not None:
        batch = DaliDecoder(trainer.spec.image_size, device=trainer.ranks.device).finish(batch, lambda: reference)
    ours = batch.images.float().cpu()
    difference = (ours - reference.images.float()).abs()
    return {"samples": len(ours), "mean": round(float(difference.mean()), 4), "largest": int(difference.max())}


def _summary(
    settings: TrainSettings, trainer: Trainer, files: list[SourceFiles], fingerprints: list[str]
) -> dict[str, Any]:
    recipe, folder = trainer.recipe, trainer.folder
    steps = num_steps(recipe.samples_seen, recipe.global_batch)
    last = f"train/checkpoints/epoch_{recipe.checkpoints}.pt"
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text("ascii").splitlines()]
    replaced = set()
    for path in sorted(folder.glob("replaced-*.jsonl")):
        for line in path.read_text("ascii").splitlines():
            record = json.loads(line)
            replaced.add((record["step"], record["slot"], record["position"]))
    return {
        "scale": settings.scale,
        "model": recipe.model,
        "seed": settings.seed,
        "steps": steps,
        "samples_seen": steps * recipe.global_batch,
        "recipe": {**asdict(recipe), "resample": settings.resample, "loss": settings.loss, "decoder": settings.decoder},
        "recipe_hash": settings.recipe_hash(),
        "non_standard": settings.non_standard(),
        "sources": [
            {"samples": f.count, "fingerprint": mark, "weight": s.weight}
            for f, mark, s in zip(files, fingerprints, settings.sources, strict=True)
        ],
        "checkpoint": last,
        "checkpoint_sha256": file_sha256(Path(settings.out) / last),
        "checkpoints": [f"train/checkpoints/epoch_{k}.pt" for k in sorted(trainer.epochs)],
        "loss_first": lines[0]["loss"] if lines else None,
        "loss_last": lines[-1]["loss"] if lines else None,
        "logit_scale": lines[-1]["logit_scale"] if lines else None,
        "replaced": len(replaced),
        "decoder_difference": _decoder_difference(trainer),
        "world_size": trainer.ranks.world_size,
        "accumulation": settings.accumulation,
        "notes": trainer.notes,
        "versions": {**{n: version(n) for n in ("torch", "open_clip_torch", "pillow")}, **_dali_version(settings)},
    }
