"""Stage ``verify``: the new shards are what the plan says, byte for byte, and the fates add up. Writes ``verify.json``.

Each output shard is walked by the indexer anew and every payload is hashed on both sides; the fates are read back
from their parts and held against the subset, the index and the contaminated uids. Anything that does not agree is
an error, and ``verify.json`` names it. Memory: one output shard's member list, or one part of the fates.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from dcfast import resharding
from dcfast.engine.piece import Piece
from dcfast.errors import CorruptDataError
from dcfast.resharding.records import VerifyReport
from dcfast.rundir.layout import FATES, PLAN, PLAN_FILES
from dcfast.rundir.run_dir import Run
from dcfast.rundir.tables import part_path
from dcfast.stages.reshard import output_ranges
from dcfast.stages.runner import Steps
from dcfast.storage.atomic import write_json
from dcfast.storage.npz import load_array
from dcfast.storage.parquet import read_table
from dcfast.uids.sets import load_subset, uid_isin, uid_multiplicity, uid_parse

__all__ = ["steps"]

MAX_NOTED = 100
SUMMED = ("without_fate", "without_reason", "kept_outside_subset", "copies")
"""Of the fates' parts."""
VERSION = 2
"""Of what is read off the fates. 2: how often the kept samples stand in the subset."""


def check_shards(out: str, args: dict[str, Any]) -> VerifyReport:
    """Piece: some output shards against plan and sources."""
    root = Path(out)
    report = resharding.verify_output_shards(
        root / PLAN,
        load_subset(root / "subset.npy", check=False),
        root / "shards",
        args["first"],
        args["last"],
        threads=1,
    )
    report["mismatches"] = report["mismatches"][:MAX_NOTED]
    return report


def check_fates(out: str, args: dict[str, Any]) -> dict[str, Any]:
    """Piece: one part of the fates: every row has a fate, and its kept uids are in the subset."""
    import pyarrow.compute as pc

    root = Path(out)
    table = read_table(root / args["part"], columns=["uid", "fate", "reason"])
    fate = table["fate"].combine_chunks()
    counts = {name: int(pc.sum(pc.equal(fate, name)).as_py() or 0) for name in FATES}
    kept, _ = uid_parse(table["uid"].combine_chunks().filter(pc.equal(fate, "kept")))
    copies = uid_multiplicity(kept, load_subset(root / "subset.npy", check=False), check=False, threads=1)
    unexplained = pc.sum(pc.and_(pc.not_equal(fate, "kept"), pc.is_null(table["reason"].combine_chunks()))).as_py() or 0
    return {
        "rows": table.num_rows,
        "fates": counts,
        "without_fate": table.num_rows - sum(counts.values()),
        "without_reason": int(unexplained),
        "kept_outside_subset": int((copies == 0).sum()),
        "copies": int(copies.sum()),
    }


def conclude(out: str, args: dict[str, Any]) -> dict[str, Any]:
    """Piece: ``verify.json``: the sums of all checks and what is wrong, if anything."""
    root, sums = Path(out), args["sums"]
    subset = load_subset(root / "subset.npy", check=False)
    both = 0
    if args["contaminated"]:
        # the contaminated uids are the smaller side: they are looked up in the subset, which may exceed memory
        both = int(
            uid_isin(
                np.asarray(load_subset(root / "contaminated.npy", check=False)), subset, check=False, threads=1
            ).sum()
        )
    problems = list(args["problems"])
    expected = {
        "samples in the fates": (sums["sample_rows"], args["samples"]),
        "rows without a fate": (sums["without_fate"], 0),
        "fates without a reason": (sums["without_reason"], 0),
        "kept uids outside the subset": (sums["kept_outside_subset"], 0),
        "uids of the subset without a sample": (sums["missing"], 0),
        "samples in the new shards": (sums["written"], sums["copies"]),
        "members that differ from their source": (sums["mismatches"], 0),
    }
    if args["excludes_contaminated"]:
        expected["contaminated uids in the subset"] = (both, 0)
    problems += [f"{what}: {got:,}, expected {want:,}" for what, (got, want) in expected.items() if got != want]
    report = {"ok": not problems, "problems": problems, "contaminated_in_subset": both, **sums}
    write_json(root / "verify.json", report)
    return report


def _excludes_contaminated(expression: str) -> bool:
    # a top-level `& ~contaminated` is a promise that can be checked; inside `|` it is not one
    return "~contaminated" in [clause.strip() for clause in expression.split(" & ")] and "|" not in expression


def _shard_pieces(run: Run) -> list[Piece]:
    weights = _weights(run)
    return [
        Piece(
            "verify/shards",
            f"{first:08d}",
            "dcfast.stages.verify:check_shards",
            {"first": first, "last": last},
            inputs=("subset.npy", *PLAN_FILES, *(f"shards/{k:08d}.tar" for k in range(first, last))),
            weight=2 * sum(weights[first:last]),
        )
        for first, last in output_ranges(run.summary("reshard")["output_shards"])
    ]


def _fate_pieces(run: Run) -> list[Piece]:
    """Of the samples first, then of the metadata's rows without one."""
    samples = [part_path("fates", n) for n in range(len(run.sample_groups()))]
    others = [part_path("fates", n, "b") for n in range(len(run.metadata_groups()))]
    return [
        Piece(
            "verify/fates",
            Path(part).stem,
            "dcfast.stages.verify:check_fates",
            {"part": part},
            inputs=("subset.npy", part),
            version=VERSION,
        )
        for part in (*samples, *others)
    ]


def steps(run: Run) -> Steps:
    """Output shards, fates, conclusion; a CorruptDataError where something does not agree."""
    of_shards = yield _shard_pieces(run)
    of_fates = yield _fate_pieces(run)
    sums = {
        "shards": sum(s["shards"] for s in of_shards),
        "written": sum(s["samples"] for s in of_shards),
        "members": sum(s["members"] for s in of_shards),
        "payload_bytes": sum(s["payload_bytes"] for s in of_shards),
        "mismatches": sum(s["mismatch_count"] for s in of_shards),
        "rows": sum(s["rows"] for s in of_fates),
        "sample_rows": sum(s["rows"] for s in of_fates[: len(run.sample_groups())]),
        "kept": sum(s["fates"]["kept"] for s in of_fates),
        "missing": run.summary("reshard")["missing"],
        **{
            key: sum(s[key] for s in of_fates)
            for key in ("without_fate", "without_reason", "kept_outside_subset", "copies")
        },
    }
    noted = [f"{m['shard']} {m['member']}: {m['problem']}" for s in of_shards for m in s["mismatches"]]
    has_list = bool(run.has_summary("decontaminate") and run.summary("decontaminate")["available"])
    [concluded] = yield [
        Piece(
            "verify/conclude",
            "conclude",
            "dcfast.stages.verify:conclude",
            {
                "sums": sums,
                "problems": noted[:MAX_NOTED],
                "samples": run.summary("index")["samples"],
                "contaminated": has_list,
                "excludes_contaminated": _excludes_contaminated(run.summary("filter")["filter"]),
            },
            inputs=("subset.npy", *(("contaminated.npy",) if has_list else ())),
            outputs=("verify.json",),
        )
    ]
    if not concluded["ok"]:
        listed = "; ".join(concluded["problems"][:5])
        raise CorruptDataError(
            f"verify: {listed} (all in {run.out / 'verify.json'}); remove what differs and run the same command again",
            path=str(run.out / "verify.json"),
        )
    return concluded


def _weights(run: Run) -> list[int]:
    cuts = load_array(run.out / PLAN / "cuts.npy", mmap=True)
    return [int(n) for n in cuts["tar_bytes"]]
