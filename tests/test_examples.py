"""The examples in docstrings: every public name has one, and each is run in a small world of its own.

``Example:`` is followed by ``code`` between double backticks, or ``Example::`` by an indented block. A comparison has
to be true; the last code of an error's example raises it. ``world`` has the files that examples may use,
``NAMES_OF_EXAMPLES`` the names.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
import inspect
import re
import runpy
import shutil
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dcfast
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from dcfast import interop
from evalset_builder import NAMES, colour_clip, labelled, write_set
from local_hub import local_hub
from pool_builder import plain_pool

ROOT = Path(__file__).resolve().parent.parent


def public() -> dict[str, Any]:
    """What stands on the pages of the API, by module and name; a stage of ``dcfast.run`` is an example of ``stage``."""
    found: dict[str, Any] = {}
    for module in runpy.run_path(str(ROOT / "cmake/make_site.py"))["API"]:
        face = importlib.import_module(module)
        own = [name for name, value in vars(face).items() if getattr(value, "__module__", "") == module]
        for name in getattr(face, "__all__", own):
            value = getattr(face, name)
            if callable(value) and name[0] != "_" and not isinstance(value, functools.partial):
                found.setdefault(f"{module}.{name}", value)
    seen: dict[int, str] = {}
    return {name: value for name, value in found.items() if seen.setdefault(id(value), name) == name}


PUBLIC = public()


def examples(value: object) -> list[str]:
    """The programs of a docstring's examples, one after the other."""
    text = inspect.getdoc(value) or ""
    found = []
    for match in re.finditer(r"^Example(::?)", text, re.MULTILINE):
        rest = text[match.end() :]
        if match[1] == "::":
            block = re.match(r"\n\n((?:    .*\n?|\n)+)", rest)
            found += [textwrap.dedent(block[1])] if block else []
        else:
            found += re.findall(r"``(.+?)``", rest.split("\n\n")[0].replace("\n", " "))
    return found


def test_every_public_name_has_an_example() -> None:
    assert [name for name, value in PUBLIC.items() if not examples(value)] == []


def test_examples_are_found_as_they_are_written() -> None:
    def function() -> None:
        """Does.

        Example: ``a = 1``, then
        ``b = a`` and more.

        Example::

            for c in range(b):
                d = c
        """

    assert examples(function) == ["a = 1", "b = a", "for c in range(b):\n    d = c"]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files that examples use; each is given a copy."""
    import torch

    root = tmp_path_factory.mktemp("examples")
    plain_pool(root / "pool", 6, 2).write()
    dcfast.refresh_index(root / "index", root / "pool")
    shards = [root / "pool/shards" / f"{k:08d}.tar" for k in range(2)]
    segment = dcfast.index_tars(shards).segment
    uids = dcfast.uid_sort(np.asarray(segment.uid))
    dcfast.save_subset(root / "subset.npy", uids)
    interop.write_wids(segment, root / "wids.json")
    interop.write_sizes(segment, root / "pool/shards")
    interop.write_energon(segment, root / "pool/shards")
    interop.write_ratarmount(segment, root / "pool/shards")
    write_set(root / "evalsets", "colours", labelled(8), NAMES)
    pq.write_table(pa.table({"url": ["no URL"], "text": ["a red square"]}), root / "list.parquet")
    torch.save({"state_dict": {"a.weight": torch.zeros(2)}}, root / "another.pt")
    plugin = root / "site/odd_package-0.1.dist-info"
    plugin.mkdir(parents=True)
    (plugin / "METADATA").write_text("Metadata-Version: 2.1\nName: odd-package\nVersion: 0.1\n")
    (plugin / "entry_points.txt").write_text("[dcfast.filters]\nbroken = nowhere:f\n")
    return root


def features(seed: int) -> Any:
    """(8, 16) float32 rows of unit length."""
    rows = np.random.default_rng(seed).normal(size=(8, 16)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def tensor(value: Any) -> Any:
    import torch

    return torch.tensor(value, requires_grad=True)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A hub, and what was fetched from it before."""
    from dcfast.hub import fetch_repo

    monkeypatch.setattr("dcfast.hub.repository._token", lambda: None)
    with local_hub({"owner/name": {"a.parquet": b"PAR1"}}) as served:
        monkeypatch.setenv("HF_ENDPOINT", served.url)
        fetch_repo("owner/name", Path("out/files"), patterns=["*.parquet"], lock=Path("out/hub.lock.json"))
        yield


