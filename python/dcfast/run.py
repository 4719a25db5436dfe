"""``python -m dcfast.run``: the workflow from a pool to a subset, its shards and a report.

Every stage resumes: the same command, run again after it was stopped in any way, goes on where it was and ends
with the same bytes. ``run()`` is the same as a Python function.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from dcfast.errors import DcfastError, RunError
from dcfast.manifest import write_manifest
from dcfast.scales import SCALES, scale
from dcfast.stages import STAGES, stage_steps
from dcfast.stages.engine import ENGINES, open_engine
from dcfast.stages.progress import Progress, Silent
from dcfast.stages.run_dir import Run, Settings, open_run
from dcfast.stages.runner import run_stage

__all__ = [
    "decontaminate",
    "filter_metadata",
    "index",
    "main",
    "report",
    "reshard",
    "run",
    "signatures",
    "stage",
    "verify",
    "world",
]


def _selected(run: Run, first: str | None, last: str | None) -> list[str]:
    for name, value in (("--from", first), ("--to", last)):
        if value is not None and value not in STAGES:
            raise ValueError(f"{name} must be one of {', '.join(STAGES)}; got {value!r}")
    begin = STAGES.index(first) if first else 0
    end = STAGES.index(last) if last else len(STAGES) - 1
    if begin > end:
        raise ValueError(f"--from {first} comes after --to {last}; the order is {', '.join(STAGES)}")
    stages = [s for s in STAGES[begin : end + 1] if s != "world" or run.is_world]
    if not stages:
        raise ValueError("stage world renders the built-in world, for runs without --pool; leave --pool out")
    return stages


def _check(run: Run, stages: list[str]) -> None:
    # what can be known to be wrong before hours of work, is said before them
    if run.settings.filter is not None:
        from dcfast.filters import compile_filter

        compile_filter(run.settings.filter)
    if "world" in stages:
        return  # it may be half rendered: its files are listed when it is whole
    run.pool  # noqa: B018  (lists the pool, or says what is missing)
    if run.evalset_dir is not None and "signatures" in stages:
        from dcfast.stages.signatures import evalset_tars

        evalset_tars(run.evalset_dir)
    if "filter" in stages:
        from dcfast.stages.filter import resolve_expression

        resolve_expression(run)


def run(
    out: str | os.PathLike[str],
    settings: Settings | None = None,
    *,
    first: str | None = None,
    last: str | None = None,
    workers: int = 1,
    engine: str = "local",
    ray_address: str | None = None,
    overwrite: bool = False,
    quiet: bool = True,
    say: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Runs the stages from ``first`` to ``last`` in a run directory.

    Args:
        out: the run directory; made where missing.
        settings: what to do; None is the built-in world with its defaults.
        workers: pieces at work at once; changes no byte of the results.
        engine: ``local`` or ``ray``.
        overwrite: redo in a directory whose settings differ, instead of refusing.
        quiet: no progress on standard error.
        say: is given a line when a stage begins.
    Returns:
        stage -> its summary, for the stages that ran.
    Raises:
        DcfastError, ValueError, OSError: what went wrong, in words; the run can be resumed after it is mended.
    """
    chosen = settings or Settings()
    scale(chosen.scale)
    if chosen.pool is None and chosen.scale != "tiny":
        raise RunError(f"scale {chosen.scale} needs a pool (--pool DIR); the built-in world is for scale tiny alone")
    with open_run(out, chosen, overwrite=overwrite) as current:
        stages = _selected(current, first, last)
        _check(current, stages)
        current.claim(STAGES)
        for name in STAGES[: STAGES.index(stages[0])]:
            if name != "world" or current.is_world:
                current.summary(name)  # RunError says which stage is missing
        summaries = {}
        with open_engine(engine, workers, ray_address) as pieces:
            for name in stages:
                say(name)
                if name == "index":
                    _check(current, [s for s in stages if s != "world"])  # the world is whole by now
                if name == "report":
                    write_manifest(current)  # the report shows it
                summaries[name] = run_stage(current, pieces, name, stage_steps(name), Silent if quiet else Progress)
        if stages[-1] != "world":
            write_manifest(current)
        return summaries


def stage(name: str, out: str | os.PathLike[str], settings: Settings | None = None, **options: Any) -> dict[str, Any]:
    """Runs one stage of a run directory, whose earlier stages are done; returns its summary.

    Args:
        name: one of ``dcfast.stages.STAGES``.
        out, settings, options: as :func:`run`.
    Raises:
        RunError: an earlier stage has not been run.   ValueError: no such stage.
    """
    return dict(run(out, settings, first=name, last=name, **options)[name])


# each stage as a function of (out, settings, **options); see ``stage``
world = partial(stage, "world")
index = partial(stage, "index")
signatures = partial(stage, "signatures")
decontaminate = partial(stage, "decontaminate")
filter_metadata = partial(stage, "filter")
reshard = partial(stage, "reshard")
verify = partial(stage, "verify")
report = partial(stage, "report")


