"""What goes wrong in the threads and processes that read ahead reaches the caller with its type and its path."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dcfast import access
from dcfast.errors import CorruptDataError, PoolError
from dcfast.index.build import index_tars, write_segment
from reshard_reference import make_sample, make_uid, subset_of, uid_array, write_pool

SAMPLES, SHARDS = 5, 3


@pytest.fixture
def pool(tmp_path: Path) -> Path:
    """``pool/*.tar`` and ``s.dcx``: three shards of five samples."""
    rng = np.random.default_rng(0)
    numbers = [range(i * SAMPLES, (i + 1) * SAMPLES) for i in range(SHARDS)]
    names = write_pool(tmp_path / "pool", [[make_sample(rng, k, make_uid(k), 3000) for k in part] for part in numbers])
    write_segment([(tmp_path / "pool" / name, name) for name in names], tmp_path / "s.dcx", sync=False)
    return tmp_path


def truncate(shard: Path) -> None:
    os.truncate(shard, 4096)


def vanish(shard: Path) -> None:
    shard.unlink()


def become_a_directory(shard: Path) -> None:
    shard.unlink()
    shard.mkdir()


def leave(shard: Path) -> None:
    shard.rename(shard.parent.parent / "elsewhere.tar")
    shard.symlink_to(shard.parent.parent / "elsewhere.tar")


def every_row(reader: access.PoolReader, ahead: int) -> Iterator[Any]:
    # a batch a sample
    for batch in access.iterate_rows(reader, reader.row_ids(np.arange(15)), "jpg", read_ahead=ahead, memory_bytes=3000):
        yield from (bytes(view) for view in batch)


def every_uid(reader: access.PoolReader, ahead: int) -> Iterator[Any]:
    uids = uid_array([make_uid(k) for k in range(15)])
    for sample in access.iterate_uids(reader, uids, ["jpg"], read_ahead=ahead, memory_bytes=3000):
        yield bytes(sample.members["jpg"])


@pytest.mark.parametrize("ahead", [0, 3])
@pytest.mark.parametrize("iterate", [every_row, every_uid])
@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (truncate, CorruptDataError),
        (vanish, FileNotFoundError),
        (become_a_directory, IsADirectoryError),
        (leave, CorruptDataError),
    ],
)
def test_errors_of_reading_threads(
    pool: Path,
    ahead: int,
    iterate: Callable[[access.PoolReader, int], Iterator[Any]],
    damage: Callable[[Path], None],
    expected: type[Exception],
) -> None:
    shard = pool / "pool/00000001.tar"
    damage(shard)
    read: list[Any] = []
    with access.PoolReader(pool / "pool", [pool / "s.dcx"]) as reader, pytest.raises(expected) as caught:
        read.extend(iterate(reader, ahead))
    assert len(read) == SAMPLES  # those before the damage
    error: Any = caught.value
    assert type(error) is expected
    assert (error.filename if isinstance(error, OSError) else error.path) == str(shard)
    assert str(shard) in str(error)
    travelled = pickle.loads(pickle.dumps(error))
    assert (type(travelled), str(travelled)) == (expected, str(error))
    assert vars(travelled) == vars(error)


def read_one(reader: access.PoolReader, sample: int) -> bytes:
    return bytes(reader.read([sample], "jpg", numbering="sample")[0])


def test_errors_of_processes(pool: Path) -> None:
    with access.PoolReader(pool / "pool", [pool / "s.dcx"]) as reader:
        expected = read_one(reader, 0)
        truncate(pool / "pool/00000001.tar")
        with ProcessPoolExecutor(1, get_context("spawn")) as processes:
            assert processes.submit(read_one, reader, 0).result() == expected
            with pytest.raises(CorruptDataError, match="the shard has changed since it was indexed") as caught:
                processes.submit(read_one, reader, 5).result()
    assert (caught.value.path, caught.value.offset) == (str(pool / "pool/00000001.tar"), 4096)


@pytest.mark.parametrize(
    ("damage", "expected"), [(truncate, CorruptDataError), (vanish, FileNotFoundError), (None, PoolError)]
)
def test_errors_of_loader_workers(pool: Path, damage: Any, expected: type[Exception]) -> None:
    """torch makes an error of its DataLoader's workers anew of its text: the type is kept, the path is in the text."""
    wrapper = pytest.importorskip("torch._utils").ExceptionWrapper
    segment = pool / "s.dcx"
    if damage is None:
        write_segment([(pool / "pool/00000000.tar", "http://h/a.tar")], segment, sync=False)
        path = "http://h/a.tar"
    else:
        damage(pool / "pool/00000001.tar")
        path = str(pool / "pool/00000001.tar")
    with access.PoolReader(pool / "pool", [segment]) as reader:
        try:
            list(map(reader.read, [[0], [1 << 32]]))
        except (OSError, ValueError) as error:
            in_worker = pickle.loads(pickle.dumps(wrapper((type(error), error, error.__traceback__))))
    with pytest.raises(expected) as caught:
        in_worker.reraise()
    assert type(caught.value) is expected
    assert path in str(caught.value)


def test_a_url_below_a_directory_is_not_asked(pool: Path) -> None:
    write_segment([(pool / "pool/00000000.tar", "s3://bucket/a.tar")], pool / "u.dcx", sync=False)
    with access.PoolReader(pool / "pool", [pool / "u.dcx"]) as reader:
        assert reader.keys(reader.find(subset_of([make_uid(3)]))[0]) == ["000000003"]
        with pytest.raises(
            PoolError, match=r"s3://bucket/a\.tar: the shard's name in the index is a URL, and shards_dir"
        ):
            read_one(reader, 0)


def test_a_reader_of_an_index_without_a_file_does_not_travel(pool: Path) -> None:
    index = index_tars(pool / "pool")
    with access.PoolReader(None, [index.segment]) as reader:
        assert len(read_one(reader, 0)) == 3000
        with pytest.raises(PoolError, match=r"has no file that another process could open .*; write one by write_segm"):
            pickle.dumps(reader)
