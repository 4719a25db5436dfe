"""The workflow with training: both trainings, second time, shards against index, kill -9, and what is refused."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from dcfast.errors import CheckpointError, FilterError, PoolError, RunError, SubsetError
from dcfast.evaluate.scores import read_scores
from dcfast.resharding.plan import make_plan
from dcfast.resharding.write import write_output_shards
from dcfast.run.checks import check_settings
from dcfast.run.comparison import run_branch
from dcfast.run.dry_run import describe, plan
from dcfast.run.states import DONE, MAYBE, REDO
from dcfast.run.workflow import main, run
from dcfast.rundir.branch import branch_settings
from dcfast.rundir.run_dir import Run, look_at_run
from dcfast.rundir.settings import Settings
from dcfast.rundir.stage_table import STAGES
from dcfast.rundir.training_summary import TrainingSummary
from dcfast.stages.train import train_subset
from dcfast.storage.lock import locked
from dcfast.storage.records import plain
from dcfast.train import TrainSettings, write_positions
from dcfast.train.source import OpenSource, prepare_source
from dcfast.uids.sets import load_subset
from pool_builder import evalset, picture, plain_pool
from train_builder import build_pool, index_pool, subset_file

pytestmark = pytest.mark.xdist_group("run_training")  # they share a run with two trainings

HELPERS = Path(__file__).resolve().parents[1] / "helpers"

SEEN = 640  # five steps, a checkpoint each
WORLD = {"rows": 240, "rows_per_shard": 120, "eval_scale": 0.02, "teacher_pairs": 10}
SETTINGS = Settings(
    world=WORLD, features={}, filter="~contaminated", samples_seen=SEEN, device="cpu", overrides={"weight_decay": 0.1}
)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A run from the world to the report, with its comparison run beside it in another process."""
    out = tmp_path_factory.mktemp("training") / "run"
    return out, run(out, SETTINGS, workers=2)


def times(out: Path) -> dict[str, int]:
    told = ("progress.json", "log.txt")  # of each start
    files = [path for path in out.rglob("*") if path.is_file() and path.name not in told]
    return {str(path.relative_to(out)): path.stat().st_mtime_ns for path in files}


def checkpoint(out: Path) -> str:
    return str(json.loads((out / "train/summary.json").read_bytes())["checkpoint_sha256"])


# --- a whole run ------------------------------------------------------------------------------------


def test_both_trainings_see_what_the_settings_say(whole: tuple[Path, dict[str, Any]]) -> None:
    out, summaries = whole
    other = out / "compare/no_filter"
    assert summaries["train"].samples_seen == summaries["compare/train"].samples_seen == SEEN
    assert summaries["compare/filter"].subset > summaries["filter"].subset
    assert checkpoint(out) != checkpoint(other)
    scored = [set(read_scores(place).tasks) for place in (out, other)]
    assert scored[0] == scored[1]
    assert len(scored[0]) == 13, "portraits has no main metric"
    assert read_scores(out).unscored == ("world/portraits",)


def test_manifest_holds_both_and_says_what_is_not_standard(whole: tuple[Path, dict[str, Any]]) -> None:
    manifest = json.loads((whole[0] / "manifest.json").read_bytes())
    assert manifest["train"]["checkpoint_sha256"] == checkpoint(whole[0])
    assert manifest["compare"]["train"]["checkpoint_sha256"] == checkpoint(whole[0] / "compare/no_filter")
    assert manifest["compare"]["filter"] == "no_filter"
    said = " ".join(manifest["non_standard"])
    assert "scale tiny" in said
    assert [reason for reason in manifest["non_standard"] if "samples_seen" in reason] == [
        "samples_seen 640 instead of 76800"
    ], "named once, though settings and training both know it"
    assert "rows=240" in said
    assert manifest["versions"]["torch"]
    changed = "samples_seen 640 instead of 76800; weight_decay 0.1 instead of 0.2"
    assert manifest["train"]["recipe"]["weight_decay"] == 0.1
    assert "weight_decay 0.1 instead of 0.2" in manifest["non_standard"]
    for place in (whole[0], whole[0] / "compare/no_filter"):
        lines = (place / "eval_results.jsonl").read_text().splitlines()
        assert {json.loads(line)["non_standard"] for line in lines} == {changed}
    assert "weight_decay 0.1 instead of 0.2" in (whole[0] / "report.html").read_text()


@pytest.mark.parametrize("workers", [1, 2])
def test_second_time_does_nothing(whole: tuple[Path, dict[str, Any]], workers: int) -> None:
    before = times(whole[0])
    assert run(whole[0], SETTINGS, workers=workers) == whole[1]
    assert times(whole[0]) == before


