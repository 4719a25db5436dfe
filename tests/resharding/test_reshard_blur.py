"""Boxes in a reshard: their table, and shards in which they are blurred or injected."""

from __future__ import annotations

import json
import math
import tarfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from dcfast import resharding as resharder
from dcfast.errors import CorruptDataError, PoolError
from dcfast.images.blur import blur_image
from dcfast.resharding.boxes import BoxTable, make_box_table
from dcfast.resharding.edit import BlurOptions
from dcfast.uids.sets import save_subset
from pool_builder import picture
from reshard_reference import make_uid, read_output, subset_of, uid_array, write_pool

FACE = [0.25, 0.25, 0.75, 0.7]


# the table of boxes


def write_metadata(path: Path, rows: list[tuple[str, list[list[float]] | None]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    boxes = pa.array([row[1] for row in rows], pa.list_(pa.list_(pa.float64())))
    pq.write_table(pa.table({"uid": [row[0] for row in rows], "face_bboxes": boxes, "text": ["x"] * len(rows)}), path)
    return path


def random_boxes(rng: np.random.Generator, count: int) -> list[list[float]]:
    return np.sort(rng.random((count, 2, 2)), axis=1).reshape(count, 4).tolist()


def test_boxes_are_found_by_uid(tmp_path):
    rng = np.random.default_rng(5)
    rows = [(make_uid(i), random_boxes(rng, i % 4) if i % 5 else None) for i in range(300)]
    write_metadata(tmp_path / "m/b.parquet", rows[:100])
    write_metadata(tmp_path / "m/c.parquet", rows[100:])
    write_metadata(tmp_path / "m/e.parquet", [])
    wanted = subset_of([make_uid(i) for i in range(0, 300, 2)] + [make_uid(1), make_uid(1)])
    table = make_box_table(tmp_path / "m", wanted, tmp_path / "t")
    assert sorted(path.name for path in (tmp_path / "t").iterdir()) == ["box_records.npy", "boxes.npy"]
    found = BoxTable.open(tmp_path / "t").look_up(uid_array([make_uid(i) for i in range(301)]))
    for i in range(300):
        expected = rows[i][1] if (i % 2 == 0 or i == 1) and rows[i][1] else None
        assert (found[i] is None) == (expected is None), i
        assert expected is None or found[i].tolist() == expected
    assert found[300] is None
    assert len(table.records) == sum(bool(rows[i][1]) for i in range(300) if i % 2 == 0 or i == 1)
    mapping = {"x": {"parquet": "m/b.parquet", "shards": ["s"]}, "y": {"parquet": "m/c.parquet", "shards": []}}
    (tmp_path / "map.json").write_text(json.dumps(mapping))
    for metadata in (tmp_path / "map.json", [tmp_path / "m/b.parquet", tmp_path / "m/c.parquet"]):
        again = make_box_table(metadata, wanted, tmp_path / "u")
        assert np.array_equal(again.records, table.records)


def test_rounding_beyond_the_picture_is_cut(tmp_path):
    write_metadata(tmp_path / "m.parquet", [(make_uid(0), [[-0.0009, 0.25, 1.0009, 0.5]])])
    table = make_box_table(tmp_path / "m.parquet", subset_of([make_uid(0)]), tmp_path / "t")
    assert table.boxes.tolist() == [[0, 0.25, 1, 0.5]]
    assert (table.refused, table.notes) == (0, [])


BAD_BOXES = {
    "is not four finite numbers": [[0.1, 0.2, 0.3], [0.1, 0.2, 0.3, math.nan], [0.1, -math.inf, 0.3, 0.4], [], None],
    "leaves the picture": [[25.0, 22.0, 102.0, 112.0], [-0.5, 0.25, 1.5, 0.5], [0.1, 0.1, 0.2, 1.0011]],
    "has its corners swapped": [[0.4, 0.5, 0.1, 0.1], [0.1, 0.5, 0.4, 0.1], [0.1, 0.1, 0.1, 0.4]],
}


@pytest.mark.parametrize(("why", "box"), [(why, box) for why, boxes in BAD_BOXES.items() for box in boxes])
@pytest.mark.parametrize("more", [[], [FACE]])
def test_a_bad_box_costs_its_row(tmp_path, why, box, more):
    uids = [make_uid(i) for i in range(5)]
    rows = [(uid, [FACE, FACE]) for uid in uids]
    rows[3] = (uids[3], [*more, box, *more])
    write_metadata(tmp_path / "m.parquet", rows)
    table = make_box_table(tmp_path / "m.parquet", subset_of(uids), tmp_path / "t")
    (note,) = table.notes
    assert f"m.parquet, row 3: box {[] if box in ([], None) else ''}".rstrip("[]") in note
    assert why in note
    found = BoxTable.open(tmp_path / "t").look_up(uid_array(uids))
    assert [boxes.tolist() for i, boxes in enumerate(found) if i != 3] == [[FACE, FACE]] * 4
    assert found[3].shape == (1, 4)
    assert np.isnan(found[3]).all()
    others = make_box_table(tmp_path / "m.parquet", subset_of(uids[:2]), tmp_path / "t")
    assert (others.refused, len(others.boxes)) == (0, 4)  # a row of no sample is nobody's fault


def test_a_row_without_uid_costs_that_row(tmp_path):
    rows = [(make_uid(i) if i not in (2, 4) else bad, [FACE]) for i, bad in enumerate([0, 0, None, 0, "x" * 200])]
    write_metadata(tmp_path / "m.parquet", [*rows, (None, None)])
    table = make_box_table(tmp_path / "m.parquet", subset_of([make_uid(i) for i in range(5)]), tmp_path / "t")
    assert (table.refused, len(table.records)) == (2, 3)
    assert "m.parquet, row 2: its uid is not 32 hex digits: None" in table.notes[0]
    assert len(table.notes[1]) < len(str(tmp_path)) + 200
    write_metadata(tmp_path / "m.parquet", [(None, [FACE])] * 30 + [(make_uid(0), [FACE])])
    table = make_box_table(tmp_path / "m.parquet", subset_of([make_uid(0)]), tmp_path / "t")
    assert (len(table.notes), table.notes[-1]) == (21, "boxes: 10 more rows were refused")


def test_metadata_of_pixels_stops_the_run(tmp_path):
    write_metadata(tmp_path / "m.parquet", [(make_uid(i), [[25.0, 22.0, 102.0, 112.0]]) for i in range(3)])
    with pytest.raises(
        PoolError, match=r"all 3 rows with boxes are refused; the first: .*m\.parquet, row 0.* fractions"
    ):
        make_box_table(tmp_path / "m.parquet", subset_of([make_uid(i) for i in range(3)]), tmp_path / "t")


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"uid": [make_uid(0)]}, "has no column face_bboxes"),
        ({"uid": [5], "face_bboxes": [[FACE]]}, "a column uid of type int64"),
        ({"uid": [make_uid(0)], "face_bboxes": ["text"]}, "must be lists of"),
    ],
)
def test_bad_metadata(tmp_path, columns, message):
    pq.write_table(pa.table(columns), tmp_path / "m.parquet")
    with pytest.raises(PoolError, match=message) as caught:
        make_box_table(tmp_path / "m.parquet", subset_of([make_uid(0)]), tmp_path / "t")
    assert "m.parquet" in str(caught.value)


