"""A run: its directory, its settings, its pool, and the rule that a directory belongs to one run."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TypeVar

from dcfast.dedup.duplicates import DUPLICATES
from dcfast.errors import RunError
from dcfast.filters.compiled import compile_filter
from dcfast.filters.term import CONTAMINATED, DRAWN, DUPLICATE, ORACLE, TEACHER_PAIRS
from dcfast.index.pool import Pool, group_files, lacks_shards
from dcfast.process.caption_places import caption_paths
from dcfast.rundir.claim import differences, kept_spelling, located, read_settings, unreadable, with_uid_hashes
from dcfast.rundir.layout import (
    ACQUIRE,
    FEATURE_METADATA,
    METADATA_SUBSET,
    ORACLE_PATH,
    OWN_FOLDERS,
    PLUGIN_PREFIX,
    RANKS,
)
from dcfast.rundir.recorder import LOG, PROGRESS, Recorder
from dcfast.rundir.settings import NO_COMPARISON, TEACHER, Settings
from dcfast.rundir.stage_table import STAGE_TABLE
from dcfast.rundir.summaries import SUMMARIES, DecontaminateSummary, equals_json, read_summary
from dcfast.rundir.summary import Summary
from dcfast.storage.atomic import remove_leftovers, write_json
from dcfast.storage.listing import fault_of_name
from dcfast.storage.lock import locked
from dcfast.storage.paths import LOCK_NAME, absolute, check_writable, make_directory, not_left_empty
from dcfast.world import WorldSpec

T = TypeVar("T", bound=Summary)
SHARDS_AT_ONCE = 16
"""Whose samples a piece decides about: some hundred thousand rows, at about 150 bytes each."""


def group_segments(shards: Sequence[int]) -> list[list[int]]:
    """The segments, by how many shards each has, cut into the pieces that decide about their samples: their numbers."""
    groups: list[list[int]] = []
    room = 0
    for number, count in enumerate(shards):
        if room < count:
            groups.append([])
            room = SHARDS_AT_ONCE
        groups[-1].append(number)
        room -= count
    return groups


@dataclass
class Run:
    """A run directory that this process holds the lock of."""

    out: Path
    settings: Settings
    notes: list[str] = field(default_factory=list)
    metadata_only: bool = False
    """The pool's shards are not there yet: its metadata is filtered, and that is all (``look_for_shards``)."""
    recorder: Recorder | None = None
    """What tells others how far it is, while stages are at work."""

    @property
    def world_dir(self) -> Path:
        return self.out / "world"

    @property
    def is_world(self) -> bool:
        return self.settings.pool is None

    @property
    def pool_dir(self) -> Path:
        return self.world_dir / "pool" if self.settings.pool is None else Path(self.settings.pool)

    @property
    def evalset_dir(self) -> Path | None:
        if self.settings.evalsets is not None:
            return Path(self.settings.evalsets)
        return self.world_dir / "evalsets" if self.is_world else None

    @property
    def has_evaluation_sets(self) -> bool:
        """Whether there is anything to look for contamination in: sets, or signature files of some."""
        return self.evalset_dir is not None or bool(self.settings.signatures)

    @property
    def world_spec(self) -> WorldSpec:
        """The built-in world's spec: the settings' seed and changes on its defaults; ValueError for what it lacks."""
        values = {**WorldSpec().to_json(), **(self.settings.world or {})}
        return WorldSpec.from_json({**values, "seed": values["seed"] + self.settings.seed})

    @cached_property
    def pool(self) -> Pool:
        place = self.settings.pool or self.pool_dir  # as text: a URL is told from a path
        only, far = self.metadata_only, self.settings.shards_from
        return Pool.open(place, self.settings.uid_from, metadata_only=only, shards_from=far)

    @property
    def features(self) -> dict[str, str]:
        """Prefix -> model of the columns that the features stage makes; empty where it does not run."""
        if self.settings.features is not None:
            return dict(sorted(self.settings.features.items()))
        return {"b32": TEACHER, "l14": TEACHER} if self.is_world else {}

    @property
    def metadata_files(self) -> list[str]:
        """What the filter reads: the features stage's files (relative to ``out``), or the pool's own (absolute)."""
        if self.features:
            return [f"{FEATURE_METADATA}/{Path(path).name}" for path in self.pool.metadata]
        return self.pool.metadata

    def metadata_groups(self) -> list[tuple[int, list[str]]]:
        """``metadata_files`` cut into pieces: (ordinal of the first file, names)."""
        return group_files(self.metadata_files)

    def sample_groups(self) -> list[list[tuple[int, int]]]:
        """The index segments cut into the pieces that decide about their samples: (number, ordinal of its first shard).

        Neighbours are taken together up to SHARDS_AT_ONCE shards, so that small ones do not cost a file each.
        """
        segments = self.pool.segments()
        groups = group_segments([len(names) for _, names in segments])
        return [[(number, segments[number][0]) for number in group] for group in groups]

    @property
    def compare(self) -> str | None:
        """The filter of the comparison run, None where there is none."""
        given = self.settings.compare
        if given is None:
            given = "no_filter" if self.settings.scale == "tiny" else NO_COMPARISON
        same = given == self.settings.filter  # it would be this very run once more
        return None if given == NO_COMPARISON or same or not self.settings.train else given

    @property
    def deduplicates(self) -> bool:
        """Whether duplicates are looked for: where a filter of the run names them, or where it was asked for."""
        named = [text for text in (self.settings.filter, self.compare) if text is not None]
        return self.settings.dedup or any(DUPLICATE in compile_filter(t, run_code=False).uid_sets for t in named)

    @property
    def places(self) -> list[str]:
        """Paths that stand in what a run records, for what is published without them."""
        given = [self.settings.pool, self.settings.shards_from, self.settings.evalsets, self.settings.teacher_uids]
        given += self.settings.dedup_against or []
        given += [model.partition(":")[2] for model in (self.settings.features or {}).values()]
        given += [*(self.settings.signatures or []), *caption_paths(self.settings.caption_from)]
        return [str(self.out), *(place for place in given if place), *(self.settings.uid_hashes or {})]

    def uid_set_paths(self, names: Iterable[str]) -> dict[str, str]:
        """Where each uid set of a filter lies; those of the run relative to its directory."""
        own = {
            CONTAMINATED: "contaminated.npy",
            DUPLICATE: DUPLICATES,
            ORACLE: ORACLE_PATH,
            TEACHER_PAIRS: self.settings.teacher_uids,
            DRAWN: METADATA_SUBSET,  # what of it stands in subset.npy was downloaded, too
        }
        return {name: str(own.get(name) or absolute(name)) for name in names}

    def asks_for(self, stage: str) -> bool:
        """Whether a stage is part of this run: training and what it needs only where the settings want it."""
        return stage == "filter" if self.metadata_only else STAGE_TABLE[stage].asked(self)

    def look_for_shards(self, last: str | None) -> None:
        """Makes it a run on metadata alone where it is to end with the filter, before the pool's shards are there.

        Where shards were indexed once, they are gone, and the pool cannot be opened.
        """
        indexed = (self.out / "index" / "index.json").exists()
        may_lack = last == "filter" and not self.is_world and not indexed and self.settings.shards_from is None
        self.metadata_only = may_lack and lacks_shards(self.pool_dir)

    def summary_path(self, stage: str) -> Path:
        return self.out / "state" / f"{stage}.json"

    def summary(self, kind: type[T]) -> T:
        """What a finished stage recorded; RunError where it has not been run, CorruptDataError where it was altered."""
        try:
            return read_summary(self.summary_path(kind.stage), kind)
        except FileNotFoundError:
            raise RunError(
                f"{self.out}: stage {kind.stage} has not been run yet; run it first (or drop --from)"
            ) from None

    def check_done(self, stage: str) -> None:
        """Raises what ``summary`` raises of a stage."""
        self.summary(SUMMARIES[stage])

    @property
    def is_compared(self) -> bool:
        """Whether decontamination has looked for copies of evaluation images."""
        return self.has_summary("decontaminate") and self.summary(DecontaminateSummary).available

    def has_summary(self, stage: str) -> bool:
        return self.summary_path(stage).exists()

    def invalidate(self, stages: Iterable[str]) -> None:
        """Drops what stages recorded: they count as not run, though their pieces are kept where nothing changed.

        So do the stages of plugins, which may have read any of it.
        """
        names = [*stages]
        names += [name for name in self.plugin_stages() if names]
        for stage in names:
            self.summary_path(stage).unlink(missing_ok=True)

    def plugin_stages(self) -> list[str]:
        """The stages of plugins that have been run here, as ``summary_path`` knows them."""
        return sorted(path.stem for path in (self.out / "state").glob(f"{PLUGIN_PREFIX}*.json"))

    @property
    def is_recorded(self) -> bool:
        """Whether the directory holds this very run, and not another one or none."""
        path = self.summary_path("settings")
        return path.exists() and not differences(read_settings(path), self.settings)

    def lock_settings(self, stages: Iterable[str]) -> None:
        """Makes the directory this run's: records the settings, after forgetting what ``stages`` did under others.

        Called when the settings are known to make sense: a typo does not claim a directory.
        """
        path, now = self.summary_path("settings"), asdict(self.settings)
        if equals_json(path, now):
            return
        if not self.is_recorded:
            self.invalidate(stages)  # first: a kill in between must not leave them to the new settings
        write_json(path, now)


