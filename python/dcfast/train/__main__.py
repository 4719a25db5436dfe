"""``python -m dcfast.train``: a training from the shell, alone or under torchrun."""

from __future__ import annotations

import argparse
import os
import sys
import time
import warnings
from pathlib import Path
from typing import Any

from dcfast.process.command import run_command, status_of
from dcfast.process.exit_codes import DONE, PEER_LOST
from dcfast.process.parser import ArgumentParser
from dcfast.process.signals import start_worker
from dcfast.process.terminal import log_printably, say
from dcfast.scales import SCALES
from dcfast.storage.json_files import parse_json, read_json
from dcfast.storage.paths import not_left_empty, path_argument
from dcfast.train.decode import DECODERS
from dcfast.train.launch import launch
from dcfast.train.ranks import LAUNCHER, TOLD, PeerLostError, place_of
from dcfast.train.settings import LOSSES, RECIPE_FIELDS, TrainSettings, TrainSource, parse_sources

_AFTER_THE_FIRST = 2.0


def _override(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not equals or name not in RECIPE_FIELDS:
        raise argparse.ArgumentTypeError(
            f"expected FIELD=VALUE with FIELD one of {', '.join(RECIPE_FIELDS)}; got {text!r}"
        )
    try:
        return name, parse_json(value)
    except ValueError:
        return name, value


def _parser() -> argparse.ArgumentParser:
    parser = ArgumentParser(
        prog="python -m dcfast.train",
        description="Train CLIP by the recipe of a scale, from shards or from an index and a subset. The same command "
        "goes on where it was stopped. Under torchrun each process is a rank.",
    )
    add = parser.add_argument
    add("--out", type=path_argument, metavar="DIR", help="writes DIR/train; goes on with the training that is there")
    add(
        "--settings",
        type=path_argument,
        metavar="FILE",
        help="all settings from a JSON file (train/settings.json), and no other option",
    )
    add("--scale", default="tiny", choices=list(SCALES), help="whose recipe is followed (default: tiny)")
    add("--shards", "--data", metavar="DIR[::DIR]", help="directories of shards (*.tar)")
    add("--weights", metavar="W[::W]", help="how often a sample of each directory is taken, relative to the others")
    add("--index", type=path_argument, metavar="DIR", help="instead of --shards: a run, or its index directory")
    add("--shards-dir", type=path_argument, metavar="DIR", help="with --index: the pool's directory of shards")
    add("--subset", type=path_argument, metavar="FILE", help="with --index: the uids to train on (npy, u8,u8)")
    add("--set", dest="overrides", type=_override, action="append", default=[], metavar="FIELD=VALUE",
        help="depart from the recipe; the training is then marked as non-standard")  # fmt: skip
    add("--seed", type=int, default=0)
    add("--accumulation", type=int, default=1, metavar="N", help="micro-batches a step on each rank")
    add("--no-resample", action="store_true", help="each sample once a pass, instead of drawing with replacement")
    add("--loss", default="dcfast", choices=LOSSES)
    add("--decoder", default="pil", choices=list(DECODERS))
    add("--device", default="cpu", help="cpu (default) or cuda")
    add("--workers", type=int, help="processes that decode, per rank; changes no result")
    add("--threads", type=int, help="threads of torch on the CPU")
    add("--log-every", type=int, default=10, metavar="N", help="steps between lines of log.jsonl")
    add("--save-every-minutes", type=float, default=10.0, metavar="M", help="save a checkpoint every M minutes (10)")
    add("--save-every-steps", type=int, metavar="N", help="also save a checkpoint every N steps")
    add("--max-replaced", type=float, default=0.01, metavar="SHARE",
        help="of samples that cannot be used and are replaced; above it, within 4,096 samples or at the end, training "
        "stops; a part of those may have a few more by chance, but none with 0 (0.01)")  # fmt: skip
    add("--rank-timeout", type=float, default=60.0, metavar="SECONDS",
        help="until training ends without a sign of life from a rank, or samples for it; 0 = never (60)")  # fmt: skip
    add("--processes", type=int, metavar="N", help="ranks on this machine (default: one a GPU, one on the CPU)")
    return parser


def _from_file(path: Path) -> TrainSettings:
    try:
        values = read_json(path, names=True)
    except ValueError as error:
        raise ValueError(f"{error}; expected the settings of a training as JSON") from None
    if not isinstance(values, dict) or not isinstance(values.get("sources"), list) or "out" not in values:
        raise ValueError(f"{path}: expected the settings of a training, an object with out and sources (a list)")
    return TrainSettings.from_dict(values)


def settings_of(arguments: argparse.Namespace) -> TrainSettings:
    """The settings that a command line asks for."""
    if arguments.settings is not None:
        return _from_file(Path(arguments.settings))
    if arguments.out is None:
        raise ValueError("nowhere to write: give --out DIR")
    if arguments.index is not None:
        if arguments.shards is not None:
            raise ValueError("give either --shards, or --index with --shards-dir and --subset")
        if arguments.weights is not None:
            raise ValueError("--weights belongs to several --shards; with --index there is one source")
        sources: tuple[TrainSource, ...] = (
            TrainSource(index=arguments.index, shards_dir=arguments.shards_dir, subset=arguments.subset),
        )
    elif arguments.shards is not None:
        if arguments.shards_dir is not None or arguments.subset is not None:
            raise ValueError("--shards-dir and --subset belong to --index; new --shards hold the subset alone")
        shards = "::".join(os.path.expanduser(directory) for directory in arguments.shards.split("::"))
        sources = parse_sources(shards, arguments.weights)
    else:
        raise ValueError("nothing to train on: give --shards, or --index with --shards-dir and --subset")
    return TrainSettings(
        out=arguments.out,
        sources=sources,
        scale=arguments.scale,
        overrides=dict(arguments.overrides),
        seed=arguments.seed,
        resample=not arguments.no_resample,
        accumulation=arguments.accumulation,
        loss=arguments.loss,
        decoder=arguments.decoder,
        device=arguments.device,
        save_every_minutes=arguments.save_every_minutes,
        save_every_steps=arguments.save_every_steps,
        max_replaced=arguments.max_replaced,
        rank_timeout=arguments.rank_timeout,
        workers=arguments.workers,
        threads=arguments.threads,
        log_every=arguments.log_every,
    )


def main(argv: list[str] | None = None) -> int:
    """Entry of ``python -m dcfast.train``; returns the exit status."""
    arguments = _parser().parse_args(argv)
    launcher = os.environ.get(LAUNCHER)
    if launcher is not None:
        start_worker(int(launcher))
    line = "stopped; the same command goes on from the latest checkpoint"
    return run_command(lambda: _main(arguments), line if launcher is None else "")


def _main(arguments: argparse.Namespace) -> int:
    log_printably(all_of_it=True)
    # open_clip's loss gathers by a function that torch has renamed; once a step is no news
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"open_clip\.loss")
    first = place_of().rank == 0
    settings = settings_of(arguments)
    try:
        with not_left_empty(Path(settings.out) / "train"):
            summary = launch(settings, processes=arguments.processes)
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
    if not first:
        return DONE
    said = "; ".join(summary["non_standard"]) or "by the recipe"
    replaced = f"; {summary['replaced']:,} samples replaced" if summary["replaced"] else ""
    say(
        f"{summary['samples_seen']:,} samples in {summary['steps']:,} steps ({said}); loss "
        f"{summary['loss_first']:.4f} -> {summary['loss_last']:.4f}{replaced}; {summary['checkpoint']}"
    )
    return DONE


if __name__ == "__main__":
    sys.exit(main())
