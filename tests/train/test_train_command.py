"""What the command line of a training refuses, and how it says so."""

from __future__ import annotations

import importlib
import json
import os
from pathlib import Path

import pytest
import torch
from dcfast.cli import parsers
from dcfast.scales import PRECISIONS, RECIPE_FIELDS, SCALES, Scale, scale
from dcfast.storage.lock import take_lock
from dcfast.train.__main__ import main, parser, settings_of
from dcfast.train.session import train
from train_builder import build_pool


def test_the_command_line_says_what_is_wrong(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["--shards", "a"]) == 2
    assert "give --out DIR" in capsys.readouterr().err
    assert main(["--out", str(tmp_path)]) == 2
    assert "nothing to train on" in capsys.readouterr().err
    assert main(["--out", str(tmp_path), "--shards", "a", "--index", "b"]) == 2
    assert "either --shards, or --index" in capsys.readouterr().err
    assert main(["--out", str(tmp_path), "--shards", "a", "--subset", "b"]) == 2
    assert "--subset belong to --index" in capsys.readouterr().err
    assert main(["--out", str(tmp_path), "--index", "a", "--weights", "1"]) == 2
    assert "--weights belongs to several --shards" in capsys.readouterr().err
    for text, message in (
        ("[]", "expected the settings"),
        ("{", "expected the settings"),
        ('{"out": "o"}', "sources"),
        ('{"out": "o", "sources": 5}', "sources: expected a list; got 5"),
        ('{"out": "o", "sources": [{"shards": "a"}], "sed": 1}', "no option 'sed'; did you mean 'seed'?"),
        ('{"out": "o", "sources": [{"shard": "a"}]}', "settings.json: no option 'shard'; did you mean 'shards'?"),
        ('{"out": "o", "sources": [{"shards": 1}]}', "settings.json: sources[0].shards: expected text or null; got 1"),
    ):
        (tmp_path / "settings.json").write_text(text)
        assert main(["--settings", str(tmp_path / "settings.json")]) == 2
        assert message in capsys.readouterr().err
    assert main(["--settings", str(tmp_path / "settings.json"), "--seed", "3", "--processes", "1"]) == 2
    assert "--settings FILE has all settings: write seed there, or leave" in capsys.readouterr().err
    for name, value in (
        ("samples_seen", "1e3"),
        ("global_batch", "8.0"),
        ("learning_rate", "fast"),
        ("checkpoints", "true"),
    ):
        assert main(["--out", str(tmp_path), "--shards", "a", "--set", f"{name}={value}"]) == 2
        assert f"{name} must be " in capsys.readouterr().err
    assert main(["--out", str(tmp_path), "--shards", str(tmp_path / "nowhere")]) == 1
    assert "no such directory" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["--out", str(tmp_path), "--shards", "a", "--set", "lr=1"])
    said = capsys.readouterr().err.splitlines()
    assert "no recipe field 'lr'; did you mean 'learning_rate'?" in said[0]
    assert said[1:] == ["python -m dcfast.train --help lists the options"], "and no screen of all options"


launching = importlib.import_module("dcfast.train.launch")  # the package has a function of that name
FEW = ["--set", "global_batch=8", "--set", "samples_seen=64", "--set", "checkpoints=2", "--set", "precision=fp32"]


