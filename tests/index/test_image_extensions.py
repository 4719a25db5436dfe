"""One list of the extensions that pictures have: all that the decoder reads; what is none is named in a note."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from dcfast.errors import PoolError
from dcfast.images.decode import FORMATS
from dcfast.index.build import write_segment
from dcfast.index.segments import IMAGE_EXTS, SampleFlag, Segment
from dcfast.resharding import reshard
from dcfast.run.workflow import run
from dcfast.rundir.settings import Settings
from dcfast.train.settings import TrainSource
from dcfast.train.source import OpenSource, prepare_source
from dcfast.uids.sets import uid_parse, uid_sort
from PIL import Image
from pool_builder import picture, uid_of

KINDS = {"avif": "AVIF", "jp2": "JPEG2000", "ppm": "PPM", "jfif": "JPEG", "jpe": "JPEG", "ico": "ICO", "JPG": "JPEG"}
ALL = [*KINDS, "apng", "jpg"]
REFUSED = {"avifs", "pfm"}  # sequences, and floats of no known range


def pool_of(root: Path, exts: list[str]) -> Path:
    """A sample for each extension: shards and metadata side by side."""
    root.mkdir()
    with tarfile.open(root / "0.tar", "w") as tar:
        for i, ext in enumerate(exts):
            kind = {"apng": "PNG"}.get(ext, KINDS.get(ext, "JPEG"))
            data = {ext: picture(i, fmt=kind), "json": json.dumps({"uid": uid_of(i)}).encode(), "txt": b"some words"}
            for name, payload in data.items():
                entry = tarfile.TarInfo(f"{i:04d}.{name}")
                entry.size = len(payload)
                tar.addfile(entry, io.BytesIO(payload))
    uids = [uid_of(i) for i in range(len(exts))]
    boxes = pa.array([[[0.1, 0.1, 0.7, 0.7]]] * len(exts), pa.list_(pa.list_(pa.float64())))
    pq.write_table(
        pa.table({"uid": uids, "text": ["some words"] * len(exts), "face_bboxes": boxes}), root / "0.parquet"
    )
    return root


def test_the_list_is_that_of_the_decoder() -> None:
    Image.init()
    known = {ext[1:] for ext, kind in Image.registered_extensions().items() if kind in FORMATS and kind != "MPO"}
    assert known - REFUSED == set(IMAGE_EXTS) - {"pnm"} | (known & {"pnm"})
    assert IMAGE_EXTS[:8] == ("jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff")


def test_every_kind_that_is_decoded_is_a_picture(tmp_path: Path) -> None:
    pool = pool_of(tmp_path / "pool", ALL)
    done = run(tmp_path / "run", Settings(pool=str(pool), filter="no_filter", train=False))
    assert done["filter"].fates["kept"] == len(ALL)
    assert done["index"].notes == []
    write_segment([(pool / "0.tar", "0.tar")], tmp_path / "s.dcx", sync=False)
    segment = Segment.open(tmp_path / "s.dcx")
    assert not (segment.flags & int(SampleFlag.NO_IMAGE)).any()
    measured = [ext in ("jfif", "jpe", "JPG", "apng", "jpg") for ext in ALL]
    assert ((segment.width == 96) & (segment.height == 80)).tolist() == measured
    assert (segment.width > 0).tolist() == measured  # of other kinds it is absent
    source = OpenSource(prepare_source(TrainSource(shards=str(pool)), tmp_path, 0))
    [samples] = source.read(np.arange(len(ALL), dtype=np.uint64))
    assert len(samples) == len(ALL)
    assert (samples.pictures.size > 100).all()


def test_faces_are_blurred_in_every_kind(tmp_path: Path) -> None:
    pool = pool_of(tmp_path / "pool", [*ALL, "heic"])
    subset = uid_sort(uid_parse([uid_of(i) for i in range(len(ALL) + 1)])[0])
    report = reshard(pool, tmp_path / "out", subset, boxes=pool, apply_blur=True, verify=True)
    assert (report["blurred"], report["blur_failed"], report["output_count"]) == (len(ALL), 1, len(ALL))
    with tarfile.open(tmp_path / "out/00000000.tar") as tar:
        assert {name.rpartition(".")[2] for name in tar.getnames()} == {"webp", "json", "txt"}


def test_members_that_are_no_pictures_are_named(tmp_path: Path) -> None:
    pool = pool_of(tmp_path / "pool", ["heic", "jpg"])
    done = run(tmp_path / "run", Settings(pool=str(pool), filter="no_filter", train=False))
    (note,) = done["index"].notes
    assert note.startswith("1 of 2 samples have no picture: they are quarantined. Members end in heic, jpg, json, txt;")
    assert "read are jpg, jpeg, png, webp" in note


def test_json_of_another_name_is_named(tmp_path: Path) -> None:
    pool = pool_of(tmp_path / "pool", ["jpg", "png"])
    with tarfile.open(pool / "0.tar", "w") as tar:
        for i in range(3):
            for ext, data in (("image.jpg", picture(i)), ("meta.json", b"{}"), ("caption.txt", b"words")):
                entry = tarfile.TarInfo(f"{i}.{ext}")
                entry.size = len(data)
                tar.addfile(entry, io.BytesIO(data))
    expected = r"\(3 have no json, members KEY\.meta\.json are not read: it must be KEY\.json\)"
    with pytest.raises(PoolError, match=expected):
        run(tmp_path / "run", Settings(pool=str(pool), filter="no_filter", train=False))
