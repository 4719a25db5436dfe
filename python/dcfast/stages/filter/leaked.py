"""What the filter kept of the samples that are copies of evaluation pictures: counted, by evaluation set.

Scores of a model that trained on copies of what it is scored on are no scores, so the counts stand in the filter
stage's summary, and from there in the manifest and beside the scores in the report.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from dcfast.engine.piece import piece
from dcfast.index.segments import Segment
from dcfast.rundir.layout import EVIDENCE_TABLE, segment_path
from dcfast.rundir.run_dir import Run
from dcfast.rundir.summaries import DecontaminateSummary, KeptCopies
from dcfast.rundir.tables import part_path
from dcfast.stages.runner import Do
from dcfast.storage.parquet import read_table


@piece(native=True)
def count_kept(out: Path, number: int, segments: Sequence[int]) -> KeptCopies:
    """Piece: the kept samples of some segments that decontamination found; ``samples``, and those of each set.

    Memory: the segments' evidence, and the fates of their samples.
    """
    import pyarrow.compute as pc

    copies: set[tuple[str, int]] = set()  # a sample may match a set by its bytes and by its looks
    kept, begin = None, 0
    for n in segments:
        segment = Segment.open(out / segment_path(n), verify=False)
        evidence = read_table(out / part_path(EVIDENCE_TABLE, n), columns=["shard", "row", "evalset"])
        if evidence.num_rows and kept is None:
            fates = read_table(out / part_path("fates", number), columns=["fate"])["fate"]
            kept = pc.equal(fates, "kept").to_numpy(zero_copy_only=False)
        first = dict(zip(segment.shard_names, np.asarray(segment.shard_sample_begin).tolist(), strict=False))
        for shard, row, name in zip(*(evidence[c].to_pylist() for c in ("shard", "row", "evalset")), strict=True):
            sample = begin + first[shard] + row
            if kept is not None and kept[sample]:
                copies.add((name, sample))
        begin += segment.num_samples
    return KeptCopies(
        samples=len({sample for _, sample in copies}),
        evalsets=dict(sorted(Counter(name for name, _ in copies).items())),
    )


def count_contaminated(run: Run, do: Do) -> KeptCopies | None:
    """Every set that was compared stands among ``evalsets``; None where there was nothing to compare with."""
    if not run.has_evaluation_sets or not run.is_compared:
        return None
    names = run.summary(DecontaminateSummary).sets
    counts = do(
        count_kept.piece(
            "filter/contaminated",
            f"{number:05d}",
            inputs=[
                part_path("fates", number),
                *(path for n, _ in some for path in (segment_path(n), part_path(EVIDENCE_TABLE, n))),
            ],
        )(number=number, segments=[n for n, _ in some])
        for number, some in enumerate(run.sample_groups())
    )
    return KeptCopies(
        samples=sum(c.samples for c in counts),
        evalsets={name: sum(c.evalsets.get(name, 0) for c in counts) for name in names},
    )
