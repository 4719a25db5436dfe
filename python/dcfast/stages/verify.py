"""Stage ``verify``: the new shards are what the plan says, byte for byte, and the fates add up. Writes ``verify.json``.

Each output shard is walked by the indexer anew and every payload is hashed on both sides; the fates are read back
from their parts and held against the subset, the index and the contaminated uids. Anything that does not agree is
an error, and ``verify.json`` names it. Memory: one output shard's member list, or one part of the fates.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from msgspec import UNSET, UnsetType

from dcfast import resharding
from dcfast.engine.piece import Piece, piece
from dcfast.errors import CorruptDataError
from dcfast.resharding.records import Mismatch
from dcfast.rundir.layout import FATES, PLAN, PLAN_FILES
from dcfast.rundir.run_dir import Run
from dcfast.rundir.summaries import FilterSummary, IndexSummary, ReshardSummary, VerifySummary
from dcfast.rundir.tables import part_path
from dcfast.stages.reshard import output_ranges
from dcfast.stages.runner import Do
from dcfast.storage.atomic import write_json
from dcfast.storage.npz import load_array
from dcfast.storage.parquet import read_schema, read_table
from dcfast.storage.records import Count, Record, plain, replaced
from dcfast.uids.sets import load_subset, uid_isin, uid_multiplicity, uid_parse

MAX_NOTED = 100


class CheckedShards(Record):
    """What of the new shards was compared, and the mismatches, of which some are named."""

    shards: Count
    samples: Count
    members: Count
    payload_bytes: Count
    mismatch_count: Count
    mismatches: list[Mismatch]


class CheckedFates(Record):
    """Of a part of the fates: ``copies`` are the kept samples as often as they stand in the subset.

    ``other_copies``: rows of which the table says otherwise, where copies were drawn.
    """

    rows: Count
    fates: dict[str, Count]
    without_fate: Count
    without_reason: Count
    kept_outside_subset: Count
    copies: Count
    other_copies: Count | UnsetType = UNSET


@piece()
def check_shards(out: Path, first: int, last: int) -> CheckedShards:
    """Piece: some output shards against plan and sources."""
    subset = load_subset(out / "subset.npy", check=False)
    report = resharding.verify_output_shards(out / PLAN, subset, out / "shards", first, last, threads=1)
    report["mismatches"] = report["mismatches"][:MAX_NOTED]
    return CheckedShards(**report)


@piece(version=2)
def check_fates(out: Path, part: str) -> CheckedFates:
    """Piece: one part of the fates: every row has a fate, and its kept uids are in the subset.

    Version 2: how often the kept samples stand in the subset.
    """
    import pyarrow.compute as pc

    drawn = "copies" in read_schema(out / part).names
    table = read_table(out / part, columns=["uid", "fate", "reason", *(["copies"] if drawn else [])])
    fate = table["fate"].combine_chunks()
    counts = {name: int(pc.sum(pc.equal(fate, name)).as_py() or 0) for name in FATES}
    kept, _ = uid_parse(table["uid"].combine_chunks().filter(pc.equal(fate, "kept")))
    copies = uid_multiplicity(kept, load_subset(out / "subset.npy", check=False), check=False, threads=1)
    told = np.asarray(table["copies"].filter(pc.equal(fate, "kept"))) if drawn else copies
    others = int(pc.sum(table["copies"]).as_py() or 0) - int(told.sum()) if drawn else 0  # of what is not kept
    unexplained = pc.sum(pc.and_(pc.not_equal(fate, "kept"), pc.is_null(table["reason"].combine_chunks()))).as_py() or 0
    return CheckedFates(
        rows=table.num_rows,
        fates=counts,
        without_fate=table.num_rows - sum(counts.values()),
        without_reason=int(unexplained),
        kept_outside_subset=int((copies == 0).sum()),
        copies=int(copies.sum()),
        other_copies=int((told != copies).sum()) + others if drawn else UNSET,
    )


@piece()
def conclude(
    out: Path, sums: VerifySummary, samples: int, contaminated: bool, excludes_contaminated: bool
) -> VerifySummary:
    """Piece: ``verify.json``: the sums of all checks and what is wrong, if anything.

    Args:
        sums: with the mismatches as problems.
        samples: of the index.
        contaminated: there is a list of contaminated uids; ``excludes_contaminated``: the filter keeps none of them.
    """
    subset = load_subset(out / "subset.npy", check=False)
    both = 0
    if contaminated:
        # the contaminated uids are the smaller side: they are looked up in the subset, which may exceed memory
        uids = np.asarray(load_subset(out / "contaminated.npy", check=False))
        both = int(uid_isin(uids, subset, check=False, threads=1).sum())
    expected = {
        "samples in the fates": (sums.sample_rows, samples),
        "rows without a fate": (sums.without_fate, 0),
        "fates without a reason": (sums.without_reason, 0),
        "kept uids outside the subset": (sums.kept_outside_subset, 0),
        "uids of the subset without a sample": (sums.missing, 0),
        "samples in the new shards": (sums.written, sums.copies),
        "members that differ from their source": (sums.mismatches, 0),
    }
    if sums.other_copies is not UNSET:
        expected["samples whose copies are not those of the subset"] = (sums.other_copies, 0)
    if excludes_contaminated:
        expected["contaminated uids in the subset"] = (both, 0)
    problems = [*sums.problems]
    problems += [f"{what}: {got:,}, expected {want:,}" for what, (got, want) in expected.items() if got != want]
    report = replaced(sums, ok=not problems, problems=problems, contaminated_in_subset=both)
    write_json(out / "verify.json", plain(report))
    return report


def _excludes_contaminated(expression: str) -> bool:
    # a top-level `& ~contaminated` is a promise that can be checked; inside `|` it is not one
    return "~contaminated" in [clause.strip() for clause in expression.split(" & ")] and "|" not in expression


def _shard_pieces(run: Run) -> list[Piece[CheckedShards]]:
    weights = load_array(run.out / PLAN / "cuts.npy", mmap=True)["tar_bytes"]
    return [
        check_shards.piece(
            "verify/shards",
            f"{first:08d}",
            inputs=["subset.npy", *PLAN_FILES, *(f"shards/{k:08d}.tar" for k in range(first, last))],
            weight=2 * int(weights[first:last].sum()),
        )(first=first, last=last)
        for first, last in output_ranges(run.summary(ReshardSummary).output_shards)
    ]


def _fate_pieces(run: Run) -> list[Piece[CheckedFates]]:
    """Of the samples first, then of the metadata's rows without one."""
    samples = [part_path("fates", n) for n in range(len(run.sample_groups()))]
    others = [part_path("fates", n, "b") for n in range(len(run.metadata_groups()))]
    return [
        check_fates.piece("verify/fates", Path(part).stem, inputs=["subset.npy", part])(part=part)
        for part in (*samples, *others)
    ]


