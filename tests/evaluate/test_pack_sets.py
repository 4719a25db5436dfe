"""``dcfast evalsets pack`` and ``unpack``: a sealed bundle, of which not one byte may be another."""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from dcfast import cli
from dcfast.errors import CorruptDataError, EvalsetError, RunError
from dcfast.evaluate import bundle, evaluate_model, pack_sets
from dcfast.evaluate.bundle import BundleFile, check_paths
from dcfast.evaluate.convert_sets import ConvertOptions, convert_sets
from dcfast.evaluate.pack_sets import PackOptions, UnpackOptions, UnpackReport
from dcfast.evaluate.pack_sets import pack_sets as pack
from dcfast.evaluate.pack_sets import unpack_sets as unpack
from dcfast.evaluate.place_set import file_state
from dcfast.evaluate.verify_sets import VerifyOptions, verify_sets
from dcfast.hub import LOCK_FILE, read_lock
from dcfast.storage.whole_folder import ASIDE
from evalset_builder import NAMES, colour_clip, labelled, write_set
from hub_builder import write_cache, write_source
from killed_writes import kill_at
from test_verify_sets import write_lock


def some_sets(home: Path) -> Path:
    write_set(home, "a", labelled(20, 5), NAMES, shard_size=7)
    write_set(home, "vtab-flowers", labelled(16, 3), NAMES)
    parquet = write_set(home, "retrieval-flickr_1k_test_image_text_retrieval", [])
    shutil.rmtree(parquet)
    (parquet / "test").mkdir(parents=True)
    source = write_source(home.parent / "hub")
    shutil.copy(source / "flickr_1k_test_image_text_retrieval.parquet", parquet / "test/0000.parquet")
    table = [{"key": "my/own", "directory": "wds_a_test", "kind": "classification", "main_metric": "acc5"}]
    (home / "tasks.json").write_text(json.dumps(table))
    return home


def packed(home: Path, out: Path, **options: Any) -> Path:
    pack(PackOptions(str(home), str(out), quiet=True, **options))
    return out


def unpacked(file: Path, out: Path, **options: Any) -> UnpackReport:
    return unpack(UnpackOptions(str(file), str(out), quiet=True, **options))


def files_of(home: Path) -> dict[str, bytes]:
    return {
        str(p.relative_to(home)): p.read_bytes() for p in sorted(home.rglob("*")) if p.is_file() and p.name != ".lock"
    }


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return some_sets(tmp_path_factory.mktemp("sets") / "sets")


@pytest.fixture(scope="module")
def sealed(sets: Path) -> Path:
    return packed(sets, sets.parent / "sets.tar")


def test_there_and_back(sets: Path, sealed: Path, tmp_path: Path) -> None:
    report = unpacked(sealed, tmp_path / "there")
    assert (len(report.made), report.kept) == (3, [])
    assert files_of(tmp_path / "there") == files_of(sets)
    scores = [evaluate_model(colour_clip(), home, tmp_path / home.name).tasks for home in (sets, tmp_path / "there")]
    assert [line.metrics for line in scores[0]] == [line.metrics for line in scores[1]]
    assert not Path(f"{sealed}.parts").exists()


def test_a_folder_of_the_name_of_its_work_is_somebodys(sets: Path, tmp_path: Path) -> None:
    (tmp_path / "sets.tar.parts").mkdir()
    (tmp_path / "sets.tar.parts/aa").write_bytes(b"mine")
    packed(sets, tmp_path / "sets.tar")
    assert [path.name for path in (tmp_path / "sets.tar.parts").iterdir()] == ["aa"]


