"""``open_pool``: the reader of a pool, by the directory of its index."""

from __future__ import annotations

from typing import Unpack

from dcfast.access.batch import PathLike
from dcfast.access.reader import PoolReader, ReaderOptions
from dcfast.errors import PoolError
from dcfast.index.pool import shard_folder
from dcfast.index.pool_index import check_layout, index_folder
from dcfast.storage.paths import is_url


def open_pool(index_dir: PathLike, shards_dir: PathLike | None = None, **options: Unpack[ReaderOptions]) -> PoolReader:
    """Opens the pool that a run indexed.

    Args:
        index_dir: a run's output directory, or the ``index`` directory in it: ``segment-*.dcx`` and ``pool.npy``.
        shards_dir: the pool's ``shards`` directory (or the pool), or the fsspec URL of the directory with its tars, as
            ``refresh_index`` takes it.
        options: see PoolReader.
    Raises:
        PoolError: no index there, or one that is not whole.   CorruptDataError: its ``index.json`` is none.
    Cost: the index is mapped, and read once for its checksums. Memory as of PoolReader.
    Example: ``with open_pool("index", "pool") as reader: captions = reader.read([0, 1], "txt")``
    """
    folder = index_folder(index_dir)
    segments = sorted(folder.glob("*.dcx"))
    if not segments:
        raise PoolError(f"open_pool: no index segments (*.dcx) in {folder}; run the index stage first")
    check_layout(folder, segments)
    records = folder / "pool.npy"
    base = shards_dir if shards_dir is None or is_url(shards_dir) else shard_folder(shards_dir)
    return PoolReader(base, segments, records if records.exists() else None, **options)
