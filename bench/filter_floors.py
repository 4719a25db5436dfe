"""What a filter's stage cannot do without, by itself: how far the stage is from it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from bench import harness
from bench.bars import ARROW_FLOOR, FASTTEXT, GCLD3_FLOOR
from bench.filter_pool import FilterPool
from bench.harness import Absent, Side, Timed
from bench.watched import Watched, environment

__all__ = ["FLOORS", "fasttext_side", "floor_side"]

_PREDICT = """
import sys, time
from concurrent.futures import ProcessPoolExecutor
import numpy as np
import pyarrow.parquet as pq

def captions(path):
    from dcfast.filters import rules
    table = pq.read_table(path, columns=["text", "original_width", "original_height"])
    batch = table.combine_chunks().to_batches()[0]
    text = rules.valid_text(batch.column(0))
    sides = rules.numbers(batch.column(1)), rules.numbers(batch.column(2))
    needed = rules.enough_words(text) & rules.enough_characters(text)
    needed &= rules.large_enough(*sides) & rules.moderate_aspect(*sides)
    return [c.replace("\\n", " ") for c in text.take(np.flatnonzero(needed)).to_pylist()]

def seconds_of(path):
    import fasttext
    model = fasttext.load_model(sys.argv[1])
    texts = captions(path)
    began = time.perf_counter()
    for text in texts:
        model.predict(text, 1)
    return time.perf_counter() - began

if __name__ == "__main__":
    with ProcessPoolExecutor(int(sys.argv[2])) as pool:
        print(sum(pool.map(seconds_of, sys.argv[3:])) / int(sys.argv[2]))
"""


_ARROW = """
import sys
from concurrent.futures import ThreadPoolExecutor
import numpy as np, pyarrow as pa, pyarrow.parquet as pq

def copy(path):
    uids = pq.read_table(path, columns=["uid"], use_threads=False)["uid"]
    kept = pa.DictionaryArray.from_arrays(pa.array(np.zeros(len(uids), np.int32)), pa.array(["kept"]))
    row = pa.array(np.arange(len(uids), dtype=np.uint32))
    table = pa.table({"shard": kept, "row": row, "key": uids, "uid": uids, "fate": kept, "reason": kept})
    options = {"use_dictionary": ["shard", "fate", "reason"], "write_statistics": False, "compression": "none"}
    pq.write_table(table, f"{sys.argv[2]}/{hash(path)}.parquet", store_schema=False, **options)
    return len(uids)

with ThreadPoolExecutor(int(sys.argv[1])) as pool:
    np.zeros(2 * sum(pool.map(copy, sys.argv[3:])), np.uint64).tofile(f"{sys.argv[2]}/subset.npy")
"""
_GCLD3 = """
import sys
from concurrent.futures import ProcessPoolExecutor
import pyarrow.compute as pc, pyarrow.parquet as pq

def ask(path):
    import gcld3
    find = gcld3.NNetLanguageIdentifier(min_num_bytes=0, max_num_bytes=1000).FindLanguage
    table = pq.read_table(path, columns=["text", "clip_b32_similarity_score"])
    for text in table.filter(pc.greater_equal(table["clip_b32_similarity_score"], 0.28))["text"].to_pylist():
        find(text=text.replace("\\n", " "))

if __name__ == "__main__":
    with ProcessPoolExecutor(int(sys.argv[1])) as pool:
        list(pool.map(ask, sys.argv[3:]))
"""
FLOORS = {
    # what has to be done however the rest is: it answers nothing
    "no_filter": (ARROW_FLOOR, _ARROW, "reads the column uid, and writes as wide a table and subset"),
    "clip_score": (ARROW_FLOOR, _ARROW, "reads the column uid, and writes as wide a table and subset"),
    "laion2b": (GCLD3_FLOOR, _GCLD3, "gcld3 alone, of the captions whose score suffices"),
}


def floor_side(name: str, pool: FilterPool, threads: int, work: Path) -> Side:
    """A floor, as a whole process like the stage."""
    provider, script, note = FLOORS[name]
    out = work / "floor"
    command = [sys.executable, "-W", "ignore", "-c", script, str(threads), str(out), *map(str, pool.metadata)]
    watched = Watched(command, harness.REPO_ROOT, environment())
    return Side(provider, watched.run, lambda _: None, harness.emptied(out), threads=threads, note=note)


def fasttext_side(bench: harness.Bench, pool: FilterPool, threads: int) -> Side | Absent:
    """fastText's predict of the captions that no cheaper rule has dropped, in as many processes, and nothing else."""
    try:
        import fasttext  # noqa: F401
        from dcfast.filters.language import find_model
    except ImportError as error:
        return Absent(FASTTEXT, str(error))
    command = [
        sys.executable,
        "-W",
        "ignore",
        "-c",
        _PREDICT,
        str(find_model()),
        str(threads),
        *map(str, pool.metadata),
    ]

    def run() -> Timed:
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        return Timed(float(done.stdout), None)

    return Side(
        FASTTEXT, run, lambda _: None, threads=threads, once=True, note="predict alone, of the rows that need it"
    )
