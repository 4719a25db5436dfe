"""The reshard core and plan: headers, windows, cuts and copies against tarfile, webdataset and slow rules."""

from __future__ import annotations

import errno
import io
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
from dcfast import resharding as resharder
from dcfast._core import reshard as core_reshard
from dcfast.index.rows import row_ids
from dcfast.resharding.plan import ShardSources
from reshard_reference import (
    NO_SIZES,
    NO_TIMES,
    make_uid,
    three_shards,
    uid_array,
    write_core,
    write_with_webdataset,
)


@pytest.fixture
def pool(tmp_path):
    return three_shards(tmp_path)


# the core: headers and windows


@pytest.mark.parametrize("size", [0, 1, 511, 512, 513, 8**11 - 1])
def test_header_equals_tarfile(size):
    info = tarfile.TarInfo("0123456789abcdef0123456789abcdef-0.jpg")
    info.size, info.mode, info.uname, info.gname = size, 0o444, "bigdata", "bigdata"
    assert core_reshard.tar_member_header(info.name, size) == info.tobuf(tarfile.PAX_FORMAT)


@pytest.mark.parametrize("size", [8**11, 8**11 + 1, 1 << 40, (1 << 63) - 1])
def test_header_of_a_large_member_is_base_256(size):
    info = tarfile.TarInfo("k.bin")
    info.size, info.mode, info.uname, info.gname = size, 0o444, "bigdata", "bigdata"
    header = core_reshard.tar_member_header("k.bin", size)
    assert tarfile.TarInfo.frombuf(header, "utf-8", "surrogateescape").size == size
    assert header[124:136] == info.tobuf(tarfile.GNU_FORMAT)[124:136]


@pytest.mark.parametrize(
    "name",
    [
        "k." + "e" * 98,
        "k." + "e" * 99,
        "k." + "e" * 4096,
        "k." + "e" * 86,  # the pax record's length takes another digit with itself
        "k." + "e" * 982,
        "a/b.c/" * 40 + "k.jpg",
        "k.größe",
        "k.写真",
        "k.🙂" * 30,
        b"k.\xff\xfe".decode("utf-8", "surrogateescape"),
        b"k.\xe2\x82".decode("utf-8", "surrogateescape"),
        b"k.\xed\xa0\x80".decode("utf-8", "surrogateescape"),
        b"k.\xc0\x80\xf5".decode("utf-8", "surrogateescape"),
    ],
)
def test_header_of_a_long_or_foreign_name_equals_tarfile(name):
    info = tarfile.TarInfo(name)
    info.size, info.mode, info.uname, info.gname = 5, 0o444, "bigdata", "bigdata"
    assert core_reshard.tar_member_header(os.fsencode(name), 5) == info.tobuf(tarfile.PAX_FORMAT)


@pytest.mark.parametrize(("name", "message"), [("", "must not be empty"), ("a\0b", "NUL")])
def test_header_refuses_a_bad_name(name, message):
    with pytest.raises(ValueError, match=message):
        core_reshard.tar_member_header(name, 0)


@pytest.mark.parametrize("window", [4096, 5000, 1 << 19])
def test_payloads_of_odd_sizes(tmp_path, window):
    rng = np.random.default_rng(1)
    data = rng.bytes(9_000_001)
    (tmp_path / "source").write_bytes(data)
    sizes = [0, 1, 511, 512, 513, 1023, 8_388_609, 0, 4095, 4096, 4097]
    offsets = rng.integers(0, len(data) - max(sizes), len(sizes))
    members = [(f"k-{i}.bin", 0, int(at), size) for i, (at, size) in enumerate(zip(offsets, sizes, strict=True))]
    written = write_core(tmp_path / "o.tar", [tmp_path / "source"], members, window_bytes=window)
    samples = [{"__key__": f"k-{i}", "bin": data[at : at + size]} for i, (_, _, at, size) in enumerate(members)]
    assert (tmp_path / "o.tar").read_bytes() == write_with_webdataset(samples)
    assert written == (tmp_path / "o.tar").stat().st_size


def test_more_sources_than_may_be_open(tmp_path):
    sources = []
    for i in range(150):
        (tmp_path / f"s{i}").write_bytes(bytes([i]) * 1000)
        sources.append(tmp_path / f"s{i}")
    order = np.random.default_rng(2).permutation(np.repeat(np.arange(150), 3))
    members = [(f"k-{n}.bin", int(i), 10, 600) for n, i in enumerate(order)]
    write_core(tmp_path / "o.tar", sources, members, max_open_sources=4)
    with tarfile.open(tmp_path / "o.tar") as tar:
        assert [tar.extractfile(m).read() for m in tar] == [bytes([i]) * 600 for i in order]


def test_disk_full_is_an_os_error(tmp_path):
    (tmp_path / "source").write_bytes(b"x" * 100)
    with pytest.raises(OSError, match="No space left") as caught:
        write_core("/dev/full", [tmp_path / "source"], [("k.bin", 0, 0, 100)])
    assert caught.value.errno == errno.ENOSPC


