"""A pool as a dataset of torch, by number and uid, and by torch's loaders: against Python's tarfile."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import dcfast
import numpy as np
import pytest
import torch
from dcfast.access.iterate import Sample
from dcfast.errors import CorruptDataError, PoolError
from pool_builder import PoolBuilder, plain_pool, uid_of
from pool_builder import Sample as Built
from tar_reference import pool_samples
from torch.utils.data import DataLoader

COUNT = 61


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``pool`` of 61 samples in 4 shards, and its ``index``."""
    root = tmp_path_factory.mktemp("datasets")
    plain_pool(root / "pool", COUNT, 4).write()
    dcfast.refresh_index(root / "index", root / "pool")
    return root


def dataset(place: Path, **options: Any) -> Any:
    return dcfast.PoolDataset(place / "index", place / "pool", **options)


def uids(numbers: list[int]) -> Any:
    return dcfast.uid_parse([uid_of(n) for n in numbers])[0]


def key_of(sample: Sample[bytes]) -> str:
    return sample.key


def fail(sample: Sample[bytes]) -> str:
    raise KeyError(sample.key)


def as_list(batch: list[Any]) -> list[Any]:
    return batch


def test_items_are_those_of_tarfile(place: Path) -> None:
    expected = pool_samples(place / "pool/shards")
    data = dataset(place)
    assert isinstance(data, torch.utils.data.Dataset)
    assert len(data) == len(expected) == COUNT
    singles = [data[i] for i in range(COUNT)]
    assert [(s.key, s.members) for s in singles] == expected
    assert [s.uid for s in singles] == [uid_of(n) for n in range(COUNT)]
    order = np.random.default_rng(1).permutation(np.repeat(np.arange(COUNT), 2)).tolist()
    assert data.__getitems__(order) == [singles[i] for i in order]
    assert data.__getitems__([]) == []
    assert (data[-1], data[np.int64(3)]) == (singles[-1], singles[3])
    assert data.by_uid(uid_of(7)) == data.by_uid(uid_of(7).upper()) == singles[7]
    assert list(data) == singles  # Python stops at the IndexError
    for wrong in (COUNT, -COUNT - 1):
        with pytest.raises(IndexError, match="is out of range: the dataset has 61"):
            data[wrong]
    with pytest.raises(IndexError, match="sample 99 is out of range"):
        data.__getitems__([0, 99])
    with pytest.raises(TypeError, match="i must be an integer; got str"):
        data["3"]
    with pytest.raises(PoolError, match=f"no whole sample of the pool has the uid {uid_of(999)}"):
        data.by_uid(uid_of(999))


