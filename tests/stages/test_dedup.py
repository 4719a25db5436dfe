"""Duplicates of a pool as a command and in a run: which are found, which is kept, the evidence, and what is refused."""

from __future__ import annotations

import io
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from dcfast import cli
from dcfast.dedup.duplicates import DUPLICATE_TABLE, DUPLICATES, duplicate_schema
from dcfast.dedup.records import SIGNATURE_DTYPE
from dcfast.errors import FilterError, PoolError, RunError
from dcfast.images.signatures import FLAT_QUALITY
from dcfast.run import run, run_branch
from dcfast.run.dedup_command import DedupOptions, dedup_pool
from dcfast.rundir.branch import branch_settings
from dcfast.rundir.settings import Settings
from dcfast.rundir.summaries import FilterSummary
from dcfast.stages.dedup import checks, pairs
from dcfast.stages.dedup.pools import Block
from dcfast.storage.parquet import read_table
from dcfast.uids.sets import load_subset, uid_format
from killed_writes import kill_at
from pool_builder import PoolBuilder, Sample, picture, plain_pool, uid_of

METHODS = ["content", "perceptual256", "perceptual"]
GROUPS = {0: [0, 4, 7], 1: [1, 8]}
"""What the pool below holds twice: 4 has the bytes of 0; 7 is a larger form of it, and 8 a smaller one of 1."""


