"""A hub that refuses, fails, lies, or goes away; and a fetch that is killed: what is said, and what is left."""

from __future__ import annotations

import errno
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pytest
from dcfast.errors import CorruptDataError, HubError
from dcfast.hub import LOCK_FILE, Fetched, fetch_repo, transfer
from local_hub import Fault, LocalHub, local_hub

REPO = "owner/name"
FILES = {"README.md": b"# hello\n", "a.parquet": b"PAR1" * 1000, "b.parquet": b"par2" * 50_000}


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalHub]:
    with local_hub({REPO: FILES}) as served:
        monkeypatch.setenv("HF_ENDPOINT", served.url)
        yield served


def fetch(tmp_path: Path, **more: Any) -> Fetched:
    return fetch_repo(REPO, tmp_path / "got", **{"patterns": ["*"], "lock": tmp_path / LOCK_FILE, **more})


def is_whole(tmp_path: Path) -> bool:
    there = {path.name: path.read_bytes() for path in (tmp_path / "got").rglob("*") if path.is_file()}
    return there == FILES and sorted(path.name for path in tmp_path.iterdir()) == ["got", LOCK_FILE]


REFUSALS: dict[str, tuple[Fault, str]] = {
    "401": (Fault(401), r"\(401: planted\): there is no such dataset, or no longer, or it is private"),
    "terms": (
        Fault("gated"),
        r"\(403: planted\): its terms were not accepted; open \S+/datasets/owner/name, accept them there and set HF_TO",
    ),
    "403 of a file": (Fault(403, "a.parquet", on="hub"), "its terms were not accepted"),
    "404 of a file": (
        Fault(404, "a.parquet", on="hub"),
        "there is no such revision, or file; name a branch",
    ),
    "429": (Fault(429, retry_after=0), r"failed 6 times in a row \(status 429\); give the same command again later"),
    "429, a day": (Fault(429, retry_after=86400), r"asks to wait 86,400 s \(status 429\)"),
    "500": (Fault(500, "a.parquet"), r"failed 6 times in a row \(status 500\)"),
    "400": (Fault(400), r"\(400: planted\): the hub refuses"),
    "the store": (Fault(403, on="cdn"), r"failed 6 times in a row \(status 403 of 127"),
    "cut": (Fault("cut", "a.parquet", on="cdn"), "failed 6 times in a row"),
    "wrong bytes": (
        Fault("wrong", "a.parquet", on="cdn"),
        r"a.parquet: other bytes came than were said: expected SHA-256 \w{64}; got SHA-256 \w{64}. They were removed",
    ),
    "wrong bytes of a small file": (
        Fault("wrong", "README.md"),
        r"README.md: other bytes came than were said: expected git blob \w{40}; got git blob \w{40}. They were removed",
    ),
    "endless": (Fault("long", "a.parquet", on="cdn"), "more than the 4,000 bytes came that were expected"),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_what_is_said_and_left(name: str, hub: LocalHub, tmp_path: Path) -> None:
    fault, said = REFUSALS[name]
    hub.faults.append(fault)
    with pytest.raises(HubError, match=said) as caught:
        fetch(tmp_path)
    assert "secret" not in str(caught.value)
    assert not (tmp_path / "got").exists(), "nothing that looks whole"
    assert not (tmp_path / LOCK_FILE).exists()
    hub.faults.clear()
    fetch(tmp_path)
    assert is_whole(tmp_path)


@pytest.mark.parametrize("kind", [429, 500, 503, 408, "cut", "ignores range"])
def test_faults_that_pass(kind: int | str, hub: LocalHub, tmp_path: Path) -> None:
    asked: int | str | None = 0 if kind == 429 else formatdate(time.time()) if kind == 503 else None
    hub.faults.append(Fault("cut", "b.parquet", times=1, on="cdn", at=70_000))
    hub.faults.append(Fault(kind, times=3, retry_after=asked, at=2_000))
    fetch(tmp_path)
    assert is_whole(tmp_path)


def test_a_file_continues_where_it_was_cut(hub: LocalHub, tmp_path: Path) -> None:
    for at in (70_000, 50_000):
        hub.faults.append(Fault("cut", "b.parquet", times=1, on="cdn", at=at))
    fetch(tmp_path, patterns=["b.parquet"])
    ranges = [one.range for one in hub.log if one.server == "cdn"]
    assert ranges == ["", "bytes=70000-", "bytes=120000-"]
    assert hub.sent("b.parquet") == len(FILES["b.parquet"]), "no byte came twice"


def test_what_a_failed_fetch_collected_is_not_fetched_again(hub: LocalHub, tmp_path: Path) -> None:
    hub.faults += [Fault("cut", "b.parquet", times=1, on="cdn", at=70_000), Fault(500, "b.parquet", on="cdn")]
    with pytest.raises(HubError):
        fetch(tmp_path)
    hub.faults.clear()
    before = hub.sent("b.parquet")
    hub.commit(REPO, {"a.parquet": b"another"})  # what was begun stays with its commit
    lines: list[str] = []
    fetch(tmp_path, say=lines.append)
    assert lines[0].startswith(f"{REPO}: going on with commit ")
    assert hub.sent("b.parquet") - before == len(FILES["b.parquet"]) - 70_000
    assert is_whole(tmp_path)


def test_a_beginning_of_other_bytes_is_thrown_away(hub: LocalHub, tmp_path: Path) -> None:
    hub.faults += [Fault("cut", "b.parquet", times=1, on="cdn", at=70_000), Fault(500, "b.parquet", on="cdn")]
    with pytest.raises(HubError):
        fetch(tmp_path, patterns=["b.parquet"])
    (part,) = (tmp_path / ".fetching-got/parts").iterdir()
    assert part.stat().st_size == 70_000
    part.write_bytes(b"x" * 60_000)
    hub.faults.clear()
    assert fetch(tmp_path, patterns=["b.parquet"]).fetched == 1
    assert (tmp_path / "got/b.parquet").read_bytes() == FILES["b.parquet"]
    part.parent.mkdir(parents=True)
    part.write_bytes(b"x" * 900_000)  # longer than the file
    (tmp_path / "got/b.parquet").unlink()
    fetch(tmp_path, patterns=["b.parquet"])
    assert (tmp_path / "got/b.parquet").read_bytes() == FILES["b.parquet"]


def test_a_commit_that_vanished(hub: LocalHub, tmp_path: Path) -> None:
    first = hub.head(REPO)
    fetch(tmp_path, patterns=["*.md"])
    second = hub.commit(REPO, FILES)
    hub.forget(REPO, first)
    with pytest.raises(
        HubError, match=r"the commit that hub.lock.json names has vanished; take what is there today by --update-lock"
    ):
        fetch(tmp_path)
    assert fetch(tmp_path, patterns=["*.md"]).already_there == 1, "what is there needs no hub"
    assert fetch(tmp_path, update_lock=True).commit == second
    assert is_whole(tmp_path)
    with pytest.raises(HubError, match="there is no such revision, or file; name a branch"):
        fetch(tmp_path, update_lock=True, revision="nothing")
    hub.forget(REPO)
    with pytest.raises(HubError, match="there is no such dataset, or no longer"):
        fetch(tmp_path, update_lock=True)


def test_a_begun_commit_that_vanished(hub: LocalHub, tmp_path: Path) -> None:
    hub.faults.append(Fault(500, "b.parquet"))
    with pytest.raises(HubError):
        fetch(tmp_path)
    hub.faults.clear()
    first = hub.head(REPO)
    hub.commit(REPO, FILES)
    hub.forget(REPO, first)
    with pytest.raises(HubError, match="the commit with which this fetch was begun has vanished; take what"):
        fetch(tmp_path)
    fetch(tmp_path, update_lock=True)
    assert is_whole(tmp_path)


def test_a_file_of_the_lock_that_is_no_longer_there(hub: LocalHub, tmp_path: Path) -> None:
    fetch(tmp_path)
    (tmp_path / "got/a.parquet").unlink()
    del hub.repos[REPO].commits[hub.head(REPO)]["a.parquet"]
    with pytest.raises(HubError, match=r"file a.parquet has vanished; take what is there today by --update-lock"):
        fetch(tmp_path)


def test_the_hub_says_otherwise_than_the_lock(hub: LocalHub, tmp_path: Path) -> None:
    fetch(tmp_path, patterns=["a.parquet"])
    hub.listed["a.parquet"] = {"lfs": {"oid": "0" * 64, "size": 4000, "pointerSize": 1}}
    with pytest.raises(HubError, match=r"a.parquet of owner/name is SHA-256 \w{64} there, and the hub says SHA-256 00"):
        fetch(tmp_path)


STRANGE: dict[str, tuple[dict[str, object], str]] = {
    "up": ({"path": "../../up.parquet"}, r"the file name '../../up.parquet' leads out of the folder"),
    "absolute": ({"path": "/etc/up.parquet"}, "leads out of the folder"),
    "a dot": ({"path": "a/./up.parquet"}, "leads out of the folder"),
    "a NUL": ({"path": "a\0.parquet"}, "holds characters that do not print"),
    "escape codes": ({"path": "\x1b[31m.parquet"}, "holds characters that do not print"),
    "long": ({"path": "a" * 300}, "is too long"),
    "deep": ({"path": "a/" * 600 + "b"}, "is too long"),
    "twice": ({"path": "b.parquet"}, "'b.parquet' stands there twice"),
    "a file and a folder": ({"path": "b.parquet/a"}, "b.parquet is a file and a folder"),
    "no hash": ({"lfs": None, "oid": "none"}, "it tells no hash; look at HF_ENDPOINT"),
    "a bad hash": ({"lfs": {"oid": "../../x", "size": 1, "pointerSize": 1}}, "it tells no hash; look at HF_ENDPOINT"),
    "another size": (
        {"lfs": {"oid": "0" * 64, "size": 4001, "pointerSize": 1}},
        "expected 4,001 bytes; the server has",
    ),
    "too large": (
        {"lfs": {"oid": "0" * 64, "size": 1 << 62, "pointerSize": 1}},
        r"TB are to be fetched, and .* are free",
    ),
}


@pytest.mark.parametrize("name", STRANGE)
def test_a_listing_of_a_stranger(name: str, hub: LocalHub, tmp_path: Path) -> None:
    change, said = STRANGE[name]
    hub.listed["a.parquet"] = change
    folder = tmp_path / "deep/er"
    with pytest.raises(HubError, match=said):
        fetch(folder)
    assert not any(path.is_file() and path.name != "plan.json" for path in tmp_path.rglob("*up*"))
    assert not (folder / "got").exists()


@pytest.mark.parametrize(
    ("listed", "said"),
    [
        ({"size": -1}, "size: expected a whole number >= 0"),
        ({"type": 3}, "expected text; got 3"),
        ({"path": None}, "path: expected text"),
    ],
)
def test_a_listing_that_is_none(listed: dict[str, object], said: str, hub: LocalHub, tmp_path: Path) -> None:
    hub.listed["a.parquet"] = listed
    with pytest.raises(CorruptDataError, match=said):
        fetch(tmp_path)


def test_answers_that_are_no_listing(hub: LocalHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dcfast.hub.repository.MOST_FILES", 1)
    hub.page = 1
    with pytest.raises(HubError, match="the listing has no end"):
        fetch(tmp_path)
    monkeypatch.setattr("dcfast.hub.transfer.read_page.__defaults__", (10,))
    with pytest.raises(HubError, match="lists more than 10 bytes on a page"):
        fetch(tmp_path)
    monkeypatch.undo()
    hub.commit(REPO, {**FILES, "api/datasets/owner/name": b"<html>a page of a proxy"})
    monkeypatch.setenv("HF_ENDPOINT", f"{hub.url}/datasets/{REPO}/resolve/main")
    with pytest.raises(HubError, match=r"answers with no listing \(not json.*; look at HF_ENDPOINT"):
        fetch(tmp_path)


def test_nobody_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with local_hub({}) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
    with pytest.raises(HubError, match=r"http://127\S+ cannot be reached \(ConnectError: .*; look at the network"):
        fetch(tmp_path)
    assert list(tmp_path.iterdir()) == []
    for bad in ("huggingface.co", "https://me:secret@there", "file:///etc", "https://a b"):
        monkeypatch.setenv("HF_ENDPOINT", bad)
        with pytest.raises(ValueError, match="HF_ENDPOINT must be an address") as caught:
            fetch(tmp_path)
        assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"Retry-After": "7"}, 7.0),
        ({"Retry-After": "soon"}, None),
        ({"Retry-After": "-1"}, None),
        ({"Retry-After": formatdate(0)}, 0.0),
        ({"Retry-After": "Wed, 21 Oct 99999999999999999999 07:28:00 GMT"}, None),
        ({"RateLimit": '"api";r=0;t=55'}, 55.0),
        ({"RateLimit": "x" * 5000}, None),
    ],
)
def test_how_long_a_server_asks_to_wait(headers: dict[str, str], seconds: float | None) -> None:
    assert transfer._asked_wait(headers) == seconds


