"""Where evaluation sets of Hugging Face's hub lie: in ``hf_cache``, as DataComp's download leaves it, or as parquet.

DataComp fetches retrieval and WinoGAViL by ``datasets.load_dataset(..., cache_dir="DIR/hf_cache")``. What is there
then is the library's cache, whose layout changed with its versions:

- ``OWNER___NAME/CONFIG/VERSION/HASH/NAME-test.arrow``, and ``dataset_info.json`` beside it
- ``OWNER___parquet/OWNER--NAME-HASH/VERSION/HASH/parquet-test.arrow`` (before 2.14, of sets that are parquet there)
- ``datasets--OWNER--NAME/snapshots/REVISION/**/test-00000-of-00001.parquet``, ``**/test/0000.parquet``: the hub's own

Large splits are cut (``-test-00000-of-00003.arrow``). The same files may lie in a ``wds_*_test`` directory of the set.
Nothing here opens one of them.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

CACHE = "hf_cache"
INFO = "dataset_info.json"
SPLIT = "test"
SUFFIXES = (".arrow", ".parquet")
_NAMED = re.compile(rf"(?:.*[-_])?{SPLIT}(?:-(\d{{5}})-of-(\d{{5}}))?\.(?:arrow|parquet)")
_DEPTH = 6
_PARTIAL = ".incomplete"


def is_hub_file(name: str) -> bool:
    """Whether a file of a set is parquet or Arrow, and no tar."""
    return name.endswith(SUFFIXES)


def hub_files(folder: Path) -> list[Path]:
    """The files of the test split in a folder, in order: parquet or Arrow, never both; none where it holds none.

    A ``wds_*_test`` directory may have them in ``test/``, where its tars would be; with a tar it is none of the hub.
    """
    files: list[Path] = []
    for directory in (folder, folder / SPLIT):
        try:
            paths = [directory / name for name in sorted(os.listdir(directory))]
        except (FileNotFoundError, NotADirectoryError):
            continue
        if any(path.suffix == ".tar" for path in paths):
            return []
        mine = [path for path in paths if directory.name == SPLIT or _NAMED.fullmatch(path.name)]
        for suffix in SUFFIXES:
            files = files or [p for p in mine if p.suffix == suffix and not p.name.startswith("cache-")]
    return files


def missing_parts(files: list[Path]) -> str:
    """What is not there of a split that is cut, in words; empty where it is whole."""
    names = [match for file in files if (match := _NAMED.fullmatch(file.name)) is not None and match[2]]
    if not names:
        return ""
    total, numbers = int(names[0][2]), {int(match[1]) for match in names}
    absent = next((number for number in range(min(total, 100_000)) if number not in numbers), None)
    return "" if absent is None else f"part {absent} of {total} is not there (numbers from 0)"


def _roots(cache: Path, hub: str) -> Iterator[Path]:
    owner, _, name = hub.lower().partition("/")
    for folder in _folders(cache):
        lower = folder.name.lower()
        if lower in (f"{owner}___{name}", f"datasets--{owner}--{name}", f"{owner}--{name}"):
            yield folder
        elif lower in (f"{owner}___parquet", "parquet"):
            yield from (inner for inner in _folders(folder) if inner.name.lower().startswith(f"{owner}--{name}-"))


def _folders(directory: Path) -> list[Path]:
    """The folders in a directory, sorted; none where it cannot be listed."""
    try:
        return sorted(Path(entry.path) for entry in os.scandir(directory) if entry.is_dir())
    except OSError:
        return []


def _below(root: Path, depth: int) -> Iterator[Path]:
    if not root.name.endswith(_PARTIAL):
        yield root
        if depth:
            for folder in _folders(root):
                yield from _below(folder, depth - 1)


def find_hub_set(directory: Path, hub: str) -> Path | None:
    """The folder of a hub's set below ``directory/hf_cache``: the one written last where there are several.

    Args:
        hub: ``OWNER/NAME``.
    """
    written = []
    for root in _roots(directory / CACHE, hub):
        for folder in _below(root, _DEPTH):
            files = [file for file in hub_files(folder) if file.parent == folder]
            if files:
                written.append((max(file.stat().st_mtime_ns for file in files), str(folder)))
    return Path(max(written)[1]) if written else None
