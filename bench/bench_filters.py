"""DataComp's baseline filters as a whole stage, beside its own baselines.py: the same uids, seconds and memory.

The stage ``filter`` of a run whose shards are indexed, in a process of its own with two workers; it writes the outcome
and fate of every row, too. DataComp's side runs once: it takes minutes.

    python -m bench.bench_filters --datacomp CHECKOUT --datacomp-python PYTHON --captions ALT_TEXTS.parquet

The pools take 7 GB of disk and two minutes to make, once. laion2b needs gcld3 on both sides.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from bench import harness
from bench.bars import BASELINES, Value
from bench.filter_floors import FLOORS, fasttext_side, floor_side
from bench.filter_pool import FilterPool, FilterPoolSize, filter_pool
from bench.harness import Absent, Side, require_equal
from bench.watched import Watched, environment

TEXT_SIZE, IMAGE_SIZE = FilterPoolSize(3_000_000, 10), FilterPoolSize(310_000, 8, clusters=1_000)
# name: clusters; DataComp has 100,000
MORE_CLUSTERS = {"image_based_10k": 10_000, "image_based_100k": 100_000}
QUICK_TEXT, QUICK_IMAGE = FilterPoolSize(600, 2), FilterPoolSize(300, 2, clusters=12, targets=30)
_CLUSTERS = 'centroids="{assets}/centroids.npy", target="{assets}/target.npy"'
TEXT_FILTERS = {
    # name: arguments of baselines.py, our expression
    "no_filter": (["--name", "no_filter"], "no_filter"),
    "clip_score": (["--name", "clip_score", "--arch", "l14", "--fraction", "0.3"], "clip_score(l14, fraction=0.3)"),
    "laion2b": (["--name", "laion2b"], "laion2b"),
    "basic_filter": (["--name", "basic_filter"], "basic_filter"),
}
_SCALE = ["--image_based_scale", "small"]
IMAGE_FILTERS = {
    "image_based": (["--name", "image_based", *_SCALE], f"image_based({_CLUSTERS})"),
    "image_based_intersect_clip_score": (
        ["--name", "image_based_intersect_clip_score", "--arch", "l14", "--fraction", "0.3", *_SCALE],
        f"image_based_intersect_clip_score(l14, fraction=0.3, {_CLUSTERS})",
    ),
}
# what torch has pickled, by the interpreter that reads it
_ASSETS = """
import sys, numpy, torch
folder = sys.argv[1]
torch.save(numpy.load(folder + "/centroids.npy"), folder + "/small_centroids.pt", pickle_protocol=4)
for i, part in enumerate(numpy.array_split(numpy.load(folder + "/target.npy"), 5)):
    features = torch.from_numpy(numpy.ascontiguousarray(part))
    torch.save({"image_features": features}, f"{folder}/in1k_clip_vit_l14_{i}.pt")
