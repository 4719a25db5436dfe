"""``--dry-run``: the stages that would run, which of them are done, and what the rest would cost."""

from __future__ import annotations

import json
import os
import re
import shutil
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from dcfast import cli
from dcfast.filters.defaults import DEFAULT_FILTER
from dcfast.run import dry_run, model_probes, probes
from dcfast.run.dry_run import NOTHING, plan
from dcfast.run.probes import Rates
from dcfast.run.states import DONE, MAYBE, REDO, TO_DO, stage_states
from dcfast.run.workflow import main, run
from dcfast.rundir.run_dir import Run, look_at_run
from dcfast.rundir.settings import Settings
from dcfast.rundir.stage_table import STAGES
from dcfast.scales import Scale
from dcfast.storage.atomic import write_bytes, write_json
from pool_builder import plain_pool

DATA = ["index", "signatures", "decontaminate", "filter", "reshard", "verify"]
SMALL = ["--set", "global_batch=4"]
"""For a training on a pool of a dozen rows."""


@pytest.fixture
def pool(tmp_path: Path) -> Path:
    return plain_pool(tmp_path / "pool").write()


def planned(text: str) -> dict[str, str]:
    """Stage -> its state, as the table has them."""
    rows = re.findall(r"^([a-z/]+) +(done|to do|redo|maybe) +\d", text, re.MULTILINE)
    return {stage: state for stage, state in rows if stage.partition("/")[2] in STAGES or stage in STAGES}


