"""Archives joined by cat: all of them are read, and whatever is made of the index agrees with their bytes."""

from __future__ import annotations

import json
import os
import re
import tarfile
from pathlib import Path
from typing import Any

import dcfast
import numpy as np
import pytest
from dcfast import interop, resharding
from dcfast.access import PoolReader
from dcfast.evaluate.evalset import open_evalset
from dcfast.evaluate.tasks import find_tasks
from dcfast.index import refresh_index
from dcfast.index.build import index_tars, write_segment
from dcfast.index.segments import SampleFlag
from dcfast.run.workflow import run
from dcfast.rundir.settings import Settings
from dcfast.train.settings import TrainSource
from dcfast.train.source import prepare_source
from dcfast.uids.sets import load_subset, uid_parse, uid_sort
from pool_builder import evalset, picture, plain_pool
from tar_reference import GIF, make_tar, our_groups, our_members, sample_members
from test_tar_index import END, pax_block, plain

ANOTHER = "another archive follows the end-of-archive marker at byte"


def archive(path: Path, samples: range, format: str = "ustar") -> bytes:
    return make_tar(path, [m for i in samples for m in sample_members(i, 700)], format).read_bytes()


def joined(folder: Path, format: str = "ustar") -> Path:
    """Three archives of 3, 0 and 4 samples, the middle one empty."""
    parts = [archive(folder / f"{n}.part", range(*ends), format) for n, ends in enumerate([(0, 3), (3, 3), (3, 7)])]
    path = folder / "00000000.tar"
    path.write_bytes(b"".join(parts))
    return path


def by_tarfile(path: Path) -> list[tuple[str, int, int]]:
    with tarfile.open(path, "r:", ignore_zeros=True) as tar:  # as `tar -i`
        return [(m.name, m.offset_data, m.size) for m in tar if m.isreg()]


@pytest.mark.parametrize("format", ["ustar", "gnu", "pax"])
def test_all_members_are_found(tmp_path: Path, format: str) -> None:
    path = joined(tmp_path, format)
    assert our_members(path) == by_tarfile(path)
    index = index_tars(path)
    assert [key for key, _ in our_groups(index.segment)] == [f"{i:09d}" for i in range(7)]
    assert index.damage == []
    (note,), (loss,) = index.notes, index.segment.losses
    assert (loss.archive, loss.message) == (False, note.message)
    mark, begin = (len((tmp_path / f"{n}.part").read_bytes()) for n in (0, 1))
    end = path.read_bytes()[:mark].rstrip(b"\0")
    assert note.message == (
        f"{ANOTHER} {-(-len(end) // 512) * 512}: its 4 samples were read too, as tar -i does; "
        "if this is what an older, longer file left, rewrite the shard"
    )
    assert note.offset == mark + begin
    assert set(index.segment.flags.tolist()) == {0}


def test_what_is_made_of_the_index_agrees(tmp_path: Path) -> None:
    (tmp_path / "pool").mkdir()
    path = joined(tmp_path).rename(tmp_path / "pool/00000000.tar")
    data = path.read_bytes()
    expected = {name: data[at : at + size] for name, at, size in by_tarfile(path)}
    write_segment([(path, path.name)], tmp_path / "s.dcx")
    reader = PoolReader(path.parent, [tmp_path / "s.dcx"])
    batch = reader.read(reader.row_ids(np.arange(7)), "json")
    assert [bytes(batch[i]) for i in range(7)] == [expected[f"{i:09d}.json"] for i in range(7)]
    index = index_tars(path)
    (idx,) = interop.write_wds2idx(index, tmp_path / "idx")
    for line in idx.read_text().splitlines()[1:]:
        words = line.split()
        for ext, at, size, name in zip(*[iter(words)] * 4, strict=True):
            assert (name.split(".", 1)[1], data[int(at) : int(at) + int(size)]) == (ext, expected[name])
    subset = uid_sort(uid_parse([f"{i:032x}" for i in range(7)])[0])
    report = resharding.reshard(path.parent, tmp_path / "out", subset, verify=True)
    assert (report["output_count"], report["missing_count"], report.get("damage")) == (7, 0, None)
    with tarfile.open(tmp_path / "out/00000000.tar") as tar:
        written = {m.name: tar.extractfile(m).read() for m in tar}  # type: ignore[union-attr]
    for i in range(7):
        assert written[f"{i:032x}-0.jpg"] == expected[f"{i:09d}.jpg"]
    refreshed = refresh_index(tmp_path / "ix", path.parent)
    assert refreshed["samples"] == 7
    training = prepare_source(TrainSource(shards=str(path.parent)), tmp_path, 0)
    for notes in (report["notes"], refreshed["notes"], training.notes):
        assert [bool(re.match(rf"shard 00000000\.tar, byte [\d,]+: {ANOTHER}", note)) for note in notes] == [True]


