"""``--dry-run``: the stages that would run, at the pool's size."""

from __future__ import annotations

from pathlib import Path

import pytest
from dcfast import cli
from dcfast.run.dry_run import plan
from dcfast.run.workflow import main
from dcfast.rundir.settings import Settings
from dcfast.rundir.stage_table import STAGES
from pool_builder import plain_pool


@pytest.fixture
def pool(tmp_path: Path) -> Path:
    return plain_pool(tmp_path / "pool").write()


def planned(text: str) -> list[str]:
    return [line.split()[0] for line in text.splitlines() if line.split()[0] in STAGES]


@pytest.mark.parametrize(
    ("words", "stages"),
    [
        ([], ["index", "signatures", "decontaminate", "filter", "reshard", "verify", "train", "report"]),
        (["--to", "filter"], ["index", "signatures", "decontaminate", "filter"]),
        (["--from", "reshard"], ["reshard", "verify", "train", "report"]),
        (["--from", "filter", "--to", "verify"], ["filter", "reshard", "verify"]),
        (["--no-train"], ["index", "signatures", "decontaminate", "filter", "reshard", "verify", "report"]),
    ],
)
def test_the_stages_that_would_run(
    words: list[str], stages: list[str], pool: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--pool", str(pool), "--out", str(tmp_path / "o"), "--dry-run", *words]) == 0
    said = capsys.readouterr().out
    assert planned(said) == stages
    assert ("no training in this plan, 0 GPU-hours" in said) == ("train" not in stages)
    assert not (tmp_path / "o").exists()


def test_a_stage_plans_itself(pool: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--pool", str(pool), "--scale", "xlarge", "--out", str(tmp_path / "o"), "--dry-run"]
    assert cli.main(["verify", *words]) == 0
    said = capsys.readouterr().out
    assert planned(said) == ["verify"]
    assert "A100" not in said


def test_features_go_by_the_rows_of_the_pool(pool: Path, tmp_path: Path) -> None:
    chosen = Settings(pool=str(pool), scale="small", features={"l14": "ViT-L-14:openai"})
    (features,) = [s for s in plan(tmp_path / "o", chosen, 1).stages if s.stage == "features"]
    assert features.seconds < 1
    assert plan(tmp_path / "o", chosen, 1, ["index"]).gpu_hours is None


def test_the_world_that_is_not_there_yet(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--out", str(tmp_path / "o"), "--dry-run", "--to", "signatures"]) == 0
    said = capsys.readouterr().out
    assert "12,800 pairs, about 128 MB, about 45 s of a core; then index, signatures; no training" in said
    assert main(["--out", str(tmp_path / "o"), "--dry-run"]) == 0
    assert "with 2 trainings" in capsys.readouterr().out
    assert main(["--out", str(tmp_path / "o"), "--dry-run", "--world", "rows=320"]) == 0
    assert "320 pairs, about 3 MB, about 1 s of a core" in capsys.readouterr().out


def test_where_the_run_would_stop_is_said(pool: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--pool", str(pool), "--out", str(tmp_path / "o"), "--no-train", "--dry-run"]
    assert main([*words, "--from", "filter", "--to", "filter"]) == 0
    said = capsys.readouterr().out
    assert "as it is, the run would stop: " in said
    assert "stage index has not been run yet" in said
    assert main([*words, "--to", "features", "--features", "l14=ViT-L-14:nosuch"]) == 2
    assert "nosuch" in capsys.readouterr().err
    assert main([*words, "--to", "filter"]) == 0
    assert "would stop" not in capsys.readouterr().out


def test_what_the_run_would_say_is_said(pool: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--pool", str(pool), "--out", str(tmp_path / "o"), "--no-train", "--workers", "1", "--quiet"]
    assert main([*words, "--to", "index"]) == 0
    capsys.readouterr()
    before = sorted(tmp_path.rglob("*"))
    # begun: what is left is planned
    assert main([*words, "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert planned(said) == ["signatures", "decontaminate", "filter", "reshard", "verify", "report"]
    assert "already done: 1 stages have been run (index)" in said
    # done: nothing is
    assert main([*words, "--to", "index", "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert planned(said) == []
    assert "nothing is to be done: its 1 stages have been run (index)" in said
    # another run's directory
    for more, status in ((["--filter", "no_filter"], 1), (["--filter", "no_filter", "--overwrite"], 0)):
        assert main([*words, *more, "--dry-run"]) == status
        told = capsys.readouterr()
        assert ("holds another run (filter: " in told.err) == (status == 1)
        assert (planned(told.out) != []) == (status == 0)
    assert sorted(tmp_path.rglob("*")) == before
