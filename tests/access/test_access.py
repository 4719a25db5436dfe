"""Random access: members of any samples in any order, against tarfile; iteration over uid lists, read ahead."""

from __future__ import annotations

import gc
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dcfast import access
from dcfast.errors import CorruptDataError, PoolError
from dcfast.index.build import index_tars
from dcfast.run.workflow import run
from dcfast.rundir.settings import Settings
from dcfast.uids.sets import save_subset, uid_parse, uid_sort
from pool_builder import PoolBuilder, Sample, plain_pool, uid_of
from tar_reference import pool_samples


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, list[dict[str, bytes]]]:
    """A pool of 60 samples, the run that indexed it, and its members."""
    root = tmp_path_factory.mktemp("access")
    builder = plain_pool(root / "pool", 60, 4)
    builder.shards[2][3] = Sample(33, without=("txt",))
    builder.write()
    run(root / "run", Settings(pool=str(root / "pool"), filter="no_filter"), last="index")
    return root / "pool", root / "run", [members for _, members in pool_samples(root / "pool/shards")]


def uids(numbers: list[int]) -> Any:
    return uid_parse([uid_of(n) for n in numbers])[0]


@pytest.mark.parametrize("threads", [1, 3])
def test_any_order_with_repeats_equals_tarfile(pool: tuple[Path, Path, list[dict[str, bytes]]], threads: int) -> None:
    directory, _, expected = pool
    index = index_tars(directory / "shards")
    order = np.random.default_rng(3).permutation(np.repeat(np.arange(60), 2))
    batch = access.read_members(index, order, numbering="sample", threads=threads)
    assert len(batch) == 120
    for got, number in zip(batch, order, strict=True):
        assert {ext: bytes(view) for ext, view in got.items()} == expected[number]
    assert len(access.read_members(index, [], "jpg")) == 0


def test_row_ids_and_one_extension(pool: tuple[Path, Path, list[dict[str, bytes]]]) -> None:
    directory, out, expected = pool
    with access.open_pool(out, directory) as reader:
        assert (reader.num_shards, reader.num_samples) == (4, 60)
        rows = [(3 << 32) | 14, 0, (1 << 32) | 2]
        assert [bytes(v) for v in reader.read(rows, "JPG")] == [expected[i]["jpg"] for i in (59, 0, 17)]
        assert reader.keys(rows) == ["000030014", "000000000", "000010002"]
        found, count = reader.find(uids([17, 999, 0]))
        assert found.tolist() == [(1 << 32) | 2, 0]
        assert count.tolist() == [1, 0, 1]


def test_missing_extension_is_an_error_or_none(pool: tuple[Path, Path, list[dict[str, bytes]]]) -> None:
    directory, out, _ = pool
    with access.open_pool(out, directory) as reader:
        row = [(2 << 32) | 3]
        with pytest.raises(PoolError, match="txt"):
            reader.read(row, "txt")
        assert reader.read(row, "txt", missing_members="none")[0] is None
        assert set(reader.read(row, ["jpg", "txt"], missing_members="none")[0]) == {"jpg"}
        with pytest.raises(IndexError):
            reader.read([(9 << 32)], "jpg")
        with pytest.raises(IndexError):
            reader.read([15], "jpg")
        with pytest.raises(ValueError, match="memory_bytes=100"):
            reader.read([0, 1], "jpg", memory_bytes=100)


def test_views_outlive_batch_and_pool_and_are_read_only(pool: tuple[Path, Path, list[dict[str, bytes]]]) -> None:
    directory, out, expected = pool
    reader = access.open_pool(out, directory)
    view = reader.read([0, 1], "jpg")[1]
    reader.close()
    del reader
    gc.collect()
    assert bytes(view) == expected[1]["jpg"]
    with pytest.raises(TypeError):
        view[0] = 0


@pytest.mark.parametrize("damage", ["truncated", "replaced", "touched", "vanished"])
def test_shard_that_is_not_the_indexed_one_is_named(tmp_path: Path, damage: str) -> None:
    directory = plain_pool(tmp_path / "pool", 9, 3).write()
    index = index_tars(directory / "shards")
    shard = directory / "shards/00000001.tar"
    if damage == "truncated":
        os.truncate(shard, 4096)
    elif damage == "replaced":
        shard.write_bytes((directory / "shards/00000002.tar").read_bytes() + bytes(512))
    elif damage == "touched":
        os.utime(shard, ns=(1, 1))
    else:
        shard.unlink()
    error: type[Exception] = FileNotFoundError if damage == "vanished" else CorruptDataError
    with pytest.raises(error, match=r"00000001\.tar"):
        access.read_members(index, [4], "jpg", numbering="sample")
    assert len(access.read_members(index, [0, 8], "jpg", numbering="sample")) == 2  # the others are as they were