def test_a_plain_tar_of_a_manifest_and_the_files(sets: Path, sealed: Path, tmp_path: Path) -> None:
    with tarfile.open(sealed) as tar:
        members = tar.getmembers()
        first = tar.extractfile(members[0])
        assert first is not None
        text = first.read()
    assert members[0].name == f"dcfast-evalsets-{hashlib.sha256(text).hexdigest()}.json"
    manifest = json.loads(text)
    assert manifest["version"] == 1
    assert re.match(r"\d+\.\d+", manifest["dcfast"])
    assert {m.name: m.size for m in members[1:]} == {f["path"]: f["size"] for f in manifest["files"]}
    assert [m.name for m in members[1:]] == sorted(files_of(sets))
    assert all((m.mtime, m.uid, m.gid, m.uname, m.gname, m.isreg()) == (0, 0, 0, "", "", True) for m in members)
    for file in manifest["files"]:
        assert hashlib.sha256((sets / file["path"]).read_bytes()).hexdigest() == file["sha256"]
    os.utime(sets / "tasks.json", (1, 1))
    assert packed(sets, tmp_path / "again.tar").read_bytes() == sealed.read_bytes()


def test_some_of_the_sets(sets: Path, tmp_path: Path) -> None:
    one = packed(sets, tmp_path / "one.tar", sets=["vtab/flowers"])
    assert unpacked(one, tmp_path / "out").made == ["wds_vtab-flowers_test"]
    with pytest.raises(EvalsetError, match="has no evaluation set 'flower'"):
        packed(sets, tmp_path / "two.tar", sets=["flower"])


def test_not_one_byte_may_be_another(sealed: Path, tmp_path: Path) -> None:
    """Headers, padding and the end as well as the files; a set is whole or absent whatever was altered."""
    data = sealed.read_bytes()
    for at in range(77, len(data), 1721):
        changed = bytearray(data)
        changed[at] ^= 1 + at % 200
        (tmp_path / "b.tar").write_bytes(changed)
        with pytest.raises((CorruptDataError, EvalsetError)) as caught:
            unpacked(tmp_path / "b.tar", tmp_path / "out")
        assert "b.tar" in str(caught.value)
        assert not any(path.name.startswith(".tmp") for path in (tmp_path / "out").glob("*"))
        shutil.rmtree(tmp_path / "out", ignore_errors=True)


def test_every_byte_of_the_headers_counts(sealed: Path, tmp_path: Path) -> None:
    data = sealed.read_bytes()
    with tarfile.open(sealed) as tar:
        header = tar.getmembers()[2].offset
    for at in [*range(0, 512, 3), *range(header, header + 512, 3), len(data) - 1]:
        (tmp_path / "b.tar").write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
        with pytest.raises((CorruptDataError, EvalsetError), match=r"b\.tar (is cut or altered|is no bundle)"):
            unpacked(tmp_path / "b.tar", tmp_path / "out")
        shutil.rmtree(tmp_path / "out", ignore_errors=True)


