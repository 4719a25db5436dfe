"""Parts of the report: pairs of evidence, galleries, bounded reads of large tables, thumbnails, text."""

from __future__ import annotations

import io
from dataclasses import asdict
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from dcfast.report.facts.collect import _Manifest, collect
from dcfast.report.facts.inventory import timings
from dcfast.report.facts.samples import QuarantineRow, evidence_pairs, gallery
from dcfast.report.facts.sampling import SPREAD_PLACES, SPREAD_ROWS, head, num_rows, spread, stream
from dcfast.report.page.images import EvalsetPreviews, PoolPreviews, thumbnail
from dcfast.report.page.page import look_up, render
from dcfast.report.text import clean, count, duration, percent, size
from dcfast.rundir.settings import Settings
from dcfast.storage.records import as_record, plain, replaced
from PIL import Image
from pool_builder import picture
from report_builder import evidence, fates, run_of, write_summary


def test_pairs_take_turns_and_begin_with_the_doubtful(tmp_path: Path) -> None:
    rows = [(i, "crowd", "perceptual", i % 9) for i in range(200)] + [(i, "crowd", "content", 0) for i in range(50)]
    rows += [(500, "rare", "perceptual", 1), (501, "rare", "content", 0)]
    path = tmp_path / "contamination.parquet"
    pq.write_table(evidence(rows), path)
    pairs = evidence_pairs(path)
    assert len(pairs) == 24
    assert [p.distance for p in pairs] == sorted((p.distance for p in pairs), reverse=True)
    assert pairs[0].distance == 8
    assert {p.row for p in pairs if p.evalset == "rare"} == {500, 501}
    names = [(p.evalset, p.row) for p in pairs]
    assert len(names) == len(set(names)), "a sample with both methods is one pair"
    assert all(p.method == "content" for p in pairs if (p.row or 0) < 50)
    assert evidence_pairs(path) == pairs


def test_the_most_distant_pair_shows_among_many_sets(tmp_path: Path) -> None:
    rows = [(i, f"set{i % 40:02d}", "content", 0) for i in range(400)]
    rows += [(1_000 + i, f"set{i:02d}", "perceptual", 2) for i in range(40)] + [(2_000, "set39", "perceptual", 8)]
    pq.write_table(evidence(rows), tmp_path / "contamination.parquet")
    pairs = evidence_pairs(tmp_path / "contamination.parquet")
    assert len(pairs) == 24
    assert pairs[0].row == 2_000


def test_evidence_is_counted_up_to_a_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dcfast.report.facts.contamination.MAX_EVIDENCE_ROWS", 65_536)
    table = evidence([(i, "one", "perceptual", 3) for i in range(1_000)])
    pq.write_table(pa.concat_tables([table] * 140), tmp_path / "contamination.parquet")
    write_summary(tmp_path, "decontaminate", {"available": True, "samples": 1, "max_distance": 8})
    report = collect(run_of(tmp_path))
    found = report.contamination
    assert found.evidence_rows == 140_000
    assert 65_536 <= (found.counted_rows or 0) < 140_000
    assert found.distances["3"] == found.counted_rows
    assert any("first" in note and "rows of evidence" in note for note in report.notes)


def test_flat_pictures_are_said(tmp_path: Path) -> None:
    write_summary(tmp_path, "decontaminate", {"available": True, "samples": 0, "flat": 14, "max_distance": 8})
    report = collect(run_of(tmp_path))
    assert report.contamination.flat_pictures == 14
    page = render(report, look_up(report, PoolPreviews(tmp_path, tmp_path), EvalsetPreviews(tmp_path, [])))
    assert "14 flat pictures were compared by their bytes alone" in page


# the choice of samples


