"""The pool that an acquisition makes: img2dataset's layout, in the order of the keys, whatever the order of answers."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from acquisitions import CAPTION, acquire, causes, made, outcomes, web_of, write_list
from dcfast import save_subset, uid_parse, uid_sort
from dcfast.acquire import ImageOptions
from dcfast.acquire.rows import key_of
from dcfast.cli import main
from dcfast.errors import PoolError, RunError
from dcfast.process import exit_codes
from dcfast.storage.records import replaced
from hostile_bytes import picture
from hostile_web import HostileWeb, hostile_web
from PIL import Image
from pool_builder import uid_of

COUNT = 11
SIZE = 4
SHARDS = [(0, 0, 4), (1, 4, 2), (2, 6, 4), (3, 10, 1)]
"""Number, first row, rows: the lists have 6 and 5 rows, and no shard spans both."""
FAILED = {2: "gone", 5: "opt_out", 7: "not_image"}
FIELDS = ["uid", "face_bboxes", "caption", "url", "key", "status", "error_message", "width", "height"]
FIELDS += ["original_width", "original_height", "exif", "sha256"]
STATS = ["count", "successes", "failed_to_download", "failed_to_resize", "duration", "start_time", "end_time"]


@pytest.fixture(scope="module")
def web() -> Iterator[HostileWeb]:
    with hostile_web({f"/{n}.jpg": picture(seed=n) for n in range(COUNT)}) as running:
        yield running


def urls_of(web: HostileWeb) -> list[str]:
    bad = {2: web.url("status_404"), 5: web.url("opt_out_noai"), 7: web.url("html")}
    return [bad.get(n, web.at(f"/{n}.jpg")) for n in range(COUNT)]


def boxes_of(number: int) -> list[list[float]] | None:
    return [[[0.1, 0.1, 0.6, 0.7]], [], None][number % 3]


@pytest.fixture(scope="module")
def lists(web: HostileWeb, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two lists of 6 and 5 rows, with boxes and hashes."""
    folder, urls = tmp_path_factory.mktemp("lists"), urls_of(web)
    for name, part in (("a.parquet", range(6)), ("b.parquet", range(6, COUNT))):
        boxes = [boxes_of(n) for n in part]
        columns = {"face_bboxes": pa.array(boxes, pa.list_(pa.list_(pa.float64()))), "sha256": ["0" * 64 for _ in part]}
        write_list(folder / name, [urls[n] for n in part], part[0], **columns)
    return folder


