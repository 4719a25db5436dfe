"""The console script ``dcfast``: ``run``, a subcommand for each stage, and the other programs."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from dcfast.errors import did_you_mean
from dcfast.process.exit_codes import DONE, MEANINGS, USAGE
from dcfast.process.terminal import say

if TYPE_CHECKING:
    from dcfast.process.parser import ArgumentParser

HELP = """usage: dcfast COMMAND [options]        dcfast COMMAND --help lists its options

  dcfast run ...        the whole workflow (the same as python -m dcfast.run)
  dcfast STAGE ...      one stage of it, with the same options; the stages before it must be done
                        stages: {stages}
  dcfast dedup POOL ... the copies in a pool, and between it and older pools, with the evidence for each
  dcfast acquire ...    a pool from the net: the metadata of a scale, or lists of your own, and the images of their URLs
  dcfast import ...     a pool of what you have: shards of others, pictures with captions, datasets of Hugging Face
  dcfast evalsets ...   fetch or convert DataComp's 40 sets, verify, pack, unpack them; import FOLDER: a set of yours;
                        sign SETS: a file by which pictures of sets are found in a pool
  dcfast decontaminate ...   with {decontaminate}: a pool compared with such files (python -m dcfast.decontamination)
  dcfast train ...      with {train}: a training by itself (python -m dcfast.train)
  dcfast evaluate ...   with {evaluate}: a model scored by itself (python -m dcfast.evaluate)
  dcfast resharder ...  a subset of a pool as new shards, with DataComp's arguments (python -m dcfast.resharder)
  dcfast launch ...     a run on many machines: slurm, torchrun or ray, then options, then -- and what dcfast run takes
  dcfast study ...      many filters, many seeds: which filter is best, and by how much (python -m dcfast.study)
  dcfast refresh ...    a pool's index, made or brought up to date (python -m dcfast.pool_refresh)
  dcfast status RUN     how far a run is: stages, rates, time left, failures; --watch, --json
  dcfast why ...        what became of a sample, and why: the rule that dropped it, its score, what it is a copy of
  dcfast inspect ...    a sample, a shard or a run to look at, in the terminal and as a page
  dcfast calibrate ...  which thresholds find which edited copies of your pictures, and how many hits are chance
  dcfast export ...     a checkpoint as a folder that open_clip loads without dcfast
  dcfast assets ...     fetch, list or verify what others publish and filters read, and weights (docs/assets.md)
  dcfast doctor         versions, what works on this machine, and how to get what does not{plugins}
  dcfast --version
  dcfast --completion SHELL   a script that completes commands and options in bash, zsh or fish

