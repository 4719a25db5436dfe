"""A command that fails before it made anything says what to do, and leaves nothing in a new --out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import dcfast
import numpy as np
import pytest
from dcfast.index import refresh_index
from dcfast.resharding import cli
from dcfast.run import workflow
from dcfast.rundir.run_dir import open_run
from dcfast.rundir.settings import Settings
from dcfast.train.settings import TrainSource
from dcfast.train.source import prepare_source
from dcfast.uids.sets import save_subset
from pool_builder import plain_pool

Spoil = Callable[[Path], None]
CASES = pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda path: path.symlink_to("gone/7.tar"), "it is a link to gone/7.tar, which is not there: bring that back"),
        (lambda path: path.mkdir(), "it is a directory, and no tar: pack it into one"),
    ],
)


@CASES
def test_a_shard_that_is_none_is_told_with_what_to_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], spoil: Spoil, words: str
) -> None:
    pool = plain_pool(tmp_path / "pool", 4, 1).write()
    spoil(pool / "shards/00000007.tar")
    save_subset(tmp_path / "s.npy", np.empty(0, "u8,u8"))
    out = str(tmp_path / "new/out")
    assert workflow.main(["--pool", str(pool), "--filter", "no_filter", "--no-train", "--quiet", "--out", out]) == 1
    assert cli.main(["-i", str(pool), "-s", str(tmp_path / "s.npy"), "-o", out]) == 1
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 2
    assert all(words in line and str(pool / "shards/00000007.tar") in line for line in said)
    assert not (tmp_path / "new").exists()
    for ask in (
        lambda: refresh_index(tmp_path / "new/ix", pool),
        lambda: dcfast.index_tars(pool / "shards"),
        lambda: prepare_source(TrainSource(shards=str(pool)), tmp_path, 0),
    ):
        with pytest.raises((FileNotFoundError, IsADirectoryError), match=words):
            ask()
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("before", [False, True])
def test_settings_that_stand_alone_go_with_the_failure(tmp_path: Path, before: bool) -> None:
    out = tmp_path / "out"
    if before:
        out.mkdir()

    def fail(more: bool) -> None:
        with open_run(out, Settings()) as run:
            run.lock_settings([])
            if more:
                (out / "index").mkdir()
                (out / "index/segment").write_bytes(b"x")
            raise KeyError

    with pytest.raises(KeyError):
        fail(False)
    assert out.exists() == before
    assert not before or not list(out.iterdir())
    for more in (True, False):  # then they are those of what was made
        with pytest.raises(KeyError):
            fail(more)
        assert (out / "state/settings.json").exists()
