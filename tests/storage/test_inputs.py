"""Named pipes, sockets, devices and directories in the place of files: refused by name, at once, for every kind of
input. The opening of a pipe would wait for who writes to it, perhaps for ever.
"""

from __future__ import annotations

import errno
import os
import re
import signal
import socket
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path
from typing import Any

import dcfast
import pytest
from dcfast.errors import CorruptDataError
from dcfast.evaluate import bundle, evalset, hub_set, import_set, place_set, results, tasks
from dcfast.filters import language, wordnet
from dcfast.hub import read_lock
from dcfast.hub.assets import read_assets_lock
from dcfast.hub.hashes import hashes_of
from dcfast.importing import datasets, pictures, tables
from dcfast.importing import shards as imported_shards
from dcfast.importing.account import Account
from dcfast.importing.fields import CAPTIONS
from dcfast.index.build import index_tars
from dcfast.index.metadata import count_metadata_rows
from dcfast.index.segments import Segment
from dcfast.interop.energon_files import read_energon, read_energon_idx, read_energon_members
from dcfast.interop.ratarmount import read_ratarmount
from dcfast.interop.sizes import read_sizes
from dcfast.interop.wds2idx import read_wds2idx
from dcfast.interop.wids import read_wids
from dcfast.resharding import boxes
from dcfast.resharding.sources import open_subset
from dcfast.rundir import claim, recorder, summaries
from dcfast.stages.filter import score_files
from dcfast.storage.atomic import copy_file, link_or_copy
from dcfast.storage.hashing import hash_file, sha256_file
from dcfast.storage.inputs import check_input, open_input, read_input
from dcfast.storage.json_files import read_json
from dcfast.storage.lines import iterate_lines, read_lines
from dcfast.storage.npz import iterate_npz, load_array, npz_arrays
from dcfast.storage.parquet import read_table
from dcfast.train.journal import drop_later_lines
from dcfast.uids import load_subset, open_records


def checkpoint(path: Path) -> Any:
    pytest.importorskip("torch")
    from dcfast.models.checkpoint import read_checkpoint

    return read_checkpoint(path)


def embeddings(path: Path) -> Any:
    pytest.importorskip("torch")
    from dcfast.stages.filter.clusters import load_embeddings

    return load_embeddings(path, "centroids")


def shard_of_a_set(path: Path) -> Any:
    return index_tars([path])


def language_model(path: Path) -> Any:
    pytest.importorskip("fasttext")
    return language._load(str(path))


def table(path: Path) -> Any:
    return list(tables.read_rows(path, tables.columns_named("", "", CAPTIONS), Account()))


def caption_beside(path: Path) -> Any:
    return pictures._beside(str(path.parent), "a.jpg", path.name, "")


def picture_of_a_row(path: Path) -> Any:
    """The picture is counted, with what is wrong."""
    account = Account()
    assert datasets._from_file(str(path.parent), "", path.name, "row", account) is None
    raise OSError(account.record.lines[0])


def copied(path: Path) -> None:
    def no_links(source: object, target: object) -> None:
        raise OSError(errno.EXDEV, "another disk")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "link", no_links)
        link_or_copy(path, path.parent / "copy")


def score_file(path: Path) -> Any:
    return list(score_files._score_batches(str(path), "score", [0]))


def packed_file(path: Path) -> None:
    state = place_set.SetFile(3, "0" * 64)
    bundle.write_bundle(path.parent / "b.tar", {"wds_a_test/test/0.tar": (path, state)}, lambda size: None)


def energon_members(path: Path) -> Any:
    (path.parent / ".info.json").write_text('{"shard_counts": {}}')
    return read_energon_members(path.parents[1])


