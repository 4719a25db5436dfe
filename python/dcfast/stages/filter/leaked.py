"""What the filter kept of the samples that are copies of evaluation pictures: counted, by evaluation set.

Scores of a model that trained on copies of what it is scored on are no scores, so the counts stand in the filter
stage's summary, and from there in the manifest and beside the scores in the report.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from dcfast.engine.piece import Piece
from dcfast.evaluate.tasks import compared_sets
from dcfast.index.build import Segment
from dcfast.rundir.layout import EVIDENCE_TABLE, segment_path
from dcfast.rundir.run_dir import Run
from dcfast.rundir.tables import part_path
from dcfast.storage.parquet import read_table

__all__ = ["contaminated_steps"]


def count_kept(out: str, args: dict[str, Any]) -> dict[str, Any]:
    """Piece: the kept samples of some segments that decontamination found; ``samples``, and those of each set.

    Memory: the segments' evidence, and the fates of their samples.
    """
    import pyarrow.compute as pc

    root = Path(out)
    found: set[tuple[str, int]] = set()  # a sample may match a set by its bytes and by its looks
    kept, begin = None, 0
    for number in args["segments"]:
        segment = Segment.open(root / segment_path(number), verify=False)
        evidence = read_table(root / part_path(EVIDENCE_TABLE, number), columns=["shard", "row", "evalset"])
        if evidence.num_rows and kept is None:
            fates = read_table(root / part_path("fates", args["number"]), columns=["fate"])["fate"]
            kept = pc.equal(fates, "kept").to_numpy(zero_copy_only=False)
        first = dict(zip(segment.shard_names, np.asarray(segment.shard_sample_begin).tolist(), strict=False))
        for shard, row, name in zip(*(evidence[c].to_pylist() for c in ("shard", "row", "evalset")), strict=True):
            sample = begin + first[shard] + row
            if kept is not None and kept[sample]:
                found.add((name, sample))
        begin += segment.num_samples
    return {
        "samples": len({sample for _, sample in found}),
        "evalsets": dict(sorted(Counter(name for name, _ in found).items())),
    }


def contaminated_steps(run: Run) -> Any:
    """The step that counts; returns ``samples`` and ``evalsets`` (every set that was compared -> samples), or None
    where there was nothing to compare with."""
    if run.evalset_dir is None or not run.has_summary("decontaminate") or not run.summary("decontaminate")["available"]:
        return None
    names = [name for name, _ in compared_sets(run.evalset_dir)]
    counts = yield [
        Piece(
            "filter/contaminated",
            f"{number:05d}",
            "dcfast.stages.filter.leaked:count_kept",
            {"number": number, "segments": [n for n, _ in some]},
            inputs=(
                part_path("fates", number),
                *(path for n, _ in some for path in (segment_path(n), part_path(EVIDENCE_TABLE, n))),
            ),
            native=True,
        )
        for number, some in enumerate(run.sample_groups())
    ]
    return {
        "samples": sum(c["samples"] for c in counts),
        "evalsets": {name: sum(c["evalsets"].get(name, 0) for c in counts) for name in names},
    }
