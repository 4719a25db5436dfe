"""Part of stage ``dedup``: pairs of samples whose embeddings are alike, by the npz files beside the metadata.

The rows of the metadata that have a sample are found by uid, and their embeddings written one after the other, as they
are; then they are compared a block with a block. A sample that two rows have a uid of is compared by both.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from dcfast.dedup.blocks import FileRows, RowsOf, cut
from dcfast.dedup.edges import SEMANTIC
from dcfast.dedup.pairs import Embedded, semantic_edges
from dcfast.engine.piece import piece
from dcfast.errors import PoolError
from dcfast.features.files import sibling_npz
from dcfast.index.metadata import open_metadata, parse_uids
from dcfast.index.rows import split_row_ids
from dcfast.rundir.run_dir import Run
from dcfast.stages.dedup.pools import Edged, Found, PoolPart, Pools, block_pairs, edge_path
from dcfast.stages.runner import Do
from dcfast.storage.npz import Array, iterate_npz, load_array, npz_arrays, save_array, write_npy
from dcfast.storage.records import Count, Record
from dcfast.uids.sets import open_records, save_records, uid_lookup

BLOCK_ROWS = 1 << 18
"""Embeddings of a block."""
_ROWS_AT_ONCE = 8_192
_ABSENT, _INVALID = -1, -2


class Placed(Record):
    """Of some metadata files: embeddings of samples; those that are zero or no finite numbers, and so match nothing."""

    rows: Count
    invalid: Count


class Placing(Record):
    """Where the embeddings of some metadata files go, and the numbers of their samples."""

    files: list[str]
    rows: str
    numbers: str


def embedding_kind(npz: Path, name: str) -> Array:
    """Shape and dtype of an array of embeddings. PoolError: it is not there, or no floats of two dimensions."""
    array = npz_arrays(npz).get(name) if npz.is_file() else None
    if array is None:
        raise PoolError(
            f"duplicates by embeddings need the array {name!r} of {npz}: download the pool's npz files, make them "
            "(--features l14=ViT-L-14:openai), or leave the method semantic out"
        )
    if len(array.shape) != 2 or array.dtype.kind != "f":
        raise PoolError(
            f"{npz}, {name}: expected floats of shape (rows, dimensions); got {array.dtype} of shape {array.shape}: "
            "write it so"
        )
    return array


def _sample_numbers(
    path: str, uid_from: str, known: npt.NDArray[np.void], part: PoolPart, begins: npt.NDArray[np.int64]
) -> npt.NDArray[np.int64]:
    """(n,) of a metadata file's rows: the number of the first sample of the row's uid, or _ABSENT."""
    parts = [np.empty(0, np.int64)]
    with open_metadata(path, uid_from) as file:
        for batch in file.batches(["uid"]):
            uids, valid = parse_uids(batch)
            first, count = uid_lookup(known, uids, threads=1)
            there = valid & (count > 0)
            shard, row = split_row_ids(np.ascontiguousarray(known["f2"][first[there]]))
            numbers = np.full(len(uids), _ABSENT)
            numbers[there] = begins[shard] + row + part.first
            parts.append(numbers)
    return np.concatenate(parts)


def _placed(
    out: Path, name: str, array: str, numbers: npt.NDArray[np.int64]
) -> Iterator[tuple[npt.NDArray[np.floating], npt.NDArray[np.int64]]]:
    """The embeddings of a metadata file, block by block, and the numbers of their samples, _INVALID where unusable."""
    at = 0
    for block in iterate_npz(out / sibling_npz(name), array, _ROWS_AT_ONCE):
        length = np.linalg.norm(block.astype(np.float64), axis=1)
        its = numbers[at : at + len(block)]
        at += len(block)
        yield block, np.where((its >= 0) & ~(np.isfinite(length) & (length > 0)), _INVALID, its)


@piece(native=True)
def place_embeddings(out: Path, placing: Placing, array: str, part: PoolPart, uid_from: str) -> Placed:
    """Piece: the embeddings of some metadata files' rows that have a sample, as one npy, and the samples' numbers.

    Memory: 16 bytes a row of the files, and a block of 8,192 embeddings.
    """
    known, begins = open_records(out / f"{part.place}index/pool.npy"), load_array(out / part.shard_begins, mmap=True)
    kinds = [embedding_kind(out / sibling_npz(name), array) for name in placing.files]
    numbers = [_sample_numbers(str(out / name), uid_from, known, part, begins) for name in placing.files]
    for name, kind, rows in zip(placing.files, kinds, numbers, strict=True):
        if kind.shape[0] != len(rows):
            raise PoolError(f"{sibling_npz(name)} has {kind.shape[0]} rows and {name} {len(rows)}; get both anew")
        if (kind.shape[1], kind.dtype) != (kinds[0].shape[1], kinds[0].dtype):
            raise PoolError(
                f"{sibling_npz(name)}, {array}: {kind.dtype} of {kind.shape[1]} dimensions, and {kinds[0].dtype} of "
                f"{kinds[0].shape[1]} in {sibling_npz(placing.files[0])}: compute all by one model"
            )

    def blocks() -> Iterator[tuple[npt.NDArray[np.floating], npt.NDArray[np.int64]]]:
        for name, rows in zip(placing.files, numbers, strict=True):
            yield from _placed(out, name, array, rows)

    whole = np.concatenate([np.empty(0, np.int64), *(its for _, its in blocks())])
    held = whole[whole >= 0]
    write_npy(
        out / placing.rows, (len(held), kinds[0].shape[1]), kinds[0].dtype, (block[its >= 0] for block, its in blocks())
    )
    save_array(out / placing.numbers, held)
    return Placed(len(held), int(np.count_nonzero(whole == _INVALID)))


class EmbeddingBlock(Record):
    """Rows of the files of embeddings and those of the files of their samples' numbers."""

    rows: list[RowsOf]
    numbers: list[RowsOf]
    is_old: bool

    @property
    def files(self) -> list[str]:
        return list(dict.fromkeys(part.path for part in (*self.rows, *self.numbers)))