def test_an_evaluation_and_a_comparison_say_it(tmp_path: Path) -> None:
    sets = evalset(tmp_path / "evalsets", "tiny", {f"s{i}": picture(i) for i in range(4)})
    tar = sets / "wds_tiny_test/test/0.tar"
    for name, text in (("classnames.txt", "a\n"), ("zeroshot_classification_templates.txt", "a {c}\n")):
        (sets / "wds_tiny_test" / name).write_text(text)
    tar.write_bytes(tar.read_bytes() * 2)
    ((task, folder),) = find_tasks(sets)
    found = open_evalset(task, folder)
    assert [ANOTHER in note for note in found.notes] == [True, False]
    assert ": its 4 samples, 4 of them with keys of earlier ones, were read too" in found.notes[0]
    pool = plain_pool(tmp_path / "pool", 4, 1).write()
    settings = Settings(pool=str(pool), evalsets=str(sets), filter="no_filter", train=False)
    done: dict[str, Any] = run(tmp_path / "run", settings, last="signatures")
    assert [ANOTHER in note for note in done["signatures"].notes] == [True, False]


def test_keys_of_the_second_archive_may_be_those_of_the_first(tmp_path: Path) -> None:
    """Each archive counts from 0: samples stay apart, also at the seam, and the note says what keys do."""
    path = tmp_path / "a.tar"
    one = plain("0.jpg", GIF) + plain("0.txt", b"a") + END
    path.write_bytes(one + one)
    index = index_tars(path)
    assert our_groups(index.segment) == [("0", ["jpg", "txt"])] * 2
    assert index.segment.flags[1] == SampleFlag.REPEATED_KEY | SampleFlag.NO_JSON
    assert ": its 1 sample, 1 of them with keys of earlier ones, was read too" in index.notes[0].message
    assert index.notes[1].message.split(",")[0] == "1 sample has the key of an earlier one"
    assert [loss.archive for loss in index.segment.losses] == [False, False]


def test_no_sample_is_of_two_archives(tmp_path: Path) -> None:
    """What an older file left under a shorter one may begin in the middle of the sample that the newer ends with."""
    path = tmp_path / "a.tar"
    path.write_bytes(plain("0.jpg", GIF) + END + plain("0.txt", b"old") + plain("1.jpg", GIF) + END)
    index = index_tars(path)
    assert our_groups(index.segment) == [("0", ["jpg"]), ("0", ["txt"]), ("1", ["jpg"])]
    assert index.segment.flags[1] & SampleFlag.REPEATED_KEY


def test_an_older_longer_archive_under_a_newer_one(tmp_path: Path) -> None:
    """Written in place without a cut: nothing tells it from archives that were joined, so that both are said."""
    path = tmp_path / "a.tar"
    old, new = archive(tmp_path / "old.part", range(9)), archive(tmp_path / "new.part", range(20, 22))
    heads = [at for at in range(0, len(old), 512) if old[at + 257 : at + 262] == b"ustar" and at >= 4096]
    path.write_bytes(new.rstrip(b"\0") + bytes(-len(new.rstrip(b"\0")) % 512) + END + old[heads[0] :])
    index = index_tars(path)
    (loss,) = index.segment.losses
    assert loss.message.startswith(ANOTHER)
    assert loss.message.endswith("an older, longer file left, rewrite the shard")
    assert len(index) > 2