INPUTS: dict[str, tuple[str, Callable[[Path], Any]]] = {
    "picture": ("p.png", dcfast.perceptual_hash),
    "subset": ("s.npy", load_subset),
    "subset, read": ("s.npy", lambda path: load_subset(path, mmap=False)),
    "subset of a reshard": ("s.npy", open_subset),
    "uid records": ("pool.npy", open_records),
    "npy": ("a.npy", load_array),
    "npy, mapped": ("a.npy", lambda path: load_array(path, mmap=True)),
    "centroids": ("c.npy", embeddings),
    "npz": ("a.npz", npz_arrays),
    "npz, in blocks": ("a.npz", lambda path: list(iterate_npz(path, "a"))),
    "parquet": ("a.parquet", read_table),
    "evaluation set of the hub": ("test.parquet", hub_set._schema),
    "evaluation set of the hub, Arrow": ("x-test.arrow", hub_set._schema),
    "metadata": ("a.parquet", count_metadata_rows),
    "json": ("a.json", read_json),
    "a stage's summary": ("index.json", lambda path: summaries.read_summary(path, summaries.IndexSummary)),
    "settings": ("settings.json", claim.read_settings),
    "boxes' map": ("map.json", boxes._files_of_map),
    "sizes.json": ("a.json", read_sizes),
    "wids": ("a.json", read_wids),
    "DALI's index": ("a.idx", read_wds2idx),
    "energon's index of a tar": ("a.tar.idx", read_energon_idx),
    "energon's counts": (".nv-meta/.info.json", lambda path: read_energon(path.parents[1])),
    "energon's database": (".nv-meta/index.sqlite", energon_members),
    "ratarmount's index": ("a.tar.index.sqlite", read_ratarmount),
    "lines": ("a.txt", read_lines),
    "lines, one by one": ("a.txt", lambda path: list(iterate_lines(path))),
    "class names": ("classnames.txt", lambda path: evalset._lines(path, "")),
    "riddles": ("riddles.json", lambda path: evalset._raw_riddles(path.parent)),
    "tasks": ("tasks.json", tasks.read_task_table),
    "bundle of sets": ("b.tar", lambda path: bundle.open_bundle(str(path)).__enter__()),
    "file of a bundle": ("0.tar", packed_file),
    "file of a set that is hashed": ("0.tar", place_set.file_state),
    "copied": ("a.tar", lambda path: copy_file(path, path.parent / "copy")),
    "results": ("eval_results.jsonl", results.load_results),
    "checkpoint": ("a.pt", checkpoint),
    "checkpoint, safetensors": ("a.safetensors", checkpoint),
    "index segment": ("segment-00000.dcx", Segment.open),
    "shard": ("a.tar", shard_of_a_set),
    "hash": ("a", hash_file),
    "SHA-256": ("a", sha256_file),
    "bytes": ("a", lambda path: read_input(path, 10)),
    "checked": ("a", check_input),
    "opened": ("a", open_input),
    "WordNet": ("index.noun", lambda path: wordnet._read(path.parent, path.name)),
    "WordNet's zip": ("wordnet.zip", lambda path: wordnet._read(path, "index.noun")),
    "log of a training": ("log.jsonl", lambda path: drop_later_lines(path, 1)),
    "language model": ("lid.bin", language_model),
    "import: csv": ("a.csv", table),
    "import: jsonl": ("a.jsonl", table),
    "import: parquet": ("a.parquet", table),
    "import: Arrow": ("a.arrow", lambda path: datasets._shape(str(path))),
    "import: parquet with pictures": ("a.parquet", lambda path: datasets._shape(str(path))),
    "import: a caption": ("a.txt", caption_beside),
    "import: a picture of a row": ("a.jpg", picture_of_a_row),
    "import: a shard that is copied": ("a.tar", lambda path: imported_shards._copy(str(path), path.parent / "copy")),
    "copied where no link can be": ("a.dcx", copied),
    "class names of a set": ("names.txt", import_set._lines),
    "class names of a set, json": ("names.json", lambda path: import_set._named_classes([], False, str(path))),
    "score file": ("a.parquet", score_file),
    "hub lock": ("hub.lock.json", read_lock),
    "assets lock": ("assets.lock.json", lambda path: read_assets_lock(path.parent)),
    "file of a hub": ("a.parquet", hashes_of),
    "progress of a run": ("progress.json", lambda path: recorder.read_progress(path.parent)),
}
"""Input -> its file's name, and how it is read."""


def pipe(path: Path) -> None:
    os.mkfifo(path)


