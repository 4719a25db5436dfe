"""Temporary folders: gone after the block, and after a kill with the next one; those of living processes stay."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from dcfast import resharding as resharder
from dcfast.storage import temporary
from dcfast.storage.temporary import temporary_folder
from dcfast.uids.sets import save_subset
from reshard_reference import make_uid, subset_of, write_pool

HOLDER = """
import os, signal, sys
from dcfast.storage.temporary import temporary_folder
with temporary_folder("dcfast-index-", sys.argv[1]) as folder:
    (folder / "large").write_bytes(b"x" * 100)
    print(folder, flush=True)
    sys.stdin.read()
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_folder_is_gone_after_its_block(tmp_path: Path) -> None:
    with temporary_folder("dcfast-index-", tmp_path) as folder:
        (folder / "a").mkdir()
        assert list(tmp_path.iterdir()) == [folder]
        with temporary_folder("dcfast-index-", tmp_path) as other:
            assert sorted(tmp_path.iterdir()) == sorted([folder, other]), "this process holds the first"
    with pytest.raises(KeyError), temporary_folder("dcfast-index-", tmp_path):
        raise KeyError
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_process_left_is_removed_by_the_next(tmp_path: Path) -> None:
    words = [sys.executable, "-c", HOLDER, str(tmp_path)]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdin is not None
        assert holder.stdout is not None
        held = Path(holder.stdout.readline().strip())
        with temporary_folder("dcfast-index-", tmp_path):
            assert (held / "large").exists(), "its process lives"
        holder.stdin.close()
    assert holder.returncode == -signal.SIGKILL
    assert (held / "large").exists()
    with temporary_folder("dcfast-boxes-", tmp_path):
        assert held.exists(), "of another purpose"
    with temporary_folder("dcfast-index-", tmp_path) as folder:
        assert list(tmp_path.iterdir()) == [folder]


def leftover(monkeypatch: pytest.MonkeyPatch, machine: str) -> str:
    """A name as a killed process of a machine leaves it."""
    with monkeypatch.context() as patch:
        patch.setattr(os, "uname", lambda: os.uname_result(("Linux", machine, "", "", "")))
        return f"dcfast-index-{temporary._machine()}-{'0' * 16}"


def test_what_is_no_leftover_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = leftover(monkeypatch, os.uname().nodename)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/mine").write_text("mine")
    (tmp_path / "t").mkdir()
    (tmp_path / f"t/{name[:-1]}1").symlink_to(tmp_path / "elsewhere")
    (tmp_path / f"t/{name[:-1]}2").write_text("mine")
    (tmp_path / "t/dcfast-index-new-0").mkdir()  # about to be locked by its process
    (tmp_path / "t/dcfast-index-laion").mkdir()  # data that somebody named so
    (tmp_path / "t" / f"{name}0").mkdir()
    (tmp_path / "t" / leftover(monkeypatch, "another")).mkdir()  # whose locks may not be seen here
    before = sorted((tmp_path / "t").iterdir())
    (tmp_path / "t" / name).mkdir()
    with temporary_folder("dcfast-index-", tmp_path / "t"):
        pass
    assert sorted((tmp_path / "t").iterdir()) == before
    assert (tmp_path / "elsewhere/mine").exists()


def test_a_file_system_without_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object) -> None:
        raise OSError("no locks available")

    name = leftover(monkeypatch, os.uname().nodename)
    (tmp_path / name).mkdir()
    monkeypatch.setattr("fcntl.flock", refuse)
    with temporary_folder("dcfast-index-", tmp_path) as folder:
        assert folder.is_dir()
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_parent_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere"), temporary_folder("dcfast-index-", tmp_path / "nowhere"):
        pass


def test_a_killed_reshard_leaves_nothing_to_the_run_after_the_next(tmp_path: Path) -> None:
    """Killed when it has indexed the pool and gathered the boxes, as the planning begins."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    write_pool(tmp_path / "p", [[("0", {"txt": b"a", "json": json.dumps({"uid": make_uid(0)}).encode()})]])
    column = pa.array([[[0.1, 0.1, 0.2, 0.2]]], pa.list_(pa.list_(pa.float64())))
    pq.write_table(pa.table({"uid": [make_uid(0)], "face_bboxes": column}), tmp_path / "b.parquet")
    save_subset(tmp_path / "s.npy", subset_of([make_uid(0)]))
    (tmp_path / "tmp").mkdir()
    script = (
        "import os, sys; from dcfast.resharding import run\n"
        "run.make_plan = lambda *a, **o: os.kill(os.getpid(), 9)\n"
        "run.reshard('p', 'o', 's.npy', boxes='b.parquet', inject_boxes=True)"
    )
    environment = {**os.environ, "TMPDIR": str(tmp_path / "tmp")}
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, env=environment, check=False)
    assert done.returncode == -signal.SIGKILL
    left = sorted(path.name.rsplit("-", 2)[0] for path in (tmp_path / "tmp").iterdir())
    assert left == ["dcfast-boxes"]  # the index lies in a file without a name
    words = [sys.executable, "-m", "dcfast.resharder", "-i", "p", "-o", "o", "-s", "s.npy", "-q", "--resume"]
    words += ["--blur-metadata-map", "b.parquet", "--inject-blur-metadata"]
    subprocess.run(words, cwd=tmp_path, env=environment, check=True)
    assert list((tmp_path / "tmp").iterdir()) == []
    assert resharder.reshard(tmp_path / "p", tmp_path / "q", tmp_path / "s.npy")["output_count"] == 1
