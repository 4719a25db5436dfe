"""A run done again from its manifest: where its inputs are, and whether they are what they were.

A manifest is published, so it holds the last part of each path alone. The whole ones stand in the run directory's
``state/settings.json``; where that is not beside the manifest, or says something else, the command line gives them.
"""

from __future__ import annotations

import os
from collections.abc import Collection
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from dcfast.engine.piece import fingerprint_files
from dcfast.errors import RunError
from dcfast.evaluate.tasks import compared_sets
from dcfast.filters.files import named_files
from dcfast.index.pool import Pool
from dcfast.process.caption_places import caption_paths
from dcfast.rundir.claim import EXPRESSIONS, PLACES, read_settings, with_uid_hashes
from dcfast.rundir.settings import NO_COMPARISON, Settings
from dcfast.storage.config import Config
from dcfast.storage.published import without_places

_WEIGHTS = (".pt", ".pth", ".bin", ".safetensors")


def placed(config: Config, settings: Settings, given: Collection[str]) -> Settings:
    """The settings of a manifest with whole paths.

    Args:
        given: names of those that the command line gives, which are left as they are.
    Raises:
        ValueError: a path that nobody knows: neither the run's own settings nor the command line.
    """
    whole = {name: value for name, value in _whole(config).items() if name not in given and name in config.options}
    settings = replace(settings, **whole)
    for name in PLACES:
        place = getattr(settings, name)
        if name not in given and place is not None and not os.path.isabs(place):
            raise _lost(config, name, place)
    for place in settings.dedup_against or () if "dedup_against" not in given else ():
        if not os.path.isabs(place):
            raise _lost(config, "dedup_against", place)
    for place in caption_paths(settings.caption_from) if "caption_from" not in given else ():
        if not os.path.isabs(place):
            raise _lost(config, "caption_from", place)
    for name in EXPRESSIONS:
        text = getattr(settings, name)
        if name in given or text in (None, NO_COMPARISON):
            continue
        for file in named_files(text):
            if not os.path.isabs(file):
                raise _lost(config, name, file)
    for model in (settings.features or {}).values() if "features" not in given else ():
        name, _, weights = model.partition(":")
        if (name == "local-dir" or weights.endswith(_WEIGHTS)) and not os.path.isabs(weights):
            raise _lost(config, "features", model)
    return settings


def _whole(config: Config) -> dict[str, Any]:  # a value of each setting's own type
    """What the run's own settings say of paths, where they are those of the manifest."""
    own = Path(config.path).parent / "state" / "settings.json"
    if not own.is_file():
        return {}
    settings = asdict(read_settings(own))
    places = [settings[name] for name in PLACES if isinstance(settings[name], str)]
    places += caption_paths(settings["caption_from"])
    published = without_places(settings, [str(own.parents[1]), *places])
    names = (*PLACES, *EXPRESSIONS, "features", "caption_from")
    return {name: settings[name] for name in names if published[name] == config.options.get(name)}


def _lost(config: Config, name: str, value: str) -> ValueError:
    option = f"--{name.replace('_', '-')}"
    return ValueError(
        f"manifest {config.path} names {value!r} for {option} without its place, as what is published does; give "
        f"{option} too, or the manifest in its run directory"
    )


def check_inputs(config: Config, settings: Settings, given: Collection[str]) -> None:
    """RunError where what a manifest's run read has changed since; what the command line gives is taken as it is."""
    noted = config.options.get("uid_hashes") or {}
    if not isinstance(noted, dict):
        raise ValueError(f"config file {config.path}: uid_hashes: expected an object; got {str(noted)[:200]!r}")
    of_manifest = replace(
        settings,
        filter=None if "filter" in given else settings.filter,
        compare=None if "compare" in given else settings.compare,
        teacher_uids=None if "teacher_uids" in given else settings.teacher_uids,
    )
    for path, digest in (with_uid_hashes(of_manifest).uid_hashes or {}).items():
        if noted and digest not in noted.values():
            raise RunError(
                f"the uid file {path} holds other uids than in the run of manifest {config.path}; "
                "bring back the file that it was, or give the option on the command line to take it as it is"
            )
    if settings.pool is not None and "pool" not in given:
        pool = Pool.open(settings.pool, settings.uid_from, shards_from=settings.shards_from)
        files = [*map(pool.shard_input, pool.shards), *pool.metadata]
        _same(config, "pool", settings.pool, files)
    if settings.evalsets is not None and "evalsets" not in given:
        tars = [tar for _, found in compared_sets(Path(settings.evalsets)) for tar in found]
        _same(config, "evalsets", settings.evalsets, tars)


def _same(config: Config, name: str, place: str, files: list[str]) -> None:
    known = (config.manifest or {}).get(name)
    before = known.get("fingerprint") if isinstance(known, dict) else None
    if before is not None and before != fingerprint_files(Path(), files):
        raise RunError(
            f"{name} {place} has other files than in the run of manifest {config.path} (names, sizes or times); give "
            f"--{name} to take it as it is now"
        )
