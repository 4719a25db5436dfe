"""``train``: from settings to checkpoints and a summary, on one process or many."""

from __future__ import annotations

import logging
import os
import re
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

from dcfast.engine.progress import Silent
from dcfast.errors import SubsetError
from dcfast.images.crops import pillow_rule
from dcfast.rundir.recorder import Recorder
from dcfast.rundir.training_summary import DecoderDifference, LogLine, TrainedSource, TrainingSummary, TrainingTimes
from dcfast.scales import smaller_batch
from dcfast.storage.atomic import remove_leftovers, write_json
from dcfast.storage.hashing import sha256_file
from dcfast.storage.json_files import read_json_lines
from dcfast.storage.lock import locked
from dcfast.storage.mirror import Mirror
from dcfast.storage.paths import LOCK_NAME, make_directory
from dcfast.storage.published import without_places
from dcfast.storage.records import as_record, plain
from dcfast.train.batch import BatchSpec
from dcfast.train.batches import BatchMaker
from dcfast.train.captions import CaptionRule
from dcfast.train.dali import DaliDecoder, require_dali
from dcfast.train.evaluating import check_evaluations
from dcfast.train.heartbeat import Heartbeat, end_process
from dcfast.train.learner import create_learner
from dcfast.train.loop import Trainer
from dcfast.train.pixels import KINDS
from dcfast.train.place import check_world_size, place_of
from dcfast.train.precision import warn_of_slow_precision
from dcfast.train.ranks import PeerLostError, Ranks, code_version, join_ranks, lost_peer, require_training
from dcfast.train.replaced import Refusal
from dcfast.train.reporters import require_reporters
from dcfast.train.settings import TrainSettings
from dcfast.train.sharded import SUFFIX
from dcfast.train.source import prepare_source
from dcfast.train.source_files import SourceFiles
from dcfast.train.stretch import find_steps

_LOG = logging.getLogger("dcfast.train")


def train(settings: TrainSettings, *, on_step: Callable[[int], None] | None = None) -> TrainingSummary:
    """Trains, or goes on with a training that was stopped, and returns its summary.

    Under torchrun every rank calls it with the same settings. Writes ``OUT/train``: ``checkpoints/epoch_K.pt``,
    ``log.jsonl``, ``summary.json``, ``timing.json``, ``replaced-RANK.jsonl``, ``refused-RANK.jsonl``.

    Args:
        on_step: called with the number of each step as it is taken.
    Raises:
        ValueError: settings that make no sense; a number of ranks that does not divide the batch.
        SubsetError: an empty source, or fewer samples than a batch.   CheckpointError: ``out`` holds another training.
        NonFiniteLossError: the loss is NaN or infinite; the batch's uids are saved.
        MissingDependencyError: the decoder is ``dali`` and it is not installed.
    Cost: a forward and a backward pass for each of the recipe's ``samples_seen``.
    Example: ``train(small_training).checkpoint``
    """
    recipe = settings.recipe()
    if settings.decoder == "dali":
        require_dali()
    place = place_of()
    check_world_size(recipe.global_batch, place.size, settings.accumulation)
    require_training()
    find_steps()
    require_reporters(settings.report_to or ())
    check_evaluations(settings.evaluate_on)
    ranks = join_ranks(settings.device, place)
    failed = False
    try:
        check_world_size(recipe.global_batch, ranks.world_size, settings.accumulation)
        ranks.agree({"settings": settings.shared(), "code": code_version()})
        with _only_one(settings, ranks), _recorded(settings, ranks):
            return _train(settings, ranks, on_step or (lambda step: None))
    except BaseException as error:
        failed = True
        if not isinstance(error, RuntimeError) or not lost_peer(error, ranks):
            raise
        raise PeerLostError(
            f"rank {ranks.rank}: another rank has gone; what happened is in its own message. The same command goes on "
            "from the latest checkpoint"
        ) from error
    finally:
        ranks.leave(failed)


def busy_words(out: str) -> str:
    """Of the error where another training has the lock of a directory."""
    return f"out {out}: another training is at work there; wait for it, or choose another out"


@contextmanager
def _only_one(settings: TrainSettings, ranks: Ranks) -> Iterator[None]:
    """Holds the lock of the training's directory, on rank 0; RunError on every rank where another training has it."""
    folder = Path(settings.out) / "train"

    def lock() -> None:
        make_directory(folder, "out")
        stack.enter_context(locked(folder / LOCK_NAME, busy_words(settings.out)))
        remove_leftovers(folder)

    with ExitStack() as stack:
        ranks.on_first(lock)
        yield


@contextmanager
def _recorded(settings: TrainSettings, ranks: Ranks) -> Iterator[None]:
    """Rank 0 tells others how far the training is: also one that no run has started."""
    if ranks.rank:
        yield
        return
    folder = Path(settings.out) / "train"
    bar = Silent("train/train", total=1, pieces=1)
    recorder = Recorder(folder, engine="train", workers=ranks.world_size, stages=["train"], keep=False)
    with recorder, bar, recorder.following(bar):
        recorder.stage("train")
        yield


