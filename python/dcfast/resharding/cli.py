"""``python -m dcfast.resharder``: the resharder from the shell, with the arguments of DataComp's resharder.py."""

from __future__ import annotations

from argparse import Namespace, RawDescriptionHelpFormatter
from collections.abc import Sequence
from typing import Any

from dcfast.process.command import run_command
from dcfast.process.exit_codes import DONE
from dcfast.process.parser import ArgumentParser
from dcfast.process.terminal import say
from dcfast.resharding.run import reshard
from dcfast.storage.paths import not_left_empty, path_argument

__all__ = ["main", "parse_arguments"]

_LAYOUT = {
    "shard_format": "{:08d}.tar",
    "output_shard_format": "{:08d}.tar",
    "shard_stats_format": "{:08d}_stats.json",
    "output_shard_stats_format": "{:08d}_stats.json",
}
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


def parse_arguments(argv: Sequence[str] | None = None) -> Namespace:
    """Reads the command line; exits with status 2 where it is wrong."""
    parser = ArgumentParser(
        prog="python -m dcfast.resharder",
        description="Write a subset of a pool as new shards.",
        epilog=_EPILOG,
        formatter_class=RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add(
        "-i",
        "--input-dir",
        type=path_argument,
        required=True,
        action="append",
        help="directory of shards; several, if given several times",
    )
    add("-o", "--output-dir", type=path_argument, required=True, help="output directory")
    add(
        "-s",
        "--subset-file",
        type=path_argument,
        required=True,
        help="sorted uids: .npy of dtype u8,u8, or a raw memmap of it",
    )
    add("-n", "--num-shards", type=int, help="number of input shards to process, by the number in their name")
    add("--first-shard", type=int, default=0, help="first input shard to process")
    add("-j", "--num-workers", type=int, default=0, help="threads; 0 (default): one per core")
    add("--shard-size", type=int, default=10_000, help="most samples in an output shard (10000)")
    add("--max-bytes", type=int, default=3_000_000_000, help="payload at which an output shard ends (3e9)")
    add("--shuffle-seed", type=int, help="put all samples in a random order, the same for the same seed")
    add("--shuffle-bufsize", type=int, default=0, help="as --shuffle-seed 0, where above 0")
    add(
        "--blur-metadata-map",
        type=path_argument,
        help="boxes by uid: DataComp's map (json), or a parquet file or a directory of them",
    )
    add("--apply-blur", action="store_true", help="blur boxes in pictures, which become .webp")
    add("--inject-blur-metadata", action="store_true", help="write boxes into the json as face_bboxes")
    add("--reencode-webp-quality", type=int, default=100, help="of blurred pictures (100)")
    add(
        "--uid-from",
        choices=("json", "url", "key"),
        default="json",
        help="uids of json, or hashes of url or key (json)",
    )
    add("--idx", action="store_true", help="write index files for NVIDIA DALI (wds2idx v1.2) along")
    add("--dry-run", action="store_true", help="plan and report, change nothing")
    add("--overwrite", action="store_true", help="remove earlier output shards first")
    add("--resume", action="store_true", help="go on with a run that was killed")
    add("--verify", action="store_true", help="read the output again and compare every payload with its source")
    add("--no-sync", action="store_true", help="do not wait for the disk: a crash of the machine may lose shards")
    add("-v", "--verbose", action="count", default=0, help="say more")
    add("-q", "--quiet", action="count", default=0, help="say nothing but errors")
    for name, usual in _LAYOUT.items():
        add("--" + name.replace("_", "-"), default=usual, help=f"only {usual.replace('%', '%%')}")
    add("--shard-table", help="ignored")
    add("--write-shard-table", action="store_true", help="ignored")
    args = parser.parse_args(argv)
    for name, usual in _LAYOUT.items():
        if getattr(args, name) != usual:
            parser.error(f"--{name.replace('_', '-')} can only be {usual}; got {getattr(args, name)}")
    if (args.apply_blur or args.inject_blur_metadata) and not args.blur_metadata_map:
        parser.error("--apply-blur and --inject-blur-metadata need --blur-metadata-map")
    if args.overwrite and args.resume:
        parser.error("--overwrite removes what --resume would go on with: give one of them")
    if not 0 <= args.reencode_webp_quality <= 100:
        parser.error(f"--reencode-webp-quality must be 0 to 100; got {args.reencode_webp_quality}")
    for name, least in (("shard_size", 1), ("max_bytes", 1), ("first_shard", 0), ("num_shards", 0)):
        value = getattr(args, name)
        if value is not None and value < least:
            parser.error(f"--{name.replace('_', '-')} must be at least {least}; got {value}")
    if args.num_workers < 0:
        parser.error(f"--num-workers must be 0 or more; got {args.num_workers}")
    return args


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the resharder; returns its exit status."""
    args = parse_arguments(argv)
    how = "--resume in place of --overwrite" if args.overwrite else "--resume"
    return run_command(lambda: _main(args), f"stopped; the same command with {how} goes on")


def _main(args: Namespace) -> int:
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
            uid_from=args.uid_from,
            overwrite=args.overwrite,
            resume=args.resume,
            dry_run=args.dry_run,
            verify=args.verify,
            threads=args.num_workers,
            sync=not args.no_sync,
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
    for damage in report.get("damage", [])[:_MOST_WARNINGS]:
        say(
            f"warning: input shard {damage['shard']!r} is damaged at byte {damage['offset']}: {damage['message']}; "
            "samples behind that may be missing in the output",
            error=True,
        )
    if (more := len(report.get("damage", [])) - _MOST_WARNINGS) > 0:
        say(f"warning: {more} more damages of input shards", error=True)
    if not args.quiet:
        _print_report(report, args)
    return DONE


def _print_report(report: dict[str, Any], args: Namespace) -> None:
    done = "would write" if args.dry_run else "wrote"
    size = report["tar_bytes"] / 1e9
    say(f"{done} {report['output_count']} samples in {report['output_shard_count']} shards, {size:.3f} GB")
    if report["missing_count"]:
        say(f"{report['missing_count']} of {report['subset_count']} entries of the subset are in no input shard")
    if report.get("blurred") or report.get("injected"):
        say(f"blurred {report['blurred']} pictures, wrote boxes into {report['injected']} json members")
    if report.get("blur_failed"):
        why = "their picture has boxes and cannot be blurred, or the boxes were refused"
        say(f"left out {report['blur_failed']} samples: {why}")
    if report.get("boxes_refused"):
        say(f"refused the boxes of {report['boxes_refused']} rows of metadata")
    if report.get("mended"):
        say(f"{report['mended']} shards were there, but cut or altered since: written again")
    if report.get("inject_failed"):
        say(f"{report['inject_failed']} samples keep their json without boxes: it is missing or cannot be read")
    if report.get("skipped"):
        say(f"{report['skipped']} shards were there already")
    if "verified" in report:
        say(f"verified {report['verified']['members']} members")
    if args.verbose:
        for name, value in report.items():
            say(f"  {name}: {value}")