@pytest.mark.parametrize("left", [0, 100, 512, 700, 5000, 50_000, -1, -512, -1024])
def test_a_bundle_that_was_cut(left: int, sealed: Path, tmp_path: Path) -> None:
    (tmp_path / "b.tar").write_bytes(sealed.read_bytes()[:left])
    with pytest.raises((CorruptDataError, EvalsetError), match=r"b\.tar (is cut or altered|is no bundle)"):
        unpacked(tmp_path / "b.tar", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_more_than_there_was(sealed: Path, tmp_path: Path) -> None:
    (tmp_path / "b.tar").write_bytes(sealed.read_bytes() + bytes(512))
    with pytest.raises(CorruptDataError, match=r"it has [0-9,]+ bytes; expected"):
        unpacked(tmp_path / "b.tar", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def forged(
    path: Path, files: list[tuple[str, bytes]], change: Callable[[dict[str, Any]], object] = lambda manifest: None
) -> Path:
    """A bundle whose hashes are right, of whatever paths."""
    listed = [{"path": n, "size": len(d), "sha256": hashlib.sha256(d).hexdigest()} for n, d in files]
    manifest = {"format": bundle.FORMAT, "version": 1, "dcfast": "0", "files": listed}
    change(manifest)
    text = json.dumps(manifest).encode()
    return archive(path, [(f"dcfast-evalsets-{hashlib.sha256(text).hexdigest()}.json", text), *files])


def archive(path: Path, files: list[tuple[str, bytes]], odd: tarfile.TarInfo | None = None) -> Path:
    with open(path, "wb") as file:
        for name, data in files:
            header = tarfile.TarInfo(name)
            header.size = len(data)
            file.write(header.tobuf(tarfile.GNU_FORMAT) + data + bytes(-len(data) % 512))
        file.write(b"" if odd is None else odd.tobuf(tarfile.GNU_FORMAT))
        file.write(bytes(1024))
    return path


def test_a_forged_bundle_may_be_right(tmp_path: Path) -> None:
    """So that what is refused below is refused for its reason."""
    forged(tmp_path / "b.tar", [("tasks.json", b"[]"), ("wds_a_test/test/0.tar", b"abc")])
    assert unpacked(tmp_path / "b.tar", tmp_path / "out").made == ["wds_a_test"]


@pytest.mark.parametrize(
    "path",
    [
        "../x", "/etc/x", "wds_a_test/../../x", "wds_a_test/..", "wds_a_test/./x", "wds_a_test//x", "x", ".lock",
        "wds_a_test", "wds_a_test/test", "wds_a_test/test/", "wds_a_test/a/b", "wds_a_test/test/a/b", "wds_a/x",
        "wds_a_test/.hidden", "wds_a_test/test/.tmp-1-00000000-x", "wds_\x1b[31m_test/x", "wds_a_test/x\0y",
        "wds_a_test/\u202ex", "wds_a_test/" + "x" * 256, "hf_cache/x", "",
    ],
)  # fmt: skip
def test_paths_that_are_no_sets(path: str, tmp_path: Path) -> None:
    def change(manifest: dict[str, Any]) -> None:
        manifest["files"][0]["path"] = path

    forged(tmp_path / "b.tar", [("wds_a_test/x", b"abc")], change)
    with pytest.raises(EvalsetError, match=r"its manifest is refused: .* is no path of a set"):
        unpacked(tmp_path / "b.tar", tmp_path / "out")
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["b.tar"]


def test_duplicates_and_order(tmp_path: Path) -> None:
    for names in (["wds_a_test/x", "wds_a_test/x"], ["wds_b_test/x", "wds_a_test/x"]):
        forged(tmp_path / "b.tar", [(name, b"abc") for name in names])
        with pytest.raises(EvalsetError, match="stands twice, or out of order"):
            unpacked(tmp_path / "b.tar", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE, tarfile.DIRTYPE])
def test_links_and_devices(kind: bytes, sealed: Path, tmp_path: Path) -> None:
    """In the place of a file, and behind them all."""
    with tarfile.open(sealed) as tar:
        members = tar.getmembers()
    data = bytearray(sealed.read_bytes())
    header = tarfile.TarInfo(members[1].name)
    header.type, header.linkname = kind, "/etc/passwd"
    data[members[1].offset : members[1].offset + 512] = header.tobuf(tarfile.GNU_FORMAT)
    (tmp_path / "b.tar").write_bytes(data)
    with pytest.raises(CorruptDataError, match=r"the header of tasks\.json is not as it was packed"):
        unpacked(tmp_path / "b.tar", tmp_path / "out")
    header.name = "wds_a_test/z"
    (tmp_path / "b.tar").write_bytes(sealed.read_bytes()[:-1024] + header.tobuf(tarfile.GNU_FORMAT) + bytes(1024))
    with pytest.raises(CorruptDataError, match=r"it has .* bytes; expected"):
        unpacked(tmp_path / "b.tar", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_sizes_beyond_the_manifest(tmp_path: Path) -> None:
    def less(manifest: dict[str, Any]) -> None:
        manifest["files"][0]["size"] = 1

    def endless(manifest: dict[str, Any]) -> None:
        manifest["files"][0]["size"] = 1 << 62

    for change in (less, endless):
        forged(tmp_path / "b.tar", [("wds_a_test/x", b"abc" * 1000)], change)
        with pytest.raises(CorruptDataError, match=r"it has .* bytes; expected"):
            unpacked(tmp_path / "b.tar", tmp_path / "out")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda m: m.update(version=2), "is of version 2 of 'dcfast-evalsets', made by dcfast '0'"),
        (lambda m: m.update(format="x"), "is of version 1 of 'x'"),
        (lambda m: m.pop("files"), "its manifest cannot be read"),
        (lambda m: m["files"][0].update(size=-1), "its manifest cannot be read"),
        (lambda m: m["files"][0].update(sha256="x"), "the SHA-256 of 'wds_a_test/x' is none"),
        (lambda m: m.update(files="x"), "its manifest cannot be read"),
    ],
)
def test_other_manifests(change: Callable[[dict[str, Any]], object], said: str, tmp_path: Path) -> None:
    forged(tmp_path / "b.tar", [("wds_a_test/x", b"abc")], change)
    with pytest.raises(EvalsetError, match=re.escape(said)):
        unpacked(tmp_path / "b.tar", tmp_path / "out")


