"""Caches of Hugging Face's hub in every layout that is read, written by pyarrow as ``datasets`` writes them.

``hub_library.py`` writes the same by the library itself, from the same source; the layouts here were held against its
versions 1.17 (but for riddles, which it cannot write), 2.8 and 5.2.
"""

from __future__ import annotations

import json
import shutil
import zipfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from evalset_builder import NAMES, picture

PAIRS, RIDDLES = "flickr_1k_test_image_text_retrieval", "winogavil"
LAYOUTS = ("script", "packaged", "today", "hub")
PICTURE = pa.struct({"bytes": pa.binary(), "path": pa.string()})
SCHEMAS = {
    PAIRS: pa.schema({"image": PICTURE, "caption": pa.list_(pa.string()), "filename": pa.string()}),
    RIDDLES: pa.schema(
        {
            **{"candidates": pa.list_(pa.string()), "cue": pa.string(), "associations": pa.list_(pa.string())},
            **{"num_candidates": pa.int64(), "candidate_images": pa.list_(PICTURE)},
        }
    ),
}
Rows = list[dict[str, Any]]


def pairs() -> Rows:
    """A row for each colour, of 0 to 2 captions beside its own."""
    return [{"filename": f"{n}.png", "caption": [f"a {n} thing", *["it"] * (i % 3)][::-1]} for i, n in enumerate(NAMES)]


def riddles() -> Rows:
    """Riddles of 5 to 8 colours: one that a model of colours solves, one it cannot, and so on."""
    found = []
    for number in range(8):
        names = [NAMES[(number + i) % 8] for i in range(5 + number % 4)]
        right = names[:1] if number % 2 else names[1:2]
        found.append({"cue": names[0].title(), "candidates": names, "associations": right})
    return found


def _table(name: str, image: Any) -> pa.Table:
    if name == PAIRS:
        rows: Rows = [{**row, "image": image(row["filename"])} for row in pairs()]
    else:
        rows = []
        for row in riddles():
            images = [image(f"{name}.png") for name in row["candidates"]]
            rows.append({**row, "num_candidates": len(images), "candidate_images": images})
    return pa.Table.from_pylist(rows, SCHEMAS[name])


def embedded(filename: str) -> dict[str, Any]:
    return {"bytes": picture(filename.removesuffix(".png")), "path": filename}


def write_source(home: Path) -> Path:
    """What ``hub_library.py`` takes."""
    home.mkdir(parents=True)
    (home / "pairs.json").write_text(json.dumps(pairs()))
    (home / "riddles.json").write_text(json.dumps(riddles()))
    with zipfile.ZipFile(home / "images.zip", "w") as archive:
        for name in NAMES:
            archive.writestr(f"images/{name}.png", picture(name))
    for name in (PAIRS, RIDDLES):
        pq.write_table(_table(name, embedded), home / f"{name}.parquet", row_group_size=3)
    return home


def write_stream(path: Path, table: pa.Table, rows: int = 3) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with pa.OSFile(str(path), "wb") as file, pa.RecordBatchStreamWriter(file, table.schema) as writer:
        for batch in table.to_batches(max_chunksize=rows):
            writer.write_batch(batch)
    return path


def set_file(home: Path, layout: str, name: str) -> Path:
    """Where a layout has the rows of a set."""
    digest = "f" * 40
    return (
        home
        / "hf_cache"
        / {
            "script": f"nlphuji___{name}/TEST/1.1.0/{digest}/{name}-test.arrow",
            "packaged": f"nlphuji___parquet/nlphuji--{name}-{'a' * 16}/0.0.0/{digest}/parquet-test.arrow",
            "today": f"nlphuji___{name}/default/0.0.0/{digest}/{name}-test.arrow",
            "hub": f"datasets--nlphuji--{name}/snapshots/{digest}/data/test-00000-of-00001.parquet",
        }[layout]
    )


def write_cache(home: Path, layout: str, names: tuple[str, ...] = (PAIRS, RIDDLES), root: str | None = None) -> Path:
    """``hf_cache`` in a layout; ``root`` is where the cache lay when the paths in it were written."""
    extracted = home / "hf_cache/downloads/extracted" / ("e" * 64)
    at = Path(root) / extracted.relative_to(home) if root is not None else extracted
    for name in names:
        path = set_file(home, layout, name)
        if layout == "hub":
            path.parent.mkdir(parents=True)
            pq.write_table(_table(name, embedded), path, row_group_size=3)
            continue
        table = _table(name, embedded)
        if layout == "script":
            table = _table(name, lambda filename: {"bytes": None, "path": str(at / "images" / filename)})
        write_stream(path, table)
        splits = {"test": {"name": "test", "num_bytes": 1, "num_examples": len(table)}}
        (path.parent / "dataset_info.json").write_text(json.dumps({"splits": splits}))
    if layout == "script" and not extracted.exists():
        for colour in NAMES:
            (extracted / "images").mkdir(parents=True, exist_ok=True)
            (extracted / "images" / f"{colour}.png").write_bytes(picture(colour))
    return home


def moved(home: Path, to: Path) -> Path:
    shutil.move(home, to)
    return to