@pytest.mark.parametrize("number", [0, 1, 11, 13, 997])
def test_gallery_sizes(tmp_path: Path, number: int) -> None:
    path = tmp_path / "fates.parquet"
    pq.write_table(fates([(i, "kept", None) for i in range(number)]), path)
    chosen, looked = gallery(path)
    assert looked == number
    assert len(chosen["kept"]) == min(number, 12)
    assert chosen["dropped"] == []
    assert gallery(path).sections == chosen


def test_gallery_takes_reasons_in_turns(tmp_path: Path) -> None:
    rows: list[tuple[int, str, str | None]] = [(i, "dropped", "common") for i in range(500)]
    rows += [(1_000 + i, "dropped", "rare") for i in range(2)] + [(2_000, "quarantined", "broken")]
    path = tmp_path / "fates.parquet"
    pq.write_table(fates(rows), path)
    reasons = [row.reason for row in gallery(path).sections["dropped"]]
    assert reasons == ["common", "rare", "common", "rare", *["common"] * 8]


def test_gallery_does_not_depend_on_the_order_of_small_tables(tmp_path: Path) -> None:
    rows: list[tuple[int, str, str | None]] = [(i, "kept", None) for i in range(300)]
    pq.write_table(fates(rows), tmp_path / "a.parquet")
    pq.write_table(fates(rows[::-1]), tmp_path / "b.parquet")
    assert gallery(tmp_path / "a.parquet") == gallery(tmp_path / "b.parquet")


@pytest.mark.parametrize("rows", [0, 1, 4_095, 4_096, 4_097, 65_536, 70_001, 1_000_003])
def test_spread_is_bounded_and_covers(tmp_path: Path, rows: int) -> None:
    pq.write_table(pa.table({"n": pa.array(range(rows), pa.int64())}), tmp_path / "t.parquet", row_group_size=300_000)
    found = [n for batch in spread(tmp_path / "t.parquet", ["n"]) for n in batch.column(0).to_pylist()]
    assert len(found) == len(set(found)) <= SPREAD_PLACES * SPREAD_ROWS
    if rows <= SPREAD_PLACES * SPREAD_ROWS:
        assert found == list(range(rows))
    else:
        assert len(found) > SPREAD_PLACES * SPREAD_ROWS // 4
        assert max(found) > rows // 2


def test_tables_of_parts_are_read_like_files(tmp_path: Path) -> None:
    place = tmp_path / "t.parquet"
    place.mkdir()
    for part in range(40):
        pq.write_table(pa.table({"row": [part * 10 + i for i in range(10)]}), place / f"part-a{part:05d}.parquet")
    assert num_rows(place) == 400
    assert [row.row for row in head(place, QuarantineRow, 25)] == list(range(25))
    assert [n for batch in stream(place, ["row"]) for n in batch.column(0).to_pylist()] == list(range(400))
    found = [n for batch in spread(place) for n in batch.column(0).to_pylist()]
    assert len(found) == SPREAD_PLACES * 10
    assert max(found) > 300
    assert head(place, QuarantineRow, 0) == []
    assert num_rows(tmp_path / "absent") == 0


# pictures


def encoded(mode: str, shape: tuple[int, int], kind: str) -> bytes:
    buffer = io.BytesIO()
    Image.new(mode, shape).save(buffer, kind)
    return buffer.getvalue()


@pytest.mark.parametrize(
    "format_",
    ["RGB JPEG", "CMYK JPEG", "L JPEG", "RGBA PNG", "LA PNG", "P GIF", "1 PNG", "I;16 PNG", "RGBA WEBP", "RGB BMP"],
)
@pytest.mark.parametrize("shape", [(1, 1), (3, 997), (300, 200)])
def test_thumbnails_of_every_kind(format_: str, shape: tuple[int, int]) -> None:
    mode, kind = format_.split()
    small = thumbnail(encoded(mode, shape, kind))
    assert small.problem == ""
    assert (small.width, small.height) == shape
    assert small.uri.startswith("data:image/jpeg;base64,")
    assert small.is_small == (max(shape) <= 96)