def test_a_global_header_ends_with_its_archive(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    path.write_bytes(pax_block({"path": "x.jpg"}, b"g") + plain("a.jpg", b"1") + END + plain("b.jpg", b"2") + END)
    assert [name for name, _, _ in our_members(path)] == ["x.jpg", "b.jpg"]


@pytest.mark.parametrize(
    ("behind", "names", "losses"),
    [
        (b"", ["a.txt"], []),
        (bytes(9216), ["a.txt"], []),
        (bytes(200_000) + plain("b.txt", b"b") + END, ["a.txt"], ["data follow the end-of-archive marker"]),  # no block
        (bytes(199_680) + plain("b.txt", b"b") + END, ["a.txt", "b.txt"], [ANOTHER]),
        (b"x" * 600, ["a.txt"], ["data follow the end-of-archive marker"]),
        (b"x" * 100, ["a.txt"], ["data follow the end-of-archive marker"]),
        (plain("b.txt", b"b")[:400], ["a.txt"], ["data follow the end-of-archive marker"]),
        (plain("b.txt", b"b"), ["a.txt", "b.txt"], [ANOTHER, "no end-of-archive marker"]),
        (plain("b.txt", b"b" * 600)[:-700], ["a.txt"], [ANOTHER, "member 'b.txt' cut off"]),
        (bytes(3 << 20), ["a.txt"], ["zeros follow the end-of-archive marker: 3146752 bytes"]),
    ],
    ids=["end", "padding", "off a block", "long padding", "text", "short", "cut header", "no end", "cut", "zeros"],
)
def test_what_may_stand_behind_the_end(tmp_path: Path, behind: bytes, names: list[str], losses: list[str]) -> None:
    path = tmp_path / "a.tar"
    path.write_bytes(plain("a.txt", b"a") + END + behind)
    index = index_tars(path)
    assert [name for name, _, _ in our_members(path)] == names
    assert [loss.archive for loss in index.segment.losses] == [start != ANOTHER for start in losses]
    for loss, start in zip(index.segment.losses, losses, strict=True):
        assert loss.message.startswith(start)


def test_many_joined_archives_make_one_note(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    path.write_bytes(b"".join(plain(f"{i}.jpg", GIF) + END for i in range(500)))
    index = index_tars(path)
    assert len(index) == 500
    assert [n.message.partition(" follow")[0] for n in index.notes] == ["499 other archives"]


def test_a_run_keeps_the_samples_of_both(tmp_path: Path) -> None:
    pool = plain_pool(tmp_path / "pool", 12, 2).write()
    one, two = sorted((pool / "shards").iterdir())
    one.write_bytes(one.read_bytes() + two.read_bytes())
    os.remove(two)
    done = run(tmp_path / "run", Settings(pool=str(pool), filter="no_filter", train=False))
    assert done["filter"].fates == {"kept": 12, "dropped": 0, "quarantined": 0, "missing": 0, "unlisted": 0}
    (note,) = done["index"].notes
    assert re.search(rf"shard 00000000\.tar, byte [\d,]+: {ANOTHER} \d+: its 6 samples were read too", note)
    assert done["verify"].ok
    assert note in json.loads((tmp_path / "run/report.json").read_text())["notes"]
    assert len(load_subset(tmp_path / "run/subset.npy")) == 12


def test_uids_of_json_are_found_behind_a_long_archive(tmp_path: Path) -> None:
    """Through the window, too, with which shards behind URLs are read."""
    path = tmp_path / "a.tar"
    path.write_bytes(archive(tmp_path / "1.part", range(400)) + archive(tmp_path / "2.part", range(400, 410)))
    samples = dcfast.index_tars(path).samples()
    assert samples["uid"].to_pylist() == [f"{i:032x}" for i in range(410)]
