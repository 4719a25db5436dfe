"""Run directories: what they refuse, what they leave alone, and that no stage stands on stale or half-made input."""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from dcfast.errors import CorruptDataError, PoolError, RunError
from dcfast.run.workflow import main, run
from dcfast.rundir.settings import Settings
from dcfast.uids.sets import save_subset, uid_parse
from pool_builder import evalset, picture, plain_pool, uid_of

SMALL = {"rows": 300, "rows_per_shard": 100, "eval_scale": 0.1, "teacher_pairs": 100}


def go(pool: Path, out: Path, **changes: Any) -> dict[str, Any]:
    chosen = {"pool": str(pool), "filter": "no_filter", "train": False, **changes}
    return run(out, Settings(**chosen), last="verify")


@pytest.mark.parametrize("where", ["pool", "shards", "below shards", "linked shards", "run inside a run"])
def test_output_that_would_write_over_its_input_is_refused(tmp_path: Path, where: str) -> None:
    pool = plain_pool(tmp_path / "pool").write()
    out = {"pool": pool, "shards": pool / "shards", "below shards": pool / "shards/run"}.get(where, tmp_path / "run")
    if where == "linked shards":
        out.mkdir()
        (out / "shards").symlink_to(pool / "shards")
    if where == "run inside a run":
        shutil.move(pool, out / "shards")
        pool = out / "shards"
    before = {p: p.read_bytes() for p in (pool / "shards").glob("*.tar")}
    with pytest.raises(RunError, match=r"would write into --pool .*choose another directory"):
        run(out, Settings(pool=str(pool), filter="no_filter"), overwrite=True)
    assert {p: p.read_bytes() for p in (pool / "shards").glob("*.tar")} == before
    assert sorted(p.name for p in pool.iterdir()) == ["metadata", "shards"]


def test_overwrite_leaves_what_is_not_its_own(tmp_path: Path) -> None:
    pool = plain_pool(tmp_path / "pool").write()
    (tmp_path / "home/.cache/.tmp-mine").mkdir(parents=True)
    (tmp_path / "home/.cache/.tmp-mine/file").write_text("not of a run")
    run(tmp_path / "home", Settings(pool=str(pool), filter="no_filter"), last="index", overwrite=True)
    assert (tmp_path / "home/.cache/.tmp-mine/file").exists()


def test_typo_claims_no_directory(tmp_path: Path) -> None:
    pool = plain_pool(tmp_path / "pool").write()
    words = ["--pool", str(pool), "--out", str(tmp_path / "run"), "--workers", "1", "--to", "index", "--quiet"]
    assert main([*words, "--filter", "basic_fitler"]) == 1
    assert main([*words, "--filter", "no_filter"]) == 0
    assert main([*words, "--filter", "no_fitler", "--overwrite"]) == 1
    assert main([*words, "--filter", "no_filter"]) == 0


def test_other_settings_redo_what_from_would_skip(tmp_path: Path) -> None:
    pool = plain_pool(tmp_path / "pool").write()
    go(pool, tmp_path / "run", filter="no_filter")
    save_subset(tmp_path / "one.npy", uid_parse([uid_of(1)])[0])
    other = Settings(pool=str(pool), filter=f'"{tmp_path}/one.npy"')
    with pytest.raises(RunError, match="stage index has not been run yet"):
        run(tmp_path / "run", other, first="reshard", overwrite=True)
    assert run(tmp_path / "run", other, last="reshard", overwrite=True)["reshard"].samples == 1


def test_world_stage_with_a_pool_is_refused(tmp_path: Path) -> None:
    pool = plain_pool(tmp_path / "pool").write()
    with pytest.raises(ValueError, match="stage world renders the built-in world"):
        run(tmp_path / "run", Settings(pool=str(pool)), last="world")


@pytest.mark.parametrize("folder", ["shards", "metadata"])
def test_file_name_that_is_not_utf8_is_named(tmp_path: Path, folder: str) -> None:
    pool = plain_pool(tmp_path / "pool").write()
    path = next((pool / folder).iterdir())
    path.rename(path.with_name(os.fsdecode(b"bad\xff" + os.fsencode(path.suffix))))
    with pytest.raises(PoolError, match=r"bad\\xff\.(tar|parquet).* is not UTF-8; rename"):
        go(pool, tmp_path / "run")


def test_score_column_missing_in_a_later_file(tmp_path: Path) -> None:
    pool = plain_pool(tmp_path / "pool").write(lambda rows: {"clip_l14_similarity_score": [0.1] * len(rows)})
    path = pool / "metadata/00000002.parquet"
    pq.write_table(pq.read_table(path).drop_columns(["clip_l14_similarity_score"]), path)
    with pytest.raises(PoolError, match=r"clip_score\(l14.*'clip_l14_similarity_score': .*00000002\.parquet"):
        go(pool, tmp_path / "run", filter="clip_score(l14, fraction=0.3)")