def _other_copies(parts: Sequence[CheckedFates]) -> int | UnsetType:
    """Rows whose copies are not those of the subset; UNSET where the table has none."""
    told = [part.other_copies for part in parts if part.other_copies is not UNSET]
    return sum(told) if told else UNSET


def steps(run: Run, do: Do) -> VerifySummary:
    """Output shards, fates, conclusion; a CorruptDataError where something does not agree."""
    of_shards, of_fates = do(_shard_pieces(run)), do(_fate_pieces(run))
    noted = [f"{m['shard']} {m['member']}: {m['problem']}" for s in of_shards for m in s.mismatches]
    sums = VerifySummary(
        ok=not noted,
        problems=noted[:MAX_NOTED],
        shards=sum(s.shards for s in of_shards),
        written=sum(s.samples for s in of_shards),
        members=sum(s.members for s in of_shards),
        payload_bytes=sum(s.payload_bytes for s in of_shards),
        mismatches=sum(s.mismatch_count for s in of_shards),
        rows=sum(s.rows for s in of_fates),
        sample_rows=sum(s.rows for s in of_fates[: len(run.sample_groups())]),
        kept=sum(s.fates["kept"] for s in of_fates),
        missing=run.summary(ReshardSummary).missing,
        without_fate=sum(s.without_fate for s in of_fates),
        without_reason=sum(s.without_reason for s in of_fates),
        kept_outside_subset=sum(s.kept_outside_subset for s in of_fates),
        copies=sum(s.copies for s in of_fates),
        other_copies=_other_copies(of_fates),
    )
    compared = run.is_compared
    conclusion = conclude.piece(
        "verify/conclude",
        "conclude",
        inputs=["subset.npy", *(["contaminated.npy"] if compared else [])],
        outputs=["verify.json"],
    )
    concluded = do.one(
        conclusion(
            sums=sums,
            samples=run.summary(IndexSummary).samples,
            contaminated=compared,
            excludes_contaminated=_excludes_contaminated(run.summary(FilterSummary).filter),
        )
    )
    if not concluded.ok:
        listed = "; ".join(concluded.problems[:5])
        raise CorruptDataError(
            f"verify: {listed} (all in {run.out / 'verify.json'}); remove what differs and run the same command again",
            path=str(run.out / "verify.json"),
        )
    return concluded
