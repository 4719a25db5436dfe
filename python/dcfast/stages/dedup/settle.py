"""Part of stage ``dedup``: from edges to groups, the one of each group that is kept, and the evidence for the others.

Memory: 256 MiB while edges are merged, then 500 bytes and a key a sample that is alike another (a node); nothing grows
with the pool.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from dcfast.dedup.duplicates import DUPLICATE_TABLE, DUPLICATES, duplicate_schema
from dcfast.dedup.edges import SEMANTIC, Edges, no_edges, read_edges
from dcfast.dedup.groups import Forest, nodes_of
from dcfast.dedup.options import METHODS
from dcfast.engine.piece import piece
from dcfast.filters.term import DUPLICATE
from dcfast.images.signatures import VARIANTS
from dcfast.rundir.layout import MERGE_BYTES
from dcfast.rundir.run_dir import Run
from dcfast.rundir.summaries import DedupSummary
from dcfast.rundir.tables import table_writer
from dcfast.stages.dedup.direct import Limits
from dcfast.stages.dedup.nodes import read_listed, read_nodes
from dcfast.stages.dedup.outcome import POOL_RECORDS, Outcome, keep_repeats, outcome_of
from dcfast.stages.dedup.pools import Found, PoolPart, Pools, methods_of
from dcfast.stages.runner import Do
from dcfast.storage.records import Count, Record
from dcfast.uids.sets import merge_runs, open_records, save_subset, uid_unique

if TYPE_CHECKING:
    import pyarrow as pa

_EDGES = "state/dedup/edges.npy"
TABLE_ROWS = 1 << 16
"""Rows of evidence that are written at a time."""


class Settled(Record):
    """What became of the nodes.

    Attributes:
        groups: that have a sample of the pool.   dropped: samples; ``uids`` of them.
        links: dropped samples by the method that ties them.   of_older: dropped for a sample of an older pool.
        repeats: samples that are copies and have the uid of another one that stays: left to the filter and reshard.
        unscored: nodes of the pool without a score, where the best score is kept.
        chained: samples that stay because only a chain ties them to the kept one.   unlisted: that stay because neither
        they nor the one that would be kept have a uid that the metadata lists.
        largest: samples of the largest group.   steps: between a dropped sample and the kept one, at most.
    """

    groups: Count
    dropped: Count
    uids: Count
    links: dict[str, Count]
    of_older: Count
    repeats: Count
    largest: Count
    steps: Count
    unscored: Count
    chained: Count
    unlisted: Count


def _forest(edges: Edges) -> Forest:
    forest = Forest(nodes_of([edges]))
    forest.add(edges)
    return forest


@piece(version=2)
def settle_groups(
    out: Path,
    edges: Sequence[str],
    parts: Sequence[PoolPart],
    keep: str,
    limits: Limits,
    files: Sequence[str],
    chains: bool = False,
    column: str = "",
    uid_from: str = "json",
) -> Settled:
    """Piece: ``duplicates.npy`` and ``duplicates.parquet``.

    Args:
        keep: rule of KEEP.   files, uid_from: of the metadata.   column: of the scores in it, for the best one.
    """
    if edges:
        merge_runs([out / name for name in edges], out / _EDGES, memory_bytes=MERGE_BYTES)
    forest = _forest(open_records(out / _EDGES) if edges else no_edges())
    table = read_nodes(out, parts, forest.nodes)
    old = forest.nodes < parts[-1].first
    listed, scores = read_listed(out, files, column, uid_from, table)
    values = {"largest": table.pixels, "score": scores}.get(keep, np.zeros(len(listed)))
    outcome = outcome_of(forest, table, old, table.has_uid & listed, values, limits, chains)
    repeats = keep_repeats(out, outcome)
    _write_evidence(out, parts, outcome)
    dropped = outcome.dropped
    gone = uid_unique(np.ascontiguousarray(table.uid[dropped[table.has_uid[dropped]]]), threads=1)
    save_subset(out / DUPLICATES, gone)
    unscored = int(np.count_nonzero(np.isnan(values[~old])))
    return _settled(outcome, len(gone), repeats, unscored)


def _settled(outcome: Outcome, uids: int, repeats: int, unscored: int) -> Settled:
    """What is counted of the outcome."""
    old, dropped, nodes = outcome.old, outcome.dropped, np.arange(len(outcome.kept))
    methods = read_edges(outcome.ties[dropped]).method
    rest = (outcome.kept == nodes) & (outcome.first != nodes) & ~old
    barren = ~(outcome.able | old)[outcome.first]
    sizes = np.bincount(outcome.components)
    return Settled(
        groups=len(np.unique(outcome.components[~old])),
        dropped=len(dropped),
        uids=uids,
        links={name: int(count) for name, count in Counter(METHODS[i] for i in methods.tolist()).items()},
        of_older=int(np.count_nonzero(old[outcome.kept[dropped]])),
        repeats=repeats,
        largest=int(sizes.max(initial=0)),
        steps=int(outcome.steps[dropped].max(initial=0)),
        unscored=unscored,
        chained=int(np.count_nonzero(rest & ~barren)),
        unlisted=int(np.count_nonzero(rest & barren)),
    )


def _write_evidence(out: Path, parts: Sequence[PoolPart], outcome: Outcome) -> None:
    names = [part.name or None for part in parts]
    firsts = np.unique(outcome.components)
    with table_writer(out / DUPLICATE_TABLE, duplicate_schema()) as writer:
        for begin in range(0, len(outcome.dropped), TABLE_ROWS):
            writer.write_table(_evidence(names, firsts, outcome, outcome.dropped[begin : begin + TABLE_ROWS]))


def _evidence(
    names: Sequence[str | None],
    firsts: npt.NDArray[np.int64],
    outcome: Outcome,
    at: npt.NDArray[np.int64],
) -> pa.Table:
    """The rows of some dropped samples."""
    import pyarrow as pa

    table, schema = outcome.table, duplicate_schema()
    shard, key, uid = table.texts(at)
    columns = {"shard": shard, "row": table.row[at], "key": key, "uid": uid}
    for which, places in (("kept", outcome.kept[at]), ("link", outcome.to[at])):
        pools = pa.array(names, pa.string()).take(pa.array(table.pool[places]))
        texts = (pools, *table.texts(places))
        columns |= {f"{which}_{name}": text for name, text in zip(("pool", "shard", "key", "uid"), texts, strict=True)}
    tie = read_edges(outcome.ties[at])
    semantic = tie.method == METHODS.index(SEMANTIC)
    columns |= {
        "group": np.searchsorted(firsts, outcome.components[at]),
        "steps": outcome.steps[at].astype(np.uint32),
        "method": pa.DictionaryArray.from_arrays(tie.method.astype(np.int8), list(METHODS)),
        "variant": pa.DictionaryArray.from_arrays(
            pa.array(tie.variant.astype(np.int8), mask=tie.variant == 0), list(VARIANTS)
        ),
        "distance": pa.array(tie.distance, mask=semantic),
        "score": pa.array(tie.score, mask=~semantic),
    }
    return pa.table([columns[name] for name in schema.names], schema=schema)


def settle(run: Run, do: Do, pools: Pools, found: Found) -> DedupSummary:
    """The groups of all edges, written down and counted."""
    settings, files = run.settings, pools.segment_files()
    signed = [part.signatures(n) for part in pools.parts for n in range(len(part.samples))]
    by_score = settings.dedup_keep == "score"
    settling = settle_groups.piece(
        "dedup/groups",
        "groups",
        inputs=[*found.files, *files, *signed, *run.metadata_files, POOL_RECORDS],
        outputs=[DUPLICATES, DUPLICATE_TABLE],
    )
    settled = do.one(
        settling(
            edges=found.files,
            parts=pools.parts,
            keep=settings.dedup_keep,
            column=settings.dedup_score if by_score else "",
            files=run.metadata_files,
            limits=Limits(
                methods_of(settings),
                settings.dedup_max_distance,
                settings.dedup_max_distance_256,
                settings.dedup_variants,
            ),
            chains=settings.dedup_chains,
            uid_from=settings.uid_from,
        )
    )
    return DedupSummary(
        methods=methods_of(settings),
        older=[part.name for part in pools.parts[:-1]],
        keep=settings.dedup_keep,
        samples=sum(pools.own.samples),
        readable=found.readable,
        flat=found.flat,
        flat256=found.flat256,
        embedded=found.embedded,
        invalid_embeddings=found.invalid,
        groups=settled.groups,
        duplicates=settled.dropped,
        uids=settled.uids,
        links=settled.links,
        of_older=settled.of_older,
        repeats=settled.repeats,
        largest_group=settled.largest,
        steps=settled.steps,
        chained=settled.chained,
        notes=_notes(settled, found, settings.filter or ""),
    )


def _notes(settled: Settled, found: Found, chosen: str) -> list[str]:
    notes = []
    if settled.steps > 1:
        notes.append(
            f"some duplicates hang on the kept one by up to {settled.steps} links: they are copies of copies, and need "
            f"not be alike (column steps of {DUPLICATE_TABLE}); stricter limits make shorter chains"
        )
    if settled.unscored:
        notes.append(
            f"{settled.unscored:,} samples that are alike others have no score: kept where none of their group has one"
        )
    if settled.chained:
        notes.append(
            f"{settled.chained:,} samples stay that are alike only by a chain to the kept one of their group: --chains "
            "drops them"
        )
    if settled.unlisted:
        notes.append(
            f"{settled.unlisted:,} copies stay because no sample of their group has a uid that the metadata lists"
        )
    if settled.repeats:
        notes.append(
            f"{settled.repeats:,} copies have the uid of another sample that stays (a repeated uid), so that no filter "
            "by uid can drop them"
        )
    if settled.dropped and chosen.strip() != f"~{DUPLICATE}" and DUPLICATE in chosen:
        notes.append(
            "where the rest of the filter drops the kept one of a group, nothing is left of the group: --keep score "
            "keeps the one that a filter by scores keeps"
        )
    if found.invalid:
        notes.append(f"{found.invalid:,} embeddings are zero or no finite numbers, and match nothing")
    return notes
