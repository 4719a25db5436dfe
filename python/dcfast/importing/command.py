"""``dcfast import DIR --out POOL``: the command line."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Sequence
from functools import partial

from dcfast.importing.options import ImportOptions, ImportReport
from dcfast.importing.pool import import_pool
from dcfast.process.command import run_command
from dcfast.process.exit_codes import DONE
from dcfast.process.options import add_options, given_options, made_of
from dcfast.process.parser import ArgumentParser
from dcfast.process.terminal import log_printably, say
from dcfast.rundir.settings import Settings
from dcfast.scales import scale, smaller_batch


def parser() -> ArgumentParser:
    """The command line."""
    p = ArgumentParser(
        prog="dcfast import",
        description="Make a pool that a run takes as it is, of shards of others, pictures with captions, or datasets.",
        epilog="The same command goes on after it was stopped, and takes what is new. Docs: docs/import.md.",
    )
    add_options(p, ImportOptions)
    return p


def main(argv: Sequence[str] | None = None) -> int:
    """Entry of ``dcfast import``; returns the exit status."""
    arguments = parser().parse_args(argv)
    return run_command(lambda: _main(arguments), "stopped; the same command goes on")


def _main(arguments: argparse.Namespace) -> int:
    log_printably()
    options = made_of(ImportOptions, given_options(arguments, ImportOptions))
    report = import_pool(options, say=(lambda line: None) if options.quiet else partial(say, error=True))
    say("\n".join(report_lines(options.out, report)))
    return DONE


def report_lines(out: str, report: ImportReport) -> list[str]:
    """What is said at the end: what was made, all that was passed over, and the command to run next."""
    counts = {"linked": report.linked, "copied": report.copied, "written again": report.rewritten}
    shards = [f"{count:,} {what}" for what, count in {**counts, "written": report.written}.items() if count]
    metadata = {"linked": report.metadata_linked, "written": report.metadata_written}
    tables = [f"{count:,} {what}" for what, count in metadata.items() if count]
    batch = scale(Settings.scale).global_batch  # of a run without further options
    smaller = "" if report.samples >= batch else f" --set global_batch={smaller_batch(report.samples // 2)}"
    return [
        f"{report.samples:,} samples; shards: {', '.join(shards)}; metadata: {', '.join(tables)}",
        *(f"passed over: {line}" for line in report.passed.lines),
        *(f"note: {note}" for note in report.notes),
        f"pool: {out}",
        f"next: dcfast run --pool {shlex.quote(out)}{smaller} --to verify    (then without --to verify, to train on "
        "it)",
    ]
