"""Boxes where uids are hashes of urls or keys; boxes of no use to the subset; what is refused, at its cost."""

from __future__ import annotations

import io
import json
import tarfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from dcfast import resharding
from dcfast.errors import PoolError
from dcfast.index import refresh_index
from dcfast.index.segments import Segment
from dcfast.resharding.boxes import check_uid_rule, make_box_table
from dcfast.resharding.cli import main
from dcfast.storage.hashing import hash_bytes
from dcfast.uids.sets import save_subset, uid_format, uid_parse, uid_sort, uid_unique
from pool_builder import picture

COUNT = 4
FACE = [0.1, 0.1, 0.6, 0.6]


def rule(uid_from: str, i: int) -> str:
    return hash_bytes((f"u{i}" if uid_from == "url" else f"00000.tar/{i:09d}").encode())


@pytest.fixture
def faces(tmp_path: Path) -> Path:
    """A shard without uids, and its metadata with the boxes of the first two pictures."""
    root = tmp_path / "pool"
    root.mkdir()
    with tarfile.open(root / "00000.tar", "w") as tar:
        for i in range(COUNT):
            for ext, data in (("jpg", picture(i)), ("json", json.dumps({"url": f"u{i}"}).encode()), ("txt", b"w")):
                info = tarfile.TarInfo(f"{i:09d}.{ext}")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    boxes = pa.array([[FACE] if i < 2 else None for i in range(COUNT)], pa.list_(pa.list_(pa.float64())))
    columns = {"url": [f"u{i}" for i in range(COUNT)], "key": [f"{i:09d}" for i in range(COUNT)], "face_bboxes": boxes}
    # the json of the pool has no uids; those of the metadata are others
    pq.write_table(pa.table({"uid": [f"{i:032x}" for i in range(COUNT)], **columns}), root / "00000.parquet")
    return root


@pytest.mark.parametrize("uid_from", ["url", "key"])
def test_faces_are_blurred_whatever_uids_are_made_of(faces: Path, tmp_path: Path, uid_from: str, capsys: Any) -> None:
    uids = uid_unique(uid_parse([rule(uid_from, i) for i in range(COUNT)])[0])
    save_subset(tmp_path / "s.npy", uids)
    report = resharding.reshard(
        faces, tmp_path / "a", tmp_path / "s.npy", boxes=faces, apply_blur=True, uid_from=uid_from, verify=True
    )
    assert (report["blurred"], report["blur_failed"], report.get("notes")) == (2, 0, None)
    (tmp_path / "map.json").write_text(
        json.dumps({"0": {"parquet": str(faces / "00000.parquet"), "shards": ["00000"]}})
    )
    arguments = ["-i", str(faces), "-o", str(tmp_path / "b"), "-s", str(tmp_path / "s.npy"), "--uid-from", uid_from]
    assert main([*arguments, "--apply-blur", "--blur-metadata-map", str(tmp_path / "map.json")]) == 0
    assert "blurred 2 pictures" in capsys.readouterr().out
    with tarfile.open(tmp_path / "b/00000000.tar") as tar:
        assert sorted(name.rsplit(".")[-1] for name in tar.getnames() if not name.endswith(("json", "txt"))) == [
            "jpg",
            "jpg",
            "webp",
            "webp",
        ]


def test_pools_of_different_rules_are_refused_before_work(tmp_path: Path, capsys: Any) -> None:
    for name, uid_from in (("a", "url"), ("b", "key"), ("plain", None)):
        (tmp_path / name).mkdir()
        if uid_from:
            (tmp_path / name / "pool.json").write_text(f'{{"uid_from": "{uid_from}"}}')
    words = ["-o", str(tmp_path / "o"), "-s", str(tmp_path / "none.npy")]
    for first, second, said in (("a", "b", "'key'"), ("a", "plain", "'json'"), ("plain", "a", "'url'")):
        assert main(["-i", str(tmp_path / first), "-i", str(tmp_path / second), *words]) == 1
        refused = capsys.readouterr().err
        assert "--input-dir: the pools have uids by different rules" in refused
        assert f"{tmp_path / second} by {said}" in refused
        assert not (tmp_path / "o").exists()
    # one rule, theirs or a given one, goes on to the subset, which is not there
    for more in (["-i", str(tmp_path / "a")], ["-i", str(tmp_path / "b"), "--uid-from", "url"]):
        assert main(["-i", str(tmp_path / "a"), *more, *words]) == 1
        assert "different rules" not in capsys.readouterr().err


def subset_of(uid_from: str, count: int = COUNT) -> np.ndarray:
    return uid_unique(uid_parse([rule(uid_from, i) for i in range(count)])[0])


def test_boxes_of_other_uids_are_refused(faces: Path, tmp_path: Path) -> None:
    subset = subset_of("url")
    for uid_from, expected in (("json", "uid_from"), ("key", "in files named like the shards")):
        with pytest.raises(PoolError, match="boxes: none of the 4 rows of the metadata, with faces or w") as caught:
            make_box_table(faces, subset, tmp_path / "t", uid_from)
        assert expected in str(caught.value)
    assert make_box_table(faces, subset, tmp_path / "t", "url").notes == []
    assert make_box_table(faces, subset[:0], tmp_path / "t", "url").notes == []


