"""From nothing to a report in one command: metadata from a hub, what the filter takes of it, its images from a web."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from dcfast import cli
from dcfast.filters import compile_filter
from dcfast.run.acquisition import Acquisition, acquire_words, plan_acquisition
from dcfast.run.workflow import main
from dcfast.rundir.layout import filter_as_asked
from dcfast.rundir.settings import NO_COMPARISON, Settings
from dcfast.storage.hashing import sha256_file
from dcfast.uids.sets import load_subset
from hostile_bytes import picture
from hostile_web import HostileWeb, hostile_web
from local_hub import LocalHub, local_hub
from pool_builder import evalset

ROWS = 60
REPO = "mlfoundations/datacomp_small"


def uid(number: int) -> str:
    return f"{number:032x}"


@pytest.fixture
def web() -> Iterator[HostileWeb]:
    files = {f"/{n}.jpg": picture("JPEG", seed=n, width=96, height=72) for n in range(ROWS) if n % 10 != 3}
    with hostile_web(files) as running:
        yield running


def metadata(web: HostileWeb) -> bytes:
    columns = {
        "uid": [uid(n) for n in range(ROWS)],
        "url": [web.at(f"/{n}.jpg") for n in range(ROWS)],
        "text": [f"a caption with words, number {n}" if n % 2 else "short" for n in range(ROWS)],
        "clip_l14_similarity_score": pa.array([n / 100 for n in range(ROWS)], pa.float32()),
    }
    buffer = io.BytesIO()
    pq.write_table(pa.table(columns), buffer)
    return buffer.getvalue()


@pytest.fixture
def hub(web: HostileWeb, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[LocalHub]:
    with local_hub({REPO: {"0020f0cbd157d470aa56bea08e304b90.parquet": metadata(web)}}) as served:
        monkeypatch.setenv("HF_ENDPOINT", served.url)
        monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
        monkeypatch.delenv("HF_TOKEN", raising=False)
        yield served


def words(web: HostileWeb, out: Path, *more: str) -> list[str]:
    how = ["allow_private=127.0.0.1", f"nameservers=127.0.0.1:{web.dns.port}", "host_rate=0", "shard_size=20"]
    how += ["contact=me@example.org", "host_connections=16"]
    return ["--scale", "small", "--acquire", *how, "--no-train", "--out", str(out), "--workers", "1", *more]


def images_asked(web: HostileWeb) -> set[int]:
    paths = (request.path for request in web.requests if request.path != "/robots.txt")
    return {int(path.strip("/").removesuffix(".jpg")) for path in paths}


def test_one_command_goes_from_a_hub_to_a_report(
    web: HostileWeb, hub: LocalHub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    command = words(web, out, "--filter", "clip_score(l14, fraction=0.5) & words >= 4")
    assert main(command) == 0
    chosen = {n for n in range(29, ROWS) if n % 2}  # as DataComp has it: from the score at that place on
    assert images_asked(web) == chosen
    said = capsys.readouterr()
    assert "13 images of 16 rows (81.2%)" in said.out
    assert "acquire: decided by metadata: clip_score(l14, fraction=0.5) & words >= 4" in said.err
    pool = out / "acquire/pool"
    assert json.loads((pool / "hub.lock.json").read_text())["repos"][REPO]["commit"] == hub.head(REPO)
    report = json.loads((out / "report.json").read_text())
    assert report["acquired"]["causes"] == {"gone": 3}
    assert report["acquired"]["listed"] == ROWS
    assert report["acquired"]["chosen_by"] == "clip_score(l14, fraction=0.5) & words >= 4"
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["filter_as_asked"] == report["filter"]["as_asked"] == report["acquired"]["chosen_by"]
    page = (out / "report.html").read_text()
    assert "What came from the net" in page
    assert "Filter: </span>clip_score(l14, fraction=0.5) &amp; words &gt;= 4</code>" in page
    assert report["fates"]["kept"] == len(load_subset(out / "subset.npy")) == 13
    before = {path: sha256_file(path) for path in sorted((pool / "shards").iterdir())}
    asked, fetched = len(web.requests), len(hub.log)
    assert main(command) == 0
    assert (len(web.requests), len(hub.log)) == (asked, fetched)
    assert {path: sha256_file(path) for path in sorted((pool / "shards").iterdir())} == before


CHOSEN = 'uids("/a b/acquire/choice/subset_metadata.npy")'


@pytest.mark.parametrize(
    ("expression", "chosen_by", "asked"),
    [
        (CHOSEN, "words >= 4", "words >= 4"),
        (f"~contaminated & {CHOSEN}", "english | words >= 4", "~contaminated & (english | words >= 4)"),
        ('uids("/mine/subset_metadata.npy")', "words >= 4", None),
        (CHOSEN, "", None),
        (None, "words >= 4", None),
    ],
)
def test_the_filter_that_was_asked_for(expression: str | None, chosen_by: str, asked: str | None) -> None:
    assert filter_as_asked(expression, chosen_by) == asked


@pytest.mark.long
def test_one_command_trains_and_scores_too(web: HostileWeb, hub: LocalHub, tmp_path: Path) -> None:
    sets = evalset(tmp_path / "evalsets", "shapes", {str(n): picture("JPEG", seed=900 + n) for n in range(8)})
    sets /= "wds_shapes_test"
    (sets / "classnames.txt").write_text("one\n")
    (sets / "zeroshot_classification_templates.txt").write_text("a photo of {c}\n")
    out = tmp_path / "run"
    command = [word for word in words(web, out, "--evalsets", str(tmp_path / "evalsets")) if word != "--no-train"]
    command += ["--filter", "words >= 4 & ~contaminated", "--device", "cpu", "--samples-seen", "64"]
    command += ["--set", "model=dcfast-tiny", "--set", "global_batch=16", "--set", "warmup_steps=1"]
    assert main(command) == 0
    report = json.loads((out / "report.json").read_text())
    assert report["acquired"]["successes"] == report["fates"]["kept"] == 24
    assert [row["dataset"] for row in report["scores"]["sets"]] == ["shapes"]
    assert not report["standard"]


def test_what_needs_images_is_decided_after_them(
    web: HostileWeb, hub: LocalHub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    copies = web.files["/1.jpg"]
    web.files["/5.jpg"] = copies
    assert main(words(web, out, "--filter", "words >= 4 & ~duplicate", "--to", "filter")) == 0
    said = capsys.readouterr().err
    assert "acquire: decided by metadata: words >= 4; after the download: ~duplicate" in said
    assert images_asked(web) == {n for n in range(ROWS) if n % 2}
    assert len(load_subset(out / "subset.npy")) == 24 - 1
    assert main(words(web, tmp_path / "other", "--filter", "~duplicate", "--dry-run")) == 0
    assert "nothing of the filter can be decided by metadata" in capsys.readouterr().out
    assert not (tmp_path / "other").exists()


@pytest.mark.long
def test_the_filter_by_default_and_a_pool_elsewhere(web: HostileWeb, hub: LocalHub, tmp_path: Path) -> None:
    out, pool = tmp_path / "run", tmp_path / "pool"
    command = words(web, out, "--pool", str(pool), "--to", "verify")
    assert main(command) == 0
    assert (pool / "acquired.json").exists()
    kept = json.loads((out / "state/filter.json").read_text())
    assert kept["fates"]["kept"] == json.loads((pool / "acquired.json").read_text())["successes"] > 0


@pytest.mark.long
def test_a_run_directory_may_have_any_name(web: HostileWeb, hub: LocalHub, tmp_path: Path) -> None:
    out = tmp_path / 'a "quoted" \\n | name'
    assert main(words(web, out, "--filter", "words >= 4 & ~duplicate", "--to", "filter")) == 0
    assert len(load_subset(out / "subset.npy")) == 24


def test_what_is_wrong_with_the_run_is_said_before_anything_is_fetched(
    web: HostileWeb, hub: LocalHub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/letter.txt").write_text("dear")
    for name, more, said in (
        ("mine", ["--filter", "words >= 4"], "is not empty and no run of dcfast"),
        ("a", ["--filter", "words >= 4", "--evalsets", str(tmp_path / "none")], "no such directory"),
        ("a", ["--filter", "words >= 4 & ~contaminated"], "there are no evaluation sets to compare with"),
        ("a", ["--filter", "words >= 4", "--from", "report"], "stage index has not been run yet"),
    ):
        assert main(words(web, tmp_path / name, *more)) == 1
        assert said in capsys.readouterr().err
    assert (web.requests, hub.log) == ([], [])
    assert not (tmp_path / "a").exists()


@pytest.mark.long
def test_another_filter_is_refused_and_the_first_goes_on(
    web: HostileWeb, hub: LocalHub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    assert main(words(web, out, "--filter", "words >= 4", "--to", "filter")) == 0
    for more in ([], ["--overwrite"]):
        assert main(words(web, out, "--filter", "words >= 3", "--to", "filter", *more)) == 1
        said = capsys.readouterr().err
        assert "has the images that words >= 4 took, and now it is words >= 3: give another --out" in said
    asked = len(web.requests)
    assert main(words(web, out, "--filter", "words >= 4", "--to", "filter")) == 0
    out.rename(tmp_path / "moved")
    assert main(words(web, tmp_path / "moved", "--filter", "words >= 4", "--to", "filter", "--overwrite")) == 0
    assert len(web.requests) == asked


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["nonsense"], r"--acquire takes NAME=VALUE, options of dcfast acquire .*; got 'nonsense'"),
        (["contakt=x"], r"got 'contakt=x'; did you mean 'contact'"),
        (["retries=-1"], r"retries must be 0 to"),
        (["resize=none"], r"resize must be one of scaled, exact"),
        (["allow_private=me"], r"--allow-private takes networks .*'me'"),
        (["nameservers=a.b"], r"--nameservers takes ADDRESS or ADDRESS:PORT, .*'a\.b'"),
        (["nameservers=1.1.1.1:53,[::1]:99999"], r"--nameservers \[::1\]:99999: its port must be 1 to 65535"),
        (["out=elsewhere"], r"got 'out=elsewhere'"),
    ],
)
def test_options_of_the_acquisition_are_checked_before_work(given: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        acquire_words(given)


def test_options_of_the_acquisition_have_their_types() -> None:
    given = acquire_words(["npz=true", "host-rate=2.5", "connections=7", "opt_outs=noai,noindex", "contact=a@b.de"])
    expected = {"npz": True, "host_rate": 2.5, "connections": 7, "opt_outs": ["noai", "noindex"], "contact": "a@b.de"}
    assert given == expected


def test_a_scale_that_nobody_publishes_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["run", "--scale", "tiny", "--acquire", "--out", str(tmp_path / "x"), "--no-train"]) == 1
    assert "--acquire fetches a scale of DataComp (small, medium, large, xlarge)" in capsys.readouterr().err
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    ("text", "npz", "before", "after"),
    [
        ("words >= 4", False, "words >= 4", None),
        ("words >= 4 & ~contaminated", False, "words >= 4", "~contaminated"),
        ("~contaminated", False, None, "~contaminated"),
        ("words >= 4 | ~duplicate", False, None, "words >= 4 | ~duplicate"),
        (
            "semdedup(l14, clusters=4, seed=0, eps=0.1) & words >= 4",
            False,
            "words >= 4",
            "semdedup(l14, clusters=4, seed=0, eps=0.1)",
        ),
        ("semdedup(l14, clusters=4, seed=0, eps=0.1) & words >= 4", True, None, None),
        ("no_filter", False, None, None),
    ],
)
def test_what_metadata_decides(tmp_path: Path, text: str, npz: bool, before: str | None, after: str | None) -> None:
    compiled = compile_filter(text)
    parts = [compiled.part(of_metadata=of_metadata, npz=npz) for of_metadata in (True, False)]
    if before is None and after is None:
        assert parts == [compiled, None]
    else:
        assert [None if part is None else str(part) for part in parts] == [before, after]
    plan = plan_acquisition(tmp_path, Settings(scale="small", filter=text), npz=npz, has_lists=False)
    everything = before is None and text != "semdedup(l14, clusters=4, seed=0, eps=0.1) & words >= 4"
    assert (plan.before is None) == everything
    featured = Settings(scale="small", filter=text, features={"l14": "ViT-L-14:openai"})
    assert plan_acquisition(tmp_path, featured, npz=npz, has_lists=False).before is None


def test_what_is_compared_with_and_the_filter_by_default_are_not_lost(tmp_path: Path) -> None:
    def plan(**given: object) -> Acquisition:
        return plan_acquisition(tmp_path, Settings(scale="small", **given), npz=False, has_lists=False)  # type: ignore[arg-type]

    assert plan(filter="words >= 4", compare=NO_COMPARISON).before == "words >= 4"
    compared = plan(filter="words >= 4", compare="no_filter")  # takes images that the filter does not
    assert (compared.before, compared.run_settings.filter) == (None, "words >= 4")
    featured = plan(features={"l14": "ViT-L-14:openai"}, evalsets="sets")
    assert (featured.before, featured.run_settings.filter) == (None, None)
    chosen = plan(evalsets="sets")
    assert chosen.before == "the default filter"
    assert str(chosen.run_settings.filter).endswith('subset_metadata.npy") & ~contaminated')
