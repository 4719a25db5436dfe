"""Index a pool's shards: dcfast beside DALI's wds2idx, GNU tar, wids and Python's tarfile; and the memory it takes.

All index files go to a directory in memory, so that nobody waits for the disk. dcfast and its peers run in a process
that is up already; only GNU tar is a process of its own, one a shard.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from bench import floors, harness, make_pool, reference
from bench.bars import DALI, GNU_TAR, PREAD_FLOOR, Value
from bench.harness import Absent, PeerAbsentError, PeerProcess, Side, Timed, require_equal

# a member's pax header, its records, and its own header
_HEADER_BYTES = 1536


def ours(shards: list[str], out: str, read_uid: bool, read_image_size: bool) -> str:
    """dcfast's index of the shards, written to out."""
    from dcfast.index.build import write_segment

    pairs = [(path, os.path.basename(path)) for path in shards]
    write_segment(pairs, out, 1, read_uid=read_uid, read_image_size=read_image_size)
    return out


def _check_ours(provider: str, expected: list[reference.Members], uids: Any, out: str) -> None:
    from dcfast.index.segments import Segment

    segment = Segment.open(out)
    table = segment.members()
    columns = [table.column(name).to_pylist() for name in ("name", "offset", "size")]
    require_equal(
        provider, "list of members", list(zip(*columns, strict=True)), [m for shard in expected for m in shard]
    )
    if uids is not None:
        require_equal(provider, "list of uids", np.array(segment.uid), uids)


def _check_dali(expected: list[reference.Members], files: list[str]) -> None:
    got = []
    for path in files:
        version, count = Path(path).read_text().split("\n", 1)[0].split()
        require_equal(DALI, "version", version, "v1.2")
        lines = Path(path).read_text().splitlines()[1:]
        require_equal(DALI, "number of samples", len(lines), int(count))
        fields = [line.split(" ") for line in lines]
        got += [(f[i + 3], int(f[i + 1]), int(f[i + 2])) for f in fields for i in range(0, len(f), 4)]
    require_equal(DALI, "list of members", got, [m for shard in expected for m in shard])


def _check_wids(expected: list[reference.Members], file: str) -> None:
    # offsets are those of the member's own header
    got = [[(name, offset + 512, size) for name, offset, size in shard] for shard in json.loads(Path(file).read_text())]
    require_equal("wids", "list of members", got, expected)


def _gnu_tar(shards: list[str]) -> list[bytes]:
    return [subprocess.run(["tar", "-tvf", path], check=True, stdout=subprocess.PIPE).stdout for path in shards]


def _check_gnu_tar(expected: list[reference.Members], listings: list[bytes]) -> None:
    # mode, owner, size, date, time, name: a listing has no offsets
    fields = [line.split(maxsplit=5) for text in listings for line in text.decode().splitlines()]
    got = [(f[5], int(f[2])) for f in fields]
    require_equal(GNU_TAR, "list of members", got, [(name, size) for shard in expected for name, _, size in shard])


def _peer_side(peers: PeerProcess, provider: str, name: str, check: Any, **arguments: Any) -> Side | Absent:
    try:
        version = {name: peers.ask(f"{name}_version")}
    except PeerAbsentError as error:
        return Absent(provider, str(error))

    def run() -> Timed:
        return peers.timed(f"{name}_index", **arguments)

    return Side(provider, run, check, versions=version)


def _gnu_tar_side(shards: list[str], expected: list[reference.Members]) -> Side | Absent:
    tar = shutil.which("tar")
    version = subprocess.run([tar, "--version"], capture_output=True, text=True).stdout.split("\n")[0] if tar else ""
    if "GNU tar" not in version:
        return Absent(GNU_TAR, "tar is not GNU tar" if tar else "no tar")
    check = partial(_check_gnu_tar, expected)
    return Side(GNU_TAR, partial(_gnu_tar, shards), check, versions={"tar": version.split()[-1]})


