"""``dcfast COMMAND``: each stage's own help, the programs that have a stage's name, and what the help says."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from dcfast import cli
from dcfast.evaluate import __main__ as evaluate
from dcfast.run import workflow
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