def _check_place(out: Path, settings: Settings) -> None:
    """RunError where no run can be: tables cannot be written there, or would be over the run's own input."""
    fault = fault_of_name(os.fspath(out))
    if fault:
        raise RunError(f"--out: {fault}")

    def real(*parts: str | Path) -> Path:
        return Path(os.path.realpath(Path(*parts)))

    root = real(out)
    written = [real(root, name) for name in OWN_FOLDERS if name != "world"]
    older = [("--dedup-against", pool) for pool in settings.dedup_against or ()]
    for option, given in (("--pool", settings.pool), ("--evalsets", settings.evalsets), *older):
        if given is None:
            continue
        read = [real(given)] + [real(given, name) for name in ("shards", "metadata") if option != "--evalsets"]
        below_input = any(place in root.parents for place in read[1:])
        if root in read or below_input or any(w == place or w in place.parents for w in written for place in read):
            raise RunError(f"--out {out} would write into {option} {given} itself; choose another directory for --out")


def _refuse_links(out: Path) -> None:
    """RunError where a link stands for a folder that a run writes to: what it leads to may be somebody's."""
    for name in OWN_FOLDERS:
        folder = out / name
        links = [folder] if folder.is_symlink() else []
        if folder.is_dir() and not links:
            with os.scandir(folder) as entries:
                links = [Path(entry) for entry in entries if entry.is_symlink() and entry.is_dir()]
        if links:
            raise RunError(
                f"{links[0]} is a link, to {os.readlink(links[0])}, and a run writes into its own directory alone; "
                "remove the link, or give --out a directory on the other disk"
            )


