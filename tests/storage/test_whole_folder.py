"""Folders that appear whole: whatever goes wrong between two renames, the old one or the new one is there."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from dcfast.storage.whole_folder import ASIDE, mend_folders, whole_folder


def put(target: Path, text: str) -> None:
    with whole_folder(target) as folder:
        (folder / "a.txt").write_text(text)


def put_half(target: Path) -> None:
    with whole_folder(target) as folder:
        (folder / "a.txt").write_text("half")
        raise ValueError("no text")


def texts(parent: Path) -> dict[str, str]:
    """All files below a directory."""
    return {path.relative_to(parent).as_posix(): path.read_text() for path in parent.rglob("*") if path.is_file()}


def test_a_folder_takes_the_place_of_another(tmp_path: Path) -> None:
    put(tmp_path / "set", "old")
    put(tmp_path / "set", "new")
    assert texts(tmp_path) == {"set/a.txt": "new"}
    with pytest.raises(ValueError, match="no text"):
        put_half(tmp_path / "set")
    assert texts(tmp_path) == {"set/a.txt": "new"}
    assert [path.name for path in tmp_path.iterdir()] == ["set"]


@pytest.mark.parametrize("error", [OSError("no room"), KeyboardInterrupt()])
@pytest.mark.parametrize("fails", [1, 2])
def test_a_rename_that_fails_leaves_the_old_one(
    fails: int, error: BaseException, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(tmp_path / "set", "old")
    rename, calls = os.replace, list[object]()

    def failing(source: Path, target: Path) -> None:
        calls.append(source)
        if len(calls) == fails:
            raise error
        rename(source, target)

    monkeypatch.setattr(os, "replace", failing)
    with pytest.raises(type(error)):
        put(tmp_path / "set", "new")
    monkeypatch.undo()
    assert texts(tmp_path) == {"set/a.txt": "old"}
    assert [path.name for path in tmp_path.iterdir()] == ["set"]


@pytest.mark.parametrize("kind", ["folder", "file", "link"])
@pytest.mark.parametrize("placed", [False, True])
def test_what_a_kill_left_between_the_renames_is_mended(placed: bool, kind: str, tmp_path: Path) -> None:
    home, aside = tmp_path / "home", tmp_path / "home" / f"{ASIDE}set"
    home.mkdir()
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs/a.txt").write_text("old")
    if kind == "folder":
        put(aside, "old")
    elif kind == "file":
        aside.write_text("old")
    else:
        aside.symlink_to(tmp_path / "theirs")
    if placed:
        put(home / "set", "new")
    mend_folders(home)
    assert [path.name for path in home.iterdir()] == ["set"]
    assert (home / "set").is_symlink() == (kind == "link" and not placed)
    read = home / "set" if kind == "file" and not placed else home / "set/a.txt"
    assert read.read_text() == ("new" if placed else "old")
    assert (tmp_path / "theirs/a.txt").read_text() == "old", "what a link leads to is nobody's here"