def test_reading_never_leaves_the_pool(tmp_path: Path) -> None:
    directory = plain_pool(tmp_path / "pool", 4, 2).write()
    outside = tmp_path / "secret.tar"
    (directory / "shards/00000001.tar").rename(outside)
    (directory / "shards/00000001.tar").symlink_to(outside)
    out = tmp_path / "run"
    run(out, Settings(pool=str(directory), filter="no_filter"), last="index")
    with access.open_pool(out, directory) as reader, pytest.raises(CorruptDataError, match=r"00000001\.tar"):
        reader.read([(1 << 32)], "jpg")
    with access.open_pool(out, directory, follow_links=True) as reader:
        assert len(reader.read([(1 << 32)], "jpg")) == 1


def test_uids_in_given_order_with_multiplicities(pool: tuple[Path, Path, list[dict[str, bytes]]]) -> None:
    directory, out, expected = pool
    with access.open_pool(out, directory) as reader:
        numbers = [40, 3, 3, 999, 17]
        samples = list(access.iterate_uids(reader, uids(numbers), read_ahead=2, memory_bytes=1 << 20))
        assert [s.uid for s in samples] == [uid_of(n) for n in (40, 3, 3, 17)]
        for sample, number in zip(samples, (40, 3, 3, 17), strict=True):
            assert {ext: bytes(v) for ext, v in sample.members.items()} == expected[number]
        with pytest.raises(PoolError, match="uid"):
            list(access.iterate_uids(reader, uids(numbers), missing="raise"))


@pytest.mark.parametrize("memory_bytes", [1, 5_000, 1 << 20])
def test_shuffled_subset_is_a_fixed_permutation_and_parts_make_the_whole(
    pool: tuple[Path, Path, list[dict[str, bytes]]], tmp_path: Path, memory_bytes: int
) -> None:
    directory, out, _ = pool
    subset = uid_sort(uids([n for n in range(60) if n != 33]))
    save_subset(tmp_path / "subset.npy", subset)
    with access.open_pool(out, directory) as reader:

        def order(seed: int, part: tuple[int, int] = (0, 1)) -> list[str]:
            found = access.iterate_uids(
                reader,
                tmp_path / "subset.npy",
                "txt",
                order="shuffled",
                seed=seed,
                part=part,
                memory_bytes=memory_bytes,
            )
            return [s.uid for s in found]

        whole = order(5)
        assert sorted(whole) == sorted(uid_of(n) for n in range(60) if n != 33)
        assert whole == order(5)
        assert whole != order(6)
        parts = [order(5, (i, 4)) for i in range(4)]
        assert [u for i in range(15) for p in parts for u in p[i : i + 1]] == whole


def test_abandoned_iteration_ends_its_threads(pool: tuple[Path, Path, list[dict[str, bytes]]]) -> None:
    import threading

    directory, out, _ = pool
    before = threading.active_count()
    with access.open_pool(out, directory) as reader:
        iterator = access.iterate_uids(reader, uids(list(range(30))), "jpg", memory_bytes=10_000)
        next(iterator)
        iterator.close()
        assert threading.active_count() == before


def test_repeated_uid_yields_each_row(tmp_path: Path) -> None:
    builder = PoolBuilder(tmp_path / "pool", [[Sample(0), Sample(1)], [Sample(2, uid=uid_of(0))]])
    directory = builder.write()
    run(tmp_path / "run", Settings(pool=str(directory), filter="no_filter"), last="index")
    with access.open_pool(tmp_path / "run", directory) as reader:
        keys = [s.key for s in access.iterate_uids(reader, uids([0]), "jpg")]
    assert keys == ["000000000", "000010000"]


def test_arguments_are_checked(pool: tuple[Path, Path, list[dict[str, bytes]]]) -> None:
    directory, out, _ = pool
    with access.open_pool(out, directory) as reader:
        with pytest.raises(ValueError, match="order must be"):
            access.iterate_uids(reader, uids([1]), order="random")  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="part must be"):
            access.iterate_uids(reader, uids([1]), part=(4, 4))
        with pytest.raises(TypeError, match="u8,u8"):
            access.iterate_uids(reader, np.arange(3))
    with pytest.raises(PoolError, match="no index segments"):
        access.open_pool(directory)
