"""What the command line of a training refuses, and how it says so."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from dcfast.scales import PRECISIONS, RECIPE_FIELDS, SCALES, Scale, scale


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


def test_samples_seen_is_an_option_of_its_own(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    from dcfast.train.__main__ import main, parser, settings_of

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
