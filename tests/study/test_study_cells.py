"""Cells of a study mean the same from everywhere, and a result stands on the uids that its filter named."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from pathlib import Path

import pytest
from dcfast.rundir.settings import Settings
from dcfast.storage.records import plain
from dcfast.study.cell import _key, _result_path, read_result
from dcfast.study.grid import Cell, Grid, parse_filters
from dcfast.study.records import CellResult
from dcfast.uids.sets import save_subset, uid_parse
from pool_builder import uid_of


def save_uid(path: Path, number: int) -> None:
    save_subset(path, uid_parse([uid_of(number)])[0])


RESULT = CellResult(filter="f", notes=[], kept=1, rows=2, samples_seen=3, tasks={}, chance={}, unscored=[], score=None)


def cell_of(out: Path, text: str) -> Cell:
    grid = Grid(parse_filters([f"mine: {text}"], world=True), ("tiny",), (0, 7), Settings())
    return grid.cell(out, "tiny", 7, "mine")


def record(cell: Cell) -> None:
    _result_path(cell).parent.mkdir(parents=True, exist_ok=True)
    _result_path(cell).write_text(json.dumps({"key": plain(_key(cell)), "result": plain(RESULT)}))
    (Path(cell.directory) / "eval_results.jsonl").touch()


def test_paths_of_filters_are_made_real_with_the_seed_put_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    cell = cell_of(tmp_path / "out", 'uids("seed-{seed}.npy") & random(0.5, seed={seed})')
    assert cell.settings.filter == f'uids("{os.path.realpath(tmp_path)}/seed-7.npy") & random(0.5, seed=7)'


def test_a_result_is_void_where_its_uids_have_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_uid(tmp_path / "mine.npy", 1)
    cell = cell_of(tmp_path / "out", f'"{tmp_path}/mine.npy"')
    record(cell)
    assert read_result(cell) == RESULT
    monkeypatch.chdir("/")
    assert read_result(cell_of(tmp_path / "out", f'"{tmp_path}/../{tmp_path.name}/mine.npy"')) == RESULT
    save_uid(tmp_path / "mine.npy", 2)
    assert read_result(cell) is None


def test_a_result_of_before_a_setting_existed_stands(tmp_path: Path) -> None:
    cell = cell_of(tmp_path / "out", "no_filter")
    record(cell)
    found = json.loads(_result_path(cell).read_text())
    assert asdict(Settings()).keys() == found["key"]["settings"].keys()
    del found["key"]["settings"]["uid_hashes"]
    _result_path(cell).write_text(json.dumps(found))
    assert read_result(cell) == RESULT
    found["key"]["settings"]["seed"] = 3
    _result_path(cell).write_text(json.dumps(found))
    assert read_result(cell) is None
