"""The report: numbers against the tables, a page that stands alone, strangers' text made harmless, broken pictures."""

from __future__ import annotations

import io
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from dcfast.errors import CorruptDataError
from dcfast.report.facts.collect import collect
from dcfast.report.facts.document import Report
from dcfast.report.facts.inventory import StepTime
from dcfast.report.facts.samples import EvidenceRow, GalleryRow
from dcfast.report.facts.training import TrainedRun
from dcfast.report.page.images import EvalsetPreviews, PoolPreviews
from dcfast.report.page.page import look_up, render
from dcfast.run.workflow import run
from dcfast.rundir.run_dir import Run
from dcfast.rundir.settings import Settings
from dcfast.rundir.tables import read_table
from dcfast.stages.report import make_report
from dcfast.storage.records import as_record, replaced
from PIL import Image
from pool_builder import PoolBuilder, Sample, evalset, picture, plain_pool
from report_builder import result, run_of, trained, write_summary
from strict_page import Page

NASTY = "<script>alert('x')</script> & \"quotes\" \0 \x1b[31m \u202e turned \nsecond line"
TOP_KEYS = (
    "version run standard departures acquired index signatures fates reasons filter subset repeated contamination "
    "dedup gallery draw quarantine damage reshard verify world notes timings files manifest overlap clip_scores "
    "source_scores rules_truth look_problem comparison scores training verdict"
)


def recompressed(number: int) -> bytes:
    with Image.open(io.BytesIO(picture(number))) as image:
        buffer = io.BytesIO()
        image.resize((70, 70)).save(buffer, "JPEG", quality=55)
    return buffer.getvalue()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Settings]:
    """A whole run over a small pool with leaks, breakage and nasty captions."""
    root = tmp_path_factory.mktemp("a report")
    shards = [[Sample(100 * s + i) for i in range(12)] for s in range(3)]
    shards[0][0] = Sample(0, caption=NASTY)
    shards[0][1] = Sample(1, jpg=picture(901))
    shards[0][2] = Sample(2, jpg=recompressed(902))
    shards[0][3] = Sample(3, caption="A long story about a boat on the sea. " * 2_700)
    shards[1][0] = Sample(100, width=150)
    shards[1][1] = Sample(101, jpg=picture(101)[:700])
    shards[1][2] = Sample(102, without=("txt",))
    shards[2][0] = Sample(200, listed=False)
    PoolBuilder(root / "pool", shards, missing=[7001, 7002]).write()
    evalset(root / "sets", "first", {"s0": picture(901), "s1": picture(950)})
    evalset(root / "sets", "vtab-second", {"k0": picture(902), "k1": picture(903)})
    settings = Settings(pool=str(root / "pool"), evalsets=str(root / "sets"), filter="~contaminated", train=False)
    run(root / "out", settings)
    return root / "out", settings


@pytest.fixture
def copy(whole: tuple[Path, Settings], tmp_path: Path) -> Path:
    """The run directory once more, to spoil."""
    return Path(shutil.copytree(whole[0], tmp_path / "out"))


def remade(out: Path, settings: Settings) -> tuple[dict[str, Any], Page]:
    make_report(Run(out, settings))
    return json.loads((out / "report.json").read_bytes()), Page((out / "report.html").read_text(encoding="utf-8"))


# the whole stage


def test_numbers_are_those_of_the_tables(whole: tuple[Path, Settings]) -> None:
    out, _ = whole
    report = json.loads((out / "report.json").read_bytes())
    assert set(report) == set(TOP_KEYS.split())
    fates = read_table(out / "fates.parquet").to_pylist()
    for fate, number in report["fates"].items():
        assert number == sum(row["fate"] == fate for row in fates)
    assert sum(report["fates"].values()) == len(fates)
    assert report["fates"]["missing"] == 2
    assert report["fates"]["unlisted"] == 1
    counted = {(r["fate"], r["reason"]): r["count"] for r in report["reasons"]}
    truth: dict[tuple[str, str], int] = {}
    for row in fates:
        if row["fate"] != "kept":
            truth[row["fate"], row["reason"]] = truth.get((row["fate"], row["reason"]), 0) + 1
    assert counted == truth
    evidence = read_table(out / "contamination.parquet").to_pylist()
    found = report["contamination"]
    assert found["evidence_rows"] == found["counted_rows"] == len(evidence)
    for one in found["evalsets"]:
        for method in ("content", "perceptual"):
            assert one[method] == sum(r["evalset"] == one["name"] and r["method"] == method for r in evidence)
    assert sum(found["distances"].values()) == sum(r["method"] == "perceptual" for r in evidence)
    assert found["samples"] == 2
    assert {(p["key"], p["evalset"], p["method"]) for p in found["pairs"]} == {
        ("000000001", "first", "content"),
        ("000000002", "vtab-second", "perceptual"),
    }
    assert report["subset"]["contaminated"] == 0
    assert report["quarantine"]["total"] == 2 == len(report["quarantine"]["rows"])
    assert report["verify"]["ok"]
    assert report["world"] is None
    assert not report["standard"]


