"""Progress: something moves whatever a step does, in one line that fits; and why pieces are done again."""

from __future__ import annotations

import json
import os
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
from dcfast.engine import progress as module
from dcfast.engine.local import LocalEngine
from dcfast.engine.piece import Piece, why_to_do
from dcfast.engine.progress import Progress, Silent, StepProgress, amount, duration, ended_line, speed, step_line
from dcfast.process.advance import tell_advance
from dcfast.process.terminal import width
from dcfast.rundir.run_dir import Run
from dcfast.rundir.settings import Settings
from dcfast.stages.runner import run_stage
from piece_functions import Demo, Value, square


@pytest.fixture
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SECONDS_BETWEEN_LINES", 0.02)


def test_a_step_of_which_nothing_ends_is_not_silent(often: None, capsys: pytest.CaptureFixture[str]) -> None:
    with Progress("index/segments", total=3, pieces=3):
        time.sleep(0.2)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) >= 3
    assert lines[0] == "  index/segments: 0% (0 of 3 pieces), 0.0 s so far"
    assert lines[-1].startswith("  index/segments: 3 pieces, 0.2 s")


def test_what_a_single_piece_tells_is_said_with_rate_and_time_left(
    often: None, capsys: pytest.CaptureFixture[str]
) -> None:
    with Progress("train/train", total=5_000_000, pieces=1) as bar:
        tell_advance(100, 1_000, "samples", "step 1 of 10")
        time.sleep(0.1)
        tell_advance(200, 1_000, "samples", "step 2 of 10")
        state = bar.state()
        time.sleep(0.1)
        bar.advance(5_000_000)
    assert (state.unit, state.done, state.total, state.detail) == ("samples", 200, 1_000, "step 2 of 10")
    assert state.rate is not None
    assert 300 < state.rate < 1_100, "the first step is the start of the clock: 100 samples in a tenth of a second"
    assert state.seconds_left == pytest.approx(800 / state.rate, rel=0.2)
    said = capsys.readouterr().err
    assert "  train/train: 20% (step 2 of 10), " in said
    assert " samples/s, " in said
    assert " left\n" in said
    assert said.splitlines()[-1].startswith("  train/train: 200 samples, 0.2 s, ")


def test_other_work_of_the_same_piece_is_measured_anew() -> None:
    with Silent("evaluate/scores", total=1, pieces=1) as bar:
        tell_advance(3, 4, "sets", "opening d")
        tell_advance(0, 100, "images", "a, set 1 of 4")
        assert bar.state().rate is None
        time.sleep(0.01)
        tell_advance(50, 100, "images", "a, set 1 of 4")
        assert bar.state().unit == "images"
        assert (bar.state().rate or 0) > 50 / 10


def test_a_note_is_said_at_once_in_a_line_of_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    with Silent("a/b", total=1, pieces=1):
        tell_advance(2, 9, "steps", note="train: goes on")
    assert capsys.readouterr().err == ""
    with Progress("train/train", total=1, pieces=1):
        tell_advance(2, 9, "steps", note="train: goes on")
    assert capsys.readouterr().err.startswith("  train: goes on\n  train/train: ")


def test_who_tells_is_heard_by_all_around_it_and_by_no_other_thread() -> None:
    with Silent("a/b", total=1, pieces=1) as outer, Silent("train/train", total=1, pieces=1) as inner:
        other = threading.Thread(target=tell_advance, args=(9, 9, "steps"))
        other.start()
        other.join()
        assert (outer.has_heard, inner.has_heard) == (False, False)
        tell_advance(1, 9, "steps")
        assert outer.state().done == inner.state().done == 1
    tell_advance(2, 9, "steps")  # nobody hears it, which is no error
    assert outer.state().done == 1


def test_silent_says_nothing(often: None, capsys: pytest.CaptureFixture[str]) -> None:
    with Silent("index/segments", total=3, pieces=3) as bar:
        time.sleep(0.1)
        bar.advance(1)
        Silent.note("anything")
    assert capsys.readouterr() == ("", "")
    assert bar.state().pieces_done == 1


@pytest.mark.parametrize("most", [20, 30, 39, 40, 80, 99, 100, 120, 200])
def test_a_line_fits_every_terminal(most: int) -> None:
    told = StepProgress(
        "decontaminate/near_copies", 1, 0, "images", 3_000, 9_000, 99.0, 0.0, 1234.5, 4_321.0, "日本語の名前, set 3"
    )
    states = [
        told,
        StepProgress("train/train", 1, 0, "pieces", 0, 1, 1e6),
        StepProgress("a/b", 0, 0, "pieces", 0, 0, 0.0),
    ]
    for state in states:
        assert width(step_line(state, most, bar=True)) <= most
    wide = step_line(told, 120, bar=True)
    assert wide.startswith("[######..............] decontaminate/near_copies: 33% (日本語の名前, set 3), 1,2")
    assert wide.endswith(" images/s, 72 min left")
    assert step_line(told, 39) == "decontaminate: 33%, 72 min left"


