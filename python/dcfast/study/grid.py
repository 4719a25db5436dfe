"""The grid of a study: which filters, seeds and scales, and the run directory of each cell."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path

from dcfast.filters import compile_filter
from dcfast.filters.files import move_files
from dcfast.filters.term import DUPLICATE
from dcfast.rundir.branch import branch_settings, slug
from dcfast.rundir.settings import NO_COMPARISON, Settings
from dcfast.scales import scale
from dcfast.storage.paths import real
from dcfast.world import WorldSpec

STANDARD_FILTERS = {
    "no_filter": "no_filter",
    "basic_filter": "basic_filter",
    "clip_score": "clip_score(l14, fraction=0.3)",
    "laion2b": "laion2b",
    "text_based": "text_based",
    "image_based": "image_based",
    "image_based_intersect_clip_score": "image_based_intersect_clip_score",
    "random": "random(0.3, seed={seed})",
    "oracle": "oracle",
}
"""DataComp's seven baselines, a share drawn by chance, and the built-in world's truth; ``{seed}`` is the cell's."""
LATER_FILTERS = {
    "s_cliploss": "s_cliploss(l14, fraction=0.3)",
    "s_cliploss_normsim": "within(s_cliploss(l14), normsim(l14, p=inf), first=0.3, fraction=0.2)",
    "normsim": "normsim(l14, p=inf, fraction=0.3)",
    "vas": "vas(l14, fraction=0.3)",
    "semdedup": "semdedup(l14, fraction=0.8)",
    "density": "density(l14, fraction=0.5)",
    "soft_cap": "sample(clip_score(l14), soft_cap=0.15, total={samples_seen}, seed={seed}, draw=1000, "
    "temperature=0.05)",
    "hard_cap": "sample(clip_score(l14), hard_cap=15, total={samples_seen}, seed={seed}, temperature=0.05)",
    "mix": "mix(clip_score(l14), s_cliploss(l14), normsim(l14, p=inf), normalize=rank, fraction=0.3)",
}
"""Filters after DataComp's paper, by their names in ``--filters``; on a given pool normsim and vas want a target=."""
NOT_CANDIDATES = ("no_filter", "random", "oracle")
"""Labels that the best filter is never chosen among: what it is compared with."""
MOST_SEEDS = 10_000
_LABEL = re.compile(r"\s*([A-Za-z_][\w.+-]*)\s*:\s*(.+)", re.DOTALL)
_SCALE = re.compile(r"([a-z]+)(?:/(\d+))?")


@dataclass(frozen=True)
class Cell:
    """One run of a study: a filter, a seed, a scale; ``label`` is None for the base run that others branch from.

    It passes as JSON to the process that runs it.
    """

    scale: str
    seed: int
    label: str | None
    settings: Settings
    directory: str
    base: str

    @property
    def name(self) -> str:
        return f"{self.scale}, seed {self.seed}, {self.label or 'base run'}"


@dataclass(frozen=True)
class Grid:
    """What a study runs.

    Attributes:
        filters: label -> expression; ``{seed}`` in it stands for the cell's seed, ``{samples_seen}`` for the samples
            that its training sees, which ``sample(..., total={samples_seen})`` draws.
        scales: names of scales, or NAME/K: the same recipe at a K-th of the samples (and of the built-in world).
        seeds: of the built-in world and of training, in the order in which they are run.
        settings: what all runs share.
    """

    filters: dict[str, str]
    scales: tuple[str, ...]
    seeds: tuple[int, ...]
    settings: Settings

    def base(self, out: Path, name: str, seed: int) -> Cell:
        """The run that makes everything up to the filter: one a seed, or one in all for a given pool."""
        settings = scaled(self.settings, name)
        number = seed if settings.pool is None else self.seeds[0]
        dedup = settings.dedup or any(map(_names_duplicates, self.filters.values()))
        settings = replace(settings, seed=number, filter="no_filter", compare=NO_COMPARISON, dedup=dedup)
        shared = _scale_folder(out, name)
        folder = shared / f"seed-{number}" / "base" if settings.pool is None else shared / "base"
        return Cell(name, number, None, settings, str(folder), str(folder))

    def cell(self, out: Path, name: str, seed: int, label: str) -> Cell:
        """The run of one filter."""
        base = self.base(out, name, seed)
        expression = move_files(_filled(self.filters[label], seed, base.settings), real)
        settings = branch_settings(replace(base.settings, seed=seed), expression)
        folder = _scale_folder(out, name) / f"seed-{seed}" / slug(label)
        return Cell(name, seed, label, settings, str(folder), base.directory)

    def cells(self, out: Path) -> list[Cell]:
        """All runs but the base runs, seed by seed, so that a study that is stopped has whole seeds."""
        return [
            self.cell(out, name, seed, label) for seed in self.seeds for name in self.scales for label in self.filters
        ]


