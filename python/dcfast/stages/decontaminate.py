"""Stage ``decontaminate``: which pool pictures are evaluation pictures, with the evidence for each hit.

Equal content hash (the very bytes), perceptual hashes of 64 and of 256 bits within a Hamming distance, and the
descriptors of signature files (``--signatures``) with those that DataComp published of the pool. Flat pictures never
match by perceptual hash. Writes ``contaminated.npy`` (sorted uids) and ``contamination.parquet`` (a row for each pool
sample, evaluation set and method: the nearest evaluation picture). Memory: ``dcfast.decontamination.matching``, in each
worker.
"""

from __future__ import annotations

from dcfast.decontamination.choice import uncompared, unused_notes
from dcfast.decontamination.matching import match_segment, merge_contaminated, uid_run
from dcfast.decontamination.published import find_published
from dcfast.dedup.signature_file import read_headers
from dcfast.evaluate.tasks import compared_sets
from dcfast.models.descriptors import ISC_NAME, ISC_THRESHOLD
from dcfast.rundir.layout import EVIDENCE_TABLE, evalset_signature_path, segment_path, signature_path
from dcfast.rundir.run_dir import Run
from dcfast.rundir.summaries import DecontaminateSummary
from dcfast.rundir.tables import combine_parts, part_path
from dcfast.stages.runner import Do


def steps(run: Run, do: Do) -> DecontaminateSummary:
    """Hits by segment, then the merged uid list and evidence table. Without evaluation sets there is nothing to do."""
    if not run.has_evaluation_sets:
        return DecontaminateSummary(available=False, uids=0)
    settings, numbers = run.settings, range(len(run.pool.segments()))
    own = compared_sets(run.evalset_dir) if run.evalset_dir is not None else []
    against = [*map(evalset_signature_path, range(len(own))), *(settings.signatures or [])]
    scores = {ISC_NAME: ISC_THRESHOLD}
    published = find_published(run.out, do, run.pool.metadata, settings.uid_from, against, scores)
    hits = do(
        match_segment.piece(
            "decontaminate/match",
            f"{number:05d}",
            inputs=[segment_path(number), signature_path(number), *against, *published.files.values()],
            outputs=[part_path(EVIDENCE_TABLE, number), uid_run(number)],
        )(
            number=number,
            against=against,
            bits=settings.max_distance,
            bits256=settings.max_distance_256,
            scores=scores,
            published=published.files,
        )
        for number in numbers
    )
    headers = read_headers([run.out / file for file in against])
    notes = [
        f"evaluation set {name}: nothing of it could be compared with the pool: contamination by it may be missed"
        for name in uncompared(headers, published.files, hashes=True)
    ]
    runs, rows = [*map(uid_run, numbers)], sum(h.rows for h in hits)
    merge = merge_contaminated.piece("decontaminate/merge", "uids", inputs=runs, outputs=["contaminated.npy"])
    merged = do.one(merge(runs=runs))
    do.one(combine_parts("decontaminate/merge", EVIDENCE_TABLE, len(numbers), rows))
    return DecontaminateSummary(
        available=True,
        uids=merged.uids,
        samples=sum(h.samples for h in hits),
        content=sum(h.content for h in hits),
        flat=sum(h.flat for h in hits),
        evidence_rows=rows,
        max_distance=settings.max_distance,
        max_distance_256=settings.max_distance_256,
        sets=sorted(one.name for header in headers for one in header.sets),
        published=published.described,
        notes=[*notes, *published.notes, *unused_notes(headers, published.files)],
    )
