"""Dedup of a million signatures: seconds and memory of everything behind the decoding, by each kind of hash.

Signatures are made up: uniform bits, of which one in a hundred is a copy by its bytes, and one in a hundred is within
a few bits of another. So the answer is known: these pairs and no other, which is checked before a time counts. Each
size runs in a process of its own, whose memory is watched. What is timed are the pieces of the stage, one after the
other by one worker: contents sorted and matched, hashes matched, edges merged, groups made and the kept ones chosen.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from bench import harness
from bench.bars import Value
from bench.harness import require_equal

SIZE, QUICK_SIZE = 1_000_000, 20_000
COPIES = 100
"""One of so many samples is a copy by its bytes, and one is near another."""
SEGMENT_ROWS = 100_000
DISTANCES = {"perceptual256": (31, 20), "perceptual": (4, 3)}
"""Method -> its limit, and the bits that a near copy differs in at most."""


def signatures(rows: int) -> tuple[npt.NDArray[Any], npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Made-up signature records; and for each copy its number and that of what it is a copy of."""
    from dcfast.dedup.records import SIGNATURE_DTYPE

    rng = np.random.default_rng(rows)
    made = np.zeros(rows, SIGNATURE_DTYPE)
    made["width"], made["height"], made["quality"] = 512, 384, 100
    for name in ("h0", "h1", "phash"):
        made[name] = rng.integers(0, 1 << 64, rows, np.uint64, endpoint=False)
    made["phash256"] = rng.integers(0, 1 << 64, (rows, 4), np.uint64, endpoint=False)
    many = max(1, rows // COPIES)
    # originals and copies are different samples, each once
    chosen = rng.permutation(rows)[: 4 * many].reshape(4, many)
    origin, copy = np.concatenate(chosen[:2]), np.concatenate(chosen[2:])
    made[copy] = made[origin]
    near = copy[many:]
    made["h0"][near] ^= np.uint64(1)
    flips = rng.integers(0, DISTANCES["perceptual"][1] + 1, many)
    for bit in range(DISTANCES["perceptual"][1]):
        made["phash"][near] ^= np.where(bit < flips, np.uint64(1) << rng.integers(0, 64, many).astype(np.uint64), 0)
    for _ in range(DISTANCES["perceptual256"][1]):
        word, bit = rng.integers(0, 4, many), rng.integers(0, 64, many).astype(np.uint64)
        made["phash256"][near, word] ^= np.uint64(1) << bit
    return made, origin, copy


def write(folder: Path, rows: int) -> None:
    """The signatures as the stage finds them, and the pairs."""
    made, origin, copy = signatures(rows)
    for number, begin in enumerate(range(0, rows, SEGMENT_ROWS)):
        np.save(folder / f"{number:05d}.npy", made[begin : begin + SEGMENT_ROWS])
    np.save(folder / "pairs.npy", np.sort(np.stack([origin, copy]), axis=0))


def search(folder: Path, rows: int, method: str) -> dict[str, Any]:
    """All pieces of the stage; the seconds of each."""
    from dcfast.dedup.groups import Forest, choose_kept, nodes_of, trace
    from dcfast.stages.dedup.pairs import match_contents, match_hashes, sort_contents
    from dcfast.stages.dedup.pools import Block, PoolPart, Pools, block_pairs
    from dcfast.uids.sets import merge_runs, open_records

    samples = [min(SEGMENT_ROWS, rows - begin) for begin in range(0, rows, SEGMENT_ROWS)]
    cut = Pools([PoolPart("", "", 0, samples)], []).blocks()
    names = iter(f"{number:05d}.npy" for number in range(len(samples)))
    blocks = [Block(block.begins, [next(names) for _ in block.files], is_old=False) for block in cut]
    seconds, began = {}, time.perf_counter()

    def lap(step: str) -> None:
        nonlocal began
        now = time.perf_counter()
        seconds[step], began = round(now - began, 3), now

    (folder / "state/dedup").mkdir(parents=True, exist_ok=True)
    runs = [f"run-{number}.npy" for number in range(len(blocks))]
    for block, run in zip(blocks, runs, strict=True):
        sort_contents.function(folder, block, run)
    match_contents.function(folder, runs, 0, "edges-content.npy")
    lap("content")
    files = ["edges-content.npy"]
    for name, first, second in block_pairs(blocks, [False] * len(blocks)):
        files.append(f"edges-{name}.npy")
        match_hashes.function(folder, method, first, second, DISTANCES[method][0], False, files[-1])
    lap("hashes")
    merge_runs([folder / name for name in files], folder / "edges.npy", memory_bytes=256 << 20)
    edges = open_records(folder / "edges.npy")
    forest = Forest(nodes_of([edges]))
    forest.add(edges)
    count = len(forest.nodes)
    kept = choose_kept(forest.components(), np.zeros(count, np.bool_), np.zeros(count))
    links = trace(forest, kept)
    lap("groups")
    dropped = np.flatnonzero(kept != np.arange(count))
    pairs = np.stack([forest.nodes[kept[dropped]], forest.nodes[dropped]])
    expected = np.load(folder / "pairs.npy")
    require_equal("dcfast", "pairs", pairs, expected[:, np.argsort(expected[1])])
    require_equal("dcfast", "steps", int(links.steps.max(initial=0)), 1)
    return seconds


def measure(bench: harness.Bench, rows: int, methods: Sequence[str], date: str) -> None:
    """One size, in processes of their own."""
    with harness.WorkDir(bench.options) as work:
        write(work, rows)
        for method in methods:
            peak, _, text = harness.peak_memory(["-m", "bench.bench_dedup", "--child", str(work), str(rows), method])
            seconds = json.loads(text.splitlines()[-1])
            note = ", ".join(f"{step} {value:.2f} s" for step, value in seconds.items())
            total = sum(seconds.values())
            name = f"dedup_{method}"
            bench.note_memory(name, "dcfast", peak, shape=f"{rows} signatures", seconds=total, note=note, date=date)


def main(argv: Sequence[str] | None = None) -> dict[str, Value]:
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments[:1] == ["--child"]:
        folder, rows, method = arguments[1:]
        print(json.dumps(search(Path(folder), int(rows), method)), flush=True)
        return {}
    options = harness.parse_options("bench_dedup", arguments, __doc__)
    bench = harness.Bench("bench_dedup", options)
    size, date = QUICK_SIZE if options.quick else SIZE, harness.now()
    measure(bench, size, list(DISTANCES), date)
    return bench.finish()


if __name__ == "__main__":
    main()