def test_samples_without_a_row_are_counted(faces: Path, tmp_path: Path) -> None:
    """Of a picture without a row nobody knows whether it has faces; one whose row has no boxes has none."""
    others = uid_parse([rule("url", i) for i in range(100, 103)])[0]
    none = uid_unique(uid_parse([rule("url", 3)])[0])
    assert make_box_table(faces, none, tmp_path / "t", "url").notes == []
    repeated = uid_sort(np.concatenate([subset_of("url"), subset_of("url"), others]))
    (note,) = make_box_table(faces, repeated, tmp_path / "t", "url").notes
    assert note.startswith("boxes: 3 or more uids of the subset have no row in the metadata: faces in their pictures")


@pytest.mark.parametrize("uid_from", ["url", "key"])
def test_an_index_has_uids_of_its_rule(faces: Path, tmp_path: Path, uid_from: str) -> None:
    refresh_index(tmp_path / "ix", faces, uid_from=uid_from)
    (segment,) = (tmp_path / "ix").glob("segment-*.dcx")

    def blur(given: Any, out: str, **arguments: str) -> dict[str, Any]:
        subset = subset_of(uid_from)
        return resharding.reshard(
            [given], tmp_path / out, subset, shards_dir=faces, boxes=faces, apply_blur=True, **arguments
        )

    for given in (segment, Segment.open(segment)):
        with pytest.raises(PoolError, match=rf"index in .*ix come from {uid_from}, but uid_from is 'json'.* give"):
            blur(given, "refused")
    assert not (tmp_path / "refused").exists()
    assert blur(segment, "a", uid_from=uid_from)["blurred"] == 2
    assert blur(Segment.open(segment), "b", uid_from=uid_from)["blurred"] == 2
    alone = segment.rename(tmp_path / "alone.dcx")  # of its rule nothing is known
    with pytest.raises(PoolError, match="none of the 4 rows of the metadata"):
        blur(alone, "refused")
    assert blur(alone, "c", uid_from=uid_from)["blurred"] == 2
    with pytest.raises(ValueError, match="uid_from must be one of json, url, key; got 'uid'"):
        blur(alone, "refused", uid_from="uid")


def test_an_index_of_several_rules_is_refused(faces: Path, tmp_path: Path) -> None:
    """As a refresh to another rule leaves it that was killed between its files."""
    refresh_index(tmp_path / "ix", faces, uid_from="url")
    (tmp_path / "ix/index.json").unlink()
    (tmp_path / "ix/.uids.json").write_text('{"uid_from": "mixed"}')
    with pytest.raises(PoolError, match=r"come from mixed, .*refresh the index first"):
        check_uid_rule((tmp_path / "ix").glob("segment-*.dcx"), "url")


@pytest.mark.parametrize(
    ("box", "shown"),
    [
        ([0.1, None, 0.3, 0.4], "[0.1, None, 0.3, 0.4]"),
        ([0.1, 0.2], "[0.1, 0.2]"),
        ([0.0] * 500, "[0.0, 0.0"),
        (None, "None"),
        ([], "[]"),
    ],
)
def test_a_refused_box_is_shown_as_it_stands(tmp_path: Path, box: Any, shown: str) -> None:
    subset = write_boxes(tmp_path / "m.parquet", [[], [FACE], [FACE, box, FACE]])
    (note,) = make_box_table(tmp_path / "m.parquet", subset, tmp_path / "t").notes
    assert f"row 2: box {shown}" in note
    assert note.endswith("is not four finite numbers")
    assert "nan" not in note.lower()
    assert len(note) < len(str(tmp_path)) + 300


def write_boxes(path: Path, boxes: list[Any]) -> np.ndarray:
    uids = [f"{i:032x}" for i in range(len(boxes))]
    pq.write_table(pa.table({"uid": uids, "face_bboxes": boxes}), path)
    return uid_unique(uid_parse(uids)[0])


def test_a_box_beyond_the_edge_by_rounding_alone_is_refused(tmp_path: Path) -> None:
    thin = [[1.0001, 0.1, 1.0004, 0.2], [0.1, -0.0004, 0.2, -0.0001]]
    subset = write_boxes(tmp_path / "m.parquet", [[FACE], [thin[0]], [thin[1], FACE], [[0.9, 0.1, 1.0004, 0.2]]])
    table = make_box_table(tmp_path / "m.parquet", subset, tmp_path / "t")
    assert table.refused == 2
    assert all("has no area inside the picture" in note for note in table.notes)
    found = table.look_up(subset)
    assert [bool(np.isnan(boxes).any()) for boxes in found if boxes is not None] == [False, True, True, False]
    assert found[3] is not None
    assert found[3].tolist() == [[0.9, 0.1, 1.0, 0.2]]


def test_many_refused_rows_are_counted_at_once(tmp_path: Path) -> None:
    rows = 40_000
    subset = write_boxes(tmp_path / "m.parquet", [[FACE]] + [[[0.5, 0.1, 0.2, 0.2]]] * rows)
    begin = time.perf_counter()
    table = make_box_table(tmp_path / "m.parquet", subset, tmp_path / "t")
    assert time.perf_counter() - begin < 2  # each with a search of its own: half a minute
    assert (table.refused, len(table.notes)) == (rows, 21)
    assert table.notes[-1] == f"boxes: {rows - 20:,} more rows were refused"
    assert uid_format(subset[:1], as_list=True) == ["0" * 32]
