"""Pieces, markers, engines, the runner and run directories: resume, redo what changed, refuse what is foreign."""

from __future__ import annotations

import json
import multiprocessing
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from dcfast.engine import open_engine
from dcfast.engine.local import MOST_THREADS, LocalEngine
from dcfast.engine.piece import Piece, PieceFunction, perform, piece_key, read_marker
from dcfast.engine.progress import Silent
from dcfast.engine.ray import RayEngine
from dcfast.errors import CorruptDataError, PoolError, RunError
from dcfast.index.pool import group_files
from dcfast.rundir.run_dir import Run, open_run
from dcfast.rundir.settings import Settings
from dcfast.rundir.summaries import IndexSummary
from dcfast.stages.runner import Do, Steps, run_stage
from dcfast.storage.atomic import atomic_path, remove_leftovers, write_bytes, write_json
from piece_functions import Demo, Value, die, fail, process, read_cut, slow, square, visible_gpus

HELPERS = Path(__file__).resolve().parents[1] / "helpers"


def squares(n: int, source: str | None = None, native: bool = False) -> list[Piece[Value]]:
    return [
        square.piece(
            "demo/squares",
            f"{i:05d}",
            inputs=[source] if source else [],
            outputs=[f"out/{i}.txt"],
            native=native,
        )(value=i, output=f"out/{i}.txt", source=source)
        for i in range(n)
    ]


def calls(out: Path) -> int:
    log = out / "calls.log"
    return len(log.read_text().splitlines()) if log.exists() else 0


# --- atomic files ---------------------------------------------------------------------------------


def test_atomic_file_is_whole_or_absent(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "file.bin"
    write_bytes(target, b"first")

    def write_half() -> None:
        with atomic_path(target) as temporary:
            temporary.write_bytes(b"sec")
            raise RuntimeError("half way")

    with pytest.raises(RuntimeError, match="half way"):
        write_half()
    assert target.read_bytes() == b"first"
    assert [p.name for p in target.parent.iterdir()] == ["file.bin"]


def test_atomic_file_never_replaces_a_directory(tmp_path: Path) -> None:
    from dcfast.uids.sets import save_subset

    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.tex").write_text("years of work")
    with pytest.raises(IsADirectoryError, match="home"):
        write_bytes(tmp_path / "home", b"file")
    with pytest.raises(IsADirectoryError, match="home"):
        save_subset(tmp_path / "home", np.zeros(0, "u8,u8"))
    assert (tmp_path / "home" / "thesis.tex").read_text() == "years of work"


def test_table_becomes_a_directory_of_parts_and_a_file_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq
    from dcfast.rundir import tables

    for number in range(2):
        part = tmp_path / tables.part_path("t", number)
        part.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table({"x": [number]}), part)
    single = tables.combine_parts("s/t", "t", 2, 2)
    perform(str(tmp_path), single)
    monkeypatch.setattr(tables, "MAX_SINGLE_ROWS", 1)
    many = tables.combine_parts("s/t", "t", 2, 2)
    perform(str(tmp_path), many)
    assert sorted(p.name for p in (tmp_path / "t.parquet").iterdir()) == ["part-a00000.parquet", "part-a00001.parquet"]
    assert read_marker(tmp_path, many) is not None
    assert tables.read_table(tmp_path / "t.parquet")["x"].to_pylist() == [0, 1]
    (tmp_path / "t.parquet" / "part-a00001.parquet").unlink()
    assert read_marker(tmp_path, many) is None, "a lost part must be noticed"
    monkeypatch.undo()
    perform(str(tmp_path), single)
    assert tables.read_table(tmp_path / "t.parquet")["x"].to_pylist() == [0, 1]


def test_leftovers_of_killed_processes_are_removed(tmp_path: Path) -> None:
    (tmp_path / "a" / ".tmp-9-0a1b2c3d-b").mkdir(parents=True)
    (tmp_path / "a" / ".tmp-7-0a1b2c3d-x.npy").write_bytes(b"half")
    (tmp_path / "a" / "x.npy").write_bytes(b"whole")
    assert remove_leftovers(tmp_path) == 2
    assert [p.name for p in (tmp_path / "a").iterdir()] == ["x.npy"]


