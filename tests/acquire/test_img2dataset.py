"""What ``dcfast acquire`` makes beside what img2dataset 1.47 makes of the same list from the same server.

What differs on purpose stands in a table of docs/acquire.md; each of its rows is tried here or in the tests of the web.
"""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from dcfast.acquire import AcquireOptions, ImageOptions, WebOptions, acquire_pool
from hostile_bytes import picture
from hostile_web import HostileWeb, hostile_web
from img2dataset_peer import python_with_img2dataset, run_img2dataset
from PIL import Image

pytestmark = pytest.mark.soak
MODES = ("no", "border", "keep_ratio", "keep_ratio_largest", "center_crop")
SIZES = [(700, 500), (500, 700), (300, 200), (513, 511), (1024, 1024), (1300, 400), (64, 2000), (512, 512), (640, 480)]
DIFFERENCES = (
    *("order of rows", "times in tars", "`face_bboxes` blurred", "row groups of the sidecar", "`_stats.json`"),
    *(
        "`robots.txt`",
        "`X-Robots-Tag` with a colon in a directive, `none`, `*:`, semicolons, several agents",
        "non-ASCII URLs, spaces",
    ),
    *("types that are no image's, bodies that do not begin as one", "private addresses, other schemes", "retries"),
    "cookies along redirects",
)