def resized(number: int, size: tuple[int, int], quality: int = 75) -> bytes:
    from PIL import Image

    buffer = io.BytesIO()
    with Image.open(io.BytesIO(picture(number))) as image:
        image.resize(size, Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def flat(shade: int) -> bytes:
    from PIL import Image

    buffer = io.BytesIO()
    Image.new("RGB", (80, 80), (shade, shade, shade)).save(buffer, "JPEG")
    return buffer.getvalue()


def samples() -> list[list[Sample]]:
    copies = {4: picture(0), 7: resized(0, (192, 160)), 8: resized(1, (48, 40)), 9: flat(90), 10: flat(200), 11: b"no"}
    numbers = [Sample(n, jpg=copies.get(n)) for n in range(12)]
    return [numbers[:5], numbers[5:8], numbers[8:]]


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Path:
    def scores(rows: list[dict[str, Any]]) -> dict[str, list[Any]]:
        given = {uid_of(0): 0.3, uid_of(4): 0.9, uid_of(7): 0.1, uid_of(1): None, uid_of(8): -0.5}
        return {"clip_l14_similarity_score": [given.get(row["uid"], 0.2) for row in rows]}

    return PoolBuilder(tmp_path_factory.mktemp("dedup") / "pool", samples()).write(scores)


def dropped(out: Path) -> list[int]:
    numbers = {uid_of(n): n for n in range(40)}
    return sorted(numbers[uid] for uid in uid_format(np.asarray(load_subset(out / DUPLICATES)), as_list=True))


def evidence(out: Path) -> list[dict[str, Any]]:
    table = read_table(out / DUPLICATE_TABLE)
    assert table.schema.names == duplicate_schema().names
    return table.to_pylist()


@pytest.mark.parametrize(
    ("keep", "kept"), [("first", {0: 0, 1: 1}), ("largest", {0: 7, 1: 1}), ("score", {0: 4, 1: 8})]
)
def test_groups_and_the_kept_one(keep: str, kept: dict[int, int], pool: Path, tmp_path: Path) -> None:
    """Each rule keeps another; a null score is below all others; flat and broken pictures are no copies."""
    summary = dedup_pool(DedupOptions(pool=str(pool), out=str(tmp_path / "out"), keep=keep, methods=METHODS, workers=1))
    assert dropped(tmp_path / "out") == sorted(n for group, its in GROUPS.items() for n in its if n != kept[group])
    assert (summary.groups, summary.duplicates, summary.uids, summary.flat, summary.readable) == (2, 3, 3, 2, 11)
    rows = evidence(tmp_path / "out")
    assert [row["uid"] for row in rows] == [uid_of(n) for n in sorted(dropped(tmp_path / "out"))]
    for row in rows:
        group = 0 if row["uid"] in map(uid_of, GROUPS[0]) else 1
        assert row["group"] == group
        assert row["kept_uid"] == uid_of(kept[group])
        assert (row["kept_pool"], row["link_pool"]) == (None, None)
        alike = {row["uid"], row["link_uid"]} == {uid_of(0), uid_of(4)}
        assert (row["method"] == "content") == alike
        assert row["score"] is None
        assert row["distance"] == 0 if alike else row["distance"] <= 31
        assert row["steps"] == (1 if row["link_uid"] == row["kept_uid"] else 2)
    if keep == "score":
        assert any("1 samples that are alike others have no score" in note for note in summary.notes)


def command(pool: Path) -> list[str]:
    return ["dedup", str(pool), "--methods", "content", "perceptual", "--max-distance", "6", "--quiet"]


def test_command_says_what_it_found_and_goes_on(pool: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The same bytes after the tables were lost, and by two workers in another place."""
    words = [*command(pool), "--keep", "first"]
    out = tmp_path / "out"
    assert cli.main([*words, "--out", str(out)]) == 0
    said = capsys.readouterr().out
    assert "3 duplicates (" in said
    assert "1 by content" in said
    assert "in 2 groups" in said
    before = {name: (out / name).read_bytes() for name in (DUPLICATES, DUPLICATE_TABLE)}
    (out / DUPLICATES).unlink()
    shutil.rmtree(out / "state/dedup/edges")
    assert cli.main([*words, "--out", str(out)]) == 0
    assert cli.main([*words, "--out", str(tmp_path / "other"), "--workers", "2"]) == 0
    for name, content in before.items():
        assert (out / name).read_bytes() == content
        assert (tmp_path / "other" / name).read_bytes() == content
    # the stage of the run that stands there
    assert cli.main(["dedup", "--out", str(out), "--quiet"]) == 0
    assert cli.main(["filter", "--out", str(out), "--quiet"]) == 0
    assert dropped(out) == [4, 7, 8]
    assert "not kept, the commonest reasons" in capsys.readouterr().out


@pytest.mark.slow
def test_a_killed_one_goes_on_where_it_was(pool: Path, tmp_path: Path) -> None:
    """Killed by SIGKILL before the n-th file gets its name, in one directory; the end is that of one that was not."""
    words = [*command(pool), "--workers", "1"]
    assert cli.main([*words, "--out", str(tmp_path / "whole")]) == 0
    assert dropped(tmp_path / "whole")
    words += ["--out", str(tmp_path / "out")]
    assert kill_at((1, 12, 5, 9, 7), words) >= 4
    assert cli.main(words) == 0
    for name in (DUPLICATES, DUPLICATE_TABLE):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name
    assert not list((tmp_path / "out").rglob(".tmp-*"))


def test_blocks_change_nothing(pool: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from dcfast.stages.dedup import pools

    options = DedupOptions(pool=str(pool), out=str(tmp_path / "one"), methods=["content", "perceptual"], workers=1)
    dedup_pool(options)
    monkeypatch.setattr(pools, "BLOCK_ROWS", 3)
    dedup_pool(DedupOptions(**{**vars(options), "out": str(tmp_path / "many")}))
    assert len(list((tmp_path / "many/state/dedup/edges").iterdir())) > len(
        list((tmp_path / "one/state/dedup/edges").iterdir())
    )
    for name in (DUPLICATES, DUPLICATE_TABLE):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "many" / name).read_bytes()


def test_older_pools_win(pool: Path, tmp_path: Path) -> None:
    """What an older pool has is dropped here, however large or good it is; its own copies are not looked for."""
    older = PoolBuilder(
        tmp_path / "earlier",
        [[Sample(20, jpg=resized(0, (64, 53))), Sample(21), Sample(22, jpg=picture(21)), Sample(23, jpg=picture(5))]],
    ).write()
    oldest = PoolBuilder(tmp_path / "oldest", [[Sample(30, jpg=picture(5)), Sample(31)]]).write()
    options = DedupOptions(
        pool=str(pool),
        against=[str(oldest), str(older)],
        out=str(tmp_path / "out"),
        keep="first",
        methods=METHODS,
        workers=1,
    )
    summary = dedup_pool(options)
    assert dropped(tmp_path / "out") == [0, 4, 5, 7, 8]
    assert (summary.older, summary.of_older, summary.groups) == (["oldest", "earlier"], 4, 3)
    kept = {row["uid"]: (row["kept_pool"], row["kept_uid"]) for row in evidence(tmp_path / "out")}
    assert kept[uid_of(5)] == ("oldest", uid_of(30))
    assert {kept[uid_of(n)] for n in (0, 4, 7)} == {("earlier", uid_of(20))}
    assert kept[uid_of(8)] == (None, uid_of(1))


def test_the_same_samples_in_an_older_pool(pool: Path, tmp_path: Path) -> None:
    """A uid that both pools have is dropped from the new one."""
    older = PoolBuilder(tmp_path / "older", [[Sample(0), Sample(3)]]).write()
    options = DedupOptions(pool=str(pool), against=[str(older)], out=str(tmp_path / "out"), methods=METHODS, workers=1)
    dedup_pool(options)
    assert dropped(tmp_path / "out") == [0, 3, 4, 7, 8]


def test_a_uid_twice_in_the_pool_is_no_duplicate(tmp_path: Path) -> None:
    """Dropping it by its uid would drop the kept one, too."""
    pool = PoolBuilder(
        tmp_path / "pool", [[Sample(0), Sample(1)], [Sample(0, listed=False), Sample(2, jpg=picture(1))]]
    )
    summary = dedup_pool(DedupOptions(pool=str(pool.write()), out=str(tmp_path / "out"), workers=1, keep="first"))
    assert dropped(tmp_path / "out") == [2]
    assert summary.repeats == 1
    assert any("1 copies have the uid of another sample that stays" in note for note in summary.notes)


@pytest.mark.parametrize(("expression", "reason"), [("~duplicate", "duplicate"), ("duplicate", "not (duplicate)")])
def test_a_filter_asks_for_it(expression: str, reason: str, pool: Path, tmp_path: Path) -> None:
    """Then the stage comes before the filter, and its reason is a reason like any other."""
    settings = Settings(pool=str(pool), train=False, filter=expression, dedup_keep="first", dedup_methods=METHODS)
    summaries = run(tmp_path / "out", settings, last="filter")
    assert "dedup" in summaries
    chosen = summaries["filter"]
    assert isinstance(chosen, FilterSummary)
    lost = 3 if expression == "~duplicate" else 9
    assert chosen.metadata_outcomes == {"kept": 12 - lost, reason: lost}
    fates = read_table(tmp_path / "out/fates.parquet").to_pylist()
    # one of the samples is broken, and that comes first
    assert sum(row["reason"] == reason for row in fates) == (3 if expression == "~duplicate" else 8)


def test_no_filter_asks_for_it(pool: Path, tmp_path: Path) -> None:
    summaries = run(tmp_path / "out", Settings(pool=str(pool), train=False, filter="no_filter"), last="filter")
    assert "dedup" not in summaries
    assert not (tmp_path / "out" / DUPLICATES).exists()


def embedded(root: Path, width: int = 16, dtype: str = "float16", spoil: bool = False) -> Path:
    """A pool of other pictures with npz files: samples 3 and 6 have nearly the embedding of 2."""
    built = plain_pool(root, 9, 3)
    place = built.write()
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((9, width))
    for row in (3, 6):
        vectors[row] = vectors[2] + 0.02 * rng.standard_normal(width)
    if spoil:
        vectors[5] = 0
        vectors[8, 0] = np.nan
    for number in range(3):
        rows = vectors[3 * number : 3 * number + 3].astype(dtype)
        np.savez(place / "metadata" / f"{number:08d}.npz", l14_img=rows)
    return place


@pytest.mark.parametrize("block", [1 << 18, 2])
def test_embeddings(block: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from dcfast.stages.dedup import embeddings

    monkeypatch.setattr(embeddings, "BLOCK_ROWS", block)
    pool = embedded(tmp_path / "pool", spoil=True)
    options = DedupOptions(pool=str(pool), out=str(tmp_path / "out"), methods=["semantic"], workers=1)
    summary = dedup_pool(options)
    assert dropped(tmp_path / "out") == [3, 6]
    rows = evidence(tmp_path / "out")
    assert {row["kept_uid"] for row in rows} == {uid_of(2)}
    assert all(row["score"] >= 0.95 and row["distance"] is None for row in rows)
    assert (summary.embedded, summary.invalid_embeddings, summary.links) == (7, 2, {"semantic": 2})


def test_refused(pool: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def tried(**options: Any) -> DedupOptions:
        return DedupOptions(**{"pool": str(pool), "out": str(tmp_path / "no"), "workers": 1, **options})

    for options, error, words in (
        ({"methods": ["semantic"]}, PoolError, "need the array 'l14_img'"),
        ({"keep": "score", "score": "beauty"}, PoolError, "--keep score needs the column 'beauty'"),
        ({"keep": "score", "score": "text"}, PoolError, "must be"),
        ({"against": [str(tmp_path / "nowhere")]}, PoolError, "no such directory"),
        ({"against": [str(pool)]}, ValueError, "is the pool itself"),
        ({"out": str(pool)}, RunError, "would write into --pool"),
    ):
        with pytest.raises(error, match=words):
            dedup_pool(tried(**options))
    assert not (tmp_path / "no").exists()
    for words, said in (
        (["--max-distance", "65"], "must be 0 to 64"),
        (["--max-distance-256", "-1"], "must be 0 to 256"),
        (["--similarity", "nan"], "must be -1 to 1"),
        (["--methods", "magic"], "--methods must be one of content, perceptual256, perceptual, semantic"),
        (["--keep", "best"], "--keep must be one of largest, score, first"),
    ):
        assert cli.main(["dedup", str(pool), "--out", str(tmp_path / "no"), *words]) == 2
        assert said in capsys.readouterr().err


def test_every_file_has_the_scores(tmp_path: Path) -> None:
    """A file that lacks them must not give those of another column."""
    place = PoolBuilder(tmp_path / "pool", [[Sample(0)], [Sample(1, jpg=picture(0))]]).write(
        lambda rows: {"clip_l14_similarity_score": [0.5] * len(rows)}
    )
    lacking = sorted((place / "metadata").glob("*.parquet"))[-1]
    pq.write_table(read_table(lacking).drop_columns(["clip_l14_similarity_score"]), lacking)
    with pytest.raises(PoolError, match=f"needs the column 'clip_l14_similarity_score', once: .*{lacking.name}"):
        dedup_pool(DedupOptions(pool=str(place), out=str(tmp_path / "out"), keep="score", workers=1))
    assert not (tmp_path / "out").exists()


def test_each_hash_has_its_own_rule_of_flatness(tmp_path: Path) -> None:
    records = np.zeros(4, SIGNATURE_DTYPE)
    records["flat"], records["quality"] = [0, 1, 0, 1], [FLAT_QUALITY, FLAT_QUALITY, FLAT_QUALITY - 1, 0]
    np.save(tmp_path / "signed.npy", records)
    block = Block([0], ["signed.npy"], is_old=False)
    assert pairs._hashed(tmp_path, block, "perceptual256").numbers.tolist() == [0, 1]
    assert pairs._hashed(tmp_path, block, "perceptual").numbers.tolist() == [0, 2]
    seen = pairs.sort_contents(tmp_path, block, "contents.npy")
    assert (seen.readable, seen.flat, seen.flat256) == (4, 2, 2)


def test_embeddings_that_do_not_fit(tmp_path: Path) -> None:
    pool, other = embedded(tmp_path / "pool"), embedded(tmp_path / "other", width=8)
    options = {"out": str(tmp_path / "out"), "methods": ["semantic"], "workers": 1}
    with pytest.raises(PoolError, match=r"8 columns in .*other.*, and 16 in .*pool"):
        dedup_pool(DedupOptions(pool=str(pool), against=[str(other)], **options))  # type: ignore[arg-type]
    assert not (tmp_path / "out").exists(), "found before any work"
    (other / "metadata/00000002.npz").unlink()
    with pytest.raises(PoolError, match=r"need the array 'l14_img' of .*other/metadata/00000002.npz"):
        dedup_pool(DedupOptions(pool=str(other), **options))  # type: ignore[arg-type]
    np.savez(pool / "metadata/00000002.npz", l14_img=np.ones((2, 16), np.float16))
    with pytest.raises(PoolError, match="has 2 rows and"):
        dedup_pool(DedupOptions(pool=str(pool), **{**options, "out": str(tmp_path / "again")}))  # type: ignore[arg-type]


def test_a_model_that_makes_embeddings_of_another_width(tmp_path: Path) -> None:
    """Said before the pool is embedded; what the teacher makes is not known so early."""
    npzs = [str(path) for path in (embedded(tmp_path / "older") / "metadata").glob("*.npz")]
    with pytest.raises(PoolError, match=r"16 columns in .*older.*, and 512 in what ViT-B-32:openai makes: compute all"):
        checks.check_embeddings(npzs, "l14_img", "ViT-B-32:openai")
    checks.check_embeddings(npzs, "l14_img", "teacher")


def test_nothing_to_find(tmp_path: Path) -> None:
    """Pictures that cannot be read, embeddings that are zero: the files are there, and empty."""
    pool = PoolBuilder(tmp_path / "pool", [[Sample(n, jpg=b"no picture") for n in range(3)]]).write()
    np.savez(pool / "metadata/00000000.npz", l14_img=np.zeros((3, 8), np.float32))
    for methods in (["semantic"], ["content", "perceptual256", "perceptual", "semantic"]):
        out = tmp_path / "-".join(methods)
        summary = dedup_pool(DedupOptions(pool=str(pool), out=str(out), methods=methods, workers=1))
        assert (summary.duplicates, summary.groups, summary.readable, summary.links) == (0, 0, 0, {})
        assert dropped(out) == evidence(out) == []
    with pytest.raises(ValueError, match="--methods must be one of content"):
        dedup_pool(DedupOptions(pool=str(pool), out=str(tmp_path / "no"), methods=["magic"]))


def test_a_run_on_metadata_alone_refuses_the_term(pool: Path, tmp_path: Path) -> None:
    place = tmp_path / "pool"
    shutil.copytree(pool / "metadata", place / "metadata")
    with pytest.raises(FilterError, match="uses duplicate, which is found by looking at pictures"):
        run(tmp_path / "out", Settings(pool=str(place), train=False, filter="~duplicate"), last="filter")


def test_a_branch_takes_the_duplicates_of_its_base(pool: Path, tmp_path: Path) -> None:
    """As the cells of a study and the comparison run do."""
    settings = Settings(pool=str(pool), train=False, filter="no_filter", dedup=True, dedup_methods=METHODS)
    run(tmp_path / "base", settings, last="dedup")
    branch = branch_settings(settings, "~duplicate")
    summaries = run_branch(tmp_path / "base", settings, tmp_path / "branch", branch, last="filter")
    chosen = summaries["filter"]
    assert isinstance(chosen, FilterSummary)
    assert chosen.metadata_outcomes == {"kept": 9, "duplicate": 3}
    assert (tmp_path / "branch" / DUPLICATES).samefile(tmp_path / "base" / DUPLICATES)
    without = replace(settings, dedup=False)
    run(tmp_path / "without", without, last="dedup")
    with pytest.raises(RunError, match="has not looked for duplicates: run dedup first"):
        run_branch(
            tmp_path / "without", without, tmp_path / "other", branch_settings(without, "~duplicate"), last="filter"
        )


def test_why_a_sample_was_dropped(pool: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = Settings(pool=str(pool), train=False, filter="~duplicate", dedup_methods=METHODS, dedup_keep="first")
    run(tmp_path / "out", settings, last="filter")
    assert cli.main(["why", uid_of(4), "--out", str(tmp_path / "out")]) == 0
    said = capsys.readouterr().out
    assert "the picture is a copy of another one" in said
    assert "of 00000000.tar/000000000: identical bytes" in said
    assert cli.main(["why", uid_of(0), "--out", str(tmp_path / "out")]) == 0
    assert not any(line.startswith("duplicate") for line in capsys.readouterr().out.splitlines())
