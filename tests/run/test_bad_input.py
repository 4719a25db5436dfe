"""Bad input gets a clear error and loses nothing: each case names what was wrong, where, and what to do."""

from __future__ import annotations

import errno
import json
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from dcfast import cli
from dcfast.errors import CorruptDataError, FilterError, PoolError, RunError, SubsetError
from dcfast.run.workflow import main, run
from dcfast.rundir.settings import Settings
from dcfast.uids.sets import save_subset, uid_parse, uid_sort
from pool_builder import PoolBuilder, Sample, picture, plain_pool, uid_of


def go(pool: Path, out: Path, **changes: Any) -> dict[str, Any]:
    return run(out, Settings(**{"pool": str(pool), "filter": "no_filter", **changes}), last="verify")


def fates(out: Path) -> list[dict[str, Any]]:
    return pq.read_table(out / "fates.parquet").to_pylist()


def count(out: Path) -> dict[str, int]:
    rows = fates(out)
    return {f: sum(r["fate"] == f for r in rows) for f in ("kept", "dropped", "quarantined", "missing", "unlisted")}


# --- the pool -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("prepare", "message"),
    [
        (lambda p: None, "no such directory"),
        (lambda p: p.mkdir(), "no directory shards/.*dcfast import {} --out {}-pool"),
        (lambda p: (p / "shards").mkdir(parents=True), "shards/ holds no .tar file.*dcfast import {} --out {}-pool"),
        (lambda p: _only_shards(p), "no directory metadata/.*dcfast import {} --out {}-pool"),
        (lambda p: (_only_shards(p), (p / "metadata").mkdir()), "no .parquet file.*dcfast import {} --out {}-pool"),
    ],
)
def test_missing_or_empty_pool(tmp_path: Path, prepare: Any, message: str) -> None:
    prepare(tmp_path / "pool")
    with pytest.raises(PoolError, match=message.format(tmp_path / "pool", tmp_path / "pool")):
        go(tmp_path / "pool", tmp_path / "run")


@pytest.mark.parametrize("name", ["shards/00000000.tar", "shards"])
def test_the_command_that_makes_a_pool_can_be_typed(tmp_path: Path, name: str) -> None:
    place = plain_pool(tmp_path / "a pool", 3, 1).write() / name
    with pytest.raises(PoolError) as caught:
        go(place, tmp_path / "run")
    _, command = str(caught.value).split(" by: ")
    words = shlex.split(command.removesuffix(" (docs/import.md)"))
    assert words == ["dcfast", "import", str(place), "--out", f"{str(place).removesuffix('.tar')}-pool"]
    assert cli.main([*words[1:], "--quiet", "--workers", "1"]) == 0
    assert go(Path(words[-1]), tmp_path / "run")["filter"].fates["kept"] == 3


def _only_shards(pool: Path) -> None:
    plain_pool(pool, 2, 1).write()
    shutil.rmtree(pool / "metadata")


def test_metadata_that_is_no_parquet(tmp_path: Path) -> None:
    pool = plain_pool(tmp_path / "pool").write()
    (pool / "metadata/00000001.parquet").write_bytes(b"PAR1 but not for long")
    with pytest.raises(PoolError, match=r"00000001\.parquet"):
        go(pool, tmp_path / "run", filter="basic_filter")


def test_metadata_lacks_a_column_in_one_file(tmp_path: Path) -> None:
    pool = plain_pool(tmp_path / "pool").write()
    path = pool / "metadata/00000002.parquet"
    pq.write_table(pq.read_table(path).drop_columns(["text"]), path)
    with pytest.raises(PoolError, match=r"filter basic_filter needs the column 'text': .*00000002\.parquet has uid"):
        go(pool, tmp_path / "run", filter="basic_filter")


def test_metadata_without_uid_column(tmp_path: Path) -> None:
    pool = plain_pool(tmp_path / "pool").write()
    path = pool / "metadata/00000001.parquet"
    pq.write_table(pq.read_table(path).drop_columns(["uid"]), path)
    made = f"dcfast import {pool} --out {pool}-pool"
    with pytest.raises(PoolError, match=rf"00000001\.parquet.*no column uid .*a pool with uids made by: {made}\)"):
        go(pool, tmp_path / "run")


def test_column_missing_everywhere_is_said_before_any_work(tmp_path: Path) -> None:
    pool = plain_pool(tmp_path / "pool").write()
    with pytest.raises(PoolError, match="clip_l14_similarity_score"):
        go(pool, tmp_path / "run", filter="clip_score(l14, fraction=0.3)")
    assert not (tmp_path / "run/index").exists()