def test_page_stands_alone(whole: tuple[Path, Settings]) -> None:
    text = (whole[0] / "report.html").read_text(encoding="utf-8")
    page = Page(text)
    assert not page.all("script")
    assert not page.all("link")
    policy = [m["content"] for m in page.all("meta") if m.get("http-equiv") == "Content-Security-Policy"]
    assert policy == ["default-src 'none'; img-src data:; style-src 'unsafe-inline'"]
    images = page.all("img")
    assert images
    for image in images:
        assert str(image["src"]).startswith("data:image/jpeg;base64,")
        assert image["alt"]
    assert not re.search(r"url\(|@import|https?://", text)
    assert len(page.ids) == len(set(page.ids))
    for link in page.all("a"):
        assert str(link["href"]).startswith("#")
        assert str(link["href"])[1:] in page.ids
    for _, values in page.tags:
        for reference in (values.get("aria-labelledby") or "").split():
            assert reference in page.ids
        assert not [name for name in values if name.startswith("on")]


def test_page_says_what_matters(whole: tuple[Path, Settings]) -> None:
    page = Page((whole[0] / "report.html").read_text(encoding="utf-8"))
    report = json.loads((whole[0] / "report.json").read_bytes())
    kept = report["fates"]["kept"]
    assert f"Kept {kept} of 36 samples" in page.text
    assert "~contaminated" in page.text
    assert "non-standard" in page.text
    assert "identical bytes" in page.text
    assert "no caption" in page.text
    assert report["subset"]["sha256"] in page.text
    html = [values for tag, values in page.tags if tag == "html"]
    assert html[0]["lang"] == "en"


def test_evidence_is_shown_as_pairs(whole: tuple[Path, Settings]) -> None:
    page = Page((whole[0] / "report.html").read_text(encoding="utf-8"))
    alts = [str(image["alt"]) for image in page.all("img")]
    assert "pool picture 000000001" in alts
    assert "evaluation picture s0" in alts
    assert "evaluation picture k0" in alts


def test_second_run_leaves_the_report(whole: tuple[Path, Settings]) -> None:
    out, settings = whole
    before = (out / "report.html").stat().st_mtime_ns, (out / "report.json").stat().st_mtime_ns
    run(out, settings)
    assert ((out / "report.html").stat().st_mtime_ns, (out / "report.json").stat().st_mtime_ns) == before


def test_same_run_same_bytes(copy: Path, whole: tuple[Path, Settings]) -> None:
    remade(copy, whole[1])
    first = (copy / "report.html").read_bytes()
    remade(copy, whole[1])
    assert (copy / "report.html").read_bytes() == first


def test_vanished_shards_leave_placeholders(copy: Path, whole: tuple[Path, Settings]) -> None:
    report, page = remade(copy, replace(whole[1], pool=str(copy / "moved away")))
    assert report["fates"]["kept"] > 0
    assert "cannot be read" in page.text
    alts = [str(image["alt"]) for image in page.all("img")]
    assert not [alt for alt in alts if "pool picture" in alt]
    assert [alt for alt in alts if "evaluation picture" in alt]


def test_vanished_evaluation_sets_leave_placeholders(copy: Path, whole: tuple[Path, Settings]) -> None:
    _, page = remade(copy, replace(whole[1], evalsets=str(copy / "moved away")))
    assert "cannot be read" in page.text
    assert [i for i in page.all("img") if str(i["alt"]).startswith("pool picture")]