def test_metadata_that_is_none(tmp_path):
    subset = subset_of([])
    (tmp_path / "empty").mkdir()
    (tmp_path / "m.parquet").write_bytes(b"not parquet")
    (tmp_path / "m.json").write_text("[1]")
    for metadata, error, message in (
        (tmp_path / "empty", PoolError, "no parquet files"),
        (tmp_path / "m.parquet", PoolError, "is not a parquet file"),
        (tmp_path / "m.json", PoolError, "expected a json object"),
        (tmp_path / "none.parquet", FileNotFoundError, "none.parquet"),
    ):
        with pytest.raises(error, match=message):
            make_box_table(metadata, subset, tmp_path / "t")


# shards


@pytest.fixture
def pool(tmp_path):
    """Six samples: 0 and 3 without boxes, 4 is no picture, 5 has a webp beside its jpg."""
    samples = []
    for i in range(6):
        record = {"uid": make_uid(i), "caption": "é", "face_bboxes": None}
        members = {"jpg": picture(i), "json": json.dumps(record).encode(), "txt": b"caption"}
        if i == 4:
            members["jpg"] = picture(i)[:200]
        if i == 5:
            members["webp"] = b"another"
        samples.append((f"{i:05d}", members))
    names = write_pool(tmp_path / "pool", [samples[:4], samples[4:]])
    rows = [(make_uid(i), [FACE, [0.1, 0.1, 0.2, 0.2 + i / 100]] if i % 3 else []) for i in range(6)]
    write_metadata(tmp_path / "meta/0.parquet", rows)
    # each kept once, sample 1 three times, sample 4 with its broken picture
    subset = subset_of([make_uid(i) for i in (0, 1, 1, 1, 2, 3, 4, 5)])
    return tmp_path / "pool", names, subset, dict(rows)


