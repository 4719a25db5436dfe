"""Stages of plugins: run by their own command on a run directory whose stages they need are done.

A plugin's entry point (group ``dcfast.stages``) names a ``PluginStage``. It writes into ``plugins/NAME`` of the run
directory, its summary stands in ``state/plugin-NAME.json``, and its pieces are resumed like any others. As soon as a
stage of the run is redone, it counts as not run.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from dcfast.errors import DcfastError, did_you_mean
from dcfast.plugins import STAGES as GROUP
from dcfast.plugins import Plugin, PluginUse, find_plugin
from dcfast.rundir.layout import PLUGIN_FOLDER, PLUGIN_PREFIX
from dcfast.rundir.run_dir import Run
from dcfast.rundir.stage_table import STAGES
from dcfast.rundir.summaries import read_summary
from dcfast.rundir.summary import Summary
from dcfast.stages.runner import Do
from dcfast.storage.paths import make_directory
from dcfast.storage.records import Record, plain


@dataclass(frozen=True)
class PluginStage:
    """What an entry point of the group ``dcfast.stages`` names.

    Attributes:
        steps: given the run, and what does its pieces; returns statistics, which JSON can hold. It writes into
            ``folder_of(NAME)`` of the run directory and nowhere else.
        does: in words, for the help.
        after: stages of the run that must be done before.
    """

    steps: Callable[[Run, Do], Record]
    does: str
    after: tuple[str, ...] = ("filter",)


class PluginSummary(Summary):
    """What a plugin's stage recorded."""

    plugin: PluginUse
    result: object


def folder_of(name: str) -> str:
    """Where a plugin's stage writes, relative to the run directory."""
    return f"{PLUGIN_FOLDER}/{name}"


def recorded_as(name: str) -> str:
    """The name that a plugin's stage has in ``state/``."""
    return f"{PLUGIN_PREFIX}{name}"


def find_stage(name: str) -> tuple[Plugin, PluginStage] | None:
    """The stage of that name that a plugin brings; None where none does.   PluginError: it is broken."""
    plugin = find_plugin(GROUP, name, STAGES)
    if plugin is None:
        return None
    stage = plugin.load("a stage")
    if not isinstance(stage, PluginStage):
        raise plugin.refuse(f"expected a PluginStage of dcfast.stages; got a {type(stage).__name__}")
    unknown = [name for name in stage.after if name not in STAGES]
    if unknown:
        hint = did_you_mean(unknown[0], STAGES) or f"; there are {', '.join(STAGES)}"
        raise plugin.refuse(f"it comes after {unknown[0]!r}, which is no stage{hint}")
    return plugin, stage


def steps_of(plugin: Plugin, stage: PluginStage) -> Callable[[Run, Do], PluginSummary]:
    """The ``steps`` of a plugin's stage, as those of any other."""

    def steps(run: Run, do: Do) -> PluginSummary:
        make_directory(run.out / folder_of(plugin.entry.name), "plugin")
        result = stage.steps(run, do)
        if not isinstance(result, Record):
            raise plugin.refuse(f"its steps must return a Record of dcfast.storage; got a {type(result).__name__}")
        return PluginSummary(plugin.use, plain(result))

    return steps


def plugin_summaries(run: Run) -> list[PluginSummary]:
    """What the plugins' stages recorded in a run; one that was altered says nothing."""
    found = []
    for name in run.plugin_stages():
        try:
            found.append(read_summary(run.summary_path(name), PluginSummary))
        except DcfastError:
            continue
    return found
