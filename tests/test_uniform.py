"""The public operations have one manner: threads, devices and unknown uids mean the same, and are refused alike."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dcfast
import numpy as np
import pytest

UIDS = np.zeros(3, "u8,u8")
ROWS = np.eye(4, 8, dtype=np.float32)
#: what the operations take beside; all of it is good, so that an error is that of the argument that is tried
GIVEN: dict[str, tuple[object, ...]] = {
    "any_above": (ROWS, ROWS, 0.5),
    "assign": (ROWS, ROWS),
    "evaluate_model": (None, "evalsets", "out"),
    "group_join": (ROWS, [0, 4], 0.5),
    "hamming_join": (np.arange(2, dtype=np.uint64), None, 3),
    "hash_members": (b"bytes", [0], [5]),
    "index_tars": ([],),
    "join": (ROWS, ROWS, 0.5),
    "kmeans": (ROWS, 2),
    "load_model": ("dcfast-tiny",),
    "perceptual_hash": ([b"bytes"],),
    "read_members": ("reader", [0]),
    "refresh_index": ("index", "pool"),
    "reshard": ("pool", "out", UIDS),
    "row_max": (ROWS, ROWS),
    "topk": (ROWS, ROWS, 2),
    "uid_difference": (UIDS, UIDS),
    "uid_format": (UIDS,),
    "uid_intersect": (UIDS, UIDS),
    "uid_isin": (UIDS, UIDS),
    "uid_parse": (["1", "2"],),
    "uid_sort": (UIDS,),
    "uid_to_arrow": (UIDS,),
    "uid_union": (UIDS, UIDS),
    "uid_unique": (UIDS,),
}
METHODS: dict[str, tuple[object, ...]] = {
    "PoolIndex.contains": (UIDS,),
    "PoolIndex.find": (UIDS,),
    "PoolReader.find": (UIDS,),
    "PoolReader.read": ([0],),
}
#: what other modules of dcfast call, with what was checked; and what has open_clip's arguments
OTHERS = {"ClipLoss.get_ground_truth", "Database.packed", "PoolReader.read_located", "SigLipLoss.get_ground_truth"}
NOT_THREADS = (-1, True, 1.5, "2")


def operations(keyword: str) -> list[str]:
    """The public functions, and methods of public classes, that have a keyword."""
    found = []
    for name in sorted(set(dcfast.__all__) - {"__version__"}):
        value = getattr(dcfast, name)
        members = [(name, value)]
        if inspect.isclass(value) and value.__module__.startswith("dcfast") and not issubclass(value, Exception):
            members += [(f"{name}.{m}", f) for m, f in inspect.getmembers(value) if m in vars(value)]
        routines = [(n, f) for n, f in members if inspect.isfunction(f) or inspect.ismethod(f)]
        found += [n for n, f in routines if keyword in inspect.signature(f).parameters]
    return [name for name in found if name not in OTHERS and not name.rpartition(".")[2].startswith("_")]


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., object]:
    """Calls an operation by its name with arguments that are good."""
    import sys

    sys.path.insert(0, str(Path(__file__).parent / "helpers"))
    from pool_builder import PoolBuilder, Sample

    monkeypatch.chdir(tmp_path)
    PoolBuilder(tmp_path / "pool", [[Sample(1), Sample(2)]]).write()
    dcfast.refresh_index("index", "pool")
    reader = dcfast.open_pool("index", "pool")

    def made(name: str, **keywords: object) -> object:
        owner, _, method = name.rpartition(".")
        if not owner:
            given = tuple(reader if isinstance(x, str) and x == "reader" else x for x in GIVEN[name])
            return getattr(dcfast, name)(*given, **keywords)
        objects: dict[str, object] = {"PoolReader": reader, "PoolIndex": dcfast.PoolIndex.open("index")}
        return getattr(objects[owner], method)(*METHODS.get(name, ()), **keywords)

    return made


@pytest.mark.parametrize("name", operations("threads"))
def test_threads(call: Callable[..., object], name: str) -> None:
    for wrong in NOT_THREADS:
        with pytest.raises(
            ValueError, match=rf"^threads must be None or a whole .*; got {re.escape(repr(wrong))}: pass"
        ):
            call(name, threads=wrong)
    if name not in ("evaluate_model", "refresh_index"):  # of a model, and what was made already
        for right in (None, 1, np.int64(2)):
            call(name, threads=right, **({"dry_run": True} if name == "reshard" else {}))
        with pytest.warns(DeprecationWarning, match="^threads=0 is threads=None now: all cores"):
            call(name, threads=0, **({"dry_run": True} if name == "reshard" else {}))


def test_threads_are_all_cores_by_default() -> None:
    for name in operations("threads"):
        value: Any = dcfast
        for part in name.split("."):
            value = getattr(value, part)
        parameter = inspect.signature(value).parameters["threads"]
        assert (name, parameter.default, parameter.kind) == (name, None, inspect.Parameter.KEYWORD_ONLY)


@pytest.mark.parametrize("name", operations("device"))
def test_devices(call: Callable[..., object], name: str) -> None:
    torch = pytest.importorskip("torch")
    for right in ("cpu", torch.device("cpu")):
        call(name, device=right)
    for wrong, error in (("gpu", ValueError), (b"cpu", TypeError), (1.5, TypeError)):
        with pytest.raises(error, match=rf"^device must be .*; got {re.escape(repr(wrong))}"):
            call(name, device=wrong)


@pytest.mark.parametrize("name", [n for n in operations("missing") if n != "iterate_uids"])
def test_unknown_uids(call: Callable[..., object], name: str) -> None:
    call(name, missing="skip")
    with pytest.raises(dcfast.PoolError, match=r"^uid 0{32} is in no whole sample .* pass missing='skip'"):
        call(name, missing="raise")
    with pytest.raises(ValueError, match=r"^missing must be 'raise' or 'skip'; got 'error'"):
        call(name, missing="error")


def test_old_keywords_go_on(call: Callable[..., object], tmp_path: Path) -> None:
    with pytest.warns(DeprecationWarning, match="missing_uids='error' is missing='raise' now"):
        samples = dcfast.iterate_uids(dcfast.open_pool("index", "pool"), UIDS, missing_uids="error")  # type: ignore[call-arg]
    with pytest.raises(dcfast.PoolError, match="is in no whole sample"):
        list(samples)
    with pytest.warns(DeprecationWarning, match="exts='txt' is ext='txt' now"):
        dcfast.iterate_uids(dcfast.open_pool("index", "pool"), UIDS, exts="txt")  # type: ignore[call-arg]
    with pytest.warns(DeprecationWarning, match="missing='none' is missing_members='none' now"):
        batch: Any = call("read_members", ext="gif", missing="none")
    assert batch[0] is None
    with (
        pytest.warns(DeprecationWarning, match="evaluate_model: workers=2 is threads=2 now"),
        pytest.raises(dcfast.EvalsetError),
    ):
        call("evaluate_model", workers=2)


def test_old_names_of_where_results_go_go_on(call: Callable[..., object], tmp_path: Path) -> None:
    from dcfast.index import write_segment
    from dcfast.interop import write_wds2idx
    from dcfast.world import WorldSpec, render_teacher, render_world

    spec = WorldSpec.small(rows=1, rows_per_shard=1, eval_scale=0.01, teacher_pairs=0)
    shard = str(next((tmp_path / "pool/shards").glob("*.tar")))
    olds: list[tuple[Any, str, dict[str, object]]] = [
        (dcfast.reshard, "output_dir", {"pool": "pool", "subset": UIDS, "dry_run": True}),
        (write_segment, "out_path", {"shards": [(shard, "a.tar")]}),
        (render_world, "directory", {"spec": spec, "workers": 1}),
        (render_teacher, "directory", {"spec": spec, "workers": 1}),
        (write_wds2idx, "out_dir", {"index": dcfast.index_tars(shard)}),
    ]
    for function, old, others in olds:
        with pytest.warns(DeprecationWarning, match=f"^{function.__name__}: {old}='{old}' is out='{old}' now"):
            function(**{old: old}, **others)
        with pytest.raises(TypeError, match=f"^{function.__name__}: {old} is an old name of out; pass out alone"):
            function(**{old: "new", "out": "new"}, **others)
    with pytest.raises(TypeError, match="output_dir is an old name of out; pass out alone"):
        dcfast.reshard("pool", "new", UIDS, output_dir="new")  # type: ignore[call-arg]


@pytest.mark.parametrize("name", ["index_tars", "refresh_index", "reshard"])
def test_threads_0_is_said_once_a_call(name: str, call: Callable[..., object]) -> None:
    with pytest.warns(DeprecationWarning, match="threads=0") as said:
        call(name, threads=0)
    assert [str(one.message).partition(" now")[0] for one in said] == ["threads=0 is threads=None"]


def test_credentials_are_not_shown() -> None:
    from dcfast.storage.http import RemoteOptions

    assert "SECRET" not in repr(RemoteOptions({"headers": {"Authorization": "SECRET"}}, retries=2))