def test_empty_evaluation_sets(tmp_path: Path) -> None:
    pool = plain_pool(tmp_path / "pool").write()
    (tmp_path / "sets").mkdir()
    with pytest.raises(PoolError, match=r"no wds_\*_test"):
        go(pool, tmp_path / "run", evalsets=str(tmp_path / "sets"))


# --- filters and subset files -----------------------------------------------------------------------


def test_typo_in_a_filter_is_pointed_at(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pool = plain_pool(tmp_path / "pool").write()
    words = ["--pool", str(pool), "--out", str(tmp_path / "run"), "--filter", "no_filter & basic_fitler", "--quiet"]
    assert main(words) == 1
    said = capsys.readouterr().err
    assert "basic_filter" in said
    assert "^" in said
    assert not (tmp_path / "run/index").exists()


@pytest.mark.parametrize(
    ("written", "column"), [("original_width >= 300", "original_width"), ("orignal_height < 9", "original_height")]
)
def test_a_column_that_is_taken_for_a_filter(tmp_path: Path, written: str, column: str) -> None:
    pool = plain_pool(tmp_path / "pool").write()
    with pytest.raises(FilterError) as caught:
        go(pool, tmp_path / "run", compare=f"no_filter & {written}")
    name = written.partition(" ")[0]
    said, text, carets = str(caught.value).split("\n")
    assert said.startswith(f"filter expression: unknown filter {name!r}")
    assert said.endswith(f" (the metadata has the column {column!r}: write column({column}) >= X)")
    assert "known" not in said.removeprefix("filter expression: unknown")
    assert (text.strip(), carets.strip()) == (f"no_filter & {written}", "^" * len(name))
    with pytest.raises(FilterError, match="known: array, basic_filter"):
        go(pool, tmp_path / "run", filter="zzz")


def test_columns_of_the_built_in_world_and_of_features_are_known(tmp_path: Path) -> None:
    with pytest.raises(FilterError, match=r"the metadata has the column 'clip_b32_similarity_score'"):
        run(tmp_path / "run", Settings(filter="clip_b32_similarity_score"))
    pool = plain_pool(tmp_path / "pool").write()
    with pytest.raises(FilterError, match=r"the metadata has the column 'clip_l14_similarity_score'"):
        go(pool, tmp_path / "run", filter="clip_l14_similarity_score > 0.2", features={"l14": "ViT-L-14:openai"})


@pytest.mark.parametrize(
    ("chosen", "option"),
    [
        ("clip_score(b32, threshold=0.2)", "--features b32=ViT-B-32:openai"),
        ("column(clip_l14_similarity_score) >= 1", "--features l14=ViT-L-14:openai"),
        (
            "mix(column(clip_b32_similarity_score), clip_score(b32), fraction=0.3)",
            "--features b32=ViT-B-32:openai",
        ),
        ("s_cliploss(l14, fraction=0.3)", "--features l14=ViT-L-14:openai"),
        ('normsim(b32, target="{}/t.npy", fraction=0.3)', "--features b32=ViT-B-32:openai"),
        ("semdedup(b32, clusters=2, eps=0.05)", "--features b32=ViT-B-32:openai"),
        ("density(l14, total=3, tau=0.5)", "--features l14=ViT-L-14:openai"),
        ('image_based(target="{}/t.npy")', "--features l14=ViT-L-14:openai"),
        ("contaminated", "--evalsets DIR or --signatures FILE"),
        ("teacher_pairs", "--teacher-uids FILE"),
    ],
)
def test_what_a_filter_lacks_is_said_with_the_option_that_brings_it(tmp_path: Path, chosen: str, option: str) -> None:
    pool = plain_pool(tmp_path / "pool").write()
    np.save(tmp_path / "t.npy", np.eye(3, dtype=np.float32))
    with pytest.raises((PoolError, FilterError), match=re.escape(option)):
        go(pool, tmp_path / "run", filter=chosen.format(tmp_path))
    assert not (tmp_path / "run/index").exists()


def test_embeddings_that_dcfast_does_not_make_have_no_option(tmp_path: Path) -> None:
    pool = plain_pool(tmp_path / "pool").write()
    with pytest.raises(PoolError, match=r"x_img and x_txt in .*, which is not there; download the pool's npz$"):
        go(pool, tmp_path / "run", filter="s_cliploss(x, fraction=0.3)")


def test_contaminated_without_evaluation_sets(tmp_path: Path) -> None:
    pool = plain_pool(tmp_path / "pool").write()
    with pytest.raises(FilterError, match="no evaluation sets"):
        go(pool, tmp_path / "run", filter="~contaminated")


def _uids(numbers: list[int]) -> np.ndarray:
    return uid_parse([uid_of(n) for n in numbers])[0]


def test_uid_file_as_a_filter(tmp_path: Path) -> None:
    pool = plain_pool(tmp_path / "pool").write()
    save_subset(tmp_path / "my uids.npy", uid_sort(_uids([1, 5, 7, 99])))
    go(
        pool,
        tmp_path / "run",
        filter=f'"{tmp_path}/my uids.npy" & ~uids("{tmp_path}/my uids.npy") | "{tmp_path}/my uids.npy"',
    )
    assert {r["uid"] for r in fates(tmp_path / "run") if r["fate"] == "kept"} == {uid_of(n) for n in (1, 5, 7)}


@pytest.mark.parametrize("damage", ["unsorted", "dtype", "truncated", "absent", "odd size", "pickle"])
def test_damaged_uid_file(tmp_path: Path, damage: str) -> None:
    pool = plain_pool(tmp_path / "pool").write()
    path = tmp_path / "mine.npy"
    good = uid_sort(_uids(list(range(10))))
    if damage == "unsorted":
        np.save(path, good[::-1])
    elif damage == "dtype":
        np.save(path, np.arange(10, dtype=np.int64))
    elif damage == "truncated":
        save_subset(path, good)
        path.write_bytes(path.read_bytes()[:-20])
    elif damage == "odd size":
        path.write_bytes(good.tobytes()[:-3])
    elif damage == "pickle":
        np.save(path, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    error = FileNotFoundError if damage == "absent" else SubsetError
    with pytest.raises(error, match=r"mine\.npy"):
        go(pool, tmp_path / "run", filter=f'"{path}"')


# --- uids and samples -----------------------------------------------------------------------------


def test_malformed_and_repeated_uids_in_metadata(tmp_path: Path) -> None:
    builder = plain_pool(tmp_path / "pool")

    def columns(rows: list[dict[str, Any]]) -> dict[str, list[Any]]:
        uids = [r["uid"] for r in rows]
        if uids[0] == uid_of(0):
            uids[1], uids[2], uids[3] = "xyz", None, uids[0]
        return {"uid": uids}

    pool = builder.write(columns)
    summary = go(pool, tmp_path / "run")["filter"]
    assert summary.malformed_uids == 2
    assert summary.repeated_in_metadata == 1
    rows = fates(tmp_path / "run")
    bad = [r for r in rows if r["shard"] is None and r["fate"] == "quarantined"]
    assert sorted(r["reason"] for r in bad) == [
        "uid 'xyz' of metadata 00000000.parquet, row 1, is not 32 hex digits",
        "uid None of metadata 00000000.parquet, row 2, is not 32 hex digits",
    ]
    assert sum(r["fate"] == "unlisted" for r in rows) == 3  # the samples whose rows were spoilt
    assert len(rows) == 12 + 2


def test_repeated_uid_in_the_pool_keeps_every_whole_occurrence(tmp_path: Path) -> None:
    import webdataset as wds

    builder = plain_pool(tmp_path / "pool")
    builder.shards[1][0] = Sample(70, uid=uid_of(0), listed=False)
    builder.shards[2][0] = Sample(71, uid=uid_of(0), listed=False, jpg=b"no picture")
    summary = go(builder.write(), tmp_path / "run")["filter"]
    assert summary.repeated_in_pool == 2
    mine = [r for r in fates(tmp_path / "run") if r["uid"] == uid_of(0)]
    assert [r["fate"] for r in mine] == ["kept", "kept", "quarantined"]
    shards = sorted(str(p) for p in (tmp_path / "run/shards").glob("*.tar"))
    keys = [s["__key__"] for s in wds.WebDataset(shards, shardshuffle=False)]
    assert sorted(k for k in keys if k.startswith(uid_of(0))) == [f"{uid_of(0)}-0", f"{uid_of(0)}-1"]


def test_captions_of_every_kind_survive(tmp_path: Path) -> None:
    captions = [
        "ein Hund", "大きな犬が走っている", "كلب كبير", "собака " * 20_000, "two\nlines\tand a tab", "nul \x00 inside",
        "emoji 🐕🦺 and \u202e right to left", "", " ", "\ufeffbom", "a" * 100_000, "combining e\u0301",
    ]  # fmt: skip
    builder = PoolBuilder(tmp_path / "pool", [[Sample(i, caption=c) for i, c in enumerate(captions)]])
    go(builder.write(), tmp_path / "run", filter="basic_filter | ~basic_filter | text_based")
    assert count(tmp_path / "run") == {"kept": 12, "dropped": 0, "quarantined": 0, "missing": 0, "unlisted": 0}
    import tarfile

    with tarfile.open(next((tmp_path / "run/shards").glob("*.tar"))) as tar:
        texts = [tar.extractfile(m).read().decode() for m in tar if m.name.endswith(".txt")]  # type: ignore[union-attr]
    assert texts == captions


def test_odd_pictures(tmp_path: Path) -> None:
    import io

    from PIL import Image

    def encoded(image: Image.Image, fmt: str, **options: Any) -> bytes:
        buffer = io.BytesIO()
        image.save(buffer, fmt, **options)
        return buffer.getvalue()

    with Image.open(io.BytesIO(picture(1))) as base:
        base.load()
        turned = Image.Exif()
        turned[0x0112] = 6
        whole = {
            "cmyk": encoded(base.convert("CMYK"), "JPEG"),
            "grey": encoded(base.convert("L"), "JPEG"),
            "turned": encoded(base, "JPEG", exif=turned),
            "png": encoded(base, "PNG"),
            "webp": encoded(base, "WEBP"),
            "gif": encoded(base, "GIF"),
            "progressive": encoded(base, "JPEG", progressive=True),
        }
    broken = {
        "empty": b"",
        "text": b"<html>404</html>",
        "half": whole["progressive"][: len(whole["progressive"]) // 2],
        "png half": whole["png"][:-200],
        "zeros": bytes(5000),
        "header alone": whole["grey"][:40],
    }
    pictures = [*whole.values(), *broken.values()]
    builder = PoolBuilder(tmp_path / "pool", [[Sample(i, jpg=p) for i, p in enumerate(pictures)]])
    go(builder.write(), tmp_path / "run")
    found = {r["row"]: r for r in fates(tmp_path / "run")}
    for row, name in enumerate([*whole, *broken]):
        assert (found[row]["fate"] == "kept") == (name in whole), (name, found[row])
    assert all(found[r]["reason"].startswith("picture: ") for r in range(len(whole), len(pictures)))


# --- damaged shards ---------------------------------------------------------------------------------


@pytest.mark.parametrize("damage", ["cut", "zero bytes", "not a tar", "gzip", "flipped header"])
def test_damaged_shard_yields_what_is_whole_and_says_so(tmp_path: Path, damage: str) -> None:
    pool = plain_pool(tmp_path / "pool").write()
    shard = pool / "shards/00000001.tar"
    data = bytearray(shard.read_bytes())
    if damage == "cut":
        data = data[: len(data) // 2]
    elif damage == "zero bytes":
        data = bytearray()
    elif damage == "not a tar":
        data = bytearray(b"<Error><Code>AccessDenied</Code></Error>" * 40)
    elif damage == "gzip":
        import gzip

        data = bytearray(gzip.compress(bytes(data)))
    else:
        at = data.index(b"000010002.jpg")
        data[at + 130] ^= 0xFF
    shard.write_bytes(bytes(data))
    summary = go(pool, tmp_path / "run")["filter"]
    assert summary.damaged_shards == 1
    assert summary.damage[0][0] == "00000001.tar"
    quarantine = pq.read_table(tmp_path / "run/quarantine.parquet").to_pylist()
    assert [r["shard"] for r in quarantine if r["row"] is None] == ["00000001.tar"]
    numbers = count(tmp_path / "run")
    assert numbers["kept"] >= 8
    # nothing is lost: a sample the damage hides is a metadata row without a sample, or in quarantine
    assert numbers["kept"] + numbers["missing"] + numbers["quarantined"] >= 12
    with pytest.raises(CorruptDataError, match=r"00000001\.tar"):
        go(pool, tmp_path / "strict", strict=True)


def test_shard_that_vanishes_between_runs_is_named(tmp_path: Path) -> None:
    pool = plain_pool(tmp_path / "pool").write()
    run(tmp_path / "run", Settings(pool=str(pool), filter="no_filter"), last="index")
    (pool / "shards/00000001.tar").unlink()
    summary = go(pool, tmp_path / "run")
    assert summary["index"].samples == 8
    assert count(tmp_path / "run")["missing"] == 4


def test_directory_and_link_among_the_shards(tmp_path: Path) -> None:
    pool = plain_pool(tmp_path / "pool").write()
    (pool / "shards/00000009.tar").mkdir()
    with pytest.raises(OSError, match=r"00000009\.tar") as caught:
        go(pool, tmp_path / "run")
    assert caught.value.errno == errno.EISDIR


# --- the disk -------------------------------------------------------------------------------------


FILL = """
import sys
from pathlib import Path
from dcfast.run import main
words = ["--filter", "no_filter", "--workers", "1", "--to", "verify", "--quiet"]
sys.exit(main(["--pool", sys.argv[1], "--out", sys.argv[2], *words]))
"""


def _can_mount() -> bool:
    probe = "mount -t tmpfs -o size=1m none /mnt && umount /mnt"
    return subprocess.run(["unshare", "-rm", "sh", "-c", probe], capture_output=True, check=False).returncode == 0


@pytest.mark.skipif(not _can_mount(), reason="no right to mount a small file system in a namespace (unshare -rm)")
def test_full_disk_is_said_and_the_run_resumes_elsewhere(tmp_path: Path) -> None:
    builder = PoolBuilder(tmp_path / "pool", [[Sample(10 * s + i) for i in range(10)] for s in range(6)])
    for s, shard in enumerate(builder.shards):
        for i, sample in enumerate(shard):
            sample.jpg = picture(10 * s + i, (400, 300))
    pool = builder.write()
    (tmp_path / "script.py").write_text(FILL)
    (tmp_path / "small").mkdir()
    script = (
        f"mount -t tmpfs -o size=700k none '{tmp_path}/small' && "
        f"'{sys.executable}' '{tmp_path}/script.py' '{pool}' '{tmp_path}/small/run'; code=$?; "
        f"cp -r '{tmp_path}/small/run' '{tmp_path}/kept' 2>/dev/null; exit $code"
    )
    done = subprocess.run(["unshare", "-rm", "sh", "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    assert "space" in done.stderr.lower(), done.stderr
    # what was done is whole, and a run with room goes on to the same end
    go(pool, tmp_path / "kept")
    go(pool, tmp_path / "fresh")
    for name in ("subset.npy", "fates.parquet", "shards/00000000.tar"):
        assert (tmp_path / "kept" / name).read_bytes() == (tmp_path / "fresh" / name).read_bytes()


def test_output_that_cannot_be_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pool = plain_pool(tmp_path / "pool").write()
    (tmp_path / "file").write_text("in the way")
    assert main(["--pool", str(pool), "--out", str(tmp_path / "file"), "--quiet"]) == 1
    assert str(tmp_path / "file") in capsys.readouterr().err


# --- options ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--scale", "smal"], "did you mean 'small'"),
        (["--workers", "0"], "--workers must be at least 1"),
        (["--shard-size", "0"], "--shard-size must be at least 1"),
        (["--max-distance", "65"], "--max-distance must be 0 to 64; got 65"),
        (["--engine", "spark"], "engine must be one of local, ray"),
        (["--from", "filtre"], "--from must be one of"),
        (["--from", "verify", "--to", "index"], "comes after"),
        (["--from", "verify"], "has not been run yet"),
    ],
)
def test_options_out_of_range(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    pool = plain_pool(tmp_path / "pool").write()
    status = main(["--pool", str(pool), "--out", str(tmp_path / "run"), "--quiet", *words])
    assert status == (1 if "has not been run yet" in message else 2)
    assert message in capsys.readouterr().err


def test_a_stage_that_cannot_run_changes_nothing(tmp_path: Path) -> None:
    pool, out = plain_pool(tmp_path / "pool").write(), tmp_path / "run"
    settings = Settings(pool=str(pool), filter="no_filter", train=False)
    for made in (False, True):
        with pytest.raises(RunError, match="stage index has not been run yet"):
            run(out, settings, first="filter", last="filter", overwrite=made)
        assert not (out / "state/settings.json").exists()
    run(out, settings, last="filter")
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    other = replace(settings, filter="basic_filter")
    for _ in range(2):
        with pytest.raises(RunError, match=r"other settings, .* stage index has not been run yet; run it first"):
            run(out, other, first="filter", last="filter", overwrite=True)
        assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before
    assert run(out, settings, first="filter", last="reshard")["reshard"]
    assert run(out, other, overwrite=True, last="filter")["filter"].filter == "basic_filter"


def test_scale_without_pool_prints_a_plan_and_exits_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--scale", "xlarge"]) == 2
    said = capsys.readouterr().err
    assert "12,800,000,000" in said
    assert "450" in said
    assert "GPU-hours" in said


def test_unknown_command_suggests_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    from dcfast import cli

    assert cli.main(["reshrad"]) == 2
    assert "did you mean 'reshard'" in capsys.readouterr().err


def test_json_of_the_report_is_strict(tmp_path: Path) -> None:
    pool = plain_pool(tmp_path / "pool").write()
    run(tmp_path / "run", Settings(pool=str(pool), train=False))
    json.loads((tmp_path / "run/report.json").read_text(), parse_constant=lambda c: pytest.fail(f"{c} is no JSON"))
