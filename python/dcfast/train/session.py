"""``train``: from settings to checkpoints and a summary, on one process or many."""

from __future__ import annotations

import logging
import os
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from dcfast.errors import RunError, SubsetError
from dcfast.models.clip import create_model
from dcfast.storage.atomic import remove_leftovers, write_json
from dcfast.storage.hashing import sha256_file
from dcfast.storage.json_files import read_json_lines
from dcfast.storage.lock import locked
from dcfast.storage.paths import make_directory
from dcfast.storage.published import without_places
from dcfast.train.batch import BatchSpec
from dcfast.train.batches import BatchMaker
from dcfast.train.control import Control
from dcfast.train.dali import DaliDecoder, require_dali
from dcfast.train.failures import worker_death
from dcfast.train.heartbeat import Heartbeat, end_process
from dcfast.train.loop import Trainer, num_steps, use_channels_last
from dcfast.train.objective import create_loss
from dcfast.train.optimizer import create_optimizer, create_scaler
from dcfast.train.precision import warn_of_slow_precision
from dcfast.train.ranks import PeerLostError, Ranks, check_world_size, code_version, join_ranks, lost_peer, place_of
from dcfast.train.settings import TrainSettings
from dcfast.train.source import OpenSource, SourceFiles, prepare_source

__all__ = ["train"]

_LOG = logging.getLogger("dcfast.train")


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
    place = place_of()
    check_world_size(recipe.global_batch, place.size, settings.accumulation)
    ranks = join_ranks(settings.device, place)
    failed = False
    try:
        check_world_size(recipe.global_batch, ranks.world_size, settings.accumulation)
        ranks.agree({"settings": settings.shared(), "code": code_version()})
        with _only_one(settings, ranks):
            return _train(settings, ranks, on_step)
    except BaseException as error:
        failed = True
        died = worker_death(error)
        if died is not None and not isinstance(error, RunError):
            raise died from None
        if not isinstance(error, RuntimeError) or not lost_peer(error, ranks):
            raise
        raise PeerLostError(
            f"rank {ranks.rank}: another rank has gone; what happened is in its own message. The same command goes on "
            "from the latest checkpoint"
        ) from error
    finally:
        ranks.leave(failed)


@contextmanager
def _only_one(settings: TrainSettings, ranks: Ranks) -> Iterator[None]:
    """Holds the lock of the training's directory, on rank 0; RunError on every rank where another training has it."""
    folder = Path(settings.out) / "train"
    with ExitStack() as stack:
        problem: Any = None
        if ranks.rank == 0:
            try:
                make_directory(folder, "out")
                busy = f"out {settings.out}: another training is at work there; wait for it, or choose another out"
                stack.enter_context(locked(folder / ".lock", busy))
                remove_leftovers(folder)
            except Exception as error:  # the other ranks must not wait for what never comes
                problem = error
        ranks.from_first(problem)
        yield


