"""Slow, obvious references for the reshard tests: a pool read through tarfile, a resharder on webdataset's writer."""

from __future__ import annotations

import io
import json
import os
import re
import tarfile
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import webdataset
from dcfast._core import reshard as core_reshard
from dcfast.index.build import write_segment
from dcfast.index.segments import Segment

UID = np.dtype("u8,u8")
NO_SIZES, NO_TIMES = np.zeros(0, np.uint64), np.zeros(0, np.int64)


def uid_array(texts: list[str]) -> np.ndarray:
    return np.array([divmod(int(text, 16), 1 << 64) for text in texts], UID)


def subset_of(texts: list[str]) -> np.ndarray:
    return uid_array(sorted(texts, key=lambda text: int(text, 16)))


@dataclass
class Sample:
    shard: int
    row: int
    uid: str | None
    members: dict[str, tuple[int, int]] = field(default_factory=dict)  # extension -> (offset, size)


class IndexedShards(Segment):
    """An index segment of shards of a directory; ``samples`` are what tarfile and plain Python read of them."""

    samples: list[Sample]


def index_shards(directory: Path, names: list[str]) -> IndexedShards:
    """The segment of some shards, written and opened: the map outlives its file. The plain reading must agree."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "segment.dcx"
        write_segment([(directory / name, name) for name in names], path, sync=False)
        segment = IndexedShards.open(path)
    assert isinstance(segment, IndexedShards)
    segment.samples = [sample for number, name in enumerate(names) for sample in read_samples(directory / name, number)]
    assert segment.uid.tolist() == uid_array([sample.uid or "0" for sample in segment.samples]).tolist()
    offset, size, ext = segment.members_of(0, segment.num_samples)
    members = [(segment.exts[e], (int(at), int(n))) for at, n, e in zip(offset, size, ext, strict=True)]
    assert members == [member for sample in segment.samples for member in sample.members.items()]
    return segment


def read_samples(path: Path, shard: int) -> list[Sample]:
    """webdataset's rule: neighbours with one key are a sample; a repeated extension begins another."""
    samples: list[Sample] = []
    last = None
    with tarfile.open(path) as tar:
        for member in tar:
            match = re.match(r"^((?:.*/|)[^.]+)[.]([^/]*)$", member.name)
            assert match is not None
            key, ext = match.groups()
            if key != last or ext.lower() in {e.lower() for e in samples[-1].members}:
                samples.append(Sample(shard, len(samples), None))
            samples[-1].members[ext] = (member.offset_data, member.size)
            last = key
            if ext.lower() == "json":
                samples[-1].uid = json.load(tar.extractfile(member)).get("uid")
    return samples


def reference_reshard(
    directory: Path, names: list[str], subset: np.ndarray, shard_size: int = 10_000, max_bytes: int = 3_000_000_000
) -> list[tuple[bytes, int]]:
    """(tar bytes, number of samples) of every output shard."""
    wanted = Counter(subset.tolist())
    copies: Counter[str] = Counter()
    shards: list[list[dict[str, Any]]] = []
    size = 0
    for number, name in enumerate(names):
        data = (directory / name).read_bytes()
        for sample in read_samples(directory / name, number):
            if sample.uid is None:
                continue
            payloads = {e.lower(): data[at : at + length] for e, (at, length) in sample.members.items()}
            for _ in range(wanted[divmod(int(sample.uid, 16), 1 << 64)]):
                if not shards or len(shards[-1]) >= shard_size or size >= max_bytes:
                    shards.append([])
                    size = 0
                shards[-1].append({"__key__": f"{sample.uid}-{copies[sample.uid]}", **payloads})
                copies[sample.uid] += 1
                size += sum(map(len, payloads.values()))
    return [(write_with_webdataset(shard), len(shard)) for shard in shards]


def write_with_webdataset(samples: list[dict[str, Any]]) -> bytes:
    out = io.BytesIO()
    with webdataset.TarWriter(out, mtime=0, encoder=False) as writer:
        for sample in samples:
            writer.write(sample)
    return out.getvalue()


def write_pool(directory: Path, shards: list[list[tuple[str, dict[str, bytes]]]], **tar_options: Any) -> list[str]:
    """Shards of (key, extension -> payload), written in the order given, with tarfile."""
    directory.mkdir(parents=True, exist_ok=True)
    names = [f"{i:08d}.tar" for i in range(len(shards))]
    for name, samples in zip(names, shards, strict=True):
        with tarfile.open(directory / name, "w", **tar_options) as tar:
            for key, members in samples:
                for ext, payload in members.items():
                    info = tarfile.TarInfo(f"{key}.{ext}")
                    info.size = len(payload)
                    info.mtime = 1234567890.5  # a float: webdataset's writer has one, which costs a pax header
                    tar.addfile(info, io.BytesIO(payload))
    return names


def make_uid(i: int) -> str:
    return f"{(i * 0x9E3779B97F4A7C15 + 1) % (1 << 128):032x}"


def make_sample(
    rng: np.random.Generator, number: int, uid: str | None, size: int | None = None
) -> tuple[str, dict[str, bytes]]:
    length = int(rng.integers(0, 3000)) if size is None else size
    record = {"caption": "x" * int(rng.integers(0, 40)), **({} if uid is None else {"uid": uid})}
    return f"{number:09d}", {"jpg": rng.bytes(length), "txt": b"caption", "json": json.dumps(record).encode()}


def three_shards(tmp_path: Path) -> tuple[Path, list[str], list[IndexedShards]]:
    """Three shards of 7, 0 and 30 samples in a directory with a space, as a list of two segments."""
    rng = np.random.default_rng(5)
    shards, number = [], 0
    for count in (7, 0, 30):
        shards.append([make_sample(rng, number + i, make_uid(number + i)) for i in range(count)])
        number += count
    directory = tmp_path / "a pool"
    names = write_pool(directory, shards)
    return directory, names, [index_shards(directory, names[:1]), index_shards(directory, names[1:])]


def read_output(out: Path) -> list[tuple[bytes, int]]:
    tars = sorted(out.glob("*.tar"))
    assert [t.name for t in tars] == [f"{i:08d}.tar" for i in range(len(tars))]
    return [(t.read_bytes(), json.loads(t.with_name(t.stem + "_stats.json").read_text())["successes"]) for t in tars]


def sample_keys(tar_path: Path) -> list[str]:
    """Keys of the samples of a shard in which each has three members."""
    with tarfile.open(tar_path) as tar:
        return [name.split(".")[0] for name in tar.getnames()[::3]]


def write_core(out: Path, sources: list[Path], members: list[tuple[str, int, int, int]], **options: Any) -> Any:
    """members: (name, source, offset, size)."""
    names = [os.fsencode(m[0]) for m in members]
    columns = [np.array([m[i] for m in members], t) for i, t in ((1, np.uint32), (2, np.uint64), (3, np.uint64))]
    begin = np.cumsum([0] + [len(n) for n in names]).astype(np.uint64)
    blob = np.frombuffer(b"".join(names), np.uint8)
    paths = [os.fsencode(s) for s in sources]
    return core_reshard.write_shard(os.fsencode(out), paths, NO_SIZES, NO_TIMES, *columns, blob, begin, **options)