def test_half_rendered_world_is_finished_before_it_is_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that was killed while it rendered must not go on with the shards that were there when it began again."""
    from dcfast.stages import world

    done = []

    def killed(out: Path, **arguments: Any) -> world.Rendered:
        if done:
            raise KeyboardInterrupt
        done.append(arguments)
        return rendered(out, **arguments)

    rendered = world.render.function
    with monkeypatch.context() as patch:
        patch.setattr(world.render, "function", killed)
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "run", Settings(world=SMALL), last="index")
    assert len(list((tmp_path / "run/world/pool/shards").glob("*.tar"))) == 1
    summaries = run(tmp_path / "run", Settings(world=SMALL), last="index")
    assert summaries["index"].samples == summaries["world"].samples
    assert summaries["index"].shards == 3


@pytest.mark.long
def test_world_of_another_seed_is_indexed_anew(tmp_path: Path) -> None:
    """The world's files have fixed times and padded sizes: another seed must show all the same."""
    run(tmp_path / "run", Settings(world=SMALL), last="signatures")
    run(tmp_path / "run", Settings(world=SMALL, seed=1), last="signatures", overwrite=True)
    run(tmp_path / "fresh", Settings(world=SMALL, seed=1), last="signatures")
    names = [p.relative_to(tmp_path / "run") for p in sorted((tmp_path / "run").glob("*/*")) if p.suffix != ".json"]
    names = [n for n in names if n.parts[0] in ("index", "signatures")]
    assert len(names) > 10
    for name in names:
        assert (tmp_path / "run" / name).read_bytes() == (tmp_path / "fresh" / name).read_bytes(), name


def test_a_stage_that_redoes_work_makes_later_ones_not_run(tmp_path: Path) -> None:
    pool = plain_pool(tmp_path / "pool").write()
    go(pool, tmp_path / "run")
    chosen = Settings(pool=str(pool), filter="no_filter", train=False)
    run(tmp_path / "run", chosen, last="filter")
    assert (tmp_path / "run/state/verify.json").exists(), "nothing was redone"
    path = pool / "metadata/00000001.parquet"
    pq.write_table(pq.read_table(path).slice(1), path)
    run(tmp_path / "run", chosen, last="filter")
    assert not (tmp_path / "run/state/verify.json").exists()
    with pytest.raises(RunError, match="stage reshard has not been run yet"):
        run(tmp_path / "run", chosen, first="verify")
    assert run(tmp_path / "run", chosen)["verify"].kept == 11


def test_shard_that_changed_after_it_was_indexed_is_named(tmp_path: Path) -> None:
    pool = plain_pool(tmp_path / "pool").write()
    chosen = Settings(pool=str(pool), filter="no_filter", train=False)
    run(tmp_path / "run", chosen, last="index")
    os.utime(pool / "shards/00000001.tar", (1, 1))
    with pytest.raises(PoolError, match=r"00000001\.tar of .* has changed since it was indexed; run index again"):
        run(tmp_path / "run", chosen, first="signatures")
    go(pool, tmp_path / "run")


def test_damaged_evaluation_set_is_said(tmp_path: Path) -> None:
    pool = plain_pool(tmp_path / "pool").write()
    sets = evalset(tmp_path / "sets", "whole", {"a": picture(900)})
    evalset(sets, "cut", {f"k{i}": picture(901 + i) for i in range(4)})
    evalset(sets, "fewer", {"b": picture(950)})
    (sets / "wds_fewer_test/test/nshards.txt").write_text("3")
    (sets / "wds_empty_test").mkdir()
    tar = sets / "wds_cut_test/test/0.tar"
    tar.write_bytes(tar.read_bytes()[:-20_000])
    chosen = {"pool": str(pool), "evalsets": str(sets), "filter": "no_filter & ~contaminated", "train": False}
    notes = run(tmp_path / "run", Settings(**chosen))["signatures"].notes
    assert [note.partition("; what")[0].partition(" at byte")[0] for note in notes] == [
        "evaluation set cut: 0.tar damaged",
        "evaluation set fewer: nshards.txt says 3 shards, but there are 1",
        "evaluation set wds_empty_test holds no test/*.tar: nothing was compared with it",
    ]
    assert set(notes) <= set(json.loads((tmp_path / "run/report.json").read_text())["notes"])
    with pytest.raises(CorruptDataError, match=r"evaluation set cut, 0\.tar: damaged .*--strict"):
        run(tmp_path / "strict", Settings(**chosen, strict=True))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--filter", "basic_fitler"], "basic_fitler"),
        (["--compare", ")"], r"unexpected '\)'"),
        (["--from", "trian"], "--from must be one of world, .*; got 'trian'"),
        (["--from", "train", "--to", "index"], "--from train comes after --to index"),
        (["--world", "rows=0"], "rows must be at least 1; got 0"),
        (["--engine", "lokal"], "engine must be one of local, ray, slurm; got 'lokal'"),
        (["--workers", "9" * 20], "workers must be at most 4096 processes of this machine; got 9999"),
        (["--world", "rows=3.5"], "rows must be a whole number; got 3.5"),
        (["--world", "rows=true"], "rows must be a whole number; got True"),
        (["--world", "rows=NaN"], "--world takes NAME=NUMBER, e.g. rows=3200; got 'rows=NaN'"),
        (["--world", "flat=1e999"], "--world takes NAME=NUMBER, e.g. rows=3200; got 'flat=1e999'"),
    ],
)
@pytest.mark.parametrize("dry", [[], ["--dry-run"]])
def test_wrong_words_are_said_before_anything_is_done(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str, dry: list[str]
) -> None:
    out = tmp_path / "run"
    assert main(["--out", str(out), *words, *dry]) == (1 if words[0] in ("--filter", "--compare") else 2)
    assert re.search(message, capsys.readouterr().err)
    assert not out.exists()
