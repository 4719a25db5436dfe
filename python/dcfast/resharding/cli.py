"""``python -m dcfast.resharder``: the resharder from the shell, with the arguments of DataComp's resharder.py."""

from __future__ import annotations

import os
from argparse import RawDescriptionHelpFormatter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dcfast.errors import PoolError
from dcfast.process.command import run_command
from dcfast.process.exit_codes import DONE
from dcfast.process.options import add_options, given_options, made_of, option
from dcfast.process.parser import ArgumentParser
from dcfast.process.shared_options import UID_FROM
from dcfast.process.terminal import say
from dcfast.resharding.layout import SHARD_FORMAT, STATS_FORMAT
from dcfast.resharding.run import reshard
from dcfast.storage.paths import not_left_empty, path_argument

if TYPE_CHECKING:
    from dcfast.resharding.records import ReshardReport

_MOST_WARNINGS = 20
_EPILOG = """\
Arguments of DataComp's resharder.py that need nothing here are taken and ignored: --shard-table and
--write-shard-table (the input is indexed, and sizes.json always written). --shuffle-bufsize N > 0 shuffles all samples,
not only those of a buffer. The formats of names can only be the usual ones.

A slice (--first-shard, --num-shards) without an input shard writes an empty output and says so on stderr; a
--first-shard beyond the last is an error. --overwrite is refused where one of input and output lies in the other.

Damaged input shards give what is whole in them, and are named on stderr.

Exit status: 0 done, 1 failed, 2 wrong arguments, 130 or 143 stopped by Ctrl-C or SIGTERM.
"""


@dataclass(frozen=True)
class ReshardOptions:
    """Arguments of DataComp's resharder.py, and ours."""

    input_dir: list[str] = option(
        [],
        "directory of shards; several, if given several times",
        flags=("-i", "--input-dir"),
        metavar="DIR",
        parse=path_argument,
        append=True,
        required=True,
    )
    output_dir: str = option(
        "", "output directory", flags=("-o", "--output-dir"), metavar="DIR", parse=path_argument, required=True
    )
    subset_file: str = option(
        "",
        "sorted uids: .npy of dtype u8,u8, or a raw memmap of it",
        flags=("-s", "--subset-file"),
        metavar="FILE",
        parse=path_argument,
        required=True,
    )
    num_shards: int | None = option(
        None, "number of input shards to process, by the number in their name", flags=("-n", "--num-shards"), least=0
    )
    first_shard: int = option(0, "first input shard to process", least=0)
    num_workers: int = option(0, "threads", flags=("-j", "--num-workers"), usual="one per core", least=0)
    shard_size: int = option(10_000, "most samples in an output shard", least=1)
    max_bytes: int = option(3_000_000_000, "payload at which an output shard ends", least=1)
    shuffle_seed: int | None = option(None, "put all samples in a random order, the same for the same seed")
    shuffle_bufsize: int = option(0, "as --shuffle-seed 0, where above 0")
    blur_metadata_map: str | None = option(
        None,
        "boxes by uid: DataComp's map (json), or a parquet file or a directory of them",
        metavar="FILE",
        parse=path_argument,
    )
    apply_blur: bool = option(False, "blur boxes in pictures, which become .webp")
    inject_blur_metadata: bool = option(False, "write boxes into the json as face_bboxes")
    reencode_webp_quality: int = option(100, "of blurred pictures", least=0, most=100)
    uid_from: str = option("json", UID_FROM)
    idx: bool = option(False, "write index files for NVIDIA DALI (wds2idx v1.2) along")
    dry_run: bool = option(False, "plan and report, change nothing")
    overwrite: bool = option(False, "remove earlier output shards first")
    resume: bool = option(False, "go on with a run that was killed")
    verify: bool = option(False, "read the output again and compare every payload with its source")
    sync: bool = option(True, "do not wait for the disk: a crash of the machine may lose shards", flags=("--no-sync",))
    verbose: bool = option(False, "say more", flags=("-v", "--verbose"))
    quiet: bool = option(False, "say nothing but errors", flags=("-q", "--quiet"))
    shard_format: str = option(SHARD_FORMAT, "the usual one alone", choices=(SHARD_FORMAT,))
    output_shard_format: str = option(SHARD_FORMAT, "the usual one alone", choices=(SHARD_FORMAT,))
    shard_stats_format: str = option(STATS_FORMAT, "the usual one alone", choices=(STATS_FORMAT,))
    output_shard_stats_format: str = option(STATS_FORMAT, "the usual one alone", choices=(STATS_FORMAT,))
    shard_table: str | None = option(None, "ignored")
    write_shard_table: bool = option(False, "ignored")


def parser() -> ArgumentParser:
    """The command line."""
    p = ArgumentParser(
        prog="python -m dcfast.resharder",
        description="Write a subset of a pool as new shards.",
        epilog=_EPILOG,
        formatter_class=RawDescriptionHelpFormatter,
    )
    add_options(p, ReshardOptions)
    return p


