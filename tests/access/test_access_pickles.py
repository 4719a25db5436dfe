"""Readers, indexes, samples and batches handed to other processes, threads and tasks arrive unharmed."""

from __future__ import annotations

import copy
import multiprocessing
import os
import pickle
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import dcfast
import numpy as np
import pytest
from dcfast import access
from dcfast.errors import CorruptDataError, PoolError
from dcfast.index.segments import Segment
from dcfast.storage import pickled
from pool_builder import plain_pool, uid_of

PROTOCOLS = range(2, pickle.HIGHEST_PROTOCOL + 1)
PLACES = ["fork", "spawn", "forkserver", "threads"]


def uids(numbers: list[int]) -> Any:
    return dcfast.uid_parse([uid_of(n) for n in numbers])[0]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``pool`` of twelve samples in three shards, and its ``index``."""
    root = tmp_path_factory.mktemp("pickles")
    plain_pool(root / "pool", 12, 3).write()
    dcfast.refresh_index(root / "index", root / "pool")
    return root


@pytest.fixture
def reader(place: Path) -> Iterator[access.PoolReader]:
    with dcfast.open_pool(place / "index", place / "pool") as opened:
        yield opened


def contents(sample: access.Sample) -> tuple[str, str, dict[str, bytes]]:
    return sample.key, sample.uid, {ext: bytes(view) for ext, view in sample.members.items()}


def views(sample: Any) -> Any:
    return {ext: bytes(view) for ext, view in sample.items()} if isinstance(sample, dict) else sample and bytes(sample)


def again_by(protocol: int) -> Callable[[Any], Any]:
    return copy.deepcopy if protocol < 0 else lambda value: pickle.loads(pickle.dumps(value, protocol))


@pytest.mark.parametrize("protocol", [-1, *PROTOCOLS])
def test_samples_and_batches_are_their_bytes(reader: access.PoolReader, protocol: int) -> None:
    again = again_by(protocol)
    [sample] = dcfast.iterate_uids(reader, uids([5]))
    got = again(sample)
    assert type(got) is access.Sample
    assert contents(got) == contents(sample)
    assert got == sample
    rows = reader.row_ids(np.arange(12))
    for exts in (None, "jpg", ["jpg", "nothing"]):
        batch: Any = reader.read(rows, exts, missing_members="none")  # type: ignore[arg-type]
        other = again(batch)
        assert [views(s) for s in other] == [views(s) for s in batch]
        assert np.array_equal(other.rows, rows)
        assert not other.data.flags.writeable
        with pytest.raises(TypeError):
            memoryview(other.data)[0] = 1
    assert len(again(reader.read([], "jpg"))) == 0
    absent = again(reader.read(rows[:1], "nothing", missing_members="none"))
    assert list(absent) == [None]


def test_a_sample_travels_without_its_batch(reader: access.PoolReader) -> None:
    [sample] = [s for s in dcfast.iterate_uids(reader, uids(list(range(12)))) if s.uid == uid_of(3)]
    size = sum(map(len, sample.members.values()))
    assert size < len(pickle.dumps(sample)) < size + 600
    part = next(iter(dcfast.access.iterate_rows(reader, reader.row_ids(np.arange(12)), "txt")))
    one = access.MemberBatch(part.members.part(3, 4), part.data, part.offsets[3:5], True)
    assert bytes(pickle.loads(pickle.dumps(one))[0]) == bytes(one[0])


def test_pickles_of_another_version_are_refused(reader: access.PoolReader, monkeypatch: pytest.MonkeyPatch) -> None:
    index = dcfast.PoolIndex.open(Path(reader.segments[0].path).parent)
    things = [reader, index, reader.segments[0], reader.read([0], "jpg"), *dcfast.iterate_uids(reader, uids([1]))]
    names = ["Segment", "PoolIndex", "Segment", "MemberBatch", "Sample"]  # of a reader, its first segment
    version = pickled.core_version
    for thing, name in zip(things, names, strict=True):
        monkeypatch.setattr(pickled, "core_version", "9.9")
        other = pickle.dumps(thing)
        monkeypatch.setattr(pickled, "core_version", version)
        with pytest.raises(CorruptDataError, match=rf"{name}: pickled by dcfast 9"):
            pickle.loads(other)


def test_indexes_are_their_paths(place: Path, reader: access.PoolReader, monkeypatch: pytest.MonkeyPatch) -> None:
    index = dcfast.PoolIndex.open(place / "index")
    assert len(pickle.dumps(index)) < 500 + len(str(place))
    assert len(pickle.dumps(reader)) < 900 + 3 * len(str(place))
    monkeypatch.chdir(place)  # a worker need not stand where its paths were written
    one = Segment.open("index/segment-00000.dcx")
    sent = [pickle.dumps(thing) for thing in (dcfast.PoolIndex.open("index"), dcfast.open_pool("index", "pool"), one)]
    monkeypatch.chdir("/")
    by_path, opened, segment = map(pickle.loads, sent)
    assert np.array_equal(by_path.records, index.records)
    assert by_path.shard_names == index.shard_names == [f"0000000{n}.tar" for n in range(3)]
    assert segment.shard_names == index.shard_names[:1]
    assert bytes(opened.read([0], "jpg")[0]) == bytes(reader.read([0], "jpg")[0])
    of_arrays = dcfast.PoolIndex(place, np.asarray(index.records), [0, 3])
    assert len(pickle.loads(pickle.dumps(of_arrays))) == 12


@pytest.mark.parametrize("change", ["grown", "touched", "gone"])
@pytest.mark.parametrize("name", ["index.json", "pool.npy", "segment-00000.dcx"])
def test_an_index_that_changed_is_refused(tmp_path: Path, name: str, change: str) -> None:
    plain_pool(tmp_path / "pool", 4, 2).write()
    dcfast.refresh_index(tmp_path / "index", tmp_path / "pool")
    thing: Any = dcfast.PoolIndex.open(tmp_path / "index")
    if name.startswith("segment"):
        thing = dcfast.open_pool(tmp_path / "index", tmp_path / "pool")
    sent = pickle.dumps(thing)
    if change == "grown":
        dcfast.refresh_index(tmp_path / "index", plain_pool(tmp_path / "other", 6, 3).write())
    elif change == "touched":
        os.utime(tmp_path / "index" / name, ns=(1, 1))
    else:
        (tmp_path / "index" / name).unlink()
    expected = FileNotFoundError if change == "gone" and name != "index.json" else PoolError
    with pytest.raises(expected, match=name if change == "touched" else None):
        pickle.loads(sent)
    if change != "gone":
        with pytest.raises(PoolError, match="open the index anew there"):
            pickle.loads(pickle.dumps(thing))  # the process itself goes on with what it opened


def work(reader: access.PoolReader, index: dcfast.PoolIndex, sample: access.Sample, batch: Any) -> Any:
    """What a worker does with all of them, and what it hands back."""
    first = next(iter(dcfast.iterate_uids(reader, uids([7, 2]))))
    rows = index.find(uids([2, 99])).row_ids
    return first, reader.read(rows, "txt"), contents(sample), [bytes(view) for view in batch]


def check(answer: Any, sample: access.Sample, batch: Any, reader: access.PoolReader) -> None:
    first, read, sent, in_batch = answer
    assert first.uid == uid_of(7)
    assert contents(first) == contents(next(iter(dcfast.iterate_uids(reader, uids([7])))))
    assert [bytes(view) for view in read] == [bytes(view) for view in reader.read(reader.find(uids([2]))[0], "txt")]
    assert sent == contents(sample)
    assert in_batch == [bytes(view) for view in batch]


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize("kind", PLACES)
def test_all_go_through_workers(place: Path, reader: access.PoolReader, kind: str) -> None:
    index = dcfast.PoolIndex.open(place / "index")
    sample, batch = next(iter(dcfast.iterate_uids(reader, uids([4])))), reader.read([0, 1], "jpg")
    executor: Any = ThreadPoolExecutor(3)
    if kind != "threads":
        executor = ProcessPoolExecutor(2, multiprocessing.get_context(kind))
    with executor:
        answers = [executor.submit(work, reader, index, sample, batch) for _ in range(4)]
        for answer in answers:
            check(answer.result(timeout=120), sample, batch, reader)


@pytest.mark.xdist_group("ray")
def test_all_go_through_tasks_of_ray(place: Path, reader: access.PoolReader, ray_nodes: None) -> None:
    ray = pytest.importorskip("ray")
    index = dcfast.PoolIndex.open(place / "index")
    sample, batch = next(iter(dcfast.iterate_uids(reader, uids([4])))), reader.read([0, 1], "jpg")

    def task(*things: Any) -> Any:  # by value: a worker of Ray does not find this file
        reader, index, sample, batch = things
        rows = index.find(dcfast.uid_parse([sample.uid])[0]).row_ids
        [first] = dcfast.iterate_uids(reader, dcfast.uid_parse([sample.uid])[0])
        return first, reader.read(rows, "jpg"), sample, batch

    first, read, same, whole = ray.get(ray.remote(task).remote(reader, index, sample, batch), timeout=120)
    assert contents(first) == contents(same) == contents(sample)
    assert bytes(read[0]) == bytes(sample.members["jpg"])
    assert [bytes(view) for view in whole] == [bytes(view) for view in batch]


def test_samples_come_out_of_a_loader_of_torch(reader: access.PoolReader) -> None:
    data = pytest.importorskip("torch.utils.data")

    class Samples(data.IterableDataset):  # type: ignore[misc, name-defined]
        def __iter__(self) -> Iterator[access.Sample]:
            worker = data.get_worker_info()
            yield from dcfast.iterate_uids(reader, uids(list(range(12))), part=(worker.id, worker.num_workers))

    loader = data.DataLoader(Samples(), batch_size=None, num_workers=2, multiprocessing_context="fork", timeout=100)
    got = {contents(sample)[1] for sample in loader}
    assert got == {uid_of(n) for n in range(12)}
    assert not [t for t in threading.enumerate() if t.name.startswith("dcfast-read")]
