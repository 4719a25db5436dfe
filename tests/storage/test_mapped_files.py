"""Mapped files that are cut while they are in use: an error with the file's name, never the end of the interpreter."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = r"""
import os, sys, threading
from pathlib import Path
import numpy as np
from dcfast._core import reshard as core_reshard, uids as core_uids
from dcfast.dedup.records import SIGNATURE_DTYPE
from dcfast.errors import CorruptDataError
from dcfast.filters import score_histogram
from dcfast.index.build import write_segment
from dcfast.index.segments import Segment
from dcfast.resharding.sources import open_subset
from dcfast.storage.npz import load_array
from dcfast.uids import load_subset, open_records, save_records, save_subset, uid_isin, uid_lookup, uid_sort, uid_union
from tar_reference import make_tar, sample_members

folder = Path(sys.argv[1])
drawn = np.random.default_rng(0)
UIDS = uid_sort(drawn.integers(0, 1 << 63, (60_000, 2), dtype=np.uint64).view("u8,u8").ravel())
FEW = UIDS[::100].copy()

def subset(path):
    save_subset(path, UIDS)
    return load_subset(path, check=False)

def raw(path):
    path.write_bytes(UIDS.tobytes())
    return load_subset(path, check=False)

def records(path):
    out = np.zeros(len(UIDS), "u8,u8,u8")
    out["f0"], out["f1"] = UIDS["f0"], UIDS["f1"]
    save_records(path, out)
    return open_records(path)

def reshard_subset(path):
    save_subset(path, UIDS)
    return np.frombuffer(open_subset(path), "u8,u8")

def array(path):
    with open(path, "wb") as file:
        np.save(file, drawn.standard_normal((4000, 64)).astype(np.float32))
    return load_array(path, mmap=True)

def columns(path):
    with open(path, "wb") as file:
        np.save(file, np.asfortranarray(drawn.standard_normal((4000, 64))))
    return load_array(path, mmap=True)

def signatures(path):
    with open(path, "wb") as file:
        np.save(file, np.zeros(4000, SIGNATURE_DTYPE))
    return load_array(path, mmap=True)

def scores(path):
    with open(path, "wb") as file:
        np.save(file, drawn.standard_normal(40_000).astype(np.float32))
    return load_array(path, mmap=True)

def segment(path):
    # the keys are the longest section: a segment of tens of pages
    make_tar(folder / "many.tar", [m for i in range(2000) for m in sample_members(i, 10)])
    write_segment([(folder / "many.tar", "many.tar")], path)
    return Segment.open(path, verify=False)

def in_a_thread(a):
    reader = threading.Thread(target=lambda: a["f0"].sum())
    reader.start()
    try:
        reader.join()
    finally:
        reader.join()  # the error may come while it still reads, and holds the map

USES = {
    "subset": (subset, [
        lambda a: uid_isin(FEW, a), lambda a: a["f1"].sum(), lambda a: np.array(a), lambda a: uid_sort(a[::-1]),
        lambda a: uid_union(a, FEW, check=False), lambda a: uid_lookup(FEW, a), in_a_thread,
    ]),
    "raw subset": (raw, [lambda a: uid_isin(FEW, a, check=False), lambda a: a["f0"].max()]),
    "records": (records, [lambda a: uid_lookup(a, FEW), lambda a: a["f2"].sum()]),
    "subset of a reshard": (reshard_subset, [lambda a: core_uids.uid_first_unsorted(a, 0), lambda a: a["f0"].sum()]),
    "centroids": (array, [lambda a: a @ a[0], lambda a: a.sum()]),
    "columns first": (columns, [lambda a: a[:, -1].sum()]),
    "signatures": (signatures, [
        lambda a: int(a[3999]["h0"]), lambda a: np.flatnonzero(a["status"] == 0),
    ]),
    "scores": (scores, [lambda a: score_histogram(a), lambda a: score_histogram(a[10_000:])]),
    "segment": (segment, [
        lambda s: s.keys(), lambda s: s.uid["f0"].sum(), lambda s: s.members_of(0, s.num_samples),
        lambda s: s.image_member(), lambda s: s.members(), lambda s: s.samples(), lambda s: s.uid_hex(),
    ]),
}

for name, (make, uses) in USES.items():
    for number, use in enumerate(uses):
        path = folder / f"{name} {number}"
        path.unlink(missing_ok=True)
        opened = make(path)
        os.truncate(path, 2 * 4096)
        try:
            use(opened)
            for _ in range(100):  # the error of a read that the core did not make comes at a step of Python
                pass
            print(f"{name} {number}: nothing was said")
        except CorruptDataError as error:
            told = error.path == str(path) and "was cut while it was read" in str(error)
            print(f"{name} {number}:", "named" if told else f"not named: {error}")
        del opened
whole = subset(folder / "whole")
print("afterwards", bool(uid_isin(FEW, whole).all()))
"""


@pytest.mark.lint
def test_every_kind_of_map(tmp_path: Path, repo_root: Path) -> None:
    path = os.pathsep.join([str(repo_root / "tests/helpers"), *sys.path])
    command = [sys.executable, "-X", "faulthandler", "-c", SCRIPT, str(tmp_path)]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=200, check=False, env={**os.environ, "PYTHONPATH": path}
    )
    assert done.returncode == 0, (done.returncode, done.stderr[-2000:], done.stdout)
    *said, last = done.stdout.splitlines()
    assert last == "afterwards True"
    assert len(said) >= 20
    assert [line for line in said if not line.endswith(": named")] == []


MAPPED = {
    "resharding/boxes.py", "resharding/plan.py", "stages/verify.py", "train/source.py", "train/source_files.py",
    "stages/filter/fates.py", "stages/filter/clusters.py", "stages/filter/centroids.py",
    "report/facts/metadata_rows.py", "features/metadata.py",
    "stages/filter/score_columns.py", "stages/filter/score_arrays.py", "stages/filter/semantic.py",
    "stages/filter/item_clusters.py",
    "stages/filter/outcomes.py", "inspection/copies.py", "inspection/facts.py",
    "decontamination/matching.py", "dedup/blocks.py", "stages/dedup/embeddings.py", "stages/dedup/nodes.py",
    "stages/dedup/pairs.py",
}  # fmt: skip
"""Users of ``load_array(..., mmap=True)``, which the table has as "centroids", "columns first", "signatures"
and "scores"."""


def test_nothing_is_mapped_beside_the_guard(repo_root: Path) -> None:
    """A new user of a map needs a row above; numpy's own maps have no guard."""
    package, unguarded, users = repo_root / "python/dcfast", set(), set()
    for path in package.rglob("*.py"):
        text, name = path.read_text(encoding="utf-8"), str(path.relative_to(package))
        if re.search(r"np\.memmap\(|open_memmap\(|mmap_mode=|^import mmap|\.from_file\(", text, re.MULTILINE):
            unguarded.add(name)
        if "load_array(" in text and "mmap=True" in text:
            users.add(name)
    assert unguarded == {"resharding/plan.py"}  # rows in a file without a name, that nobody else can open
    assert users == MAPPED


@pytest.mark.parametrize("count", [0, 1])
def test_small_files_are_arrays_like_others(tmp_path: Path, count: int) -> None:
    import numpy as np
    from dcfast.storage.npz import load_array

    np.save(tmp_path / "a.npy", np.ones((count, 3)))
    found = load_array(tmp_path / "a.npy", mmap=True)
    assert (found.shape, found.sum(), found.flags.writeable) == ((count, 3), 3 * count, False)
