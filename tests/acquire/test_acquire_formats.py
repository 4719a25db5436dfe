"""Shards as folders of files and as parquet: what stands in the tar, in img2dataset's other layouts."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from acquisitions import acquire, outcomes, web_of, write_list
from dcfast.acquire import AcquireSummary, ImageOptions, WebOptions
from dcfast.acquire.files import IMAGES_AT_ONCE
from dcfast.cli import main
from dcfast.errors import RunError
from dcfast.storage.records import replaced
from hostile_bytes import picture
from hostile_web import HostileWeb, hostile_web
from killed_writes import kill_at
from PIL import Image
from test_acquire_refuses import foreign

COUNT, SIZE = 7, 3
FORMATS = ("files", "parquet")


@pytest.fixture(scope="module")
def web() -> Iterator[HostileWeb]:
    with hostile_web({f"/{n}.jpg": picture(seed=n) for n in range(COUNT)}) as running:
        yield running


@pytest.fixture(scope="module")
def table(web: HostileWeb, tmp_path_factory: pytest.TempPathFactory) -> Path:
    urls = [web.at(f"/{n}.jpg") if n != 1 else web.url("status_404") for n in range(COUNT)]
    return write_list(tmp_path_factory.mktemp("lists") / "l.parquet", urls)


def get(out: Path, table: Path, web: WebOptions, form: str, **options: Any) -> AcquireSummary:
    return acquire(out, table, web, ImageOptions(output_format=form), shard_size=SIZE, **options)


@pytest.fixture(scope="module")
def usual(web: HostileWeb, table: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[AcquireSummary, Path]:
    out = tmp_path_factory.mktemp("usual") / "pool"
    return get(out, table, web_of(web), "webdataset"), out


def of_tars(out: Path) -> dict[str, bytes]:
    found = {}
    for path in (out / "shards").glob("*.tar"):
        with tarfile.open(path) as tar:
            found.update({f"{path.stem}/{m.name}": tar.extractfile(m).read() for m in tar})  # type: ignore[union-attr]
    return found


def of_files(out: Path) -> dict[str, bytes]:
    return {f"{path.parent.name}/{path.name}": path.read_bytes() for path in (out / "shards").glob("*/*")}


def of_parquet(out: Path) -> dict[str, bytes]:
    rows = [(path, row) for path in (out / "shards").glob("*.parquet") for row in pq.read_table(path).to_pylist()]
    return {f"{path.stem}/{row['key']}.jpg": row["jpg"] for path, row in rows if row["jpg"] is not None}


def state_of(out: Path) -> dict[str, str]:
    """Hashes of all that depends on the servers' answers alone."""
    paths = [path for path in (out / "shards").rglob("*") if path.is_file() and not path.name.endswith("_stats.json")]
    return {str(path.relative_to(out)): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


def test_a_folder_a_shard_has_the_members_of_its_tar(
    web: HostileWeb, table: Path, usual: tuple[AcquireSummary, Path], tmp_path: Path
) -> None:
    out = tmp_path / "pool"
    summary = get(out, table, web_of(web), "files")
    assert replaced(summary, hosts=[]) == replaced(usual[0], hosts=[])
    assert of_files(out) == of_tars(usual[1])
    assert len(of_files(out)) == 3 * (COUNT - 1)
    assert pq.read_table(out / "shards/00000000.parquet") == pq.read_table(usual[1] / "shards/00000000.parquet")
    assert not list((out / "shards").glob("*.tar"))


def test_parquet_has_the_images_in_a_column(
    web: HostileWeb, table: Path, usual: tuple[AcquireSummary, Path], tmp_path: Path
) -> None:
    out = tmp_path / "pool"
    get(out, table, web_of(web), "parquet")
    assert of_parquet(out) == {name: data for name, data in of_tars(usual[1]).items() if name.endswith(".jpg")}
    found = pq.read_table(out / "shards/00000000.parquet")
    assert found.drop_columns(["jpg"]) == pq.read_table(usual[1] / "shards/00000000.parquet")
    assert found.schema.field("jpg").type == pa.binary()
    assert found["jpg"].is_null().to_pylist() == [False, True, False], "a failure has none"
    assert {path.name.partition(".")[0] for path in (out / "shards").iterdir()} == {
        f"{n:08d}{end}" for n in range(3) for end in ("", "_stats")
    }


def test_images_of_parquet_stand_in_groups_and_others_of_its_formats(web: HostileWeb, tmp_path: Path) -> None:
    count = IMAGES_AT_ONCE + 5
    table = write_list(tmp_path / "l.parquet", [f"{web.at('/0.jpg')}?{n}" for n in range(count)])
    acquire(tmp_path / "pool", table, web_of(web), ImageOptions(output_format="parquet", encode_format="png"))
    file = pq.ParquetFile(tmp_path / "pool/shards/00000000.parquet")
    assert [file.metadata.row_group(n).num_rows for n in range(file.num_row_groups)] == [IMAGES_AT_ONCE, 5]
    data = file.read(["png"])["png"].to_pylist()
    assert len(data) == count
    with Image.open(io.BytesIO(data[-1])) as image:
        assert image.format == "PNG"


@pytest.mark.parametrize("form", FORMATS)
def test_what_is_lost_of_a_shard_is_fetched_anew_and_nothing_else(
    form: str, web: HostileWeb, table: Path, tmp_path: Path
) -> None:
    out = tmp_path / "pool"
    summary, asked = get(out, table, web_of(web), form), len(web.requests)
    before = state_of(out)
    assert get(out, table, web_of(web), form) == summary
    assert len(web.requests) == asked
    lost = out / ("shards/00000001/000000011.txt" if form == "files" else "shards/00000001.parquet")
    lost.unlink()
    get(out, table, web_of(web), form)
    assert state_of(out) == before
    assert {one.path for one in web.requests[asked:]} - {"/robots.txt"} == {f"/{n}.jpg" for n in (3, 4, 5)}
    with pytest.raises(RunError, match=r"was begun otherwise: --output-format differ"):
        get(out, table, web_of(web), "webdataset")


@pytest.mark.parametrize("form", FORMATS)
def test_failures_are_fetched_again_into_new_shards(form: str, web: HostileWeb, table: Path, tmp_path: Path) -> None:
    out = tmp_path / "pool"
    get(out, table, web_of(web), form)
    before = state_of(out)
    web.files["/status_404.jpg"] = picture(seed=40)
    try:
        summary = get(out, table, web_of(web), form, retry=["gone"])
    finally:
        del web.files["/status_404.jpg"]
    assert (summary.successes, summary.causes, summary.retried) == (COUNT, {}, 1)
    assert {name: state_of(out)[name] for name in before} == before
    found = (of_files if form == "files" else of_parquet)(out)
    assert [name for name in found if name.startswith("00000003/") and name.endswith(".jpg")] == [
        "00000003/000000001.jpg"
    ]
    assert outcomes(out)[-1]["key"] == "000000001"


@pytest.mark.parametrize("form", FORMATS)
def test_killed_right_before_a_name_is_given(form: str, web: HostileWeb, tmp_path: Path) -> None:
    table = write_list(tmp_path / "l.parquet", [web.at(f"/{n}.jpg", "127.0.0.1") for n in range(COUNT)])

    def words(out: Path) -> list[str]:
        given = ["acquire", "--urls", str(table), "--out", str(out), "--shard-size", "4", "--workers", "1"]
        return [*given, "--output-format", form, "--allow-private", "127.0.0.1", "--no-robots", "--quiet"]

    assert main(words(tmp_path / "undisturbed")) == 0
    for moment in (5, 7):
        out = tmp_path / f"{moment}"
        assert kill_at([moment], words(out)) == 1
        assert main(words(out)) == 0
        assert state_of(out) == state_of(tmp_path / "undisturbed")
        assert not [*out.rglob(".tmp-*"), *out.rglob(".dcfast-*")]


def test_a_shard_of_another_tool_in_another_format_is_refused(web: HostileWeb, tmp_path: Path) -> None:
    table = write_list(tmp_path / "l.parquet", [web.at(f"/{n}.jpg") for n in range(4)])
    foreign(tmp_path / "pool", web, 0)
    for form, said in (("files", r"00000000 is missing, though .*the --output-format that"), ("parquet", "column jpg")):
        with pytest.raises(RunError, match=said):
            acquire(tmp_path / "pool", table, web_of(web), ImageOptions(output_format=form), shard_size=2)
    summary = acquire(tmp_path / "pool", table, web_of(web), shard_size=2)  # what the message says to do
    assert summary.successes == 4


def test_a_run_takes_tars(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["run", "--scale", "small", "--acquire", "output_format=files", "--out", str(tmp_path / "run")]
    assert main([*words, "--no-train"]) == 2
    assert "--acquire output_format=files: a run takes tars (webdataset)" in capsys.readouterr().err
    assert json.dumps(ImageOptions().identity).count("output_format") == 0, "pools that were begun before it go on"
