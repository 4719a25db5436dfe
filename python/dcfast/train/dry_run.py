"""``--dry-run`` of a training by itself: what it checks before its first step, and what it would do."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from dcfast.models.clip import require_model
from dcfast.models.devices import has_gpu, resolve_device
from dcfast.storage.lock import locked
from dcfast.storage.paths import LOCK_NAME, check_writable
from dcfast.storage.temporary import temporary_folder
from dcfast.train.checkpoint import latest_checkpoint, progress_of
from dcfast.train.dali import require_dali
from dcfast.train.evaluating import check_evaluations
from dcfast.train.launch import processes_here
from dcfast.train.loop import boundaries, num_steps
from dcfast.train.place import check_world_size, place_of
from dcfast.train.ranks import require_training
from dcfast.train.reporters import require_reporters
from dcfast.train.session import busy_words, prepare_sources
from dcfast.train.settings import TrainSettings
from dcfast.train.stretch import find_steps

NO_GPU = "this machine has no GPU: the plan is for one that has a GPU (--assume-gpu)"


def plan_training(settings: TrainSettings, processes: int | None, *, assume_gpu: bool = False) -> list[str]:
    """What a training would do, in lines; it writes nothing but to a folder for temporary files, which goes again.

    Args:
        processes: ranks on this machine, as for ``launch``.
        assume_gpu: it will be done on a machine with a GPU, whether this one has any or not.
    Raises:
        As ``launch``, before its first step.
    Cost: that of a start: shards are indexed, or a subset is planned, and a checkpoint that is there is read.
    """
    require_training()
    find_steps()
    require_reporters(settings.report_to or ())
    check_evaluations(settings.evaluate_on)
    elsewhere = assume_gpu and settings.device != "cpu" and not has_gpu()
    settings = replace(settings, device="cuda" if elsewhere else resolve_device(settings.device))
    recipe, place = settings.recipe(), place_of()
    if settings.decoder == "dali":
        require_dali()
    size = place.size if place.size > 1 else processes
    if size is None and not elsewhere:
        size = processes_here(settings)
    check_world_size(recipe.global_batch, size or 1, settings.accumulation)
    require_model(recipe.model)
    folder = Path(settings.out) / "train"
    check_writable(folder, "out")
    if (folder / LOCK_NAME).exists():
        with locked(folder / LOCK_NAME, busy_words(settings.out)):
            pass
    with temporary_folder("dcfast-dry-run-") as work:
        sources = prepare_sources(settings, work)
    steps = num_steps(recipe.samples_seen, recipe.global_batch)
    latest, notes = latest_checkpoint(folder / "checkpoints", boundaries(steps, recipe.checkpoints), set_aside=False)
    begins = "it begins anew"
    if latest is not None:
        done = progress_of(latest, settings.identity([source.fingerprint for source in sources]))
        begins = f"it goes on from {latest.name}, step {done.step:,}" if done.step < steps else "it is done already"
    count = sum(source.count for source in sources)
    ranks = "a process for each GPU" if size is None else f"{size} process{'' if size == 1 else 'es'}"
    return [
        f"plan for {folder} (nothing is done)",
        f"{recipe.model}, {steps:,} steps of {recipe.global_batch:,} samples ({recipe.samples_seen:,}, from "
        f"{count:,}, each {recipe.samples_seen / count:.1f} times on average), on {ranks}, {settings.device}; "
        f"{'; '.join(settings.non_standard()) or 'by the recipe'}; {begins}",
        *(f"note: {note}" for note in [*(note for source in sources for note in source.notes), *notes]),
        *([NO_GPU] if elsewhere else []),
    ]