def test_words() -> None:
    assert [duration(s) for s in (0, 0.44, 9.94, 45, 99.4, 100, 720, 5_999, 6_000, 12_240, 259_200)] == [
        *("0.0 s", "0.4 s", "9.9 s", "45 s", "99 s", "2 min", "12 min", "100 min", "1.7 h", "3.4 h", "3.0 days")
    ]
    assert (amount(3_400_000, "bytes"), amount(1_250, "samples")) == ("3.4 MB", "1,250 samples")
    assert (speed(8.1e6, "bytes"), speed(0.25, "pieces"), speed(0.5, "images"), speed(1_520, "samples")) == (
        *("8.1 MB/s", "4.0 s a piece", "2.0 s an image", "1,520 samples/s"),
    )
    still = StepProgress("a/b", 2, 1, "pieces", 1, 2, 700.0, 600.0, 0.01, 0.0)
    assert step_line(still).endswith(", 0.0 s left, nothing moved for 10 min")
    assert (
        ended_line(StepProgress("a/b", 1, 1, "bytes", 2_000_000, 2_000_000, 2.0))
        == "a/b: 1 piece, 2.0 MB, 2.0 s, 1.0 MB/s"
    )


# --- why pieces are done again --------------------------------------------------------------------


def pieces_of(count: int, source: Path, power: int = 0) -> list[Piece[Value]]:
    return [
        square.piece("demo/squares", f"{i}", inputs=[str(source)], outputs=[f"out/{i}"])(
            value=i + power, output=f"out/{i}", source=str(source)
        )
        for i in range(count)
    ]


def test_a_stage_says_what_is_unchanged_and_why_the_rest_is_redone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, source = Run(tmp_path, Settings()), tmp_path / "source.txt"
    (tmp_path / "state").mkdir()
    source.write_text("3")

    def said(pieces: list[Piece[Value]]) -> list[str]:
        with LocalEngine(1) as engine:
            run_stage(run, engine, "demo", lambda run, do: Demo(0, [s.value for s in do(pieces)]), Progress)
        return [line.strip() for line in capsys.readouterr().err.splitlines()]

    assert [line.partition(",")[0] for line in said(pieces_of(3, source))] == ["demo/squares: 3 pieces"]
    assert said(pieces_of(3, source)) == ["demo: unchanged, 3 pieces"]
    again = said(pieces_of(3, source, power=1))
    assert again[0] == "demo/squares: 3 of 3 pieces again: argument value changed (3 pieces)"
    os.utime(source, ns=(1, 1))
    name = f"{tmp_path.name}/source.txt"
    assert said(pieces_of(1, source, power=1))[0] == f"demo/squares: again: input {name} changed"
    (tmp_path / "out/1").unlink()
    again = said(pieces_of(2, source, power=1))[0]
    assert again == f"demo/squares: 1 of 2 pieces again: input {name} changed"
    (tmp_path / "state/demo/squares/1.json").unlink()  # a killed run had not come to it
    assert said(pieces_of(2, source, power=1))[0] == "demo/squares: 1 of 2 pieces are done"
    (tmp_path / "out/1").unlink()
    assert said(pieces_of(2, source, power=1))[0].endswith("1 of 2 pieces again: output out/1 is gone or altered")


def test_every_reason_has_its_words(tmp_path: Path) -> None:
    source = tmp_path / "source.txt"
    source.write_text("3")
    [piece] = pieces_of(1, source)
    assert why_to_do(tmp_path, piece) == []
    with LocalEngine(1) as engine:
        list(engine.map(str(tmp_path), [piece]))
    marker = piece.marker_path(tmp_path)
    written = json.loads(marker.read_text())

    def why(**changes: object) -> list[str]:
        marker.write_text(json.dumps({**written, **changes}))
        return why_to_do(tmp_path, piece)

    assert why() == []
    assert why(key="0") == ["an input changed"]  # where nothing that is noted tells what
    assert why(stats={"value": 1}) == ["its marker was altered"]
    assert why(stats=[]) == ["its marker cannot be read"]
    assert why(key="0", made_of=None) == ["an input or argument changed (its marker is of an older release)"]
    older = {**written["made_of"], "version": 99}
    assert why(key="0", made_of=older) == ["this release does it another way"]
    one = {**written["made_of"], "inputs": ["00000000", "00000000"], "arguments": {}}
    assert why(key="0", made_of=one) == [
        *("argument output changed", "argument source changed", "argument value changed", "1 inputs, 2 before")
    ]
    marker.write_text("{")
    assert why_to_do(tmp_path, piece) == ["its marker cannot be read"]
    assert why_to_do(tmp_path, replace(piece, name="other")) == []