def test_a_dry_run_invents_no_training(whole: tuple[Path, dict[str, Any]]) -> None:
    out, verify = whole[0], whole[0] / "verify.json"
    kept = verify.rename(out.parent / "verify.json")
    try:
        current = look_at_run(out, SETTINGS)
        stages = [name for name in STAGES if current.asks_for(name)]
        planned = plan(current, stages, 2)
    finally:
        kept.rename(verify)
    left = {each.stage: each.state.state for each in planned.stages if each.state.state != DONE}
    assert left == {"verify": REDO, "report": MAYBE}
    assert (planned.trainings, planned.at_most) == (0, True)
    both = {"train": MAYBE, "compare/train": MAYBE}
    index = out / "state/index/segments"
    marker = sorted(index.iterdir())[0]
    kept = marker.rename(out.parent / "marker.json")
    try:
        planned = plan(current, stages, 2)
        said = describe(current, stages, 2)
    finally:
        kept.rename(marker)
    assert {each.stage: each.state.state for each in planned.stages if each.stage in both} == both
    assert re.search(r"^in all at most \d+ s; at most 2 trainings; free", said, re.MULTILINE), said


def test_shards_give_the_checkpoint_that_the_index_gives(whole: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    settings = replace(branch_settings(SETTINGS, SETTINGS.filter), train_from="shards")
    summaries = run_branch(whole[0], SETTINGS, tmp_path / "branch", settings, last="train")
    assert list(summaries) == ["filter", "reshard", "train"]
    assert checkpoint(tmp_path / "branch") == checkpoint(whole[0])


KILLED = """
import os, signal, sys
from test_run_training import SETTINGS, branch_settings, run_branch

replace = os.replace

def replace_and_die(source, target):
    replace(source, target)
    if str(target).endswith("epoch_1.pt"):
        os.kill(os.getpid(), signal.SIGKILL)

os.replace = replace_and_die
run_branch(sys.argv[1], SETTINGS, sys.argv[2], branch_settings(SETTINGS, SETTINGS.filter), last="train")
"""


@pytest.mark.soak
def test_killed_in_the_middle_of_training_it_goes_on(whole: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), str(HELPERS), *sys.path])}
    environment["OMP_NUM_THREADS"] = str(torch.get_num_threads())  # as many as the whole run: sums are equal bits then
    words = [sys.executable, "-c", KILLED, str(whole[0]), str(tmp_path / "branch")]
    done = subprocess.run(words, env=environment, check=False, capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert (tmp_path / "branch/train/checkpoints/epoch_1.pt").exists(), done.stderr
    assert not (tmp_path / "branch/train/summary.json").exists(), "it had ended before it was killed"
    run_branch(whole[0], SETTINGS, tmp_path / "branch", branch_settings(SETTINGS, SETTINGS.filter), last="train")
    assert checkpoint(tmp_path / "branch") == checkpoint(whole[0])


def test_another_subset_begins_another_training(whole: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    out = tmp_path / "branch"
    run_branch(whole[0], SETTINGS, out, branch_settings(SETTINGS, "no_filter"), last="train")
    assert checkpoint(out) == checkpoint(whole[0] / "compare/no_filter")
    run_branch(whole[0], SETTINGS, out, branch_settings(SETTINGS, "~contaminated"), last="train", overwrite=True)
    assert checkpoint(out) == checkpoint(whole[0])


@pytest.mark.parametrize("source", ["index", "shards"])
def test_what_is_trained_on_is_known_by_content(source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows left out, or other captions under the same uids, are another training; a touched pool is not."""

    def launch(settings: TrainSettings) -> TrainingSummary:
        """What a training does with the checkpoints that it finds; a step where it goes on."""
        path = tmp_path / "train/checkpoints/epoch_1.pt"
        files = prepare_source(settings.sources[0], tmp_path / "train/sources", 0)
        identity = plain(settings.identity([OpenSource(files).fingerprint()]))
        found = path.exists()
        if found and json.loads(path.read_bytes()) != identity:
            raise CheckpointError("of another training")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(identity))
        return TrainingSummary(model="", checkpoint="", steps=int(found))

    monkeypatch.setattr("dcfast.stages.train.launch", launch)
    pool = build_pool(tmp_path / "pool", 20)
    index = index_pool(pool, tmp_path)
    subset = load_subset(subset_file(tmp_path / "subset.npy", list(range(4, 20))))
    segments = [str(path) for path in sorted(index.glob("*.dcx"))]
    (tmp_path / "train").mkdir()
    arguments = {
        **{"source": source, "shard_dir": str(pool / "shards"), "segments": 2, "scale": "tiny"},
        **{"recipe": "", "overrides": {}, "seed": 0, "loss": "dcfast", "decoder": "pil", "device": "cpu"},
    }

    def goes_on(exclude: list[int]) -> bool:
        plan = make_plan(segments, subset, shards_dir=pool / "shards", exclude=np.array(exclude, np.uint64))
        plan.save(tmp_path / "reshard")
        write_positions(plan, subset, tmp_path / "train/positions.npy")
        write_output_shards(tmp_path / "reshard", subset, 0, 1, tmp_path / "shards", threads=1)
        return bool(train_subset(tmp_path, **arguments).steps)

    assert not goes_on([])
    assert goes_on([])
    assert not goes_on([5]), "a row in quarantine now"
    assert goes_on([5])
    assert not goes_on([])
    for tar in (pool / "shards").glob("*.tar"):
        os.utime(tar, ns=(1, 2))
    index_pool(pool, tmp_path)
    assert goes_on([]), "the same bytes at another time"
    shutil.rmtree(pool)
    build_pool(pool, 20, broken={n: {"caption": "another caption"} for n in range(20)})
    index_pool(pool, tmp_path)
    assert not goes_on([])


def test_too_few_samples_for_a_batch(whole: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    few = branch_settings(SETTINGS, "random(0.1)")
    with pytest.raises(SubsetError, match="fewer than one batch of 128"):
        run_branch(whole[0], SETTINGS, tmp_path / "few", few)
    none = branch_settings(SETTINGS, "~no_filter")
    with pytest.raises(SubsetError, match=r"kept no sample"):
        run_branch(whole[0], SETTINGS, tmp_path / "none", none)


def test_oracle_keeps_the_rows_without_defects(whole: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    run_branch(whole[0], SETTINGS, tmp_path / "branch", branch_settings(SETTINGS, "oracle"), last="filter")
    truth = pq.read_table(whole[0] / "world/truth.parquet").to_pylist()
    kept = {r["uid"] for r in pq.read_table(tmp_path / "branch/fates.parquet").to_pylist() if r["fate"] == "kept"}
    assert kept == {row["uid"] for row in truth if row["clean"]}
    reasons = json.loads((tmp_path / "branch/state/filter.json").read_bytes())["reasons"]
    assert "not (oracle)" in reasons


# --- a study of it ----------------------------------------------------------------------------------


def test_small_study_and_its_resume(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from dcfast.study import main as study

    words = ["--out", str(tmp_path / "study"), "--features", "none", "--samples-seen", "128", "--seeds", "1"]
    words += ["--world", *(f"{name}={value}" for name, value in WORLD.items()), "--jobs", "2", "--device", "cpu"]
    words += ["--filters", "no_filter", "few: random(0.1, seed={seed})"]
    assert study(words) == 1, "a cell failed"
    found = json.loads((tmp_path / "study/study.json").read_bytes())
    assert [cell["label"] for cell in found["cells"]] == ["no_filter"]
    assert [failure["cell"] for failure in found["failed"]] == ["tiny, seed 0, few"]
    assert "fewer than one batch" in found["failed"][0]["message"]
    assert "fewer than one batch" in capsys.readouterr().err
    cells = tmp_path / "study/tiny/seed-0"
    assert found["cells"][0]["score"] == read_scores(cells / "no_filter").mean
    assert os.path.samefile(cells / "base/index/pool.npy", cells / "no_filter/index/pool.npy")
    before = times(cells / "no_filter")
    assert study(words) == 1
    assert times(cells / "no_filter") == before
    assert "no_filter ..." not in capsys.readouterr().err, "a cell that is done is not begun again"


# --- refused before any work ------------------------------------------------------------------------


@pytest.fixture
def pool(tmp_path: Path) -> Path:
    return plain_pool(tmp_path / "pool").write()


def test_without_a_gpu_large_scales_are_refused(pool: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    sets = evalset(tmp_path / "sets", "one", {"a": picture(1)})
    settings = Settings(scale="small", pool=str(pool), evalsets=str(sets), filter="no_filter")
    with pytest.raises(
        RunError, match=r"scale small wants a GPU for stage train \(about 4 A100.*--to verify.*--device"
    ):
        run(tmp_path / "run", settings)
    assert not (tmp_path / "run/index").exists()
    scored = replace(settings, features={"l14": "ViT-L-14:openai"})
    with pytest.raises(RunError, match=r"for stage features .*--to signatures"):
        run(tmp_path / "run", scored)
    with pytest.raises(RunError, match="--device cuda: torch finds no GPU for stage train"):
        run(tmp_path / "run", replace(settings, scale="tiny", device="cuda"))
    assert "verify" in run(tmp_path / "run", settings, last="verify")
    assert "report" in run(tmp_path / "other", replace(settings, train=False))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"loss": "opne_clip"}, "loss must be one of dcfast, open_clip; got 'opne_clip'; did you mean 'open_clip'"),
        ({"device": "gpu"}, "device must be one of auto, cpu, cuda; got 'gpu'"),
        ({"precision": "half"}, "precision must be one of auto, amp, fp32, fp16, bf16; got 'half'"),
        ({"train_from": "shard"}, "did you mean 'shards'"),
        ({"decoder": "dally"}, "decoder must be one of pil, pil_reduced, dali; got 'dally'; did you mean 'dali'"),
        ({"features": {"l41": "teacher"}}, "prefix must be one of b32, l14; got 'l41'; did you mean 'l14'"),
        ({"features": {"l14": ""}}, "l14 needs a model"),
        ({"samples_seen": 0}, r"samples_seen must be 1 to 2\^63 - 1; got 0"),
        ({"samples_seen": 127}, "at least one batch of scale tiny, 128; got 127"),
        ({"teacher_uids": "x.npy"}, "the built-in world's teacher has its own"),
        ({"pool": "/p", "world": {"rows": 3}}, "a run with a pool has none"),
        ({"pool": "/p", "features": {"l14": "teacher"}}, "never scores a given pool"),
        ({"pool": "/p", "teacher_uids": "x.npy"}, "no column is asked of the teacher"),
        ({"scale": "tinny"}, "did you mean 'tiny'"),
    ],
)
def test_settings_that_make_no_sense(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message.replace("(", r"\(")):
        check_settings(replace(Settings(), **changes))


def test_world_changes_that_make_no_sense(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="unknown setting 'row'"):
        run(tmp_path / "run", Settings(world={"row": 3}))
    with pytest.raises(ValueError, match="rows must be at least 1"):
        run(tmp_path / "run", Settings(world={"rows": 0}))
    with pytest.raises(ValueError, match=r"teacher_pairs must be at least 128.*got 127.*--features none"):
        run(tmp_path / "run", Settings(world={"teacher_pairs": 127}))
    assert not (tmp_path / "run/world").exists()


def test_comparison_that_cannot_be_read_is_said_before_work(tmp_path: Path) -> None:
    with pytest.raises(FilterError, match="did you mean 'basic_filter'"):
        run(tmp_path / "run", Settings(compare="basic_fitler"))
    assert not (tmp_path / "run/world").exists()


def test_terms_of_the_run_need_what_they_stand_for(pool: Path, tmp_path: Path) -> None:
    for text, message in (("oracle", "truth of the built-in world"), ("teacher_pairs", "give --teacher-uids")):
        with pytest.raises(FilterError, match=message):
            run(tmp_path / "run", Settings(pool=str(pool), filter=text), last="filter")


def test_stages_that_are_no_part_of_a_run(pool: Path, tmp_path: Path) -> None:
    settings = Settings(pool=str(pool), filter="no_filter", train=False)
    for stage, why in (
        ("world", "leave --pool out"),
        ("teacher", "--features l14=teacher"),
        ("features", "--features l14="),
        ("train", "left out by --no-train"),
        ("evaluate", "needs --evalsets DIR"),
    ):
        with pytest.raises(ValueError, match=f"stage {stage} .*{why}"):
            run(tmp_path / "run", settings, first=stage, last=stage)


def test_options_become_settings(tmp_path: Path) -> None:
    from dcfast.run.options import options_of, parser

    words = ["--features", "l14=ViT-L-14:openai", "b32=ViT-B-32:sub/x.pt", "--compare", "none", "--no-train"]
    words += ["--pool", "p", "--samples-seen", "700", "--device", "cpu", "--loss", "dcfast", "--train-from", "shards"]
    words += ["--decoder", "pil_reduced"]
    _, got = options_of(parser().parse_args(words))
    assert got.features == {"l14": "ViT-L-14:openai", "b32": f"ViT-B-32:{os.path.abspath('sub/x.pt')}"}
    assert (got.compare, got.train, got.samples_seen) == ("none", False, 700)
    assert (got.device, got.loss, got.train_from, got.decoder) == ("cpu", "dcfast", "shards", "pil_reduced")
    assert options_of(parser().parse_args(["--features", "none"]))[1].features == {}
    assert options_of(parser().parse_args(["--world", "rows=5"]))[1].world == {"rows": 5}
    assert Run(tmp_path, Settings()).features == {"b32": "teacher", "l14": "teacher"}
    assert Run(tmp_path, Settings(pool="/p")).features == {}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--features", "l14"], "takes PREFIX=MODEL"),
        (["--features", "l14=a", "l14=b"], "l14 is given twice"),
        (["--world", "rows"], "takes NAME=NUMBER"),
        (["--world", "rows=many"], "takes NAME=NUMBER"),
    ],
)
def test_options_that_cannot_be_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    assert main(["--out", str(tmp_path / "run"), "--quiet", *words]) == 2
    assert message in capsys.readouterr().err


def test_directory_of_a_run_before_a_setting_existed_is_known(pool: Path, tmp_path: Path) -> None:
    settings = Settings(pool=str(pool), filter="no_filter")
    run(tmp_path / "run", settings, last="index")
    path = tmp_path / "run/state/settings.json"
    stored = json.loads(path.read_bytes())
    del stored["train_from"]
    path.write_text(json.dumps(stored))
    run(tmp_path / "run", settings, last="index")
    with pytest.raises(RunError, match="train_from: 'index' there, 'shards' now"):
        run(tmp_path / "run", replace(settings, train_from="shards"), last="index")


# --- scores -----------------------------------------------------------------------------------------


def test_scores_of_nothing_and_of_damage(tmp_path: Path) -> None:
    assert read_scores(tmp_path).mean is None
    line = {"key": "a", "metrics": {"main_metric": 0.5}, "chance": 0.1}
    (tmp_path / "eval_results.jsonl").write_text(json.dumps(line) + "\n" + '{"key": "b", "metrics": {}}\n')
    found = read_scores(tmp_path)
    assert (found.tasks, found.chance, found.unscored, found.mean) == ({"a": 0.5}, {"a": 0.1}, ("b",), 0.5)
    (tmp_path / "eval_results.jsonl").write_text(json.dumps(line) + '\n{"key": "b", "met')
    with pytest.raises(PoolError, match="line 2: not a result of an evaluation"):
        read_scores(tmp_path)


def test_a_training_of_ones_own_in_a_run_directory_is_never_removed(
    whole: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    settings = branch_settings(SETTINGS, SETTINGS.filter)
    run_branch(whole[0], SETTINGS, tmp_path / "run", settings, last="filter")
    own = tmp_path / "run/train/checkpoints/epoch_1.pt"
    own.parent.mkdir(parents=True)
    own.write_bytes((whole[0] / "compare/no_filter/train/checkpoints/epoch_1.pt").read_bytes())
    with pytest.raises(CheckpointError, match="is of another training"):
        run_branch(whole[0], SETTINGS, tmp_path / "run", settings, last="train")
    assert own.exists()
    # a training that is at work there keeps its temporary files and its log
    living = tmp_path / "run/train/checkpoints/.tmp-1-0a1b2c3d-step_5.pt"
    living.write_bytes(b"half")
    with locked(tmp_path / "run/train/.lock", "busy"), pytest.raises(RunError, match="another training is at work"):
        run_branch(whole[0], SETTINGS, tmp_path / "run", settings, last="train")
    assert living.exists()


@pytest.mark.soak
def test_sigterm_saves_both_trainings(whole: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    """Of a run that has come to its training."""
    shutil.copytree(whole[0], tmp_path / "run", ignore=shutil.ignore_patterns("train"))
    words = ["--features", "none", "--filter", "~contaminated", "--samples-seen", "64000", "--device", "cpu"]
    words += ["--workers", "2", "--out", str(tmp_path / "run"), "--world", *(f"{k}={v}" for k, v in WORLD.items())]
    words += ["--overwrite"]
    trainings = [tmp_path / "run/train", tmp_path / "run/compare/no_filter/train"]
    with subprocess.Popen([sys.executable, "-m", "dcfast.run", *words], stderr=subprocess.PIPE, text=True) as process:
        try:
            deadline = time.monotonic() + 120
            while not all((place / "log.jsonl").exists() for place in trainings):
                assert process.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.1)
            process.terminate()
            said = process.communicate(timeout=30)[1]
        finally:
            process.kill()
    assert process.returncode == 143
    assert said.splitlines()[-1] == "stopped; the same command resumes"
    assert "Traceback" not in said
    for place in trainings:
        assert [path.stem[:5] for path in (place / "checkpoints").iterdir()] == ["step_"], place
