"""``dcfast decontaminate POOL --against FILES``: what is found, from where it goes on, and what is refused."""

from __future__ import annotations

import json
import os
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from dcfast import cli
from dcfast.decontamination.options import DecontaminateOptions
from dcfast.decontamination.pool import Decontaminated, decontaminate_pool
from dcfast.decontamination.signing import segments_of
from dcfast.dedup.signature_file import DescriptorInfo, SignatureFile
from dcfast.engine.progress import Silent
from dcfast.errors import CorruptDataError, EvalsetError, PoolError, RunError
from dcfast.evaluate.sign_sets import SignOptions, sign_evalsets
from dcfast.models.descriptors import ISC_THRESHOLD
from dcfast.uids.sets import load_subset, uid_format
from drawn_pictures import drawing, encode
from killed_writes import kill_at
from pool_builder import PoolBuilder, Sample, evalset, uid_of
from signature_builder import ISC, records, rows_of, turned, unit, write_signatures

COMPARED = ("contaminated.npy", "contamination.parquet", "decontamination.json")
EVALUATED = unit(40, seed=7)
"""Descriptors of the pictures of the set that is described."""


@cache
def picture(number: int) -> bytes:
    """An encoded picture with enough detail for 256 bits."""
    return encode(drawing(number), quality=90)


def resized(number: int) -> bytes:
    return encode(drawing(number).resize((250, 190)), quality=60)


