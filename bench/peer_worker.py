"""Runs peers in an interpreter that has them: one JSON request a line in, one JSON reply a line out.

It imports nothing of dcfast. A reply is {"value": ...} or {"error": "why not"}; timed work replies with the seconds
that it took in this process, imports left out.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
import sys
import time
from collections.abc import Callable
from typing import Any


def _wds2idx() -> Any:
    """DALI's wds2idx module: installed beside the packages, or as a script beside the interpreter."""
    try:
        import wds2idx

        return wds2idx
    except ImportError:
        raise LookupError("no wds2idx: pip install nvidia-dali-cuda130 (or 120), or pass --peers-python") from None


def _wids() -> Any:
    """The module of wids that indexes a tar; loaded by its path, because the package wants torch."""
    package = importlib.util.find_spec("wids")
    if package is None or not package.submodule_search_locations:
        raise LookupError("no wids: pip install 'webdataset<1' (1.0 has none), or pass --peers-python")
    path = os.path.join(package.submodule_search_locations[0], "wids_mmtar.py")
    if not os.path.isfile(path):
        raise LookupError(f"this wids has no {os.path.basename(path)}: pip install 'webdataset<1'")
    spec = importlib.util.spec_from_file_location("wids_mmtar", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _version(*distributions: str) -> str:
    installed = {d.metadata["Name"]: d.version for d in importlib.metadata.distributions() if d.metadata["Name"]}
    return next((v for name, v in installed.items() if name.startswith(distributions)), "unknown")


def dali_version() -> str:
    _wds2idx()
    return _version("nvidia-dali")


def dali_index(tars: list[str], out_dir: str) -> dict[str, Any]:
    """IndexCreator over each tar, one after the other."""
    creator = _wds2idx().IndexCreator
    began = time.perf_counter()
    written = []
    for path in tars:
        out = os.path.join(out_dir, os.path.basename(path) + ".idx")
        with creator(path, out, verbose=False) as index:
            index.create_index()
        written.append(out)
    return {"seconds": time.perf_counter() - began, "answer": written}


def wids_version() -> str:
    _wids()
    return _version("webdataset")


def wids_index(tars: list[str], out_file: str) -> dict[str, Any]:
    """The index that wids makes in memory when it opens a tar; written to out_file after the time is taken."""
    indexed_tar = _wids().MMIndexedTar
    began = time.perf_counter()
    opened = [indexed_tar(path) for path in tars]
    seconds = time.perf_counter() - began
    members = [tar.by_index for tar in opened]
    with open(out_file, "w", encoding="utf-8") as file:
        json.dump(members, file)
    for tar in opened:
        tar.close()
    return {"seconds": seconds, "answer": out_file}


OPS: dict[str, Callable[..., Any]] = {
    "dali_version": dali_version,
    "dali_index": dali_index,
    "wids_version": wids_version,
    "wids_index": wids_index,
}


def main() -> None:
    # what peers print must not come between the replies
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for line in sys.stdin:
        request = json.loads(line)
        try:
            reply = {"value": OPS[request.pop("op")](**request)}
        except Exception as error:
            reply = {"error": str(error) if isinstance(error, LookupError) else f"{type(error).__name__}: {error}"}
        replies.write(json.dumps(reply) + "\n")
        replies.flush()


if __name__ == "__main__":
    main()
