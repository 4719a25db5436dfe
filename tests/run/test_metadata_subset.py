"""``subset_metadata.npy`` beside ``subset.npy``: link rot, repeated uids, and pools whose shards are not there yet."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from dcfast.errors import FilterError, PoolError, RunError
from dcfast.run.workflow import _closing_lines, main, run
from dcfast.rundir.run_dir import Run
from dcfast.rundir.settings import Settings
from dcfast.rundir.summaries import TrainingSummary
from dcfast.stages import train
from dcfast.stages.filter import subsets
from dcfast.uids.sets import load_subset, uid_format
from piece_functions import first_piece
from pool_builder import evalset, picture, plain_pool, uid_of
from test_run import digest

COUNT = 12


def uids(path: Path) -> list[str]:
    return list(uid_format(np.asarray(load_subset(path)), as_list=True))


def expected(numbers: list[int]) -> list[str]:
    return sorted(uid_of(n) for n in numbers)


def rotten_pool(root: Path) -> Path:
    """12 samples in three shards; of 8 of them (0 to 7) the metadata has a second row, in a file of its own, and of
    three more (20 to 22) no picture was downloaded. Scores fall from 0.9; those of the second rows are 0.1 but for
    samples 0 to 2, sample 2 has a third row, and a row has no uid."""
    builder = plain_pool(root, COUNT, 3)
    builder.missing = [20, 21, 22]
    given = iter(np.linspace(0.9, 0.5, COUNT + 3).tolist())

    def columns(rows: list[dict[str, Any]]) -> dict[str, list[Any]]:
        return {"clip_l14_similarity_score": [next(given) for _ in rows]}

    pool = builder.write(columns)
    again = [*range(8), 2]
    rows = {
        "uid": [*map(uid_of, again), "no uid"],
        "text": ["a picture of coloured clouds"] * 10,
        "original_width": [640] * 10,
        "original_height": [480] * 10,
        "clip_l14_similarity_score": [0.7 if n < 3 else 0.1 for n in again] + [0.9],
    }
    pq.write_table(pa.table(rows), pool / "metadata/00000003.parquet")
    return pool


TEXT = "clip_score(l14, threshold=0.4)"
PASSING = [*range(COUNT), 20, 21, 22, 0, 1, 2, 2]
"""Numbers of the samples whose rows pass, as often as rows do."""


def settings_of(pool: Path, **more: Any) -> Settings:
    return Settings(**{"pool": str(pool), "filter": TEXT, "train": False, "shard_size": 5, **more})


def test_every_row_that_passes_and_every_sample_that_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subsets, "ROWS_AT_ONCE", 4)  # repeats stand on both sides of a cut
    pool = rotten_pool(tmp_path / "pool")
    summary = run(tmp_path / "run", settings_of(pool))["filter"]
    assert uids(tmp_path / "run/subset_metadata.npy") == expected(PASSING)
    assert uids(tmp_path / "run/subset.npy") == expected([*range(COUNT)])
    assert (summary.subset_metadata, summary.subset) == (len(PASSING), COUNT)
    np.save(tmp_path / "as numpy.npy", np.load(tmp_path / "run/subset_metadata.npy"))
    assert (tmp_path / "as numpy.npy").read_bytes() == (tmp_path / "run/subset_metadata.npy").read_bytes()
    manifest = json.loads((tmp_path / "run/manifest.json").read_bytes())
    assert (manifest["subset"]["uids"], manifest["subset_metadata"]["uids"]) == (COUNT, len(PASSING))

    nothing = run(tmp_path / "none", settings_of(pool, filter="clip_score(l14, threshold=2)"), last="filter")
    assert nothing["filter"].subset_metadata == 0
    assert uids(tmp_path / "none/subset_metadata.npy") == uids(tmp_path / "none/subset.npy") == []


def test_repeats_are_kept_where_asked_and_written_as_often(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subsets, "ROWS_AT_ONCE", 4)
    pool = rotten_pool(tmp_path / "pool")
    out = tmp_path / "run"
    run(out, settings_of(pool, keep_repeats=True))
    repeated = [*range(COUNT), 0, 1, 2, 2]
    assert uids(out / "subset.npy") == expected(repeated)
    assert uids(out / "subset_metadata.npy") == expected(PASSING)
    assert not (out / "state/filter/kept.npy").exists()
    verified = json.loads((out / "verify.json").read_bytes())
    assert (verified["ok"], verified["kept"], verified["written"]) == (True, COUNT, len(repeated))
    assert sum(json.loads((out / "shards/sizes.json").read_bytes()).values()) == len(repeated)

    order = first_piece(train.steps, Run(out, settings_of(pool, overrides={"global_batch": 4})))
    order.function(out, **order.arguments)
    assert len(np.load(out / "train/positions.npy")) == len(repeated), "training sees a sample as often"

    (out / "state/filter.json").unlink()  # killed while the repeats were written
    (out / "subset.npy").unlink()
    (out / "state/filter/kept.npy").write_bytes(b"left behind")
    run(out, settings_of(pool, keep_repeats=True))
    run(tmp_path / "two", settings_of(pool, keep_repeats=True), workers=2)
    assert digest(tmp_path / "two") == digest(out)
    with pytest.raises(RunError, match="keep_repeats: True there, False now"):
        run(out, settings_of(pool))
    run(out, settings_of(pool), overwrite=True)
    run(tmp_path / "once", settings_of(pool))
    assert digest(tmp_path / "once") == digest(out)


def without_shards(pool: Path, place: Path, *, folder: bool = True) -> Path:
    shutil.copytree(pool, place)
    shutil.rmtree(place / "shards")
    if folder:
        (place / "shards").mkdir()
    return place


@pytest.mark.parametrize("folder", [True, False])
def test_metadata_is_filtered_before_the_shards_are_there_and_goes_on_after(tmp_path: Path, *, folder: bool) -> None:
    pool = rotten_pool(tmp_path / "pool")
    early = without_shards(pool, tmp_path / "early", folder=folder)
    out, chosen = tmp_path / "run", settings_of(early)
    done = run(out, chosen, last="filter", workers=2)
    assert list(done) == ["filter"]
    assert done["filter"].subset is None
    assert uids(out / "subset_metadata.npy") == expected(PASSING)
    for name in ("subset.npy", "fates.parquet", "index"):
        assert not (out / name).exists()
    assert any("has no shards yet" in note for note in done["filter"].notes)
    assert any("1 of 25 metadata rows" in note and "in no subset" in note for note in done["filter"].notes)
    assert "subset" not in json.loads((out / "manifest.json").read_bytes())
    assert run(out, chosen, first="filter", last="filter") == done, "the stage alone is the same"

    with pytest.raises(PoolError, match=r"no .tar file.*--to filter says which samples are wanted"):
        run(out, chosen)

    before = (out / "filter/outcomes.npy").stat().st_mtime_ns
    shutil.copytree(pool / "shards", early / "shards", dirs_exist_ok=True)
    with pytest.raises(RunError, match="stage index has not been run yet"):
        run(out, chosen, first="reshard")
    summaries = run(out, chosen)
    assert summaries["filter"].subset == COUNT
    assert (out / "filter/outcomes.npy").stat().st_mtime_ns == before, "the rows were not asked again"
    run(tmp_path / "late", chosen)
    assert digest(out) == digest(tmp_path / "late")

    shutil.rmtree(early / "shards")
    with pytest.raises(PoolError, match=r"no \.tar file"):  # what was made of shards is not undone where they are gone
        run(out, chosen, last="filter")


def test_side_by_side_pools_without_shards(tmp_path: Path) -> None:
    pool = rotten_pool(tmp_path / "pool")
    run(tmp_path / "run", settings_of(pool / "metadata"), last="filter")
    assert uids(tmp_path / "run/subset_metadata.npy") == expected(PASSING)


def test_what_needs_pictures_is_refused_before_any_work(tmp_path: Path) -> None:
    early = without_shards(rotten_pool(tmp_path / "pool"), tmp_path / "early")
    sets = evalset(tmp_path / "sets", "first", {"s0": picture(901)})
    out = tmp_path / "run"

    def refused(error: type[Exception], words: str, last: str | None = "filter", **more: Any) -> None:
        with pytest.raises(error, match=words):
            run(out, settings_of(early, **more), last=last)
        assert not out.exists()

    refused(FilterError, "found by looking at pictures.*no shards yet", filter="~contaminated", evalsets=str(sets))
    refused(
        PoolError, "--features computes clip_l14_similarity_score from pictures", features={"l14": "ViT-L-14:openai"}
    )
    for last in ("index", "decontaminate", "reshard", None):
        refused(PoolError, "no .tar file", last=last)
    (early / "metadata/00000000.parquet").unlink()
    (early / "metadata/00000001.parquet").unlink()
    (early / "metadata/00000002.parquet").unlink()
    bad = pq.read_table(early / "metadata/00000003.parquet")
    none = pa.array(["no uid"] * bad.num_rows)
    pq.write_table(bad.set_column(0, "uid", none), early / "metadata/00000003.parquet")
    with pytest.raises(PoolError, match="none of the 10 metadata rows has a uid"):
        run(out, settings_of(early), last="filter")


def test_a_training_that_nothing_scores_says_so(tmp_path: Path) -> None:
    trained = TrainingSummary(model="", checkpoint="")
    summaries: dict[str, Any] = {"train": trained, "report": trained}
    assert "not scored: no evaluation sets were given (--evalsets DIR)" in _closing_lines(tmp_path, summaries)
    del summaries["report"]  # it was not to go that far
    assert not [line for line in _closing_lines(tmp_path, summaries) if "not scored" in line]


def test_the_default_filter_says_what_it_leaves_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    early = without_shards(rotten_pool(tmp_path / "pool"), tmp_path / "early")
    sets = evalset(tmp_path / "sets", "first", {"s0": picture(901)})
    words = ["--pool", str(early), "--evalsets", str(sets), "--out", str(tmp_path / "run"), "--to", "filter", "--quiet"]
    assert main([*words, "--dry-run"]) == 0
    plan = capsys.readouterr().out
    assert "0 shards" in plan
    assert "index " not in plan
    assert main(words) == 0
    text = capsys.readouterr().out
    assert "of 25 metadata rows pass the filter (subset_metadata.npy)" in text
    assert "~contaminated is left out of the default filter until the shards are there" in text
    assert "fates" not in text


def test_older_summaries_are_read(tmp_path: Path) -> None:
    """A run directory that was made before there was a metadata subset gets it, and no row is asked again."""
    pool = rotten_pool(tmp_path / "pool")
    out = tmp_path / "run"
    run(out, settings_of(pool))
    before = digest(out), {p: p.stat().st_mtime_ns for p in [*(out / "shards").iterdir(), out / "filter/outcomes.npy"]}
    (out / "subset_metadata.npy").unlink()
    shutil.rmtree(out / "state/filter/subset_metadata")
    stored = json.loads((out / "state/settings.json").read_bytes())
    del stored["keep_repeats"]
    (out / "state/settings.json").write_text(json.dumps(stored))
    run(out, settings_of(pool))
    assert uids(out / "subset_metadata.npy") == expected(PASSING)
    assert (digest(out), {p: p.stat().st_mtime_ns for p in before[1]}) == before