def small_training() -> Any:
    from dcfast.train import TrainSource
    from train_builder import small

    dcfast.reshard("pool", "new_shards", "subset.npy")
    source = TrainSource(shards="new_shards")
    return small(Path("trained"), source, overrides={"samples_seen": 4, "global_batch": 2, "checkpoints": 1})


def module(name: str) -> Callable[[], Any]:
    return functools.partial(importlib.import_module, name)


#: what examples take for granted, made where they name it, in the copy of ``world``
NAMES_OF_EXAMPLES: dict[str, Callable[[], Any]] = {
    "dcfast": lambda: dcfast, "np": lambda: np, "pa": module("pyarrow"), "pyarrow": module("pyarrow"),
    "pc": module("pyarrow.compute"), "Path": lambda: Path, "replace": lambda: dataclasses.replace,
    "DataLoader": lambda: importlib.import_module("torch.utils.data").DataLoader,
    "Settings": lambda: importlib.import_module("dcfast.rundir.settings").Settings,
    "make_plan": lambda: importlib.import_module("dcfast.resharding.plan").make_plan,
    "uids": lambda: np.asarray(dcfast.load_subset("subset.npy")),
    "reader": lambda: dcfast.open_pool("index", "pool"),
    "segment": lambda: dcfast.index_tars("pool").segment,
    "segments": lambda: sorted(map(str, Path("index").glob("*.dcx"))),
    "frame": lambda: importlib.import_module("pyarrow.parquet").read_table("pool/metadata/00000000.parquet"),
    "batch": lambda: NAMES_OF_EXAMPLES["frame"]().combine_chunks().to_batches()[0],
    "counts": lambda: interop.read_sizes("pool/shards"),
    "points": lambda: features(1), "queries": lambda: features(2), "scores": lambda: features(3)[0],
    "hashes": lambda: np.random.default_rng(1).integers(0, 1 << 63, 100, np.uint64),
    "image_features": lambda: tensor(features(1)), "text_features": lambda: tensor(features(2)),
    "logit_scale": lambda: tensor(10.0), "logit_bias": lambda: tensor(-10.0),
    "model": lambda: importlib.import_module("torch").nn.Linear(16, 8), "x": lambda: tensor(features(4)),
    "clip": colour_clip, "small_training": small_training,
}  # fmt: skip


def names(code: str, home: str) -> dict[str, Any]:
    """The names that programs of a module's page may use: public ones, its own, and what they take for granted."""
    words = set(re.findall(r"[A-Za-z_]\w*", code))
    short = {name.rpartition(".")[2]: value for name, value in reversed(PUBLIC.items())}
    given = {word: NAMES_OF_EXAMPLES[word]() for word in words & set(NAMES_OF_EXAMPLES)}
    return {**short, **vars(importlib.import_module(home)), **given}


def run_code(code: str, space: dict[str, Any]) -> None:
    """Runs it; what is a comparison has to be true, of arrays everywhere."""
    try:
        compiled = compile(code, code, "eval")
    except SyntaxError:
        exec(compile(code, code, "exec"), space)
    else:
        value = eval(compiled, space)
        if isinstance(value, bool | np.bool_) or getattr(value, "dtype", None) == np.bool_:
            assert np.all(value), code


@pytest.mark.parametrize("name", PUBLIC)
def test_example(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, request: pytest.FixtureRequest
) -> None:
    shutil.copytree(world, tmp_path / "world")  # with its times, which the index knows
    monkeypatch.chdir(tmp_path / "world")
    value, codes = PUBLIC[name], examples(PUBLIC[name])
    space = names("\n".join(codes), name.rpartition(".")[0])
    if "hub" in name.lower() and "lock.json" in "".join(codes):
        request.getfixturevalue("hub")
    if value is dcfast.errors.PluginError:
        monkeypatch.syspath_prepend("site")
    is_error = inspect.isclass(value) and issubclass(value, Exception)
    for code in codes[: len(codes) - is_error]:
        run_code(code, space)
    if is_error:
        with pytest.raises(value) as info:
            run_code(codes[-1], space)
        assert info.type is value or value is dcfast.DcfastError
