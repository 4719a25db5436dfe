"""Part of stage ``dedup``: the pairs of copies, by each method that was asked for, as edges in files.

Contents are sorted on disk; hashes and embeddings are compared a block with a block, all of them, but old samples with
old ones. Each piece leaves the lightest forest of its pairs: less than an edge a sample of its two blocks.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from dcfast.dedup.edges import CONTENT, NARROW, SEMANTIC, WIDE
from dcfast.dedup.pairs import Hashed, content_edges, gather, hash_edges
from dcfast.engine.piece import Piece, piece
from dcfast.images.signatures import FLAT_QUALITY
from dcfast.rundir.layout import MERGE_BYTES
from dcfast.rundir.run_dir import Run
from dcfast.stages.dedup.embeddings import match_all_embeddings
from dcfast.stages.dedup.pools import Block, Edged, Found, Pools, block_pairs, edge_path, methods_of
from dcfast.stages.runner import Do
from dcfast.storage.npz import load_array
from dcfast.storage.records import Count, Record
from dcfast.uids.files import UID_DTYPE, uid_records
from dcfast.uids.sets import merge_runs, open_records, record_sort, save_records

_COLUMN = {NARROW: "phash", WIDE: "phash256"}
_CONTENTS = "state/dedup/contents.npy"


class Seen(Record):
    """Of a block: images that can be read, and those of them that are flat by 64 bits, and by 256."""

    readable: Count
    flat: Count
    flat256: Count


def _readable(out: Path, block: Block, columns: Sequence[str]) -> tuple[npt.NDArray[np.void], npt.NDArray[np.int64]]:
    """Columns of the readable images of a block, and the samples' numbers."""
    parts, numbers = [], []
    for begin, name in zip(block.begins, block.files, strict=True):
        signed = load_array(out / name, mmap=True)
        rows = np.flatnonzero(signed["status"] == 0)
        chosen = np.empty(len(rows), [(column, signed.dtype[column]) for column in columns])
        for column in columns:
            chosen[column] = signed[column][rows]
        parts.append(chosen)
        numbers.append(rows + begin)
    return np.concatenate(parts), np.concatenate(numbers).astype(np.int64)


def _flat(signed: npt.NDArray[np.void], method: str) -> npt.NDArray[np.bool_]:
    """(n,) bool: which pictures match nothing by a hash; each of the two has a rule of its own."""
    flat: npt.NDArray[np.bool_] = signed["flat"] == 1 if method == NARROW else signed["quality"] < FLAT_QUALITY
    return flat


@piece(version=2, native=True)
def sort_contents(out: Path, block: Block, output: str) -> Seen:
    """Piece: the content hashes of a block's readable images with the samples' numbers, sorted."""
    signed, numbers = _readable(out, block, ["h0", "h1", "flat", "quality"])
    contents = np.empty(len(signed), UID_DTYPE)
    contents["f0"], contents["f1"] = signed["h0"], signed["h1"]
    save_records(out / output, record_sort(uid_records(contents, numbers.astype(np.uint64)), threads=1))
    return Seen(len(signed), *(int(np.count_nonzero(_flat(signed, method))) for method in (NARROW, WIDE)))


@piece(native=True)
def match_contents(out: Path, runs: Sequence[str], first_new: int, output: str) -> Edged:
    """Piece: the edges between equal contents."""
    merge_runs([out / run for run in runs], out / _CONTENTS, memory_bytes=MERGE_BYTES)
    edges = gather(content_edges(open_records(out / _CONTENTS), first_new))
    save_records(out / output, edges)
    return Edged(len(edges))


def _hashed(out: Path, block: Block, method: str) -> Hashed:
    """The hashes of a block's images that are not flat."""
    column = _COLUMN[method]
    signed, numbers = _readable(out, block, [column, "flat", "quality"])
    structured = np.flatnonzero(~_flat(signed, method))
    return Hashed(np.ascontiguousarray(signed[column][structured]), numbers[structured])


@piece(version=2, native=True)
def match_hashes(
    out: Path,
    method: str,
    first: Block,
    second: Block | None,
    max_distance: int,
    variants: bool,
    output: str,
    threads: int | None = 1,
) -> Edged:
    """Piece: the edges between two blocks, or within one, by perceptual hashes."""
    other = None if second is None else _hashed(out, second, method)
    edges = hash_edges(_hashed(out, first, method), other, max_distance, variants=variants, threads=threads)
    save_records(out / output, edges)
    return Edged(len(edges))


def _hash_pieces(run: Run, blocks: list[Block], method: str) -> Iterator[Piece[Edged]]:
    settings = run.settings
    distance = settings.dedup_max_distance if method == NARROW else settings.dedup_max_distance_256
    threads = None if len(blocks) == 1 else 1  # a single piece has all cores
    for name, first, second in block_pairs(blocks, [block.is_old for block in blocks]):
        output = edge_path(method, name)
        inputs = [*first.files, *(second.files if second is not None else ())]
        match = match_hashes.piece(f"dedup/{method}", name, inputs=inputs, outputs=[output])
        variants = settings.dedup_variants and method == WIDE
        yield match(
            method=method,
            first=first,
            second=second,
            max_distance=distance,
            variants=variants,
            output=output,
            threads=threads,
        )


def find_pairs(run: Run, do: Do, pools: Pools) -> Found:
    """The edges of all methods that were asked for."""
    methods, blocks = methods_of(run.settings), pools.blocks()
    runs = [f"state/dedup/contents/{number:05d}.npy" for number in range(len(blocks))]
    seen = do(
        sort_contents.piece("dedup/contents", f"{number:05d}", inputs=block.files, outputs=[runs[number]])(
            block=block, output=runs[number]
        )
        for number, block in enumerate(blocks)
    )
    own = [its for its, block in zip(seen, blocks, strict=True) if not block.is_old]
    found = Found(
        readable=sum(its.readable for its in own),
        flat=sum(its.flat for its in own),
        flat256=sum(its.flat256 for its in own),
    )
    if CONTENT in methods:
        output = edge_path(CONTENT, "all")
        match = match_contents.piece("dedup/content", "all", inputs=runs, outputs=[output])
        do.one(match(runs=runs, first_new=pools.first_new, output=output))
        found.files.append(output)
    for method in (WIDE, NARROW):
        if method in methods:
            pieces = [*_hash_pieces(run, blocks, method)]
            do(pieces)
            found.files += [its.outputs[0] for its in pieces]
    if SEMANTIC in methods:
        match_all_embeddings(run, do, pools, found)
    return found
