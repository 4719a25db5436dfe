"""A pool as an iterable dataset of torch: its order, the shares of ranks and workers, and going on in the middle."""

from __future__ import annotations

import datetime
import multiprocessing
import pickle
from itertools import pairwise
from pathlib import Path
from typing import Any

import dcfast
import numpy as np
import pytest
import torch.distributed as dist
from dcfast.access.iterate import Sample
from pool_builder import plain_pool, uid_of
from torch.utils.data import DataLoader

COUNT = 61
# keys of the epochs 0 and 1 of seed 5, ten each: what a training of somebody else sees follows from these
GOLDEN: tuple[list[int], list[int]] = ([32, 52, 48, 49, 54, 34, 30, 28, 35, 55], [4, 48, 17, 51, 19, 49, 7, 20, 5, 21])


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``pool`` of 61 samples in 4 shards, and its ``index``."""
    root = tmp_path_factory.mktemp("iterable")
    plain_pool(root / "pool", COUNT, 4).write()
    dcfast.refresh_index(root / "index", root / "pool")
    return root


def number_of(sample: Sample[bytes]) -> int:
    """Of a sample in the order of the pool."""
    shard, row = divmod(int(sample.key), 10_000)
    return shard * 16 + row


def joined(parts: list[list[int]]) -> list[int]:
    return [number for part in parts for number in part]


def as_list(batch: list[int]) -> list[int]:
    return batch


def dataset(place: Path, **options: Any) -> Any:
    asked = {"seed": 5, "block": 4, "window": 4, "extensions": "txt", "transform": number_of, **options}
    return dcfast.PoolIterableDataset(place / "index", place / "pool", **asked)


def test_the_order_is_of_seed_and_epoch_alone(place: Path) -> None:
    data = dataset(place)
    first = list(data)
    assert len(data) == COUNT
    assert sorted(first) == list(range(COUNT))
    assert list(data) == first
    data.set_epoch(1)
    second = list(data)
    assert sorted(second) == sorted(first)
    assert (first[:10], second[:10]) == GOLDEN
    assert list(dataset(place, seed=6)) != first
    for memory_bytes in (1, 500, 1 << 30):  # it decides what is read together, not what comes
        assert list(dataset(place, memory_bytes=memory_bytes)) == first
    assert list(dataset(place, shuffle=False)) == list(range(COUNT))


def test_windows_hold_blocks_of_neighbours_mixed(place: Path) -> None:
    order = list(dataset(place, block=4, window=4))
    for window in (order[:16], order[16:32], order[32:48]):
        blocks, sizes = np.unique(np.array(window) // 4, return_counts=True)
        assert len(blocks) <= 5
        assert sum(sizes == 4) >= 3
        assert window != sorted(window)
    assert list(dataset(place, block=1, window=4)) != order


def test_a_window_is_read_in_runs(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    whole = dcfast.PoolReader.read_located

    def counted(self: Any, members: Any, **options: Any) -> Any:
        asked.append(len(members))
        return whole(self, members, **options)

    monkeypatch.setattr(dcfast.PoolReader, "read_located", counted)
    list(dataset(place))
    assert asked == [16, 16, 16, 13]


@pytest.mark.parametrize("drop_last", [False, True])
@pytest.mark.parametrize("ranks", [1, 2, 3, 7, 64])
def test_ranks_share_the_order(place: Path, ranks: int, drop_last: bool) -> None:
    whole = list(dataset(place))
    shares = [dataset(place, rank=rank, world_size=ranks, drop_last=drop_last) for rank in range(ranks)]
    parts = [list(share) for share in shares]
    assert [len(share) for share in shares] == [len(part) for part in parts]
    kept = COUNT // ranks * ranks if drop_last else COUNT
    assert joined(parts) == whole[:kept]
    assert max(map(len, parts)) - min(map(len, parts)) <= (0 if drop_last else 1)


@pytest.mark.filterwarnings("ignore:This DataLoader will create")  # more than this machine has cores for
@pytest.mark.parametrize("workers", [1, 2, 5])
def test_workers_share_the_order_of_their_rank(place: Path, workers: int) -> None:
    for rank in range(2):
        data = dataset(place, rank=rank, world_size=2)
        loader = DataLoader(data, batch_size=1, num_workers=workers, collate_fn=as_list, multiprocessing_context="fork")
        got = [number for batch in loader for number in batch]
        assert len(got) == len(data)
        # the loader takes a batch of each worker in turn
        begin = [worker * len(data) // workers for worker in range(workers + 1)]
        parts = [list(data)[a:b] for a, b in pairwise(begin)]
        assert got == [part[i] for i in range(len(parts[-1])) for part in parts if i < len(part)]


def test_uids_keep_their_multiplicity(place: Path) -> None:
    uids = dcfast.uid_parse([uid_of(n) for n in (40, 3, 3, 999, 17)])[0]
    data = dataset(place, uids=uids, missing="skip")
    assert sorted(data) == [3, 3, 17, 40]
    assert list(dataset(place, uids=uids, missing="skip", shuffle=False)) == [3, 3, 17, 40]
    assert list(dataset(place, uids=uids[:0])) == []


@pytest.mark.parametrize("shuffle", [True, False])
def test_it_goes_on_after_any_sample(place: Path, shuffle: bool) -> None:
    data = dataset(place, shuffle=shuffle, rank=1, world_size=2)
    data.set_epoch(3)
    whole = list(data)
    iterator = iter(data)
    for given in range(len(whole) + 1):
        state = pickle.loads(pickle.dumps(data.state_dict()))
        other = dataset(place, shuffle=shuffle, rank=1, world_size=2)
        other.load_state_dict(state)
        other.set_epoch(3)  # as a training does that goes on
        assert other.state_dict() == state
        assert list(other) == whole[given:]
        assert list(other) == whole  # and then from the start
        if given < len(whole):
            assert next(iterator) == whole[given]


def test_a_place_in_another_epoch_is_dropped(place: Path) -> None:
    data = dataset(place)
    next(iter(data))
    state = data.state_dict()
    data.load_state_dict(state)
    data.set_epoch(1)
    assert len(list(data)) == COUNT


@pytest.mark.parametrize(
    ("other", "told"),
    [({"seed": 6}, "order"), ({"block": 8}, "order"), ({"rank": 0, "world_size": 2}, "stream")],
)
def test_a_state_of_another_order_is_refused(place: Path, other: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=f"the state is of another {told}.*: expected .*, got .*; go on with the same"):
        dataset(place, **other).load_state_dict(dataset(place).state_dict())


@pytest.mark.filterwarnings("ignore:'set_vital' is deprecated")
@pytest.mark.parametrize("workers", [0, 2])
def test_torchdata_goes_on_after_any_batch(place: Path, workers: int) -> None:
    stateful = pytest.importorskip(
        "torchdata.stateful_dataloader", reason="torchdata is not installed: pip install torchdata"
    )

    def loader() -> Any:
        context = "fork" if workers else None
        data = dataset(place)
        data.set_epoch(2)
        return stateful.StatefulDataLoader(
            data, batch_size=7, num_workers=workers, collate_fn=as_list, multiprocessing_context=context
        )

    whole = list(loader())
    assert sorted(joined(whole)) == list(range(COUNT))
    going = loader()
    for given, batch in enumerate(going, 1):
        assert batch == whole[given - 1]
        state = pickle.loads(pickle.dumps(going.state_dict()))
        again = loader()
        again.load_state_dict(state)
        assert list(again) == whole[given:]
        if given < len(whole):
            assert list(again) == whole  # the next epoch


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"seed": -1}, r"seed must be from 0 to 2\^64 - 1; got -1"),
        ({"rank": 0}, "rank and world_size must be 0 <= rank < world_size, or both None; got 0, None"),
        ({"world_size": 2}, "got None, 2"),
        ({"rank": 2, "world_size": 2}, "got 2, 2"),
        ({"block": 0}, "must be at least 1; got 0, 4 and"),
        ({"memory_bytes": 0}, "must be at least 1; got 4, 4 and 0"),
    ],
)
def test_arguments(place: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        dataset(place, **options)
    with pytest.raises(ValueError, match="epoch must be at least 0; got -1"):
        dataset(place).set_epoch(-1)


def on_a_rank(place: Path, folder: Path, rank: int, seeds: list[int], workers: int) -> None:
    """Writes what a rank of torch.distributed reads, or its error."""
    timeout = datetime.timedelta(seconds=60)
    data = dataset(place, seed=seeds[rank])  # before the ranks meet: what counts is what they are as it begins
    dist.init_process_group("gloo", f"file://{folder}/meet", rank=rank, world_size=len(seeds), timeout=timeout)
    context = "forkserver" if workers else None
    try:
        data.set_epoch(1)
        loader = DataLoader(
            data, batch_size=5, num_workers=workers, collate_fn=as_list, multiprocessing_context=context
        )
        said = " ".join(str(number) for batch in loader for number in batch)
    except ValueError as error:
        said = str(error)
    (folder / f"{rank}.txt").write_text(said)
    dist.destroy_process_group()


def on_ranks(place: Path, folder: Path, seeds: list[int], workers: int = 0) -> list[str]:
    # of a server that has torch loaded: a start costs a second, not ten
    context = multiprocessing.get_context("forkserver")
    ranks = [
        context.Process(target=on_a_rank, args=(place, folder, rank, seeds, workers)) for rank in range(len(seeds))
    ]
    for rank in ranks:
        rank.start()
    for rank in ranks:
        rank.join(120)
        assert rank.exitcode == 0
    return [(folder / f"{rank}.txt").read_text() for rank in range(len(seeds))]


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, pytest.param(1, marks=pytest.mark.soak)])
def test_ranks_of_torch_share_the_order(place: Path, tmp_path: Path, workers: int, monkeypatch: Any) -> None:
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    whole = dataset(place)
    whole.set_epoch(1)
    shares = [list(map(int, said.split())) for said in on_ranks(place, tmp_path, [5, 5], workers)]
    assert joined(shares) == list(whole)


@pytest.mark.slow
def test_ranks_with_other_seeds_are_told(place: Path, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    for said in on_ranks(place, tmp_path, [5, 6]):
        assert "seed must be the same on all ranks; rank 0 has 5, and rank 1 has 6" in said


@pytest.mark.parametrize("given", [-3, 10**9])
def test_a_state_that_gave_other_than_its_share_is_refused(place: Path, given: int) -> None:
    state = dataset(place).state_dict()
    with pytest.raises(ValueError, match=f"the state has given {given} samples of "):
        dataset(place).load_state_dict({**state, "given": given})