def test_offline(hub: LocalHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(HubError, match="HF_HUB_OFFLINE is set"):
        fetch(tmp_path)
    assert not hub.log


def test_a_hub_that_hangs(hub: LocalHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfer, "TIMEOUT_S", 0.2)
    hub.faults.append(Fault("hang", "b.parquet", times=2, on="cdn"))
    fetch(tmp_path)
    assert is_whole(tmp_path)


def test_a_hub_that_trickles(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfer, "TIMEOUT_S", 1.0)
    now = iter(range(1000))
    monkeypatch.setattr("time.monotonic", lambda: float(next(now)))

    class Trickle:
        def iter_raw(self) -> Iterator[bytes]:
            yield from [b"x"] * 5000

    server = transfer.Server("there", lambda status, headers, url: HubError("no"))
    with pytest.raises(transfer._AgainError, match="2 bytes came in 2 s"):
        list(transfer._chunks(server, Trickle()))


def test_a_full_disk(hub: LocalHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(transfer._File, "more", full)
    with pytest.raises(HubError, match=r"no space is left \(No space left on device\); free some"):
        fetch(tmp_path)
    monkeypatch.undo()
    monkeypatch.setenv("HF_ENDPOINT", hub.url)
    fetch(tmp_path)
    assert is_whole(tmp_path)


CODE = """
import sys
from pathlib import Path
from dcfast.hub import fetch_repo
here = Path(sys.argv[1])
fetch_repo("owner/name", here / "got", patterns=["*"], lock=here / "hub.lock.json")
"""


def test_killed_in_the_middle_and_gone_on(hub: LocalHub, tmp_path: Path) -> None:
    """Killed while the last file hangs: what was whole is not fetched again, and what was begun goes on."""
    hub.faults += [
        Fault("cut", "b.parquet", times=1, on="cdn", at=150_000),
        Fault("hang", "b.parquet", times=1, on="cdn"),
    ]
    process = subprocess.Popen([sys.executable, "-c", CODE, str(tmp_path)])
    parts = tmp_path / ".fetching-got/files/a.parquet"
    waited = threading.Event()
    for _ in range(600):
        if parts.exists() and hub.asked("b.parquet", server="hub") == 0 and len(hub.faults) and not hub.faults[1].times:
            break
        waited.wait(0.05)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "got").exists()
    assert not (tmp_path / LOCK_FILE).exists()
    assert sorted(path.name for path in (tmp_path / ".fetching-got").iterdir()) == ["files", "parts", "plan.json"]
    before = len(hub.log)
    done = fetch(tmp_path)
    assert (done.fetched, done.already_there) == (3, 0)
    assert is_whole(tmp_path)
    again = [one for one in hub.log[before:] if one.server == "cdn"]
    assert [(re.sub(".*/", "", one.path), one.range) for one in again] == [("b.parquet", "bytes=150000-")]


@pytest.mark.long
@pytest.mark.slow
def test_killed_before_any_rename(hub: LocalHub, tmp_path: Path) -> None:
    """Killed right before the n-th file gets its name, for each n: the same call ends as if nothing had been."""
    code = CODE.replace(
        "here =",
        "import os, signal\n"
        "calls, own, move = [0], os.replace, os.rename\n"
        "def counted(how):\n"
        "    def call(*given, **more):\n"
        "        calls[0] += 1\n"
        "        if calls[0] == int(sys.argv[2]):\n"
        "            os.kill(os.getpid(), signal.SIGKILL)\n"
        "        return how(*given, **more)\n"
        "    return call\n"
        "os.replace, os.rename = counted(own), counted(move)\n"
        "here =",
    )
    for existing in (False, True):
        place = tmp_path / f"{existing}"
        place.mkdir()
        if existing:
            (place / "got").mkdir()
            (place / "got/README.md").write_bytes(b"another")
        killed = 0
        for at in range(1, 9):
            done = subprocess.run([sys.executable, "-c", code, str(place), str(at)], check=False)
            killed += done.returncode == -signal.SIGKILL
            if done.returncode == 0:
                break
        assert killed >= 3
        assert is_whole(place)
