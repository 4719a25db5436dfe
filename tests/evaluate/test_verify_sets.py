"""``dcfast evalsets verify``: what is not as it was fetched or converted, what evaluation cannot read, what lacks."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from dcfast import cli
from dcfast.errors import CorruptDataError, EvalsetError
from dcfast.evaluate.convert_sets import ConvertOptions, convert_sets
from dcfast.evaluate.place_set import RECORD_FILE
from dcfast.evaluate.verify_sets import Verdict, VerifyOptions, VerifyReport, verify_sets
from dcfast.hub import LOCK_FILE
from evalset_builder import NAMES, labelled, write_set
from hub_builder import PAIRS, write_cache, write_source


def verified(home: Path, **options: Any) -> VerifyReport:
    return verify_sets(VerifyOptions(str(home), quiet=True, **options))


def verdict(home: Path) -> Verdict:
    (one,) = verified(home).verdicts
    return one


def write_lock(home: Path) -> None:
    """As ``fetch`` writes it, of the sets that are there."""
    repos = {}
    for folder in sorted(home.glob("wds_*_test")):
        is_flat = (folder / "test/0000.parquet").exists()
        files = {
            ("TEST/" if is_flat else "") + str(p.relative_to(folder)): {
                "size": p.stat().st_size,
                "sha256": hashlib.sha256(p.read_bytes()).hexdigest(),
            }
            for p in folder.rglob("*")
            if p.is_file()
        }
        place = f"{folder.name}/test" if is_flat else folder.name
        repos[f"owner/{folder.name[:90]}"] = {
            "kind": "dataset", "commit": "0" * 40, "files": files, "patterns": [], "folder": place, "flat": is_flat,
        }  # fmt: skip
    (home / LOCK_FILE).write_text(json.dumps({"format": 1, "repos": repos}))


@pytest.fixture(params=["lock", "record"])
def home(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A set whose bytes are known by the one file or the other."""
    source = tmp_path / "source"
    write_set(source, "mine", labelled(20, 5), NAMES, shard_size=7)
    if request.param == "lock":
        write_lock(source)
        return source
    convert_sets(ConvertOptions(str(source), str(tmp_path / "sets"), copy=True, quiet=True))
    return tmp_path / "sets"


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[600] ^= 1  # of a picture, of which no reader of the set takes notice
    path.write_bytes(data)


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "a byte": (lambda folder: flip(folder / "test/1.tar"), r"test/1\.tar has SHA-256 [0-9a-f]{16}\.\.\.; expected"),
    "a cut tar": (
        lambda folder: (folder / "test/0.tar").write_bytes((folder / "test/0.tar").read_bytes()[:3000]),
        r"test/0\.tar has 3,000 bytes; expected",
    ),
    "a tar that is gone": (lambda folder: (folder / "test/2.tar").unlink(), r"test/2\.tar is not there"),
    "a tar more": (lambda folder: (folder / "test/9.tar").write_bytes(bytes(1024)), r"test/9\.tar is not one of its"),
    "other classes": (lambda folder: (folder / "classnames.txt").write_text("\n".join(NAMES[::-1]) + "\n"), "SHA-256"),
    "no classes": (lambda folder: (folder / "classnames.txt").unlink(), "classnames.txt is not there"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_what_is_not_as_it_was(damage: str, home: Path) -> None:
    assert verdict(home).problems == []
    assert verdict(home).by in (LOCK_FILE, RECORD_FILE)
    change, said = DAMAGE[damage]
    change(home / "wds_mine_test")
    problems = verdict(home).problems
    assert any(re.search(said, problem) for problem in problems), problems


def test_without_hashes_the_reader_alone_speaks(tmp_path: Path) -> None:
    write_set(tmp_path, "mine", labelled(20), NAMES, shard_size=7)
    assert (verdict(tmp_path).by, verdict(tmp_path).problems, verdict(tmp_path).pictures) == ("", [], 20)
    flip(tmp_path / "wds_mine_test/test/0.tar")
    assert verdict(tmp_path).problems == []
    (tmp_path / "wds_mine_test/test/2.tar").unlink()
    assert verdict(tmp_path).problems == ["nshards.txt says 3 shards, but there are 2"]
    (tmp_path / "wds_mine_test/classnames.txt").unlink()
    assert "it has no classnames.txt" in verdict(tmp_path).problems[0]


def test_fewer_pictures_than_the_benchmark_has(tmp_path: Path) -> None:
    """Wrong, unless the bytes are known to be the published ones."""
    write_set(tmp_path, "cifar10", labelled(20), NAMES)
    assert verdict(tmp_path).problems == ["it holds 20 pictures, the whole set has 10,000"]
    write_lock(tmp_path)
    assert (verdict(tmp_path).problems, len(verdict(tmp_path).notes)) == ([], 1)


def test_parquet_is_read_as_a_whole(tmp_path: Path) -> None:
    source = write_source(tmp_path / "source")
    folder = tmp_path / f"sets/wds_retrieval-{PAIRS}_test/test"
    folder.mkdir(parents=True)
    data = (source / f"{PAIRS}.parquet").read_bytes()
    (folder / "0000.parquet").write_bytes(data)
    write_lock(tmp_path / "sets")
    assert verdict(tmp_path / "sets").problems == []
    at = data.index(b"\x89PNG") + 20
    (folder / "0000.parquet").write_bytes(data[:at] + bytes(200) + data[at + 200 :])
    assert "test/0000.parquet has SHA-256" in verdict(tmp_path / "sets").problems[0]
    convert_sets(ConvertOptions(str(write_cache(tmp_path / "cache", "today")), str(tmp_path / "made"), quiet=True))
    (file,) = (tmp_path / "made").glob("wds_retrieval-*/test/*.parquet")
    data = file.read_bytes()
    file.write_bytes(data.replace(b"\x89PNG", b"\x89PNX", 1))
    (file.parents[1] / RECORD_FILE).unlink()
    said = {one.key: one.problems for one in verified(tmp_path / "made").verdicts}
    assert "is damaged" in said[f"retrieval/{PAIRS}"][0], "pages that were written here have checksums"


def test_sets_in_a_cache_are_read_too(tmp_path: Path) -> None:
    write_cache(tmp_path, "script")
    assert [one.problems for one in verified(tmp_path).verdicts] == [
        [f"it holds 8 {what}, the whole set has {size}"] for what, size in (("pictures", "1,000"), ("riddles", "3,563"))
    ]
    (tmp_path / "hf_cache/downloads/extracted" / ("e" * 64) / "images/blue.png").unlink()
    assert "a picture cannot be read: blue.png" in verified(tmp_path).verdicts[0].problems[0]


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("a", "b"):
        write_set(tmp_path, name, labelled(20), NAMES, shard_size=1)
    write_lock(tmp_path)
    words = ["evalsets", "verify", str(tmp_path)]
    assert cli.main(words) == 0
    said = capsys.readouterr().out
    assert "a: whole, 20 pictures; as in hub.lock.json" in said
    assert "missing of DataComp's 40 tasks (40): vtab/caltech101" in said
    assert cli.main([*words, "--complete"]) == 1
    capsys.readouterr()
    for tar in (tmp_path / "wds_a_test/test").glob("1*.tar"):
        tar.unlink()
    assert cli.main(words) == 1
    said = capsys.readouterr()
    assert "a: 12 problems" in said.out
    assert "error: evaluation set a: test/1.tar is not there" in said.err
    assert "error: evaluation set a: 2 more problems" in said.err
    assert cli.main([*words, "--sets", "b"]) == 0
    (tmp_path / "wds_a_test").rename(tmp_path / "moved")
    assert cli.main(words) == 1
    assert "wds_a_test is in hub.lock.json and is not there; fetch it again" in capsys.readouterr().err
    assert cli.main([*words, "--sets", "b"]) == 0


@pytest.mark.parametrize("text", ["{", "[]", '{"version": 9, "source": "", "files": {}}'])
def test_records_that_are_none(text: str, tmp_path: Path) -> None:
    folder = write_set(tmp_path, "mine", labelled(20), NAMES)
    (folder / RECORD_FILE).write_text(text)
    assert f"{RECORD_FILE}" in verdict(tmp_path).problems[0]


def test_what_is_refused(tmp_path: Path) -> None:
    with pytest.raises(EvalsetError, match="no such directory"):
        verified(tmp_path / "none")
    with pytest.raises(EvalsetError, match="there is nothing to evaluate on"):
        verified(tmp_path)
    write_set(tmp_path, "mine", labelled(20), NAMES)
    with pytest.raises(EvalsetError, match="has no evaluation set 'yours'"):
        verified(tmp_path, sets=["yours"])
    (tmp_path / LOCK_FILE).write_text("[]")
    with pytest.raises(CorruptDataError, match=LOCK_FILE):
        verified(tmp_path)