def test_what_is_no_bundle(tmp_path: Path, sets: Path) -> None:
    for data in (b"", b"x" * 2000, (sets / "wds_a_test/test/0.tar").read_bytes()):
        (tmp_path / "b.tar").write_bytes(data)
        with pytest.raises(EvalsetError, match="is no bundle of evaluation sets: expected a file of `dcfast evalsets"):
            unpacked(tmp_path / "b.tar", tmp_path / "out")
    with pytest.raises(FileNotFoundError):
        unpacked(tmp_path / "none.tar", tmp_path / "out")
    name = "dcfast-evalsets-" + "0" * 64 + ".json"
    header = tarfile.TarInfo(name)
    header.size = 1 << 40
    (tmp_path / "b.tar").write_bytes(header.tobuf(tarfile.GNU_FORMAT))
    with pytest.raises(CorruptDataError, match="the header of its manifest"):
        unpacked(tmp_path / "b.tar", tmp_path / "out")
    archive(tmp_path / "b.tar", [(name, b"{}")])
    with pytest.raises(CorruptDataError, match="its manifest has another SHA-256 than its name says"):
        unpacked(tmp_path / "b.tar", tmp_path / "out")


def test_what_is_there_is_kept_and_what_differs_is_not_replaced(sealed: Path, sets: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    unpacked(sealed, out)
    time = (out / "wds_a_test/test/0.tar").stat().st_mtime_ns
    assert len(unpacked(sealed, out).kept) == 3
    assert (out / "wds_a_test/test/0.tar").stat().st_mtime_ns == time
    (out / "wds_a_test/test/9.tar").write_bytes(b"more")
    (out / "tasks.json").write_text("[]")
    with pytest.raises(RunError, match=r"tasks\.json, wds_a_test are there already, and not as the bundle has it"):
        unpacked(sealed, out)
    assert (out / "wds_a_test/test/9.tar").exists()
    assert unpacked(sealed, out, overwrite=True).made == ["wds_a_test"]
    assert files_of(out) == files_of(sets)
    shutil.rmtree(out / "wds_a_test")
    (out / "wds_a_test").write_text("a file")
    with pytest.raises(RunError, match="wds_a_test is there already"):
        unpacked(sealed, out)
    unpacked(sealed, out, overwrite=True)
    for elsewhere in (tmp_path / "elsewhere", tmp_path / "nowhere"):
        (out / "wds_a_test").rename(tmp_path / f"moved-{elsewhere.name}")
        (out / "wds_a_test").symlink_to(elsewhere)
        (tmp_path / "elsewhere").mkdir(exist_ok=True)
        assert unpacked(sealed, out, overwrite=True).made == ["wds_a_test"]
    assert files_of(out) == files_of(sets)
    assert list((tmp_path / "elsewhere").iterdir()) == []
    assert not [path.name for path in out.iterdir() if path.name.startswith(".tmp")]


@pytest.mark.long
def test_killed_at_any_moment_it_is_given_again(sets: Path, sealed: Path, tmp_path: Path) -> None:
    words = ["evalsets", "unpack", str(sealed), "--out", str(tmp_path / "out"), "--quiet"]
    assert kill_at([1, 3, 6, 9], words) == 4
    assert kill_at([999], words) == 0
    assert files_of(tmp_path / "out") == files_of(sets)
    words = ["evalsets", "pack", str(sets), "--out", str(tmp_path / "b.tar"), "--quiet"]
    assert kill_at([1, 2], words) == 2
    assert not (tmp_path / "b.tar").exists()
    assert kill_at([999], words) == 0
    assert (tmp_path / "b.tar").read_bytes() == sealed.read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["b.tar", "out"]


def test_no_room(sets: Path, sealed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dcfast.evaluate.place_set.free_bytes", lambda path: 10)
    with pytest.raises(OSError, match="bytes are needed and 10 are free"):
        unpacked(sealed, tmp_path / "out")
    with pytest.raises(OSError, match="bytes are needed and 10 are free"):
        packed(sets, tmp_path / "b.tar")
    assert list(tmp_path.iterdir()) == []


def test_what_is_not_packed(tmp_path: Path) -> None:
    home = write_cache(tmp_path / "sets", "today")
    cut = write_set(home, "cut", labelled(8), NAMES) / "test/0.tar"
    cut.write_bytes(cut.read_bytes()[:3000])
    with pytest.raises(EvalsetError) as caught:
        packed(home, tmp_path / "b.tar")
    for said in ("it lies in a cache: `dcfast evalsets convert`", "cut: 0.tar is damaged", "misc/winogavil"):
        assert said in str(caught.value)
    (tmp_path / "there.tar").write_text("mine")
    shutil.rmtree(home / "hf_cache")
    shutil.rmtree(home / "wds_cut_test")
    whole = write_set(home, "whole", labelled(8), NAMES)
    with pytest.raises(RunError, match="there already"):
        packed(home, tmp_path / "there.tar")
    with pytest.raises(RunError, match="lies in the set wds_whole_test"):
        packed(home, whole / "test/x.tar")
    with pytest.raises(RunError, match="is a directory"):
        packed(home, tmp_path)
    (tmp_path / "secret").write_text("[]")
    (whole / "riddles.json").symlink_to(tmp_path / "secret")
    (home / "tasks.json").symlink_to(tmp_path / "secret")
    with pytest.raises(
        EvalsetError, match=r"tasks\.json is a link that leads out of .*; whole: .*riddles\.json: it is a link"
    ):
        packed(home, tmp_path / "b.tar")
    (home / "tasks.json").unlink()
    (whole / "riddles.json").unlink()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["secret", "sets", "there.tar"]
    packed(home, tmp_path / "there.tar", overwrite=True)
    assert unpacked(tmp_path / "there.tar", tmp_path / "out").made == ["wds_whole_test"]


def test_a_set_that_changes_meanwhile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path / "sets"
    tar = write_set(home, "a", labelled(8), NAMES) / "test/0.tar"
    own = pack_sets.write_bundle

    def changed(*given: Any) -> None:
        tar.write_bytes(tar.read_bytes() + bytes(10_240))
        own(*given)

    monkeypatch.setattr(pack_sets, "write_bundle", changed)
    with pytest.raises(RunError, match=r"0\.tar has changed while it was packed"):
        packed(home, tmp_path / "b.tar")
    assert [path.name for path in tmp_path.iterdir()] == ["sets"]


def test_large_sizes_and_long_names_have_headers() -> None:
    """Beyond 8 GiB, and beyond 100 bytes of a name: as GNU tar has them."""
    name = "wds_a_test/test/" + "x" * 200 + ".tar"
    data = bundle._header(name, 3) + b"abc" + bytes(509) + bundle._header("wds_b_test/x", 9 << 30)
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        first = tar.next()
        assert first is not None
        assert (first.name, first.size) == (name, 3)
        second = tar.next()
        assert second is not None
        assert second.size == 9 << 30
    assert check_paths([BundleFile(name, 3, "0" * 64)]) == ""


def test_converted_sets_are_known_again_after_a_journey(tmp_path: Path) -> None:
    source = write_cache(tmp_path / "source", "script")
    convert_sets(ConvertOptions(str(source), str(tmp_path / "sets"), quiet=True))
    packed(tmp_path / "sets", tmp_path / "b.tar")
    unpacked(tmp_path / "b.tar", tmp_path / "there")
    again = convert_sets(ConvertOptions(str(source), str(tmp_path / "there"), quiet=True))
    assert (len(again.kept), again.made) == (2, [])


@pytest.mark.long
def test_memory_is_bounded(tmp_path: Path) -> None:
    """Of a set of 400 MB."""
    folder = write_set(tmp_path / "sets", "a", labelled(8), NAMES)
    with tarfile.open(folder / "test/1.tar", "w") as tar:
        header = tarfile.TarInfo("big.png")
        header.size = 400 << 20
        tar.addfile(header, io.BufferedReader(io.FileIO("/dev/zero")))
        label = tarfile.TarInfo("big.cls")
        label.size = 1
        tar.addfile(label, io.BytesIO(b"0"))
    (folder / "test/nshards.txt").write_text("2")
    script = (
        "import resource, sys; from dcfast import cli; import dcfast.evaluate.sets_command;"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss; cli.main(sys.argv[1:]);"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)"
    )
    for words in (
        ["pack", str(tmp_path / "sets"), "--out", str(tmp_path / "b.tar"), "--quiet"],
        ["unpack", str(tmp_path / "b.tar"), "--out", str(tmp_path / "out"), "--quiet"],
    ):
        done = subprocess.run(
            [sys.executable, "-c", script, "evalsets", *words], capture_output=True, text=True, check=True
        )
        assert int(done.stdout.split()[-1]) < 64 << 10, done.stdout
    assert (tmp_path / "out/wds_a_test/test/1.tar").stat().st_size == (folder / "test/1.tar").stat().st_size


def test_a_set_that_a_kill_left_aside_is_put_back(sealed: Path, tmp_path: Path) -> None:
    unpacked(sealed, tmp_path / "out")
    (tmp_path / "out/wds_a_test").rename(tmp_path / f"out/{ASIDE}wds_a_test")
    report = unpacked(sealed, tmp_path / "out")
    assert (report.made, len(report.kept)) == ([], 3)


def test_hashes_of_the_hub_come_along(sets: Path, tmp_path: Path) -> None:
    """What is verified where a set was fetched can be verified where it was unpacked."""
    home, there = tmp_path / "sets", tmp_path / "there"
    shutil.copytree(sets, home)
    write_lock(home)
    sealed = packed(home, tmp_path / "all.tar")
    some = packed(home, tmp_path / "some.tar", sets=["vtab/flowers"])
    assert packed(home, tmp_path / "again.tar").read_bytes() == sealed.read_bytes()
    for _ in range(2):
        unpacked(some, there)
        assert list(read_lock(there / LOCK_FILE).repos) == ["owner/wds_vtab-flowers_test"], "of what was packed"
    assert verify_sets(VerifyOptions(str(there), quiet=True)).gone == []
    assert unpacked(sealed, there).kept == ["wds_vtab-flowers_test"]
    assert read_lock(there / LOCK_FILE).repos == read_lock(home / LOCK_FILE).repos
    report = verify_sets(VerifyOptions(str(there), quiet=True))
    assert [verdict.by for verdict in report.verdicts] == [LOCK_FILE] * 3
    tar = there / "wds_a_test/test/1.tar"
    data = bytearray(tar.read_bytes())
    data[600] ^= 1
    tar.write_bytes(data)
    [problem] = [
        verdict.problems for verdict in verify_sets(VerifyOptions(str(there), quiet=True)).verdicts if verdict.problems
    ]
    assert "test/1.tar has SHA-256" in problem[0]
    shutil.copy(tar, home / "wds_a_test/test/1.tar")
    with pytest.raises(EvalsetError, match=r"wds_a_test/test/1\.tar is not as hub\.lock\.json has it: `dcfast evals"):
        packed(home, tmp_path / "other.tar")
    assert not [*tmp_path.glob("*.parts"), *there.glob(".tmp-*")]


def test_a_lock_file_of_a_stranger_is_read_before_any_set_is_in_place(sets: Path, tmp_path: Path) -> None:
    def sealed(text: str) -> Path:
        (tmp_path / LOCK_FILE).write_text(text)
        files = {LOCK_FILE: tmp_path / LOCK_FILE, "wds_a_test/classnames.txt": sets / "wds_a_test/classnames.txt"}
        bundle.write_bundle(tmp_path / "b.tar", {k: (v, file_state(v)) for k, v in files.items()}, lambda size: None)
        return tmp_path / "b.tar"

    repo = {"kind": "dataset", "commit": "0" * 40, "files": {}, "patterns": [], "folder": "../out", "flat": False}
    odd = {"a/b": {**repo, "files": {"../a": {"size": 1, "sha256": "0" * 64}}}}
    for text in ("[", json.dumps({"format": 1, "repos": odd}), json.dumps({"format": 9})):
        with pytest.raises(CorruptDataError):
            unpacked(sealed(text), tmp_path / "out")
        assert not (tmp_path / "out/wds_a_test").exists()
    places = {"a/a": "../out", "a/b": "wds_b_test", "a/c": "wds_a_test", "a/d": "wds_a_test/../../x"}
    strangers = {name: {**repo, "folder": folder} for name, folder in places.items()}
    unpacked(sealed(json.dumps({"format": 1, "repos": strangers})), tmp_path / "out")
    assert list(read_lock(tmp_path / "out" / LOCK_FILE).repos) == ["a/c"], "of the sets that are there"
    mine, wrong = {"a/e": {**repo, "folder": "wds_mine_test"}}, {"classnames.txt": {"size": 1, "sha256": "0" * 64}}
    (tmp_path / "out" / LOCK_FILE).write_text(json.dumps({"format": 1, "repos": mine}))
    for files, said in ((wrong, "says of wds_a_test/classnames.txt what"), ({}, "a/e in wds_a_test, that of .*wds_mi")):
        other = {"a/e": {**repo, "folder": "wds_a_test", "files": files}}
        with pytest.raises(EvalsetError, match=said):
            unpacked(sealed(json.dumps({"format": 1, "repos": other})), tmp_path / "out")
    assert read_lock(tmp_path / "out" / LOCK_FILE).repos["a/e"].folder == "wds_mine_test"


def test_the_command_lines(sets: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["evalsets", "pack", str(sets), "--out", str(tmp_path / "b.tar")]) == 0
    assert re.search(r"b\.tar: 3 sets, 1[0-9] files, [0-9,]+ bytes", capsys.readouterr().out)
    assert cli.main(["evalsets", "unpack", str(tmp_path / "b.tar"), "--out", str(tmp_path / "out")]) == 0
    assert "unpacked (3): wds_a_test" in capsys.readouterr().out
    assert cli.main(["evalsets", "pack", str(sets), "--out", str(tmp_path / "b.tar")]) == 1
    assert "--overwrite to replace it" in capsys.readouterr().err
