"""``dcfast status``: what a run directory tells of runs that are done, under way, failed, gone; it changes nothing."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from dcfast.engine import open_engine
from dcfast.engine.progress import Silent
from dcfast.errors import CorruptDataError, PoolError, RunError
from dcfast.process.advance import Advance, advance_heard, tell_advance
from dcfast.process.terminal import width
from dcfast.run.comparison import recorded
from dcfast.run.workflow import run
from dcfast.rundir import recorder as module
from dcfast.rundir.recorder import PROGRESS, Recorder, RunProgress, is_alive, note_command, read_progress
from dcfast.rundir.run_dir import Run
from dcfast.rundir.settings import Settings
from dcfast.rundir.stage_table import STAGES
from dcfast.status.command import main
from dcfast.status.facts import RunStatus, StageStatus, read_status
from dcfast.status.page import status_lines
from dcfast.storage.atomic import write_json
from dcfast.storage.records import plain, read_record, replaced
from dcfast.train.launch import _tell
from pool_builder import plain_pool

WIDTHS = (30, 40, 80, 120)


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of the data half that has ended, up to the filter."""
    root = tmp_path_factory.mktemp("status")
    settings = Settings(pool=str(plain_pool(root / "pool").write()), filter="no_filter", train=False)
    run(root / "run", settings, last="filter")
    return root / "run"


@pytest.fixture
def begun(tmp_path: Path) -> Path:
    """A run directory in which nothing has been done."""
    write_json(tmp_path / "run/state/settings.json", {"scale": "tiny", "compare": "none"})
    return tmp_path / "run"


def started(out: Path) -> Recorder:
    return Recorder(out / "state", engine="local", workers=2, stages=list(STAGES))


def states(status: RunStatus) -> dict[str, str]:
    return {stage.name: stage.state for stage in status.stages}


def page(status: RunStatus, columns: int = 120) -> str:
    return "\n".join(status_lines(status, columns))