def _filled(expression: str, seed: int, settings: Settings) -> str:
    """The expression of a cell."""
    return expression.replace("{seed}", str(seed)).replace("{samples_seen}", str(settings.recipe().samples_seen))


def _names_duplicates(expression: str) -> bool:
    return DUPLICATE in compile_filter(_filled(expression, 0, Settings()), run_code=False).uid_sets


def _scale_folder(out: Path, name: str) -> Path:
    return out / name.replace("/", "-over-")


def scaled(settings: Settings, name: str) -> Settings:
    """The settings at a scale ``NAME`` or ``NAME/K``; ValueError for others.

    ``NAME/K`` is a K-th of the samples seen; of the built-in world, also a K-th of the pool: as in DataComp, a scale
    has as many samples in its pool as are seen in training.
    """
    match = _SCALE.fullmatch(name)
    if match is None:
        raise ValueError(f"--scales takes names of scales, or NAME/K for a K-th of one; got {name!r}")
    recipe = scale(match[1])
    settings = replace(settings, scale=recipe.name)
    if match[2] is None:
        return settings
    part = int(match[2])
    if part < 2:
        raise ValueError(f"--scales: K of NAME/K must be at least 2; got {name!r}")
    settings = replace(settings, samples_seen=max(1, (settings.samples_seen or recipe.samples_seen) // part))
    if settings.pool is None:
        rows = int((settings.world or {}).get("rows", WorldSpec().rows))
        settings = replace(settings, world={**(settings.world or {}), "rows": max(1, rows // part)})
    return settings


def parse_filters(given: list[str] | None, world: bool, also: str | None = None) -> dict[str, str]:
    """Label -> expression, of known names, ``LABEL: EXPRESSION`` or plain expressions; None is all standard ones.

    Args:
        world: whether there is a truth for ``oracle`` to know.
        also: an expression that every filter is joined with by &.
    Raises:
        FilterError: one cannot be read.   ValueError: a label is given twice.
    """
    names = given or [name for name in STANDARD_FILTERS if world or name != "oracle"]
    filters: dict[str, str] = {}
    for text in names:
        label, expression = text, {**STANDARD_FILTERS, **LATER_FILTERS}.get(text, text)
        labelled = _LABEL.fullmatch(text)
        if labelled is not None:
            label, expression = labelled[1], labelled[2].strip()
        if label in filters or slug(label) in [slug(other) for other in filters] or slug(label) == "base":
            raise ValueError(f"--filters: {label!r} is given twice, or is a name that the study uses; give it a label")
        if also is not None:
            expression = f"({expression}) & ({also})"
        compile_filter(_filled(expression, 0, Settings()))
        filters[label] = expression
    return filters


def parse_seeds(text: str, option: str = "--seeds") -> tuple[int, ...]:
    """``6`` is 0..5 (of --seeds; elsewhere seed 6 alone), ``3-5`` is 3, 4, 5, and ``0,2-4`` joins such parts."""
    try:
        if option == "--seeds" and text.isdigit():
            parts = [range(int(text))]
        else:
            bounds = [part.partition("-") for part in text.split(",")]
            parts = [range(int(first), int(last if dash else first) + 1) for first, dash, last in bounds]
    except ValueError:
        raise ValueError(
            f"{option} takes a number, a range or a list of them, e.g. 6, 0-5 or 0,2-4; got {text!r}"
        ) from None
    # an int of any size has no len()
    if sum(max(0, part.stop - part.start) for part in parts) > MOST_SEEDS:
        raise ValueError(f"{option} takes at most {MOST_SEEDS:,} seeds; got {text[:80]!r}")
    seeds = [seed for part in parts for seed in part]
    if not seeds or len(set(seeds)) != len(seeds):
        what = "twice the same seed" if seeds else "no seed at all"
        raise ValueError(f"{option} {text!r} names {what}; give each once, e.g. 6, 0-5 or 0,2-4")
    return tuple(seeds)