@pytest.mark.parametrize(
    ("words", "stages"),
    [
        (["--compare", "none"], [*DATA, "train", "report"]),
        ([], [*DATA, "train", "report", "compare/filter", "compare/train"]),
        (["--to", "filter"], ["index", "signatures", "decontaminate", "filter"]),
        (["--no-train"], [*DATA, "report"]),
    ],
)
def test_the_stages_that_would_run(
    words: list[str], stages: list[str], pool: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = words or ["--filter", "basic_filter"]
    assert main(["--pool", str(pool), "--out", str(tmp_path / "o"), "--dry-run", *given, *SMALL]) == 0
    said = capsys.readouterr().out
    assert planned(said) == dict.fromkeys(stages, TO_DO)
    assert ("no training in this plan, 0 GPU-hours" in said) == ("train" not in stages)
    assert not (tmp_path / "o").exists()


def test_a_stage_plans_itself(pool: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--pool", str(pool), "--scale", "xlarge", "--out", str(tmp_path / "o")]
    assert main([*words, "--to", "reshard", "--quiet"]) == 0
    capsys.readouterr()
    assert cli.main(["verify", *words, "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert planned(said) == {"verify": TO_DO}
    assert "by DataComp's paper" not in said
    there = "12 of the 12,800,000,000 rows of scale xlarge are here (less than 0.01%); the figures are for these"
    assert f"{there}; the whole scale: about 450.0 TB of shards, about 81,920 A100 GPU-hours\n" in said


def test_times_are_of_what_was_tried_here(
    pool: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model_probes, "TRIAL_SECONDS", 600.0)  # on a machine that does other things, too
    words = ["--pool", str(pool), "--out", str(tmp_path / "o"), "--dry-run", "--compare", "none", *SMALL]
    assert main([*words, "--features", "l14=dcfast-tiny:none.pt", "--device", "cpu"]) in (1, 2)
    assert "none.pt" in capsys.readouterr().err
    assert main([*words, "--samples-seen", "12800"]) == 0
    said = capsys.readouterr().out
    cores = len(os.sched_getaffinity(0))
    assert "times by what was tried here just now: the filter on rows of 00000000.parquet; " in said
    assert "reading, indexing and decoding of 00000000.tar, on one core; " in said
    assert f"training steps and embeddings of dcfast-tiny on the processor ({cores} cores)" in said
    current = look_at_run(tmp_path / "o", Settings(pool=str(pool), samples_seen=12800))
    seconds = {each.stage: each.seconds for each in plan(current, ["index", "train"], 1).stages}
    assert 0 < seconds["index"] < 5 < seconds["train"]
    # where nothing can be tried there are no times
    assert plan(current, ["train"], 1, here=NOTHING).stages[0].seconds is None


@pytest.mark.parametrize(
    ("rows", "size", "said"),
    [
        (
            12_799_999,
            0,
            "12,799,999 of the 12,800,000 rows of scale small are here (100.00%); the figures are for these; ",
        ),
        (12_800_000, 225_000_000_000, ""),
        (
            12_800_000,
            224_000_000_000,
            "all 12,800,000 rows of scale small are here, and 224.0 GB of its about 450.0 GB of shards; the figures",
        ),
        (
            25_600_001,
            0,
            "25,600,001 rows are here, and scale small has 12,800,000 (200.00%); the whole scale: about 450",
        ),
    ],
)
def test_what_is_here_of_the_scale(rows: int, size: int, said: str, tmp_path: Path) -> None:
    run = Run(tmp_path, Settings(pool=str(tmp_path), scale="small"))
    lines = dry_run._beside_the_scale(run, dry_run.Amounts(1, size, 1, 0, rows, 0, 0, 0))
    assert len(lines) == bool(said)
    assert "".join(lines).startswith(said)


def test_the_filter_is_said_also_where_it_is_the_default(
    pool: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--pool", str(pool), "--out", str(tmp_path / "o"), "--dry-run", "--no-train", "--to", "index"]
    assert main([*words, "--filter", "words >= 2"]) == 0
    assert "\nfilter: words >= 2\n" in capsys.readouterr().out
    assert main(words) == 0
    (line,) = re.findall("^filter: .*", capsys.readouterr().out, re.MULTILINE)
    assert line.startswith(
        "filter: basic_filter (the default); clip_score(l14, fraction=0.3) is left out of the default"
    )
    assert "no column clip_l14_similarity_score (--features l14=ViT-L-14:openai computes it); ~contaminated is" in line
    assert main(["--out", str(tmp_path / "world"), "--dry-run", "--to", "index"]) == 0
    assert f"\nfilter: {DEFAULT_FILTER} (the default)\n" in capsys.readouterr().out


def test_the_world_that_is_not_there_yet(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--out", str(tmp_path / "o"), "--dry-run", "--to", "signatures"]) == 0
    said = capsys.readouterr().out
    assert "the built-in world, not rendered yet: 12,800 pairs (about " in said
    assert "14 evaluation sets" in said
    assert planned(said) == dict.fromkeys(["world", "index", "signatures"], TO_DO)
    assert "reading, indexing and decoding of a painted shard of 32 pairs, on one core" in said
    assert "no training" in said
    assert not (tmp_path / "o").exists()


def test_where_the_run_would_stop_is_said_after_the_plan(
    pool: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--pool", str(pool), "--out", str(tmp_path / "o"), "--no-train", "--dry-run"]
    assert main([*words, "--from", "filter", "--to", "filter"]) == 1
    said = capsys.readouterr()
    assert "stage index has not been run yet; run it first" in said.err
    assert re.search(r"^filter .* \?$", said.out, re.MULTILINE), said.out
    assert "in all" not in said.out


def test_what_is_done_and_why_the_rest_is_not(pool: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "o"
    words = ["--pool", str(pool), "--out", str(out), "--no-train", "--workers", "1", "--quiet"]
    assert main([*words, "--to", "filter"]) == 0
    capsys.readouterr()
    before = sorted(tmp_path.rglob("*"))
    # begun: what is left is planned
    assert main([*words, "--dry-run"]) == 0
    said = capsys.readouterr().out
    done = ["index", "signatures", "decontaminate", "filter"]
    assert planned(said) == {**dict.fromkeys(done, DONE), **dict.fromkeys(["reshard", "verify", "report"], TO_DO)}
    assert re.search(r"^index +done .* unchanged, 4 pieces$", said, re.MULTILINE)
    # done: nothing is
    assert main([*words, "--to", "index", "--dry-run"]) == 0
    assert "nothing is to be done" in capsys.readouterr().out
    # another run's directory
    for more, status in ((["--filter", "no_filter"], 1), (["--filter", "no_filter", "--overwrite"], 0)):
        assert main([*words, *more, "--dry-run"]) == status
        told = capsys.readouterr()
        assert ("holds another run (filter: " in told.err) == (status == 1)
    states = planned(told.out)
    assert [states[name] for name in done] == [DONE, DONE, DONE, REDO]
    assert re.search(r"^filter +redo .*filter/evaluate: .*\bargument \w+ changed", told.out, re.MULTILINE)
    assert "filter by the last time here" in told.out
    assert sorted(tmp_path.rglob("*")) == before


def test_changes_are_seen_as_the_run_sees_them(pool: Path, tmp_path: Path) -> None:
    settings = Settings(pool=str(pool), train=False, filter="no_filter")
    run(tmp_path / "o", settings)

    def states() -> dict[str, tuple[str, str]]:
        current = look_at_run(tmp_path / "o", settings)
        return {s.stage: (s.state, s.why) for s in stage_states(current, [*DATA, "report"])}

    assert {state for state, _ in states().values()} == {DONE}
    tar = pool / "shards/00000001.tar"
    kept = tar.stat().st_mtime_ns
    os.utime(tar, ns=(kept, kept + 1))
    assert states()["index"] == (
        REDO,
        "1 of 3 pieces of index/segments: input shards/00000001.tar changed",
    )
    maybe = "may be redone: what index changes of what it reads"
    assert states()["filter"] == (MAYBE, f"{maybe}; unchanged by what is on disk now")
    # what is undone by itself is known, whatever index changes
    marker = next((tmp_path / "o/state/filter/subset").iterdir())
    text = marker.read_text()
    marker.write_text("{}")
    assert states()["filter"][0] == REDO
    assert states()["filter"][1].endswith("its marker cannot be read")
    marker.write_text(text)
    # a summary that a killed run took away is no work lost
    summary = tmp_path / "o/state/reshard.json"
    kept_summary = summary.rename(tmp_path / "reshard.json")
    assert states()["reshard"] == (MAYBE, f"{maybe}; unchanged by what is on disk now")
    kept_summary.rename(summary)
    said = dry_run.describe(look_at_run(tmp_path / "o", settings), [*DATA, "report"], 1)
    assert re.search(r"^in all at most \d+ s; no training in this plan", said, re.MULTILINE), said
    os.utime(tar, ns=(kept, kept))
    (tmp_path / "o/verify.json").unlink()
    assert states()["verify"] == (REDO, "1 of 1 pieces of verify/conclude: output verify.json is gone or altered")
    (tmp_path / "o/shards/00000000.tar").write_bytes(b"")
    assert states()["reshard"][1].endswith("output shards/00000000.tar is gone or altered")
    shutil.rmtree(tmp_path / "o/state/reshard")
    assert states()["reshard"] == (TO_DO, "")
    (tmp_path / "o/state/filter.json").unlink()
    assert states()["filter"][1].endswith("pieces are there and unchanged; its summary is not")


def test_times_are_those_of_the_recipe_that_is_asked_for(pool: Path, tmp_path: Path) -> None:
    asked: list[tuple[str, str]] = []

    def step(recipe: Scale, *more: str) -> float:
        asked.append((recipe.model, recipe.precision))
        return 1.0

    def seconds(settings: Settings) -> dict[str, float]:
        tried = Rates(train=dict.fromkeys(("dcfast-tiny", "RN50"), 1.0), embed={"RN50": 1.0})
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(dry_run, "measure", lambda run, stages: tried)
            current = Run(tmp_path / "o", settings)
            return {each.stage: each.seconds for each in plan(current, ["index", "train"], 1).stages}

    settings = Settings(pool=str(pool), compare="none", samples_seen=1280)
    assert seconds(settings)["train"] == 1280
    fewer = replace(settings, samples_seen=None, overrides={"samples_seen": 640})
    assert seconds(fewer)["train"] == 640
    other = replace(settings, overrides={"model": "RN50"})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(probes, "step_seconds", step)
        patch.setattr(probes, "embed_seconds", lambda *more: (1.0, 1.0))
        rates = probes.measure(Run(tmp_path / "o", other), ["train"])
    assert (asked, list(rates.train)) == ([("RN50", "amp_bf16")], ["RN50"])
    # the last time here is of the recipe that was followed then
    line = {"step": "train/train", "seconds": 7.0, "pieces": 1, "skipped": 0}
    write_bytes(tmp_path / "o/state/timings.jsonl", json.dumps(line).encode() + b"\n")
    recipe = {**asdict(settings.recipe()), "loss": settings.loss, "decoder": settings.decoder}
    write_json(tmp_path / "o/train/summary.json", {"model": "dcfast-tiny", "checkpoint": "c.pt", "recipe": recipe})
    assert seconds(settings)["train"] == 7
    assert seconds(other)["train"] == 1280


def test_the_papers_hours_are_of_its_model(pool: Path, tmp_path: Path) -> None:
    settings = Settings(pool=str(pool), scale="small")
    for changes, hours in (({}, True), ({"samples_seen": 12_800}, True), ({"model": "RN50"}, False)):
        current = Run(tmp_path / "o", replace(settings, overrides=changes))
        assert (plan(current, ["train"], 1, here=NOTHING).gpu_hours is not None) == hours


def test_a_disk_too_small_is_said(pool: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(dry_run.shutil, "disk_usage", lambda place: usage._replace(free=1000))
    current = Run(tmp_path / "o", Settings(pool=str(pool), train=False))
    assert "the disk may be too small: up to " in dry_run.describe(current, ["index", "report"], 1)