def parse_arguments(argv: Sequence[str] | None = None) -> ReshardOptions:
    """Reads the command line; exits with status 2 where it is wrong."""
    p = parser()
    arguments = p.parse_args(argv)
    try:
        args = made_of(ReshardOptions, given_options(arguments, ReshardOptions))
    except ValueError as error:
        p.error(str(error))
    if (args.apply_blur or args.inject_blur_metadata) and not args.blur_metadata_map:
        p.error("--apply-blur and --inject-blur-metadata need --blur-metadata-map")
    if args.overwrite and args.resume:
        p.error("--overwrite removes what --resume would go on with: give one of them")
    return args


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the resharder; returns its exit status."""
    args = parse_arguments(argv)
    how = "--resume in place of --overwrite" if args.overwrite else "--resume"
    return run_command(lambda: _main(args), f"stopped; the same command with {how} goes on")


def _rule_of(args: ReshardOptions) -> str:
    """The rule of the uids: what is given, else what a pool that was imported says. PoolError: pools say others."""
    imported = [place for place in args.input_dir if os.path.isfile(os.path.join(place, "pool.json"))]
    if args.uid_from != "json" or not imported:
        return args.uid_from
    from dcfast.index.pool import pool_uid_rule

    rules = {pool_uid_rule(place): place for place in reversed(args.input_dir)}
    if len(rules) > 1:
        said = ", ".join(f"{place} by {rule!r}" for rule, place in reversed(rules.items()))
        raise PoolError(
            f"--input-dir: the pools have uids by different rules ({said}), and a subset holds those of one; reshard "
            "the pools of each rule by themselves, or give the one that is meant for all: --uid-from url or key"
        )
    return next(iter(rules))


def _main(args: ReshardOptions) -> int:
    seed = args.shuffle_seed if args.shuffle_seed is not None else 0 if args.shuffle_bufsize > 0 else None
    blur = args.apply_blur or args.inject_blur_metadata
    with not_left_empty(args.output_dir):
        report = reshard(
            args.input_dir if len(args.input_dir) > 1 else args.input_dir[0],
            args.output_dir,
            args.subset_file,
            shard_size=args.shard_size,
            max_bytes=args.max_bytes,
            first_shard=args.first_shard,
            num_shards=args.num_shards,
            shuffle_seed=seed,
            boxes=args.blur_metadata_map if blur else None,
            apply_blur=args.apply_blur,
            inject_boxes=args.inject_blur_metadata,
            webp_quality=args.reencode_webp_quality,
            idx=args.idx,
            uid_from=_rule_of(args),
            overwrite=args.overwrite,
            resume=args.resume,
            dry_run=args.dry_run,
            verify=args.verify,
            threads=args.num_workers or None,
            sync=args.sync,
        )
    if report.get("chosen_shards") == 0:
        first, count = args.first_shard, args.num_shards
        say(
            f"warning: no input shard has a number in the slice of --first-shard {first} --num-shards {count}: "
            "the output has no shards",
            error=True,
        )
    for note in report.get("notes", []):
        say(f"warning: {note}", error=True)
    damages = report.get("damage", [])
    for damage in damages[:_MOST_WARNINGS]:
        say(
            f"warning: input shard {damage['shard']!r} is damaged at byte {damage['offset']}: {damage['message']}; "
            "samples behind that may be missing in the output",
            error=True,
        )
    if (more := len(damages) - _MOST_WARNINGS) > 0:
        say(f"warning: {more} more damages of input shards", error=True)
    if not args.quiet:
        _print_report(report, args)
    return DONE


_COUNTED = {
    "blur_failed": "left out {} samples: their picture has boxes and cannot be blurred, or the boxes were refused",
    "boxes_refused": "refused the boxes of {} rows of metadata",
    "mended": "{} shards were there, but cut or altered since: written again",
    "inject_failed": "{} samples keep their json without boxes: it is missing or cannot be read",
    "skipped": "{} shards were there already",
}
"""What is said of a number of the report that is not 0."""


def _print_report(report: ReshardReport, args: ReshardOptions) -> None:
    done = "would write" if args.dry_run else "wrote"
    size = report["tar_bytes"] / 1e9
    say(f"{done} {report['output_count']} samples in {report['output_shard_count']} shards, {size:.3f} GB")
    if report["missing_count"]:
        say(f"{report['missing_count']} of {report['subset_count']} entries of the subset are in no input shard")
    if report.get("blurred") or report.get("injected"):
        say(f"blurred {report['blurred']} pictures, wrote boxes into {report['injected']} json members")
    for name, sentence in _COUNTED.items():
        if count := report.get(name):
            say(sentence.format(count))
    if "verified" in report:
        say(f"verified {report['verified']['members']} members")
    if args.verbose:
        for name, value in report.items():
            say(f"  {name}: {value}")
