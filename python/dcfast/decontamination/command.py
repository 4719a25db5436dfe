"""``dcfast decontaminate POOL --against SIGNATURES... --out DIR``: the command line."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Sequence

from dcfast.decontamination.options import DecontaminateOptions
from dcfast.decontamination.pool import Decontaminated, decontaminate_pool
from dcfast.process.command import run_command
from dcfast.process.exit_codes import DONE
from dcfast.process.options import add_options, given_options, made_of
from dcfast.process.parser import ArgumentParser
from dcfast.process.terminal import log_printably, say


def parser() -> ArgumentParser:
    """The command line of ``python -m dcfast.decontamination``."""
    p = ArgumentParser(
        prog="dcfast decontaminate",
        description="Find the pictures of a pool that are evaluation pictures, by signature files, without a run.",
        epilog="The same command goes on where it was stopped. Docs: docs/decontaminate.md.",
    )
    add_options(p, DecontaminateOptions)
    return p


def main(argv: Sequence[str] | None = None) -> int:
    """Entry of ``python -m dcfast.decontamination``; returns the exit status."""
    arguments = parser().parse_args(argv)
    return run_command(lambda: _main(arguments), "stopped; the same command goes on where it was")


def _main(arguments: argparse.Namespace) -> int:
    log_printably()
    options = made_of(DecontaminateOptions, given_options(arguments, DecontaminateOptions))
    say("\n".join(_lines(options, decontaminate_pool(options))))
    return DONE


def _lines(options: DecontaminateOptions, found: Decontaminated) -> list[str]:
    what = "samples" if found.samples else "rows of metadata"
    of = f" of {found.samples:,}" if found.samples else ""
    methods: Counter[str] = Counter()
    for name, by_method in found.hits.items():
        methods.update({f"{name}, {method}": count for method, count in by_method.items()})
    return [
        f"{found.contaminated:,}{of} {what} are pictures of {len(found.sets):,} evaluation sets, {found.content:,} of "
        f"them byte for byte; {found.uids:,} uids",
        *(f"{name}: {count:,}" for name, count in sorted(methods.items())),
        *(
            f"descriptors {use.name}, {use.source}: of {use.described:,} pictures, the same from {use.least:g} on"
            for use in found.descriptors
        ),
        *(f"note: {note}" for note in found.notes),
        f"evidence: {options.out}/contamination.parquet",
        f"next: a run without them: --filter '~uids(\"{options.out}/contaminated.npy\")'",
    ]
