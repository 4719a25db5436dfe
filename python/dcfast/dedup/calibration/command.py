"""``dcfast calibrate``: which threshold finds which copies, and how many hits are chance, on pictures of one's own."""

from __future__ import annotations

import argparse
import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from dcfast.dedup.calibration.describe import describer
from dcfast.dedup.calibration.measure import LEAST_PICTURES, Asked, Calibration, calibrate
from dcfast.dedup.calibration.page import plot, table
from dcfast.dedup.calibration.pictures import choose, list_pictures
from dcfast.process.command import run_command
from dcfast.process.exit_codes import DONE
from dcfast.process.options import add_options, given_options, made_of, option
from dcfast.process.parser import ArgumentParser
from dcfast.process.shared_options import DEVICE, MOST_SEED
from dcfast.process.terminal import say
from dcfast.storage.atomic import write_bytes, write_json
from dcfast.storage.paths import check_writable, make_directory, path_argument
from dcfast.storage.records import plain

MOST_PICTURES = 100_000


@dataclass(frozen=True)
class CalibrateOptions:
    """Which pictures, how many, and where the result goes."""

    folders: list[str] = option(
        [], "folders of pictures or of shards, and all below them", flags=("folders",), metavar="FOLDER", gather=list
    )
    out: str = option("calibration", "directory of the result", metavar="DIR", parse=path_argument)
    pictures: int = option(5_000, "pictures compared with each other", least=LEAST_PICTURES, most=MOST_PICTURES)
    edited: int = option(200, "of them edited, in every way", least=1, most=MOST_PICTURES)
    pool: int = option(12_800_000_000, "pictures of a pool, for the number of chance hits", least=1, most=10**15)
    evaluation: int = option(1_300_000, "pictures of evaluation sets, likewise", least=1, most=10**15)
    seed: int = option(0, "of all that is drawn", least=0, most=MOST_SEED)
    threads: int = option(0, "threads", usual="one per core", least=0, most=4096)
    model: str | None = option(
        None, "an open_clip model whose picture embeddings are one more method", metavar="NAME:PRETRAINED"
    )
    device: str = option("auto", DEVICE)


def parser() -> ArgumentParser:
    """The command line of ``dcfast calibrate``."""
    p = ArgumentParser(
        prog="dcfast calibrate",
        description="Edits pictures (crop, border, caption, blur, JPEG, colour, turn, overlay, ...) and measures which "
        "copies each hash finds, by threshold; and reckons from the distances of unrelated pictures how many hits are "
        "chance in a pool.",
        epilog="Writes calibration.json, .md, and with matplotlib .svg and .png. Docs: docs/calibration.md.",
    )
    add_options(p, CalibrateOptions)
    return p


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns the exit status."""
    args = parser().parse_args(argv)
    return run_command(lambda: _main(args), "stopped; nothing was written")


def _main(arguments: argparse.Namespace) -> int:
    options = made_of(CalibrateOptions, given_options(arguments, CalibrateOptions))
    make_directory(options.out, "--out")
    check_writable(options.out, "--out")
    describe, name = (None, None) if options.model is None else describer(options.model, options.device)
    chosen = choose(list_pictures(options.folders), options.pictures, options.seed, options.threads or None)
    asked = Asked(options.edited, options.seed, (options.pool, options.evaluation), options.threads)
    result = calibrate(chosen, asked, version=_version(), describe=describe, descriptor=name, progress=say)
    write(result, Path(options.out))
    say(table(result))
    return DONE


def _version() -> str:
    return metadata.version("dcfast")


def write(calibration: Calibration, out: Path) -> None:
    """Writes ``calibration.json``, ``.md`` and, where matplotlib is installed, ``.svg`` and ``.png``."""
    files = plot(calibration) if importlib.util.find_spec("matplotlib") is not None else {}
    for name, data in files.items():
        write_bytes(out / name, data)
    write_bytes(out / "calibration.md", table(calibration).encode())
    write_json(out / "calibration.json", plain(calibration))
