"""Slow, obvious answers about a pool, by Python's tarfile and json: what every side must agree with."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Members = list[tuple[str, int, int]]


def tar_members(path: str) -> Members:
    """(name, offset of the data, size) of a tar's regular members."""
    with tarfile.open(path) as tar:
        return [(member.name, member.offset_data, member.size) for member in tar if member.isreg()]


def pool_members(shards: Sequence[str]) -> list[Members]:
    return [tar_members(path) for path in shards]


def read_at(path: str, offset: int, size: int) -> bytes:
    with open(path, "rb") as file:
        file.seek(offset)
        return file.read(size)


def pool_uids(shards: Sequence[str]) -> npt.NDArray[Any]:
    """The uid of each sample, in the order of the pool, "u8,u8"."""
    uids = []
    for path in shards:
        with tarfile.open(path) as tar:
            for member in tar:
                if member.name.endswith(".json"):
                    file = tar.extractfile(member)
                    assert file is not None
                    text = json.load(file)["uid"]
                    uids.append((int(text[:16], 16), int(text[16:], 16)))
    return np.array(uids, np.dtype("u8,u8"))


def selected_members(shards: Sequence[str], subset: npt.NDArray[Any], hashed: Any) -> dict[str, Any]:
    """hashed(content) of every member that a reshard of subset writes, by its new name."""
    wanted = {(int(hi), int(lo)) for hi, lo in subset}
    found = {}
    for path in shards:
        samples: dict[str, dict[str, bytes]] = {}
        with tarfile.open(path) as tar:
            for member in tar:
                file = tar.extractfile(member)
                assert file is not None
                key, _, ext = member.name.partition(".")
                samples.setdefault(key, {})[ext] = file.read()
        for sample in samples.values():
            uid = json.loads(sample["json"])["uid"]
            if (int(uid[:16], 16), int(uid[16:], 16)) in wanted:
                found |= {f"{uid}-0.{ext}": hashed(content) for ext, content in sample.items()}
    return found


def written_members(directory: Path, hashed: Any) -> dict[str, Any]:
    """hashed(content) of every member of the tars in a directory, by name; a name that comes twice is an error."""
    found: dict[str, Any] = {}
    for path in sorted(directory.glob("*.tar")):
        with tarfile.open(path) as tar:
            for member in tar:
                file = tar.extractfile(member)
                assert file is not None
                if member.name in found:
                    raise ValueError(f"{path} has member {member.name} again")
                found[member.name] = hashed(file.read())
    return found
