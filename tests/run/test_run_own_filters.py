"""Filters of one's own through the whole workflow: scores by uid, functions, and what is redone when they change."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from dcfast.errors import FilterError, PoolError
from dcfast.report.facts.draw import Choice, draw
from dcfast.report.facts.metadata_rows import examine, metadata_files
from dcfast.run.workflow import main, run
from dcfast.rundir.claim import read_settings
from dcfast.rundir.lookup import SampleLookup
from dcfast.rundir.run_dir import Run
from dcfast.rundir.settings import Settings
from dcfast.stages.filter import score_files
from pool_builder import plain_pool, uid_of

COUNT = 60
WIDE = """
import pyarrow.compute as pc

def wide(batch, least):
    return pc.{}(batch.column('original_width'), least)
"""
ODD = "    return batch.column(0).is_valid() if len(asked) % 2 else batch.column(0).is_null()\n"


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return plain_pool(tmp_path_factory.mktemp("scored") / "pool", COUNT, 3).write()


def filtered(pool: Path, out: Path, text: str, **more: Any) -> Any:
    settings = Settings(pool=str(pool), filter=text, train=False)
    return run(out, settings, last="filter", **more)["filter"]


def kept(out: Path) -> set[str]:
    return {r["uid"] for r in pq.read_table(out / "fates.parquet").to_pylist() if r["fate"] == "kept"}


def write_scores(path: Path, scores: dict[str, float | None], kind: str = "float32", **how: Any) -> None:
    names = list(scores)
    np.random.default_rng(5).shuffle(names)  # in any order
    table = pa.table({"uid": names, "score": pa.array([scores[name] for name in names], kind)})
    pq.write_table(table, path, **how)


@pytest.mark.parametrize(("kind", "fraction"), [("float32", 0.3), ("float64", 0.95), ("float16", 1.0)])
def test_the_best_by_scores_of_ones_own(
    pool: Path, tmp_path: Path, kind: str, fraction: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(score_files, "RUN_ROWS", 16)  # several runs, also of one row group
    rng = np.random.default_rng(3)
    values = np.round(rng.normal(0.2, 0.1, COUNT), 2).astype(kind)  # ties on purpose
    values[[5, 17]] = np.nan
    missing = {3, 30}
    scores = {uid_of(i): None if i == 17 else float(v) for i, v in enumerate(values) if i not in missing}
    scores |= {uid_of(1000 + i): 9.0 for i in range(40)}  # of no row
    write_scores(tmp_path / "s.parquet", scores, kind, row_group_size=40)
    text = f'score("{tmp_path}/s.parquet", fraction={fraction})'
    summary = filtered(pool, tmp_path / "run", f"words >= 5 & {text}", workers=1 + (kind == "float32"))

    values[list(missing)] = np.nan
    place = int(COUNT * fraction)
    threshold = -np.sort(-values)[place] if place < COUNT else -np.inf  # NaN sorts last, as of clip_score
    assert kept(tmp_path / "run") == {uid_of(i) for i in range(COUNT) if values[i] >= threshold}
    assert summary.reasons[f'score("s.parquet", fraction={fraction}): no score'] == 4
    assert any("4 of the 60 metadata rows have no score" in note for note in summary.notes)


def test_a_folder_of_scores_a_threshold_and_a_change(pool: Path, tmp_path: Path) -> None:
    (tmp_path / "parts").mkdir()
    for part in range(3):
        rows = {uid_of(i): i / COUNT for i in range(part, COUNT, 3)}
        write_scores(tmp_path / f"parts/{part}.parquet", rows, "float32" if part else "float64")
    text = f'~score("{tmp_path}/parts", threshold=0.5)'
    filtered(pool, tmp_path / "run", text)
    assert kept(tmp_path / "run") == {uid_of(i) for i in range(30)}
    filtered(pool, tmp_path / "run", text)
    lines = (tmp_path / "run/state/timings.jsonl").read_text().splitlines()
    assert len(lines) == len({json.loads(line)["step"] for line in lines})  # nothing was done twice
    write_scores(tmp_path / "parts/0.parquet", {uid_of(i): 1.0 for i in range(0, COUNT, 3)})
    filtered(pool, tmp_path / "run", text)
    assert kept(tmp_path / "run") == {uid_of(i) for i in range(30) if i % 3}


ONE, TWO = uid_of(1), uid_of(2)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"uid": [ONE, TWO, ONE], "score": [1.0, 2.0, 3.0]}, f"uid {ONE} has two scores, 1.0 and 3.0"),
        ({"uid": [ONE, "x"], "score": [1.0, 2.0]}, "row 1: expected a uid of 32 hex digits; got 'x'"),
        (
            {"uid": [ONE], "scores": [1.0]},
            "expected scores as floats .* in the column 'score'; got the columns uid, sc",
        ),
        ({"uid": [1], "score": [1.0]}, "expected uid as strings of 32 hex digits in the column 'uid'; got int64"),
        ({"uid": [ONE], "score": [1]}, "expected scores as floats .* got int64"),
        ({"uid": pa.array([], "string"), "score": pa.array([], "float32")}, "no rows, so no sample would have a score"),
    ],
)
def test_scores_that_are_refused(pool: Path, tmp_path: Path, table: dict[str, Any], message: str) -> None:
    pq.write_table(pa.table(table), tmp_path / "s.parquet")
    with pytest.raises(PoolError, match=message):
        filtered(pool, tmp_path / "run", f'score("{tmp_path}/s.parquet", fraction=0.3)')


def test_scores_that_cannot_be_read_are_said_before_any_work(pool: Path, tmp_path: Path) -> None:
    (tmp_path / "s.parquet").write_bytes(b"no parquet at all")
    (tmp_path / "empty").mkdir()
    for name, error in (("s.parquet", PoolError), ("empty", PoolError), ("none.parquet", FileNotFoundError)):
        with pytest.raises(error, match=name):
            filtered(pool, tmp_path / "run", f'score("{tmp_path}/{name}", fraction=0.3)')
    assert not (tmp_path / "run").exists()


def test_scores_of_another_pool_are_refused(pool: Path, tmp_path: Path) -> None:
    write_scores(tmp_path / "s.parquet", {uid_of(5000): 1.0})
    with pytest.raises(PoolError, match="none of the 60 metadata rows has a score: the uids are of another pool"):
        filtered(pool, tmp_path / "run", f'score("{tmp_path}/s.parquet", threshold=0.5)')


def test_a_function_its_report_and_its_change(
    pool: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine.py").write_text(WIDE.format("greater_equal"))
    write_scores(tmp_path / "s.parquet", {uid_of(i): float(i) for i in range(COUNT)})
    text = 'score("s.parquet", fraction=0.5) & python("mine.py:wide", original_width, least=640)'
    summary = filtered(pool, Path("run"), text)
    assert kept(tmp_path / "run") == {uid_of(i) for i in range(29, COUNT)}
    done = Run(tmp_path / "run", read_settings(Path("run/state/settings.json")))
    thresholds = {name: float(value) for name, value in summary.thresholds.items()}
    seen = examine(done, metadata_files(done), summary.filter, thresholds)  # as the report looks at it
    assert seen.drops.sum(axis=0).tolist() == [0, 29, 0]
    manifest = Path("run/manifest.json").read_text()
    assert '"function": "mine.py:wide"' in manifest
    assert str(tmp_path) not in manifest
    monkeypatch.chdir("/")  # the same run from elsewhere, by its own settings
    (tmp_path / "mine.py").write_text(WIDE.format("less"))
    words = ["--out", str(tmp_path / "run"), "--quiet", "--workers", "1"]
    assert main(words, "filter") == 1  # a run directory may be a stranger's
    said = f"the filter of this run runs Python code, {tmp_path}/mine.py:wide, which this command line does not name"
    assert said in capsys.readouterr().err
    manifest = tmp_path / "run/manifest.json"
    value = json.loads(manifest.read_text())
    manifest.write_text(json.dumps({**value, "settings": {**value["settings"], "run_code": True}}))
    assert main(["--config", str(manifest), "--out", str(tmp_path / "other"), "--quiet"]) == 1
    assert "the filter of this run runs Python code, mine.py:wide" in capsys.readouterr().err
    assert main([*words, "--run-code"], "filter") == 3  # which keeps nothing now
    assert kept(tmp_path / "run") == set()
    other = ['python("other.py:f", text)', summary.filter.replace("640", "641")]
    for altered, named in zip(other, ("other.py:f", "least=641"), strict=True):
        with pytest.raises(
            ValueError, match=rf"the recorded filter has code run, python\(.*{named}.*\), that the run's"
        ):
            examine(done, metadata_files(done), altered, {})
    settings = {**value["settings"], "filter": "no_filter", "gallery": 'python("other.py:f", text)'}
    manifest.write_text(json.dumps({**value, "settings": settings}))
    assert main(["--config", str(manifest), "--out", str(tmp_path / "other"), "--quiet"]) == 1
    assert "the gallery of this run runs Python code, other.py:f" in capsys.readouterr().err


def test_scores_in_a_dry_run_and_in_a_look(
    pool: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write_scores(tmp_path / "s.parquet", {uid_of(i): i / COUNT for i in range(COUNT)})
    text = 'score("s.parquet", fraction=0.5)'
    words = ["--pool", str(pool), "--out", "run", "--no-train", "--to", "filter", "--filter", text, "--workers", "1"]
    assert main([*words, "--dry-run"]) == 0
    assert (
        "the filter (zeros for its scores of files, whose join is not reckoned) on rows of" in capsys.readouterr().out
    )
    assert main([*words, "--quiet"]) == 0
    done = Run(tmp_path / "run", read_settings(Path("run/state/settings.json")))
    for asked, count in ((text, 31), ('~score("s.parquet", threshold=0.25) & words >= 1', 15)):
        for all_rows in (False, True):
            drawn = draw(done, SampleLookup(done.out), Choice(asked, all_rows=all_rows))
            assert drawn.matching == count
    with pytest.raises(
        FilterError, match=r'asks for score\(".*other\.parquet"\), which only a run whose filter names it'
    ):
        draw(done, SampleLookup(done.out), Choice('score("other.parquet", threshold=0.5)'))


def test_a_function_that_is_not_pure_is_refused_before_any_work(pool: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("asked = []\n\ndef odd(batch):\n    asked.append(1)\n" + ODD)
    with pytest.raises(FilterError, match=r"mine\.py:odd.* is not pure"):
        filtered(pool, tmp_path / "run", f'python("{tmp_path}/mine.py:odd", text)')
    assert not (tmp_path / "run").exists()


def test_a_stage_takes_the_settings_of_the_run(pool: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = str(tmp_path / "run")
    run(out, Settings(pool=str(pool), filter="words >= 5", train=False, seed=7), last="index")
    words = ["--out", out, "--quiet", "--workers", "1"]
    assert main([*words, "--dry-run"], "signatures") == 0
    assert '"seed": 7' in capsys.readouterr().out
    assert main(words, "signatures") == 0
    assert main([*words, "--seed", "7"], "signatures") == 0
    assert main([*words, "--seed", "8"], "signatures") == 1
    assert "seed: 7 there, 8 now" in capsys.readouterr().err
    assert main(words) == 1  # the whole workflow begins with defaults
    assert "holds another run" in capsys.readouterr().err
    stored = tmp_path / "run/state/settings.json"
    stored.write_text(stored.read_text().replace('"seed": 7', '"seed": "seven"'))
    assert main(words, "signatures") == 1
    assert "settings.json cannot be read; choose another --out" in capsys.readouterr().err


def exit_status(words: list[str]) -> object:
    """Of a command, whether its parser ends it or not."""
    try:
        return main(words)
    except SystemExit as error:
        return error.code


def test_a_recipe_changed_on_purpose(pool: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--pool", str(pool), "--scale", "small", "--filter", "words >= 5", "--no-train", "--out"]
    changes = ["--set", "learning_rate=1e-3", "--set", "precision=fp32"]
    out = str(tmp_path / "run")
    assert main([*words, out, "--to", "index", "--quiet", "--workers", "1", *changes]) == 0
    manifest = json.loads((tmp_path / "run/manifest.json").read_text())
    assert manifest["settings"]["overrides"] == {"learning_rate": 1e-3, "precision": "fp32"}
    assert manifest["non_standard"] == [
        "learning_rate 0.001 instead of 0.0005",
        "precision fp32 instead of amp",
        "with a changed recipe (--set) it is not DataComp's scale small any more",
    ]
    assert main([*words, out, "--to", "index", "--quiet"]) == 1
    assert "overrides: {'learning_rate': 0.001, 'precision': 'fp32'} there, default now" in capsys.readouterr().err
    for change, message in (
        ("batch_size=8", "no recipe field 'batch_size'; did you mean 'global_batch'?"),
        ("learning_rte=1", "no recipe field 'learning_rte'; did you mean 'learning_rate'?"),
        ("learning_rate", "expected NAME=VALUE"),
        ("learning_rate=fast", "learning_rate must be a number; got 'fast'"),
        ("samples_seen=1000", "samples_seen is an option of its own (--samples-seen N)"),
        ("checkpoints=0", "checkpoints must be at least 1; got 0"),
        ("precision=fp64", "precision must be one of fp32, amp"),
    ):
        assert exit_status([*words, str(tmp_path / "other"), "--set", change]) == 2
        assert message in capsys.readouterr().err
    assert not (tmp_path / "other").exists()


def test_the_recipes_of_the_docs(pool: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, repo_root: Path) -> None:
    page = (repo_root / "docs/filters.md").read_text(encoding="utf-8")
    function, arrays = (
        next(block for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if word in block)
        for word in ("def is_good", "save_subset")
    )
    monkeypatch.chdir(tmp_path)
    Path("pool").symlink_to(pool)
    Path("my_filters.py").write_text(function)
    exec(compile(arrays, "docs/filters.md", "exec"), {})
    text = 'uids("mine.npy") & python("my_filters.py:is_good", text, original_width, least=3)'
    assert filtered(pool, tmp_path / "run", text).fates["kept"] == COUNT
