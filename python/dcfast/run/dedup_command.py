"""``dcfast dedup POOL --out DIR``: the copies in a pool, and between it and older ones, as the first part of a run.

DIR is a run directory like any other, whose filter is ``~duplicate``: ``dcfast filter --out DIR`` and ``dcfast reshard
--out DIR`` go on there, and the same command resumes.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from dataclasses import dataclass

from dcfast.dedup import options as dedup
from dcfast.dedup.duplicates import DUPLICATE_TABLE, DUPLICATES
from dcfast.engine.engine import ENGINES
from dcfast.filters.term import DUPLICATE
from dcfast.process.command import run_command
from dcfast.process.exit_codes import DONE
from dcfast.process.options import add_options, given_options, made_of, option, option_names
from dcfast.process.parser import ArgumentParser
from dcfast.process.shared_options import UID_FROM
from dcfast.process.terminal import log_printably, say
from dcfast.run.workflow import run
from dcfast.rundir.settings import Settings
from dcfast.rundir.summaries import DedupSummary
from dcfast.scales import SCALES
from dcfast.storage.paths import path_argument


@dataclass(frozen=True)
class DedupOptions:
    """What is compared, and how."""

    pool: str = option(
        "",
        "the pool: shards/*.tar and metadata/*.parquet",
        metavar="POOL",
        flags=("pool",),
        parse=path_argument,
        required=True,
    )
    out: str = option(
        "", "run directory, for the results and to resume", metavar="DIR", parse=path_argument, required=True
    )
    against: list[str] | None = option(None, dedup.AGAINST)
    methods: list[str] | None = option(None, dedup.SEARCHED)
    max_distance: int = option(dedup.DEFAULT_DISTANCE, dedup.DISTANCE)
    max_distance_256: int = option(dedup.DEFAULT_WIDE_DISTANCE, dedup.WIDE_DISTANCE)
    variants: bool = option(False, dedup.VARIANTS)
    chains: bool = option(False, dedup.CHAINS)
    similarity: float = option(dedup.DEFAULT_SIMILARITY, dedup.SIMILARITY)
    embeddings: str = option(dedup.EMBEDDINGS, dedup.EMBEDDING)
    keep: str = option("largest", dedup.KEPT)
    score: str = option(dedup.SCORE_COLUMN, dedup.SCORED)
    scale: str = option("small", "of DataComp that the run is of, where it goes on", choices=tuple(SCALES))
    uid_from: str = option("json", UID_FROM)
    workers: int = option(os.cpu_count() or 1, "pieces at work at once", least=1, usual="the number of cores")
    engine: str = option("local", "processes of this machine, or a cluster (docs/cluster.md)", choices=ENGINES)
    overwrite: bool = option(False, "redo in a directory whose settings differ")
    quiet: bool = option(False, "no progress")

    def settings(self) -> Settings:
        """Those of the run."""
        own = {f"dedup_{name}": getattr(self, name) for name in _SHARED}
        return Settings(
            scale=self.scale, pool=self.pool, train=False, filter=f"~{DUPLICATE}", uid_from=self.uid_from, **own
        )


_SHARED = [name for name in option_names(DedupOptions) if f"dedup_{name}" in option_names(Settings)]


def parser() -> ArgumentParser:
    """The command line."""
    p = ArgumentParser(
        prog="dcfast dedup",
        description="Find the copies in a pool, and between it and older pools: by equal bytes, perceptual hashes, "
        "embeddings. One of each group is kept; the others are named, with the evidence.",
        epilog="The same command goes on after it was stopped. Docs: docs/dedup.md.",
    )
    add_options(p, DedupOptions)
    return p


def main(argv: Sequence[str] | None = None) -> int:
    """Entry of ``dcfast dedup POOL``; returns the exit status."""
    arguments = parser().parse_args(argv)
    return run_command(lambda: _main(arguments), "stopped; the same command goes on")


def _main(arguments: argparse.Namespace) -> int:
    log_printably()
    options = made_of(DedupOptions, given_options(arguments, DedupOptions))
    summary = dedup_pool(options, quiet=options.quiet)
    say("\n".join(summary_lines(options, summary)))
    return DONE


def dedup_pool(options: DedupOptions, *, quiet: bool = True) -> DedupSummary:
    """Finds the duplicates of a pool in a run directory.

    Raises:
        DcfastError, ValueError, OSError: what went wrong, in words; the same call goes on after it is mended.
    """
    summaries = run(
        options.out,
        options.settings(),
        last="dedup",
        workers=options.workers,
        engine=options.engine,
        overwrite=options.overwrite,
        quiet=quiet,
        say=(lambda line: None) if quiet else (lambda line: say(f"{line} ...", error=True)),
    )
    summary = summaries["dedup"]
    assert isinstance(summary, DedupSummary)
    return summary


def summary_lines(options: DedupOptions, summary: DedupSummary) -> list[str]:
    """What is said at the end."""
    links = ", ".join(f"{count:,} by {name}" for name, count in summary.links.items()) or "none"
    older = f", {summary.of_older:,} of them of older pools" if summary.older else ""
    return [
        f"{summary.samples:,} samples, {summary.readable:,} readable pictures, {summary.flat:,} flat by 64 bits, "
        f"{summary.flat256:,} by 256",
        f"{summary.duplicates:,} duplicates ({links}){older}, in {summary.groups:,} groups",
        *(f"note: {note}" for note in summary.notes),
        f"uids: {os.path.join(options.out, DUPLICATES)}; evidence: {os.path.join(options.out, DUPLICATE_TABLE)}",
        f"next: dcfast filter --out {options.out}, then dcfast reshard --out {options.out}    (the pool without them)",
    ]
