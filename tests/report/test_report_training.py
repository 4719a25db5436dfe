"""What the report says of a training beside its scores: waiting, memory, gradients, advice, scores on the way."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from dcfast.report.facts.collect import collect
from dcfast.report.page.images import EvalsetPreviews, PoolPreviews
from dcfast.report.page.page import look_up, render
from report_builder import result, run_of, trained
from strict_page import Page


def reported(out: Path) -> tuple[dict[str, Any], Page]:
    report = collect(run_of(out))
    page = Page(render(report, look_up(report, PoolPreviews(out, out), EvalsetPreviews(out, []))))
    return json.loads(json.dumps(report.as_json(), allow_nan=False)), page


def test_waiting_and_replaced_samples_have_advice(tmp_path: Path) -> None:
    trained(tmp_path, "c" * 64, [result("a", 0.5, "c" * 64)], replaced=7, world_size=4)
    log = tmp_path / "train" / "log.jsonl"
    report, page = reported(tmp_path)  # of a version that did not tell
    one = report["training"]["run"]
    assert (one["wait"], one["memory"], one["gradient_norm"], one["evaluations"]) == (None, None, None, [])
    assert [line.split(" of the ")[0] for line in one["advice"]] == ["0.7%"]
    assert "time spent waiting for data" not in page.text

    usual = {"samples_seen": 10, "loss": 1.0, "logit_scale": 14.0}
    lines = [
        {**usual, "seconds": 30.0, "wait": 0.2, "memory": 3_000_000_000, "gradient_norm": 2.0},
        {**usual, "seconds": 10.0, "wait": 0.0, "memory": 2_000_000_000, "gradient_norm": 0.75},
    ]
    log.write_text("".join(json.dumps(line) + "\n" for line in lines))
    scored = {"step": 1_250, "checkpoint": "epoch_1.pt", "scores": {"vtab/dtd": 0.123}}
    (tmp_path / "train" / "evaluations.jsonl").write_text(json.dumps(scored) + "\n")
    report, page = reported(tmp_path)
    one = report["training"]["run"]
    assert (one["wait"], one["memory"], one["gradient_norm"]) == (0.15, 3_000_000_000, 0.75)
    assert one["advice"][0].startswith("15% of the time went by waiting for data: give it more cores")
    assert one["evaluations"] == [scored]
    for shown in ("15.0%", "3 GB", "0.75", "15% of the time went by waiting", "vtab/dtd", "1,250", "12.3%"):
        assert shown in page.text
