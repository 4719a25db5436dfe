"""The command line of ``python -m dcfast.run`` and what it means: options to settings, with errors in words."""

from __future__ import annotations

import argparse
import math
import os
from typing import Any

from dcfast.engine.engine import ENGINES
from dcfast.process.parser import ArgumentParser
from dcfast.run.checks import check_settings
from dcfast.rundir.claim import located
from dcfast.rundir.settings import DEVICES, LOSSES, Settings
from dcfast.rundir.stage_table import STAGE_TABLE, STAGES
from dcfast.scales import SCALES, scale
from dcfast.storage.json_files import parse_json
from dcfast.storage.paths import path_argument

__all__ = [
    "add_training_options",
    "parse_features",
    "parse_world",
    "parser",
    "plan_without_pool",
    "settings_of",
]


def plan_without_pool(name: str) -> str:
    """What a scale would take, and how to get its pool."""
    chosen = scale(name)
    size = f"{chosen.pool_bytes / 1e12:,.1f} TB" if chosen.pool_bytes else "unknown"
    hours = f"about {chosen.gpu_hours:,.0f} A100 GPU-hours" if chosen.gpu_hours else "minutes on one GPU"
    return (
        f"scale {name}: a pool of {chosen.samples_seen:,} image-text pairs, about {size} of shards, "
        f"and {hours} of training ({chosen.model}).\n"
        f"Nothing was done, because no pool was given. Download it with DataComp's download_upstream.py "
        f"(--scale {name}), then:\n"
        f"  python -m dcfast.run --scale {name} --pool DIR --evalsets DIR --out runs/{name}"
    )


def add_training_options(p: argparse.ArgumentParser) -> None:
    """The options that ``run`` and ``study`` share: pool, features, training."""
    p.add_argument(
        "--pool",
        type=path_argument,
        metavar="DIR",
        help="pool with shards/*.tar and metadata/*.parquet, or with both side by side as img2dataset writes them "
        "(default: the built-in world)",
    )
    p.add_argument(
        "--uid-from",
        default="json",
        metavar="RULE",
        help="of a pool: json (uid of the samples' json and of the metadata), or, for pools without uids, url or key: "
        "hashes of the url, or of shard name and key (docs/formats.md; default json)",
    )
    p.add_argument(
        "--evalsets",
        type=path_argument,
        metavar="DIR",
        help="evaluation sets, wds_*_test directories: contamination is looked for in them, and the model is scored",
    )
    p.add_argument(
        "--features",
        nargs="+",
        metavar="PREFIX=MODEL",
        help="CLIP scores and embeddings to compute: b32 or l14 = NAME:PRETRAINED of open_clip (l14=ViT-L-14:openai), "
        "NAME:FILE, or teacher; none for none (default: both by the teacher in the built-in world, none for a pool)",
    )
    p.add_argument(
        "--teacher-uids",
        type=path_argument,
        metavar="FILE",
        help="subset file of trusted pairs of the pool: the teacher trains on them, and they are never kept",
    )
    p.add_argument("--loss", default="dcfast", metavar="NAME", help=f"one of {', '.join(LOSSES)}")
    p.add_argument(
        "--device", default="auto", metavar="NAME", help=f"one of {', '.join(DEVICES)} (default: a GPU if there is one)"
    )
    p.add_argument(
        "--train-from",
        default="index",
        metavar="SOURCE",
        help="index (the pool and the subset) or shards (the new shards); the batches are the same (default index)",
    )
    p.add_argument(
        "--decoder",
        default="pil",
        metavar="NAME",
        help="of the training's pictures: pil, pil_reduced or dali (docs/training.md; default pil)",
    )
    p.add_argument(
        "--samples-seen",
        type=int,
        metavar="N",
        help="of training, instead of the recipe's: the run is marked as non-standard",
    )
    p.add_argument(
        "--world",
        nargs="+",
        metavar="NAME=VALUE",
        help="changes to the built-in world's specification, e.g. rows=3200 (docs/world.md)",
    )


def _about(stage: str | None) -> tuple[str, str, str]:
    """Name, description and closing words of the help."""
    docs = "The same command resumes a run that was stopped. Docs: docs/architecture.md, docs/filters.md."
    if stage is None:
        whole = (
            "Index, score, decontaminate and filter a pool of image-text pairs, train CLIP on what is kept, and score "
            "it; no sample is lost silently."
        )
        return "python -m dcfast.run", whole, docs
    before = STAGES[: STAGES.index(stage)]
    row = STAGE_TABLE[stage]
    words = f"One stage of a run: {row.does}."
    if before:
        words += f" What the run asks for of these must be done before: {', '.join(before)}."
    if row.program:
        words += (
            f" With {' or '.join(row.program_options)} it is the program {row.program}, without a run directory: "
            f"python -m {row.program} --help lists its options."
        )
    words += " Give the options of the run: they are what makes the directory --out the same run."
    return f"dcfast {stage}", words, docs


