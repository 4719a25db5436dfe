"""The slow and obvious tar index, by Python's tarfile; and small archives made in memory."""

from __future__ import annotations

import io
import json
import struct
import tarfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import dcfast

FORMATS = {"ustar": tarfile.USTAR_FORMAT, "gnu": tarfile.GNU_FORMAT, "pax": tarfile.PAX_FORMAT}
GIF = b"GIF89a" + struct.pack("<HH", 3, 2) + b"\0\0\0;"
UID = "00112233445566778899aabbccddeeff"


def escaped(name: str) -> str:
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def make_tar(path: Path, members: Iterable[tuple[str, bytes]], format: str = "ustar", **info: Any) -> Path:
    with tarfile.open(path, "w", format=FORMATS[format]) as tar:
        for name, data in members:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            for key, value in info.items():
                setattr(member, key, value)
            tar.addfile(member, io.BytesIO(data))
    return path


def pool_samples(shards: Path) -> list[tuple[str, dict[str, bytes]]]:
    """(key, members by extension) of every sample of a folder of tars, in order."""
    found: list[tuple[str, dict[str, bytes]]] = []
    for shard in sorted(shards.glob("*.tar")):
        with tarfile.open(shard) as tar:
            for number, member in enumerate(tar):
                key, _, ext = member.name.partition(".")
                if number == 0 or key != found[-1][0]:
                    found.append((key, {}))
                file = tar.extractfile(member)
                assert file is not None
                found[-1][1][ext] = file.read()
    return found


def sample_members(i: int, size: int = 2000, ext: str = "jpg", picture: bytes = GIF) -> list[tuple[str, bytes]]:
    key = f"{i:09d}"
    text = {"uid": f"{i:032x}", "key": key, "caption": f"caption {i}"}
    return [
        (f"{key}.{ext}", picture + bytes(size)),
        (f"{key}.json", json.dumps(text).encode()),
        (f"{key}.txt", f"caption {i}".encode()),
    ]


def tarfile_members(path: Path) -> tuple[list[tuple[str, int, int]], str | None]:
    """(name, offset, size) of the regular members that are not sparse, and the error that ended the reading."""
    rows = []
    try:
        with tarfile.open(path, "r:") as tar:
            while (member := tar.next()) is not None:
                if member.isreg() and member.sparse is None:
                    rows.append((escaped(member.name), member.offset_data, member.size))
    except tarfile.TarError as error:
        return rows, str(error)
    return rows, None


def our_members(path: Path) -> list[tuple[str, int, int]]:
    table = dcfast.index_tars(path).members()
    assert table.column_names == ["shard", "name", "offset", "size"]
    assert set(table["shard"].to_pylist()) <= {str(path)}
    return [(row["name"], row["offset"], row["size"]) for row in table.to_pylist()]


def split(name: str) -> tuple[str, str] | None:
    first = name.split("/")[0]
    if len(first) >= 4 and first.startswith("__") and first.endswith("__"):
        return None
    base = name.rsplit("/", 1)[-1]
    if "." not in base or base.startswith("."):
        return None
    ext = base.split(".", 1)[1]
    return name[: len(name) - len(ext) - 1], ext


def group(names: Iterable[str]) -> tuple[list[tuple[str, list[str]]], list[str]]:
    """Samples as (key, extensions) and strays, by the rule of docs/formats.md."""
    samples: list[tuple[str, list[str]]] = []
    strays = []
    for name in names:
        parts = split(name)
        if parts is None:
            strays.append(name)
            continue
        key, ext = parts
        lower = [e.lower() for e in samples[-1][1]] if samples else []
        if not samples or samples[-1][0] != key or ext.lower() in lower:
            samples.append((key, []))
        samples[-1][1].append(ext)
    return samples, strays


def our_groups(segment: dcfast.index.build.Segment) -> list[tuple[str, list[str]]]:
    exts = segment.member_ext()
    begin = segment.member_begin
    return [
        (segment.key(i), [segment.exts[e] for e in exts[int(begin[i]) : int(begin[i + 1])]])
        for i in range(segment.num_samples)
    ]


def reference_idx(tar: Path) -> str:
    """The index of a tar by the rule of docs/formats.md, from Python's tarfile."""
    rows, error = tarfile_members(tar)
    assert error is None
    left = {name: (offset, size) for name, offset, size in rows}
    samples, _ = group(name for name, _, _ in rows)
    lines = [f"v1.2 {len(samples)}"]
    for key, exts in samples:
        parts = []
        for ext in exts:
            offset, size = left[f"{key}.{ext}"]
            parts += [ext, str(offset), str(size), f"{key}.{ext}"]
        lines.append(" ".join(parts))
    return "".join(line + "\n" for line in lines)
