"""``--acquire``: a run that begins with nothing. Metadata, then the filter's choice, then the images of that choice.

What of the filter needs no image is decided by the metadata alone, in a run of its own (``OUT/acquire/choice``), and
the images of its subset are fetched under the keys of the full pool. What needs images (``~contaminated``,
``~duplicate``) is decided by the run, among those that came. Where nothing can be decided before, all are fetched.
"""

from __future__ import annotations

import typing
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path

from dcfast.acquire.options import ACQUIRED_SCALES, OUTPUT_FORMATS, AcquireOptions, ImageOptions, WebOptions
from dcfast.acquire.pool import acquire_pool
from dcfast.acquire.summary import AcquireSummary
from dcfast.errors import RunError, did_you_mean
from dcfast.filters import compile_filter
from dcfast.filters.tokens import quoted
from dcfast.process.options import check_options, option_gathers, option_parsers
from dcfast.rundir.claim import located, stored_settings
from dcfast.rundir.layout import ACQUIRE, CHOICE, METADATA_SUBSET
from dcfast.rundir.settings import NO_COMPARISON, Settings
from dcfast.rundir.summaries import FilterSummary, find_summary
from dcfast.storage.json_files import parse_json
from dcfast.storage.paths import absolute

POOL = f"{ACQUIRE}/pool"
"""Below the run directory: where images go."""
_KINDS = (AcquireOptions, WebOptions, ImageOptions)
_OF_RUN = ("out", "scale", "subset", "images", "retry", "engine", "ray_address", "quiet", "workers")
"""Options of an acquisition that the run gives it."""

ChooseRows = Callable[[Path, Settings], None]
"""Filters the metadata of a pool in a run directory."""


def acquire_words(words: Sequence[str]) -> dict[str, object]:
    """``["contact=me@a.org", "host_rate=10"]`` as options of ``dcfast acquire``; ValueError: there is no such one."""
    types = {name: hint for kind in _KINDS for name, hint in typing.get_type_hints(kind).items()}
    parsers = {name: parse for kind in _KINDS for name, parse in option_parsers(kind).items()}
    gathers = {name: gather for kind in _KINDS for name, gather in option_gathers(kind).items()}
    known = sorted(field.name for kind in _KINDS for field in fields(kind) if field.name not in _OF_RUN)
    found: dict[str, object] = {}
    for word in words:
        name, equals, text = word.partition("=")
        name = name.replace("-", "_")
        if not equals or name not in known:
            raise ValueError(
                f"--acquire takes NAME=VALUE, options of dcfast acquire ({', '.join(known)}); got {word!r}"
                f"{did_you_mean(name, known)}"
            )
        parse = parsers.get(name)
        is_text = str in (types[name], *typing.get_args(types[name]))
        try:
            value = parse(text) if parse is not None else text if is_text else parse_json(text)
        except ValueError:
            value = text
        found[name] = gathers[name](text.split(",")) if name in gathers else value
    for kind in _KINDS:
        check_options(_made(kind, found, out="x"))
    if found.get("output_format", OUTPUT_FORMATS[0]) != OUTPUT_FORMATS[0]:
        raise ValueError(f"--acquire output_format={found['output_format']}: a run takes tars ({OUTPUT_FORMATS[0]})")
    return found


def _made(kind: type, words: dict[str, object], **more: object) -> object:
    own = {field.name for field in fields(kind)}
    return kind(**{name: value for name, value in {**words, **more}.items() if name in own})


@dataclass(frozen=True)
class Acquisition:
    """What ``--acquire`` does before the run itself.

    Attributes:
        choice: where it is decided which images are fetched.   pool: where they go.
        before: the part of the filter that metadata decides; None: all rows are fetched.   after: what the run decides.
    """

    settings: Settings
    choice: Path
    pool: Path
    before: str | None
    after: str | None

    @property
    def lines(self) -> list[str]:
        """For people: what is decided when."""
        if self.before is None:
            return [f"acquire: all images, into {self.pool}: nothing of the filter can be decided by metadata"]
        deferred = f"; after the download: {self.after}" if self.after is not None else ""
        return [
            f"acquire: decided by metadata: {self.before}{deferred}",
            f"acquire: images of that choice, {self.pool}",
        ]

    @property
    def run_settings(self) -> Settings:
        """Those of the run on the pool: its filter takes what was chosen before, and decides the rest."""
        chosen = None if self.before is None else f"uids({quoted(str(self.choice / METADATA_SUBSET))})"
        clauses = [clause for clause in (chosen, self.after) if clause is not None]
        text = " & ".join(f"({clause})" if "|" in clause else clause for clause in clauses)
        return replace(self.settings, pool=str(self.pool), filter=text or self.settings.filter)

    @property
    def chooser(self) -> Settings:
        """Those of the run that chooses."""
        of_metadata = self.settings.filter and self.before
        return replace(
            self.settings, pool=str(self.pool), filter=of_metadata, evalsets=None, signatures=None, compare=None
        )


