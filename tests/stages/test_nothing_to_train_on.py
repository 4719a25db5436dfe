"""Where nothing can be trained on, the message gives the commonest reason."""

from __future__ import annotations

from pathlib import Path

import pytest
from dcfast.errors import NothingKeptError, SubsetError
from dcfast.process.exit_codes import FAILED, LOST
from dcfast.run.workflow import main, run
from dcfast.rundir.settings import Settings
from dcfast.train.settings import TrainSource
from dcfast.train.source import OpenSource, prepare_source
from pool_builder import PoolBuilder, Sample, uid_of
from tar_reference import GIF, make_tar


def test_a_filter_that_keeps_nothing(tmp_path: Path) -> None:
    samples = [Sample(n, caption="two words") for n in range(5)] + [Sample(5, without=("jpg",))]
    pool = PoolBuilder(tmp_path / "pool", [samples], missing=[90]).write()
    changes = {"global_batch": 4}
    settings = Settings(pool=str(pool), filter="basic_filter", compare="none", device="cpu", overrides=changes)
    with pytest.raises(NothingKeptError) as caught:
        run(tmp_path / "run", settings)
    said = str(caught.value)
    assert "the filter 'basic_filter' kept no sample (0 kept, 5 dropped, 1 quarantined, 1 missing, 0 unlisted)" in said
    assert "words' dropped the most, 5 of the 5 samples that came to the filter; the commonest" in said
    reasons, _, todo = said.partition("the commonest reasons: ")[2].partition(". What to do: ")
    assert todo == "the filter dropped them: try another --filter, or no_filter"
    reasons = reasons.split(", ")
    assert reasons[0].endswith("(5)")
    assert reasons[1:] == ["metadata rows without a sample (1)", "no picture (1)"]


@pytest.mark.parametrize(("kept", "status"), [(0, LOST), (3, FAILED)])
def test_fewer_than_a_batch_name_the_rule_and_say_what_a_run_says_at_its_end(
    kept: int, status: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    samples = [Sample(n, caption="a longer caption" if n < kept else "two words") for n in range(9)]
    pool = PoolBuilder(tmp_path / "pool", [samples], missing=[90, 91]).write()
    words = [
        "--pool",
        str(pool),
        "--out",
        str(tmp_path / "run"),
        "--filter",
        "words >= 3",
        "--device",
        "cpu",
        "--quiet",
    ]
    assert main([*words, "--compare", "none", "--set", "global_batch=4", "--workers", "1"]) == status
    *outcome, error = capsys.readouterr().err.splitlines()
    assert f"'words >= 3' dropped the most, {9 - kept} of the 9 samples that came to the filter" in error
    if kept:
        assert "kept 3 samples, fewer than one batch of 4" in error
        assert error.endswith("try another --filter, or no_filter; or take a smaller batch (--set global_batch=2)")
    assert outcome == [
        f"{kept + 2} of 11 metadata rows pass the filter (subset_metadata.npy)",
        f"fates: {kept} kept, {9 - kept} dropped, 0 quarantined, 2 missing, 0 unlisted",
        f"not kept, the commonest reasons: words >= 3 ({9 - kept}); metadata rows without a sample (2)",
    ]


@pytest.mark.parametrize(
    ("members", "message"),
    [
        (
            [(f"{i}.{e}", GIF) for i in range(3) for e in ("input.jpg", "outputs.txt")],
            r"3 have no caption \(.*input\.jpg, outp",
        ),
        ([(f"{i}.txt", b"words") for i in range(3)], "3 have no picture"),
        (
            [(f"img.{i}.{e}", GIF) for i in range(3) for e in ("jpg", "txt")],
            "1 have no caption .*ends at the first dot",
        ),
        ([("jpg", GIF), ("txt", b"words")], "hold no sample: .*no member belongs to a sample"),
    ],
)
def test_shards_of_samples_that_are_none(tmp_path: Path, members: list[tuple[str, bytes]], message: str) -> None:
    (tmp_path / "s").mkdir()
    make_tar(tmp_path / "s/0.tar", members)
    with pytest.raises(SubsetError, match=message):
        prepare_source(TrainSource(shards=str(tmp_path / "s")), tmp_path, 0)


def test_samples_without_uids_are_told_apart(tmp_path: Path) -> None:
    """Their keys stand in for uids, so that a training does not go on with others of the same number."""
    prints = []
    for name, first in (("a", 0), ("b", 100), ("c", 0)):
        (tmp_path / name).mkdir()
        make_tar(tmp_path / name / "0.tar", [(f"{first + i}.{e}", GIF) for i in range(3) for e in ("jpg", "txt")])
        for _ in range(2):  # made, and found again
            source = OpenSource(prepare_source(TrainSource(shards=str(tmp_path / name)), tmp_path / name, 0))
            prints.append(source.fingerprint())
    assert prints[0] == prints[1] == prints[4] == prints[5] != prints[2] == prints[3]
    (tmp_path / "d").mkdir()
    make_tar(tmp_path / "d/0.tar", [("k.jpg", GIF), ("k.txt", b"w"), ("k.json", b'{"uid": "%s"}' % uid_of(1).encode())])
    files = prepare_source(TrainSource(shards=str(tmp_path / "d")), tmp_path / "d", 0)
    assert OpenSource(files).reader.segments[0].uid_hex().to_pylist() == [uid_of(1)]
