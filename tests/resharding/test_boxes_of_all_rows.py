"""Boxes of a uid that comes in several rows, uids that are no text, and what the command says of both."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from dcfast.errors import PoolError
from dcfast.images.blur import blur_image
from dcfast.resharding import reshard
from dcfast.resharding.boxes import make_box_table
from dcfast.resharding.cli import main
from dcfast.uids.sets import save_subset, uid_parse, uid_sort
from pool_builder import PoolBuilder, Sample, picture, uid_of

LEFT, RIGHT = [0.0, 0.1, 0.4, 0.6], [0.6, 0.4, 1.0, 0.9]
BOXES = pa.list_(pa.list_(pa.float64()))


def metadata(path: Path, rows: list[tuple[Any, Any]], kind: Any = None) -> None:
    uids = pa.array([uid for uid, _ in rows], kind or pa.string())
    pq.write_table(pa.table({"uid": uids, "face_bboxes": pa.array([boxes for _, boxes in rows], BOXES)}), path)


def subset(count: int) -> np.ndarray:
    return uid_sort(uid_parse([uid_of(i) for i in range(count)])[0])


def test_the_faces_of_all_rows_of_a_uid_are_blurred(tmp_path: Path) -> None:
    pool = PoolBuilder(tmp_path / "pool", [[Sample(0), Sample(1), Sample(2)]]).write()
    faces = tmp_path / "faces"
    faces.mkdir()
    metadata(faces / "0.parquet", [(uid_of(0), [LEFT]), (uid_of(1), [LEFT, LEFT]), (uid_of(2), [LEFT])])
    metadata(faces / "1.parquet", [(uid_of(0), [RIGHT]), (uid_of(1), [LEFT]), (uid_of(0), None), (uid_of(0), [LEFT])])
    metadata(faces / "2.parquet", [(uid_of(2), [[9.0, 9.0, 20.0, 20.0]])])
    table = make_box_table(faces, subset(3), tmp_path / "t")
    both, one, refused = table.look_up(uid_parse([uid_of(i) for i in range(3)])[0])
    assert both is not None
    assert one is not None
    assert refused is not None
    assert both.tolist() == [LEFT, RIGHT]
    assert one.tolist() == [LEFT]
    assert np.isnan(refused).any()  # of one row: nobody knows where the face is
    report = reshard(pool, tmp_path / "out", subset(3), boxes=faces, apply_blur=True, inject_boxes=True, verify=True)
    assert (report["blurred"], report["blur_failed"], report["output_count"]) == (2, 1, 2)
    tar = (tmp_path / "out/00000000.tar").read_bytes()
    expected = blur_image(picture(0), np.array([LEFT, RIGHT]))
    assert expected in tar
    assert json.dumps([LEFT, RIGHT]).encode() in tar
    assert blur_image(picture(0), np.array([LEFT])) not in tar


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.binary(), pa.dictionary(pa.int32(), pa.string())])
def test_a_uid_that_is_no_text_costs_its_row(tmp_path: Path, kind: Any) -> None:
    raw = pa.array([uid_of(0).encode(), b"\xff" * 32], pa.binary())
    value = kind.value_type if pa.types.is_dictionary(kind) else kind
    uids = raw.cast(pa.large_binary()).view(value) if value == pa.large_string() else raw.view(value)
    column = uids.dictionary_encode() if pa.types.is_dictionary(kind) else uids
    path = tmp_path / "m.parquet"
    pq.write_table(pa.table({"uid": column, "face_bboxes": pa.array([[LEFT], [LEFT]], BOXES)}), path)
    (note,) = make_box_table(path, subset(1), tmp_path / "t").notes
    assert note.startswith(f"boxes: {path}, row 1: its uid is not 32 hex digits: '")
    assert "xff" in note


def test_the_remedy_is_that_of_the_fault(tmp_path: Path) -> None:
    dashed = "-".join([uid_of(0)[:8], uid_of(0)[8:]])
    metadata(tmp_path / "m.parquet", [(dashed, [LEFT]), (None, [LEFT])])
    with pytest.raises(PoolError, match=r"row 0: its uid is not 32 hex digits: .*\. Faces are found by uid") as caught:
        make_box_table(tmp_path / "m.parquet", subset(1), tmp_path / "t")
    assert "Boxes must be" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [("{broken", "not json"), ("[1]", "is no map of metadata"), ('{"0": {}}', "is no map"), ('{"0": 1}', "is no map")],
)
def test_a_map_that_is_none_is_told_in_words(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "map.json").write_text(text)
    with pytest.raises(PoolError, match=words) as caught:
        make_box_table(tmp_path / "map.json", subset(1), tmp_path / "t")
    assert str(tmp_path / "map.json") in str(caught.value)
    assert "Error(" not in str(caught.value)


def test_what_was_written_is_said_without_what_was_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    samples = [Sample(i, jpg=b"no picture" if i in (3, 7) else None) for i in range(12)]
    pool = PoolBuilder(tmp_path / "pool", [samples[:6], samples[6:]]).write()
    metadata(tmp_path / "m.parquet", [(uid_of(i), [LEFT]) for i in range(12)])
    save_subset(tmp_path / "s.npy", subset(12))
    words = ["-i", pool, "-o", tmp_path / "o", "-s", tmp_path / "s.npy", "--blur-metadata-map", tmp_path / "m.parquet"]
    assert main([*map(str, words), "--apply-blur"]) == 0
    said = capsys.readouterr().out
    assert "wrote 10 samples in 1 shards" in said
    assert "left out 2 samples" in said
    assert json.loads((tmp_path / "o/meta.json").read_text())["output_count"] == 10