def test_pictures_that_need_another_program_are_not_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    import subprocess

    monkeypatch.setattr(subprocess, "Popen", lambda *a, **k: pytest.fail("a picture of the pool started a program"))
    eps = encoded("RGB", (20, 20), "EPS")
    assert thumbnail(eps).problem.startswith("cannot be shown: not a picture")


@pytest.mark.parametrize("data", [b"", b"\xff\xd8\xff", b"hello" * 100, picture(1)[:500], bytes(1_000)])
def test_broken_pictures_have_a_reason(data: bytes) -> None:
    small = thumbnail(data)
    assert small.uri == ""
    assert small.problem.startswith("cannot be shown")
    assert not small.is_small


def test_bombs_are_not_decoded() -> None:
    small = thumbnail(encoded("1", (14_000, 14_000), "PNG"))
    assert small.uri == ""
    assert small.problem


@pytest.mark.parametrize("text", ["[" * 100_000, '{"shards": NaN, "samples": -Infinity}'])
@pytest.mark.parametrize("name", ["state/index.json", "state/filter.json", "train/summary.json", "manifest.json"])
def test_files_that_are_not_json_count_as_absent(tmp_path: Path, name: str, text: str) -> None:
    from dcfast.rundir.summaries import find_summary
    from dcfast.rundir.summary import Summary

    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).write_text(text)
    assert find_summary(tmp_path / name, Summary) is None
    report = collect(run_of(tmp_path))
    (tmp_path / name).unlink()
    without = collect(run_of(tmp_path))
    assert replaced(report, files=without.files) == without  # the list of files has it, unread


# text


def test_clean() -> None:
    assert clean("a\0b\nc\td\re") == "a\u2400b \u23ce c de"
    assert clean("\ud800 lone") == "? lone"
    assert clean("x" * 300) == "x" * 280 + "\u2026"
    assert clean("") == ""
    assert clean("\x85\x9b") == "\ufffd\ufffd"
    assert clean("日本語 עברית") == "日本語 עברית"


@pytest.mark.parametrize(
    ("part", "all_of_it", "words"),
    [
        (0, 0, "\u2013"),
        (0, 7, "0%"),
        (7, 7, "100%"),
        (1, 3, "33.3%"),
        (1, 10**6, "<0.1%"),
        (10**6 - 1, 10**6, ">99.9%"),
    ],
)
def test_percent(part: int, all_of_it: int, words: str) -> None:
    assert percent(part, all_of_it) == words


def test_units() -> None:
    assert count(1_234_567) == "1,234,567"
    assert [size(n) for n in (0, 999, 1_000, 1_234_567, 999_600_000, 10**13, 10**16)] == [
        "0 B",
        "999 B",
        "1 kB",
        "1.23 MB",
        "1 GB",
        "10 TB",
        "10,000 TB",
    ]
    assert [duration(s) for s in (0, 0.426, 12.34, 59.96, 125, 7_620)] == [
        "0.00 s",
        "0.43 s",
        "12.3 s",
        "1 min 00 s",
        "2 min 05 s",
        "2 h 07 min",
    ]


def test_times_that_are_no_numbers_are_passed_over(tmp_path: Path) -> None:
    lines = ['{"step": "index/a", "seconds": 2, "pieces": 1}', "[]", "7", '{"step": "index/a", "seconds": "nan"}']
    (tmp_path / "t.jsonl").write_text("\n".join([*lines, '{"step": "index/b", "seconds": 1, "pieces": "inf"}']))
    assert timings(tmp_path / "t.jsonl").total_seconds == 2


def test_the_report_reads_every_kind_of_setting_that_a_manifest_holds() -> None:
    settings = Settings(features={"l14": "teacher"}, sets=["a", "b"], limit=5, world={"rows": 3200, "share": 0.5})
    value = plain(asdict(settings))
    assert as_record({"settings": value}, _Manifest, "manifest.json").settings == value