def parser(stage: str | None = None) -> argparse.ArgumentParser:
    """The command line of ``python -m dcfast.run``, or of one stage's subcommand."""
    prog, description, epilog = _about(stage)
    p = ArgumentParser(prog=prog, description=description, epilog=epilog)
    p.add_argument("--scale", default="tiny", metavar="NAME", help=f"one of {', '.join(SCALES)} (default tiny)")
    p.add_argument(
        "--filter", metavar="EXPR", help='e.g. "basic_filter & clip_score(l14, fraction=0.3) & ~contaminated"'
    )
    p.add_argument("--out", type=path_argument, metavar="DIR", help="run directory (default runs/SCALE)")
    if stage is None:
        p.add_argument("--from", dest="first", metavar="STAGE", help=f"first stage to run: {', '.join(STAGES)}")
        p.add_argument("--to", dest="last", metavar="STAGE", help="last stage to run")
    else:
        p.set_defaults(first=stage, last=stage)
    add_training_options(p)
    p.add_argument("--no-train", action="store_true", help="the data half alone: no training, no evaluation")
    p.add_argument(
        "--compare",
        metavar="EXPR",
        help="filter of a second training that the report shows beside this one, or none "
        "(default: no_filter at tiny, none elsewhere)",
    )
    p.add_argument(
        "--workers", type=int, default=os.cpu_count() or 1, metavar="N", help="pieces at work at once (default: cores)"
    )
    p.add_argument("--engine", default="local", metavar="NAME", help=f"one of {', '.join(ENGINES)} (default local)")
    p.add_argument(
        "--ray-address", metavar="ADDRESS", help="of a running Ray cluster (default: $RAY_ADDRESS, else a local one)"
    )
    p.add_argument(
        "--shard-size", type=int, default=10_000, metavar="N", help="samples in an output shard (default 10000)"
    )
    p.add_argument(
        "--max-distance",
        type=int,
        default=8,
        metavar="BITS",
        help="perceptual hashes this close are contaminated (default 8)",
    )
    p.add_argument("--seed", type=int, default=0, help="of the built-in world and of training (default 0)")
    p.add_argument(
        "--keep-repeats",
        action="store_true",
        help="write a sample and train on it as often as metadata rows of its uid pass, as in DataComp (default: once)",
    )
    p.add_argument("--verify-images", action="store_true", help="decode every picture even where nothing else needs it")
    p.add_argument("--strict", action="store_true", help="a damaged shard is an error, not a note")
    p.add_argument(
        "--save-every-minutes",
        type=float,
        default=10.0,
        metavar="M",
        help="of training, between checkpoints beside the recipe's five; SIGTERM, SIGUSR1 and SIGHUP save one too (10)",
    )
    p.add_argument("--overwrite", action="store_true", help="redo in a directory whose settings differ")
    p.add_argument(
        "--dry-run", action="store_true", help="print the plan (pieces, bytes, estimated time) and do nothing"
    )
    p.add_argument("--quiet", action="store_true", help="no progress")
    return p


def parse_features(given: list[str] | None) -> dict[str, str] | None:
    """``["l14=ViT-L-14:openai"]`` as prefix -> model; None stays None, ``["none"]`` is {}."""
    if given is None or given == ["none"]:
        return None if given is None else {}
    found: dict[str, str] = {}
    for text in given:
        prefix, sign, model = text.partition("=")
        if not sign or not prefix or not model:
            raise ValueError(f"--features takes PREFIX=MODEL, e.g. l14=ViT-L-14:openai, or none; got {text!r}")
        if prefix in found:
            raise ValueError(f"--features: {prefix} is given twice")
        found[prefix] = model
    return found


def parse_world(given: list[str] | None) -> dict[str, Any] | None:
    """``["rows=3200"]`` as changes to the world's specification."""
    if given is None:
        return None
    found: dict[str, Any] = {}
    for text in given:
        name, sign, value = text.partition("=")
        try:
            found[name] = parse_json(value)
        except ValueError:
            sign = ""
        if not sign or not (isinstance(found[name], (int, float)) and math.isfinite(found[name])):
            raise ValueError(f"--world takes NAME=NUMBER, e.g. rows=3200; got {text!r}")
    return found


def settings_of(args: argparse.Namespace) -> Settings:
    """Settings from parsed arguments, every path by its real name; ValueError for values out of range."""
    if args.shard_size < 1:
        raise ValueError(f"--shard-size must be at least 1; got {args.shard_size}")
    if not 0 <= args.max_distance <= 64:
        raise ValueError(f"--max-distance must be 0..64 bits; got {args.max_distance}")
    if args.workers < 1:
        raise ValueError(f"--workers must be at least 1; got {args.workers}")
    settings = Settings(
        scale=scale(args.scale).name,
        pool=args.pool,
        evalsets=args.evalsets,
        filter=args.filter,
        seed=args.seed,
        shard_size=args.shard_size,
        max_distance=args.max_distance,
        verify_images=args.verify_images,
        strict=args.strict,
        features=parse_features(args.features),
        uid_from=args.uid_from,
        teacher_uids=args.teacher_uids,
        train=not args.no_train,
        compare=args.compare,
        loss=args.loss,
        device=args.device,
        train_from=args.train_from,
        decoder=args.decoder,
        keep_repeats=args.keep_repeats,
        samples_seen=args.samples_seen,
        world=parse_world(args.world),
    )
    check_settings(settings)
    return located(settings)
