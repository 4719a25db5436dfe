"""What an acquisition refuses to mix or to write over, what it goes on with, and what it says."""

from __future__ import annotations

import json
import os
import re
import resource
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from acquisitions import acquire, causes, made, outcomes, web_of, write_list
from dcfast import save_subset, uid_parse, uid_sort
from dcfast.acquire import ImageOptions
from dcfast.acquire.rows import key_of
from dcfast.acquire.watching import RowProgress
from dcfast.cli import main
from dcfast.engine.progress import step_line
from dcfast.errors import CorruptDataError, MissingDependencyError, RunError
from dcfast.process import exit_codes, libraries
from hostile_bytes import picture
from hostile_web import HostileWeb, hostile_web
from pool_builder import uid_of

COUNT, SIZE = 6, 2


@pytest.fixture(scope="module")
def web() -> Iterator[HostileWeb]:
    with hostile_web({f"/{n}.jpg": picture(seed=n) for n in range(COUNT)}) as running:
        yield running


@pytest.fixture
def table(web: HostileWeb, tmp_path: Path) -> Path:
    return write_list(tmp_path / "lists/l.parquet", [web.at(f"/{n}.jpg") for n in range(COUNT)])


def words_of(web: HostileWeb, table: Path, out: Path, *more: str) -> list[str]:
    words = ["acquire", "--urls", str(table), "--out", str(out), "--shard-size", str(SIZE), "--workers", "1"]
    return [*words, "--nameservers", web.dns.address, "--allow-private", "127.0.0.1", "--no-robots", *more]


# --- what was begun otherwise -------------------------------------------------------------------


def test_what_was_begun_otherwise_is_refused(web: HostileWeb, table: Path, tmp_path: Path) -> None:
    out = tmp_path / "pool"
    acquire(out, table, web_of(web), shard_size=SIZE)
    before = made(out)
    save_subset(tmp_path / "s.npy", uid_sort(uid_parse([uid_of(1)])[0]))
    others: list[tuple[dict[str, Any], ImageOptions, str]] = [
        ({"shard_size": 3}, ImageOptions(), "lists differ"),
        ({"shard_size": SIZE, "subset": str(tmp_path / "s.npy")}, ImageOptions(), "subset differ"),
        ({"shard_size": SIZE}, ImageOptions(image_size=256, blur=False), "--image-size, --blur differ"),
    ]
    for options, image, said in others:
        with pytest.raises(RunError, match=f"pool was begun otherwise: {said}.*Choose another --out, or give"):
            acquire(out, table, web_of(web), image, **options)
    table.unlink()
    write_list(table, [web.at("/0.jpg")] * COUNT)
    with pytest.raises(RunError, match=r"metadata/l\.parquet is another file than .*lists/l\.parquet: choose another"):
        acquire(out, table, web_of(web), shard_size=SIZE)
    with pytest.raises(RunError, match=r"metadata holds l\.parquet, which --urls .*other\.parquet does not"):
        acquire(out, write_list(tmp_path / "other.parquet", ["a"]), web_of(web), shard_size=SIZE)
    assert made(out) == before


def test_how_urls_are_asked_for_may_change(web: HostileWeb, table: Path, tmp_path: Path) -> None:
    out = tmp_path / "pool"
    acquire(out, table, web_of(web), shard_size=SIZE)
    before, asked = made(out), len(web.requests)
    acquire(out, table, web_of(web, timeout=5.0, robots=False, contact="me@example.org"), shard_size=SIZE, workers=3)
    assert made(out) == before
    assert len(web.requests) == asked


def test_only_one_at_a_time(web: HostileWeb, table: Path, tmp_path: Path) -> None:
    from dcfast.storage.lock import locked
    from dcfast.storage.paths import LOCK_NAME

    (tmp_path / "pool").mkdir()
    with (
        locked(tmp_path / "pool" / LOCK_NAME, "held"),
        pytest.raises(RunError, match="another acquisition is at work there; wait for it"),
    ):
        acquire(tmp_path / "pool", table, web_of(web))