def jpeg(number: int, width: int, height: int) -> bytes:
    with Image.open(io.BytesIO(picture("JPEG", seed=number, width=64, height=48))) as small:
        buffer = io.BytesIO()
        small.resize((width, height), Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


@pytest.fixture(scope="module")
def web() -> Iterator[HostileWeb]:
    files = {f"/{n}.jpg": jpeg(n, *size) for n, size in enumerate(SIZES)}
    kinds = {"PNG": "png", "WEBP": "webp", "GIF": "gif"}
    files |= {f"/k.{ext}": picture(kind, seed=3, width=90, height=70) for kind, ext in kinds.items()}
    files["/broken.jpg"] = jpeg(3, 300, 300)[:400]
    with hostile_web(files) as running:
        yield running


@pytest.fixture(scope="module")
def peer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return python_with_img2dataset(tmp_path_factory.mktemp("img2dataset") / "venv")


def urls_of(web: HostileWeb) -> list[str]:
    """URLs that both fetch, and some that both fail on; by address, since the peer asks the system's resolver."""
    good = [web.at(path, "127.0.0.1") for path in web.files]
    same = ("status_404", "status_410", "status_500", "opt_out_noai", "opt_out_noindex", "redirect_308", "chunked")
    return good + [web.url(name, host="127.0.0.1") for name in same]


def both(
    web: HostileWeb, peer: Path, folder: Path, mode: str, form: str = "webdataset", **boxes: Any
) -> tuple[Path, Path]:
    """The shards of both."""
    urls = urls_of(web)
    rows = {
        "uid": [f"{n:032x}" for n in range(len(urls))],
        "url": urls,
        "text": [f"caption {n} ü" if n % 5 else None for n in range(len(urls))],
    }
    columns = {name: pa.array(values, pa.string()) for name, values in rows.items()}
    pq.write_table(pa.table({**columns, **boxes}), folder / "list.parquet")
    options = {"bbox_col": "face_bboxes"} if boxes else {}
    options["output_format"] = form
    run_img2dataset(peer, folder / "list.parquet", folder / "theirs", resize_mode=mode, **options)
    acquire_pool(
        AcquireOptions(str(folder / "ours"), urls=str(folder / "list.parquet"), workers=1, quiet=True),
        WebOptions(allow_private=["127.0.0.1"], retries=0, host_rate=0, host_connections=8, robots=False),
        ImageOptions(resize="exact", resize_mode=mode, output_format=form),
    )
    return folder / "ours/shards", folder / "theirs"


def samples_of(shard: Path) -> dict[str, dict[str, bytes]]:
    found: dict[str, dict[str, bytes]] = {}
    with tarfile.open(shard) as tar:
        for member in tar:
            key, _, ext = member.name.partition(".")
            found.setdefault(key, {})[ext] = tar.extractfile(member).read()  # type: ignore[union-attr]
    return found


def rows_of(sidecar: Path) -> list[dict[str, Any]]:
    return sorted(pq.read_table(sidecar).to_pylist(), key=lambda row: row["key"])


@pytest.mark.parametrize("mode", MODES)
def test_layout_and_sizes_are_theirs(web: HostileWeb, peer: Path, tmp_path: Path, mode: str) -> None:
    ours, theirs = both(web, peer, tmp_path, mode)
    mine, other = samples_of(ours / "00000000.tar"), samples_of(theirs / "00000000.tar")
    assert len(mine) > len(SIZES)
    assert mine.keys() == other.keys()
    for key, members in mine.items():
        assert list(members) == list(other[key])
        assert members["txt"] == other[key]["txt"]
        fields, expected = json.loads(members["json"]), json.loads(other[key]["json"])
        assert list(fields) == list(expected)
        assert fields == expected
        assert members["json"] == other[key]["json"]
        with Image.open(io.BytesIO(members["jpg"])) as a, Image.open(io.BytesIO(other[key]["jpg"])) as b:
            assert (a.size, a.mode, a.format) == (b.size, b.mode, b.format)


def test_sidecar_and_statistics_are_theirs(web: HostileWeb, peer: Path, tmp_path: Path) -> None:
    boxes = pa.array([[[0.1, 0.2, 0.5, 0.6]] if n % 2 else [] for n in range(len(urls_of(web)))])
    ours, theirs = both(web, peer, tmp_path, "keep_ratio_largest", face_bboxes=boxes)
    schema, expected = pq.read_schema(ours / "00000000.parquet"), pq.read_schema(theirs / "00000000.parquet")
    assert schema.names == expected.names
    assert [str(kind).replace("element", "item") for kind in schema.types] == [
        str(kind).replace("element", "item") for kind in expected.types
    ]
    mine, other = rows_of(ours / "00000000.parquet"), rows_of(theirs / "00000000.parquet")
    assert [row["status"] for row in mine] == [row["status"] for row in other]
    assert mine == other
    stats, counted = (json.loads((shard / "00000000_stats.json").read_text()) for shard in (ours, theirs))
    assert list(stats) == [*counted, "dcfast"]
    timed = ("duration", "start_time", "end_time")
    assert {k: v for k, v in stats.items() if k not in (*timed, "dcfast")} == {
        k: v for k, v in counted.items() if k not in timed
    }


def test_folders_of_files_are_theirs(web: HostileWeb, peer: Path, tmp_path: Path) -> None:
    ours, theirs = both(web, peer, tmp_path, "keep_ratio_largest", "files")
    names = sorted(path.name for path in (ours / "00000000").iterdir())
    assert len(names) > 3 * len(SIZES)
    assert names == sorted(path.name for path in (theirs / "00000000").iterdir())
    for name in names:
        mine, other = ((shard / "00000000" / name).read_bytes() for shard in (ours, theirs))
        if name.endswith(".jpg"):
            with Image.open(io.BytesIO(mine)) as a, Image.open(io.BytesIO(other)) as b:
                assert (a.size, a.mode, a.format) == (b.size, b.mode, b.format)
        else:
            assert mine == other
    assert rows_of(ours / "00000000.parquet") == rows_of(theirs / "00000000.parquet")
    assert {path.name for path in ours.iterdir()} == {path.name for path in theirs.iterdir()} - {"_tmp"}


def test_parquet_with_images_is_theirs(web: HostileWeb, peer: Path, tmp_path: Path) -> None:
    ours, theirs = both(web, peer, tmp_path, "keep_ratio_largest", "parquet")
    schema, expected = (pq.read_schema(shard / "00000000.parquet") for shard in (ours, theirs))
    assert (schema.names, schema.types) == (expected.names, expected.types)
    mine, other = rows_of(ours / "00000000.parquet"), rows_of(theirs / "00000000.parquet")
    for a, b in zip(mine, other, strict=True):
        images = [row.pop("jpg") for row in (a, b)]
        assert a == b
        assert [image is None for image in images] == [a["status"] != "success"] * 2
        sizes = [None if image is None else Image.open(io.BytesIO(image)).size for image in images]
        assert sizes[0] == sizes[1]
    assert {path.name for path in ours.iterdir()} == {path.name for path in theirs.iterdir()} - {"_tmp"}


def test_the_table_of_differences_is_whole(repo_root: Path) -> None:
    text = (repo_root / "docs/acquire.md").read_text(encoding="utf-8")
    table = text[text.index("### What differs on purpose") :]
    assert [line.split("|")[1].strip() for line in table.splitlines() if line.startswith("| ")][1:] == list(DIFFERENCES)
