"""Branches of a run: another filter, or another training, on the same pool without doing the expensive part again.

A branch is a run directory of its own. What the base run made up to a stage is shared by hard links: no byte is
copied, and since every file is only ever replaced, never changed, neither run can touch what the other one reads.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from dcfast.errors import RunError
from dcfast.rundir.run_dir import Run
from dcfast.rundir.settings import NO_COMPARISON, Settings
from dcfast.rundir.stage_table import STAGE_TABLE
from dcfast.storage.atomic import link_or_copy
from dcfast.storage.listing import is_temporary_name, temporary_name
from dcfast.storage.whole import fsync

SHARED = {name: stage.shared for name, stage in STAGE_TABLE.items() if stage.shared}
"""What each stage that can be shared leaves in the run directory, besides its markers and its summary."""
UNSHARED = "training-"
"""Folders of a training under way: its log grows in place, and nothing of it is needed once it has ended."""
BRANCH_STAGES = tuple(name for name, stage in STAGE_TABLE.items() if stage.branched)
"""What a branch does by itself."""
LONGEST_SLUG = 60


def slug(text: str) -> str:
    """A filter expression as the name of a directory: letters, digits, dots, dashes and underscores alone.

    Expressions that differ in more than punctuation have different names; one that is cut ends in its hash.
    """
    spelled = text.replace("~", " not ").replace("|", " or ").replace("=", " ")
    name = re.sub(r"[^A-Za-z0-9._]+", "-", spelled).strip("-.") or "filter"
    if len(name) <= LONGEST_SLUG and not spelled.count('"'):
        return name
    return f"{name[: LONGEST_SLUG - 9].rstrip('-.')}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def comparison_dir(run: Run) -> Path | None:
    """Where the comparison run of a run lies; None where there is none."""
    return run.out / "compare" / slug(run.compare) if run.compare is not None else None


def branch_settings(base: Settings, expression: str | None) -> Settings:
    """The settings of a branch with another filter: it has no comparison run of its own."""
    return replace(base, filter=expression, compare=NO_COMPARISON)


def branch_stages(run: Run) -> list[str]:
    """The stages that a branch goes through: new shards only where training reads them."""
    stages = [stage for stage in BRANCH_STAGES if run.asks_for(stage)]
    return stages if run.settings.train_from == "shards" else [stage for stage in stages if stage != "reshard"]


def _files(root: Path, places: list[str]) -> Iterator[Path]:
    for place in places:
        path = root / place
        if path.is_dir():
            for parent, folders, names in os.walk(path):
                folders[:] = [name for name in folders if not name.startswith(UNSHARED)]
                yield from (Path(parent, name) for name in sorted(names) if not is_temporary_name(name))
        elif path.exists():
            yield path


def link_base(base: Run, target: Run) -> int:
    """Shares what the stages of ``base`` made that can be shared; brings an older branch up to date.

    Both runs' locks are held by the caller. A branch whose base has changed has its own pieces redone where their
    inputs differ, as in any run.

    Returns:
        How many files were linked anew; 0 where all of them are there.
    Raises:
        RunError: a stage of the base has not been run.
    Cost: one stat a shared file, and one link for each that is new.
    """
    linked = 0
    kept: set[Path] = set()
    places: list[str] = []
    for stage in filter(base.asks_for, SHARED):
        base.check_done(stage)
        places += [*SHARED[stage], f"state/{stage}", f"state/{stage}.json"]
    for source in _files(base.out, places):
        name = source.relative_to(base.out)
        kept.add(name)
        place = target.out / name
        try:
            own, its = source.stat(), place.stat()
            if os.path.samestat(own, its) or (own.st_size, own.st_mtime_ns) == (its.st_size, its.st_mtime_ns):
                continue
        except FileNotFoundError:
            place.parent.mkdir(parents=True, exist_ok=True)
        if place.is_dir():
            raise RunError(f"{place} is a directory, where a file of {base.out} belongs; remove {target.out}")
        temporary = place.with_name(temporary_name(place.name))
        link_or_copy(source, temporary)
        os.replace(temporary, place)
        linked += 1
    for stale in [path for path in _files(target.out, places) if path.relative_to(target.out) not in kept]:
        stale.unlink()  # the base no longer has it
    if linked:
        fsync(target.out)
    return linked
