"""``dcfast COMMAND``: each stage's own help, the programs that have a stage's name, and what the help says."""

from __future__ import annotations

import importlib
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from dcfast import cli
from dcfast.evaluate import __main__ as evaluate
from dcfast.evaluate.sets_command import ACTIONS
from dcfast.process.parser import ArgumentParser
from dcfast.run import launch_command, workflow
from dcfast.rundir.stage_table import STAGE_TABLE, STAGES
from dcfast.train import __main__ as train


@pytest.mark.parametrize("stage", STAGES)
def test_the_help_of_a_stage_is_its_own(stage: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        cli.main([stage, "--help"])
    assert not stopped.value.code
    said = " ".join(capsys.readouterr().out.split())
    assert said.startswith(f"usage: dcfast {stage} [-h]")
    assert STAGE_TABLE[stage].does in said
    assert "--from" not in said
    before = STAGES[: STAGES.index(stage)]
    assert (f"must be done before: {', '.join(before)}." in said) == bool(before)
    assert ("it is the program" in said) == (stage in ("decontaminate", "train", "evaluate"))


def test_a_stage_takes_no_other_stages(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        cli.main(["index", "--to", "filter"])
    assert stopped.value.code == 2
    assert "unrecognized arguments: --to filter" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "meant"),
    [
        (["train", "--data", "d"], "program"),
        (["train", "--shards=d"], "program"),
        (["train", "--index", "i"], "program"),
        (["train", "--settings", "f"], "program"),
        (["train", "--out", "o"], "stage"),
        (["evaluate", "--model", "dcfast-tiny"], "program"),
        (["evaluate", "--evalsets", "e"], "stage"),
        (["index", "--model", "m"], "stage"),
    ],
)
def test_programs_with_the_name_of_a_stage(words: list[str], meant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[tuple[str, Any]] = []
    monkeypatch.setattr(workflow, "main", lambda rest, stage: called.append(("stage", (stage, list(rest)))) or 0)
    for module in (train, evaluate):
        monkeypatch.setattr(module, "main", lambda rest: called.append(("program", list(rest))) or 0)
    assert cli.main(words) == 0
    assert called == [(meant, words[1:] if meant == "program" else (words[0], words[1:]))]


def test_data_is_another_name_of_shards(tmp_path: Path) -> None:
    parsed = train.parser().parse_args(["--data", "~/a::b", "--out", str(tmp_path)])
    assert [source.shards for source in train.settings_of(parsed)[1].sources] == [str(Path.home() / "a"), "b"]


@pytest.mark.parametrize("words", [[], ["--help"], ["resharder", "--help"], ["nothing"]])
def test_as_a_module(words: list[str]) -> None:
    command = [sys.executable, "-m", "dcfast", *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == (2 if words in ([], ["nothing"]) else 0)
    if words in ([], ["--help"]):
        for said in (
            "dcfast resharder",
            "with --data or",
            "with --model",
            "Exit status: 0 done; 1 failed",
            "143 stopped",
        ):
            assert said in done.stdout
    assert "Traceback" not in done.stderr


PROGRAM_WORDS = {
    "decontaminate": ["x", "--against", "x"],
    "dedup": ["x"],
    "train": ["--index", "x"],
    "evaluate": ["--model", "x"],
}
"""Stage -> words that mean the program of its name."""


def forms() -> list[tuple[list[str], ArgumentParser]]:
    """The words of every command, in each form that it has, with its parser."""
    made = []
    actions = {"evalsets": ACTIONS, "launch": launch_command.ACTIONS}
    for name, parsers in cli.parsers().items():
        words = [[], PROGRAM_WORDS.get(name, [])]
        for its, parser in zip(
            [[action] for action in actions[name]] if name in actions else words, parsers, strict=False
        ):
            places = ["x" for action in parser.shown_actions() if not action.option_strings]
            made.append(([name, *its, *(places if name in actions or not its else [])], parser))
    return made


def options_of(parser: ArgumentParser) -> list[str]:
    """The options that the help of a command lists, in all their spellings, but --help itself."""
    return [flag for action in parser.shown_actions() for flag in action.option_strings if flag not in ("-h", "--help")]


def refusal(words: Sequence[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> str:
    """What a command says of words that it does not know; empty where it knows them all. Nothing is run."""
    programs = [stage.program_module for stage in STAGE_TABLE.values() if stage.program_module]
    for module in [*cli.PROGRAMS.values(), *programs]:
        place = importlib.import_module(module).main.__module__
        monkeypatch.setattr(f"{place}.run_command", lambda *given: 0)
    try:
        cli.main(list(words))
    except SystemExit:
        said = capsys.readouterr().err
        return said if "unrecognized" in said or "belongs to" in said else ""  # a value of no sense is another matter
    return ""


def test_every_command_takes_the_options_of_its_help(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    all_forms = forms()
    assert {words[0] for words, _ in all_forms} == {*cli.PROGRAMS, *STAGES}
    actions = len(ACTIONS) + len(launch_command.ACTIONS) - len(cli.WITH_ACTIONS)
    assert len(all_forms) == len(cli.PROGRAMS) + len(STAGES) + len(PROGRAM_WORDS) + actions
    for words, parser in all_forms:
        for option in options_of(parser):
            assert refusal([*words, f"{option}=1"], monkeypatch, capsys) == "", (words, option)
        assert "unrecognized arguments: --no-such" in refusal([*words, "--no-such"], monkeypatch, capsys), words


@pytest.mark.parametrize("stage", PROGRAM_WORDS)
def test_an_option_of_the_other_command_of_a_name_says_what_means_that(
    stage: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    of_stage, of_program = cli.parsers()[stage]
    known = [set(options_of(parser)) for parser in (of_stage, of_program)]
    choice, chosen = STAGE_TABLE[stage].program_choice, PROGRAM_WORDS[stage][-2 if stage != "dedup" else 0]
    # an abbreviation is known: --set means --sets of a program that has that
    alone = [{option for option in ours if not any(its.startswith(option) for its in others)}
             for ours, others in (known, known[::-1])]  # fmt: skip
    for option in alone[1] - set(STAGE_TABLE[stage].program_options):
        said = refusal([stage, option, "1"], monkeypatch, capsys)
        assert f"{option} belongs to " in said, option
        assert f"what means that is missing: {choice}. Add it" in said
    assert alone[0]
    for option in alone[0]:
        said = refusal([stage, *PROGRAM_WORDS[stage], option, "1"], monkeypatch, capsys)
        assert f"{option} belongs to stage {stage} of a run, and {chosen} means " in said, option


@pytest.mark.parametrize("words", [["decontaminate", "POOL", "--out", "o"], ["dedup", "--out", "o", "POOL"]])
def test_a_pool_for_the_stage_of_a_run_says_what_is_missing(
    words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    missing = STAGE_TABLE[words[0]].program_choice
    assert f"what means that is missing: {missing}. Add it, or leave POOL out" in refusal(words, monkeypatch, capsys)


def test_the_nearest_option_and_action_are_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for words, parser in forms():
        option = max(options_of(parser), key=len)
        said = refusal([*words, f"{option}x"], monkeypatch, capsys)
        assert f"did you mean {option!r}?" in said, (words, said)
    with pytest.raises(SystemExit):
        cli.main(["evalsets", "sing"])
    said = capsys.readouterr().err
    assert f"expected one of {', '.join(ACTIONS)} as the first word; got 'sing'; did you mean 'sign'?" in said
