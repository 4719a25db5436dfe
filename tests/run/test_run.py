"""The workflow end to end on small pools: accounting, resume, kill -9, any number of workers, Ray."""

from __future__ import annotations

import hashlib
import io
import json
import os
import random
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from dcfast.run.workflow import main, run
from dcfast.rundir.settings import Settings
from dcfast.rundir.summaries import KeptCopies
from dcfast.storage.records import plain
from dcfast.uids.sets import load_subset, uid_format
from pool_builder import PoolBuilder, Sample, evalset, picture, plain_pool, uid_of

KILLS = int(os.environ.get("DCFAST_FAULTS", "2"))
COMPARED = ("index", "signatures", "filter", "reshard", "shards", "subset.npy", "contaminated.npy", "fates.parquet")
ALSO = ("quarantine.parquet", "contamination.parquet", "subset_metadata.npy")


def digest(out: Path) -> dict[str, str]:
    """Path -> hash of every file that must not depend on workers, engine or interruptions."""
    found = {}
    for name in (*COMPARED, *ALSO):
        place = out / name
        for path in sorted(place.rglob("*")) if place.is_dir() else [place]:
            if path.is_file():
                found[str(path.relative_to(out))] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A pool with one of everything, and evaluation sets that leaked into it."""
    from PIL import Image

    def recompressed(number: int) -> bytes:
        with Image.open(io.BytesIO(picture(number))) as image:
            buffer = io.BytesIO()
            image.resize((70, 70)).save(buffer, "JPEG", quality=55)
        return buffer.getvalue()

    root = tmp_path_factory.mktemp("a pool with spaces")
    shards = [[Sample(100 * s + i) for i in range(20)] for s in range(5)]
    shards[0][1] = Sample(1, jpg=picture(901))  # the very bytes of an evaluation picture
    shards[0][2] = Sample(2, jpg=recompressed(902))
    shards[0][3] = Sample(3, caption="zu kurz")
    shards[0][4] = Sample(4, caption="ein schöner Abend am See mit vielen bunten Booten und Lichtern")
    shards[1][0] = Sample(100, width=150)
    shards[1][1] = Sample(101, width=2000, height=400)
    shards[1][2] = Sample(102, jpg=picture(102)[:700])
    shards[1][3] = Sample(103, jpg=b"")
    shards[1][4] = Sample(104, without=("json",))
    shards[1][5] = Sample(105, without=("txt",))
    shards[1][6] = Sample(106, without=("jpg",))
    shards[1][7] = Sample(107, info={"caption": "no uid"})
    shards[1][8] = Sample(108, info={"uid": "not a uid"})
    shards[2][0] = Sample(200, listed=False)
    shards[2][1] = Sample(201, uid=uid_of(200 + 2), listed=False)  # the uid of the next sample
    shards[2][3] = Sample(203, jpg=_flat(), caption="nothing but a plain grey wall to be seen here")
    builder = PoolBuilder(root / "pool", shards, missing=[7001, 7002])
    builder.write()
    sets = root / "sets"
    evalset(sets, "first", {"s0": picture(901), "s1": picture(950), "flat": _flat(200)})
    evalset(sets, "vtab-second", {"k0": picture(902), "k1": picture(901)})
    return builder.root, sets


def _flat(quality: int = 90) -> bytes:
    from PIL import Image

    buffer = io.BytesIO()
    Image.new("RGB", (64, 64), (128, 128, 128)).save(buffer, "JPEG", quality=min(quality, 95))
    return buffer.getvalue()


def settings(pool: tuple[Path, Path], **changes: Any) -> Settings:
    return Settings(**{"pool": str(pool[0]), "evalsets": str(pool[1]), "shard_size": 30, "train": False, **changes})


@pytest.fixture(scope="module")
def undisturbed(pool: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("undisturbed") / "run"
    run(out, settings(pool))
    return out


def fates(out: Path) -> dict[str, Any]:
    table = pq.read_table(out / "fates.parquet").to_pylist()
    return {(r["shard"], r["row"]) if r["shard"] else r["uid"]: r for r in table}


# --- what a run says ------------------------------------------------------------------------------


def test_every_sample_has_the_fate_it_should(undisturbed: Path) -> None:
    found = fates(undisturbed)
    # two rotted links, and the metadata rows of the three samples whose json gives no uid to join them by
    assert len(found) == 100 + 2 + 3

    def of(shard: int, row: int) -> tuple[str, str | None]:
        r = found[f"{shard:08d}.tar", row]
        return r["fate"], r["reason"]

    assert of(0, 0) == ("kept", None)
    assert of(0, 1) == ("dropped", "contaminated")
    assert of(0, 2) == ("dropped", "contaminated")
    assert of(0, 3) == ("dropped", "basic_filter: words")
    assert of(0, 4) == ("dropped", "basic_filter: language")
    assert of(1, 0) == ("dropped", "basic_filter: size")
    assert of(1, 1) == ("dropped", "basic_filter: aspect")
    assert of(1, 2) == ("quarantined", "picture: truncated")
    assert of(1, 3) == ("quarantined", "picture: empty")
    assert of(1, 4) == ("quarantined", "no json, so no uid")
    assert of(1, 5) == ("quarantined", "no caption")
    assert of(1, 6) == ("quarantined", "no picture")
    assert of(1, 7) == ("quarantined", "json without uid")
    assert of(1, 8) == ("quarantined", "uid is not 32 hex digits")
    assert of(2, 0) == ("unlisted", "no metadata row has this uid")
    assert of(2, 1) == of(2, 2) == ("kept", None)
    assert of(2, 3) == ("kept", None)
    for number in (7001, 7002, 104, 107, 108):
        assert (found[uid_of(number)]["fate"], found[uid_of(number)]["key"]) == ("missing", None)
    assert found["00000001.tar", 4]["uid"] is None
    assert found["00000000.tar", 1]["key"] == "000000001"


def test_schema_of_the_tables(undisturbed: Path) -> None:
    assert pq.read_schema(undisturbed / "fates.parquet").names == ["shard", "row", "key", "uid", "fate", "reason"]
    assert pq.read_schema(undisturbed / "quarantine.parquet").names == ["shard", "row", "key", "uid", "reason"]
    quarantined = [r for r in fates(undisturbed).values() if r["fate"] == "quarantined"]
    assert pq.read_table(undisturbed / "quarantine.parquet").num_rows == len(quarantined)


def test_kept_are_the_subset_and_none_is_contaminated(undisturbed: Path) -> None:
    subset = set(uid_format(np.asarray(load_subset(undisturbed / "subset.npy")), as_list=True))
    contaminated = set(uid_format(np.asarray(load_subset(undisturbed / "contaminated.npy")), as_list=True))
    assert subset == {r["uid"] for r in fates(undisturbed).values() if r["fate"] == "kept"}
    assert contaminated == {uid_of(1), uid_of(2)}
    assert not subset & contaminated


def test_evidence_names_set_key_method_and_distance(undisturbed: Path) -> None:
    rows = pq.read_table(undisturbed / "contamination.parquet").to_pylist()
    seen = {(r["uid"], r["evalset"], r["evalset_key"], r["method"]): r["distance"] for r in rows}
    assert seen[uid_of(1), "first", "s0", "content"] == 0
    assert seen[uid_of(1), "vtab-second", "k1", "content"] == 0
    assert seen[uid_of(1), "first", "s0", "perceptual"] == 0
    assert seen[uid_of(2), "vtab-second", "k0", "perceptual"] <= 8
    assert not any(r["evalset_key"] == "flat" for r in rows), "a flat picture matched by perceptual hash"
    assert {r["uid"] for r in rows} == {uid_of(1), uid_of(2)}


def test_shards_hold_the_kept_samples_byte_for_byte(undisturbed: Path, pool: tuple[Path, Path]) -> None:
    import tarfile

    import webdataset as wds

    sources: dict[tuple[str, str], dict[str, bytes]] = {}
    for shard in sorted((pool[0] / "shards").glob("*.tar")):
        with tarfile.open(shard) as tar:
            for member in tar:
                key, _, ext = member.name.partition(".")
                file = tar.extractfile(member)
                assert file is not None
                sources.setdefault((shard.name, key), {})[ext] = file.read()
    kept = [r for r in fates(undisturbed).values() if r["fate"] == "kept"]
    shards = sorted(str(p) for p in (undisturbed / "shards").glob("*.tar"))
    read = list(wds.WebDataset(shards, shardshuffle=False, empty_check=False))
    assert len(shards) == -(-len(kept) // 30)
    assert len(read) == len(kept)
    copies: dict[str, int] = {}
    for sample, fate in zip(read, kept, strict=True):
        copy = copies.get(fate["uid"], 0)
        copies[fate["uid"]] = copy + 1
        assert sample["__key__"] == f"{fate['uid']}-{copy}"
        assert {k: v for k, v in sample.items() if not k.startswith("__")} == sources[fate["shard"], fate["key"]]
    sizes = json.loads((undisturbed / "shards/sizes.json").read_text())
    assert sum(sizes.values()) == len(kept)


def test_report_manifest_and_verification_are_there(undisturbed: Path) -> None:
    report = json.loads((undisturbed / "report.json").read_text())
    manifest = json.loads((undisturbed / "manifest.json").read_text())
    verified = json.loads((undisturbed / "verify.json").read_text())
    assert report["fates"]["kept"] == verified["kept"] == verified["written"]
    assert verified["ok"]
    assert manifest["filter"] == "basic_filter & ~contaminated"
    assert manifest["subset"]["sha256"] == hashlib.sha256((undisturbed / "subset.npy").read_bytes()).hexdigest()
    assert any("clip_score" in note for note in report["notes"]), "the report says what the default filter left out"
    page = (undisturbed / "report.html").read_text()
    assert "<html" in page
    assert 'http-equiv="refresh"' not in page


# --- the same bytes however it is run ---------------------------------------------------------------


@pytest.mark.parametrize("workers", [2, 3])
def test_workers_change_no_byte(undisturbed: Path, pool: tuple[Path, Path], tmp_path: Path, workers: int) -> None:
    run(tmp_path / "run", settings(pool), last="verify", workers=workers)
    assert digest(tmp_path / "run") == digest(undisturbed)


@pytest.mark.xdist_group("ray")
def test_ray_changes_no_byte(undisturbed: Path, pool: tuple[Path, Path], tmp_path: Path, ray_nodes: None) -> None:
    run(tmp_path / "run", settings(pool), last="verify", workers=2, engine="ray")
    assert digest(tmp_path / "run") == digest(undisturbed)


def options(pool: tuple[Path, Path], out: Path) -> list[str]:
    return ["--pool", str(pool[0]), "--evalsets", str(pool[1]), "--shard-size", "30", "--no-train", "--out", str(out)]


def command(pool: tuple[Path, Path], out: Path, *more: str) -> list[str]:
    return [sys.executable, "-m", "dcfast.run", *options(pool, out), "--to", "verify", "--quiet", *more]


@pytest.mark.slow
def test_kill_9_at_random_moments_changes_no_byte(undisturbed: Path, pool: tuple[Path, Path], tmp_path: Path) -> None:
    out = tmp_path / "run"
    seed = int(os.environ.get("DCFAST_TEST_SEED", "0")) or random.randrange(1 << 30)
    print(f"DCFAST_TEST_SEED={seed}")
    rng = random.Random(seed)
    killed = 0
    while killed < KILLS:
        words = command(pool, out, "--workers", str(rng.choice([1, 2])))
        process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(rng.uniform(0.1, 1.5))
        killed += process.poll() is None
        process.kill()
        process.wait()
        if (out / "verify.json").exists() and process.returncode == 0:
            # it got through: wound what was written last, so that the next one has work again
            (out / "state/settings.json").touch()
            for path in rng.sample(sorted((out / "state").rglob("*.json")), 5):
                if path.name != "settings.json":
                    path.unlink()
    subprocess.run(command(pool, out), check=True, stdout=subprocess.DEVNULL)
    assert digest(out) == digest(undisturbed)
    assert not list(out.rglob(".tmp-*"))


def test_second_run_does_no_piece_again(undisturbed: Path, pool: tuple[Path, Path]) -> None:
    before = (undisturbed / "state/timings.jsonl").read_bytes()
    times = {p: p.stat().st_mtime_ns for p in undisturbed.rglob("*") if p.is_file() and p.name != ".lock"}
    run(undisturbed, settings(pool))
    assert (undisturbed / "state/timings.jsonl").read_bytes() == before
    changed = {str(p) for p, t in times.items() if p.stat().st_mtime_ns != t}
    assert {Path(p).name for p in changed} <= {"settings.json", "progress.json", "log.txt"}


def test_changed_shard_is_redone_and_the_rest_is_not(tmp_path: Path) -> None:
    builder = plain_pool(tmp_path / "pool")
    root = builder.write()
    chosen = Settings(pool=str(root), filter="no_filter", train=False)
    run(tmp_path / "run", chosen)
    before = digest(tmp_path / "run")
    log = tmp_path / "run/state/timings.jsonl"
    log.write_text("")
    shard = root / "shards/00000001.tar"
    builder.shards[1][0] = Sample(5000, uid=uid_of(4))
    PoolBuilder(tmp_path / "other", builder.shards).write()
    shard.write_bytes((tmp_path / "other/shards/00000001.tar").read_bytes())
    run(tmp_path / "run", chosen)
    steps = {json.loads(line)["step"]: json.loads(line) for line in log.read_text().splitlines()}
    assert steps["index/segments"]["pieces"] == 1
    assert steps["index/segments"]["skipped"] == 2
    assert "filter/evaluate" not in steps, "the metadata did not change"
    after = digest(tmp_path / "run")
    assert after["index/segment-00000.dcx"] == before["index/segment-00000.dcx"]
    assert after["index/segment-00001.dcx"] != before["index/segment-00001.dcx"]
    assert after["subset.npy"] == before["subset.npy"]
    run(tmp_path / "fresh", chosen)
    assert digest(tmp_path / "fresh") == after


def test_stages_one_by_one_are_the_whole(undisturbed: Path, pool: tuple[Path, Path], tmp_path: Path) -> None:
    from dcfast import cli

    for stage in ("index", "signatures", "decontaminate", "filter", "reshard", "verify"):
        assert cli.main([stage, *options(pool, tmp_path / "run"), "--workers", "1", "--quiet"]) == 0
    assert digest(tmp_path / "run") == digest(undisturbed)


def test_a_stage_is_a_function(undisturbed: Path, pool: tuple[Path, Path], tmp_path: Path) -> None:
    from dcfast.run import workflow

    chosen = settings(pool)
    assert workflow.index(tmp_path / "run", chosen).samples == 100
    assert workflow.signatures(tmp_path / "run", chosen).pictures == 99
    assert workflow.decontaminate(tmp_path / "run", chosen).uids == 2
    kept = workflow.filter_metadata(tmp_path / "run", chosen).subset
    assert kept == len(load_subset(undisturbed / "subset.npy"))


def test_dry_run_prints_the_plan_and_writes_nothing(
    pool: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*options(pool, tmp_path / "run"), "--dry-run"]) == 0
    text = capsys.readouterr().out
    assert "5 shards" in text
    assert "reshard" in text
    assert not (tmp_path / "run").exists()


def test_copies_of_evaluation_pictures_that_are_kept_are_counted(tmp_path: Path) -> None:
    """By sample and set, against the tables: one in two sets counts once, one that is not kept counts nowhere."""
    shards = [[Sample(100 * s + i) for i in range(8)] for s in range(3)]
    shards[0][1] = Sample(1, jpg=picture(901))
    shards[0][2] = Sample(2, jpg=picture(902))
    shards[2][3] = Sample(203, jpg=picture(901))
    shards[1][0] = Sample(100, jpg=picture(902), without=("txt",))  # in quarantine
    shards[1][1] = Sample(101, jpg=picture(902), listed=False)
    shards[1][2] = Sample(102, jpg=picture(902), width=10)  # dropped by basic_filter
    pool = PoolBuilder(tmp_path / "pool", shards).write()
    sets = tmp_path / "sets"
    evalset(sets, "first", {"s0": picture(901), "s1": picture(950), "s2": picture(902)})
    evalset(sets, "second", {"k0": picture(901)})
    evalset(sets, "third", {"k0": picture(951)})
    settings = Settings(pool=str(pool), evalsets=str(sets), filter="basic_filter", train=False)
    found = run(tmp_path / "run", settings)["filter"].contaminated
    assert found == KeptCopies(3, {"first": 3, "second": 2, "third": 0})
    kept = {
        (f["shard"], f["row"]) for f in pq.read_table(tmp_path / "run/fates.parquet").to_pylist() if f["fate"] == "kept"
    }
    hits = pq.read_table(tmp_path / "run/contamination.parquet").to_pylist()
    for name, count in found.evalsets.items():
        assert count == len({(h["shard"], h["row"]) for h in hits if h["evalset"] == name} & kept)
    manifest = json.loads((tmp_path / "run/manifest.json").read_bytes())
    assert manifest["subset"]["contaminated"] == plain(found)
    settings = replace(settings, filter="basic_filter & ~contaminated")
    without = run(tmp_path / "run", settings, overwrite=True, last="filter")
    assert without["filter"].contaminated == KeptCopies(0, {"first": 0, "second": 0, "third": 0})
    alone = replace(settings, evalsets=None, filter="basic_filter")
    assert run(tmp_path / "alone", alone, last="filter")["filter"].contaminated is None


def test_a_stage_is_said_with_its_place_among_all(tmp_path: Path) -> None:
    said: list[str] = []
    settings = Settings(pool=str(plain_pool(tmp_path / "pool", 3, 1).write()), filter="no_filter", train=False)
    run(tmp_path / "run", settings, last="filter", say=said.append)
    names = ["index", "signatures", "decontaminate", "filter"]
    assert said == [f"{name}, stage {number} of 4" for number, name in enumerate(names, 1)]