@pytest.mark.parametrize("name", ["aiohttp", "aiodns", "protego", "cv2", "exifread"])
def test_what_is_not_installed_is_said_before_work(
    name: str, web: HostileWeb, table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = libraries.importlib.util.find_spec
    monkeypatch.setattr(libraries.importlib.util, "find_spec", lambda given: None if given == name else real(given))
    with pytest.raises(
        MissingDependencyError, match=rf"dcfast acquire needs {name}, .*pip install 'dcfast\[acquire\]'"
    ):
        acquire(tmp_path / "pool", table, web_of(web))
    assert not (tmp_path / "pool").exists()


def test_metadata_alone_needs_nothing_of_the_extra(table: Path, tmp_path: Path) -> None:
    code = "import sys\nfrom dcfast.cli import main\nassert main(sys.argv[1:]) == 0\n"
    code += "assert not {'aiohttp', 'aiodns', 'cv2', 'protego', 'yarl'} & set(sys.modules)\n"
    words = ["acquire", "--urls", str(table), "--out", str(tmp_path / "pool"), "--no-images"]
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert f"{COUNT} rows in 1 lists: 1 shards\n" in done.stderr
    assert not (tmp_path / "pool/shards").exists()


# --- strangers ----------------------------------------------------------------------------------


def test_tars_of_strangers_are_not_written_over(web: HostileWeb, table: Path, tmp_path: Path) -> None:
    for name, said in (
        ("00000001.tar", "holds 1 shards that no acquisition made"),
        ("00000077.tar", "these lists have 3:"),
    ):
        out = tmp_path / name.partition(".")[0]
        (out / "shards").mkdir(parents=True)
        (out / "shards" / name).write_bytes(b"mine")
        with pytest.raises(RunError, match=f"{said}.*Choose another --out"):
            acquire(out, table, web_of(web), shard_size=SIZE)
        assert (out / "shards" / name).read_bytes() == b"mine"


def foreign(out: Path, web: HostileWeb, shard: int, *, first: int = 0, failed: tuple[int, ...] = ()) -> None:
    """A shard as img2dataset leaves it: in the order in which images came, without our field of the statistics."""
    (out / "shards").mkdir(parents=True, exist_ok=True)
    rows = []
    with tarfile.open(out / "shards" / f"{shard:08d}.tar", "w", format=tarfile.PAX_FORMAT) as tar:
        for row in reversed(range(SIZE)):
            number = first + SIZE * shard + row
            good = number not in failed
            fields: dict[str, Any] = {"uid": uid_of(number), "caption": f"a drawing of row {number}"}
            fields |= {"url": web.at(f"/{number}.jpg"), "key": key_of(shard, row, SIZE)}
            fields |= {"status": "success" if good else "failed_to_download"}
            fields |= {"error_message": None if good else "HTTP Error 404: Not Found"}
            fields |= dict.fromkeys(("width", "height", "original_width", "original_height"), 100 if good else None)
            rows.append({**fields, "exif": "{}" if good else None, "sha256": "0" * 64 if good else None})
            parts = {"jpg": picture(seed=number), "json": json.dumps(fields, indent=4).encode(), "txt": b"text"}
            for ext, data in parts.items() if good else ():
                member = tarfile.TarInfo(f"{fields['key']}.{ext}")
                member.size, member.mtime = len(data), time.time()
                tar.addfile(member, BytesIO(data))
    pq.write_table(pa.Table.from_pylist(rows), out / "shards" / f"{shard:08d}.parquet")
    stats = {"count": SIZE, "successes": SIZE - len(failed), "failed_to_download": len(failed), "failed_to_resize": 0}
    stats |= {"duration": 1.5, "start_time": 1.0, "end_time": 2.5, "status_dict": {"success": SIZE}}
    (out / "shards" / f"{shard:08d}_stats.json").write_text(json.dumps(stats, indent=4))


def test_shards_of_img2dataset_are_gone_on_with(web: HostileWeb, table: Path, tmp_path: Path) -> None:
    out, asked = tmp_path / "pool", len(web.requests)
    foreign(out, web, 0)
    foreign(out, web, 1, failed=(3,))
    (out / "_tmp").mkdir()
    before = {path: path.read_bytes() for path in (out / "shards").iterdir()}
    for _ in range(2):
        summary = acquire(out, table, web_of(web), shard_size=SIZE)
        assert (summary.rows, summary.successes, summary.foreign, summary.shards) == (6, 5, 2, 3)
        assert summary.causes == {"gone": 1}, "as the sidecar says"
    assert {path: path.read_bytes() for path in before} == before
    assert sorted(one.path for one in web.requests[asked:] if one.path != "/robots.txt") == ["/4.jpg", "/5.jpg"]
    assert len(outcomes(out)) == SIZE
    run = ["run", "--pool", str(out), "--no-train", "--to", "verify", "--out", str(tmp_path / "run"), "--workers", "1"]
    assert main([*run, "--quiet", "--filter", "no_filter"]) == 0


def test_shards_whose_ids_disagree_are_refused(web: HostileWeb, table: Path, tmp_path: Path) -> None:
    foreign(tmp_path / "other", web, 1, first=1)
    with pytest.raises(
        RunError, match=r"00000001\.parquet was made of other lists, in another order, or .*: 000000011\."
    ):
        acquire(tmp_path / "other", table, web_of(web), shard_size=SIZE)
    foreign(tmp_path / "none", web, 0)
    (tmp_path / "none/shards/00000000.parquet").unlink()
    with pytest.raises(RunError, match=r"00000000\.parquet is missing, though 00000000_stats\.json is there"):
        acquire(tmp_path / "none", table, web_of(web), shard_size=SIZE)
    foreign(tmp_path / "tarless", web, 0)
    (tmp_path / "tarless/shards/00000000.tar").unlink()
    with pytest.raises(
        RunError, match=r"00000000\.tar is missing, though 00000000_stats\.json is there: bring it back"
    ):
        acquire(tmp_path / "tarless", table, web_of(web), shard_size=SIZE)
    foreign(tmp_path / "cut", web, 0)
    (tmp_path / "cut/shards/00000000_stats.json").write_text('{"count": 3')
    with pytest.raises(CorruptDataError, match="remove the shard, and it is fetched again"):
        acquire(tmp_path / "cut", table, web_of(web), shard_size=SIZE)
    foreign(tmp_path / "columns", web, 0)
    pq.write_table(pa.table({"a": [1]}), tmp_path / "columns/shards/00000000.parquet")
    with pytest.raises(RunError, match=r"00000000\.parquet has no column key: no tool that is known made it"):
        acquire(tmp_path / "columns", table, web_of(web), shard_size=SIZE)


def test_a_shard_that_another_tool_left_half_done_is_fetched(web: HostileWeb, table: Path, tmp_path: Path) -> None:
    out = tmp_path / "pool"
    foreign(out, web, 0)
    foreign(out, web, 1)
    (out / "shards/00000001_stats.json").unlink()
    summary = acquire(out, table, web_of(web), shard_size=SIZE)
    assert (summary.successes, summary.foreign) == (6, 1)
    assert [row["key"] for row in outcomes(out)] == [key_of(s, r, SIZE) for s in (1, 2) for r in range(SIZE)]


# --- a full disk --------------------------------------------------------------------------------


def test_a_full_disk_is_said_and_what_came_is_not_asked_for_again(web: HostileWeb, tmp_path: Path) -> None:
    count = 6
    table = write_list(tmp_path / "l.parquet", [web.at(f"/{n}.jpg", host="disk.hostile.test") for n in range(count)])
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (12_000, hard))  # of each file: as if the disk were full
    try:
        with pytest.raises(OSError, match=r"free some space, and run the same command again.*spool") as raised:
            acquire(tmp_path / "pool", table, web_of(web, host_connections=1))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "acquire/shards/00000000" in "".join(raised.value.__notes__)
    first = {one.path for one in web.requests_of("disk.hostile.test")}
    assert 2 <= len(first) < count
    asked = len(web.requests)
    acquire(tmp_path / "pool", table, web_of(web, host_connections=1))
    again = [one.path for one in web.requests[asked:] if one.path != "/robots.txt"]
    assert len(set(again) & first) == 1, "the one that found the disk full"
    assert causes(tmp_path / "pool") == {"": count}
    acquire(tmp_path / "undisturbed", table, web_of(web))
    assert made(tmp_path / "pool") == made(tmp_path / "undisturbed")