def test_spoilt_index_leaves_placeholders(copy: Path, whole: tuple[Path, Settings]) -> None:
    for segment in (copy / "index").glob("*.dcx"):
        segment.write_bytes(b"not an index")
    report, page = remade(copy, whole[1])
    assert report["gallery"]["kept"]
    assert "cannot be read" in page.text


def test_strange_captions_are_harmless(whole: tuple[Path, Settings]) -> None:
    out, settings = whole
    report = json.loads((out / "report.json").read_bytes())
    assert report["run"]["pool"] == Path(str(settings.pool)).name
    reader = PoolPreviews(out, Path(str(settings.pool)) / "shards")
    rows = {row["key"]: row for row in read_table(out / "fates.parquet").to_pylist() if row["key"]}
    nasty, long = reader.sample("00000000.tar", 0), reader.sample("00000000.tar", 3)
    assert nasty.caption is not None
    assert "\0" not in nasty.caption
    assert "\u2400" in nasty.caption
    assert long.caption_bytes > 100_000
    assert long.caption is not None
    assert len(long.caption) <= 281
    kept = [rows["000000000"], rows["000000003"], {**rows["000000001"], "key": NASTY, "reason": NASTY}]
    shown = replaced(
        collect(Run(out, settings)), gallery={"kept": as_record(kept, list[GalleryRow], ""), "dropped": []}
    )
    page_text = render(shown, look_up(shown, reader, EvalsetPreviews(out, [])))
    page = Page(page_text)
    assert not page.all("script")
    assert "\0" not in page_text
    assert "\x1b" not in page_text
    assert "<script>alert('x')</script>" in page.text
    assert "the caption has 10" in page.text


def test_keys_are_those_of_the_documentation(repo_root: Path) -> None:
    """Of every record of the document, but for what stages and tables have, which is described with these."""
    text = (repo_root / "docs/report.md").read_text(encoding="utf-8")
    text = text[text.index("## Keys of `report.json`") :]
    first_column = [row.split("|")[1] for row in text.splitlines() if row.startswith("| `")]
    assert {name for cell in first_column for name in re.findall(r"`(\w+)`", cell)} == set(TOP_KEYS.split())
    words = {name for names in re.findall(r"`([\w.]+)`", text) for name in names.split(".")}
    elsewhere = {*TrainedRun.__mro__[1].__struct_fields__, *EvidenceRow.__struct_fields__}
    records: set[type] = set()

    def fields_of(kind: Any) -> None:
        for part in get_args(kind):
            fields_of(part)
        if isinstance(kind, type) and kind.__module__.startswith("dcfast.report") and kind not in records:
            records.add(kind)
            for name, field in get_type_hints(kind).items():
                assert name in words | elsewhere, f"{kind.__name__}.{name}"
                fields_of(field)

    fields_of(Report)
    assert len(records) > 30


# parts that are absent


def test_empty_directory_has_a_report(tmp_path: Path) -> None:
    report, page = remade(tmp_path, Settings(pool=str(tmp_path / "pool")))
    assert report["fates"] == {}
    assert report["reasons"] == []
    assert report["contamination"]["available"] is False
    assert "Not run yet" in page.text
    assert "no filter has been run yet" in page.text


@pytest.mark.parametrize("stage", ["index", "signatures", "decontaminate", "filter", "reshard", "verify"])
def test_each_stage_may_be_absent(copy: Path, whole: tuple[Path, Settings], stage: str) -> None:
    (copy / "state" / f"{stage}.json").unlink()
    report, page = remade(copy, whole[1])
    assert stage not in report["run"]["stages"]
    assert f"Not run yet, so not in this report: {stage}." in page.text


@pytest.mark.parametrize("name", ["fates", "quarantine", "contamination"])
def test_each_table_may_be_absent(copy: Path, whole: tuple[Path, Settings], name: str) -> None:
    (copy / f"{name}.parquet").unlink()
    report, _ = remade(copy, whole[1])
    assert report["fates"]["kept"] > 0


def test_unreadable_summary_counts_as_absent(copy: Path, whole: tuple[Path, Settings]) -> None:
    (copy / "state" / "verify.json").write_text("{")
    (copy / "manifest.json").write_text("[1]")
    report, _ = remade(copy, whole[1])
    assert report["verify"] == {}
    assert report["manifest"] == {}


