"""Features and filters by score of a pool without uids: the rule holds for the metadata with the new columns, too."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from dcfast.models.clip import create_model
from dcfast.run.workflow import run
from dcfast.rundir.settings import Settings
from pool_builder import picture


@pytest.mark.parametrize("uid_from", ["url", "key"])
def test_scores_are_made_and_filtered_by(tmp_path: Path, uid_from: str) -> None:
    flat = tmp_path / "flat"
    flat.mkdir()
    with tarfile.open(flat / "00000.tar", "w") as tar:
        for i in range(6):
            record = json.dumps({"url": f"http://x/{i}", "key": f"{i:09d}"}).encode()
            for ext, data in (("jpg", picture(i)), ("json", record), ("txt", b"a dog")):
                info = tarfile.TarInfo(f"{i:09d}.{ext}")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    columns = {"url": [f"http://x/{i}" for i in range(7)], "key": [f"{i:09d}" for i in range(7)]}
    pq.write_table(pa.table(columns), flat / "00000.parquet")
    torch.save({"state_dict": create_model("dcfast-tiny", seed=1).state_dict()}, tmp_path / "m.pt")
    settings = Settings(
        pool=str(flat),
        filter="clip_score(l14, fraction=0.5)",
        features={"l14": f"dcfast-tiny:{tmp_path / 'm.pt'}"},
        train=False,
        uid_from=uid_from,
        device="cpu",
    )
    done = run(tmp_path / "run", settings)
    assert (done["features"].rows, done["features"].rows_found) == (7, 6)
    made = pq.read_table(tmp_path / "run/features/metadata/00000.parquet")
    assert made.column_names == ["url", "key", "clip_l14_similarity_score"]
    assert made["clip_l14_similarity_score"].null_count == 1
    fates = done["filter"].fates
    assert (fates["kept"] + fates["dropped"], fates["missing"]) == (6, 1)
    assert fates["kept"] in (3, 4)
    report = json.loads((tmp_path / "run/report.json").read_text())
    assert report["clip_scores"]["column"] == "clip_l14_similarity_score"