def members(out: Path) -> dict[str, bytes]:
    found = {}
    for path in sorted(out.glob("*.tar")):
        with tarfile.open(path) as tar:
            found |= {member.name: tar.extractfile(member).read() for member in tar}
    return found


@pytest.mark.parametrize("options", [{}, {"shuffle_seed": 3}, {"shard_size": 2, "threads": 2}])
def test_blur_applied_and_injected(pool, tmp_path, options):
    directory, _, subset, boxes = pool
    plain, out = tmp_path / "plain", tmp_path / "out"
    resharder.reshard(directory, plain, subset)
    report = resharder.reshard(
        directory,
        out,
        subset,
        boxes=tmp_path / "meta",
        apply_blur=True,
        inject_boxes=True,
        idx=True,
        verify=True,
        **options,
    )
    before, after = members(plain), members(out)
    assert (report["blurred"], report["injected"], report["blur_failed"]) == (5, 5, 1)
    failed = [name for name in before if name.startswith(make_uid(4))]
    expected = {}
    for name, data in before.items():
        key, ext = name.split(".")
        found = boxes[key.split("-")[0]]
        if name in failed or (found and ext == "webp"):
            continue
        if found and ext == "jpg":
            name, data = f"{key}.webp", blur_image(data, np.array(found))
        if found and ext == "json":
            data = json.dumps({**json.loads(data), "face_bboxes": found}).encode()
        expected[name] = data
    assert after == expected
    for path in out.glob("*.tar"):
        with tarfile.open(path) as tar:
            names = tar.getnames()
        assert [n for n in names if n.startswith(names[0].split(".")[0])] == sorted(
            n for n in names if n.startswith(names[0].split(".")[0])
        )
    stats = [count for _, count in read_output(out)]
    meta, sizes = (json.loads((out / name).read_text()) for name in ("meta.json", "sizes.json"))
    assert sum(stats) == sum(sizes.values()) == meta["output_count"] == 7
    assert meta["blur_failed"] == 1
    assert not list(out.glob(".tmp-*"))


def test_refused_boxes_are_never_written_as_blurred(pool, tmp_path, capsys):
    """Of a sample whose boxes make no sense: left out where faces are to be blurred, else without boxes in its json."""
    directory, _, subset, boxes = pool
    rows = dict(boxes) | {make_uid(1): [FACE, [30.0, 30.0, 60.0, 60.0]], make_uid(2): [[0.5, 0.5, 0.501, 0.501]]}
    write_metadata(tmp_path / "bad/0.parquet", [*rows.items(), (None, [FACE])])
    report = resharder.reshard(
        directory, tmp_path / "out", subset, boxes=tmp_path / "bad", apply_blur=True, inject_boxes=True, verify=True
    )
    # 1 stands three times; 2 has a box smaller than a pixel; 4 is no picture
    assert (report["blurred"], report["injected"], report["blur_failed"]) == (1, 1, 5)
    assert report["boxes_refused"] == 2
    assert "row 1: box [30.0, 30.0, 60.0, 60.0] leaves the picture" in report["notes"][0]
    assert "row 6: its uid is not 32 hex digits" in report["notes"][1]
    written = {name.split("-")[0] for name in members(tmp_path / "out")}
    assert written == {make_uid(i) for i in (0, 3, 5)}
    report = resharder.reshard(
        directory, tmp_path / "in", subset, boxes=tmp_path / "bad", inject_boxes=True, verify=True
    )
    assert (report["injected"], report["inject_failed"], report["blur_failed"]) == (3, 3, 0)
    after = members(tmp_path / "in")
    assert json.loads(after[f"{make_uid(1)}-0.json"])["face_bboxes"] is None