def look_at_run(out: str | os.PathLike[str], settings: Settings, *, overwrite: bool = False) -> Run:
    """The run that ``open_run`` would open; raises what it would raise, and writes nothing."""
    root = Path(absolute(os.path.expanduser(out)))
    run = Run(root, located(settings))
    _check_place(root, run.settings)
    check_writable(root, "--out")
    if not os.path.lexists(root):
        return run
    with ExitStack() as stack:
        if os.path.lexists(root / LOCK_NAME):
            stack.enter_context(locked(root / LOCK_NAME, _busy(root)))
        if run.has_summary("settings"):  # else there is nothing to compare the content of uid files with
            run.settings = with_uid_hashes(run.settings)
        run.settings = _claimable(root, run.settings, overwrite)
        _refuse_links(root)
    return run


def _busy(root: Path) -> str:
    return f"--out {root}: another process is running there; wait for it, or choose another --out"


def _claimable(out: Path, settings: Settings, overwrite: bool) -> Settings:
    """The settings of the run that is or may be made there; RunError where the directory is another's."""
    state_file = out / "state" / "settings.json"
    if not state_file.exists():
        strangers = sorted(p.name for p in out.iterdir() if p.name not in ("state", ".lock", "world", ACQUIRE))
        if strangers and not overwrite:
            raise RunError(
                f"--out {out} is not empty and no run of dcfast ({', '.join(strangers[:5])}...); "
                "choose another directory, or --overwrite to write into this one"
            )
        return settings
    try:
        before = read_settings(state_file)
        differing = differences(before, settings)
    except (ValueError, TypeError, AttributeError, RecursionError):
        raise RunError(unreadable(state_file)) from None
    if not differing:
        return kept_spelling(before, settings)
    if not overwrite:
        raise RunError(
            f"--out {out} holds another run ({'; '.join(differing)}); choose another directory, "
            "or --overwrite to redo there what differs and what follows from it; the rest is taken over (--overwrite "
            "--dry-run says which stages)"
        )
    return settings


def _clear(folder: Path) -> None:
    """Removes leftovers, but of a folder in which a training or an evaluation of its own is at work."""
    with ExitStack() as stack:
        if (folder / LOCK_NAME).exists():
            try:
                stack.enter_context(locked(folder / LOCK_NAME, "busy"))
            except RunError:
                return
        remove_leftovers(folder)


@contextmanager
def open_run(out: str | os.PathLike[str], settings: Settings, *, overwrite: bool = False) -> Iterator[Run]:
    """Locks a run directory, checks that it is this run's or nobody's, clears leftovers of a killed process.

    It becomes this run's by ``Run.lock_settings``. The run's settings name every file by its real path
    (``dcfast.rundir.claim``), however they were given. Where the block fails before anything but the settings is
    written, a directory that was made for it is removed.

    Raises:
        RunError: the directory belongs to another run, to something else, is an input, has a link in the place of a
            folder of the run's, or a run is at work in it.
        OSError: it is a file, or cannot be made.
    """
    root = Path(absolute(os.path.expanduser(out)))
    settings = with_uid_hashes(located(settings))
    _check_place(root, settings)
    check_writable(root, "--out")
    with not_left_empty(root), locked(make_directory(root, "--out") / LOCK_NAME, _busy(root)):
        settings = _claimable(root, settings, overwrite)
        _refuse_links(root)
        remove_leftovers(root, below=False)
        for name in OWN_FOLDERS:
            _clear(root / name)
        run = Run(root, settings)
        claimed = run.summary_path("settings").exists()
        try:
            yield run
        except BaseException:
            if not claimed:
                _unclaim(run)
            raise


def _unclaim(run: Run) -> None:
    """Removes the settings where they are all that a run left: its directory is anybody's, or goes (not_left_empty)."""
    path = run.summary_path("settings")
    told = [run.out / "state" / name for name in (PROGRESS, LOG)]
    kept = {path, *told, run.out / LOCK_NAME}
    ranks = run.out / "state" / RANKS  # theirs, which ends after this
    found = [Path(folder, name) for folder, _, names in os.walk(run.out) for name in names if Path(folder) != ranks]
    if all(path in kept for path in found):
        for place in (*told, path):
            place.unlink(missing_ok=True)
        with suppress(OSError):
            path.parent.rmdir()