def prepare_sources(settings: TrainSettings, folder: Path) -> tuple[SourceFiles, ...]:
    """The sources, ready to be opened by any process."""
    rule, remote = CaptionRule(settings.captions(), settings.seed), settings.remote()
    files = [prepare_source(source, folder / "sources", i, rule, remote) for i, source in enumerate(settings.sources)]
    total, batch = sum(f.count for f in files), settings.recipe().global_batch
    if total < batch:
        raise SubsetError(
            f"the sources hold {total} samples, fewer than one batch of {batch}; "
            "a batch must not repeat a sample for want of others: choose a looser filter, or a smaller batch "
            f"(--set global_batch={smaller_batch(total)})"
        )
    return tuple(files)


def _workers(settings: TrainSettings, ranks: Ranks) -> int:
    if settings.workers is not None:
        return settings.workers
    cores = len(os.sched_getaffinity(0)) // ranks.local_size
    # on the CPU the training wants the cores itself
    return max(1, cores // 2) if ranks.device == "cpu" else max(1, min(cores - 1, 16))


def _train(settings: TrainSettings, ranks: Ranks, on_step: Callable[[int], None]) -> TrainingSummary:
    import torch

    started = time.monotonic()
    folder = Path(settings.out) / "train"
    if ranks.rank == 0:
        warn_of_slow_precision(settings.recipe().precision, ranks.device)
        if pillow_rule().difference:
            _LOG.warning("  train: Pillow decodes all pictures, several times slower: %s", pillow_rule().difference)
    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    mirrors: list[Mirror] = []  # on rank 0 alone, which writes checkpoints
    ranks.on_first(lambda: mirrors.extend(_mirrors(settings, folder)))
    sources = ranks.on_first(lambda: prepare_sources(settings, folder))
    learner = create_learner(settings, ranks)
    spec = BatchSpec(settings, sources, learner.image_size, ranks.world_size, ranks.rank)
    heartbeat = _heartbeat(settings, folder, ranks)
    trainer = Trainer(spec, ranks, folder, learner, _workers(settings, ranks), on_step, heartbeat.start)
    for mirror in mirrors:
        trainer.saved = mirror.update
    trainer.resume()
    resumed_at = trainer.step
    in_order = False
    try:
        trainer.run()
        counts = ranks.sums([float(trainer.by_pillow[kind]) for kind in KINDS])
        by_pillow = dict(zip(KINDS, map(int, counts), strict=True))
        summary = ranks.on_first(lambda: _finish(trainer, resumed_at, started, by_pillow, mirrors))
        ranks.barrier()  # nobody leaves while another still talks to it
        in_order = True
        trainer.finish_scores()
        for mirror in mirrors:
            mirror.update()  # those scores, too
        return summary
    finally:
        heartbeat.stop(in_order)  # first: the others may have ended before the workers here have
        trainer.close()
        for mirror in mirrors:
            mirror.close(in_order=False)


_PASSING = re.compile(r"checkpoints/step_\d+(\.pt|\.sharded/(\w[\w.-]*\.safetensors|checkpoint\.json))")
_COPIED = re.compile(
    rf"{_PASSING.pattern}|checkpoints/epoch_\d+\.pt|(log|evaluations|replaced-\d+|refused-\d+)\.jsonl|(summary|timing)\.json"
)
_FETCHING = "fetching"
"""A file that is there while copies are fetched: where one was killed meanwhile, all are fetched anew."""


def _mirrors(settings: TrainSettings, folder: Path) -> list[Mirror]:
    """On rank 0: makes sure that copies can be written, and fetches those that are there where nothing is here."""
    if settings.copy_to is None:
        return []
    mirror = Mirror(folder, settings.copy_to, _COPIED, _PASSING)
    mirror.check()
    begun, saved = folder / _FETCHING, folder / "checkpoints"
    if begun.exists() or not any([*saved.glob("*.pt"), *saved.glob(f"*{SUFFIX}")]):
        begun.touch()
        fetched = mirror.restore()
        begun.unlink()
        if fetched:
            _LOG.warning("  train: %d files of the training were fetched from %s", len(fetched), mirror.url)
    return [mirror]


def _heartbeat(settings: TrainSettings, folder: Path, ranks: Ranks) -> Heartbeat:
    def gone(rank: int) -> None:
        end_process(
            f"error: rank {rank} has given no sign of life for {settings.rank_timeout:.0f} s: it was stopped, or its "
            "machine is gone. Training ended; the same command goes on from the latest checkpoint",
            1,
        )

    start = ranks.on_first(lambda: secrets.token_hex(8))
    seconds = settings.rank_timeout if ranks.world_size > 1 else 0.0
    return Heartbeat(folder / "heartbeat", start, ranks.rank, ranks.world_size, seconds, gone)


def _finish(
    trainer: Trainer, resumed_at: int, started: float, by_pillow: dict[str, int], mirrors: list[Mirror]
) -> TrainingSummary:
    """On rank 0: writes the summary, and how long it took; waits until both are copied."""
    summary = _summary(trainer)
    write_json(trainer.folder / "summary.json", plain(summary))
    for note in _replaced(trainer):
        _LOG.warning("  train: %s", note)
    samples, seconds = (trainer.steps - resumed_at) * trainer.recipe.global_batch, time.monotonic() - started
    if samples:
        refusals = _refusals(trainer)
        times = TrainingTimes(
            seconds=round(seconds, 3),
            samples=samples,
            samples_per_second=round(samples / seconds, 2),
            world_size=trainer.ranks.world_size,
            workers=trainer.workers,
            decoded_by_pillow={kind: count for kind, count in by_pillow.items() if count},
            dali_refused_batches=None if refusals is None else len(refusals),
            dali_refused_samples=None if refusals is None else sum(refusal.samples for refusal in refusals),
        )
        write_json(trainer.folder / "timing.json", plain(times))
    for mirror in mirrors:
        mirror.update()
        mirror.close()
    return summary


def _refusals(trainer: Trainer) -> list[Refusal] | None:
    """What DALI refused and Pillow decoded, over all starts of a training; None for other decoders.

    A picture is refused by one version of DALI and not by another, on a GPU and not without one, and a batch for want
    of memory: no part of the summary, which equal settings make equal.
    """
    if trainer.settings.decoder != "dali":
        return None
    paths = sorted(trainer.folder.glob("refused-*.jsonl"))
    return [refusal for path in paths for refusal in as_record(read_json_lines(path), list[Refusal], str(path))]


def _versions(decoder: str) -> dict[str, str]:
    versions = {name: version(name) for name in ("torch", "open_clip_torch", "pillow")}
    if decoder == "dali":
        from nvidia import dali

        versions["nvidia-dali"] = str(dali.__version__)
    return versions


def _decoder_difference(trainer: Trainer) -> DecoderDifference | None:
    """Over the pixels of 64 samples of the first step."""
    if trainer.settings.decoder == "pil":
        return None
    batch, reference = (
        BatchMaker(trainer.spec.decoded_by(name)).make(0, 0, 0, 64) for name in (trainer.settings.decoder, "pil")
    )
    if batch.encoded is not None:
        batch = DaliDecoder(trainer.spec.image_size, device=trainer.ranks.device).finish(batch, lambda: reference)
    ours = batch.images.float().cpu()
    difference = (ours - reference.images.float()).abs()
    return DecoderDifference(samples=len(ours), mean=round(float(difference.mean()), 4), largest=int(difference.max()))


def _replaced(trainer: Trainer) -> list[str]:
    count, seen = trainer.control.replaced, trainer.control.samples_seen
    note = f"{count:,} of {seen:,} samples could not be used and were replaced by others (train/replaced-*.jsonl)"
    return [note] if count else []


def _summary(trainer: Trainer) -> TrainingSummary:
    settings, recipe = trainer.settings, trainer.recipe
    out, log = Path(settings.out), trainer.folder / "log.jsonl"
    last = f"train/checkpoints/epoch_{recipe.checkpoints}.pt"
    saved = [f"train/checkpoints/epoch_{k}.pt" for k in sorted(trainer.epochs)]
    removed = [name for name in saved if not (out / name).is_file()]
    lines = []
    for line in read_json_lines(log):
        with suppress(ValueError):  # somebody's own
            lines.append(as_record(line, LogLine, str(log)))
    notes = [note for source in trainer.spec.sources for note in source.notes] + trainer.notes
    if pillow_rule().difference:
        notes.append(f"Pillow decoded all pictures, several times slower: {pillow_rule().difference}")
    if removed:
        notes.append(f"checkpoints that somebody removed: {', '.join(removed)}")
    return TrainingSummary(
        scale=settings.scale,
        model=recipe.model,
        seed=settings.seed,
        steps=trainer.steps,
        samples_seen=trainer.control.samples_seen,
        recipe={**asdict(recipe), "resample": settings.resample, "loss": settings.loss, "decoder": settings.decoder},
        recipe_hash=settings.recipe_hash(),
        non_standard=settings.non_standard(),
        sources=[
            TrainedSource(samples=files.count, fingerprint=files.fingerprint, weight=source.weight)
            for files, source in zip(trainer.spec.sources, settings.sources, strict=True)
        ],
        checkpoint=last,
        checkpoint_sha256=sha256_file(out / last),
        checkpoints=[name for name in saved if name not in removed],
        loss_first=lines[0].loss if lines else None,
        loss_last=lines[-1].loss if lines else None,
        logit_scale=lines[-1].logit_scale if lines else None,
        replaced=trainer.control.replaced,
        decoder_difference=_decoder_difference(trainer),
        world_size=trainer.ranks.world_size,
        accumulation=settings.accumulation,
        notes=without_places(
            [*notes, *_replaced(trainer)],
            [settings.out, *(place for s in settings.sources for place in (s.shards, s.index, s.shards_dir))],
        ),
        versions=_versions(settings.decoder),
    )