SPOILT: list[tuple[str, str, Any, str]] = [
    ("state/index.json", "samples", None, "samples: expected a whole number; got null"),
    ("state/index.json", "bytes", "56", "bytes: expected a whole number; got '56'"),
    (
        "state/signatures.json",
        "evalsets",
        [{"name": "a", "pictures": None}],
        "evalsets[0].pictures: expected a whole number; got null",
    ),
    ("state/decontaminate.json", "max_distance", 65, "max_distance: expected a whole number <= 64; got 65"),
    ("state/decontaminate.json", "uids", 1.5, "uids: expected a whole number; got 1.5"),
    ("state/filter.json", "fates", {"kept": None}, "fates[...]: expected a whole number; got {'kept': None}"),
    ("state/filter.json", "subset", True, "subset: expected a whole number or null; got true"),
    ("state/filter.json", "thresholds", {"l14": 0.3}, "thresholds[...]: expected text; got {'l14': 0.3}"),
    ("state/filter.json", "thresholds", {"l14": "much"}, "thresholds[...]: expected a number as text"),
    ("state/reshard.json", "tar_bytes", -1, "tar_bytes: expected a whole number >= 0; got -1"),
    ("state/verify.json", "members", [], "members: expected a whole number; got []"),
    ("train/summary.json", "loss_last", "low", "loss_last: expected a number or null; got 'low'"),
    ("train/summary.json", "sources", [{"samples": "all"}], "sources[0].samples: expected a whole number; got 'all'"),
    ("manifest.json", "versions", "1.0", "versions: expected an object; got '1.0'"),
]


@pytest.mark.parametrize(("name", "field", "value", "problem"), SPOILT)
def test_a_field_of_another_type_is_named(
    copy: Path, whole: tuple[Path, Settings], name: str, field: str, value: Any, problem: str
) -> None:
    path = copy / name
    path.parent.mkdir(exist_ok=True)
    recorded = json.loads(path.read_bytes()) if path.exists() else {}
    path.write_text(json.dumps({**recorded, field: value}))
    before = (copy / "report.html").read_bytes()
    with pytest.raises(CorruptDataError) as raised:
        remade(copy, whole[1])
    assert f"{path}: {problem}" in str(raised.value)
    assert "; the file was altered: remove it, and run the same command" in str(raised.value)
    assert raised.value.path == str(path)
    assert (copy / "report.html").read_bytes() == before


def test_a_table_of_another_type_is_named(copy: Path, whole: tuple[Path, Settings]) -> None:
    path = copy / "contamination.parquet"
    table = pq.read_table(path)
    distances = pa.array(["far"] * table.num_rows)
    pq.write_table(table.set_column(table.schema.get_field_index("distance"), "distance", distances), path)
    with pytest.raises(
        CorruptDataError, match=r"contamination\.parquet: distance: expected a whole number or null; got 'far'"
    ):
        remade(copy, whole[1])


@pytest.mark.parametrize("text", ["null", "{", '{"samples": null}', "{}"])
def test_an_altered_summary_stops_a_late_stage_and_the_whole_run_mends_it(
    copy: Path, whole: tuple[Path, Settings], text: str
) -> None:
    path = copy / "state/index.json"
    right = path.read_bytes()
    path.write_text(text)
    with pytest.raises(CorruptDataError, match=r"index\.json: .*run the same command again without --from"):
        run(copy, whole[1], first="report", last="report")
    run(copy, whole[1])
    assert path.read_bytes() == right


def test_results_with_strange_fields_are_shown_without_them(copy: Path, whole: tuple[Path, Settings]) -> None:
    line = result("shapes", 0.5, "c" * 64, pictures="many", unreadable=None, notes=7)
    trained(copy, "c" * 64, [line])
    report, _ = remade(copy, whole[1])
    row = report["scores"]["sets"][0]
    assert (row["score"], row["pictures"], row["unreadable"], row["notes"]) == (0.5, None, None, [])


# numbers


def test_contaminated_uids_that_were_kept_are_said(copy: Path, whole: tuple[Path, Settings]) -> None:
    shutil.copy(copy / "subset.npy", copy / "contaminated.npy")
    report, page = remade(copy, whole[1])
    kept = report["subset"]["uids"]
    assert report["subset"]["contaminated"] == kept
    assert f"{kept} of the kept uids are contaminated" in page.text


