"""``dcfast NAME --out DIR``: a stage that a plugin brings, on a run (docs/plugins.md)."""

from __future__ import annotations

from collections.abc import Sequence

from dcfast.engine import check_ready, open_engine
from dcfast.engine.progress import Progress, Silent
from dcfast.errors import RunError
from dcfast.plugins import Plugin
from dcfast.process.command import run_command
from dcfast.process.exit_codes import DONE
from dcfast.process.options import add_options, given_options, made_of
from dcfast.process.parser import ArgumentParser
from dcfast.process.terminal import log_printably, say
from dcfast.run.manifest import write_manifest
from dcfast.run.options import RunOptions, run_directory
from dcfast.rundir.claim import stored_settings
from dcfast.rundir.run_dir import open_run
from dcfast.rundir.settings import Settings
from dcfast.rundir.stage_table import STAGES
from dcfast.stages.plugins import PluginStage, PluginSummary, find_stage, folder_of, recorded_as, steps_of
from dcfast.stages.runner import run_stage

OPTIONS = ("out", "workers", "engine", "ray_address", "quiet")


def parser(plugin: Plugin, stage: PluginStage) -> ArgumentParser:
    """The command line of a plugin's stage."""
    use = plugin.use
    p = ArgumentParser(
        prog=f"dcfast {use.name}",
        description=f"A stage of package {use.package} {use.version}: {stage.does}. It runs on the run in --out, whose "
        f"stages {', '.join(stage.after)} must be done, with that run's settings.",
        epilog="The same command resumes. Docs: docs/plugins.md.",
    )
    add_options(p, RunOptions, OPTIONS)
    return p


def perform(how: RunOptions, plugin: Plugin, stage: PluginStage) -> PluginSummary:
    """Runs a plugin's stage on the run in a directory; returns and records its summary.

    Raises:
        RunError: there is no run, or a stage that must be done before is not.   DcfastError: what the stage raises.
    """
    out, name = run_directory(how.out, Settings.scale), plugin.entry.name
    settings = stored_settings(out)
    if settings is None:
        raise RunError(f"--out {out}: stage {name} of a plugin needs a run, and there is none; begin with dcfast run")
    check_ready(how.engine, how.workers, how.ray_address)
    with open_run(out, settings) as run:
        for before in (one for one in STAGES if one in stage.after):
            run.check_done(before)
        with open_engine(how.engine, how.workers, how.ray_address) as engine:
            progress = Silent if how.quiet else Progress
            summary = run_stage(run, engine, recorded_as(name), steps_of(plugin, stage), progress)
        write_manifest(run)
    return summary


def main(argv: Sequence[str], name: str) -> int:
    """Entry of ``dcfast NAME``; returns the exit status."""
    return run_command(lambda: _main(argv, name), "stopped; the same command resumes")


def _main(argv: Sequence[str], name: str) -> int:
    log_printably()
    found = find_stage(name)
    assert found is not None  # the command's name is that of one
    how = made_of(RunOptions, given_options(parser(*found).parse_args(argv), RunOptions))
    perform(how, *found)
    say(f"stage {name}: done; its files: {run_directory(how.out, Settings.scale) / folder_of(name)}")
    return DONE