def test_json_bytes_do_not_depend_on_key_order(tmp_path: Path) -> None:
    write_json(tmp_path / "a", {"x": 1, "y": {"b": 2, "a": 3}})
    write_json(tmp_path / "b", {"y": {"a": 3, "b": 2}, "x": 1})
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


# --- markers --------------------------------------------------------------------------------------


def test_marker_is_honoured_only_while_nothing_changed(tmp_path: Path) -> None:
    source = tmp_path / "source.txt"
    source.write_text("3")
    [piece] = squares(1, source=str(source))
    assert read_marker(tmp_path, piece) is None
    assert perform(str(tmp_path), piece) == Value(9)
    assert read_marker(tmp_path, piece) == Value(9)

    status = source.stat()
    source.write_text("4")  # same size: the modification time must tell
    os.utime(source, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    assert read_marker(tmp_path, piece) is None


@pytest.mark.parametrize(
    "damage",
    ["output gone", "output shorter", "marker garbage", "marker truncated", "other args", "other version", "a null"],
)
def test_marker_is_refused_when(tmp_path: Path, damage: str) -> None:
    [piece] = squares(1)
    perform(str(tmp_path), piece)
    output, marker = tmp_path / "out/0.txt", piece.marker_path(tmp_path)
    if damage == "output gone":
        output.unlink()
    elif damage == "output shorter":
        output.write_bytes(b"")
    elif damage == "marker garbage":
        marker.write_bytes(b"\xff\x00{")
    elif damage == "a null":
        recorded = json.loads(marker.read_bytes())
        marker.write_text(json.dumps({**recorded, "stats": {"value": None}}))
    elif damage == "marker truncated":
        marker.write_bytes(marker.read_bytes()[:20])
    elif damage == "other args":
        piece = replace(piece, arguments={**piece.arguments, "value": 7})
    else:
        piece = replace(piece, function=PieceFunction(square.function, 2, False))
    assert read_marker(tmp_path, piece) is None


def test_vanished_input_is_named(tmp_path: Path) -> None:
    [piece] = squares(1, source=str(tmp_path / "nowhere.txt"))
    with pytest.raises(PoolError, match=r"nowhere\.txt is gone"):
        perform(str(tmp_path), piece)


@pytest.mark.parametrize(
    ("files", "limit", "size"),
    [(0, 4, 1), (1, 4, 1), (4, 4, 1), (5, 4, 2), (8, 4, 2), (9, 4, 4), (1_000_000, 4096, 256)],
)
def test_groups_cover_all_files_once(files: int, limit: int, size: int) -> None:
    names = [str(i) for i in range(files)]
    groups = group_files(names, limit)
    assert [n for _, g in groups for n in g] == names
    assert len(groups) <= limit
    assert all(first == i * size for i, (first, _) in enumerate(groups))


# --- engines and the runner -----------------------------------------------------------------------


def stage(pieces: list[Piece[Value]]) -> Steps:
    def steps(run: Run, do: Do) -> Demo:
        order = [s.value for s in do(pieces)]
        return Demo(sum(order), order)

    return steps


@pytest.mark.parametrize("native", [False, True])
@pytest.mark.parametrize("workers", [1, 2, 3])
def test_runner_result_is_the_same_for_any_number_of_workers(tmp_path: Path, workers: int, native: bool) -> None:
    run = Run(tmp_path, Settings())
    (tmp_path / "state").mkdir()
    with LocalEngine(workers) as engine:
        summary = run_stage(run, engine, "demo", stage(squares(7, native=native)), Silent)
    assert summary == Demo(91, [0, 1, 4, 9, 16, 25, 36])
    assert run.summary(Demo) == summary
    assert calls(tmp_path) == 7


def test_second_run_does_nothing_and_a_changed_piece_alone_is_redone(tmp_path: Path) -> None:
    run = Run(tmp_path, Settings())
    (tmp_path / "state").mkdir()
    with LocalEngine(1) as engine:
        run_stage(run, engine, "demo", stage(squares(5)), Silent)
        before = (tmp_path / "state/demo.json").stat().st_mtime_ns
        run_stage(run, engine, "demo", stage(squares(5)), Silent)
        assert calls(tmp_path) == 5
        assert (tmp_path / "state/demo.json").stat().st_mtime_ns == before
        (tmp_path / "out/3.txt").unlink()
        run_stage(run, engine, "demo", stage(squares(5)), Silent)
        assert calls(tmp_path) == 6


def test_error_of_a_piece_reaches_the_caller_and_done_pieces_stay_done(tmp_path: Path) -> None:
    run = Run(tmp_path, Settings())
    (tmp_path / "state").mkdir()
    pieces = [*squares(3), fail.piece("demo/squares", "99999")(value=3)]
    for workers in (1, 2):
        with LocalEngine(workers) as engine, pytest.raises(ValueError, match="piece 3 cannot be done"):
            run_stage(run, engine, "demo", stage(pieces), Silent)
        assert read_marker(tmp_path, pieces[0]) is not None
    assert not (tmp_path / "state/demo.json").exists()


def test_native_pieces_are_threads_of_this_process(tmp_path: Path) -> None:
    def where(workers: int, *native: bool) -> set[int]:
        pieces = [process.piece("demo/where", str(i), native=n)() for i, n in enumerate(native)]
        with LocalEngine(workers) as engine:
            return {done.value for _, done in engine.map(str(tmp_path), pieces)}

    assert where(2, True, True, True) == where(1, True, False) == {os.getpid()}
    assert os.getpid() not in where(2, True, False)  # of a step that is not native as a whole
    assert os.getpid() not in where(MOST_THREADS + 1, True, True)


def test_an_error_of_a_native_piece_waits_for_those_at_work(tmp_path: Path) -> None:
    sleeper = slow.piece("demo/slow", "0", outputs=["late.txt"], native=True)
    late = sleeper(seconds=0.5, value=2, output="late.txt")
    wrong = fail.piece("demo/slow", "1", native=True)(value=3)
    never = [fail.piece("demo/slow", str(i), native=True)(value=i) for i in range(4, 9)]
    with LocalEngine(2) as engine, pytest.raises(ValueError, match="piece 3 cannot be done"):
        list(engine.map(str(tmp_path), [late, wrong, *never]))
    assert read_marker(tmp_path, late) is not None  # whoever has the directory next writes to it alone


def test_a_native_piece_that_read_a_lost_map_is_not_done(tmp_path: Path) -> None:
    pieces = []
    for i in range(2):
        np.save(tmp_path / f"{i}.npy", np.ones(1 << 16))
        pieces.append(read_cut.piece("demo/cut", str(i), native=True)(input=f"{i}.npy"))
    with LocalEngine(2) as engine, pytest.raises(CorruptDataError, match="was cut while it was read"):
        list(engine.map(str(tmp_path), pieces))
    assert [read_marker(tmp_path, piece) for piece in pieces] == [None, None]


def test_killed_worker_is_an_error_that_names_its_piece(tmp_path: Path) -> None:
    pieces = [die.piece("demo/die", f"{i}")() for i in range(2)]
    with LocalEngine(2) as engine, pytest.raises(RunError, match=r"worker process died.*demo/die"):
        list(engine.map(str(tmp_path), pieces))


def test_workers_die_with_a_killed_run(tmp_path: Path) -> None:
    code = f"""
import sys
sys.path[:0] = [{str(HELPERS)!r}]
from dcfast.engine import LocalEngine
from piece_functions import slow

if __name__ == "__main__":
    pieces = [slow.piece("d/s", str(i))(seconds=3.0, value=i, output=f"{{i}}.txt") for i in range(2)]
    print("go", flush=True)
    list(LocalEngine(2).map({str(tmp_path)!r}, pieces))
"""
    script = tmp_path / "main.py"
    script.write_text(code)
    process = subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    time.sleep(1.5)  # the workers have begun to sleep
    process.kill()
    process.wait()
    process.stdout.close()
    time.sleep(3.5)
    assert not list(tmp_path.glob("*.txt")), "a worker went on after the run was killed"


def test_errors_keep_their_fields_between_processes(tmp_path: Path) -> None:
    error = CorruptDataError("bad header", path="a.tar", offset=512)
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        back = pool.apply(echo, (error,))
    assert (str(back), back.path, back.offset) == ("bad header", "a.tar", 512)


def echo(error: CorruptDataError) -> CorruptDataError:
    return error


def test_unknown_engine_and_bad_workers_are_named() -> None:
    with pytest.raises(ValueError, match="engine must be one of local, ray, slurm; got 'dask'"):
        open_engine("dask", 1)
    with pytest.raises(ValueError, match="workers must be at least 1; got 0"):
        LocalEngine(0)


@pytest.mark.xdist_group("ray")
def test_ray_engine_on_two_nodes_gives_the_same(tmp_path: Path, ray_nodes: None) -> None:
    import ray

    assert len([n for n in ray.nodes() if n["Alive"]]) == 2
    run = Run(tmp_path, Settings())
    (tmp_path / "state").mkdir()
    with RayEngine(2) as engine:
        summary = run_stage(run, engine, "demo", stage(squares(9)), Silent)
        assert summary.order == [i * i for i in range(9)]
        with pytest.raises(ValueError, match="piece 3 cannot be done"):
            list(engine.map(str(tmp_path), [fail.piece("demo/f", "0")(value=3)]))
        asking = [visible_gpus.piece("demo/g", str(i), gpus=gpus)() for i, gpus in ((0, 0.5), (1, 0))]
        seen = {i: stats.visible for i, stats in engine.map(str(tmp_path), asking)}
        assert seen[0] == "0", "a piece that wants a GPU sees one"
        assert seen[1] in ("", "all")


# --- run directories ------------------------------------------------------------------------------


def test_directory_of_another_run_is_refused_and_says_what_differs(tmp_path: Path) -> None:
    with open_run(tmp_path / "run", Settings(pool="/pools/a")) as run:
        run.lock_settings(["index"])
        write_json(run.summary_path("index"), {"samples": 3})
    with (
        pytest.raises(RunError, match=r"holds another run \(pool: '/pools/a' there, '/pools/b' now\)"),
        open_run(tmp_path / "run", Settings(pool="/pools/b")),
    ):
        pass
    with open_run(tmp_path / "run", Settings(pool="/pools/b"), overwrite=True) as run:
        run.lock_settings(["index"])
        assert not run.has_summary("index"), "what was found of the other pool must not be taken for this one's"
        assert json.loads((run.out / "state/settings.json").read_text())["pool"] == "/pools/b"


def test_directory_with_strangers_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with (
        pytest.raises(RunError, match=r"is not empty and no run of dcfast \(thesis\.tex"),
        open_run(tmp_path, Settings()),
    ):
        pass
    assert (tmp_path / "thesis.tex").read_text() == "years of work"


def test_two_runs_at_once_in_one_directory_are_refused(tmp_path: Path) -> None:
    with (
        open_run(tmp_path, Settings()),
        pytest.raises(RunError, match="another process is running there"),
        open_run(tmp_path, Settings()),
    ):
        pass
    with open_run(tmp_path, Settings()):
        pass


def test_file_in_place_of_the_directory(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("")
    with pytest.raises(OSError, match="run"), open_run(tmp_path / "run", Settings()):
        pass


def test_missing_stage_is_named(tmp_path: Path) -> None:
    with open_run(tmp_path, Settings()) as run, pytest.raises(RunError, match="stage index has not been run yet"):
        run.summary(IndexSummary)


def test_worked_example_of_a_marker_key(repo_root: Path, tmp_path: Path) -> None:
    function = PieceFunction(lambda out, a: Value(a), 1, False)
    function.name = "m:f"
    piece = function.piece("s/t", "n", outputs=["o"])(a=1)
    assert piece_key(tmp_path, piece) in (repo_root / "docs/formats.md").read_text()