Exit status: {codes}.
"""
PROGRAMS = {
    "run": "dcfast.run.workflow",
    "acquire": "dcfast.acquire.command",
    "import": "dcfast.importing.command",
    "evalsets": "dcfast.evaluate.sets_command",
    "resharder": "dcfast.resharding.cli",
    "launch": "dcfast.run.launch_command",
    "study": "dcfast.study.command",
    "refresh": "dcfast.index.refresh",
    "status": "dcfast.status.command",
    "why": "dcfast.inspection.why",
    "inspect": "dcfast.inspection.command",
    "calibrate": "dcfast.dedup.calibration.command",
    "export": "dcfast.models.export",
    "assets": "dcfast.hub.assets_command",
    "doctor": "dcfast.doctor.command",
}
"""Name -> module of its main: only the command that is asked for is loaded."""
WITH_ACTIONS = ("evalsets", "launch")
"""Whose first word says which command line the rest is."""


def _main_of(module: str) -> Callable[..., int]:
    main: Callable[..., int] = importlib.import_module(module).main
    return main


def _stage(name: str, arguments: Sequence[str]) -> int:
    """A stage of a run; or the program of that name, where an option says that it is meant."""
    from dcfast.rundir.stage_table import STAGE_TABLE

    stage = STAGE_TABLE[name]
    if not stage.program_module:
        return _main_of(PROGRAMS["run"])(arguments, name)
    means_program = stage.means_program(arguments)
    _refuse_the_other(name, arguments, means_program)
    return _main_of(stage.program_module)(arguments) if means_program else _main_of(PROGRAMS["run"])(arguments, name)


def _refuse_the_other(name: str, arguments: Sequence[str], means_program: bool) -> None:
    """Ends the command where a word belongs to the other of the two commands of this name; says what means that one."""
    from dcfast.rundir.stage_table import STAGE_TABLE

    stage = STAGE_TABLE[name]
    load = importlib.import_module
    parsers = [lambda: load(PROGRAMS["run"]).parser(name), lambda: load(stage.program_module).parser()]
    p: ArgumentParser = parsers[means_program]()
    unknown = p.parse_known_args(arguments)[1]
    if not unknown or not parsers[not means_program]().knows(unknown[0]):
        return
    program, word = stage.program_command(name), unknown[0].partition("=")[0]
    if means_program:
        chosen = next((w for w in arguments if w.partition("=")[0] in stage.program_options), arguments[0])
        p.error(f"{word} belongs to stage {name} of a run, and {chosen} means {program}: leave one of them out")
    p.error(
        f"{word} belongs to {program}, and what means that is missing: {stage.program_choice}. Add it, or leave "
        f"{word} out"
    )


def parsers() -> dict[str, list[ArgumentParser]]:
    """Every command's parsers, by its name: of a stage that is a program too, both. Cost: two seconds of imports."""
    from dcfast.rundir.stage_table import STAGE_TABLE

    programs = {name: importlib.import_module(module) for name, module in PROGRAMS.items()}
    found = {
        name: program.parsers() if name in WITH_ACTIONS else [program.parser()] for name, program in programs.items()
    }
    run = importlib.import_module(PROGRAMS["run"])
    for name, stage in STAGE_TABLE.items():
        found[name] = [run.parser(name)]
        if stage.program_module:
            found[name].append(importlib.import_module(stage.program_module).parser())
    return found


def _complete(words: Sequence[str]) -> int:
    from dcfast.process.completion import SHELLS, commands_of, script

    if len(words) != 1 or words[0] not in SHELLS:
        say(f"error: --completion takes one of {', '.join(SHELLS)}; got {' '.join(words) or 'nothing'}", error=True)
        return USAGE
    say(script(words[0], commands_of(parsers())), end="")
    return DONE


def _help() -> str:
    from dcfast.plugins import STAGES as STAGE_PLUGINS
    from dcfast.plugins import plugin_names
    from dcfast.rundir.stage_table import STAGE_TABLE, STAGES

    codes = "; ".join(f"{code} {meaning}" for code, meaning in MEANINGS.items())
    options = {name: " or ".join(row.program_options) for name, row in STAGE_TABLE.items() if row.program}
    plugins = ", ".join(plugin_names(STAGE_PLUGINS))
    more = f"\n  dcfast PLUGIN ...     a stage of another package, on a run: {plugins}" if plugins else ""
    return HELP.format(stages=", ".join(STAGES), codes=codes, plugins=more, **options)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command; returns its exit status (``dcfast.process.exit_codes``)."""
    from dcfast.rundir.stage_table import STAGES

    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        say(_help(), end="")
        return DONE if arguments else USAGE
    command, rest = arguments[0], arguments[1:]
    if command == "--version":
        from dcfast import __version__

        say(__version__)
        return DONE
    if command == "--completion":
        return _complete(rest)
    if command in PROGRAMS:
        return _main_of(PROGRAMS[command])(rest)
    if command in STAGES:
        return _stage(command, rest)
    from dcfast.plugins import STAGES as STAGE_PLUGINS
    from dcfast.plugins import plugin_names

    plugins = plugin_names(STAGE_PLUGINS)
    if command in plugins:
        return _main_of("dcfast.run.plugin_stage")(rest, command)
    hint = did_you_mean(command, [*STAGES, *PROGRAMS, *plugins])
    say(f"error: dcfast has no command {command!r}{hint}", error=True)
    return USAGE


if __name__ == "__main__":
    sys.exit(main())
