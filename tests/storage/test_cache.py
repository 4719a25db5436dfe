"""The cache of what was read of URLs: whole, bounded, shared, and never believed where it is damaged."""

from __future__ import annotations

import errno
import fcntl
import logging
import multiprocessing
import os
import threading
import time
from pathlib import Path

import pytest
from dcfast.storage import cache as cache_module
from dcfast.storage.cache import Cache

SIZE = 3000
"""Of an entry: a block on disk."""
BLOCK = 4096


def content(number: int) -> bytes:
    return bytes([number % 251]) * SIZE


def got(cache: Cache, number: int) -> bytes | None:
    place = bytearray(SIZE)
    return bytes(place) if cache.read_into(f"key {number}", memoryview(place)) else None


def files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file() and path.name != "used")


def on_disk(folder: Path) -> int:
    return sum(-(-path.stat().st_size // BLOCK) * BLOCK for path in files(folder))


def test_what_was_put_is_read_by_key_and_length(tmp_path: Path) -> None:
    cache = Cache(tmp_path / "cache", 100 * BLOCK)
    assert got(cache, 1) is None
    cache.put("key 1", content(1))
    assert got(cache, 1) == content(1)
    assert got(Cache(tmp_path / "cache", 100 * BLOCK), 1) == content(1)
    assert got(cache, 2) is None
    assert not cache.read_into("key 1", memoryview(bytearray(SIZE - 1)))
    assert got(cache, 1) is None  # an entry of another length is damaged: it has gone


@pytest.mark.parametrize("damage", ["bit", "cut", "longer", "empty", "foreign", "moved", "folder", "link", "pipe"])
def test_damaged_and_foreign_files_are_not_believed(tmp_path: Path, damage: str) -> None:
    cache = Cache(tmp_path, 100 * BLOCK)
    cache.put("key 1", content(1))
    [path] = files(tmp_path)
    data = path.read_bytes()
    path.unlink()
    if damage == "folder":
        path.mkdir()
    elif damage == "pipe":
        os.mkfifo(path)
    elif damage == "link":
        (tmp_path / "elsewhere").write_bytes(data)
        path.symlink_to(tmp_path / "elsewhere")
    elif damage == "moved":
        cache.put("key 2", content(2))
        [other] = files(tmp_path)
        path.parent.mkdir(exist_ok=True)
        other.rename(path)
    else:
        flipped = data[:-1] + bytes([data[-1] ^ 1])
        changed = {"bit": flipped, "cut": data[:-1], "longer": data + b"x", "empty": b"", "foreign": b"x" * len(data)}
        path.write_bytes(changed[damage])
    assert got(cache, 1) is None
    cache.put("key 1", content(1))
    if damage != "folder":
        assert got(cache, 1) == content(1)


def test_the_bound_holds_and_the_least_recently_used_go(tmp_path: Path) -> None:
    cache = Cache(tmp_path, 20 * BLOCK)
    for number in range(20):
        cache.put(f"key {number}", content(number))
    for age, path in enumerate(sorted(files(tmp_path), key=lambda path: path.stat().st_mtime_ns)):
        os.utime(path, (age, age))
    assert [got(cache, number) for number in (0, 1)] == [content(0), content(1)]  # used now
    cache.put("key 20", content(20))
    assert on_disk(tmp_path) <= 20 * BLOCK
    kept = {number for number in range(21) if got(cache, number) is not None}
    assert {0, 1, 20} <= kept
    assert not kept & {2, 3}
    for number in range(100, 300):
        cache.put(f"key {number}", content(number))
        assert on_disk(tmp_path) <= 20 * BLOCK
    cache.put("large", bytes(6 * BLOCK))  # more than a quarter of the bound
    assert not cache.read_into("large", memoryview(bytearray(6 * BLOCK)))


def _fill(folder: str, most: int, first: int) -> None:
    cache = Cache(folder, most)
    for number in range(first, first + 400):
        cache.put(f"key {number}", content(number))
        got(cache, number)


def test_processes_share_the_bound_and_one_is_killed(tmp_path: Path) -> None:
    most, kind = 40 * BLOCK, multiprocessing.get_context("spawn")
    workers = [kind.Process(target=_fill, args=(str(tmp_path), most, 1000 * k)) for k in range(3)]
    for worker in workers:
        worker.start()
    largest = 0
    while any(worker.is_alive() for worker in workers):
        try:
            largest = max(largest, on_disk(tmp_path))
        except FileNotFoundError:
            continue  # removed while it was counted
        if largest > 10 * BLOCK:
            workers[0].kill()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers[1:]] == [0, 0]
    assert 10 * BLOCK < largest <= most + 3 * BLOCK
    cache = Cache(tmp_path, most)  # what the killed one had counted, or left half written, is no loss
    for number in range(50):
        cache.put(f"key {number}", content(number))
    assert on_disk(tmp_path) <= most
    assert got(cache, 49) == content(49)


def test_half_written_files_go_when_they_are_old(tmp_path: Path) -> None:
    cache = Cache(tmp_path, 8 * BLOCK)
    cache.put("key 0", content(0))
    folder = files(tmp_path)[0].parent
    young, old = folder / ".tmp-1-abcdef01-young", folder / ".tmp-1-abcdef01-old"
    for path in (young, old):
        path.write_bytes(b"x")
    os.utime(old, (1, 1))
    for number in range(20):
        cache.put(f"key {number}", content(number))
    assert (young.exists(), old.exists()) == (True, False)


def test_a_full_disk_is_said_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    cache = Cache(tmp_path, 100 * BLOCK)
    cache.put("key 1", content(1))

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(cache_module.os, "write", full)
    with caplog.at_level(logging.WARNING, "dcfast"):
        for number in range(2, 5):
            cache.put(f"key {number}", content(number))
    assert [record.getMessage().split(":")[0] for record in caplog.records] == [
        f"the cache in {tmp_path} cannot be written (No space left on device)"
    ]
    assert got(cache, 1) == content(1)
    assert [path.name.startswith(".tmp-") for path in files(tmp_path)] == [False]


def test_nobody_waits_for_a_lock(tmp_path: Path) -> None:
    cache = Cache(tmp_path, 100 * BLOCK)
    cache.put("key 1", content(1))
    held = os.open(tmp_path / "used", os.O_RDWR)
    fcntl.flock(held, fcntl.LOCK_EX)
    began = time.monotonic()
    for number in range(2, 30):
        cache.put(f"key {number}", content(number))
    assert time.monotonic() - began < 5
    assert got(cache, 1) == content(1)
    assert got(cache, 29) is None
    os.close(held)


@pytest.mark.parametrize("text", [b"", b"nonsense", b"-5", b"9" * 40])
def test_a_foreign_count_is_counted_anew(tmp_path: Path, text: bytes) -> None:
    cache = Cache(tmp_path, 10 * BLOCK)
    for number in range(5):
        cache.put(f"key {number}", content(number))
    (tmp_path / "used").write_bytes(text)
    for number in range(5, 40):
        cache.put(f"key {number}", content(number))
    assert on_disk(tmp_path) <= 10 * BLOCK
    assert got(cache, 39) == content(39)


def test_threads_read_and_write_the_same_entries(tmp_path: Path) -> None:
    cache = Cache(tmp_path, 12 * BLOCK)
    wrong: list[int] = []

    def work() -> None:
        for number in [*range(20)] * 5:
            cache.put(f"key {number}", content(number))
            found = got(cache, number)
            if found is not None and found != content(number):
                wrong.append(number)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert on_disk(tmp_path) <= 12 * BLOCK


@pytest.mark.parametrize("text", [b"9" * 32, b"\0" * 40, b"", b"-1", b"x" * 20])
def test_a_damaged_count_is_made_anew_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: bytes) -> None:
    cache = Cache(tmp_path, 100 * BLOCK)
    cache.put("key 0", content(0))
    (tmp_path / "used").write_bytes(text)
    counted: list[int] = []
    count = Cache._count
    monkeypatch.setattr(Cache, "_count", lambda self: counted.append(1) or count(self))
    monkeypatch.setattr(Cache, "_clear", lambda *_: pytest.fail("there is room"))
    for number in range(1, 5):
        cache.put(f"key {number}", content(number))
    assert len(counted) == 1
    assert int((tmp_path / "used").read_bytes()) == on_disk(tmp_path) == 5 * BLOCK