def plan_acquisition(out: Path, settings: Settings, *, npz: bool, has_lists: bool) -> Acquisition:
    """What is decided before the download, and what after it.

    Args:
        npz: whether the metadata gets its embeddings.   has_lists: whether lists of one's own take the scale's place.
    RunError: there is no scale that could be fetched, or the settings need images for everything.
    """
    if settings.scale not in ACQUIRED_SCALES and not has_lists:
        raise RunError(
            f"--acquire fetches a scale of DataComp ({', '.join(ACQUIRED_SCALES[:-1])}), and the scale is "
            f"{settings.scale}: give another --scale, or lists of your own (--acquire urls=FILE)"
        )
    choice, pool = Path(absolute(out / CHOICE)), Path(absolute(settings.pool or out / POOL))
    # what is computed of pictures decides about all of them, and so does what the run is compared with
    by_columns = not settings.features and settings.teacher_uids is None and settings.compare in (None, NO_COMPARISON)
    if settings.filter is None:
        # what the default is depends on the metadata; what it leaves to images is contamination alone
        after = "~contaminated" if settings.evalsets is not None or settings.signatures else None
        if not by_columns:
            return Acquisition(settings, choice, pool, None, None)
        return Acquisition(settings, choice, pool, "the default filter", after)
    compiled = compile_filter(settings.filter)
    before, after_part = compiled.part(of_metadata=True, npz=npz), compiled.part(of_metadata=False, npz=npz)
    if before is None or not by_columns or str(before) == "no_filter":
        return Acquisition(settings, choice, pool, None, settings.filter)
    return Acquisition(settings, choice, pool, str(before), None if after_part is None else str(after_part))


def refuse_other_choice(plan: Acquisition) -> None:
    """RunError where the images in a run directory were chosen by another filter: those of this one would be mixed
    with them."""
    before = stored_settings(plan.choice)
    if before is None or plan.before is None:
        return
    was, now = before.filter, located(plan.chooser).filter
    if was != now:
        raise RunError(
            f"{plan.pool} has the images that {was or 'the default filter'} took, and now it is "
            f"{now or 'the default filter'}: give another --out, and no --pool that is begun; or, for a part of what "
            f"came, give --pool {plan.pool} without --acquire"
        )


def acquire_for(
    plan: Acquisition,
    words: dict[str, object],
    choose: ChooseRows,
    *,
    workers: int,
    engine: str,
    ray_address: str | None,
    quiet: bool,
    say: Callable[[str], None],
) -> tuple[Settings, AcquireSummary]:
    """Fetches what a run needs; the settings of the run on it, and what became of the rows.

    Args:
        words: of ``acquire_words``.   choose: filters metadata in a run directory, up to the stage filter.
    Raises: as ``dcfast.acquire.acquire_pool``, and as the run that chooses.
    """
    settings, pool = plan.settings, str(plan.pool)
    refuse_other_choice(plan)
    scale = None if "urls" in words else settings.scale
    how = {"scale": scale, "out": pool, "engine": engine, "ray_address": ray_address, "quiet": quiet}
    options = typing.cast("AcquireOptions", _made(AcquireOptions, words, **how, workers=max(2, 2 * workers)))
    web = typing.cast("WebOptions", _made(WebOptions, words))
    image = typing.cast("ImageOptions", _made(ImageOptions, words))
    for line in plan.lines:
        say(line)
    subset, chosen_by = None, ""
    if plan.before is not None:
        acquire_pool(replace(options, images=False), web, image, say)
        choose(plan.choice, plan.chooser)
        subset = str(plan.choice / METADATA_SUBSET)
        chosen = find_summary(plan.choice / "state/filter.json", FilterSummary)
        chosen_by = plan.before if chosen is None else chosen.filter  # of the default one, what it came to
    acquired = acquire_pool(replace(options, subset=subset), web, image, say, chosen_by)
    assert acquired is not None  # images were asked for
    return plan.run_settings, acquired
