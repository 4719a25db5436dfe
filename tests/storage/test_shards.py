"""Which shards somebody means: the same answer wherever shards are taken."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import dcfast
import pytest
from dcfast.storage.shards import expand_braces, find_shards, relative_shards
from pool_builder import PoolBuilder, Sample

NAMES = [f"{n:08d}.tar" for n in range(4)]


@pytest.fixture
def pool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A pool of four shards, of one sample each."""
    monkeypatch.chdir(tmp_path)
    PoolBuilder(tmp_path / "pool", [[Sample(n)] for n in range(4)]).write()
    return tmp_path / "pool"


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("a", ["a"]),
        ("{0..3}", ["0", "1", "2", "3"]),
        ("{08..11}.tar", ["08.tar", "09.tar", "10.tar", "11.tar"]),
        ("{3..1}", ["3", "2", "1"]),
        ("{9..10}", ["9", "10"]),
        ("{a,b}/{1..2}", ["a/1", "a/2", "b/1", "b/2"]),
        ("{a,b{1..2},}c", ["ac", "b1c", "b2c", "c"]),
        ("{0..1}{0..1}", ["00", "01", "10", "11"]),
        ("{a}{}}{", ["{a}{}}{"]),
        ("{x{0..1}}", ["{x0}", "{x1}"]),
        ("x{0..1}{y}", ["x0{y}", "x1{y}"]),
    ],
)
def test_braces(pattern: str, expected: list[str]) -> None:
    assert list(expand_braces(pattern)) == expected


def test_braces_are_those_of_webdataset() -> None:
    braceexpand = pytest.importorskip("braceexpand", reason="webdataset is not installed: pip install webdataset")
    for pattern in ("a-{000000..000012}.tar", "{a,b}{1..3}-{x,y{7..9}}.tar", "s3://b/{08..11}/{c,d}.tar", "{5..2}"):
        assert list(expand_braces(pattern)) == list(braceexpand.braceexpand(pattern))


def test_too_many_names() -> None:
    with pytest.raises(ValueError, match=r"\{0\.\.9999999\} stands for more than 1,048,576 shards"):
        list(expand_braces("{0..9999999}"))
    with pytest.raises(ValueError, match=r"\{0\.\.1100\}\.tar stands for more than 1,048,576 shards"):
        find_shards("http://h/{0..1100}{0..1100}.tar")
    with pytest.raises(ValueError, match="has more than 100 braces"):
        find_shards("{" * 3000 + "}" * 3000)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("pool", NAMES),
        (Path("pool/shards"), NAMES),
        ("pool/shards/00000002.tar", NAMES[2:3]),
        ("pool/shards/*.tar", NAMES),
        ("pool/shards/0000000[12].tar", NAMES[1:3]),
        ("pool/shards/{00000003..00000001}.tar", NAMES[:0:-1]),
        ("pool/{metadata,shards}/00000001.tar", None),
        (["pool/shards/00000003.tar", "pool/shards/0000000{0,1}.tar"], [NAMES[3], *NAMES[:2]]),
        ("p*l", NAMES),
    ],
)
def test_every_operation_takes_the_same(pool: Path, given: str | Path | list[str], expected: list[str] | None) -> None:
    if expected is None:  # one of the names is not there
        with pytest.raises(FileNotFoundError, match=r"metadata/00000001\.tar"):
            dcfast.index_tars(given)
        return
    assert [os.path.basename(path) for path in find_shards(given)[0]] == expected
    indexed = dcfast.index_tars(given).samples()["shard"].to_pylist()
    assert [os.path.basename(path) for path in indexed] == expected
    report = dcfast.refresh_index("index", given)
    assert sorted(report["indexed"]) == sorted(expected)
    with dcfast.open_pool("index", "pool/shards") as reader:
        assert reader.num_samples == len(expected)
        uids = dcfast.uid_sort(reader.uids(reader.row_ids(range(len(expected)))))
    assert dcfast.reshard(given, "out", uids)["output_count"] == len(expected)


@pytest.mark.parametrize("take", [dcfast.index_tars, lambda given: dcfast.refresh_index("index", given),
                                  lambda given: dcfast.reshard(given, "out", "none.npy")])  # fmt: skip
@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ("pool/*.zip", dcfast.PoolError, r"no shard matches 'pool/\*\.zip'; give a pattern of names that end in \.tar"),
        ("pool/metadata", dcfast.PoolError, r"\.tar file.*; .*shards"),
        (b"pool", TypeError, "bytes"),
    ],
)
def test_every_operation_refuses_the_same(
    pool: Path, take: Callable[[object], object], given: object, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        take(given)


def test_a_name_with_a_pattern_in_it_is_itself(pool: Path) -> None:
    os.rename(pool / "shards/00000000.tar", pool / "shards/[1]{2..3}.tar")
    assert find_shards(pool / "shards/[1]{2..3}.tar") == ([str(pool / "shards/[1]{2..3}.tar")], [])


def test_relative_paths(pool: Path) -> None:
    paths = ["pool/shards/00000001.tar", str(pool / "shards/../shards/00000000.tar")]
    assert relative_shards(paths) == (str(pool / "shards"), ["00000001.tar", "00000000.tar"])
    assert relative_shards(["pool/a/b.tar", "pool/c.tar"]) == (str(pool), ["a/b.tar", "c.tar"])
    with pytest.raises(dcfast.PoolError, match=r"shard .*00000001\.tar is given twice"):
        relative_shards([*paths, paths[0]])