def published(root: Path, scores: dict[int, float], **shape: Any) -> None:
    """Writes DataComp's npz beside the metadata: row -> score with the row's evaluation picture; others unrelated."""
    first = 0
    for number, path in enumerate(sorted((root / "metadata").glob("*.parquet"))):
        count = pq.ParquetFile(path).metadata.num_rows
        vectors = unit(count, seed=100 + number)
        for row in range(count):
            if first + row in scores:
                near = EVALUATED[first + row : first + row + 1]
                vectors[row] = turned(near, scores[first + row])[0]
        vectors = np.asarray(vectors, shape.get("dtype", np.float32))[:, : shape.get("dim", 256)]
        np.savez(path.with_suffix(".npz"), dedup=vectors, l14_img=np.zeros((count, 2), np.float16))
        first += count


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pool of 24 samples in 4 shards; samples 1 and 5 are evaluation pictures, byte for byte; 2 is resized."""
    root = tmp_path_factory.mktemp("decontaminate")
    samples = [Sample(n, jpg=picture(n)) for n in range(24)]
    samples[1], samples[5], samples[2] = (
        Sample(1, jpg=picture(900)),
        Sample(5, jpg=picture(902)),
        Sample(2, jpg=resized(901)),
    )
    samples[9] = Sample(9, jpg=b"no picture")
    pool = PoolBuilder(root / "pool", [samples[i : i + 6] for i in range(0, 24, 6)])
    pool.write()
    evalset(root / "sets", "first", {f"s{n}": picture(900 + n) for n in range(4)})
    evalset(root / "sets", "second", {"only": picture(900), "other": picture(950)})
    sign_evalsets(SignOptions(str(root / "sets"), str(root / "sets.sig")), Silent)
    made = records(40, 11)
    made["status"] = 255  # pictures that nobody has: descriptors alone
    write_signatures(root / "isc.sig", {"described": rows_of(made, [EVALUATED])}, [ISC])
    published(root / "pool", {3: 0.7, 8: ISC_THRESHOLD + 1e-5, 10: ISC_THRESHOLD - 1e-5, 20: 0.99})
    return root


def compared(place: Path, out: Path, *against: str, **options: Any) -> Decontaminated:
    files = [str(place / name) for name in against or ("sets.sig", "isc.sig")]
    given = DecontaminateOptions(str(options.pop("pool", place / "pool")), files, str(out), **options)
    return decontaminate_pool(given, Silent)


def uids_in(out: Path) -> set[str]:
    return set(uid_format(np.asarray(load_subset(out / "contaminated.npy")), as_list=True))


@pytest.fixture(scope="module")
def whole(place: Path) -> Path:
    compared(place, place / "whole")
    return place / "whole"


def test_what_is_found_by_which_method(place: Path, whole: Path) -> None:
    rows = pq.read_table(whole / "contamination.parquet").to_pylist()
    found = {(row["uid"], row["evalset"], row["method"]): row for row in rows}
    for number, sets in ((1, {"first": "s0", "second": "only"}), (5, {"first": "s2"})):
        for name, key in sets.items():
            for method in ("content", "perceptual", "perceptual256"):
                row = found.pop((uid_of(number), name, method))
                assert (row["evalset_key"], row["distance"], row["score"]) == (key, 0, None)
    for method, limit in (("perceptual", 8), ("perceptual256", 31)):
        row = found.pop((uid_of(2), "first", method))
        assert row["evalset_key"] == "s1"
        assert 0 <= row["distance"] <= limit
    for number, score in ((3, 0.7), (8, ISC_THRESHOLD), (20, 0.99)):
        row = found.pop((uid_of(number), "described", "descriptor:isc_ft_v107"))
        assert (row["distance"], row["evalset_key"], row["shard"]) == (None, f"k{number}", f"{number // 6:08d}.tar")
        assert row["score"] == pytest.approx(score, abs=3e-5)
    assert found == {}
    assert uids_in(whole) == {uid_of(n) for n in (1, 2, 3, 5, 8, 20)}
    told = json.loads((whole / "decontamination.json").read_text())
    assert (told["samples"], told["pictures"], told["contaminated"], told["content"]) == (24, 24, 6, 2)
    assert told["status"] == {"ok": 23, "unsupported": 1}
    assert told["hits"]["first"] == {"content": 2, "perceptual": 3, "perceptual256": 3}
    (use,) = told["descriptors"]
    assert (use["name"], use["source"], use["described"], use["least"]) == (
        "isc_ft_v107",
        "published",
        24,
        ISC_THRESHOLD,
    )


def test_nothing_depends_on_workers_or_on_being_done_before(place: Path, whole: Path, tmp_path: Path) -> None:
    compared(place, tmp_path / "out", workers=2)
    for name in COMPARED:
        assert (tmp_path / "out" / name).read_bytes() == (whole / name).read_bytes(), name
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*.npy")}
    compared(place, tmp_path / "out")
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*.npy")} == before


def test_other_thresholds_decode_nothing_again(place: Path, whole: Path, tmp_path: Path) -> None:
    compared(place, tmp_path / "out", "sets.sig", methods=["content"])
    assert uids_in(tmp_path / "out") == {uid_of(1), uid_of(5)}
    signed = {p: p.stat().st_mtime_ns for p in (tmp_path / "out/signatures").iterdir()}
    found = compared(place, tmp_path / "out", "isc.sig", methods=["descriptor"], min_score={"isc_ft_v107": 0.9})
    assert (found.contaminated, found.uids, found.hits) == (1, 1, {"described": {"descriptor:isc_ft_v107": 1}})
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "out/signatures").iterdir()} == signed
    compared(place, tmp_path / "out")
    assert (tmp_path / "out/contamination.parquet").read_bytes() == (whole / "contamination.parquet").read_bytes()


@pytest.mark.slow
def test_a_killed_one_goes_on_where_it_was(place: Path, whole: Path, tmp_path: Path) -> None:
    """Killed by SIGKILL before the n-th file gets its name, ever later, in one directory; the end is the same."""
    files = [str(place / "sets.sig"), str(place / "isc.sig")]
    words = ["decontaminate", str(place / "pool"), "--against", *files, "--out", str(tmp_path / "out")]
    assert kill_at((1, 2, 5, 9, 3, 7, 4, 6, 2, 3), words) >= 5
    assert cli.main(words) == 0
    for name in COMPARED:
        assert (tmp_path / "out" / name).read_bytes() == (whole / name).read_bytes(), name
    assert not list((tmp_path / "out").rglob(".tmp-*"))


def test_a_pool_of_metadata_alone(place: Path, tmp_path: Path) -> None:
    """Before anything is downloaded: published descriptors name uids, and the evidence has no shard."""
    pool = tmp_path / "pool"
    pool.mkdir()
    (pool / "metadata").symlink_to(place / "pool/metadata")
    found = compared(place, tmp_path / "out", "isc.sig", pool=pool)
    assert (found.samples, found.contaminated, found.uids) == (0, 3, 3)
    assert uids_in(tmp_path / "out") == {uid_of(n) for n in (3, 8, 20)}
    rows = pq.read_table(tmp_path / "out/contamination.parquet").to_pylist()
    assert {(row["uid"], row["shard"], row["row"], row["key"]) for row in rows} == {
        (uid_of(n), None, None, None) for n in (3, 8, 20)
    }
    with pytest.raises(PoolError, match=r"has no shards, and no descriptors were published .*give a pool with shards"):
        compared(place, tmp_path / "other", "sets.sig", pool=pool)


def test_published_descriptors_that_are_no_numbers_match_nothing(place: Path, tmp_path: Path) -> None:
    builder = PoolBuilder(tmp_path / "pool", [[Sample(n) for n in range(6)]])
    builder.write()
    published(tmp_path / "pool", {3: 0.7})
    path = tmp_path / "pool/metadata/00000000.npz"
    with np.load(path) as archive:
        vectors = archive["dedup"]
    vectors[0], vectors[1, 5], vectors[2] = np.nan, np.inf, 0
    np.savez(path, dedup=vectors)
    found = compared(place, tmp_path / "out", "isc.sig", pool=tmp_path / "pool")
    assert uids_in(tmp_path / "out") == {uid_of(3)}
    assert found.notes == ["3 published descriptors are no finite numbers or zero, and match nothing"]


@pytest.mark.parametrize("shape", [{"dim": 255}, {"dtype": np.int32}])
def test_published_descriptors_of_another_model_are_refused(shape: Any, place: Path, tmp_path: Path) -> None:
    PoolBuilder(tmp_path / "pool", [[Sample(n) for n in range(6)]]).write()
    published(tmp_path / "pool", {}, **shape)
    with pytest.raises(PoolError, match=r"array dedup is .*expected ISC's descriptors, float32 of shape \(6, 256\)"):
        compared(place, tmp_path / "out", "isc.sig", pool=tmp_path / "pool")
    with pytest.raises(PoolError, match=r"set described \(1 in all\) nothing can be compared .*: leave its"):
        compared(place, tmp_path / "out", "isc.sig", pool=tmp_path / "pool", published=False)
    assert not (tmp_path / "out").exists()


def test_descriptors_of_a_signature_file_are_of_length_1(place: Path, tmp_path: Path) -> None:
    write_signatures(tmp_path / "long.sig", {"long": rows_of(records(3), [2 * unit(3)])}, [ISC])
    with pytest.raises(CorruptDataError, match=r"descriptors of isc_ft_v107 that are not of length 1\); make it again"):
        compared(tmp_path, tmp_path / "out", "long.sig", pool=place / "pool")


def test_a_set_without_a_row(place: Path, tmp_path: Path) -> None:
    write_signatures(tmp_path / "none.sig", {"none": rows_of(records(0), [unit(0)])}, [ISC])
    found = compared(tmp_path, tmp_path / "out", "none.sig", pool=place / "pool")
    assert (found.uids, found.evidence_rows, found.hits) == (0, 0, {})
    assert pq.read_table(tmp_path / "out/contamination.parquet").num_rows == 0


def test_models_are_held_against_the_signatures(place: Path, tmp_path: Path) -> None:
    from dcfast.models.clip import create_model
    from safetensors.torch import save_file

    for seed in (1, 2):
        state = {k: v.contiguous() for k, v in create_model("dcfast-tiny", seed=seed).state_dict().items()}
        save_file(state, tmp_path / f"{seed}.safetensors")
    one, two = (f"dcfast-tiny:{tmp_path / name}.safetensors" for name in ("1", "2"))
    signing = SignOptions(str(place / "sets"), str(tmp_path / "tiny.sig"), descriptors=[one], device="cpu")
    sign_evalsets(signing, Silent)
    with SignatureFile(tmp_path / "tiny.sig") as file:
        assert [info.name for info in file.header.descriptors] == ["dcfast-tiny"]
        assert file.read().descriptors[0].any(axis=1).all()
    how: dict[str, Any] = {"pool": place / "pool", "device": "cpu", "methods": ["content", "descriptor"]}
    with pytest.raises(ValueError, match=r"by dcfast-tiny is not known; give --min-score dcfast-tiny=X"):
        compared(tmp_path, tmp_path / "out", "tiny.sig", descriptors=[one], **how)
    how["min_score"] = {"dcfast-tiny": 0.99999}
    with pytest.raises(PoolError, match=r"no signature file has descriptors of ViT-B-32 \(dcfast-tiny\); give dcfast"):
        compared(tmp_path, tmp_path / "out", "tiny.sig", descriptors=["ViT-B-32:openai"], **how)
    with pytest.raises(PoolError, match=r"descriptor dcfast-tiny has weights of SHA-256 .*; the sets were signed by"):
        compared(tmp_path, tmp_path / "out", "tiny.sig", descriptors=[two], **how)
    found = compared(tmp_path, tmp_path / "out", "tiny.sig", descriptors=[one], **how)
    assert {uid_of(1), uid_of(5)} <= uids_in(tmp_path / "out")
    (use,) = found.descriptors
    assert (use.source, use.described) == ("computed", 23)
    rows = pq.read_table(tmp_path / "out/contamination.parquet").to_pylist()
    same = [row for row in rows if row["uid"] == uid_of(1) and row["method"] == "descriptor:dcfast-tiny"]
    assert {row["evalset_key"] for row in same} == {"s0", "only"}
    assert all(row["score"] == pytest.approx(1, abs=1e-5) for row in same)


def test_what_is_refused(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def said(*words: str) -> str:
        assert cli.main(["decontaminate", *words]) in (1, 2)
        return capsys.readouterr().err

    pool, sets = str(place / "pool"), str(place / "sets.sig")
    assert "no such directory; give one with shards/*.tar" in said(
        str(tmp_path / "x"), "--against", sets, "--out", str(tmp_path / "o")
    )
    whole = Path(sets).read_bytes()
    (tmp_path / "cut.sig").write_bytes(whole[: len(whole) // 2])
    assert "cut.sig cannot be read as parquet" in said(
        pool, "--against", str(tmp_path / "cut.sig"), "--out", str(tmp_path / "o")
    )
    assert "set first is in" not in said(pool, "--against", str(tmp_path / "no.sig"), "--out", str(tmp_path / "o"))
    assert not (tmp_path / "o").exists()
    (tmp_path / "full").mkdir()
    (tmp_path / "full/mine.txt").write_text("x")
    assert "is not empty (mine.txt); choose another directory" in said(
        pool, "--against", sets, "--out", str(tmp_path / "full")
    )
    assert "--methods takes some of content" in said(
        pool, "--against", sets, "--out", str(tmp_path / "o"), "--methods", "magic"
    )
    assert "--min-score takes NAME=NUMBER" in said(
        pool, "--against", sets, "--out", str(tmp_path / "o"), "--min-score", "isc=nan"
    )


def test_a_relative_pool_is_below_the_working_directory(
    place: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(place)
    sign_evalsets(SignOptions("sets", os.path.relpath(tmp_path / "sets.sig")), Silent)
    compared(tmp_path, tmp_path / "out", "sets.sig", str(place / "isc.sig"), pool="pool")
    assert (tmp_path / "out/contaminated.npy").read_bytes() == (whole / "contaminated.npy").read_bytes()


def test_a_directory_is_of_one_pool(place: Path, tmp_path: Path) -> None:
    compared(place, tmp_path / "out", "sets.sig", methods=["content"])
    (tmp_path / "pool").symlink_to(place / "pool")
    with pytest.raises(RunError, match=r"has what was found in pool .*; this one is .*: choose another --out"):
        compared(place, tmp_path / "out", "sets.sig", methods=["content"], pool=tmp_path / "pool")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"turned": True, "methods": ["content"]}, r"--turned is of the method perceptual256: give it"),
        (
            {"min_score": {"isc_ft_v108": 0.5}},
            r"has descriptors of isc_ft_v108 \(isc_ft_v107\): give",
        ),
        ({"min_score": {"isc_ft_v107": 0.5}, "published": False}, r"isc_ft_v107 is not compared: give its model"),
        (
            {"descriptors": ["isc:no.pth"], "methods": ["content"]},
            r"is of the method descriptor: give it",
        ),
    ],
)
def test_options_that_would_mean_nothing_are_refused(
    options: dict[str, Any], message: str, place: Path, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        compared(place, tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_models_of_one_name_or_without_their_file_are_refused(place: Path, tmp_path: Path) -> None:
    info = DescriptorInfo("dcfast-tiny", "a" * 64, 64)
    write_signatures(tmp_path / "tiny.sig", {"tiny": rows_of(records(3), [unit(3, 64)])}, [info])
    how: dict[str, Any] = {"pool": place / "pool", "min_score": {"dcfast-tiny": 0.9}}
    with pytest.raises(ValueError, match=r"names dcfast-tiny twice .*: give one of them"):
        compared(tmp_path, tmp_path / "out", "tiny.sig", descriptors=["dcfast-tiny:a", "dcfast-tiny:b"], **how)
    with pytest.raises(FileNotFoundError, match=r"none\.pt: no such file; give its file"):
        compared(tmp_path, tmp_path / "out", "tiny.sig", descriptors=["dcfast-tiny:none.pt"], **how)
    signing = SignOptions(str(place / "sets"), str(tmp_path / "s"), descriptors=["dcfast-tiny:a", "dcfast-tiny:b"])
    with pytest.raises(ValueError, match="two models have the name dcfast-tiny: give one of them"):
        sign_evalsets(signing, Silent)
    found = compared(tmp_path, tmp_path / "out", "tiny.sig", pool=place / "pool")
    assert found.notes == [
        "descriptors of dcfast-tiny were not compared, as the pool has none: for these give dcfast decontaminate "
        "--descriptors"
    ]


def test_what_published_descriptors_leave_open_is_noted(place: Path, tmp_path: Path) -> None:
    """A file without them, a row twice, a row without a uid, a descriptor that is not of length 1."""
    rows = [[Sample(n, jpg=picture(n)) for n in range(6)], [Sample(n, jpg=picture(n)) for n in range(6, 12)]]
    PoolBuilder(tmp_path / "pool", rows).write()
    published(tmp_path / "pool", {3: 0.7})
    table = tmp_path / "pool/metadata/00000000.parquet"
    npz = table.with_suffix(".npz")
    with np.load(npz) as archive:
        vectors = archive["dedup"]
    read = pq.read_table(table)
    uids = read.column("uid").to_pylist()
    uids[4], uids[5] = uids[3], None
    at = read.schema.get_field_index("uid")
    pq.write_table(read.set_column(at, "uid", pa.array(uids, pa.string())), table)
    vectors[3] *= 0.5
    vectors[4] = vectors[5] = vectors[3] * 2
    np.savez(npz, dedup=vectors)
    (tmp_path / "pool/metadata/00000001.npz").unlink()
    found = compared(place, tmp_path / "out", "isc.sig", pool=tmp_path / "pool")
    assert found.notes == [
        "1 metadata files have no published descriptors: their samples were not compared by these",
        "1 published descriptors were not of unit length, and were brought to it",
        "1 rows of metadata without a uid are evaluation pictures by their descriptors",
    ]
    assert [row["uid"] for row in pq.read_table(tmp_path / "out/contamination.parquet").to_pylist()] == [uid_of(3)]
    assert found.evidence_rows == 1


def test_two_files_with_one_set_are_refused(place: Path, tmp_path: Path) -> None:
    (tmp_path / "again.sig").write_bytes((place / "sets.sig").read_bytes())
    with pytest.raises(PoolError, match=r"set first is in .* and in .*again\.sig; give one of the two"):
        compared(Path("/"), tmp_path / "out", str(place / "sets.sig"), str(tmp_path / "again.sig"), pool=place / "pool")


def test_a_directory_at_work_is_refused(place: Path, tmp_path: Path) -> None:
    from dcfast.storage.lock import locked

    (tmp_path / "out").mkdir()
    with locked(tmp_path / "out/.lock", "busy"), pytest.raises(RunError, match="another process is at work there"):
        compared(place, tmp_path / "out")


def test_segments_are_bounded_whatever_the_pool() -> None:
    for count, most in ((0, 0), (1, 1), (4096, 1), (4097, 2), (1_280_000, 64)):
        segments = segments_of([str(n) for n in range(count)])
        assert max(map(len, segments), default=0) == most
        assert sum(map(len, segments)) == count


def test_the_command_line(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["evalsets", "sign", str(place / "sets"), "--out", str(tmp_path / "sets.sig"), "--sets", "first"]
    assert cli.main(words) == 0
    told = capsys.readouterr().out
    assert "first: 4 pictures, 0 unreadable, 0 flat; fingerprint" in told
    assert f"next: dcfast decontaminate POOL --against {tmp_path / 'sets.sig'}" in told
    assert sorted(path.name for path in tmp_path.iterdir()) == ["sets.sig"]
    out = str(tmp_path / "out")
    assert cli.main(["decontaminate", str(place / "pool"), "--against", str(tmp_path / "sets.sig"), "--out", out]) == 0
    told = capsys.readouterr().out
    assert told.startswith("3 of 24 samples are pictures of 1 evaluation sets, 2 of them byte for byte; 3 uids\n")
    assert "first, perceptual: 3\n" in told
    assert cli.main([*words[:-1], "third"]) != 0
    assert "has no evaluation set 'third'; give of first, second" in capsys.readouterr().err


def test_signing_goes_on_and_names_what_it_cannot_sign(place: Path, tmp_path: Path) -> None:
    options = SignOptions(str(place / "sets"), str(tmp_path / "a.sig"), workers=2)
    sign_evalsets(options, Silent)
    assert (tmp_path / "a.sig").read_bytes() == (place / "sets.sig").read_bytes()
    os.unlink(tmp_path / "a.sig")
    with pytest.raises(FileNotFoundError, match="descriptor isc"):
        sign_evalsets(SignOptions(str(place / "sets"), str(tmp_path / "b.sig"), descriptors=["isc:/nothing"]), Silent)
    assert list(tmp_path.iterdir()) == []


def test_the_stage_of_a_run_reads_signature_files(place: Path, tmp_path: Path) -> None:
    """The sets at hand, and their signature file in their place, give the same uids and evidence."""
    from dcfast.run.workflow import run
    from dcfast.rundir.settings import Settings

    how: dict[str, Any] = {"pool": str(place / "pool"), "filter": "~contaminated", "train": False}
    by_file = run(tmp_path / "file", Settings(signatures=[str(place / "sets.sig"), str(place / "isc.sig")], **how))
    by_sets = run(tmp_path / "sets", Settings(evalsets=str(place / "sets"), signatures=[str(place / "isc.sig")], **how))
    assert (by_file["decontaminate"].uids, by_file["decontaminate"].published) == (6, 24)
    assert by_file["decontaminate"].sets == ["described", "first", "second"]
    assert by_file["filter"].contaminated.evalsets == {"described": 0, "first": 0, "second": 0}
    assert by_sets["decontaminate"].uids == 6
    for name in ("contaminated.npy", "contamination.parquet"):
        assert (tmp_path / "file" / name).read_bytes() == (tmp_path / "sets" / name).read_bytes()
    assert pq.read_table(tmp_path / "file/contamination.parquet").equals(
        pq.read_table(compared_out(place, tmp_path) / "contamination.parquet")
    )
    page = (tmp_path / "file/report.html").read_text()
    assert "alike by isc_ft_v107, score 0.700" in page


def compared_out(place: Path, tmp_path: Path) -> Path:
    compared(place, tmp_path / "alone")
    return tmp_path / "alone"


@pytest.mark.parametrize("kind", ["pt", "npy"])
def test_descriptors_that_datacomp_published_of_its_sets(kind: str, place: Path, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    file = tmp_path / f"eval_dedup_embeddings.{kind}"
    if kind == "pt":
        torch.save(torch.from_numpy(EVALUATED), file)
    else:
        np.save(file, EVALUATED)
    (signed,) = sign_evalsets(SignOptions(str(file), str(tmp_path / "datacomp.sig")), Silent)
    assert (signed.name, signed.rows, signed.pictures) == ("eval_dedup_embeddings", 40, 0)
    found = compared(tmp_path, tmp_path / "out", "datacomp.sig", pool=place / "pool")
    assert uids_in(tmp_path / "out") == {uid_of(n) for n in (3, 8, 20)}
    rows = pq.read_table(tmp_path / "out/contamination.parquet").to_pylist()
    assert {(row["evalset_shard"], row["evalset_key"]) for row in rows} == {(file.name, f"row {n}") for n in (3, 8, 20)}
    assert [use.sha256 for use in found.descriptors] == [""]


def test_files_of_descriptors_that_are_none(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    for values, problem in (
        (np.zeros((3, 255), np.float32), r"expected ISC's descriptors, floats of shape \(n, 256\): give that file"),
        (np.zeros((3, 256), np.int32), r"holds int32 of shape \(3, 256\)"),
        (np.full((3, 256), np.nan, np.float32), "row 0 is not finite; leave such rows out"),
    ):
        np.save(tmp_path / "a.npy", values)
        with pytest.raises(EvalsetError, match=problem):
            sign_evalsets(SignOptions(str(tmp_path / "a.npy"), str(tmp_path / "a.sig")), Silent)
    torch.save({"a": torch.zeros(3, 256)}, tmp_path / "a.pt")
    with pytest.raises(CorruptDataError, match=r"holds a dict; expected one dense tensor"):
        sign_evalsets(SignOptions(str(tmp_path / "a.pt"), str(tmp_path / "a.sig")), Silent)
    np.save(tmp_path / "a.npy", unit(3) * np.array([[1], [1], [3]], np.float32))
    with pytest.raises(EvalsetError, match="row 2 has length 3, not 1; divide rows by their lengths"):
        sign_evalsets(SignOptions(str(tmp_path / "a.npy"), str(tmp_path / "a.sig")), Silent)
    with pytest.raises(ValueError, match="is descriptors alone: leave out --sets and --descriptors"):
        sign_evalsets(SignOptions(str(tmp_path / "a.npy"), str(tmp_path / "a.sig"), sets=["x"]), Silent)
    assert not (tmp_path / "a.sig").exists()