def test_a_batch_is_one_reading(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    whole = dcfast.PoolReader.read_located

    def counted(self: Any, members: Any, **options: Any) -> Any:
        asked.append(len(members))
        return whole(self, members, **options)

    monkeypatch.setattr(dcfast.PoolReader, "read_located", counted)
    list(DataLoader(dataset(place, transform=key_of), batch_size=20, collate_fn=as_list))
    assert asked == [20, 20, 20, 1]


def test_uids_in_the_order_given(place: Path, tmp_path: Path) -> None:
    numbers = [40, 3, 3, 999, 17]
    with pytest.raises(PoolError, match=f"uid {uid_of(999)} is in no whole sample of the pool"):
        dataset(place, uids=uids(numbers))
    data = dataset(place, uids=uids(numbers), missing="skip", extensions="TXT")
    assert [s.uid for s in data] == [uid_of(n) for n in (40, 3, 3, 17)]
    assert {tuple(s.members) for s in data} == {("txt",)}
    dcfast.save_subset(tmp_path / "subset.npy", dcfast.uid_sort(uids([5, 9])))
    of_file = dataset(place, uids=tmp_path / "subset.npy")
    assert sorted(s.uid for s in of_file) == sorted(map(uid_of, (5, 9)))
    assert len(dataset(place, uids=uids([]))) == 0
    with pytest.raises(TypeError, match='one-dimensional of dtype "u8,u8"; got int64'):
        dataset(place, uids=np.arange(3))
    with pytest.raises(ValueError, match="missing must be 'raise' or 'skip'; got 'error'"):
        dataset(place, missing="error")


def test_transforms(place: Path) -> None:
    assert dataset(place, transform=key_of).__getitems__([3, 1]) == ["000000003", "000000001"]
    with pytest.raises(KeyError) as caught:
        dataset(place, transform=fail)[2]
    assert caught.value.__notes__ == [f"transform of the sample with key 000000002 and uid {uid_of(2)}"]


def test_missing_members(tmp_path: Path) -> None:
    PoolBuilder(tmp_path / "pool", [[Built(0), Built(1, without=("txt",))]]).write()
    dcfast.refresh_index(tmp_path / "index", tmp_path / "pool")
    assert set(dataset(tmp_path, extensions=["jpg", "txt"], missing_members="none")[1].members) == {"jpg"}
    with pytest.raises(PoolError, match=r"00000000\.tar has no member 'txt'"):
        dataset(tmp_path, extensions=["jpg", "txt"])[1]
    with pytest.raises(ValueError, match="missing_members must be 'raise' or 'none'; got 'skip'"):
        dataset(tmp_path, extensions="txt", missing_members="skip")


def test_what_is_cut_off_is_left_out(tmp_path: Path) -> None:
    shards = plain_pool(tmp_path / "pool", 20, 2).write() / "shards"
    with tarfile.open(shards / "00000000.tar") as tar:
        in_sample_3 = tar.getmembers()[10].offset_data + 5
    os.truncate(shards / "00000000.tar", in_sample_3)
    dcfast.refresh_index(tmp_path / "index", tmp_path / "pool")
    with dcfast.open_pool(tmp_path / "index", tmp_path / "pool") as reader:
        found, counts = reader.find(uids(list(range(20))))
        assert reader.num_samples > len(found) > 10
    data = dataset(tmp_path)
    assert [s.uid for s in data] == [uid_of(n) for n in np.flatnonzero(counts).tolist()]
    assert len(list(dcfast.PoolIterableDataset(tmp_path / "index", tmp_path / "pool"))) == len(found)


def test_an_open_reader(place: Path) -> None:
    with dcfast.open_pool(place / "index", place / "pool") as reader:
        data = dcfast.PoolDataset(reader)
        assert pickle.loads(pickle.dumps(data))[5] == data[5] == dataset(place)[5]
        loader = DataLoader(data, batch_size=8, num_workers=1, collate_fn=as_list, multiprocessing_context="fork")
        assert [s.uid for batch in loader for s in batch] == [uid_of(n) for n in range(COUNT)]
        with pytest.raises(ValueError, match="shards_dir must be None beside an open PoolReader"):
            dcfast.PoolDataset(reader, place / "pool")
    in_memory = dcfast.index_tars(place / "pool/shards")
    assert dcfast.PoolDataset(dcfast.PoolReader(None, [in_memory.segment]))[5] == dataset(place)[5]


def test_both_travel_by_their_paths(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dcfast.save_subset(tmp_path / "subset.npy", dcfast.uid_sort(uids(list(range(COUNT)))))
    monkeypatch.chdir(place)
    for kind in (dcfast.PoolDataset, dcfast.PoolIterableDataset):
        made: Any = kind("index", "pool", uids=tmp_path / "subset.npy", transform=key_of)
        sent = pickle.dumps(made)
        assert len(sent) < 600 + len(str(place)) * 2 + len(str(tmp_path))
        with monkeypatch.context() as elsewhere:
            elsewhere.chdir("/")  # relative paths were those of the place where it was made
            assert list(pickle.loads(sent)) == list(made)


@pytest.mark.parametrize(
    "context",
    ["fork", pytest.param("forkserver", marks=pytest.mark.slow), pytest.param("spawn", marks=pytest.mark.soak)],
)
def test_loaders_of_every_kind(place: Path, context: Any) -> None:
    expected = [s.key for s in dataset(place)]
    options: Any = {"batch_size": 8, "num_workers": 2, "collate_fn": as_list, "multiprocessing_context": context}
    assert [k for batch in DataLoader(dataset(place, transform=key_of), **options) for k in batch] == expected
    shuffled = dcfast.PoolIterableDataset(place / "index", place / "pool", block=4, window=4, transform=key_of)
    loader = DataLoader(shuffled, persistent_workers=True, **options)
    epochs = []
    for epoch in (0, 1, 1, 0):
        shuffled.set_epoch(epoch)  # it reaches workers that go on
        epochs.append([key for batch in loader for key in batch])
        assert sorted(epochs[-1]) == expected
    assert epochs[0] == epochs[3] != epochs[1] == epochs[2]


def test_torch_collates_samples(place: Path) -> None:
    batch = next(iter(DataLoader(dataset(place, extensions="txt"), batch_size=3)))
    assert list(batch.uid) == [uid_of(n) for n in range(3)]
    assert list(batch.members["txt"]) == [s.members["txt"] for s in dataset(place).__getitems__(range(3))]


def test_a_pool_that_changed(tmp_path: Path) -> None:
    pool = plain_pool(tmp_path / "pool", 20, 2).write()
    dcfast.refresh_index(tmp_path / "index", pool)
    data = dataset(tmp_path)
    sent = pickle.dumps(data)
    assert data[3].uid == uid_of(3)
    shard = pool / "shards/00000001.tar"
    shard.write_bytes((pool / "shards/00000000.tar").read_bytes())
    with pytest.raises(CorruptDataError, match=r"the shard has changed since it was indexed.*00000001\.tar"):
        pickle.loads(sent)[19]
    dcfast.refresh_index(tmp_path / "index", pool)
    with pytest.raises(
        PoolError, match=r"index or the uids have changed since .* expected 20 samples .*; make .* anew"
    ):
        pickle.loads(sent)[3]


def test_a_subset_that_changed(place: Path, tmp_path: Path) -> None:
    dcfast.save_subset(tmp_path / "subset.npy", dcfast.uid_sort(uids([1, 2])))
    sent = pickle.dumps(dataset(place, uids=tmp_path / "subset.npy"))
    dcfast.save_subset(tmp_path / "subset.npy", dcfast.uid_sort(uids([1, 3])))
    with pytest.raises(PoolError, match="the index or the uids have changed since it was made"):
        pickle.loads(sent)[0]


def test_torch_is_imported_by_the_datasets_alone() -> None:
    code = "import sys, dcfast, dcfast.access; a = 'torch' in sys.modules; dcfast.PoolDataset; "
    code += "print(a, 'torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False True\n"
