"""The journal of a shard: what was fetched is there after a kill, whatever of the last record was written."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest
from dcfast.acquire.causes import SUCCESS
from dcfast.acquire.spool import Fetched, Spool

IDENTITY = "a" * 64


def _filled(path: Path) -> list[int]:
    """A journal of three rows; where each record ends."""
    spool, ends = Spool(path, IDENTITY), []
    for number in range(3):
        spool.add(Fetched(number, SUCCESS, final_url=f"http://a.de/{number}", width=number), b"image %d" % number * 50)
        ends.append(path.stat().st_size)
    spool.close()
    return ends


def _rows(spool: Spool) -> list[int]:
    """The rows of which it is known what became of them."""
    return [number for number in range(10) if number in spool]


def test_a_long_record_is_read_as_a_whole(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "1.spool", IDENTITY)
    for size in (900, 960, 1_000, 1_024, 70_000):  # about what is read at once, and far more
        long = Fetched(size, SUCCESS, exif="e" * size)
        spool.add(long, b"image")
        assert spool.fetched(size) == long
        assert spool.image(size) == b"image"
    assert len(spool) == 5


def test_what_was_put_in_is_there_again(tmp_path: Path) -> None:
    _filled(tmp_path / "s/1.spool")
    spool = Spool(tmp_path / "s/1.spool", IDENTITY)
    assert _rows(spool) == [0, 1, 2]
    assert spool.image(1) == b"image 1" * 50
    assert spool.fetched(2) == Fetched(2, SUCCESS, final_url="http://a.de/2", width=2)
    spool.add(Fetched(7, "failed_to_download", cause="gone"), b"")
    spool.close()
    again = Spool(tmp_path / "s/1.spool", IDENTITY)
    assert (_rows(again), again.successes, again.image_bytes()) == ([0, 1, 2, 7], 3, 3 * 350)
    assert again.fetched(7).cause == "gone"
    assert again.image(7) == b""


def test_cut_off_anywhere_the_whole_records_count(tmp_path: Path) -> None:
    path = tmp_path / "1.spool"
    ends = _filled(path)
    whole = path.read_bytes()
    for size in range(0, len(whole), 37):
        path.write_bytes(whole[:size])
        spool = Spool(path, IDENTITY)
        assert len(spool) == sum(end <= size for end in ends)
        spool.add(Fetched(9, SUCCESS), b"new")
        spool.close()
        again = Spool(path, IDENTITY)
        assert again.image(9) == b"new"
        again.close()


def test_a_byte_that_was_altered_ends_it(tmp_path: Path) -> None:
    path = tmp_path / "1.spool"
    ends = _filled(path)
    data = bytearray(path.read_bytes())
    data[ends[0] + 40] ^= 1
    path.write_bytes(data)
    assert _rows(Spool(path, IDENTITY)) == [0]


def test_one_of_other_rows_is_begun_anew(tmp_path: Path) -> None:
    _filled(tmp_path / "1.spool")
    assert not _rows(Spool(tmp_path / "1.spool", "b" * 64))


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "mine").write_bytes(b"mine")
    (tmp_path / "1.spool").symlink_to(tmp_path / "mine")
    with pytest.raises(OSError, match=r"1\.spool") as raised:
        Spool(tmp_path / "1.spool", IDENTITY)
    assert raised.value.errno == errno.ELOOP
    assert (tmp_path / "mine").read_bytes() == b"mine"


def test_a_full_disk_names_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spool = Spool(tmp_path / "1.spool", IDENTITY)

    class Full:
        def write(self, data: bytes) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(spool, "_file", Full())
    with pytest.raises(OSError, match=r"1\.spool"):
        spool.add(Fetched(0, SUCCESS), b"x")
    assert spool.is_broken


@pytest.mark.parametrize("locks", [True, False])
def test_one_that_another_still_writes_is_copied(locks: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A node of a cluster that was given up, and goes on: neither sees what the other writes from then on."""
    if not locks:

        def refuse(file: object, how: int) -> None:
            raise OSError(errno.ENOSYS, "no locks here")

        monkeypatch.setattr("dcfast.storage.lock.fcntl.flock", refuse)
    path = tmp_path / "1.spool"
    lost = Spool(path, IDENTITY)
    lost.add(Fetched(0, SUCCESS), b"first" * 100)
    spool = Spool(path, IDENTITY)
    for number in range(1, 5):
        lost.add(Fetched(number, SUCCESS), b"lost %d" % number * 30)
        spool.add(Fetched(number, SUCCESS), b"mine %d" % number * 50)
    assert [spool.image(n) for n in range(5)] == [b"first" * 100, *(b"mine %d" % n * 50 for n in range(1, 5))]
    assert [lost.image(n) for n in range(5)] == [b"first" * 100, *(b"lost %d" % n * 30 for n in range(1, 5))]
    lost.close()
    spool.close()
    assert Spool(path, IDENTITY).image(4) == b"mine 4" * 50
    assert [one.name for one in tmp_path.iterdir()] == [path.name]
