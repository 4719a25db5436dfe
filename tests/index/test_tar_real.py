"""The tar index on real archives: odd ones of other tar libraries, a real pool, evaluation sets."""

from __future__ import annotations

import io
import json
import warnings
from pathlib import Path

import pytest
from dcfast.index.build import index_tars
from tar_reference import our_groups, our_members, tarfile_members

pytestmark = pytest.mark.real_data

# Archives where tarfile stops: our report of the same damage.
DAMAGED = {
    "cpython/recursion.tar": "the file ends inside the padding of its last block",
    "go/copyright": "not a tar file: the first header's checksum is wrong",
    "go/issue10968.tar": "is negative",
    "go/issue11169.tar": "the archive ends after an extended header, before the member it describes",
    "go/issue12435.tar": "size field of an extended header is not a valid number",
    "go/neg-size.tar": "is negative",
    "go/pax-bad-hdr-large.tar.bz2": "not a tar file: it starts like bzip2; decompress it first",
    "go/pax-path-hdr.tar": "the archive ends after an extended header, before the member it describes",
    "go/writer-big-long.tar": "cut off: its data end at byte 17179870720, the file at 1536",
    "go/writer-big.tar": "cut off: its data end at byte 17179869696, the file at 512",
}
# Where our rows differ from tarfile's, and why.
DIFFERENT = {
    # tarfile takes the access time of GNU's incremental format for a name prefix
    "go/gnu-incremental.tar": [("test2/foo", 1536, 64)],
    # an empty pax path means the name of the header (POSIX); tarfile gives an empty name
    "go/pax-global-records.tar": [("global1", 1536, 0), ("file2", 3072, 0), ("file3", 4608, 0), ("file4", 6144, 0)],
    # tarfile lists a member of 16 GiB whose data are not there, then raises
    "go/writer-big-long.tar": [],
    "go/writer-big.tar": [],
}
SPARSE = {
    "cpython/testtar.tar": ["gnu/sparse", "gnu/sparse-0.0", "gnu/sparse-0.1", "gnu/sparse-1.0"],
    "go/gnu-incremental.tar": ["test2/sparse"],
    "go/gnu-nil-sparse-data.tar": ["sparse.db"],
    "go/gnu-nil-sparse-hole.tar": ["sparse.db"],
    "go/gnu-sparse-big.tar": ["gnu-sparse"],
    "go/pax-nil-sparse-data.tar": ["sparse.db"],
    "go/pax-nil-sparse-hole.tar": ["sparse.db"],
    "go/pax-sparse-big.tar": ["pax-sparse"],
    "go/sparse-formats.tar": ["sparse-gnu", "sparse-posix-0.0", "sparse-posix-0.1", "sparse-posix-1.0"],
}


def test_odd_archives(real_data: Path) -> None:
    paths = sorted((real_data / "tars").glob("*/*"))
    assert len(paths) == 46  # 45 archives, and a text beside them
    for path in paths:
        name = f"{path.parent.name}/{path.name}"
        rows, error = tarfile_members(path)
        assert our_members(path) == DIFFERENT.get(name, rows), name
        index = index_tars(path)
        messages = [d.message for d in index.damage]
        assert len(messages) == (name in DAMAGED), (name, messages)
        assert (error is not None) == (name in DAMAGED), name
        assert all(DAMAGED[name] in message for message in messages)
        sparse = [o["name"] for o in index.others().to_pylist() if o["kind"] == "sparse"]
        assert sparse == SPARSE.get(name, []), name
        assert len([n for n in index.notes if "sparse" in n.message]) == min(len(sparse), 1)


def test_shards(real_data: Path) -> None:
    paths = [
        real_data / "cc12m-train-0000.tar",
        *sorted((real_data / "webdataset").glob("*.tar")),
        *sorted((real_data / "evalsets").glob("*/test/*.tar")),
        *sorted((real_data / "pool" / "shards").glob("*.tar")),
    ]
    assert len(paths) > 10
    for path in paths:
        rows, error = tarfile_members(path)
        assert error is None
        assert our_members(path) == rows
        assert index_tars(path).damage == []
    (damage,) = index_tars(real_data / "webdataset" / "sample.tgz").damage
    assert damage.message == "not a tar file: it starts like gzip; decompress it first"


def test_pool_samples(real_data: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    segment = index_tars(real_data / "pool" / "shards").segment
    assert segment.num_samples == 1952
    assert not segment.flags.any()
    offset, size, ext = segment.member_offset(), segment.member_size(), segment.member_ext()
    pictures = segment.image_member()
    uids = segment.uid_hex().to_pylist()
    groups = our_groups(segment)
    unknown = 0
    for shard, name in enumerate(segment.shard_names):
        data = Path(name).read_bytes()
        for i in range(*segment.shard_sample_begin[shard : shard + 2].tolist()):
            members = {}
            for m in range(*segment.member_begin[i : i + 2].tolist()):
                start = int(offset[m])
                members[segment.exts[ext[m]]] = data[start : start + int(size[m])]
            assert list(members) == groups[i][1]
            text = json.loads(members["json"])
            assert (text["uid"], text["key"]) == (uids[i], groups[i][0])
            start = int(offset[pictures[i]])
            try:
                with image.open(io.BytesIO(data[start : start + int(size[pictures[i]])])) as picture:
                    want = picture.size
            except OSError:  # Pillow cannot tell either
                unknown += 1
                continue
            assert (segment.width[i], segment.height[i]) == want
    assert unknown <= 12


def test_odd_pictures(real_data: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    from dcfast._core import images as core_images

    compared = 0
    for path in sorted((real_data / "odd_images").rglob("*")):
        if path.suffix.lower() not in (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff"):
            continue
        ours = core_images.image_size(path.read_bytes())
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # Pillow's remarks on these files are not the point
                with image.open(path) as picture:
                    theirs = picture.size
        except (OSError, SyntaxError, image.DecompressionBombError):
            continue
        compared += 1
        assert ours == theirs, path.name
    assert compared > 10