def _prepare(settings: TrainSettings, folder: Path, ranks: Ranks) -> tuple[list[SourceFiles], list[str]]:
    """The sources and their fingerprints: made by rank 0, known to all."""
    found: Any = None
    if ranks.rank == 0:
        try:
            files = [prepare_source(s, folder / "sources", i) for i, s in enumerate(settings.sources)]
            found = files, [OpenSource(f).fingerprint() for f in files]
        except Exception as error:  # the other ranks must not wait for what never comes
            found = error
    files, fingerprints = ranks.from_first(found)
    total, batch = sum(f.count for f in files), settings.recipe().global_batch
    if total < batch:
        raise ranks.known(
            SubsetError(
                f"the sources hold {total} samples, fewer than one batch of {batch}; "
                "a batch must not repeat a sample for want of others: choose a looser filter"
            )
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
    cores = len(os.sched_getaffinity(0)) // ranks.local_size
    # on the CPU the training wants the cores itself
    return max(1, cores // 2) if ranks.device == "cpu" else max(1, min(cores - 1, 16))


def _train(settings: TrainSettings, ranks: Ranks, on_step: Callable[[int], None] | None) -> dict[str, Any]:
    import torch

    started = time.monotonic()
    recipe = settings.recipe()
    folder = Path(settings.out) / "train"
    if ranks.rank == 0:
        warn_of_slow_precision(recipe.precision, ranks.device)
    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    files, fingerprints = _prepare(settings, folder, ranks)
    identity = {**settings.identity(), "sources": fingerprints}
    with ranks.together():
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
    spec = _batch_spec(settings, files, ranks, bare)
    heartbeat = _heartbeat(settings, folder, ranks)
    trainer = Trainer(
        folder=folder,
        spec=spec,
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
        control=Control(spec, ranks, folder, settings.save_every_minutes, settings.max_replaced, settings.rank_timeout),
        channels_last=channels_last,
        on_step=on_step,
        begun=heartbeat.start,
    )
    trainer.resume()
    resumed_at = trainer.step
    in_order = False
    try:
        trainer.run()
        summary = _ended(settings, trainer, files, fingerprints, resumed_at, started)
        in_order = True
        return summary
    finally:
        heartbeat.stop(in_order)  # first: the others may have ended before the workers here have
        trainer.close()


def _heartbeat(settings: TrainSettings, folder: Path, ranks: Ranks) -> Heartbeat:
    def gone(rank: int) -> None:
        end_process(
            f"error: rank {rank} has given no sign of life for {settings.rank_timeout:.0f} s: it was stopped, or its "
            "machine is gone. Training ended; the same command goes on from the latest checkpoint",
            1,
        )

    start = ranks.from_first(secrets.token_hex(8))
    seconds = settings.rank_timeout if ranks.world_size > 1 else 0.0
    return Heartbeat(folder / "heartbeat", start, ranks.rank, ranks.world_size, seconds, gone)


def _ended(
    settings: TrainSettings,
    trainer: Trainer,
    files: list[SourceFiles],
    fingerprints: list[str],
    resumed_at: int,
    started: float,
) -> dict[str, Any]:
    """The summary, written by rank 0 and known to all."""
    folder, ranks = trainer.folder, trainer.ranks
    summary: dict[str, Any] = {}
    if ranks.rank == 0:
        summary = _summary(settings, trainer, files, fingerprints)
        write_json(folder / "summary.json", summary)
        for note in _replaced(trainer):
            _LOG.warning("  train: %s", note)
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
    lines = [line for path in sorted(folder.glob("refused-*.jsonl")) for line in read_json_lines(path)]
    samples = sum(int(line["samples"]) for line in lines)
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


def _replaced(trainer: Trainer) -> list[str]:
    count, seen = trainer.control.replaced, trainer.control.samples_seen
    said = f"{count:,} of {seen:,} samples could not be used and were replaced by others (train/replaced-*.jsonl)"
    return [said] if count else []


def _gone(names: list[str]) -> list[str]:
    return [f"checkpoints that somebody removed: {', '.join(names)}"] if names else []


def _summary(
    settings: TrainSettings, trainer: Trainer, files: list[SourceFiles], fingerprints: list[str]
) -> dict[str, Any]:
    recipe, folder = trainer.recipe, trainer.folder
    steps = num_steps(recipe.samples_seen, recipe.global_batch)
    last = f"train/checkpoints/epoch_{recipe.checkpoints}.pt"
    saved = [f"train/checkpoints/epoch_{k}.pt" for k in sorted(trainer.epochs)]
    gone = [name for name in saved if not (Path(settings.out) / name).is_file()]
    lines = read_json_lines(folder / "log.jsonl")
    return {
        "scale": settings.scale,
        "model": recipe.model,
        "seed": settings.seed,
        "steps": steps,
        "samples_seen": trainer.control.samples_seen,
        "recipe": {**asdict(recipe), "resample": settings.resample, "loss": settings.loss, "decoder": settings.decoder},
        "recipe_hash": settings.recipe_hash(),
        "non_standard": settings.non_standard(),
        "sources": [
            {"samples": f.count, "fingerprint": mark, "weight": s.weight}
            for f, mark, s in zip(files, fingerprints, settings.sources, strict=True)
        ],
        "checkpoint": last,
        "checkpoint_sha256": sha256_file(Path(settings.out) / last),
        "checkpoints": [name for name in saved if name not in gone],
        "loss_first": lines[0]["loss"] if lines else None,
        "loss_last": lines[-1]["loss"] if lines else None,
        "logit_scale": lines[-1]["logit_scale"] if lines else None,
        "replaced": trainer.control.replaced,
        "decoder_difference": _decoder_difference(trainer),
        "world_size": trainer.ranks.world_size,
        "accumulation": settings.accumulation,
        "notes": without_places(
            [*(note for f in files for note in f.notes), *trainer.notes, *_gone(gone), *_replaced(trainer)],
            [settings.out, *(place for s in settings.sources for place in (s.shards, s.index, s.shards_dir))],
        ),
        "versions": {**{n: version(n) for n in ("torch", "open_clip_torch", "pillow")}, **_dali_version(settings)},
    }