def test_standard_and_departures(tmp_path: Path) -> None:
    assert collect(run_of(tmp_path, scale="small")).departures == []
    changed = collect(run_of(tmp_path, scale="small", max_distance=12, shard_size=7))
    assert changed.departures == ["shard_size is 7, not 10000", "max_distance is 12, not 8"]
    (tmp_path / "manifest.json").write_text(
        json.dumps({"recipe_sha256": "0" * 64, "non_standard": ["of another kind"]})
    )
    changed = collect(run_of(tmp_path, scale="small"))
    assert changed.departures == ["of another kind", "the recipe is not the frozen one of scale small"]
    assert not changed.standard


def test_times_add_up_over_starts_and_survive_a_cut_line(tmp_path: Path) -> None:
    lines = [
        {"step": "filter/evaluate", "seconds": 2.0, "pieces": 3, "skipped": 0},
        {"step": "index/segments", "seconds": 1.5, "pieces": 4, "skipped": 0},
        {"step": "index/segments", "seconds": 0.5, "pieces": 2, "skipped": 4},
        {"step": "report/page", "seconds": 9.0, "pieces": 1},
    ]
    (tmp_path / "state").mkdir()
    text = "\n".join(json.dumps(line) for line in lines) + '\n{"step": "index/pool", "sec'
    (tmp_path / "state" / "timings.jsonl").write_text(text)
    times = collect(run_of(tmp_path)).timings
    assert times.stages == {"index": 2.0, "filter": 2.0}
    assert times.total_seconds == 4.0
    assert times.steps[0] == StepTime("index", "index/segments", 2.0, 6)


def test_reasons_are_ordered_by_fate_then_number(tmp_path: Path) -> None:
    write_summary(
        tmp_path,
        "filter",
        {
            "fates": {"kept": 1, "dropped": 5, "quarantined": 4, "missing": 2, "unlisted": 1},
            "reasons": {"too short": 2, "not English": 3, "no caption": 3, "no metadata row has this uid": 1},
            "metadata_outcomes": {"kept": 1, "too short": 2, "not English": 3},
            "malformed_uids": 1,
        },
    )
    rows = collect(run_of(tmp_path)).reasons
    assert [(r.fate, r.count) for r in rows] == [
        ("dropped", 3),
        ("dropped", 2),
        ("quarantined", 3),
        ("quarantined", 1),
        ("missing", 2),
        ("unlisted", 1),
    ]


def test_readers_find_samples(whole: tuple[Path, Settings]) -> None:
    out, settings = whole
    pool = PoolPreviews(out, Path(str(settings.pool)) / "shards")
    for row in read_table(out / "fates.parquet").to_pylist():
        if row["shard"] is not None:
            sample = pool.sample(row["shard"], row["row"])
            assert (sample.caption is None) == (row["reason"] == "no caption")
            assert bool(sample.picture.uri) == (not str(row["reason"]).startswith("picture"))
    assert "cannot be read" in pool.sample("00000000.tar", 10_000).picture.problem
    assert "cannot be read" in pool.sample("nowhere.tar", 0).picture.problem
    evals = EvalsetPreviews(out, [("first", [f"{settings.evalsets}/wds_first_test/test/0.tar"])])
    assert evals.sample("first", "0.tar", "s1").picture.uri
    assert "not in the evaluation set" in evals.sample("first", "0.tar", "s9").picture.problem
    assert "cannot be read" in evals.sample("none", "0.tar", "s0").picture.problem


def test_plain_pool_needs_no_evaluation_sets(tmp_path: Path) -> None:
    plain_pool(tmp_path / "pool").write()
    settings = Settings(pool=str(tmp_path / "pool"), filter="no_filter", train=False)
    run(tmp_path / "out", settings)
    report = json.loads((tmp_path / "out" / "report.json").read_bytes())
    assert report["contamination"]["available"] is False
    assert report["fates"]["kept"] == 12
    assert report["reasons"] == []
    assert any("contamination is unknown" in note for note in report["notes"])
    Page((tmp_path / "out" / "report.html").read_text(encoding="utf-8"))
