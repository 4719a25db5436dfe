"""A run says of which signatures nothing could be compared, at its end and in the report."""

from __future__ import annotations

import json
from pathlib import Path

from dcfast.dedup.signature_file import DescriptorInfo
from dcfast.run.workflow import run
from dcfast.rundir.settings import Settings
from pool_builder import plain_pool
from signature_builder import records, rows_of, unit, write_signatures


def test_sets_of_which_nothing_is_compared_are_noted(tmp_path: Path) -> None:
    made = records(5)
    made["status"] = 255  # descriptors alone
    sscd = DescriptorInfo("sscd_disc_mixup", "a" * 64, 512)
    alone = write_signatures(tmp_path / "alone.sig", {"alone": rows_of(made, [unit(5, 512)])}, [sscd])
    hashed = write_signatures(tmp_path / "hashed.sig", {"hashed": rows_of(records(5, 1))})
    pool = plain_pool(tmp_path / "pool").write()
    settings = Settings(pool=str(pool), signatures=[str(alone), str(hashed)], filter="basic_filter", train=False)
    notes = run(tmp_path / "run", settings)["decontaminate"].notes
    assert notes == [
        "evaluation set alone: nothing of it could be compared with the pool: contamination by it may be missed",
        "descriptors of sscd_disc_mixup were not compared, as the pool has none: for these give dcfast decontaminate "
        "--descriptors",
    ]
    told = json.loads((tmp_path / "run/report.json").read_bytes())
    assert set(notes) <= set(told["notes"])