def test_arguments_of_the_core_are_checked(tmp_path):
    good = [np.zeros(1, np.uint32), np.zeros(1, np.uint64), np.zeros(1, np.uint64), np.array([107], np.uint8)]
    begin = np.array([0, 1], np.uint64)
    (tmp_path / "s").write_bytes(b"")
    paths = [os.fsencode(tmp_path / "s")]
    out = os.fsencode(tmp_path / "o")
    with pytest.raises(TypeError, match="offset must have dtype uint64"):
        core_reshard.write_shard(
            out, paths, NO_SIZES, NO_TIMES, good[0], good[1].astype(np.int64), good[2], good[3], begin
        )
    with pytest.raises(ValueError, match="name_begin one more"):
        core_reshard.write_shard(out, paths, NO_SIZES, NO_TIMES, *good, begin[:1])
    with pytest.raises(ValueError, match="out of range"):
        core_reshard.write_shard(out, [], NO_SIZES, NO_TIMES, *good, begin)
    with pytest.raises(ValueError, match="source_size must be empty or one entry per source"):
        core_reshard.write_shard(out, paths, np.zeros(2, np.uint64), NO_TIMES, *good, begin)


# the plan


def test_repeated_uids():
    records = np.array([(0, 1, 0), (0, 1, 9), (0, 1, 11), (0, 2, 3), (4, 1, 1), (4, 2, 2), (4, 2, 5)], "u8,u8,u8")
    for end, expected in ((1, []), (2, [(0, 1)]), (3, [(0, 1)]), (6, [(0, 1)]), (7, [(0, 1), (4, 2)])):
        assert core_reshard.repeated_uids(records[:end]).tolist() == expected
    assert len(core_reshard.repeated_uids(records[:0])) == 0


def test_saved_plan_is_the_plan(pool, tmp_path):
    directory, _, segments = pool
    subset = uid_array(sorted(make_uid(i) for i in range(0, 37, 2)))
    plan = resharder.make_plan(segments, subset, shards_dir=directory, shard_size=4)
    plan.save(tmp_path / "plan")
    loaded = resharder.ReshardPlan.load(tmp_path / "plan")
    for name in ("cuts", "repeats", "exclude"):
        assert np.array_equal(getattr(plan, name), getattr(loaded, name))
    for name in ("segments", "segment_first", "shards_dir", "options", "counts"):
        assert getattr(plan, name) == getattr(loaded, name)


def test_row_ids_of_output_shards(pool):
    directory, _, segments = pool
    subset = uid_array(sorted(make_uid(i) for i in range(0, 37, 2) for _ in range(1 + i % 3)))
    plan = resharder.make_plan(segments, subset, shards_dir=directory, shard_size=4)
    sources = ShardSources(plan, subset, segments)
    written = np.concatenate([sources.row_ids(k) for k in range(plan.num_output_shards)])
    expected = []
    for segment, first, ordinal in zip(segments, (0, 7), (0, 1), strict=True):
        chosen = [i for i in range(segment.num_samples) if (first + i) % 2 == 0]
        expected += np.repeat(
            row_ids(segment, ordinal, np.array(chosen)), [1 + (first + i) % 3 for i in chosen]
        ).tolist()
    assert written.tolist() == expected


@pytest.mark.parametrize("item", [3, None, object()])
def test_what_is_no_segment(pool, item):
    with pytest.raises(TypeError, match="a segment must be a path or a dcfast Segment; got"):
        resharder.make_plan([item], uid_array(["1"]), shards_dir=pool[0])
    with pytest.raises(TypeError, match="segments must be all paths or all objects"):
        resharder.make_plan([*pool[2], "a.dcx"], uid_array(["1"]), shards_dir=pool[0])


FILE_TOO_LARGE = """
import os, resource, sys
import numpy as np
from dcfast._core import reshard as core_reshard
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))
try:
    core_reshard.write_shard(sys.argv[1].encode(), [sys.argv[2].encode()],
                             np.zeros(0, np.uint64), np.zeros(0, np.int64),
                             np.zeros(1, np.uint32), np.zeros(1, np.uint64), np.array([500_000], np.uint64),
                             np.frombuffer(b"k.bin", np.uint8), np.array([0, 5], np.uint64))
except OSError as error:
    print(error.errno)
"""


def test_a_limit_on_file_size_is_an_os_error(tmp_path):
    (tmp_path / "source").write_bytes(b"x" * 500_000)
    done = subprocess.run(
        [sys.executable, "-c", FILE_TOO_LARGE, tmp_path / "o.tar", tmp_path / "source"],
        capture_output=True, text=True, check=True, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    assert done.stdout.strip() == str(errno.EFBIG)


# the format page


def test_worked_example_of_the_format_page(tmp_path):
    docs = Path(__file__).parents[2] / "docs"
    page = (docs / "formats.md").read_text("utf-8")
    dump = page.split("## Output shards")[1].split("```hexdump\n")[1].split("```")[0]
    expected = bytearray(1024)
    for line in dump.splitlines():
        place, _, values = line.split("  |")[0].partition("  ")
        data = bytes.fromhex(values)
        expected[int(place, 16) : int(place, 16) + len(data)] = data
    (tmp_path / "source").write_bytes(b"a red cat")
    name = "00000000000000010000000000000002-0.txt"
    write_core(tmp_path / "o.tar", [tmp_path / "source"], [(name, 0, 0, 9)])
    got = (tmp_path / "o.tar").read_bytes()
    assert got[:1024] == bytes(expected)
    assert got[1024:] == bytes(10_240 - 1024)
    with tarfile.open(fileobj=io.BytesIO(got)) as tar:
        assert tar.getnames() == [name]
