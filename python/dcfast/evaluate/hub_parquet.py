"""Writes a set of Hugging Face's caches as parquet, which evaluation reads without them: texts, and pictures' bytes.

A row group holds at most ``GROUP_BYTES`` of pictures and a row more, and pages have checksums.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import chain, islice
from pathlib import Path

import numpy as np

from dcfast.errors import EvalsetError
from dcfast.evaluate.hub import SPLIT
from dcfast.evaluate.hub_set import PICTURES, Pair, RiddleRow, captions_of, check_hub_set
from dcfast.evaluate.tasks import EvalTask
from dcfast.images.costs import BadImage
from dcfast.storage.atomic import atomic_path

GROUP_BYTES = 32 << 20
MOST_ROW_BYTES = 256 << 20
"""Pictures of a riddle; all of a row are in memory at once."""
_READ_TOGETHER = 16
_FILE = f"{SPLIT}-00000-of-00001.parquet"


def write_hub_parquet(task: EvalTask, folder: Path, out: Path) -> None:
    """Writes the test split of a set as ``out/test/test-00000-of-00001.parquet``, with the columns that are scored.

    Args:
        folder: of the set's parquet or Arrow files.
    Raises:
        EvalsetError: another type of columns, a picture that is not there, a row of too many bytes.
        CorruptDataError: a damaged file.   OSError: it cannot be read or written.
    Memory: the texts, and 300 MiB at most.   Cost: one read of the set.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    opened = check_hub_set(task, folder)
    texts: list[Pair | RiddleRow] = []
    texts += opened.rows(RiddleRow) if opened.kind == "association" else opened.rows(Pair)
    counts = [len(row.candidates or []) if isinstance(row, RiddleRow) else 1 for row in texts]
    if opened.kind == "association":
        opened.take_lengths(counts)
    column = PICTURES[opened.kind]
    picture, words = pa.struct({"bytes": pa.binary(), "path": pa.string()}), pa.list_(pa.string())
    if opened.kind == "association":
        kinds = {"cue": pa.string(), "candidates": words, "associations": words, column: pa.list_(picture)}
    else:
        kinds = {column: picture, "caption": words}
    schema = pa.schema(list(kinds.items()))
    pictures = opened.pictures(sum(counts))
    style = {"compression": "none", "use_dictionary": False, "write_statistics": False, "write_page_checksum": True}
    with (
        atomic_path(out / SPLIT / _FILE) as temporary,
        pq.ParquetWriter(temporary, schema, write_batch_size=1, **style) as writer,
        pictures.read(np.arange(sum(counts)), _READ_TOGETHER) as batches,
    ):
        readers = enumerate(chain.from_iterable(readers for _, readers in batches))
        group: list[dict[str, object]] = []
        held = 0
        for row, count in zip(texts, counts, strict=True):
            images, size = _images(islice(readers, count), pictures.key, folder)
            group.append(_written(row, column, images))
            held += size
            if held >= GROUP_BYTES:
                writer.write_table(pa.Table.from_pylist(group, schema))
                group, held = [], 0
        writer.write_table(pa.Table.from_pylist(group, schema))


def _images(
    readers: Iterator[tuple[int, Callable[[], bytes]]], key: Callable[[int], str], folder: Path
) -> tuple[list[dict[str, object]], int]:
    """The pictures of a row, and their bytes in all."""
    images: list[dict[str, object]] = []
    size = 0
    for number, read in readers:
        try:
            data = read()
        except BadImage as error:
            raise EvalsetError(
                f"{folder}: picture {key(number)} cannot be read: {error}; download the set again"
            ) from None
        size += len(data)
        if size > MOST_ROW_BYTES:
            raise EvalsetError(
                f"{folder}: the pictures of a row have more than {MOST_ROW_BYTES:,} bytes; leave the set out by --sets"
            )
        images.append({"bytes": data, "path": key(number)})
    return images, size


def _written(row: Pair | RiddleRow, column: str, images: list[dict[str, object]]) -> dict[str, object]:
    if isinstance(row, Pair):
        (image,) = images
        return {column: image, "caption": captions_of(row.caption)}
    return {"cue": row.cue, "candidates": row.candidates, "associations": row.associations, column: images}
