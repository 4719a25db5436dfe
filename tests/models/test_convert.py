"""Files of torch as npy and safetensors, and what is no array or weights refused; in a process that is bounded."""

from __future__ import annotations

import argparse
import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dcfast.errors import DcfastError
from dcfast.models import checkpoint_costs
from dcfast.models.checkpoint import read_checkpoint
from dcfast.models.convert import convert
from dcfast.storage.npz import load_array

torch = pytest.importorskip("torch")
ROWS = np.arange(12, dtype=np.float32).reshape(4, 3)


@pytest.mark.parametrize(
    ("content", "key", "dtype"),
    [
        (torch.from_numpy(ROWS), "", np.float32),
        (torch.from_numpy(ROWS).half(), "", np.float16),
        (torch.from_numpy(ROWS).bfloat16(), "", np.float32),
        (torch.from_numpy(ROWS.T.copy()).T, "", np.float32),
        (ROWS, "", np.float32),
        (ROWS.astype(np.float16), "", np.float16),
        ({"image_features": torch.from_numpy(ROWS), "labels": [1, 2]}, "image_features", np.float32),
    ],
)
def test_arrays(content: Any, key: str, dtype: Any, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "a.pt")
    convert(tmp_path / "a.pt", tmp_path / "a.npy", key)
    made = load_array(tmp_path / "a.npy")
    assert made.dtype == dtype
    assert (made == ROWS.astype(dtype)).all()


def test_weights(tmp_path: Path) -> None:
    shared = torch.arange(6.0).reshape(2, 3)
    state = {"module.a": shared, "module.b": shared.T, "module.n": torch.tensor(3)}
    torch.save({"epoch": 1, "state_dict": state, "args": argparse.Namespace(lr=0.1)}, tmp_path / "w.pth.tar")
    convert(tmp_path / "w.pth.tar", tmp_path / "w.safetensors")
    made = read_checkpoint(tmp_path / "w.safetensors")["state_dict"]
    assert {name: value.tolist() for name, value in made.items()} == {
        name.removeprefix("module."): value.tolist() for name, value in state.items()
    }


@pytest.mark.parametrize(
    ("content", "key", "said"),
    [
        ({"a": 1}, "image_features", r"holds a dict with the keys 'a'; expected image_features"),
        ({}, "", r"holds a dict with the keys none; expected an array alone"),
        ([1, 2], "", r"holds a list; expected an array of numbers"),
        (torch.arange(3), "", r"holds int64 of shape \(3,\); expected floats of shape \(rows, dimensions\)"),
        (torch.zeros((0, 3)), "", r"holds float32 of shape \(0, 3\)"),
        (torch.eye(3).to_sparse(), "", "cannot be read"),
        (np.array(["a"]), "", r"holds <U1 of shape \(1,\)"),
    ],
)
def test_what_is_no_array_is_refused(content: Any, key: str, said: str, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "a.pt")
    with pytest.raises(DcfastError, match=said):
        convert(tmp_path / "a.pt", tmp_path / "a.npy", key)
    assert not (tmp_path / "a.npy").exists()


class Bomb:
    def __init__(self, place: Path) -> None:
        self.place = place

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.place),)


def started(source: Path, target: Path, *key: str) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, "-m", "dcfast.models.convert", str(os.getpid()), str(source), str(target), *key]
    return subprocess.run(words, capture_output=True, text=True, timeout=100, check=False)


@pytest.mark.slow
def test_by_a_process_of_its_own(tmp_path: Path) -> None:
    large = np.tile(ROWS, (checkpoint_costs.MAX_PICKLE_BYTES // ROWS.nbytes + 1, 1))  # an array within the pickle
    torch.save(large, tmp_path / "a.pt")
    done = started(tmp_path / "a.pt", tmp_path / "a.npy")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert (load_array(tmp_path / "a.npy") == large).all()
    for content, said in (
        (Bomb(tmp_path / "ran"), "which dcfast never loads|other Python objects|names posix.mkdir"),
        (argparse.Namespace(a=1), "other Python objects"),
    ):
        torch.save(content, tmp_path / "b.pt")
        done = started(tmp_path / "b.pt", tmp_path / "b.npy")
        assert done.returncode == 1
        assert done.stderr.startswith("error: checkpoint ")
        assert "Traceback" not in done.stderr
        assert any(part in done.stderr for part in said.split("|")), done.stderr
    (tmp_path / "c.pt").write_bytes(pickle.dumps(Bomb(tmp_path / "ran")))
    assert started(tmp_path / "c.pt", tmp_path / "c.npy").returncode == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.npy", "a.pt", "b.pt", "c.pt"]
    done = subprocess.run(
        [sys.executable, "-m", "dcfast.models.convert", "1", str(tmp_path / "a.pt"), str(tmp_path / "d.npy")],
        capture_output=True,
        check=False,
    )
    assert done.returncode == 1, "it lives no longer than who started it"
    assert not (tmp_path / "d.npy").exists()


LIMITED = """
import sys
from dcfast.models import convert
import torch
convert.MEMORY_MORE = 0
convert.limit(1 << 20)
try:
    bytearray(1 << 30)
except MemoryError:
    print("bounded")
"""


def test_memory_is_bounded() -> None:
    done = subprocess.run([sys.executable, "-c", LIMITED], capture_output=True, text=True, timeout=100, check=False)
    assert done.stdout == "bounded\n", done.stderr
