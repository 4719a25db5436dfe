"""A run in a folder of somebody's: nothing is removed that dcfast did not make, and nothing written through a link."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import threading
from pathlib import Path

import pytest
from dcfast.errors import RunError
from dcfast.rundir.layout import OWN_FOLDERS
from dcfast.rundir.run_dir import look_at_run, open_run
from dcfast.rundir.settings import Settings
from dcfast.storage import lock, temporary
from dcfast.storage.atomic import append_lines, remove_leftovers
from dcfast.storage.listing import is_temporary_name, temporary_name
from dcfast.storage.paths import LOCK_NAME, not_left_empty
from dcfast.storage.temporary import own_folder

SETTINGS = Settings(pool="/pools/a")


@pytest.mark.parametrize(
    ("name", "ours"),
    [
        (".tmp-12-0a1b2c3d-a.tar", True),
        (".tmp-1-ffffffff-x-y", True),
        (".tmp-mine", False),
        (".tmp-12", False),
        (".tmp-12-0a1b2c3d", False),
        (".tmp-12-0a1b2c3d-", False),
        (".tmp-a-0a1b2c3d-x", False),
        (".tmp-12-0A1B2C3D-x", False),
        (".tmp-12-0a1b2c3-x", False),
        (".tmp-12-zzzzzzzz-x", False),
        (".tmp-\u0661-0a1b2c3d-x", False),
        ("tmp-12-0a1b2c3d-x", False),
        ("", False),
    ],
)
def test_names_of_leftovers(name: str, ours: bool) -> None:
    assert is_temporary_name(name) is ours
    assert is_temporary_name(temporary_name("a-b.npy"))


def test_only_our_leftovers_go(tmp_path: Path) -> None:
    mine = [".tmp-mine", "state/.tmp-notes.txt", "features/.tmp-1/deep/file", "train/.tmp-12-0a1b2c3d"]
    left = [temporary_name("a"), f"state/{temporary_name('b')}", f"shards/{temporary_name('c')}/file"]
    for name in [*mine, *left]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("years of work")
    with open_run(tmp_path, SETTINGS, overwrite=True):
        assert [name for name in mine if (tmp_path / name).exists()] == mine
        assert [name for name in left if (tmp_path / name).exists()] == []


def test_links_below_are_not_followed(tmp_path: Path) -> None:
    (tmp_path / "theirs").mkdir()
    kept = tmp_path / "theirs" / temporary_name("x")
    kept.write_text("years of work")
    (tmp_path / "out/state").mkdir(parents=True)
    (tmp_path / "out/state" / temporary_name("link")).symlink_to(tmp_path / "theirs")
    remove_leftovers(tmp_path / "out")
    assert kept.exists()


@pytest.mark.parametrize("name", [*OWN_FOLDERS, "state/filter", LOCK_NAME])
def test_a_link_in_the_place_of_a_folder_is_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs/settings.json").write_text("{}")
    place = tmp_path / "out" / name
    place.parent.mkdir(parents=True)
    place.symlink_to(tmp_path / "theirs" / "made" if name == LOCK_NAME else tmp_path / "theirs")
    with (
        pytest.raises(RunError, match=f"{place} is a link"),
        open_run(tmp_path / "out", SETTINGS, overwrite=True),
    ):
        pass
    with pytest.raises(RunError, match=f"{place} is a link"):
        look_at_run(tmp_path / "out", SETTINGS, overwrite=True)
    assert sorted(path.name for path in (tmp_path / "theirs").iterdir()) == ["settings.json"]


def test_lines_are_not_appended_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "profile").write_text("mine\n")
    (tmp_path / "log.jsonl").symlink_to(tmp_path / "profile")
    with pytest.raises(OSError, match=os.strerror(errno.ELOOP)):
        append_lines(tmp_path / "log.jsonl", ["x"])
    assert (tmp_path / "profile").read_text() == "mine\n"


def test_a_file_system_without_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP):

        def refuse(fd: int, operation: int, number: int = number) -> None:
            raise OSError(number, os.strerror(number))

        with monkeypatch.context() as patch:
            patch.setattr(lock.fcntl, "flock", refuse)
            with (
                pytest.raises(RunError, match=r"\.lock cannot be locked .*its file system has no locks.*with flock"),
                open_run(tmp_path / "out", SETTINGS),
            ):
                pass
            assert not (tmp_path / "out").exists()


def test_another_process_keeps_its_empty_folders(tmp_path: Path) -> None:
    """Who fails looks at the lock before it removes what is empty."""
    out, held = tmp_path / "out", []

    def fail(busy: bool) -> None:
        with not_left_empty(out):
            (out / "state").mkdir(parents=True)
            if busy:  # another process is at work here
                held.append(os.open(out / LOCK_NAME, os.O_RDWR | os.O_CREAT))
                fcntl.flock(held[0], fcntl.LOCK_EX)
            raise KeyError

    with pytest.raises(KeyError):
        fail(busy=False)
    assert not out.exists()
    with pytest.raises(KeyError):
        fail(busy=True)
    assert (out / "state").is_dir()
    assert (out / LOCK_NAME).exists()
    os.close(held[0])


def test_a_folder_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(temporary.tempfile, "gettempdir", lambda: str(tmp_path))
    name = f"dcfast-{os.geteuid()}"
    # whoever was there first: a file, a link to somebody's folder, one that others may look into
    (tmp_path / name).write_text("")
    (tmp_path / "theirs").mkdir(mode=0o700)
    (tmp_path / f"{name}-1").symlink_to(tmp_path / "theirs")
    (tmp_path / f"{name}-2").mkdir()
    (tmp_path / f"{name}-2").chmod(0o755)
    found = own_folder()
    assert found == tmp_path / f"{name}-3"
    assert stat.S_IMODE(found.stat().st_mode) == 0o700
    assert own_folder() == found
    others: list[Path] = []
    thread = threading.Thread(target=lambda: others.append(own_folder()))
    thread.start()
    thread.join()
    assert others == [found]
    assert list((tmp_path / "theirs").iterdir()) == []
    found.rmdir()
    for number in range(3, 16):
        (tmp_path / f"{name}-{number}").write_text("")
    with pytest.raises(RunError, match=r"other users made .*; set TMPDIR"):
        own_folder()


def test_a_look_says_what_the_run_would_say(tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert not look_at_run(out, SETTINGS).is_recorded
    assert not out.exists()
    with open_run(out, SETTINGS) as run:
        with pytest.raises(RunError, match="another process is running there"):
            look_at_run(out, SETTINGS)
        run.lock_settings(["index"])
    before = sorted(out.rglob("*"))
    assert look_at_run(out, SETTINGS).is_recorded
    other = Settings(pool="/pools/b")
    with pytest.raises(RunError, match=r"holds another run \(pool: '/pools/a' there, '/pools/b' now\)"):
        look_at_run(out, other)
    assert not look_at_run(out, other, overwrite=True).is_recorded
    assert sorted(out.rglob("*")) == before
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.tex").write_text("")
    with pytest.raises(RunError, match="is not empty and no run of dcfast"):
        look_at_run(tmp_path / "mine", SETTINGS)
    with pytest.raises(OSError, match="it is a file"):
        look_at_run(tmp_path / "mine/thesis.tex", SETTINGS)