def _tree(root: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def test_a_dry_run_says_what_it_would_do_and_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pool = build_pool(tmp_path / "pool", 20)
    out = tmp_path / "out"
    words = ["--shards", str(pool), "--out", str(out), "--device", "cpu", "--workers", "0", *FEW]
    before = _tree(tmp_path)
    assert main([*words, "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert "8 steps of 8 samples (64, from 20, each 3.2 times on average), on 1 process, cpu" in said
    assert "global_batch 8 instead of 128" in said
    assert "it begins anew" in said
    assert _tree(tmp_path) == before
    assert not out.exists()

    settings = settings_of(parser().parse_args(words))[1]

    def leave(step: int) -> None:
        if step == 6:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(settings, on_step=leave)
    (out / "train/checkpoints/epoch_2.pt").mkdir()  # the training would give it another name
    before = _tree(tmp_path)
    capsys.readouterr()
    assert main([*words, "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert "it goes on from epoch_1.pt, step 4" in said
    assert "note: checkpoint epoch_2.pt is a directory" in said
    assert _tree(tmp_path) == before
    assert (out / "train/checkpoints/epoch_2.pt").is_dir()
    assert main([*words, "--dry-run", "--seed", "1"]) == main([*words, "--seed", "1"]) == 1
    said = capsys.readouterr().err.splitlines()
    assert [line for line in said if "is of another training (seed: 0 there, 1 now)" in line] == said[-1:] * 2


@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        (["--shards", "AT/none"], 1, "no such directory"),
        (["--shards", "AT/pool"], 1, "fewer than one batch of 128"),
        (["--shards", "AT/pool", *FEW, "--processes", "3"], 2, "does not divide among 3 ranks"),
        (["--shards", "AT/pool", *FEW, "--set", "model=ViT-B-23"], 2, "did you mean 'ViT-B-32'"),
        (["--shards", "AT/pool", *FEW, "--device", "cuda"], 2, "torch sees no GPU on this machine"),
        (["--shards", "AT/pool", *FEW, "--out", "AT/file"], 1, "out must be a directory"),
    ],
)
def test_a_dry_run_refuses_what_the_training_refuses(
    words: list[str], status: int, message: str, tmp_path: Path,
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    build_pool(tmp_path / "pool", 20)
    (tmp_path / "file").write_text("")
    given = ["--out", str(tmp_path / "o"), *(word.replace("AT", str(tmp_path)) for word in words)]
    said = []
    for dry in (["--dry-run"], []):
        assert main([*given, *dry]) == status, dry
        said.append(capsys.readouterr().err)
        assert message in said[-1], dry
        assert not dry or not (tmp_path / "o").exists()
    assert said[0] == said[1]


def test_a_dry_run_refuses_where_a_training_is_at_work(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "o/train").mkdir(parents=True)
    lock = take_lock(tmp_path / "o/train/.lock")
    try:
        build_pool(tmp_path / "pool", 20)
        assert main(["--out", str(tmp_path / "o"), "--shards", str(tmp_path / "pool"), *FEW, "--dry-run"]) == 1
    finally:
        os.close(lock)
    assert "another training is at work there" in capsys.readouterr().err


def test_a_plan_for_a_machine_with_a_gpu(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    words = ["--out", str(tmp_path / "o"), "--shards", str(build_pool(tmp_path / "pool", 20)), *FEW, "--device", "cuda"]
    assert main([*words, "--dry-run", "--assume-gpu"]) == 0
    said = capsys.readouterr().out
    assert "on a process for each GPU, cuda" in said
    assert "this machine has no GPU: the plan is for one that has a GPU" in said
    assert main([*words, "--assume-gpu"]) == 2
    assert "add --dry-run, or leave --assume-gpu out" in capsys.readouterr().err
    assert (
        main([*words, "--set", "global_batch=0", "--dry-run", "--assume-gpu"]) == 2
    )  # and all else that is wrong stays wrong


def test_the_device_is_that_of_all_commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    of_parsers = {
        action.help for its in parsers().values() for one in its for action in one.shown_actions()
        if "--device" in action.option_strings
    }  # fmt: skip
    assert of_parsers == {"of models; auto: a GPU if there is one; one of auto, cpu, cuda (default auto)"}
    settings = settings_of(parser().parse_args(["--out", str(tmp_path), "--shards", "a"]))[1]
    assert settings.device == "auto"
    used: list[str] = []
    monkeypatch.setattr(launching, "train", lambda settings, on_step: used.append(settings.device))
    monkeypatch.setattr(launching, "_gpus", lambda: 1)
    for there in (True, False):
        monkeypatch.setattr(torch.cuda, "is_available", lambda there=there: there)
        launching.launch(settings)
    assert used == ["cuda", "cpu"]


def test_samples_seen_is_an_option_of_its_own(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    words = ["--out", str(tmp_path), "--shards", "a", "--samples-seen", "1280"]
    short = settings_of(parser().parse_args([*words, "--set", "checkpoints=2"]))[1]
    long = settings_of(parser().parse_args([*words[:4], "--set", "samples_seen=1280", "--set", "checkpoints=2"]))[1]
    assert short == long
    assert short.recipe().samples_seen == 1280
    assert main([*words, "--set", "samples_seen=1280"]) == 2
    assert "--samples-seen N says the same as --set samples_seen=N: leave one of them out" in capsys.readouterr().err
    assert main([*words[:5], "0"]) == 2
    assert "--samples-seen must be 1 to 2^63 - 1; got 0" in capsys.readouterr().err


def test_the_table_of_scales_in_the_documents_is_that_of_the_code(repo_root: Path) -> None:
    rows = {}
    for line in (repo_root / "docs/training.md").read_text(encoding="utf-8").splitlines():
        cells = [cell.strip().replace(",", "") for cell in line.strip("|").split("|")]
        if line.startswith("|") and cells[0] in SCALES:
            rows[cells[0]] = cells[1:]
    assert list(rows) == list(SCALES)
    for name, (model, seen, batch, pool, hours) in rows.items():
        recipe = SCALES[name]
        assert (model, int(seen), int(batch)) == (recipe.model, recipe.samples_seen, recipe.global_batch)
        gigabytes = float(pool.removesuffix(" GB")) if pool.endswith(" GB") else None
        assert gigabytes == (None if recipe.pool_bytes is None else recipe.pool_bytes / 1e9)
        assert (float(hours) if hours.isdecimal() else None) == recipe.gpu_hours


def test_the_documents_have_the_fields_of_a_recipe(repo_root: Path) -> None:
    page = (repo_root / "docs/training.md").read_text(encoding="utf-8")
    rows = [[cell.strip(" `") for cell in line.split("|")[1:5]] for line in page.splitlines() if line.startswith("| `")]
    values = [[name, _as_set(scale("tiny"), name), _as_set(scale("small"), name)] for name in RECIPE_FIELDS]
    table = [row for row in rows if row[0] in RECIPE_FIELDS]
    assert [row[:3] for row in table] == values
    assert all(row[3] for row in table)
    assert all(name in table[list(RECIPE_FIELDS).index("precision")][3] for name in PRECISIONS)


def _as_set(recipe: Scale, name: str) -> str:
    """A value as ``--set`` takes it."""
    value = getattr(recipe, name)
    return value if isinstance(value, str) else json.dumps(value)
