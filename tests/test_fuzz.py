"""The fuzz targets: seeds that our own code makes for each, and the inputs that earlier runs kept."""

from __future__ import annotations

import importlib.util
import re
import tarfile
from pathlib import Path
from types import ModuleType

import pytest
from dcfast.index.build import index_tars
from dcfast.index.segments import Segment


def _load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def corpus(repo_root: Path) -> ModuleType:
    return _load(repo_root / "tests/fuzz/make_corpus.py")


def test_every_target_is_built_run_and_has_seeds(repo_root: Path, corpus: ModuleType, tmp_path: Path) -> None:
    folder = repo_root / "tests/fuzz"
    in_cpp = sorted(path.stem.removeprefix("fuzz_") for path in folder.glob("fuzz_*.cpp"))
    table = re.search(r"^TARGETS.*?^}", (folder / "python_targets.py").read_text(), re.DOTALL | re.MULTILINE)
    assert table is not None
    targets = sorted([*in_cpp, *re.findall(r'^    "(\w+)": read_\1,$', table[0], re.MULTILINE)])
    assert len(targets) >= 7
    listed = re.search(r"IN ITEMS ([a-z ]+)\)", (folder / "CMakeLists.txt").read_text())
    looped = re.search(r"for target in ([a-z ]+);", (folder / "run.sh").read_text())
    assert listed is not None
    assert looped is not None
    assert sorted(listed[1].split()) == in_cpp
    assert sorted(looped[1].split()) == targets
    corpus.main(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == targets
    assert sorted(path.name for path in (folder / "corpora").iterdir()) == [f"{target}.tar.xz" for target in targets]
    for target in targets:
        seeds = list((tmp_path / target).iterdir())
        assert len(seeds) > 8
        assert all(seed.stat().st_size > 0 for seed in seeds)


@pytest.mark.parametrize("target", ["filter", "json", "arrays", "parquet"])
def test_kept_inputs_are_read_or_refused(repo_root: Path, target: str) -> None:
    """What coverage found: a target raises where a reader breaks its promise."""
    run = _load(repo_root / "tests/fuzz/python_targets.py").TARGETS[target]
    with tarfile.open(repo_root / f"tests/fuzz/corpora/{target}.tar.xz") as kept:
        inputs = [kept.extractfile(member) for member in kept if member.isfile()]
        for data in inputs:
            assert data is not None
            run(data.read())
    assert len(inputs) > 20


def test_seeds_are_what_they_say(corpus: ModuleType, tmp_path: Path) -> None:
    for name, content in corpus.tars().items():
        (tmp_path / name).write_bytes(content)
        index = index_tars(tmp_path / name)
        assert bool(index.damage) == (name == "cut"), name
    for name, content in corpus.segments().items():
        (tmp_path / name).write_bytes(content[:-1])
        assert Segment.open(tmp_path / name).num_shards >= 0
        assert content[-1] == int(name.rsplit("-", 1)[1])