def _plan_without_pool(name: str) -> str:
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


def parser() -> argparse.ArgumentParser:
    """The command line of ``python -m dcfast.run`` and of each stage's subcommand."""
    p = argparse.ArgumentParser(
        prog="python -m dcfast.run",
        description="Index, decontaminate, filter and reshard a pool of image-text pairs; no sample is lost silently.",
        epilog="The same command resumes a run that was stopped. Docs: docs/architecture.md, docs/filters.md.",
    )
    p.add_argument("--scale", default="tiny", metavar="NAME", help=f"one of {', '.join(SCALES)} (default tiny)")
    p.add_argument(
        "--pool", metavar="DIR", help="pool with shards/*.tar and metadata/*.parquet (default: the built-in world)"
    )
    p.add_argument(
        "--evalsets", metavar="DIR", help="evaluation sets, wds_*_test directories, to decontaminate against"
    )
    p.add_argument(
        "--filter", metavar="EXPR", help='e.g. "basic_filter & clip_score(l14, fraction=0.3) & ~contaminated"'
    )
    p.add_argument("--out", metavar="DIR", help="run directory (default runs/SCALE)")
    p.add_argument("--from", dest="first", metavar="STAGE", help=f"first stage to run: {', '.join(STAGES)}")
    p.add_argument("--to", dest="last", metavar="STAGE", help="last stage to run")
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
    p.add_argument("--seed", type=int, default=0, help="of the built-in world (default 0)")
    p.add_argument("--verify-images", action="store_true", help="decode every picture even where nothing else needs it")
    p.add_argument("--strict", action="store_true", help="a damaged shard is an error, not a note")
    p.add_argument("--overwrite", action="store_true", help="redo in a directory whose settings differ")
    p.add_argument(
        "--dry-run", action="store_true", help="print the plan (pieces, bytes, estimated time) and do nothing"
    )
    p.add_argument("--quiet", action="store_true", help="no progress")
    return p


def settings_of(args: argparse.Namespace) -> Settings:
    """Settings from parsed arguments, paths made absolute; ValueError for values out of range."""
    if args.shard_size < 1:
        raise ValueError(f"--shard-size must be at least 1; got {args.shard_size}")
    if not 0 <= args.max_distance <= 64:
        raise ValueError(f"--max-distance must be 0..64 bits; got {args.max_distance}")
    if args.workers < 1:
        raise ValueError(f"--workers must be at least 1; got {args.workers}")
    return Settings(
        scale=scale(args.scale).name,
        pool=os.path.abspath(args.pool) if args.pool is not None else None,
        evalsets=os.path.abspath(args.evalsets) if args.evalsets is not None else None,
        filter=args.filter,
        seed=args.seed,
        shard_size=args.shard_size,
        max_distance=args.max_distance,
        verify_images=args.verify_images,
        strict=args.strict,
    )


def _closing_lines(out: Path, summaries: dict[str, Any]) -> list[str]:
    lines = []
    if "filter" in summaries:
        fates = summaries["filter"]["fates"]
        lines.append("fates: " + ", ".join(f"{n:,} {name}" for name, n in fates.items()))
    if "signatures" in summaries:
        lines += [f"note: {note}" for note in summaries["signatures"]["notes"]]
    if "filter" in summaries:
        lines += [f"note: {note}" for note in summaries["filter"]["notes"]]
        if damaged := summaries["filter"]["damaged_shards"]:
            lines.append(f"damaged shards: {damaged} (quarantine.parquet names each with its offset)")
    if "report" in summaries:
        lines.append(f"report: {out / 'report.html'}")
    else:
        lines.append(f"run directory: {out}")
    return lines


def main(argv: Sequence[str] | None = None) -> int:
    """Entry of ``python -m dcfast.run``: 0 done, 1 an error, 2 a plan instead of work or bad usage, 130 Ctrl-C."""
    args = parser().parse_args(argv)
    try:
        settings = settings_of(args)
        if settings.pool is None and settings.scale != "tiny":
            sys.stderr.write(_plan_without_pool(settings.scale) + "\n")
            return 2
        out = Path(args.out or Path("runs") / settings.scale)
        if args.dry_run:
            from dcfast.stages.plan import describe

            sys.stdout.write(describe(out, settings, args.workers) + "\n")
            return 0
        summaries = run(
            out,
            settings,
            first=args.first,
            last=args.last,
            workers=args.workers,
            engine=args.engine,
            ray_address=args.ray_address,
            overwrite=args.overwrite,
            quiet=args.quiet,
            say=(lambda line: None) if args.quiet else (lambda line: print(f"{line} ...", file=sys.stderr, flush=True)),
        )
    except KeyboardInterrupt:
        sys.stderr.write("stopped; the same command resumes\n")
        return 130
    except (DcfastError, ValueError, TypeError, OSError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    print("\n".join(_closing_lines(out, summaries)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