"""


class Stage:
    """The stage ``filter`` of an expression on a pool, in a run directory that is indexed once and copied each time."""

    def __init__(self, bench: harness.Bench, pool: FilterPool, expression: str, work: Path) -> None:
        self.out, self.indexed = work / "run", work / "indexed"
        options = [
            "--scale",
            "small",
            "--no-train",
            "--quiet",
            "--device",
            "cpu",
            "--workers",
            str(bench.options.threads),
        ]
        given = ["--pool", str(pool.root), "--filter", expression, *options]
        self.command = [
            sys.executable,
            "-m",
            "dcfast.run",
            *given,
            "--out",
            str(self.out),
            "--from",
            "filter",
            "--to",
            "filter",
        ]
        self.watched = Watched(self.command, harness.REPO_ROOT, environment())
        shutil.rmtree(self.indexed, ignore_errors=True)
        shutil.rmtree(self.out, ignore_errors=True)
        before = [*self.command[:-4], "--to", "decontaminate"]
        Watched(before, harness.REPO_ROOT, environment()).run()
        self.out.rename(self.indexed)

    def prepare(self) -> None:
        shutil.rmtree(self.out, ignore_errors=True)
        shutil.copytree(self.indexed, self.out, copy_function=shutil.copy2)


def _left_out(name: str, quick: bool) -> str | None:
    """Why a filter is not timed here."""
    if quick and name not in ("basic_filter", "image_based"):
        return "left out by --quick"
    if name != "laion2b":
        return None
    try:
        import gcld3  # noqa: F401
    except ImportError:
        return "gcld3 is not installed"
    return None


def _datacomp(bench: harness.Bench, pool: FilterPool, arguments: list[str], save: Path) -> Watched | Absent:
    options = bench.options
    if not options.datacomp or not options.datacomp_python:
        return Absent(BASELINES, "pass --datacomp DIR and --datacomp-python PATH")
    assets = pool.root / "assets"
    if pool.size.clusters:
        subprocess.run([options.datacomp_python, "-c", _ASSETS, str(assets)], check=True)
    from dcfast.filters.language import find_model

    shutil.copy(find_model(), assets / "lid.176.bin")
    script = Path(__file__).with_name("datacomp_filter.py")
    places = ["--metadata_dir", str(pool.root / "metadata"), "--save_path", str(save)]
    workers = ["--num_workers", str(options.threads), "--num_gpus", "1"]
    env = {name: value for name, value in environment().items() if name != "PYTHONPATH"}
    env |= {"DATACOMP": os.path.abspath(options.datacomp), "DATACOMP_ASSETS": str(assets), "PYTHONWARNINGS": "ignore"}
    command = [options.datacomp_python, str(script), *arguments, *places, *workers]
    return Watched(command, save.parent, env)


def time_filter(bench: harness.Bench, pool: FilterPool, name: str, case: tuple[list[str], str], work: Path) -> None:
    """Both sides of one filter; the uids are compared."""
    arguments, expression = case
    missing = _left_out(name, bench.options.quick)
    if missing is not None:
        for op in (f"filter_{name}", f"filter_{name}_memory"):
            bench.compare(op, [Absent("dcfast", missing), Absent(BASELINES, missing)], shape="")
        return
    save = work / "theirs.npy"
    save.unlink(missing_ok=True)
    theirs = _datacomp(bench, pool, arguments, save)
    stage = Stage(bench, pool, expression.format(assets=pool.root / "assets"), work)
    answers: dict[str, Any] = {}

    def check(provider: str, path: Path, _: Any) -> None:
        answers[provider] = np.load(path)
        for other, answer in answers.items():
            require_equal(provider, f"uids beside {other}", answers[provider], answer)

    threads = bench.options.threads
    ours = Side("dcfast", stage.watched.run, partial(check, "dcfast", stage.out / "subset.npy"), stage.prepare, threads)
    sides: list[Side | Absent] = [ours]
    if isinstance(theirs, Absent):
        sides.append(theirs)
    else:
        sides.append(Side(BASELINES, theirs.run, partial(check, BASELINES, save), threads=threads, once=True))
    if name == "basic_filter":
        sides.append(fasttext_side(bench, pool, threads))
    if name in FLOORS:
        sides.append(floor_side(name, pool, threads, work))
    shape = f"{pool.size.rows:,} rows in {pool.size.files} files"
    files = [*pool.metadata, *(pool.root / "metadata").glob("*.npz")]
    bench.compare(f"filter_{name}", sides, shape=shape, rounds=3, touched=files)
    op, date, note = f"filter_{name}_memory", harness.now(), "peak of RssAnon + RssShmem of all its processes"
    for provider, side in (("dcfast", stage.watched), (BASELINES, theirs)):
        if isinstance(side, Absent):
            bench.compare(op, [side], shape=shape)
        else:
            bench.note_memory(op, provider, side.peak, shape=shape, seconds=side.seconds, note=note, date=date)


def main(argv: Sequence[str] | None = None) -> dict[str, Value]:
    options = harness.parse_options("bench_filters", argv, __doc__)
    bench = harness.Bench("bench_filters", options)
    with harness.WorkDir(options) as work:
        image_size = QUICK_IMAGE if options.quick else IMAGE_SIZE
        cases = [(TEXT_FILTERS, QUICK_TEXT if options.quick else TEXT_SIZE), (IMAGE_FILTERS, image_size)]
        for name, clusters in MORE_CLUSTERS.items():
            size = image_size if options.quick else replace(IMAGE_SIZE, clusters=clusters)
            cases.append(({name: IMAGE_FILTERS["image_based"]}, size))
        for filters, size in cases:
            pool = filter_pool(size, options.captions, options.cache)
            for name, case in filters.items():
                time_filter(bench, pool, name, case, work)
    return bench.finish()


if __name__ == "__main__":
    main()
    sys.exit(0)