def test_injection_alone_keeps_the_pictures(pool, tmp_path):
    directory, _, subset, boxes = pool
    resharder.reshard(directory, tmp_path / "plain", subset)
    report = resharder.reshard(
        directory, tmp_path / "out", subset, boxes=tmp_path / "meta", inject_boxes=True, verify=True
    )
    before, after = members(tmp_path / "plain"), members(tmp_path / "out")
    assert list(before) == list(after)
    assert (report["blurred"], report["injected"], report["blur_failed"]) == (0, 6, 0)
    for name, data in after.items():
        if name.endswith(".json"):
            assert json.loads(data)["face_bboxes"] == (boxes[name.split("-")[0]] or None)
        else:
            assert data == before[name]


def test_verification_compares_the_changed_members(pool, tmp_path):
    directory, names, subset, _ = pool
    out = tmp_path / "out"
    table = make_box_table(tmp_path / "meta", subset, tmp_path / "t")
    resharder.reshard(directory, out, subset, boxes=tmp_path / "meta", apply_blur=True)
    from dcfast.index.build import write_segment

    write_segment([(directory / name, name) for name in names], tmp_path / "s.dcx", sync=False)
    plan = resharder.make_plan([str(tmp_path / "s.dcx")], subset, shards_dir=directory)

    def verified(**options):
        return resharder.verify_output_shards(plan, subset, out, **options)

    assert verified(blur=BlurOptions(table, apply=True))["mismatch_count"] == 0
    assert verified(blur=BlurOptions(table, apply=True, quality=50))["mismatch_count"] == 5
    assert verified()["mismatch_count"] > 5
    data = bytearray((out / "00000000.tar").read_bytes())
    data[data.index(b"WEBPVP8 ") + 100] ^= 1
    (out / "00000000.tar").write_bytes(data)
    report = verified(blur=BlurOptions(table, apply=True))
    assert [m["problem"] for m in report["mismatches"]] == ["payload differs from its source"]
    with pytest.raises(CorruptDataError, match="payload differs"):
        verified(blur=BlurOptions(table, apply=True), strict=True)


def test_workers_one_by_one_write_the_same_bytes(pool, tmp_path):
    directory, names, subset, _ = pool
    from dcfast.index.build import write_segment

    write_segment([(directory / name, name) for name in names], tmp_path / "s.dcx", sync=False)
    plan = resharder.make_plan([str(tmp_path / "s.dcx")], subset, shards_dir=directory, shard_size=3)
    blur = BlurOptions(make_box_table(tmp_path / "meta", subset, tmp_path / "t"), apply=True, inject=True)
    for k in (2, 0, 1):
        resharder.write_output_shards(plan, subset, k, k + 1, tmp_path / "a", blur=blur)
    meta = resharder.finish_reshard(plan, subset, tmp_path / "a", edited=True)
    options = {"shard_size": 3, "boxes": tmp_path / "meta", "apply_blur": True, "inject_boxes": True}
    resharder.reshard(directory, tmp_path / "b", subset, **options)
    assert read_output(tmp_path / "a") == read_output(tmp_path / "b")
    assert meta["blurred"] == 5


def test_source_that_ends_early_and_leftovers(pool, tmp_path):
    directory, names, subset, _ = pool
    from dcfast.index.build import write_segment

    write_segment([(directory / name, name) for name in names], tmp_path / "s.dcx", sync=False)
    plan = resharder.make_plan([str(tmp_path / "s.dcx")], subset, shards_dir=directory)
    blur = BlurOptions(make_box_table(tmp_path / "meta", subset, tmp_path / "t"), apply=True)
    (directory / names[0]).write_bytes((directory / names[0]).read_bytes()[:6000])
    with pytest.raises(CorruptDataError, match="source ends"):
        resharder.write_output_shards(plan, subset, 0, 1, tmp_path / "o", blur=blur)
    assert list((tmp_path / "o").iterdir()) == []


