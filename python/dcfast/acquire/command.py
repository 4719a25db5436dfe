"""``dcfast acquire --scale small --out POOL``: the command line."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Sequence
from functools import partial

from dcfast.acquire.options import AcquireOptions, ImageOptions, WebOptions
from dcfast.acquire.pool import acquire_pool
from dcfast.process.command import run_command
from dcfast.process.exit_codes import DONE, LOST
from dcfast.process.options import add_options, given_options, made_of
from dcfast.process.parser import ArgumentParser
from dcfast.process.terminal import log_printably, say


def parser() -> ArgumentParser:
    """The command line."""
    p = ArgumentParser(
        prog="dcfast acquire",
        description="Make a pool from the net: the metadata of a scale of DataComp, or lists of your own, and the "
        "images of its URLs.",
        epilog="The same command goes on after it was stopped in any way. Docs: docs/acquire.md.",
    )
    add_options(p, AcquireOptions)
    add_options(p, ImageOptions)
    add_options(p, WebOptions)
    return p


def main(argv: Sequence[str] | None = None) -> int:
    """Entry of ``dcfast acquire``; returns the exit status."""
    arguments = parser().parse_args(argv)
    return run_command(lambda: _main(arguments), "stopped; the same command goes on where it was")


def _main(arguments: argparse.Namespace) -> int:
    log_printably()
    options = made_of(AcquireOptions, given_options(arguments, AcquireOptions))
    web = made_of(WebOptions, given_options(arguments, WebOptions))
    image = made_of(ImageOptions, given_options(arguments, ImageOptions))
    if options.images and not web.contact and not options.quiet:
        say("note: without --contact webmasters cannot reach you; give a mail address or a URL", error=True)
    summary = acquire_pool(options, web, image, say=(lambda line: None) if options.quiet else partial(say, error=True))
    lines = [] if summary is None else summary.lines
    say("\n".join([*lines, f"pool: {options.out}", *_next(options, image)]))
    return LOST if summary is not None and summary.rows and not summary.successes else DONE


def _next(options: AcquireOptions, image: ImageOptions) -> list[str]:
    if options.images and image.output_format != "webdataset":
        return []  # a run takes tars
    pool = shlex.quote(options.out)
    scale = f" --scale {options.scale}" if options.scale in ("small", "medium", "large", "xlarge") else ""
    return [f"next: dcfast run{scale} --pool {pool} --evalsets DIR --out runs/mine"]
