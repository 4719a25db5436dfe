"""No sample starts a program, whatever command reads it: fakes of what readers of images call stand first on PATH."""

from __future__ import annotations

import io
import subprocess
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from dcfast import cli
from evalset_builder import sample, write_set
from PIL import EpsImagePlugin, Image
from pool_builder import PoolBuilder, Sample, uid_of
from train_builder import MODEL, subset_file

PROGRAMS = (
    *("gs", "gsc", "gswin64c", "rsvg-convert", "inkscape", "ffmpeg", "ffprobe", "convert", "magick", "identify"),
    *("display", "xv", "dwebp", "cwebp", "djpeg", "jpegtran", "pdftoppm", "mutool", "wmf2svg", "unoconv"),
    *("heif-convert", "dcraw", "exiftool", "unzip", "gzip", "zstd", "xz", "tar", "sh", "bash"),
)


def _eps() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (64, 64), "red").save(buffer, "EPS")
    return buffer.getvalue()


ODD = {
    "eps": _eps(),
    "svg": b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"><rect width="9"/></svg>',
    "pdf": b"%PDF-1.4\n1 0 obj<</Type/Catalog>>endobj\ntrailer<</Root 1 0 R>>\n%%EOF",
    "wmf": b"\xd7\xcd\xc6\x9a\0\0" + bytes(60),
    "mp4": b"\0\0\0\x18ftypmp42" + bytes(90),
    "heic": b"\0\0\0\x18ftypheic" + bytes(90),
    "gzip": b"\x1f\x8b\x08\0" + bytes(30),
    "shell": b"#!/bin/sh\ntouch started\n",
}


@pytest.fixture
def started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file that names the programs that were started."""
    log = tmp_path / "started.txt"
    (tmp_path / "bin").mkdir()
    for name in PROGRAMS:
        program = tmp_path / "bin" / name
        program.write_text(f"#!/usr/bin/env python3\nopen({str(log)!r}, 'a').write('{name} ')\nraise SystemExit(1)\n")
        program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:/usr/local/bin:/usr/bin:/bin")
    monkeypatch.setattr(EpsImagePlugin, "gs_binary", "gs")
    with pytest.raises(subprocess.CalledProcessError):
        Image.open(io.BytesIO(ODD["eps"])).load()  # what any reader may do that asks Pillow for all it knows
    assert log.read_text().startswith("gs")
    log.unlink()
    return log


@pytest.fixture
def places(tmp_path: Path) -> tuple[str, str, str, str]:
    """A pool half of whose pictures are none, an evaluation set with all of them, boxes in each, a subset of all."""
    odd = list(ODD.values())
    samples = [Sample(n, jpg=odd[n] if n < len(odd) else None) for n in range(16)]
    pool = PoolBuilder(tmp_path / "pool", [samples[:8], samples[8:]]).write()
    rows = [{**sample(name, "red", cls=0), f"{name}.png": data} for name, data in ODD.items()]
    write_set(
        tmp_path / "evalsets",
        "odd",
        [*rows, sample("good", "red", cls=0), sample("other", "blue", cls=1)],
        ["red", "blue"],
    )
    boxes = {"uid": [uid_of(n) for n in range(16)], "face_bboxes": [[[0.1, 0.1, 0.5, 0.5]]] * 16}
    pq.write_table(pa.table(boxes), tmp_path / "boxes.parquet")
    subset = subset_file(tmp_path / "all.npy", list(range(16)))
    return str(pool), str(tmp_path / "evalsets"), str(tmp_path / "boxes.parquet"), str(subset)


@pytest.mark.parametrize("name", ["run", "train", "evaluate", "resharder", "refresh"])
def test_no_command_starts_a_program(
    name: str, started: Path, places: tuple[str, str, str, str], tmp_path: Path
) -> None:
    pool, evalsets, boxes, subset = places
    out = str(tmp_path / "out")
    words = {
        "run": ["--pool", pool, "--evalsets", evalsets, "--features", f"l14={MODEL}",
                "--filter", "no_filter", "--compare", "none", "--verify-images", "--no-train",
                "--workers", "1", "--out", out],
        "train": ["--shards", f"{pool}/shards", "--out", out, "--max-replaced", "1", "--set", f"model={MODEL}",
                  "--set", "samples_seen=16", "--set", "global_batch=8", "--set", "precision=fp32"],
        "evaluate": ["--model", MODEL, "--evalsets", evalsets, "--out", out],
        "resharder": ["-i", f"{pool}/shards", "-o", out, "-s", subset, "--blur-metadata-map", boxes, "--apply-blur"],
        "refresh": [out, f"{pool}/shards"],
    }  # fmt: skip
    assert cli.main([name, *words[name]]) == 0
    assert not started.exists(), started.read_text()
