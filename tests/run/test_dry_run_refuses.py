"""What a run refuses before work, ``--dry-run`` refuses by the same message and status; neither leaves a trace."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from dcfast.run.workflow import main, run
from dcfast.rundir.settings import Settings
from dcfast.storage.lock import take_lock
from dcfast.train import dali
from dcfast.uids.sets import save_subset, uid_parse, uid_sort
from pool_builder import evalset, picture, plain_pool, uid_of


@dataclass
class Case:
    """A pool of three shards of four samples, and a place to run in."""

    root: Path
    patch: pytest.MonkeyPatch

    @property
    def pool(self) -> Path:
        return self.root / "pool"

    @property
    def out(self) -> Path:
        return self.root / "out"

    def file(self, name: str, data: bytes) -> str:
        (self.root / name).write_bytes(data)
        return str(self.root / name)

    def uids(self, count: int) -> str:
        save_subset(self.root / "uids.npy", uid_sort(uid_parse([uid_of(n) for n in range(count)])[0]))
        return str(self.root / "uids.npy")

    def without(self, *modules: str) -> None:
        real = importlib.util.find_spec
        self.patch.setattr(importlib.util, "find_spec", lambda name, *a: None if name in modules else real(name, *a))
        for name in modules:
            self.patch.setitem(sys.modules, name, None)

    def stranger(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "thesis.tex").write_text("")


def _no_column(case: Case) -> list[str]:
    path = case.pool / "metadata/00000002.parquet"
    pq.write_table(pq.read_table(path).drop_columns(["text"]), path)
    return ["--filter", "basic_filter"]


def _no_shards(case: Case) -> list[str]:
    for tar in (case.pool / "shards").iterdir():
        tar.unlink()
    return ["--features", "l14=ViT-L-14:openai", "--to", "filter"]


def _other_run(case: Case) -> list[str]:
    run(case.out, Settings(pool=str(case.pool), train=False, filter="no_filter"), last="index")
    return ["--no-train", "--filter", "random(0.5)"]


def _other_settings(case: Case) -> list[str]:
    run(case.out, Settings(pool=str(case.pool), train=False, filter="no_filter"), last="decontaminate")
    return ["--no-train", "--filter", "random(0.5)", "--from", "filter", "--overwrite"]


def _comparison_of_a_stranger(case: Case) -> list[str]:
    run(case.out, Settings(pool=str(case.pool), train=False, filter="no_filter"), last="index")
    run(case.out, Settings(pool=str(case.pool)), last="index", overwrite=True)
    case.stranger(case.out / "compare/no_filter")
    return []


def _locked(case: Case) -> list[str]:
    case.out.mkdir()
    descriptor = take_lock(case.out / ".lock")
    case.patch.setattr(os, "_kept_by_the_test", descriptor, raising=False)
    return []


def _cluster(case: Case, address: str) -> list[str]:
    case.patch.setenv("RAY_AUTH_MODE", "token")
    return ["--engine", "ray", "--ray-address", address]


def _bad_evalset(case: Case) -> list[str]:
    evalset(case.root / "sets", "one", {"a": picture(1)})
    (case.root / "sets/tasks.json").write_text("{")
    return ["--evalsets", str(case.root / "sets")]


def _no_dali(case: Case) -> list[str]:
    def absent(name: str) -> None:
        raise ImportError("No module named 'nvidia'")

    case.patch.setattr(dali, "_dali", absent)
    return ["--decoder", "dali"]


def _unwritable(case: Case) -> list[str]:
    real = os.access
    refused = str(case.root)
    case.patch.setattr(os, "access", lambda path, mode: str(path) != refused and real(path, mode))
    return []


def _then(prepare: Callable[[Case], object], *words: str) -> Callable[[Case], list[str]]:
    return lambda case: [prepare(case), list(words)][1]  # type: ignore[return-value]


CASES: dict[str, tuple[int, str, Callable[[Case], list[str]]]] = {
    "no pool": (1, "no such directory", _then(lambda c: shutil.rmtree(c.pool))),
    "no metadata": (1, "no directory metadata/", _then(lambda c: shutil.rmtree(c.pool / "metadata"))),
    "metadata that is none": (
        1,
        r"00000001\.parquet",
        _then(lambda c: (c.pool / "metadata/00000001.parquet").write_bytes(b"PAR1 and no more")),
    ),
    "a column is missing": (1, r"needs the column 'text': .*00000002\.parquet", _no_column),
    "scores are missing": (1, "clip_l14_similarity_score", lambda c: ["--filter", "clip_score(l14, fraction=0.3)"]),
    "no evaluation sets": (
        1,
        r"no wds_\*_test",
        _then(lambda c: (c.root / "sets").mkdir(), "--evalsets", "sets", "--no-train"),
    ),
    "a table of tasks that is none": (1, r"tasks\.json", _bad_evalset),
    "contaminated by what": (1, "no evaluation sets to compare with", lambda c: ["--filter", "~contaminated"]),
    "a uid file that is gone": (1, r"gone\.npy", lambda c: ["--filter", '"gone.npy"']),
    "a uid file that is none": (1, "x.npy", lambda c: ["--filter", f'"{c.file("x.npy", b"no uids")}"']),
    "no such weights": (2, "nosuch", lambda c: ["--features", "l14=ViT-L-14:nosuch"]),
    "weights that are no model": (
        1,
        r"w\.pt",
        lambda c: ["--features", f"l14=dcfast-tiny:{c.file('w.pt', bytes(99))}"],
    ),
    "too few pairs for a teacher": (
        2,
        "12 pairs, and the teacher needs at least",
        lambda c: ["--features", "l14=teacher", "--teacher-uids", c.uids(12)],
    ),
    "features of no pictures": (1, "has no shards yet: download them", _no_shards),
    "no GPU": (1, "torch finds no GPU for stage train", lambda c: ["--device", "cuda"]),
    "no GPU for a scale": (1, "scale small wants a GPU for stage train", lambda c: ["--scale", "small"]),
    "no torch": (1, "needs torch", _then(lambda c: c.without("torch"), "--scale", "small")),
    "no Jinja": (1, "stage report needs jinja2", _then(lambda c: c.without("jinja2"))),
    "no DALI": (1, "needs NVIDIA DALI", _no_dali),
    "no language model": (
        1,
        "DCFAST_LID_MODEL",
        _then(lambda c: c.patch.setenv("DCFAST_LID_MODEL", "/nowhere"), "--filter", "basic_filter"),
    ),
    "no Ray": (1, r"engine 'ray' needs Ray: pip install", _then(lambda c: c.without("ray"), "--engine", "ray")),
    "a cluster without a token": (
        1,
        "is to be joined without a token",
        _then(
            lambda c: c.patch.delenv("RAY_AUTH_MODE", raising=False),
            *("--engine", "ray", "--ray-address", "127.0.0.1:1"),
        ),
    ),
    "a cluster that is not there": (1, "no Ray cluster answers at 127.0.0.1:1 ", lambda c: _cluster(c, "127.0.0.1:1")),
    "out is a file": (1, "it is a file", _then(lambda c: c.out.write_text(""))),
    "out below a file": (
        1,
        "lies below one",
        lambda c: ["--out", str(Path(c.file("f", b"")) / "below/it")],
    ),
    "out with a name too long": (1, "cannot be made: File name too long", lambda c: ["--out", "x" * 300]),
    "out that cannot be written": (1, "cannot be made: Permission denied", _unwritable),
    "out of a stranger": (1, "is not empty and no run of dcfast", _then(lambda c: c.stranger(c.out))),
    "out of another run": (1, r"holds another run \(filter: ", _other_run),
    "out in use": (1, "another process is running there", _locked),
    "out in the pool": (1, "would write into --pool", lambda c: ["--out", str(c.pool)]),
    "a comparison of a stranger": (1, "compare/no_filter is not empty", _comparison_of_a_stranger),
    "stages that were not run": (1, "stage index has not been run yet", lambda c: ["--from", "filter"]),
    "stages of other settings": (1, "with other settings", _other_settings),
    "a stage of another run": (2, "stage world renders the built-in world", lambda c: ["--to", "world"]),
    "too short a training": (2, "samples_seen must be at least one batch", lambda c: ["--samples-seen", "5"]),
    "fewer rows than a batch": (1, r"has 12 metadata rows, fewer than one batch of 128.*global_batch=4", lambda c: []),
}


def everything(root: Path) -> list[str]:
    """All files but locks: a run leaves one in a directory that was there before."""
    return sorted(str(path) for path in root.rglob("*") if path.name != ".lock")


@pytest.mark.parametrize("name", CASES)
def test_both_refuse_alike(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr("ray.is_initialized", lambda: False)  # another test of this process may have joined one
    monkeypatch.chdir(tmp_path)
    plain_pool(tmp_path / "pool").write()
    status, message, prepare = CASES[name]
    case = Case(tmp_path, monkeypatch)
    words = ["--pool", str(case.pool), "--out", str(case.out), "--quiet", *prepare(case)]
    before = everything(tmp_path)
    capsys.readouterr()
    said = []
    for dry in (["--dry-run"], []):
        assert main([*words, *dry]) == status, capsys.readouterr()
        said.append(capsys.readouterr().err)
    planned, done = said
    assert planned == done
    assert done.startswith("error: ")
    assert re.search(message, done), done
    assert everything(tmp_path) == before


NO_GPU = "this machine has no GPU: train cannot be run or timed here; "


@pytest.mark.parametrize(
    "words",
    [
        ["--scale", "small"],
        *(pytest.param(["--device", "cuda", *to], marks=pytest.mark.long) for to in ([], ["--to", "train"])),
    ],
)
def test_a_plan_for_a_machine_with_a_gpu(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    pool = plain_pool(tmp_path / "pool").write()
    given = ["--pool", str(pool), "--out", str(tmp_path / "o"), "--dry-run", "--compare", "none", *words]
    few = ["--set", "global_batch=4"]
    assert main([*given, *few]) == 1
    plain = capsys.readouterr()
    assert plain.out.splitlines()[-1] == f"{NO_GPU}--assume-gpu plans for one that has a GPU"
    assert "GPU" in plain.err
    assert main([*given, *few, "--assume-gpu"]) == 0
    assumed = capsys.readouterr()
    assert assumed.out.splitlines()[-1] == f"{NO_GPU}the plan is for one that has a GPU"
    assert assumed.err == ""
    assert re.search(r"^train +to do .* \?$", assumed.out, re.MULTILINE), "no time of what cannot be tried here"
    # all else is checked as ever: a pool of 12 rows fills no batch of the scale
    assert main([*given, "--assume-gpu"]) == 1
    refused = capsys.readouterr()
    assert refused.out.splitlines()[-1] == assumed.out.splitlines()[-1]
    assert "fewer than one batch of" in refused.err
    assert not (tmp_path / "o").exists()


def test_where_nothing_lacks_a_gpu_no_line_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pool = plain_pool(tmp_path / "pool").write()
    given = ["--pool", str(pool), "--out", str(tmp_path / "o"), "--no-train", "--scale", "small"]
    assert main([*given, "--dry-run", "--assume-gpu"]) == 0
    said = capsys.readouterr().out
    assert "has no GPU" not in said
    assert not re.search(r" \?$", said, re.MULTILINE)
    assert main([*given, "--assume-gpu"]) == 2
    assert "add --dry-run, or leave --assume-gpu out" in capsys.readouterr().err
