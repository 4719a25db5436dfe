"""What people have, small: shards, folders, tables and datasets to import."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
from pool_builder import picture

Members = Sequence[tuple[str, bytes]]


def tar_bytes(members: Members) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, data in members:
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    return buffer.getvalue()


def write_shard(path: Path, members: Members) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(tar_bytes(members))
    return path


def pair(key: str, number: int, caption: str | None = None, info: Mapping[str, Any] | None = None) -> Members:
    """A sample's members; without ``caption`` no txt, without ``info`` no json."""
    members = [(f"{key}.jpg", picture(number))]
    if caption is not None:
        members.append((f"{key}.txt", caption.encode()))
    if info is not None:
        members.append((f"{key}.json", json.dumps(info).encode()))
    return members


def shard_of(first: int, count: int = 3, *, txt: bool = True, **info: Any) -> Members:
    """A shard as img2dataset writes it; a ``{n}`` in a value of its json is the sample's number."""
    members: list[tuple[str, bytes]] = []
    for n in range(first, first + count):
        values = {name: str(value).replace("{n}", f"{n:x}") for name, value in info.items()}
        members += pair(f"{n:09d}", n, f"a caption of number {n}" if txt else None, values)
    return members


def members_of(path: Path) -> dict[str, bytes]:
    with tarfile.open(path) as tar:
        return {entry.name: tar.extractfile(entry).read() for entry in tar if entry.isfile()}


def tree(root: Path) -> dict[str, bytes]:
    """The files of a pool but for what is remembered of its making."""
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.is_file() and path.relative_to(root).parts[0] in ("shards", "metadata")
    }


IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def image_table(count: int, **columns: Sequence[Any]) -> pa.Table:
    images = [{"bytes": picture(n), "path": f"{n}.jpg"} for n in range(count)]
    return pa.table({"image": pa.array(images, IMAGE), **{name: pa.array(values) for name, values in columns.items()}})
