"""The fuzz targets' seeds: our own code makes them for every target, and they are what they say."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest
from dcfast.index.build import index_tars
from dcfast.index.segments import Segment


@pytest.fixture(scope="module")
def corpus(repo_root: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_corpus", repo_root / "tests/fuzz/make_corpus.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_target_is_built_run_and_has_seeds(repo_root: Path, corpus: ModuleType, tmp_path: Path) -> None:
    folder = repo_root / "tests/fuzz"
    in_cpp = sorted(path.stem.removeprefix("fuzz_") for path in folder.glob("fuzz_*.cpp"))
    table = re.search(r"^TARGETS.*?^}", (folder / "fuzz_python.py").read_text(), re.DOTALL | re.MULTILINE)
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
    for target in targets:
        seeds = list((tmp_path / target).iterdir())
        assert len(seeds) > 8
        assert all(seed.stat().st_size > 0 for seed in seeds)


def test_seeds_are_what_they_say(corpus: ModuleType, tmp_path: Path) -> None:
    for name, content in corpus.tars().items():
        (tmp_path / name).write_bytes(content)
        index = index_tars(tmp_path / name)
        assert bool(index.damage) == (name == "cut"), name
    for name, content in corpus.segments().items():
        (tmp_path / name).write_bytes(content[:-1])
        assert Segment.open(tmp_path / name).num_shards >= 0
        assert content[-1] == int(name.rsplit("-", 1)[1])
