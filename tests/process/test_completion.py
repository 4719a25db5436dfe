"""``dcfast --completion SHELL``: what the scripts offer is what the parsers take."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from dcfast import cli
from dcfast.process.completion import SHELLS, commands_of, script
from dcfast.process.exit_codes import DONE, USAGE
from dcfast.rundir.stage_table import STAGES


@pytest.fixture(scope="module")
def scripts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("completion")
    commands = commands_of(cli.parsers())
    for shell in SHELLS:
        (folder / shell).write_text(script(shell, commands))
    return {shell: folder / shell for shell in SHELLS}


def offered(path: Path, *words: str) -> list[str]:
    """What bash offers for the last of some words."""
    line = f'source {path}; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _dcfast; printf "%s\\n" "${{COMPREPLY[@]}}"'
    command = ["bash", "--norc", "-c", line, "bash", *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout.split()


def test_bash_completes_commands_options_and_values(scripts: dict[str, Path]) -> None:
    place = scripts["bash"]
    assert {*cli.PROGRAMS, *STAGES, "--version"} <= set(offered(place, "dcfast", ""))
    assert offered(place, "dcfast", "resh") == ["resharder", "reshard"]
    assert offered(place, "dcfast", "run", "--sc") == ["--scale"]
    assert offered(place, "dcfast", "run", "--engine", "") == ["local", "ray", "slurm"]
    assert offered(place, "dcfast", "resharder", "--uid-from", "u") == ["url"]
    assert "--from" not in offered(place, "dcfast", "filter", "--")
    assert "--accumulation" in offered(place, "dcfast", "train", "--")  # of the program, too
    assert offered(place, "dcfast", "run", "--pool", "") == []  # the shell's own: files


def test_every_option_of_every_command_is_in_every_script(scripts: dict[str, Path]) -> None:
    parsers = cli.parsers()
    assert set(parsers) == {*cli.PROGRAMS, *STAGES}
    texts = {shell: path.read_text() for shell, path in scripts.items()}
    for name, several in parsers.items():
        for flag in (f for p in several for a in p._actions if a.help != "==SUPPRESS==" for f in a.option_strings):
            spelt = f"-l {flag[2:]} " if flag.startswith("--") else f"-s {flag[1:]} "
            lines = [line for line in texts["fish"].splitlines() if f"'__fish_seen_subcommand_from {name}'" in line]
            assert any(spelt in line for line in lines), (name, flag)
            assert f"'*{flag}[" in texts["zsh"]
            assert flag in texts["bash"]


@pytest.mark.parametrize("shell", SHELLS)
def test_the_shell_reads_its_script(shell: str, scripts: dict[str, Path]) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"no {shell} on this machine")
    done = subprocess.run([shell, "-n", scripts[shell]], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert not done.stderr


@pytest.mark.skipif(shutil.which("fish") is None, reason="no fish on this machine")
def test_fish_completes_the_same(scripts: dict[str, Path]) -> None:
    for words, expected in {"dcfast run --sc": ["--scale"], "dcfast run --engine ": ["local", "ray", "slurm"]}.items():
        command = ["fish", "--no-config", "-c", f"source {scripts['fish']}; complete -C '{words}'"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
        assert [line.partition("\t")[0] for line in done.stdout.splitlines()] == expected


def test_as_a_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--completion", "bash"]) == DONE
    assert "complete -o default -F _dcfast dcfast" in capsys.readouterr().out
    assert cli.main(["--completion", "tcsh"]) == USAGE
    assert "--completion takes one of bash, zsh, fish; got tcsh" in capsys.readouterr().err