def _embedded(out: Path, block: EmbeddingBlock) -> Embedded:
    numbers = [load_array(out / part.path, mmap=True)[part.begin : part.end] for part in block.numbers]
    return Embedded(FileRows(out, block.rows), np.concatenate(numbers))


@piece()
def match_embeddings(
    out: Path,
    first: EmbeddingBlock,
    second: EmbeddingBlock | None,
    threshold: float,
    output: str,
    threads: int | None = 1,
) -> Edged:
    """Piece: the edges between two blocks, or within one, by embeddings."""
    other = None if second is None else _embedded(out, second)
    edges = semantic_edges(_embedded(out, first), other, threshold, threads=threads)
    save_records(out / output, edges)
    return Edged(len(edges))


def _placings(run: Run, part: PoolPart) -> list[Placing]:
    tag = f"state/dedup/embeddings/{part.place.replace('/', '-')}"
    return [
        Placing(files, f"{tag}{number:05d}-rows.npy", f"{tag}{number:05d}-numbers.npy")
        for number, (_, files) in enumerate(run.metadata_groups())
    ]


def _blocks(run: Run, do: Do, pools: Pools, found: Found) -> list[EmbeddingBlock]:
    """The embeddings of all pools, in blocks."""
    array, blocks = run.settings.dedup_embeddings, []
    for part, its in zip(pools.parts, pools.runs, strict=True):
        placings = _placings(its, part)
        placed = do(
            place_embeddings.piece(
                "dedup/embeddings",
                f"{part.place.replace('/', '-')}{number:05d}",
                inputs=[
                    *placing.files,
                    *map(sibling_npz, placing.files),
                    f"{part.place}index/pool.npy",
                    part.shard_begins,
                ],
                outputs=[placing.rows, placing.numbers],
            )(placing=placing, array=array, part=part, uid_from=its.settings.uid_from)
            for number, placing in enumerate(placings)
        )
        counts = [one.rows for one in placed]
        rows = cut([(one.rows, count) for one, count in zip(placings, counts, strict=True)], BLOCK_ROWS)
        numbers = cut([(one.numbers, count) for one, count in zip(placings, counts, strict=True)], BLOCK_ROWS)
        is_old = part is not pools.own
        blocks += [EmbeddingBlock(*both, is_old) for both in zip(rows, numbers, strict=True)]
        if not is_old:
            found.embedded, found.invalid = sum(counts), sum(one.invalid for one in placed)
    return blocks


def match_all_embeddings(run: Run, do: Do, pools: Pools, found: Found) -> None:
    """Adds to ``found`` the edges by embeddings."""
    blocks, pieces = _blocks(run, do, pools, found), []
    threads, threshold = None if len(blocks) == 1 else 1, run.settings.dedup_similarity
    for name, first, second in block_pairs(blocks, [block.is_old for block in blocks]):
        output = edge_path(SEMANTIC, name)
        inputs = dict.fromkeys([*first.files, *(second.files if second is not None else ())])
        match = match_embeddings.piece(f"dedup/{SEMANTIC}", name, inputs=inputs, outputs=[output])
        pieces.append(match(first=first, second=second, threshold=threshold, output=output, threads=threads))
    do(pieces)
    found.files += [its.outputs[0] for its in pieces]