@pytest.fixture(scope="module")
def pool(web: HostileWeb, lists: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("made") / "pool"
    acquire(out, lists, web_of(web), ImageOptions(image_size=100), shard_size=SIZE)
    return out


def members(tar: Path) -> list[tuple[tarfile.TarInfo, bytes]]:
    with tarfile.open(tar) as file:
        return [(member, file.extractfile(member).read()) for member in file]  # type: ignore[union-attr]


def test_keys_are_a_function_of_the_row() -> None:
    assert key_of(0, 0, 10_000) == "000000000000"
    assert key_of(1265, 9999, 10_000) == "000012659999"
    assert [key_of(3, 2, size) for size in (1, 2, 10, 11, 100, 1000)] == [
        *("000000032", "000000032", "000000032", "0000000302", "0000000302", "00000003002")
    ]


def test_tars_have_the_samples_in_the_order_of_their_keys(pool: Path, web: HostileWeb) -> None:
    urls = urls_of(web)
    for shard, first, count in SHARDS:
        path = pool / "shards" / f"{shard:08d}.tar"
        kept = [n for n in range(first, first + count) if n not in FAILED]
        expected = [f"{key_of(shard, n - first, SIZE)}.{ext}" for n in kept for ext in ("jpg", "json", "txt")]
        found = members(path)
        assert [member.name for member, _ in found] == expected
        assert path.stat().st_size % 10_240 == 0
        for i, number in enumerate(kept):
            (jpg, data), (_, info), (_, text) = found[3 * i : 3 * i + 3]
            assert text.decode() == f"{CAPTION} {number}"
            fields = json.loads(info)
            assert list(fields) == FIELDS
            assert info.startswith(b'{\n    "uid": ')
            assert (jpg.mode, jpg.uid, jpg.gid, jpg.isfile()) == (0o444, 0, 0, True)
            with Image.open(io.BytesIO(data)) as image:
                assert (image.format, *image.size) == ("JPEG", fields["width"], fields["height"])
            assert fields == {
                "uid": uid_of(number),
                "face_bboxes": boxes_of(number),
                "caption": f"{CAPTION} {number}",
                "url": urls[number],
                "key": key_of(shard, number - first, SIZE),
                "status": "success",
                "error_message": None,
                "width": 100,
                "height": 75,
                "original_width": 160,
                "original_height": 120,
                "exif": "{}",
                "sha256": hashlib.sha256(picture(seed=number)).hexdigest(),
            }


def test_sidecars_have_all_rows_under_the_same_names(pool: Path) -> None:
    for shard, first, count in SHARDS:
        table = pq.read_table(pool / "shards" / f"{shard:08d}.parquet")
        assert table.schema.names == FIELDS
        assert table.schema.field("width").type == pa.int32()
        assert table.schema.field("face_bboxes").type == pa.list_(pa.list_(pa.float64()))
        assert table.schema.field("exif").type == pa.string()
        rows = table.to_pylist()
        assert [row["uid"] for row in rows] == [uid_of(n) for n in range(first, first + count)]
        for number, row in enumerate(rows, first):
            assert row["caption"] == f"{CAPTION} {number}"
            failed = number in FAILED
            assert (row["status"] == "success") == (not failed)
            assert (row["error_message"] is not None) == failed
            assert all((row[name] is None) == failed for name in (*FIELDS[7:],)), row
        in_tar = [json.loads(data) for member, data in members(pool / "shards" / f"{shard:08d}.tar")[1::3]]
        assert in_tar == [row for row in rows if row["status"] == "success"]


def test_statistics_are_those_of_img2dataset_and_ours(pool: Path) -> None:
    stats = [json.loads((pool / "shards" / f"{shard:08d}_stats.json").read_text()) for shard, _, _ in SHARDS]
    for one, (_, first, count) in zip(stats, SHARDS, strict=True):
        assert list(one) == [*STATS, "status_dict", "dcfast"]
        failed = [n for n in range(first, first + count) if n in FAILED]
        assert (one["count"], one["successes"], one["failed_to_download"]) == (count, count - len(failed), len(failed))
        assert one["failed_to_resize"] == 0
        assert 0 <= one["duration"] == pytest.approx(one["end_time"] - one["start_time"])
        assert sum(one["status_dict"].values()) == count
        assert one["dcfast"]["causes"] == {FAILED[n]: 1 for n in failed}
    assert stats[0]["status_dict"] == {"success": 3, "HTTP Error 404: Said": 1}
    assert stats[1]["status_dict"] == {"success": 1, "Use of image disallowed by X-Robots-Tag directive": 1}
    names = {path.name.partition(".")[0] for path in (pool / "shards").iterdir()}
    assert names == {f"{shard:08d}{end}" for shard, _, _ in SHARDS for end in ("", "_stats")}


def test_what_became_of_each_row(pool: Path, web: HostileWeb) -> None:
    rows = outcomes(pool)
    assert [row["uid"] for row in rows] == [uid_of(n) for n in range(COUNT)]
    assert [row["cause"] for row in rows] == [FAILED.get(n, "") for n in range(COUNT)]
    assert [row["url"] for row in rows] == urls_of(web)
    assert [row["row"] for row in rows] == [*range(6), *range(5)]
    assert [row["bytes"] for row in rows if not row["cause"]] == [
        len(picture(seed=n)) for n in range(COUNT) if n not in FAILED
    ]
    assert {row["http_status"] for row in rows} == {200, 404}
    assert [row["drifted"] for row in rows] == [None if n in FAILED else True for n in range(COUNT)]


@pytest.mark.parametrize(("workers", "connections"), [(4, 128), (1, 1), (1, 128)])
def test_the_bytes_depend_neither_on_workers_nor_on_the_order_of_answers(
    workers: int, connections: int, pool: Path, web: HostileWeb, lists: Path, tmp_path: Path
) -> None:
    out, image = tmp_path / "pool", ImageOptions(image_size=100)
    acquire(out, lists, web_of(web, connections=connections), image, shard_size=SIZE, workers=workers)
    assert made(out) == made(pool)
    assert len(made(out)) == 2 * len(SHARDS)


def test_what_is_done_is_not_asked_for_again(web: HostileWeb, lists: Path, tmp_path: Path) -> None:
    out = tmp_path / "pool"
    first = acquire(out, lists, web_of(web), shard_size=SIZE)
    before, times = len(web.requests), {path: path.stat().st_mtime_ns for path in (out / "shards").iterdir()}
    second = acquire(out, lists, web_of(web), shard_size=SIZE)
    assert len(web.requests) == before
    assert second == first
    (out / "shards/00000002.tar").unlink()
    third = acquire(out, lists, web_of(web), shard_size=SIZE)
    assert replaced(third, hosts=first.hosts) == first
    changed = {path.name for path, at in times.items() if path.stat().st_mtime_ns != at}
    assert changed == {f"00000002{end}" for end in (".tar", ".parquet", "_stats.json")}
    assert {one.path for one in web.requests[before:]} >= {"/6.jpg", "/8.jpg", "/9.jpg", "/html.jpg"}


# --- a subset -----------------------------------------------------------------------------------


def test_a_subset_keeps_the_keys_of_the_full_pool(
    web: HostileWeb, lists: Path, pool: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    chosen = [0, 3, 7, 8]
    save_subset(tmp_path / "subset.npy", uid_sort(uid_parse([uid_of(n) for n in [*chosen, 900]])[0]))
    before, out = len(web.requests), tmp_path / "pool"
    options = {"shard_size": SIZE, "subset": str(tmp_path / "subset.npy")}
    summary = acquire(out, lists, web_of(web), ImageOptions(image_size=100), **options)
    asked = {one.path for one in web.requests[before:]} - {"/robots.txt"}
    assert asked == {"/0.jpg", "/3.jpg", "/8.jpg", "/html.jpg"}
    assert (summary.listed, summary.rows, summary.successes, summary.causes) == (COUNT, 4, 3, {"not_image": 1})
    whole = dict(made_members(pool))
    found = dict(made_members(out))
    assert set(found) == {f"{key}.{ext}" for key in ("000000000", "000000003", "000000022") for ext in EXTENSIONS}
    assert all(whole[name] == data for name, data in found.items())
    with pytest.raises(RunError, match=r"was begun otherwise: subset differ"):
        acquire(out, lists, web_of(web), ImageOptions(image_size=100), shard_size=SIZE)
    status = main(["run", "--pool", str(out), "--no-train", "--to", "verify", "--out", str(tmp_path / "run"), *RUN])
    assert status in (exit_codes.DONE, exit_codes.LOST)  # most of the rows have no image
    assert "3 kept" in capsys.readouterr().out


EXTENSIONS = ("jpg", "json", "txt")
RUN = ["--quiet", "--workers", "1", "--filter", "no_filter"]


def made_members(out: Path) -> list[tuple[str, bytes]]:
    return [(m.name, data) for tar in sorted((out / "shards").glob("*.tar")) for m, data in members(tar)]


# --- lists --------------------------------------------------------------------------------------


def test_other_names_of_columns(web: HostileWeb, tmp_path: Path) -> None:
    urls = [web.at("/0.jpg"), web.at("/1.jpg")]
    usual = write_list(tmp_path / "usual.parquet", [None] * 2, URL=urls, TEXT=["a", "b"], url=[], text=[])
    acquire(tmp_path / "usual", usual, web_of(web))
    given = write_list(tmp_path / "given.parquet", ["no"] * 2, link=urls, alt=["a", "b"])
    acquire(tmp_path / "given", given, web_of(web), url_column="link", caption_column="alt")
    acquire(tmp_path / "given", given, web_of(web), url_column="link", caption_column="alt")
    for out in (tmp_path / "usual", tmp_path / "given"):
        assert [(row["uid"], row["url"]) for row in outcomes(out)] == list(
            zip(map(uid_of, range(2)), urls, strict=True)
        )
        assert [data for name, data in made_members(out) if name.endswith("txt")] == [b"a", b"b"]
    with pytest.raises(PoolError, match=r"given\.parquet has no column 'lnik'; it has uid, url, text, link, alt"):
        acquire(tmp_path / "typo", given, web_of(web), url_column="lnik")
    assert not (tmp_path / "typo/metadata/given.parquet").exists()


def test_lists_without_uids_have_those_of_their_urls(web: HostileWeb, tmp_path: Path) -> None:
    urls = [*(web.at(f"/{n}.jpg") for n in range(3)), web.url("status_404")]
    table = write_list(tmp_path / "l.parquet", urls, uid=[])
    out = tmp_path / "pool"
    acquire(out, table, web_of(web))
    assert json.loads((out / "pool.json").read_text())["uid_from"] == "url"
    assert causes(out) == {"": 3, "gone": 1}
    uids = [row["uid"] for row in outcomes(out)]
    assert all(isinstance(uid, str) and len(uid) == 32 for uid in uids)
    assert [json.loads(data)["uid"] for name, data in made_members(out) if name.endswith("json")] == uids[:3]
    assert main(["run", "--pool", str(out), "--no-train", "--to", "verify", "--out", str(tmp_path / "run"), *RUN]) == 0
    save_subset(tmp_path / "s.npy", uid_parse(uids[1:2])[0])
    acquire(tmp_path / "one", table, web_of(web), subset=str(tmp_path / "s.npy"))
    assert [row["url"] for row in outcomes(tmp_path / "one")] == urls[1:2]


@pytest.mark.parametrize(
    ("lists", "said"),
    [
        ({}, "expected lists of URLs"),
        ({"a.parquet": {"url": []}}, r"a\.parquet: expected a column url of strings \(--url-column names it\); it has"),
        ({"a.parquet": {"text": []}}, r"a\.parquet: expected a column text of strings \(--caption-column names it\)"),
        ({"a.parquet": {"url": [1, 2]}}, r"a\.parquet: expected a column url of strings .*; it is int64"),
        ({"a.parquet": {}, "b.parquet": {"uid": []}}, r"b\.parquet has no column uid, but others have"),
        ({"a.parquet": {"uid": [1, 2]}}, r"a\.parquet has a column uid of type int64"),
        ({"a.parquet": b"PAR1 no"}, r"a\.parquet"),
    ],
)
def test_lists_that_lack_something_are_refused_before_work(
    lists: dict[str, Any], said: str, web: HostileWeb, tmp_path: Path
) -> None:
    (tmp_path / "lists").mkdir()
    for name, columns in lists.items():
        if isinstance(columns, bytes):
            (tmp_path / "lists" / name).write_bytes(columns)
        else:
            columns = {key: pa.array(values) if values else [] for key, values in columns.items()}
            write_list(tmp_path / "lists" / name, ["a", "b"], **columns)
    with pytest.raises(PoolError, match=said):
        acquire(tmp_path / "pool", tmp_path / "lists", web_of(web))
    assert not list(tmp_path.glob("pool/**/*.parquet"))


def test_empty_lists_are_passed_over(web: HostileWeb, tmp_path: Path) -> None:
    for name, urls in (("a", []), ("b", [web.at("/0.jpg")]), ("c", [])):
        write_list(tmp_path / "lists" / f"{name}.parquet", urls, uid=[uid_of(0)] * len(urls))
    table = pa.table(
        {"uid": pa.array([], pa.string()), "url": pa.array([], pa.string()), "text": pa.array([], pa.string())}
    )
    for name in ("a", "c"):
        pq.write_table(table, tmp_path / "lists" / f"{name}.parquet")
    acquire(tmp_path / "pool", tmp_path / "lists", web_of(web))
    assert [path.name for path in (tmp_path / "pool/shards").glob("*.tar")] == ["00000000.tar"]
    (tmp_path / "lists/b.parquet").unlink()
    with pytest.raises(PoolError, match="have no rows"):
        acquire(tmp_path / "none", tmp_path / "lists", web_of(web))
