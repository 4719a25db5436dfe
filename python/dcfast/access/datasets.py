"""A pool as a dataset of torch: ``PoolDataset`` by number and uid, ``PoolIterableDataset`` shuffled and in shares.

Importing this module imports torch. Where samples lie and how they are read is ``dcfast.access.selection``'s.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from multiprocessing.context import get_spawning_popen
from typing import Generic, TypedDict, TypeVar, Unpack, cast, overload

import numpy as np
import torch
import torch.distributed as dist
from torch.utils.data import Dataset, IterableDataset, get_worker_info

from dcfast.access.batch import PathLike
from dcfast.access.iterate import ROWS_AT_ONCE, RowIds, Sample, check_seed
from dcfast.access.order import Order
from dcfast.access.reader import PoolReader
from dcfast.access.selection import READ_THREADS, Selection, SelectionOptions
from dcfast.errors import PoolError
from dcfast.process.arguments import integer
from dcfast.uids.sets import uid_parse

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)
Transform = Callable[[Sample[bytes]], T]


class _Items(Generic[T_co]):
    """What both datasets have: a selection of samples, and what is made of each."""

    def __init__(self, selection: Selection, transform: Transform[T_co] | None) -> None:
        self._selection = selection
        self._transform = transform

    def _made(self, sample: Sample[bytes]) -> T_co:
        if self._transform is None:
            return cast("T_co", sample)
        try:
            return self._transform(sample)
        except Exception as error:
            error.add_note(f"transform of the sample with key {sample.key} and uid {sample.uid}")
            raise


class PoolDataset(_Items[T_co], Dataset[T_co]):
    """The samples of an indexed pool by number or uid, as a dataset of torch: a batch is read at once.

    Args:
        index: a run's output directory, an index directory, or an open PoolReader.
        shards_dir: the pool, or its ``shards`` directory, or the fsspec URL of one; None beside a PoolReader, or where
            names open as they are.
        uids: only these, in this order: (n,) "u8,u8", or a subset file, which travels by its path. A uid that several
            rows have gives each row. None: all samples, in the order of the pool; what is cut off in a damaged shard
            is left out.
        extensions: members that are read, such as ["jpg", "txt"]; None: all.
        missing: uids that no whole sample of the pool has: 'raise', or 'skip', after which numbers move up.
        missing_members: samples without an asked extension: 'raise', or 'none': their dict lacks it.
        remote: how URLs are read, as of ``open_pool``: credentials, headers, retries, limits of time. It goes to the
            workers, credentials too. None beside a PoolReader, which has its own.
        transform: what an item is made of a ``Sample``: key, uid, members as bytes by extension. None: the Sample.
            A function of a module, where workers are spawned.

    Raises:
        PoolError: no index; unknown uids; and in a worker, an index or subset that has changed since.
        CorruptDataError: as it reads: a shard that is not the indexed one.   IndexError: no such number.

    It pickles to its paths, some hundred bytes (an array of uids goes with it, 16 bytes each), and opens in each
    process when that first reads: workers may be forked, spawned, or come from a forkserver.
    Memory: 8 bytes a uid in each process, and the batch.   Cost: as ``PoolReader.read``, and a copy of the bytes.
    Example: ``batch = next(iter(DataLoader(PoolDataset("index", "pool"), batch_size=4, collate_fn=list)))``
    """

    @overload
    def __init__(
        self: PoolDataset[Sample[bytes]], index: PathLike | PoolReader, shards_dir: PathLike | None = None, *,
        transform: None = None, **options: Unpack[SelectionOptions],
    ) -> None: ...  # fmt: skip
    @overload
    def __init__(
        self, index: PathLike | PoolReader, shards_dir: PathLike | None = None, *, transform: Transform[T_co],
        **options: Unpack[SelectionOptions],
    ) -> None: ...  # fmt: skip
    def __init__(
        self,
        index: PathLike | PoolReader,
        shards_dir: PathLike | None = None,
        *,
        transform: Transform[T_co] | None = None,
        **options: Unpack[SelectionOptions],
    ) -> None:
        super().__init__(Selection(index, shards_dir, in_pool_order=False, **options), transform)

    def __repr__(self) -> str:
        return f"<PoolDataset of {self._selection!r}: {len(self)} samples>"

    def __len__(self) -> int:
        return self._selection.count

    def __getitem__(self, i: int) -> T_co:
        number = integer(i, "i")
        return self._one(self._selection.rows(np.array([number + len(self) if number < 0 else number])))

    def __getitems__(self, numbers: Sequence[int]) -> list[T_co]:
        """The items of a batch, read together: DataLoader calls it."""
        rows = self._selection.rows(np.asarray(numbers, np.int64))
        return [self._made(sample) for sample in self._selection.read(rows)]

    def by_uid(self, uid: str) -> T_co:
        """The item of a uid, 32 hexadecimal digits: the first whole row of the pool that has it, in ``uids`` or not.

        PoolError: there is none.   ValueError: that is no uid.
        """
        rows, _ = self._selection.reader.find(uid_parse([uid])[0])
        if len(rows) == 0:
            raise PoolError(
                f"{self!r}: no whole sample of the pool has the uid {uid}; look for it in the pool's metadata"
            )
        return self._one(rows[:1])

    def _one(self, row: RowIds) -> T_co:
        (sample,) = self._selection.read(row, threads=1)
        return self._made(sample)


def _shared(number: int) -> torch.Tensor:
    """A number in memory that a worker shares with the process that started it."""
    shared: torch.Tensor = torch.tensor(number).share_memory_()  # type: ignore[no-untyped-call]
    return shared


class OrderOptions(TypedDict, total=False):
    """See ``PoolIterableDataset``."""

    shuffle: bool
    seed: int
    block: int
    window: int
    drop_last: bool
    rank: int | None
    world_size: int | None
    memory_bytes: int


class _Options(SelectionOptions, OrderOptions, total=False):
    pass


class DatasetState(TypedDict):
    """Where a ``PoolIterableDataset`` is: of an epoch, one rank and one worker, the samples that it gave."""

    epoch: int
    given: int
    stream: list[int]
    settings: dict[str, object]


class PoolIterableDataset(_Items[T_co], IterableDataset[T_co]):
    """The samples of an indexed pool in a shuffled order, in shares for ranks and workers, read ahead in runs.

    The order of an epoch is a function of seed and epoch alone: blocks of ``block`` neighbours, in the order of a keyed
    permutation of all blocks; ``window`` blocks at a time are mixed sample by sample. So a sample may come anywhere in
    an epoch, but at most ``block`` neighbours come within a window: ``block=1`` is a shuffle of the whole, in which
    disks see no runs. Ranks, and within them workers, take contiguous shares of this order: with all of them, each
    sample comes once an epoch, and their samples one after the other are the same order for any number of either.

    Args:
        index, shards_dir, extensions, missing, missing_members, remote, transform: as ``PoolDataset``.
        uids: only these, each row as often as its uid stands there; as ``PoolDataset``, but in the order of the pool
            before it is shuffled.
        shuffle: False: each share in the order of the pool.
        seed: 0 to 2^64 - 1.
        block, window: see above; a window is read at once.
        drop_last: shares of ranks are equal, and world_size - 1 samples at most, others each epoch, are left out.
            Without, each sample comes, and some ranks have one more than others. Shares of workers differ by one.
        rank, world_size: None: of torch.distributed, where it is initialised as iteration begins; else one rank.
        memory_bytes: bound on the bytes read ahead and in use, for each worker. Windows that have more than half of it
            are read in parts; the order stays.

    Raises:
        As ``PoolDataset``.   ValueError: ranks of torch.distributed have other seeds, epochs or samples: they compare
        them once, in the first ``iter`` or ``set_epoch`` outside of workers; so with workers, call ``set_epoch`` on
        each rank.

    An epoch has the order of the last before it until ``set_epoch``, which reaches persistent workers, too. Pickles and
    opens as ``PoolDataset``.
    Memory: memory_bytes, and 8 bytes a uid, in each process.
    Example: ``dataset = PoolIterableDataset("index", "pool", seed=7)``, ``dataset.set_epoch(1)``,
    ``[sample.key for sample in dataset]``
    """

    @overload
    def __init__(
        self: PoolIterableDataset[Sample[bytes]], index: PathLike | PoolReader, shards_dir: PathLike | None = None, *,
        transform: None = None, **options: Unpack[_Options],
    ) -> None: ...  # fmt: skip
    @overload
    def __init__(
        self, index: PathLike | PoolReader, shards_dir: PathLike | None = None, *, transform: Transform[T_co],
        **options: Unpack[_Options],
    ) -> None: ...  # fmt: skip
    def __init__(
        self,
        index: PathLike | PoolReader,
        shards_dir: PathLike | None = None,
        *,
        transform: Transform[T_co] | None = None,
        shuffle: bool = True,
        seed: int = 0,
        block: int = 16,
        window: int = 128,
        drop_last: bool = False,
        rank: int | None = None,
        world_size: int | None = None,
        memory_bytes: int = 256 << 20,
        **options: Unpack[SelectionOptions],
    ) -> None:
        check_seed(seed)
        if (rank is None) != (world_size is None) or not 0 <= (rank or 0) < (1 if world_size is None else world_size):
            raise ValueError(
                f"rank and world_size must be 0 <= rank < world_size, or both None; got {rank}, {world_size}"
            )
        if min(block, window, memory_bytes) < 1:
            raise ValueError(
                f"block, window and memory_bytes must be at least 1; got {block}, {window} and {memory_bytes}"
            )
        super().__init__(Selection(index, shards_dir, in_pool_order=True, **options), transform)
        self._shuffle, self._seed, self._block, self._window = shuffle, seed, block, window
        self._drop_last, self._memory_bytes = drop_last, memory_bytes
        self._given_ranks = None if rank is None or world_size is None else (rank, world_size)
        self._last_ranks = (0, 1)
        self._agreed = False
        self._given = self._resume = 0
        self._epoch = _shared(0)

    def __repr__(self) -> str:
        return f"<PoolIterableDataset of {self._selection!r}: {self._selection.count} samples>"

    def __getstate__(self) -> dict[str, object]:
        # a worker that is being started shares the epoch; a copy that is kept or sent has its own
        is_starting = get_spawning_popen() is not None
        shared = self._epoch if is_starting else int(self._epoch)
        return {**vars(self), "_epoch": shared, "_last_ranks": self._ranks()}

    def __setstate__(self, state: dict[str, object]) -> None:
        vars(self).update(state)
        if isinstance(state["_epoch"], int):
            self._epoch = _shared(state["_epoch"])

    def _ranks(self) -> tuple[int, int]:
        """(rank, number of ranks); a spawned worker has what they were as it was started."""
        if self._given_ranks is not None:
            return self._given_ranks
        if dist.is_available() and dist.is_initialized():
            return dist.get_rank(), dist.get_world_size()
        return self._last_ranks

    def _share(self) -> tuple[int, int]:
        """The places of the order that this rank has: begin and end."""
        rank, ranks = self._ranks()
        count = self._selection.count
        if self._drop_last:
            return rank * (count // ranks), (rank + 1) * (count // ranks)
        return rank * count // ranks, (rank + 1) * count // ranks

    def __len__(self) -> int:
        """Samples of an epoch on this rank. With several workers a loader may give a few batches more: the last of each
        worker are short."""
        begin, end = self._share()
        return end - begin

    def set_epoch(self, epoch: int) -> None:
        """Chooses the order of the next iteration; a place that was loaded for another epoch is dropped."""
        if integer(epoch, "epoch") < 0:
            raise ValueError(f"epoch must be at least 0; got {epoch}")
        if epoch != int(self._epoch):
            self._resume = 0
        self._epoch.fill_(epoch)
        self._compare_ranks()

    def _settings(self) -> dict[str, object]:
        """What the order depends on."""
        kept = {name: vars(self)[f"_{name}"] for name in ("shuffle", "seed", "block", "window", "drop_last")}
        return {**kept, "samples": self._selection.count, "fingerprint": self._selection.fingerprint}

    def _compare_ranks(self) -> None:
        if self._agreed or self._given_ranks is not None or get_worker_info() is not None or self._ranks()[1] == 1:
            return
        mine = {"epoch": int(self._epoch), **self._settings()}
        told = [mine] * self._ranks()[1]
        dist.all_gather_object(told, mine)
        for rank, other in enumerate(told):
            if differing := [name for name, value in other.items() if value != told[0][name]]:
                name = differing[0]
                raise ValueError(
                    f"{self!r}: {name} must be the same on all ranks; rank 0 has {told[0][name]}, and rank {rank} has "
                    f"{other[name]}: they would not share the samples between them"
                )
        self._agreed = True

    def _stream(self) -> list[int]:
        """[rank, ranks, worker, workers] of this process."""
        worker = get_worker_info()
        return [*self._ranks(), *((0, 1) if worker is None else (worker.id, worker.num_workers))]

    def state_dict(self) -> DatasetState:
        """Where the last iteration of this process is, exactly after the sample that it gave last.

        For a loader without workers; with workers, torchdata's StatefulDataLoader asks each of them.
        """
        return {
            "epoch": int(self._epoch),
            "given": self._given,
            "stream": self._stream(),
            "settings": self._settings(),
        }

    def load_state_dict(self, state: DatasetState) -> None:
        """The next iteration goes on where that of the state was. ValueError: of another order, rank or worker."""
        for told, value, expected in (
            ("stream [rank, world_size, worker, workers]", state["stream"], self._stream()),
            ("order", state["settings"], self._settings()),
        ):
            if value != expected:
                raise ValueError(
                    f"{self!r}: the state is of another {told}: expected {expected}, got {value}; go on with the same "
                    "arguments, pool, ranks and workers"
                )
        begin, end = self._share()
        if not 0 <= state["given"] <= end - begin:
            raise ValueError(
                f"{self!r}: the state has given {state['given']} samples of {end - begin}: pass one of state_dict"
            )
        self._epoch.fill_(state["epoch"])
        self._given = self._resume = state["given"]

    def __iter__(self) -> Iterator[T_co]:
        # at once, not at the first sample: the state that is asked for before is that of this iteration
        self._compare_ranks()
        self._given, self._resume = self._resume, 0
        return self._items(self._given)

    def _items(self, given: int) -> Generator[T_co, None, None]:
        begin, end = self._share()
        _, _, worker, workers = self._stream()
        length = end - begin
        first, last = begin + worker * length // workers + given, begin + (worker + 1) * length // workers
        blocks = self._blocks(first, last, int(self._epoch))
        read, memory = self._selection.read_ahead, self._memory_bytes
        if self._shuffle:  # a window at once, by several threads, and the next one meanwhile
            samples = read(blocks, ahead=1, memory_bytes=memory, most=memory, threads=READ_THREADS)
        else:
            samples = read(blocks, ahead=READ_THREADS, memory_bytes=memory)
        with closing(samples):
            for number, sample in enumerate(samples, given + 1):
                item = self._made(sample)
                self._given = number
                yield item

    def _blocks(self, first: int, last: int, epoch: int) -> Iterator[RowIds]:
        """Row ids of some places of an epoch's order: those of a window at a time."""
        count = self._selection.count
        if first >= last:
            return
        order = Order([count], seed=self._seed, resample=False, block=self._block, window=self._window)
        step = self._block * self._window if self._shuffle else ROWS_AT_ONCE
        while first < last:
            places = np.arange(first, min(last, first - first % step + step))
            yield self._selection.rows(order.placement(epoch * count + places).positions() if self._shuffle else places)
            first += len(places)