def test_a_run_that_is_done(done: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {path: path.lstat().st_mtime_ns for path in done.rglob("*")}
    status = read_status(done)
    names = ["index", "signatures", "decontaminate", "filter", "reshard", "verify", "report"]
    assert states(status) == {name: "done" if name in names[:4] else "to do" for name in names}
    assert (status.state, status.alive, status.pid, status.log) == ("done", None, os.getpid(), None)
    assert all(status.stages[n].pieces and status.stages[n].seconds is not None for n in (0, 1, 3))
    assert main([str(done)]) == 0
    said = capsys.readouterr().out
    assert said.startswith(f"{done}: done\n")
    assert f"process {os.getpid()} on {os.uname().nodename} (1 worker)" in said
    assert re.search(r"\n  decontaminate +done +nothing to do\n", said)  # it has no evaluation sets
    assert "\x1b" not in said
    assert main([str(done), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == plain(status)
    assert {path: path.lstat().st_mtime_ns for path in done.rglob("*")} == before, "it changes nothing"


def test_a_second_start_tells_what_was_unchanged(done: Path) -> None:
    settings = read_record(done / "state/settings.json", Settings)
    run(done, settings, last="signatures")
    status = read_status(done)
    assert [stage.unchanged for stage in status.stages[:2]] == [stage.pieces for stage in status.stages[:2]]
    assert re.search(r"\n  index +done +unchanged, \d pieces\n", page(status))


def test_a_run_under_way_from_another_process(begun: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_SECONDS_BETWEEN_WRITES", 0.02)
    write_json(begun / "state/world.json", {})
    with started(begun) as recorder:
        recorder.stage("train")
        with Silent("train/train", total=1, pieces=1) as bar, recorder.following(bar):
            tell_advance(100, 1_000, "samples", "step 1 of 10")
            time.sleep(0.05)
            tell_advance(300, 1_000, "samples", "step 3 of 10")
            time.sleep(0.1)
            code = f"import sys; from dcfast.status.command import main; sys.exit(main([{str(begun)!r}, '--json']))"
            told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
            text = page(read_status(begun), 80)
    status = json.loads(told.stdout)
    assert (status["state"], status["alive"], status["pid"]) == ("running", True, os.getpid())
    stage = next(stage for stage in status["stages"] if stage["name"] == "train")
    assert (stage["state"], stage["step"]["done"], stage["step"]["detail"]) == ("running", 300, "step 3 of 10")
    assert stage["step"]["seconds_left"] > 0
    assert re.search(r"\n  world +done\n", text)
    assert re.search(r"\n  train +running  30% \(step 3 of 10\), [\d,]+ samples/s, .* left\n", text)
    assert re.search(r"\n  evaluate +to do\n", text)


def test_a_process_that_was_killed(begun: Path) -> None:
    code = f"""
import os, signal
from pathlib import Path
from dcfast.rundir.recorder import Recorder
with Recorder(Path({str(begun / "state")!r}), engine="local", workers=2, stages=["index"]) as recorder:
    recorder.stage("index")
    recorder._write("running")
    recorder.log("the last words")
    os.kill(os.getpid(), signal.SIGKILL)
"""
    pid = subprocess.Popen([sys.executable, "-c", code])
    assert pid.wait() == -9
    status = read_status(begun)
    assert (status.state, status.alive, status.pid) == ("gone", False, pid.pid)
    assert states(status)["index"] == "stopped"
    assert status.log is not None
    assert status.log[-1].endswith("Z the last words")
    text = page(status)
    assert f"process {pid.pid} on {os.uname().nodename} is gone: it was killed" in text.replace("\n  ", " ")
    assert "the same command goes on where it was" in text
    # another process of the same number is another process
    told = read_progress(begun / "state")
    assert told is not None
    assert is_alive(replaced(told, pid=os.getpid())) is False


def test_a_run_that_did_not_end_names_its_command_and_the_latest_checkpoint(
    begun: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["/x/bin/dcfast", "run", "--filter", "a > 'b'", "--out", "runs/mine"])
    folder = begun / "train/checkpoints"
    folder.mkdir(parents=True)
    for age, name in enumerate(("epoch_2.pt", "step_70.pt", "epoch_1.pt")):
        (folder / name).write_bytes(b"")
        os.utime(folder / name, (1_000 - age, 1_000 - age))

    def stop() -> None:
        with open_engine("local", 1, None) as engine, recorded(Run(begun, Settings()), engine, ["train"]):
            assert read_status(begun).checkpoint is None, "it is at work"
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stop()
    status = read_status(begun)
    assert status.checkpoint == "train/checkpoints/epoch_2.pt"
    assert shlex.split(str(status.command)) == ["dcfast", *sys.argv[1:]]
    assert "latest checkpoint of its training: train/checkpoints/epoch_2.pt" in page(status)
    for columns in (40, 120):
        text = page(status, columns)
        command = text.partition("the same command goes on where it was:\n")[2].partition("\n\n")[0]
        assert shlex.split(command.replace("\\\n", "")) == ["dcfast", *sys.argv[1:]]
        assert all(len(line) <= columns for line in command.splitlines())
    monkeypatch.setattr(sys, "argv", ["/x/dcfast/run/__main__.py", "--seed", "1"])
    note_command(begun / "state")
    assert read_status(begun).command == "python -m dcfast.run --seed 1"
    (begun / "state/command.txt").write_text("dcfast 'run")
    assert "    dcfast 'run" in page(read_status(begun)).splitlines()


def test_a_run_on_another_machine_is_told_by_its_signs_of_life(begun: Path) -> None:
    told = RunProgress(
        "far", 1, "boot:1:2", time.time() - 900, time.time() - 5, "running", "ray", 64, ["index"], stage="index"
    )
    for silent, state in ((5, "running"), (900, "gone")):
        write_json(begun / "state" / PROGRESS, plain(replaced(told, updated=time.time() - silent, job="77")))
        status = read_status(begun)
        assert (status.state, status.alive) == (state, None)
        assert "process 1 on far, Slurm job 77" in page(status)
    assert "gives no sign of life: it was killed, or its machine is down; last sign of life 15 min ago" in page(
        status, 200
    )


def test_a_failure_has_its_piece_and_the_last_lines_of_its_log(begun: Path) -> None:
    error = PoolError("pool/0.tar: cannot be read\x1b[31m")
    error.add_note("at work: index/segments/00003")

    def fall() -> None:
        with started(begun) as recorder:
            recorder.stage("index")
            with Silent("index/segments", total=4, pieces=4) as bar, recorder.following(bar):
                bar.advance(1)
                raise error

    with pytest.raises(PoolError):
        fall()
    status = read_status(begun)
    assert (status.state, status.piece, states(status)["index"]) == ("failed", "index/segments/00003", "failed")
    assert status.error == "PoolError: pool/0.tar: cannot be read"
    text = page(status)
    assert "\n  index/segments/00003: PoolError: pool/0.tar: cannot be read" in text
    assert re.search(r"\n  index +failed +segments: 25% \(1 of 4 pieces\)\n", text)
    assert "Z failed: PoolError: pool/0.tar: cannot be read" in text
    assert "\x1b" not in text
    with pytest.raises(ZeroDivisionError), started(begun):
        1 / 0  # noqa: B018
    log = read_status(begun).log
    assert log is not None
    assert log[-1].endswith("ZeroDivisionError: division by zero")
    assert any("1 / 0" in line for line in log), "of what nobody foresaw, the traceback"
    with pytest.raises(KeyboardInterrupt), started(begun):
        raise KeyboardInterrupt
    assert read_status(begun).state == "stopped"


def test_a_training_by_itself(begun: Path, tmp_path: Path) -> None:
    for out in (begun, tmp_path / "alone"):
        recorder = Recorder(out / "train", engine="train", workers=8, stages=["train"], keep=False)
        with recorder, Silent("train/train", total=1, pieces=1) as bar, recorder.following(bar):
            recorder.stage("train")
            tell_advance(1, 2, "samples", "step 1 of 2")
            recorder._write("running")
            status = read_status(out)
            assert (status.state, states(status)["train"]) == ("running", "running")
            assert "a training by itself, 8 ranks" in page(status)
        assert not [path for path in (out / "train").iterdir() if path.name in (PROGRESS, "log.txt")]


def test_what_the_first_of_many_ranks_says_is_told_on(tmp_path: Path) -> None:
    with (
        Recorder(tmp_path, engine="train", workers=2, stages=["train"]) as recorder,
        Silent("train/train", total=1, pieces=1) as bar,
        recorder.following(bar),
    ):
        tell_advance(5, 10, "samples", "step 5 of 10")
        recorder._write("running")
    told: list[Advance] = []
    with advance_heard(told.append):
        _tell(tmp_path, os.getpid() + 1)  # another start's
        _tell(tmp_path / "none", os.getpid())
        assert told == []
        write_json(tmp_path / PROGRESS, {**json.loads((tmp_path / PROGRESS).read_text()), "step": plain(bar.state())})
        _tell(tmp_path, os.getpid())
    assert told == [Advance(5, 10, "samples", "step 5 of 10")]


def test_no_run_is_an_error_that_says_what_is_there(
    tmp_path: Path, done: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(tmp_path / "none")]) == 1
    assert "no such directory; expected the --out of a run" in capsys.readouterr().err
    with pytest.raises(RunError, match=r"is no run directory: it has no state/settings\.json"):
        read_status(tmp_path)
    with pytest.raises(RunError, match=f"below it are runs: {done}"):
        read_status(done.parent)
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="is no run directory"):
        read_status(tmp_path / "file")


def test_files_that_were_altered_are_named(begun: Path) -> None:
    (begun / "state" / PROGRESS).write_text('{"host": 1}')
    with pytest.raises(CorruptDataError, match=r"state/progress\.json: "):
        read_status(begun)
    (begun / "state" / PROGRESS).unlink()
    (begun / "state/timings.jsonl").write_text('{"step": "index/a", "seconds": "?"}\nno json\n')
    status = read_status(begun)
    assert (status.state, status.pid) == ("untold", None)
    assert "no start of it has told anything" in page(status).replace("\n  ", " ")
    assert main([str(begun)]) == 0


@pytest.mark.parametrize("columns", WIDTHS)
def test_it_fits_every_terminal(done: Path, columns: int) -> None:
    status = read_status(done)
    worse = replaced(
        status, state="failed", error="PoolError: " + "日本" * 40, log=["x" * 300], run="/a" * 90, piece="a/b/c",
        parts=[replaced(status, name="no_filter" * 9)], stages=[*status.stages, StageStatus("train", "running")],
    )  # fmt: skip
    for told in (status, worse):
        for colours in (False, True):
            lines = status_lines(told, columns, colours=colours)
            assert all(width(_bare(line)) <= columns for line in lines), columns


@pytest.mark.parametrize("text", ["x" * 200_000, "日本" * 100_000, " " * 200_000, "e\u0301" * 100_000])
def test_a_text_of_any_length_is_shown_at_once(done: Path, text: str) -> None:
    status = replaced(read_status(done), state="failed", error=text, log=[text], piece="a/b", host=text)
    began = time.monotonic()
    lines = status_lines(status, 40, colours=True)
    assert time.monotonic() - began < 2
    assert sum(map(len, lines)) < 40_000
    assert "(200,0" in "\n".join(lines).replace("\n", "").replace("  ", " ")


@pytest.mark.parametrize("state", ["paused", "", "日本" * 50_000, "a\x1b[2Jb"])
def test_a_state_of_another_release_is_shown_as_it_stands(begun: Path, state: str) -> None:
    told = RunProgress("far", 1, "boot:1:2", 1.0, 2.0, state, "local", 1, ["index"], stage="index")
    for folder in ("state", "train"):
        write_json(begun / folder / PROGRESS, plain(told))
    alone = begun.parent / "alone"
    write_json(alone / "train" / PROGRESS, plain(told))
    for place in (begun, alone):
        for colours in (False, True):
            lines = status_lines(read_status(place), 40, colours=colours)
            assert all(width(_bare(line)) <= 40 for line in lines)
            assert "\x1b" not in lines[0], "without colour"
            assert state != "paused" or lines[0].endswith(": paused")


def _bare(line: str) -> str:
    return re.sub(r"\x1b\[\d+m", "", line)


def test_watch_ends_with_the_run(begun: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with started(begun) as recorder:
        ended = threading.Event()

        def watch() -> None:
            assert main([str(begun), "--watch", "--every", "0.1", "--json"]) == 0
            ended.set()

        thread = threading.Thread(target=watch)
        thread.start()
        time.sleep(0.3)
        assert not ended.is_set()
        recorder.stage("index")
        recorder._write("running")
    thread.join(10)
    assert ended.is_set()
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["state"] for line in lines][-1] == "done"
    assert lines[0]["state"] == "running"


def test_a_long_log_is_cut(begun: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MOST_LOG_BYTES", 1_000)
    monkeypatch.setattr(module, "_KEPT_LOG_BYTES", 500)
    (begun / "state/log.txt").write_text("".join(f"line {i}\n" for i in range(500)))
    with started(begun):
        pass
    lines = (begun / "state/log.txt").read_text().splitlines()
    assert 40 < len(lines) < 80
    assert "line 499" in lines
    assert lines[-1].endswith("Z done")
