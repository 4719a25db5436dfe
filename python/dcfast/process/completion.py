"""Completion of a command line in bash, zsh and fish, made of the parsers: ``dcfast --completion SHELL``.

What a script completes: the commands, their options, and the values of options that have a fixed few. All else is
left to the shell, which completes files.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from dcfast.process.options import values_of
from dcfast.process.parser import ArgumentParser

SHELLS = ("bash", "zsh", "fish")


@dataclass(frozen=True)
class Word:
    """An option of a command.

    Attributes:
        flags: its spellings.   help: a line.   takes_value: whether a value follows.   values: all there are, or none.
    """

    flags: tuple[str, ...]
    help: str
    takes_value: bool
    values: tuple[str, ...]


@dataclass(frozen=True)
class Command:
    """A command, what it does in a line, and its options."""

    name: str
    help: str
    words: tuple[Word, ...]


def commands_of(parsers: Mapping[str, Sequence[ArgumentParser]]) -> list[Command]:
    """What can be completed of some commands, by their parsers; the first of one describes it."""
    commands = []
    for name, several in parsers.items():
        words = {word.flags: word for parser in reversed(several) for word in _words(parser)}
        commands.append(Command(name, _line(several[0].description), tuple(words.values())))
    return commands


def _words(parser: ArgumentParser) -> Iterator[Word]:
    for action in parser.shown_actions():
        if action.option_strings:
            help = _line(action.help and action.help.replace("%%", "%"))
            yield Word(tuple(action.option_strings), help, action.nargs != 0, values_of(action))


def _line(text: str | None) -> str:
    return " ".join((text or "").split()).partition("; ")[0][:72]


def script(shell: str, commands: Sequence[Command]) -> str:
    """The script of a shell (one of ``SHELLS``)."""
    return {"bash": _bash, "zsh": _zsh, "fish": _fish}[shell](commands)


def _bash(commands: Sequence[Command]) -> str:
    lines = [
        "# bash completion of dcfast: source it, or put it into ~/.local/share/bash-completion/completions/dcfast",
        "_dcfast() {",
        '  local current="${COMP_WORDS[COMP_CWORD]}" before="${COMP_WORDS[COMP_CWORD-1]}" words=""',
        "  COMPREPLY=()",
        '  if [ "$COMP_CWORD" -eq 1 ]; then',
        f'    words="{" ".join([*(c.name for c in commands), "--help", "--version", "--completion"])}"',
        "  else",
        '    case "${COMP_WORDS[1]} $before" in',
        f'      "--completion "*) words="{" ".join(SHELLS)}" ;;',
    ]
    for command in commands:
        for word in (word for word in command.words if word.values):
            patterns = "|".join(f'"{command.name} {flag}"' for flag in word.flags)
            lines.append(f'      {patterns}) words="{" ".join(word.values)}" ;;')
    lines += ["    esac", '    case "${COMP_WORDS[1]} $current" in']
    for command in commands:
        flags = " ".join(flag for word in command.words for flag in word.flags)
        lines.append(f'      "{command.name} -"*) words="{flags}" ;;')
    lines += ["    esac", "  fi"]
    # nothing to offer: -o default completes files
    lines += ['  [ -z "$words" ] || COMPREPLY=($(compgen -W "$words" -- "$current"))', "}"]
    return "\n".join([*lines, "complete -o default -F _dcfast dcfast", ""])


def _zsh(commands: Sequence[Command]) -> str:
    lines = ["#compdef dcfast", "# zsh completion of dcfast: put it as _dcfast into a folder of $fpath", "_dcfast() {"]
    lines += ["  local -a commands", "  commands=("]
    lines += [f"    '{_zsh_text(c.name)}:{_zsh_text(c.help)}'" for c in commands]
    lines += ["  )", "  if (( CURRENT == 2 )); then _describe command commands; return; fi"]
    lines += ["  local command=$words[2]", "  shift words; (( CURRENT-- ))", "  case $command in"]
    lines.append(f"    --completion) _values shell {' '.join(SHELLS)} ;;")
    for command in commands:
        lines.append(f"    {command.name}) _arguments \\")
        for word in command.words:
            value = f":value:({' '.join(word.values)})" if word.values else ":value:_files" if word.takes_value else ""
            lines += [f"      '*{flag}[{_zsh_text(word.help)}]{value}' \\" for flag in word.flags]
        lines.append("      '*:file:_files' ;;")
    return "\n".join([*lines, "  esac", "}", '_dcfast "$@"', ""])


def _zsh_text(text: str) -> str:
    for special in ("\\", "[", "]", ":"):
        text = text.replace(special, f"\\{special}")
    return text.replace("'", "'\\''")


def _fish(commands: Sequence[Command]) -> str:
    lines = ["# fish completion of dcfast: put it into ~/.config/fish/completions/dcfast.fish"]
    lines += [f"complete -c dcfast -n __fish_use_subcommand -f -l completion -xa {_fish_text(' '.join(SHELLS))}"]
    for command in commands:
        lines.append(f"complete -c dcfast -n __fish_use_subcommand -f -a {command.name} -d {_fish_text(command.help)}")
        for word in command.words:
            spelt = " ".join(f"-l {f[2:]}" if f.startswith("--") else f"-s {f[1:]}" for f in word.flags)
            value = f" -xa {_fish_text(' '.join(word.values))}" if word.values else " -r" if word.takes_value else ""
            where = _fish_text(f"__fish_seen_subcommand_from {command.name}")
            lines.append(f"complete -c dcfast -n {where} {spelt}{value} -d {_fish_text(word.help)}")
    return "\n".join([*lines, ""])


def _fish_text(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"
