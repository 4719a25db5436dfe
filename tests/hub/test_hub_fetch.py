"""Files of a repository: fetched once, whole and verified, by the lock, and again only where something is wrong."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from dcfast.errors import CorruptDataError, HubError
from dcfast.hub import LOCK_FILE, Fetched, fetch_repo, read_lock, verify_folder
from local_hub import Fault, LocalHub, local_hub

REPO = "owner/name"
FILES = {
    "README.md": b"# hello\n",
    "a.parquet": b"PAR1" * 1000,
    "b.parquet": b"par2" * 5000,
    "empty.txt": b"",
    "a.npz": b"PK" * 700,
    "test/0.tar": b"tar" * 500,
}


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalHub]:
    with local_hub({REPO: FILES, "owner/other": {"a.parquet": b"x"}}) as served:
        monkeypatch.setenv("HF_ENDPOINT", served.url)
        yield served


def fetch(tmp_path: Path, patterns: list[str] | None = None, **more: object) -> tuple[Fetched, list[str]]:
    said: list[str] = []
    given = {"patterns": patterns or ["*.parquet", "*.txt", "*.md"], "lock": tmp_path / LOCK_FILE, "say": said.append}
    return fetch_repo(REPO, tmp_path / "got", **{**given, **more}), said  # type: ignore[arg-type]


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def wanted(*names: str) -> dict[str, bytes]:
    return {name: FILES[name] for name in names}


def test_fetched_locked_and_not_again(hub: LocalHub, tmp_path: Path) -> None:
    first = hub.head(REPO)
    done, said = fetch(tmp_path)
    names = ["README.md", "a.parquet", "b.parquet", "empty.txt"]
    assert contents(tmp_path / "got") == wanted(*names)
    assert done == Fetched(REPO, first, names, sum(len(FILES[name]) for name in names), 4, 0)
    assert said == [f"{REPO} at {first[:12]}: 4 files, 24 kB; to fetch: 4, 24 kB", f"{REPO}: locked at commit {first}"]
    entry = read_lock(tmp_path / LOCK_FILE).repos[REPO]
    assert (entry.kind, entry.commit, entry.folder, entry.flat) == ("dataset", first, "got", False)
    assert {path: file.sha256 for path, file in entry.files.items()} == {
        name: hashlib.sha256(FILES[name]).hexdigest() for name in names
    }
    assert sorted(path.name for path in tmp_path.iterdir()) == ["got", LOCK_FILE]
    assert {one.token for one in hub.log} == {""}
    assert all(one.headers["User-Agent"].startswith("dcfast/") for one in hub.log)

    hub.commit(REPO, {"a.parquet": b"another"})
    before = len(hub.log)
    done, said = fetch(tmp_path)
    assert (done.fetched, done.already_there, done.commit) == (0, 4, first)
    assert len(hub.log) == before, "the lock says it all: the hub is not asked"

    (tmp_path / "got/a.parquet").write_bytes(b"PAR2" * 1000)
    (tmp_path / "got/b.parquet").unlink()
    (tmp_path / "got/mine").write_bytes(b"stays")
    done, _ = fetch(tmp_path)
    assert (done.fetched, done.already_there) == (2, 2)
    assert contents(tmp_path / "got") == {**wanted(*names), "mine": b"stays"}
    assert {one.path.rpartition("/")[2] for one in hub.log[before:]} == {"a.parquet", "b.parquet"}


def test_more_patterns_come_from_the_same_commit(hub: LocalHub, tmp_path: Path) -> None:
    first = hub.head(REPO)
    fetch(tmp_path, ["*.parquet"])
    hub.commit(REPO, {"a.parquet": b"another", "b.npz": b"new"})
    done, said = fetch(tmp_path, ["*.parquet", "*.npz"])
    assert (done.commit, done.files, done.fetched) == (first, ["a.npz", "a.parquet", "b.parquet"], 1)
    assert said[-1] == f"{REPO}: the lock had commit {first[:12]}, has {first[:12]}; 1 new: a.npz"
    done, _ = fetch(tmp_path, ["*.parquet"])
    assert set(read_lock(tmp_path / LOCK_FILE).repos[REPO].files) == {"a.npz", "a.parquet", "b.parquet"}


def test_the_lock_is_renewed_on_demand(hub: LocalHub, tmp_path: Path) -> None:
    first = hub.head(REPO)
    fetch(tmp_path, ["*.parquet"])
    second = hub.commit(REPO, {"a.parquet": b"another", "c.parquet": b"new"})
    done, said = fetch(tmp_path, ["*.parquet"], update_lock=True)
    assert (done.commit, done.fetched) == (second, 2)
    assert said[-1] == (
        f"{REPO}: the lock had commit {first[:12]}, has {second[:12]}; 1 changed: a.parquet; 1 new: c.parquet; "
        "1 no longer in it, which stay in the folder: b.parquet"
    )
    assert contents(tmp_path / "got")["a.parquet"] == b"another"
    assert read_lock(tmp_path / LOCK_FILE).repos[REPO].commit == second
    done, said = fetch(tmp_path, ["*.parquet"], update_lock=True, revision=first)
    assert (done.commit, contents(tmp_path / "got")["a.parquet"]) == (first, FILES["a.parquet"])
    with pytest.raises(HubError, match=f"is locked at commit {first}, and revision {second} is asked for"):
        fetch(tmp_path, revision=second)
    fetch(tmp_path, ["*.parquet"], revision="main")  # the lock stands for it


def test_a_lock_of_somebody_else_brings_the_same_bytes(hub: LocalHub, tmp_path: Path) -> None:
    fetch(tmp_path)
    hub.commit(REPO, {"a.parquet": b"another"})
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / LOCK_FILE).write_bytes((tmp_path / LOCK_FILE).read_bytes())
    done, _ = fetch(tmp_path / "there")
    assert contents(tmp_path / "there/got") == contents(tmp_path / "got")
    assert done.fetched == 4


def test_several_repositories_have_one_lock(hub: LocalHub, tmp_path: Path) -> None:
    fetch(tmp_path)
    fetch_repo("owner/other", tmp_path / "other", patterns=["*"], lock=tmp_path / LOCK_FILE)
    assert set(read_lock(tmp_path / LOCK_FILE).repos) == {REPO, "owner/other"}
    with pytest.raises(HubError, match="folder other holds files of owner/other, and owner/name is asked for"):
        fetch_repo(REPO, tmp_path / "other", patterns=["*"], lock=tmp_path / LOCK_FILE)
    with pytest.raises(HubError, match="owner/name is a dataset there; asked for as a model"):
        fetch(tmp_path, kind="model")


def test_models_and_revisions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with local_hub({}, models={"owner/model": {"w.bin": b"1"}}) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url + "/")
        first = hub.head("owner/model")
        hub.commit("owner/model", {"w.bin": b"2"})
        done = fetch_repo(
            "owner/model", tmp_path / "m", patterns=["*"], lock=tmp_path / LOCK_FILE, kind="model", revision=first
        )
        assert (done.commit, (tmp_path / "m/w.bin").read_bytes()) == (first, b"1")


def test_flattened(hub: LocalHub, tmp_path: Path) -> None:
    hub.commit(REPO, {"part_0/a.parquet": b"a", "part_1/b.parquet": b"b", "c.parquet": b"c"})
    done, _ = fetch(tmp_path, ["*/*.parquet"], flatten=True)
    assert (done.files, contents(tmp_path / "got")) == (
        ["a.parquet", "b.parquet"],
        {"a.parquet": b"a", "b.parquet": b"b"},
    )
    entry = read_lock(tmp_path / LOCK_FILE).repos[REPO]
    assert (entry.flat, set(entry.files)) == (True, {"part_0/a.parquet", "part_1/b.parquet"})
    assert verify_folder(tmp_path / "got", entry) == []
    hub.commit(REPO, {"part_0/a.parquet": b"a", "part_1/a.parquet": b"b"})
    with pytest.raises(HubError, match=r"part_0/a.parquet and part_1/a.parquet would both become a.parquet"):
        fetch(tmp_path, ["*/*.parquet"], flatten=True, update_lock=True)


def test_many_pages_of_a_listing(hub: LocalHub, tmp_path: Path) -> None:
    hub.page = 2
    assert fetch(tmp_path, ["*"])[0].files == sorted(FILES)


def test_what_is_not_fetched_before_it_is_known_to_be_right(hub: LocalHub, tmp_path: Path) -> None:
    for given, said in (
        ({"patterns": ["*.zip"]}, r"dataset owner/name at commit \w{12} has no file like \*.zip"),
        ({"required": ["a.parquet", "classnames.txt"]}, r"owner/name at commit \w{12} lacks classnames.txt"),
    ):
        with pytest.raises(HubError, match=said):
            fetch(tmp_path, **given)  # type: ignore[arg-type]
    for given, error, said in (
        ({"kind": "space"}, ValueError, "kind must be one of dataset, model; got 'space'"),
        ({"patterns": "*.parquet"}, TypeError, r"patterns must be a list of patterns; got the text '\*.parquet'"),
        ({"patterns": []}, ValueError, "patterns must name files"),
        ({"revision": ""}, ValueError, "revision must be a branch"),
    ):
        with pytest.raises(error, match=said):
            fetch_repo(REPO, tmp_path / "got", **{"patterns": ["*"], "lock": tmp_path / LOCK_FILE, **given})  # type: ignore[arg-type]
    for name in ("../up", "/etc", "a/b/c", "", "a b", "a..b"):
        with pytest.raises(ValueError, match="repo must be a repository of the hub"):
            fetch_repo(name, tmp_path / "got", patterns=["*"], lock=tmp_path / LOCK_FILE)
    (tmp_path / "got").write_bytes(b"a file")
    with pytest.raises(NotADirectoryError, match="it is a file; name a folder"):
        fetch(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["got"]
    assert not hub.sent()


def test_a_folder_that_the_reference_left_partial(hub: LocalHub, tmp_path: Path) -> None:
    (tmp_path / "got").mkdir()
    (tmp_path / "got/a.parquet").write_bytes(FILES["a.parquet"])
    (tmp_path / "got/b.parquet").write_bytes(FILES["b.parquet"][:100])
    done, _ = fetch(tmp_path, ["*.parquet"])
    assert (done.fetched, done.already_there) == (1, 1)
    assert contents(tmp_path / "got") == wanted("a.parquet", "b.parquet")
    assert hub.asked("a.parquet") == 0


def test_verify_folder(hub: LocalHub, tmp_path: Path) -> None:
    fetch(tmp_path, ["*.parquet", "*.txt", "*.md"])
    got, entry = tmp_path / "got", read_lock(tmp_path / LOCK_FILE).repos[REPO]
    (got / "more").write_bytes(b"extra files are fine")
    assert verify_folder(got, entry, threads=1) == []
    fetch_repo("owner/other", tmp_path / "other", patterns=["*"], lock=tmp_path / LOCK_FILE)
    lock = read_lock(tmp_path / LOCK_FILE)
    assert verify_folder(got, lock) == verify_folder(tmp_path / "other", lock) == []
    with pytest.raises(ValueError, match=r"it has owner/name, owner/other: pass lock.repos\[NAME\]"):
        verify_folder(tmp_path, lock)
    (got / "README.md").unlink()
    (got / "a.parquet").write_bytes(b"short")
    (got / "b.parquet").write_bytes(FILES["b.parquet"][::-1])
    sha256 = [hashlib.sha256(data).hexdigest() for data in (FILES["b.parquet"][::-1], FILES["b.parquet"])]
    assert verify_folder(got, entry) == [
        f"{got}/README.md is missing",
        f"{got}/a.parquet has 5 bytes; expected 4,000",
        f"{got}/b.parquet has SHA-256 {sha256[0]}; expected {sha256[1]}",
    ]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"commit": "main"}, "commit must be 40 hex digits; got 'main'"),
        ({"kind": "space"}, "kind must be one of dataset, model"),
        ({"files": {"../up": {"size": 1, "sha256": "0" * 64}}}, r"the file name '../up' leads out of the folder"),
        ({"files": {"/etc/x": {"size": 1, "sha256": "0" * 64}}}, r"the file name '/etc/x' leads out of the folder"),
        ({"files": {"a": {"size": 1, "sha256": "0"}}}, "sha256 of a must be 64 hex digits"),
        ({"files": {"a": {"size": -1, "sha256": "0" * 64}}}, "size: expected a whole number >= 0"),
    ],
)
def test_a_lock_is_a_strangers(change: dict[str, object], said: str, tmp_path: Path) -> None:
    entry = {"kind": "dataset", "commit": "0" * 40, "files": {}}
    path = tmp_path / LOCK_FILE
    path.write_text(json.dumps({"format": 1, "repos": {REPO: {**entry, **change}}}))
    with pytest.raises(CorruptDataError, match=said):
        read_lock(path)
    with pytest.raises(CorruptDataError, match=said):
        fetch(tmp_path)
    path.write_text(json.dumps({"format": 2, "repos": {}}))
    with pytest.raises(CorruptDataError, match="format 2; expected 1"):
        read_lock(path)
    path.write_text(json.dumps({"format": 1, "repos": {"../x": entry}}))
    with pytest.raises(CorruptDataError, match="expected a repository, owner/name"):
        read_lock(path)


def test_private_repositories_and_where_the_token_goes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with local_hub({REPO: FILES}, private={REPO: "secret"}) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        with pytest.raises(HubError, match=r"\(401: .*or it is private \(set HF_TOKEN to a token that may read it\)"):
            fetch(tmp_path)
        monkeypatch.setenv("HF_TOKEN", "wrong")
        with pytest.raises(HubError, match=r"\(401: .*HF_TOKEN may not read it"):
            fetch(tmp_path)
        monkeypatch.setenv("HF_TOKEN", "secret")
        fetch(tmp_path)
        assert {one.token for one in hub.log if one.server == "cdn"} == {""}
        monkeypatch.setenv("HF_HUB_DISABLE_IMPLICIT_TOKEN", "1")
        with pytest.raises(HubError, match="set HF_TOKEN to a token"):
            fetch(tmp_path, update_lock=True)


def test_through_a_link_to_another_disk(hub: LocalHub, tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "got").symlink_to(tmp_path / "disk")
    fetch(tmp_path, ["test/*"])
    assert contents(tmp_path / "disk") == wanted("test/0.tar")
    assert (tmp_path / "got").is_symlink()


def test_no_link_in_the_folder_leads_out_of_it(hub: LocalHub, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "got").mkdir()
    (tmp_path / "got/test").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(HubError, match="a link leads out of"):
        fetch(tmp_path, ["test/*"])
    assert contents(tmp_path / "elsewhere") == {}


def test_another_fetch_is_at_work(hub: LocalHub, tmp_path: Path) -> None:
    from dcfast.errors import RunError
    from dcfast.storage.lock import locked

    (tmp_path / ".fetching-got").mkdir()
    with (
        locked(tmp_path / ".fetching-got", "busy", folder=True),
        pytest.raises(RunError, match="another fetch into it"),
    ):
        fetch(tmp_path)
    hub.faults.append(Fault(500, times=1))
    assert fetch(tmp_path)[0].fetched == 4