def unix_socket(path: Path) -> None:
    here = os.getcwd()
    os.chdir(path.parent)  # names of sockets are short
    try:
        socket.socket(socket.AF_UNIX).bind(path.name)
    finally:
        os.chdir(here)


def link_to(target: str) -> Callable[[Path], None]:
    return lambda path: path.symlink_to(target)


KINDS: dict[str, Callable[[Path], None]] = {
    "a named pipe": pipe,
    "a socket": unix_socket,
    "a device": link_to("/dev/zero"),
    "a directory": lambda path: path.mkdir(),
}


@pytest.fixture(autouse=True)
def at_once() -> Iterator[None]:
    """Who waits is woken, and has failed."""

    def woken(number: int, frame: object) -> None:
        raise AssertionError("it waited")

    before = signal.signal(signal.SIGALRM, woken)
    signal.alarm(20)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


FOLDER_TOO = ("sizes.json", "a directory")
"""The directory of the shards may be given."""


@pytest.mark.parametrize(("name", "kind"), sorted({*product(INPUTS, KINDS)} - {FOLDER_TOO}))
def test_what_is_no_file_is_refused_by_name(name: str, kind: str, tmp_path: Path) -> None:
    file, read = INPUTS[name]
    path = tmp_path / file
    path.parent.mkdir(exist_ok=True)
    KINDS[kind](path)
    with pytest.raises((OSError, ValueError, ImportError)) as caught:
        read(path)
    said = str(caught.value)
    assert file in said
    assert re.search(
        r"is a directory|Is a directory|is a (named pipe|socket|device)|a pipe, socket or device|outside of the", said
    ), said


def test_a_file_that_is_one(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"abc")
    (tmp_path / "link").symlink_to(path)
    with open_input(tmp_path / "link") as file:
        assert (file.read(), file.name) == (b"abc", str(tmp_path / "link"))
    assert read_input(path, 3) == b"abc"
    with pytest.raises(CorruptDataError, match="a is too large: expected at most 2 bytes"):
        read_input(path, 2)
    with pytest.raises(FileNotFoundError):
        open_input(tmp_path / "none")
    with pytest.raises(OSError, match="is no name of a file"):
        open_input("a\0b")
    assert read_input("/proc/self/status", 1 << 24)  # the system tells its size as 0


OWN = {
    "acquire/files.py", "acquire/spool.py", "images/resize.py", "hub/transfer.py",
    "importing/pictures.py", "importing/shards.py", "rundir/recorder.py",
    "doctor/checks.py", "evaluate/evaluation.py", "evaluate/bundle.py", "images/signatures.py", "models/checkpoint.py",
    "models/clip.py", "process/command.py",
    "report/facts/inventory.py", "resharding/boxes.py", "resharding/edit.py", "resharding/files.py",
    "resharding/output.py", "run/manifest.py", "storage/atomic.py", "storage/inputs.py",
    "storage/npz.py", "storage/cache.py", "train/caption_table.py", "study/execute.py", "train/checkpoint.py",
    "train/evaluating.py", "train/heartbeat.py", "train/ranks.py",
    "world/files.py", "world/languages.py", "features/embed.py",
    "resharding/far.py", "index/fetched.py", "storage/lock.py", "storage/whole.py", "storage/zip_directory.py",
    "decontamination/signing.py", "loss/torch_backend/tiles.py",
}  # fmt: skip
"""Open files that they have just written, that belong to the system, or that ``check_input`` has seen."""


def test_every_other_opening_has_a_row(repo_root: Path) -> None:
    """Whoever opens a file that somebody names goes through ``dcfast.storage.inputs``, and has a row above."""
    package = repo_root / "python/dcfast"
    pattern = r"(?<!def )(?<![\w.])open\(|\.open\(\"|\.read_bytes\(|\.read_text\(|os\.open\(|ZipFile\("
    found = {
        str(path.relative_to(package))
        for path in package.rglob("*.py")
        if re.search(pattern, re.sub("``.*?``", "", path.read_text(encoding="utf-8")))  # without examples
    }
    assert found - OWN == set()
