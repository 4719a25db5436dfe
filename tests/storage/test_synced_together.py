"""Files that are made durable at the end of a block: which, when, and never after an error."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from dcfast.engine.piece import perform, piece, read_marker
from dcfast.storage import atomic
from dcfast.storage.atomic import synced_together, write_bytes
from dcfast.storage.records import Record


@pytest.fixture
def synced(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the files and directories that were synced, as they are."""
    names: list[str] = []
    real = os.fsync

    def fsync(fd: int) -> None:
        names.append(Path(os.readlink(f"/proc/self/fd/{fd}")).name)
        real(fd)

    monkeypatch.setattr(os, "fsync", fsync)
    return names


def test_files_below_wait_and_others_do_not(tmp_path: Path, synced: list[str]) -> None:
    state = tmp_path / "state"
    with synced_together(state):
        for name in "abc":
            write_bytes(state / "parts" / name, b"x")
        write_bytes(state / "a", b"replaced", sync=False)
        (state / "parts/b").unlink()
        assert (state / "parts/a").read_bytes() == b"x"
        assert synced == []
        write_bytes(tmp_path / "subset.npy", b"y")
        assert [name.startswith(".tmp-") for name in synced] == [True, False]  # the file, and its directory
        synced.clear()
    assert sorted(synced) == ["a", "c"]
    synced.clear()
    write_bytes(state / "after", b"z")
    assert len(synced) == 2


def test_nothing_is_synced_after_an_error(tmp_path: Path, synced: list[str]) -> None:
    def fail() -> None:
        with synced_together(tmp_path):
            write_bytes(tmp_path / "a", b"x")
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert synced == []
    assert atomic._block.open is None


class Letter(Record):
    a: str


@piece()
def write_two(out: Path, a: str) -> Letter:
    write_bytes(out / "state/one", b"1")
    write_bytes(out / "two", b"2")
    return Letter(a)


def test_a_piece_is_durable_before_its_marker_is_there(
    tmp_path: Path, synced: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    both = write_two.piece("stage/step", "p", outputs=["state/one", "two"])(a="b")
    real = os.replace

    def replace(source: Path, target: Path) -> None:
        if Path(target).name == "p.json":
            assert synced[-1] == "one"
        real(source, target)

    monkeypatch.setattr(os, "replace", replace)
    assert perform(str(tmp_path), both) == Letter("b")
    assert read_marker(tmp_path, both) == Letter("b")
    assert json.loads(both.marker_path(tmp_path).read_text())["outputs"] == {"state/one": 1, "two": 1}
    assert not any("p.json" in name for name in synced)
