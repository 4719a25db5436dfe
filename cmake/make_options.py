"""Writes docs/options.md: the options of every command, of the dataclasses that hold them.

python cmake/make_options.py [FILE]
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

HEAD = """# Options

Written by `make stubs`, of the dataclasses that hold the options (`dcfast.process.options`). `--config FILE` takes
options by their names (`samples_seen`, not `--samples-seen`) from JSON, TOML or YAML, or from the `manifest.json` of a
run, which is done again by

    python -m dcfast.run --config OTHER/manifest.json --out AGAIN

Options on the command line win. A manifest that lies in its run directory finds the whole paths of the pool and the
evaluation sets in `state/settings.json` beside it; one that was published holds their last parts alone, so `--pool`
and `--evalsets` have to be given. Where the files of the pool have changed since (names, sizes, times), or a uid file
holds other uids, the run is refused; what the command line gives is taken as it is. A switch that a file sets is turned
back by its opposite: `--no-strict`, `--train`.

Commands, options and their values are completed in bash, zsh and fish by what `dcfast --completion SHELL` prints; its
first lines say where it belongs.

    dcfast --completion bash > dcfast.bash

Exit status of all commands:

| status | meaning |
|---|---|
{codes}
"""


def option_table(parser: argparse.ArgumentParser) -> str:
    """The options of a parser as a Markdown table: spellings, value, what it is."""
    lines = ["| option | value | what it is |", "|---|---|---|"]
    for action in parser._actions:
        if action.help != argparse.SUPPRESS and not isinstance(action, argparse._HelpAction):
            names = ", ".join(f"`{name}`" for name in action.option_strings)
            several = {"+": " ...", "*": " ..."}.get(str(action.nargs), "")
            value = f"{action.metavar}{several}" if action.nargs != 0 and action.metavar else ""
            text = (action.help or "").replace("%%", "%").replace("|", "\\|").replace("*", "\\*")
            spelt = (name.lstrip("-").replace("-", "_") for name in action.option_strings)
            if action.option_strings and action.dest not in spelt and not action.option_strings[0].startswith("--no-"):
                text += f"; in a file `{action.dest}`"
            lines.append(f"| {names} | {value} | {text} |")
    return "\n".join(lines)


def text() -> str:
    """All of the file."""
    from dcfast.acquire.command import parser as acquire
    from dcfast.decontamination.command import parser as decontaminate
    from dcfast.dedup.calibration.command import parser as calibrate
    from dcfast.doctor.command import parser as doctor
    from dcfast.evaluate.__main__ import parser as evaluate
    from dcfast.evaluate.sets_command import parsers as evalsets
    from dcfast.hub.assets_command import parser as assets
    from dcfast.importing.command import parser as import_pool
    from dcfast.index.refresh import parser as refresh
    from dcfast.inspection.command import parser as inspect
    from dcfast.inspection.why import parser as why
    from dcfast.models.export import parser as export
    from dcfast.process.exit_codes import MEANINGS
    from dcfast.resharding.cli import parser as resharder
    from dcfast.run.dedup_command import parser as dedup
    from dcfast.run.launch_command import parsers as launch
    from dcfast.run.options import parser as run
    from dcfast.status.command import parser as status
    from dcfast.study.command import parser as study
    from dcfast.train.__main__ import parser as train

    commands = {
        "python -m dcfast.run": run(),
        "dcfast acquire": acquire(),
        "dcfast import": import_pool(),
        **{parser.prog: parser for parser in evalsets()},
        "dcfast decontaminate --against": decontaminate(),
        "dcfast dedup POOL": dedup(),
        **{f"{parser.prog} ... -- ...": parser for parser in launch()},
        "python -m dcfast.study": study(),
        "python -m dcfast.train": train(),
        "python -m dcfast.evaluate": evaluate(),
        "python -m dcfast.resharder": resharder(),
        "python -m dcfast.pool_refresh": refresh(),
        "dcfast status": status(),
        "dcfast why": why(),
        "dcfast inspect": inspect(),
        "dcfast calibrate": calibrate(),
        "dcfast export": export(),
        "dcfast assets": assets(),
        "dcfast doctor": doctor(),
    }
    head = HEAD.format(codes="\n".join(f"| {code} | {meaning} |" for code, meaning in MEANINGS.items()))
    tables = [f"## {name}\n\n{parser.description}\n\n{option_table(parser)}\n" for name, parser in commands.items()]
    stages = "`dcfast STAGE` runs one stage, with the options of a run but for `--from` and `--to`.\n"
    return "\n".join([head, tables[0], stages, *tables[1:]])


if __name__ == "__main__":
    Path(sys.argv[1] if len(sys.argv) > 1 else "docs/options.md").write_text(text(), encoding="utf-8")