def _floor_side(shards: list[str], expected: list[reference.Members], directory: Path) -> Side | Absent:
    compiled = floors.load(directory)
    if isinstance(compiled, str):
        return Absent(PREAD_FLOOR, compiled)
    reads = []
    for path, members in zip(shards, expected, strict=True):
        begin = np.array([offset - _HEADER_BYTES for _, offset, _ in members], np.uint64)
        reads.append((path, begin, np.full(len(begin), _HEADER_BYTES, np.uint64)))
    total = _HEADER_BYTES * sum(len(members) for members in expected)

    def check(count: int) -> None:
        require_equal(PREAD_FLOOR, "bytes read", count, total)

    return Side(PREAD_FLOOR, partial(compiled.pread_shards, reads, touch=False), check)


def time_index(bench: harness.Bench, pool: make_pool.Pool) -> None:
    expected = reference.pool_members(pool.shards)
    uids = reference.pool_uids(pool.shards)
    shards = pool.shards
    with (
        harness.WorkDir(bench.options, in_memory=True) as work,
        PeerProcess(bench.options.peers_python) as peers,
    ):

        def dcfast(provider: str, read_uid: bool, read_image_size: bool, note: str) -> Side:
            out = str(work / f"{read_uid}-{read_image_size}.dcx")
            check = partial(_check_ours, provider, expected, uids if read_uid else None)
            return Side(provider, partial(ours, shards, out, read_uid, read_image_size), check, note=note)

        sides = [
            dcfast("dcfast", False, False, "members, grouped into samples"),
            dcfast("dcfast, with uid", True, False, "and the uid of each json"),
            dcfast("dcfast, all", True, True, "and the width and height of each picture: what write_segment does"),
            _floor_side(shards, expected, work),
            _gnu_tar_side(shards, expected),
            _peer_side(peers, "wids", "wids", partial(_check_wids, expected), tars=shards, out_file=str(work / "wids")),
            _peer_side(peers, DALI, "dali", partial(_check_dali, expected), tars=shards, out_dir=str(work)),
            Side(
                "Python tarfile",
                partial(reference.pool_members, shards),
                lambda got: require_equal("Python tarfile", "list of members", got, expected),
            ),
        ]
        shape = f"{len(shards)} shards, {pool.num_members} members, {pool.tar_bytes / 1e6:.0f} MB"
        bench.compare("tar_index", sides, shape=shape, rounds=7, touched=shards)


def measure_memory(bench: harness.Bench, pool: make_pool.Pool) -> None:
    """Indexing many shards in a process of its own, as one segment."""
    times = 2 if bench.options.quick else 100
    with harness.WorkDir(bench.options) as work:
        shards = make_pool.linked_pool(pool, times, work)
        out = work / "pool.dcx"
        script = (
            "import os, sys\n"
            "from dcfast.index.build import write_segment\n"
            "names = sorted(os.listdir(sys.argv[1]))\n"
            "pairs = [(os.path.join(sys.argv[1], name), name) for name in names]\n"
            "print(write_segment(pairs, sys.argv[2], int(sys.argv[3])).num_samples)\n"
        )
        arguments = ["-c", script, str(shards), str(out), str(bench.options.threads)]
        peak, seconds, text = harness.peak_memory(arguments)
        samples = times * pool.size.shards * pool.size.samples
        require_equal("dcfast", "number of samples", int(text), samples)
    shape = f"{times * pool.size.shards} shards, {samples} samples"
    note = "peak of RssAnon + RssShmem, Python and imports included"
    bench.note_memory("memory_index", "dcfast", peak, shape=shape, seconds=seconds, note=note)


def main(argv: Sequence[str] | None = None) -> dict[str, Value]:
    options = harness.parse_options("bench_tar_index", argv, __doc__)
    bench = harness.Bench("bench_tar_index", options)
    pool = make_pool.make_pool(make_pool.QUICK if options.quick else make_pool.FULL, options.cache)
    time_index(bench, pool)
    measure_memory(bench, pool)
    return bench.finish()


if __name__ == "__main__":
    main()
    sys.exit(0)
