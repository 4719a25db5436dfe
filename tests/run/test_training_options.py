"""Options of training that a run passes on: captions are part of what it is, the others change no result."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest
from dcfast.run import checks
from dcfast.run.workflow import main, run
from dcfast.rundir.settings import Settings
from dcfast.rundir.training_summary import TrainingSummary
from dcfast.stages.train import trained_by
from dcfast.storage.atomic import write_bytes, write_json
from dcfast.storage.records import plain
from dcfast.train import TrainSettings
from pool_builder import evalset, plain_pool, uid_of
from pyarrow import parquet as pq

RECIPE: dict[str, bool | int | float | str] = {
    "global_batch": 4,
    "precision": "fp32",
    "warmup_steps": 1,
    "checkpoints": 1,
}
WORDS = ["--set", *" --set ".join(f"{name}={value}" for name, value in RECIPE.items()).split()]
WORDS += ["--samples-seen", "40", "--compare", "none", "--device", "cpu", "--filter", "words >= 2", "--workers", "1"]


@pytest.fixture
def pool(tmp_path: Path) -> Path:
    return plain_pool(tmp_path / "pool", 24, 2).write()


def captions_file(path: Path, of: str = "better") -> Path:
    uids = [uid_of(number) for number in range(24)]
    pq.write_table(pa.table({"uid": uids, "caption": [f"{of} {number}" for number in range(24)]}), path)
    return path


def settings_of(pool: Path) -> Settings:
    return Settings(
        pool=str(pool), filter="words >= 2", samples_seen=16, overrides=RECIPE, compare="none", device="cpu"
    )


@pytest.fixture
def begun(tmp_path: Path) -> tuple[list[TrainSettings], Callable[[TrainSettings], TrainingSummary]]:
    """The trainings that were begun, and what is begun in place of one."""
    known: list[TrainSettings] = []

    def begin(settings: TrainSettings) -> TrainingSummary:
        known.append(settings)
        folder = Path(settings.out) / "train"
        (folder / "checkpoints").mkdir(exist_ok=True)
        write_bytes(folder / "checkpoints/epoch_1.pt", b"weights")
        summary = TrainingSummary(model="dcfast-tiny", checkpoint="train/checkpoints/epoch_1.pt")
        write_json(folder / "summary.json", plain(summary))
        return summary

    return known, begin


def test_what_changes_no_result_is_passed_on_and_redoes_nothing(
    pool: Path,
    tmp_path: Path,
    begun: tuple[list[TrainSettings], Callable[[TrainSettings], TrainingSummary]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(checks, "require_reporters", lambda names: None)
    known, begin = begun
    sets = tmp_path / "sets"
    evalset(sets, "a", {"0": b"no picture"})
    out, settings = tmp_path / "run", replace(settings_of(pool), evalsets=str(sets), sets=["a"])
    copies = str(tmp_path / "copies")
    with trained_by(begin):
        run(out, settings, last="train", fsdp=True, compile=True, report_to=["wandb"], evaluate_every=2, copy_to=copies)
        [seen] = known
        assert (seen.fsdp, seen.compile, seen.report_to, seen.evaluate_every) == (True, True, ["wandb"], 2)
        assert (seen.evaluate_on, seen.evaluate_sets) == (str(sets), ["a"])
        assert str(seen.copy_to).startswith(f"{copies}/train-")
        run(out, settings, last="train", evaluate_every=1, evaluate_sets=["b"], copy_to=str(tmp_path / "other"))
        assert len(known) == 1, "none of it is a part of what the training is"
        (out / "state/train/train/train.json").unlink()
        run(out, settings, last="train")
        one = known[-1]
        assert (one.fsdp, one.compile, one.evaluate_on, one.copy_to) == (False, False, None, None)
        assert one.identity() == seen.identity()


def test_captions_are_part_of_what_a_run_is(
    pool: Path, tmp_path: Path, begun: tuple[list[TrainSettings], Callable[[TrainSettings], TrainingSummary]]
) -> None:
    known, begin = begun
    out, settings, copies = tmp_path / "run", settings_of(pool), str(tmp_path / "copies")
    file = captions_file(tmp_path / "better.parquet")
    with trained_by(begin):
        run(out, settings, last="train")
        path = out / "state/settings.json"
        older = {name: value for name, value in json.loads(path.read_bytes()).items() if "caption" not in name}
        path.write_text(json.dumps(older))
        run(out, settings, last="train", copy_to=copies)
        run(out, replace(settings, caption_from=["txt"], caption_weights=[2.0]), last="train", copy_to=copies)
        assert len(known) == 1, "a run of before there were any goes on, and txt alone is what there was"
        mark = json.loads((out / "train/identity.json").read_bytes())
        assert not [name for name in mark if "caption" in name]

        weighed = replace(settings, caption_from=["txt", f"parquet:{file}:caption"], caption_weights=[1.0, 3.0])
        with pytest.raises(Exception, match="caption_from: default there"):
            run(out, weighed, last="train")
        run(out, weighed, last="train", overwrite=True, copy_to=copies)
        assert len(known) == 2
        assert known[-1].caption_from == ["txt", f"parquet:{file}:caption"]
        assert known[-1].caption_weights == [1.0, 3.0]
        assert json.loads((out / "train/identity.json").read_bytes())["captions"] == ["txt", "parquet:caption"]

        os.utime(file, (1, 1))
        run(out, weighed, last="train", copy_to=copies)
        captions_file(file, "other")
        (out / "train/log.jsonl").write_text("{}\n")
        run(out, weighed, last="train", copy_to=copies)
        assert len(known) == 4
        assert known[1].copy_to == known[2].copy_to, "a touched file is the same training"
        assert known[2].copy_to != known[3].copy_to, "other captions under the same uids are another one"
        assert not (out / "train/log.jsonl").exists(), "what belonged to the one before"
        run(out, weighed, last="train")
        assert len(known) == 4


def test_a_run_with_captions_from_elsewhere_and_copies(
    pool: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, copies = captions_file(tmp_path / "better.parquet"), tmp_path / "copies"
    given = ["--pool", str(pool), *WORDS, "--caption-from", f"parquet:{file}:caption", "--copy-to", str(copies)]
    assert main([*given, "--out", str(tmp_path / "a"), "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert "train: 40 samples seen, from 24 at most, which is up to the filter: each at least 1.7 times on" in said
    assert not copies.exists()
    assert main([*given, "--out", str(tmp_path / "a"), "--quiet"]) == 0
    [copy] = copies.iterdir()
    assert {"summary.json", "log.jsonl", "checkpoints"} <= {path.name for path in copy.iterdir()}
    manifest = json.loads((tmp_path / "a/manifest.json").read_bytes())
    assert "captions from parquet:caption" in manifest["non_standard"]
    assert manifest["settings"]["caption_from"] == ["parquet:better.parquet:caption"]
    page = (tmp_path / "a/report.html").read_text()
    for words in ("passes over the data", "time spent waiting for data", "memory of a rank", "length of the gradients"):
        assert words in page
    capsys.readouterr()

    assert main([*given, "--out", str(tmp_path / "b"), "--to", "verify", "--quiet"]) == 0
    assert main([*given, "--out", str(tmp_path / "b"), "--dry-run"]) == 0
    kept = manifest["subset"]["uids"]
    assert f"train: 40 samples seen, from {kept:,} in the subset: each {40 / kept:.1f} times" in capsys.readouterr().out
    assert main([*given, "--out", str(tmp_path / "b"), "--quiet"]) == 0
    assert [path.name for path in copies.iterdir()] == [copy.name], "the same training by its data"
    trained = [(tmp_path / name / "train/log.jsonl").read_text() for name in "ab"]
    assert trained[0] == trained[1], "it was fetched, and no step was taken"

    again = ["--config", str(tmp_path / "a/manifest.json"), "--out", str(tmp_path / "c"), "--dry-run"]
    assert main(again) == 0, "the whole path is beside the manifest"
    write_json(tmp_path / "lone.json", manifest)
    assert main(["--config", str(tmp_path / "lone.json"), *again[2:], "--pool", str(pool)]) == 2
    assert "for --caption-from without its place" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--caption-from", "parquet:x"], "--caption-from must be txt, json:FIELD or parquet:PATH:COLUMN"),
        (["--caption-from", "json:a", "--caption-weights", "1", "2"], "must be 1 numbers, one a --caption-from"),
        (["--caption-from", "parquet:POOL:nothing"], "has no column nothing"),
        (["--caption-from", "parquet:nowhere.parquet:caption"], "nowhere.parquet"),
        (["--evaluate-every", "1"], "give --evalsets DIR as well"),
        (["--evaluate-every", "0"], "--evaluate-every must be at least 1"),
        (["--evaluate-sets", "a"], "--evaluate-sets belongs to --evaluate-every N"),
        (["--report-to", "tensorbord"], "no reporter 'tensorbord'"),
        (["--copy-to", "pipe:tee x"], "names a program"),
        (["--copy-to", "POOL/../file/below"], "nothing can be written there"),
    ],
)
def test_what_is_refused_before_work(
    pool: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], said: str
) -> None:
    (tmp_path / "file").write_bytes(b"")
    given = [word.replace("POOL", str(pool)) for word in words]
    assert main(["--pool", str(pool), "--out", str(tmp_path / "o"), *WORDS, *given, "--quiet"]) in (1, 2)
    assert said in capsys.readouterr().err
    assert not (tmp_path / "o").exists()