# --- what is said -------------------------------------------------------------------------------


def test_the_command_says_what_came_and_what_to_run(
    web: HostileWeb, table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "my pool"
    assert main(words_of(web, table, out)) == exit_codes.DONE
    said = capsys.readouterr()
    assert re.search(r"^6 images of 6 rows \(100\.0%\) in 3 shards; 0\.\d MB came", said.out)
    assert f"pool: {out}\nnext: dcfast run --pool '{out}' --evalsets DIR --out runs/mine\n" in said.out
    assert "note: without --contact webmasters cannot reach you" in said.err
    assert re.search(r"acquire/shards: 6 rows, [\d.]+ s, ", said.err)


def test_where_nothing_came_the_status_says_so(
    web: HostileWeb, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = write_list(tmp_path / "l.parquet", [web.url("status_404"), "no URL"])
    assert main(words_of(web, table, tmp_path / "pool", "--contact", "me@example.org", "--quiet")) == exit_codes.LOST
    said = capsys.readouterr()
    assert said.err == ""
    assert re.search(r"^gone +1 +50\.0%  the server says that it is not there", said.out, re.MULTILINE)
    assert re.search(r"^invalid_url +1 +50\.0%  no http\(s\) URL", said.out, re.MULTILINE)


@pytest.mark.long
def test_on_a_pipe_lines_tell_rows_and_their_share(web: HostileWeb, tmp_path: Path) -> None:
    host, places = "lines.hostile.test", range(30)
    urls = [
        web.url("late", f"n={n}", host=host) if n % 3 else web.url("status_404", f"n={n}", host=host) for n in places
    ]
    table = write_list(tmp_path / "l.parquet", urls)
    code = "import sys\nfrom dcfast.engine import progress\nprogress.SECONDS_BETWEEN_LINES = 0.3\n"
    code += "from dcfast.acquire import fetching\nfetching.LIVE_SECONDS = 0.1\n"
    code += "from dcfast.cli import main\nsys.exit(main(sys.argv[1:]))\n"
    words = words_of(web, table, tmp_path / "pool", "--shard-size", "40", "--host-connections", "2")
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=True)
    found = re.findall(r"^  acquire/shards: (\d+)% \((\d+) rows, ([\d.]+)% images(.*?)\), ", done.stderr, re.MULTILINE)
    assert len(found) >= 2, done.stderr
    for share, rows, images, _ in found:  # what is missing is known at once
        assert int(share) == round(100 * int(rows) / 30)
        assert 0 <= float(images) <= 90
    assert float(found[-1][2]) > 30
    assert any(re.fullmatch(rf"; waiting: {host}:\d+ 2\d", waiting) for *_, waiting in found), done.stderr
    assert [int(rows) for _, rows, _, _ in found] == sorted(int(rows) for _, rows, _, _ in found)
    assert not list((tmp_path / "pool/state/acquire").glob("live/*"))
    assert os.listdir(tmp_path / "pool/state/acquire/spool") == []


def test_the_share_of_a_subset_is_that_of_the_rows_asked_for(tmp_path: Path) -> None:
    progress = RowProgress("acquire/shards", out=tmp_path, total=100)
    progress.ended_shard(50, 5, 4)
    assert progress.state().detail == "50 rows, 80.0% images"
    assert step_line(progress.state()).startswith("acquire/shards: 50% (50 rows, 80.0% images)")