def test_bad_options(pool, tmp_path):
    directory, _, subset, _ = pool
    for options, message in (
        ({"apply_blur": True}, "need boxes"),
        ({"boxes": tmp_path / "meta"}, "neither apply_blur nor inject_boxes"),
        ({"boxes": tmp_path / "meta", "apply_blur": True, "webp_quality": 101}, "webp_quality must be .* 0 to 100"),
        ({"webp_quality": 1000}, "webp_quality must be a whole number of 0 to 100; got 1000"),
        ({"webp_quality": -1}, "got -1"),
        ({"webp_quality": True}, "got True"),
        ({"webp_quality": 50.5}, "got 50.5"),
    ):
        with pytest.raises(ValueError, match=message):
            resharder.reshard(directory, tmp_path / "o", subset, **options)
    table = make_box_table(tmp_path / "meta", subset, tmp_path / "t")
    with pytest.raises(ValueError, match="one of apply and inject"):
        BlurOptions(table)
    with pytest.raises(ValueError, match="blur: quality must be 0 to 100; got 101"):
        BlurOptions(table, apply=True, quality=101)
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize("value", ["1000", "-1"])
def test_the_quality_is_checked_where_nothing_is_blurred(tmp_path, capsys, value):
    from dcfast.resharding.cli import main

    with pytest.raises(SystemExit) as stopped:
        main(["-i", "nowhere", "-o", str(tmp_path / "o"), "-s", "nothing", "--reencode-webp-quality", value])
    assert stopped.value.code == 2
    assert f"--reencode-webp-quality must be 0 to 100; got {value}" in capsys.readouterr().err


@pytest.mark.parametrize("apply", [False, True])
def test_json_that_only_the_index_can_read_keeps_its_sample(tmp_path, apply):
    """It is written with the json as it is, without its boxes, blurred if asked, and counted."""
    uids = [make_uid(i) for i in range(5)]
    more = b"9" * 5000  # digits of a whole number than Python reads
    odd = [b'{"uid": "%b", "size": ' + more + b"}", b'{"size": -' + more + b', "uid": "%b"}']
    records = [*odd, *[b'{"uid": "%b"}'] * 3]
    samples = [
        (f"{i}", {"jpg": picture(i, (24, 20)), "json": record % uid.encode()})
        for i, (uid, record) in enumerate(zip(uids, records, strict=True))
    ]
    write_pool(tmp_path / "pool", [samples])
    write_metadata(tmp_path / "meta/0.parquet", [(uid, [FACE] if i != 4 else []) for i, uid in enumerate(uids)])
    resharder.reshard(tmp_path / "pool", tmp_path / "plain", subset_of(uids))
    options = {"boxes": tmp_path / "meta", "inject_boxes": True, "apply_blur": apply, "idx": True, "sync": False}
    report = resharder.reshard(tmp_path / "pool", tmp_path / "out", subset_of(uids), verify=True, **options)
    before, after = members(tmp_path / "plain"), members(tmp_path / "out")
    assert [after[f"{uid}-0.json"] == before[f"{uid}-0.json"] for uid in uids] == [True, True, False, False, True]
    assert [f"{uid}-0.webp" in after for uid in uids] == [apply] * 4 + [False]
    names = ("output_count", "injected", "inject_failed", "blurred")
    assert [report[name] for name in names] == [5, 2, 2, 4 * apply]
    meta = json.loads((tmp_path / "out/meta.json").read_text())
    assert [meta[name] for name in names] == [5, 2, 2, 4 * apply]
    again = resharder.reshard(tmp_path / "pool", tmp_path / "out", subset_of(uids), resume=True, **options)
    assert again["skipped"] == 1


def test_command_line_with_datacomps_map(pool, tmp_path, capsys):
    from dcfast.resharding.cli import main

    directory, names, subset, _ = pool
    save_subset(tmp_path / "s.npy", subset)
    mapping = {"0": {"parquet": str(tmp_path / "meta/0.parquet"), "shards": [str(directory / n) for n in names]}}
    (tmp_path / "map.json").write_text(json.dumps(mapping))
    arguments = ["-i", directory, "-o", tmp_path / "o", "-s", tmp_path / "s.npy"]
    arguments += ["--blur-metadata-map", tmp_path / "map.json"]
    assert main([*map(str, arguments), "--apply-blur", "--inject-blur-metadata", "--verify"]) == 0
    said = capsys.readouterr().out
    assert "blurred 5 pictures, wrote boxes into 5 json members" in said
    assert "left out 1 samples" in said
