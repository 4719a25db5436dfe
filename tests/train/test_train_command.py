"""What the command line of a training refuses, and how it says so."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from dcfast.scales import PRECISIONS, RECIPE_FIELDS, Scale, scale


def test_the_command_line_says_what_is_wrong(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    from dcfast.train.__main__ import main

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
