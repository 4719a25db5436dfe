"""``python -m dcfast.train``: a training from the shell, alone or under torchrun."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
import warnings
from dataclasses import dataclass, fields, replace
from pathlib import Path

from dcfast.process.command import run_command, status_of
from dcfast.process.exit_codes import DONE, PEER_LOST
from dcfast.process.options import add_options, made_of, option
from dcfast.process.parser import ArgumentParser
from dcfast.process.shared_options import ASSUME_GPU, SAMPLES_SEEN, check_assumed
from dcfast.process.signals import end_with_parent, start_worker
from dcfast.process.terminal import log_printably, say
from dcfast.storage.config import add_config, given_and_config, unknown_option
from dcfast.storage.json_files import read_json
from dcfast.storage.paths import not_left_empty
from dcfast.storage.records import as_record
from dcfast.train.dry_run import plan_training
from dcfast.train.launch import launch
from dcfast.train.place import place_of
from dcfast.train.ranks import LAUNCHER, TOLD, PeerLostError
from dcfast.train.settings import PATH, TrainSettings, TrainSource, parse_sources

_AFTER_THE_FIRST = 2.0
_FILE = {**PATH, "metavar": "FILE"}


@dataclass(frozen=True)
class TrainOptions:
    """What a training reads, and how it is started; the rest is ``TrainSettings``."""

    settings: str | None = option(
        None, "all settings from a JSON file (train/settings.json), and no other option", **_FILE
    )
    shards: str | None = option(
        None, "directories of shards (*.tar)", flags=("--shards", "--data"), metavar="DIR[::DIR]"
    )
    weights: str | None = option(
        None, "how often a sample of each directory is taken, relative to the others", metavar="W[::W]"
    )
    index: str | None = option(None, "instead of --shards: a run, or its index directory", **PATH)
    shards_dir: str | None = option(None, "with --index: the pool's directory of shards", **PATH)
    subset: str | None = option(None, "with --index: the uids to train on (npy, u8,u8)", **_FILE)
    samples_seen: int | None = option(None, SAMPLES_SEEN)
    processes: int | None = option(None, "ranks on this machine", usual="one a GPU, one on the CPU")
    dry_run: bool = option(
        False, "check all that the training checks before its first step, say what it would do, and write nothing"
    )
    assume_gpu: bool = option(False, ASSUME_GPU)


def parser() -> ArgumentParser:
    """The command line."""
    p = ArgumentParser(
        prog="python -m dcfast.train",
        description="Train CLIP by the recipe of a scale, from shards or from an index and a subset. The same command "
        "goes on where it was stopped. Under torchrun each process is a rank.",
    )
    add_config(p)
    add_options(p, TrainOptions)
    add_options(p, TrainSettings)
    return p


def _from_file(path: str) -> TrainSettings:
    try:
        values = read_json(path, names=True)
        _refuse_unknown(path, values, TrainSettings)
        sources = values.get("sources") if isinstance(values, dict) else None
        for source in sources if isinstance(sources, list) else ():
            _refuse_unknown(path, source, TrainSource)
        return as_record(values, TrainSettings, path)
    except ValueError as error:
        raise ValueError(f"{error}; expected the settings of a training as JSON, with out and sources") from None


def _refuse_unknown(path: str, values: object, kind: type[TrainSettings | TrainSource]) -> None:
    known = [f.name for f in fields(kind)]
    for name in values if isinstance(values, dict) else ():
        if name not in known:
            raise ValueError(f"{path}: {unknown_option(name, known)}")


def settings_of(arguments: argparse.Namespace) -> tuple[TrainOptions, TrainSettings]:
    """How a command line starts a training, and its settings."""
    values = given_and_config(arguments, TrainOptions, TrainSettings)
    options = made_of(TrainOptions, values)
    if options.settings is not None:
        others = sorted(values.keys() - {"settings", "processes", "dry_run", "assume_gpu"})
        if others:
            raise ValueError(
                f"--settings FILE has all settings: write {', '.join(others)} there, or leave --settings out"
            )
        return options, _from_file(options.settings)
    if values.get("out") is None:
        raise ValueError("nowhere to write: give --out DIR")
    return options, _seeing(options.samples_seen, made_of(TrainSettings, values, sources=_sources(options)))


def _seeing(samples_seen: int | None, settings: TrainSettings) -> TrainSettings:
    """Settings with ``--samples-seen``, which is one of the recipe's changes."""
    if samples_seen is None:
        return settings
    if "samples_seen" in settings.overrides:
        raise ValueError("--samples-seen N says the same as --set samples_seen=N: leave one of them out")
    return replace(settings, overrides={**settings.overrides, "samples_seen": samples_seen})


def _sources(options: TrainOptions) -> tuple[TrainSource, ...]:
    if options.index is not None:
        if options.shards is not None:
            raise ValueError("give either --shards, or --index with --shards-dir and --subset")
        if options.weights is not None:
            raise ValueError("--weights belongs to several --shards; with --index there is one source: leave it out")
        return (TrainSource(index=options.index, shards_dir=options.shards_dir, subset=options.subset),)
    if options.shards is None:
        raise ValueError("nothing to train on: give --shards, or --index with --shards-dir and --subset")
    if options.shards_dir is not None or options.subset is not None:
        raise ValueError("--shards-dir and --subset belong to --index; new --shards hold the subset alone")
    shards = "::".join(os.path.expanduser(directory) for directory in options.shards.split("::"))
    return parse_sources(shards, options.weights)


def main(argv: list[str] | None = None) -> int:
    """Entry of ``python -m dcfast.train``; returns the exit status."""
    arguments = parser().parse_args(argv)
    launcher = os.environ.get(LAUNCHER)
    if launcher is not None:
        start_worker(int(launcher))
    elif os.environ.get("TORCHELASTIC_RUN_ID"):
        end_with_parent(signal.SIGTERM)  # nobody else would end this rank, once torchrun was killed
    line = "stopped; the same command goes on from the latest checkpoint"
    return run_command(lambda: _main(arguments), line if launcher is None else "")


def _main(arguments: argparse.Namespace) -> int:
    log_printably(all_of_it=True)
    # open_clip's loss gathers by a function that torch has renamed; once a step is no news
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"open_clip\.loss")
    options, settings = settings_of(arguments)
    check_assumed(options.assume_gpu, options.dry_run)
    if options.dry_run:
        lines = plan_training(settings, options.processes, assume_gpu=options.assume_gpu)
        if place_of().rank == 0:
            say("\n".join(lines))
        return DONE
    try:
        with not_left_empty(Path(settings.out) / "train"):
            summary = launch(settings, processes=options.processes)
    except PeerLostError:
        if LAUNCHER in os.environ:  # it knows why, and says it
            return PEER_LOST
        raise
    except Exception as error:
        if TOLD in getattr(error, "__notes__", ()):
            if LAUNCHER not in os.environ:
                time.sleep(_AFTER_THE_FIRST)  # torchrun ends all ranks when one has ended: the first speaks before
            return status_of(error)
        raise
    if place_of().rank:
        return DONE
    departures = "; ".join(summary.non_standard) or "by the recipe"
    replaced = f"; {summary.replaced:,} samples replaced" if summary.replaced else ""
    say(
        f"{summary.samples_seen:,} samples in {summary.steps:,} steps ({departures}); loss "
        f"{summary.loss_first:.4f} -> {summary.loss_last:.4f}{replaced}; {summary.checkpoint}"
    )
    return DONE


if __name__ == "__main__":
    sys.exit(main())
