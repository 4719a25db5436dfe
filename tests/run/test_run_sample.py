"""``sample(...)`` through the whole workflow: copies in subset files, fates, new shards, training order and report."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from dcfast.cli import main as command
from dcfast.errors import FilterError, PoolError
from dcfast.filters import draw_copies
from dcfast.run.workflow import main, run
from dcfast.rundir.lookup import SampleLookup
from dcfast.rundir.run_dir import Run
from dcfast.rundir.settings import Settings
from dcfast.stages import train
from dcfast.stages.filter import sampled
from dcfast.uids.sets import load_subset, uid_format
from piece_functions import first_piece
from pool_builder import plain_pool, uid_of
from test_run import digest

COUNT = 60
MISSING = [70, 71]
TOTAL = 150


def settings_of(pool: Path, text: str, **more: Any) -> Settings:
    return Settings(**{"pool": str(pool), "filter": text, "train": False, "shard_size": 20, **more})


def uids(path: Path) -> list[str]:
    return list(uid_format(np.asarray(load_subset(path)), as_list=True))


def write_scores(path: Path, numbers: list[int], rng: int = 5) -> dict[str, float]:
    drawn = np.random.default_rng(rng).normal(0, 2, len(numbers)).tolist()
    scores = dict(zip(map(uid_of, numbers), drawn, strict=True))
    names = sorted(scores)
    pq.write_table(pa.table({"uid": names, "score": pa.array([scores[name] for name in names], "float32")}), path)
    return {name: float(np.float32(score)) for name, score in scores.items()}


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Path:
    builder = plain_pool(tmp_path_factory.mktemp("sampled") / "pool", COUNT, 3)
    builder.missing = MISSING
    root = builder.write()
    # a second row of two samples: a uid is a candidate once
    table = {"uid": [uid_of(3), uid_of(4)], "text": ["a picture"] * 2, "original_width": [640] * 2}
    pq.write_table(pa.table({**table, "original_height": [480] * 2}), root / "metadata/00000003.parquet")
    return root


def expected_copies(scores: dict[str, float], **how: Any) -> Counter[str]:
    """By the uids in their order."""
    names = sorted(scores)
    copies = draw_copies(np.array([scores[name] for name in names]), TOTAL, **how)
    return Counter({name: int(n) for name, n in zip(names, copies, strict=True) if n})


@pytest.mark.parametrize("cap", ["soft_cap=0.4, draw=25", "hard_cap=4"])
def test_copies_from_the_draw_to_training(
    pool: Path, tmp_path: Path, cap: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sampled, "_ROWS_AT_ONCE", 7)
    monkeypatch.setattr(sampled, "_COPIES_AT_ONCE", 5)
    scores = write_scores(tmp_path / "s.parquet", [*range(COUNT), *MISSING, 900])
    del scores[uid_of(900)]  # of no row
    text = f'words >= 2 & sample(score("{tmp_path}/s.parquet"), total={TOTAL}, seed=7, {cap})'
    out = tmp_path / "run"
    assert main(["--pool", str(pool), "--filter", text, "--out", str(out), "--no-train", "--shard-size", "20"]) == 0
    said = capsys.readouterr().out
    how = {"soft_cap": 0.4, "draw": 25} if "soft" in cap else {"hard_cap": 4}
    wanted = expected_copies(scores, seed=7, **how)
    there = Counter({name: n for name, n in wanted.items() if name not in map(uid_of, MISSING)})
    assert uids(out / "subset_metadata.npy") == sorted(wanted.elements())
    assert uids(out / "subset.npy") == sorted(there.elements())
    assert wanted.total() == TOTAL > there.total()
    assert max(there.values()) > 2

    fates = pq.read_table(out / "fates.parquet").to_pylist()
    assert {r["uid"]: r["copies"] for r in fates if r["fate"] == "kept"} == dict(there)
    dropped = {(r["reason"], r["copies"]) for r in fates if r["fate"] == "dropped"}
    assert {(reason[:25], copies) for reason, copies in dropped} == {('sample(score("s.parquet")', 0)}
    assert {r["copies"] for r in fates if r["fate"] == "missing"} == {0}
    assert "copies" not in pq.read_schema(out / "quarantine.parquet").names

    verified = json.loads((out / "verify.json").read_bytes())
    assert (verified["ok"], verified["kept"], verified["written"]) == (True, len(there), there.total())
    assert verified["other_copies"] == 0
    assert sum(json.loads((out / "shards/sizes.json").read_bytes()).values()) == there.total()
    order = first_piece(train.steps, Run(out, settings_of(pool, text)))
    order.function(out, **order.arguments)
    assert len(np.load(out / "train/positions.npy")) == there.total(), "training sees a sample as often"

    manifest = json.loads((out / "manifest.json").read_bytes())
    assert f"total={TOTAL}" in manifest["filter"]
    assert (manifest["sampled"]["copies"], manifest["sampled"]["uids"]) == (TOTAL, len(wanted))
    assert manifest["subset"]["uids"] == there.total()
    summary = json.loads((out / "state/filter.json").read_bytes())
    by_copies = dict(map(tuple, summary["sampled"]["by_copies"]))
    assert by_copies == {**Counter(wanted.values()), 0: COUNT + 2 - len(wanted)}
    assert summary["metadata_outcomes"]["kept"] == len(wanted) + sum(uid_of(n) in wanted for n in (3, 4))
    assert f"are drawn, in {TOTAL} copies" in said
    assert f"subset.npy holds {there.total()} of these copies" in said
    report = json.loads((out / "report.json").read_bytes())
    assert report["filter"]["sampled"] == summary["sampled"]
    assert report["rules_truth"] is None
    assert not report["look_problem"]
    assert "Copies drawn by score" in (out / "report.html").read_text()

    often = max(there, key=lambda name: there[name])
    for name, words in ((often, f"{there[often]}: it is written"), (uid_of(999), None)):
        status = command(["why", name, "--out", str(out)])
        said = capsys.readouterr()
        assert (status == 0) == (words is not None)
        assert words is None or words in re.sub(r"\s+", " ", said.out)
    never = next(uid_of(n) for n in range(COUNT) if uid_of(n) not in wanted)
    assert command(["why", never, "--out", str(out)]) == 0
    assert "it was not drawn among the rows that pass the rest" in re.sub(r"\s+", " ", capsys.readouterr().out)


def test_files_rows_and_workers_in_any_order(pool: Path, tmp_path: Path) -> None:
    write_scores(tmp_path / "s.parquet", [*range(COUNT), *MISSING])
    text = f'sample(score("{tmp_path}/s.parquet"), total={TOTAL}, soft_cap=0.4, draw=20)'
    run(tmp_path / "one", settings_of(pool, text))
    run(tmp_path / "two", settings_of(pool, text), workers=2)
    assert digest(tmp_path / "one") == digest(tmp_path / "two")

    other = tmp_path / "other"
    (other / "metadata").mkdir(parents=True)
    whole = pa.concat_tables(map(pq.read_table, sorted((pool / "metadata").iterdir())))
    pq.write_table(whole.take(np.random.default_rng(1).permutation(whole.num_rows)), other / "metadata/a.parquet")
    run(tmp_path / "three", settings_of(other, text), last="filter")
    subset = (tmp_path / "one/subset_metadata.npy").read_bytes()
    assert (tmp_path / "three/subset_metadata.npy").read_bytes() == subset, "without shards, too"

    run(tmp_path / "one", settings_of(pool, text.replace("draw=20", "draw=30")), overwrite=True)
    assert (tmp_path / "one/subset_metadata.npy").read_bytes() != subset
    run(tmp_path / "one", settings_of(pool, "no_filter"), overwrite=True)
    run(tmp_path / "plain", settings_of(pool, "no_filter"))
    left = {name: hashed for name, hashed in digest(tmp_path / "one").items() if not name.startswith("filter/scores")}
    assert left == digest(tmp_path / "plain"), "nothing is left of the draw"
    assert "copies" not in pq.read_schema(tmp_path / "one/fates.parquet").names
    assert "sampled" not in json.loads((tmp_path / "plain/state/filter.json").read_bytes())


def test_a_killed_draw_goes_on(pool: Path, tmp_path: Path) -> None:
    write_scores(tmp_path / "s.parquet", [*range(COUNT), *MISSING])
    text = f'sample(score("{tmp_path}/s.parquet"), total={TOTAL}, hard_cap=9)'
    run(tmp_path / "run", settings_of(pool, text))
    before = digest(tmp_path / "run")
    for name in ("state/filter.json", "state/filter/draw/draw.json", "filter/outcomes.npy"):
        (tmp_path / "run" / name).unlink()
    (tmp_path / "run/subset_metadata.npy").write_bytes(b"cut off")
    run(tmp_path / "run", settings_of(pool, text))
    assert digest(tmp_path / "run") == before


def test_the_best_of_a_uids_rows_counts() -> None:
    scores = np.array([0.5, -np.inf, np.nan, 3.0, -0.0, -7.25], np.float32)
    payload = sampled._payload(scores)
    assert np.argsort(payload, kind="stable").tolist() == [3, 0, 4, 5, 1, 2]
    back = sampled.key_values(~payload, "float64")
    np.testing.assert_array_equal(back, scores.astype(np.float64))


@pytest.mark.parametrize(
    ("numbers", "rest", "how", "error", "words"),
    [
        (
            range(COUNT),
            "",
            "hard_cap=4, total=100",
            PoolError,
            "2 of the 62 uids .* no finite score .* fraction=1.0",
        ),
        (range(COUNT), "words >= 99 & ", "hard_cap=4, total=100", FilterError, "no row passes the rest"),
        (
            [*range(COUNT), *MISSING],
            "",
            "hard_cap=2, total=125",
            FilterError,
            "are 124 copies; give a total=",
        ),
        ([*range(COUNT), *MISSING], "", "soft_cap=0.15, total=200", FilterError, "a draw of 100,000.* like draw=1"),
        (
            [*range(COUNT)],
            "",
            "soft_cap=0.15, draw=9, total=640001",
            FilterError,
            "64 rows, .* 640,000 copies; give a",
        ),
        (
            [*range(COUNT), *MISSING],
            "",
            "soft_cap=0.15, draw=9, total=630000",
            FilterError,
            "62 uids .* 620,000 copies",
        ),
        ([*range(COUNT), *MISSING], "", "hard_cap=9, total=9, temperature=1e-9", FilterError, "give a higher temp"),
    ],
)
def test_draws_that_are_refused(
    pool: Path, tmp_path: Path, numbers: Any, rest: str, how: str, error: type[Exception], words: str
) -> None:
    write_scores(tmp_path / "s.parquet", list(numbers))
    text = f'{rest}sample(score("{tmp_path}/s.parquet"), {how})'
    with pytest.raises(error, match=words):
        run(tmp_path / "run", settings_of(pool, text), last="filter")
    assert not (tmp_path / "run/subset_metadata.npy").exists()


def test_rows_without_a_score_are_left_out_where_that_is_said(pool: Path, tmp_path: Path) -> None:
    write_scores(tmp_path / "s.parquet", list(range(COUNT)))
    file = f'score("{tmp_path}/s.parquet"'
    text = f"{file}, fraction=1.0) & sample({file}), hard_cap=4, total={TOTAL})"
    summary = run(tmp_path / "run", settings_of(pool, text), last="filter")["filter"]
    assert (summary.sampled.candidates, summary.subset, summary.subset_metadata) == (COUNT, TOTAL, TOTAL)
    assert not [note for note in summary.notes if "subset.npy holds" in note]
    found = SampleLookup(tmp_path / "run").count_in("subset.npy", load_subset(tmp_path / "run/subset.npy"))
    assert found is not None
    assert found.max() <= 4


WORLD = {"rows": 240, "rows_per_shard": 120, "eval_scale": 0.02, "teacher_pairs": 0}


@pytest.mark.soak
def test_the_built_in_world_trains_on_the_copies(tmp_path: Path) -> None:
    """To training and report: so many samples there as copies, and of the truth both the samples and the copies."""
    drawn = "sample(column(original_width), soft_cap=0.2, total=300, seed=0, draw=20, temperature=150.0)"
    text = f"basic_filter & {drawn} & ~contaminated"
    settings = Settings(world=WORLD, features={}, filter=text, samples_seen=256, device="cpu")
    done = run(tmp_path / "run", settings)
    chosen = done["filter"]
    assert chosen.subset < chosen.sampled.copies == 300, "some rows have no sample"
    assert chosen.fates["kept"] < chosen.subset
    fates = pq.read_table(tmp_path / "run/fates.parquet")
    assert sum(fates["copies"].to_pylist()) == chosen.subset == done["train"].sources[0].samples
    report = json.loads((tmp_path / "run/report.json").read_bytes())
    judged = report["world"]["copies"]
    assert judged["found"] == chosen.subset
    assert 0 < judged["precision"] < 1
    assert judged["recall"] == report["world"]["filter"]["recall"]
    of_draw = [rule for rule in report["rules_truth"]["rules"] if rule["rule"] == drawn]
    assert len(of_draw) == 1
    assert of_draw[0]["drops"] > 0


def test_a_plan_reckons_with_the_copies(pool: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    written = []
    for total in (62, 6200):
        text = f"sample(column(original_width), hard_cap=100, total={total})"
        words = ["--pool", str(pool), "--filter", text, "--out", str(tmp_path / "run"), "--no-train", "--dry-run"]
        assert main(words) == 0
        said = capsys.readouterr().out
        assert "the draw of its copies is not reckoned" in said
        line = next(line for line in said.splitlines() if line.startswith("reshard "))
        amount, unit = re.findall(r"([\d.]+) ([kMG]?B)", line)[1]
        written.append(float(amount) * {"B": 1, "kB": 1e3, "MB": 1e6, "GB": 1e9}[unit])
    assert written[1] / written[0] == pytest.approx(100, rel=0.1)
