"""Part of stage ``dedup``: which node of a group each of the others is dropped for, and what ties the two."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from dcfast.dedup.edges import SEMANTIC, Edges, Weights, read_edges
from dcfast.dedup.groups import Forest, choose_kept, stars, trace
from dcfast.dedup.options import METHODS
from dcfast.stages.dedup.direct import Limits, direct_weights
from dcfast.stages.dedup.nodes import NodeTable
from dcfast.uids.files import RECORD_DTYPE
from dcfast.uids.sets import open_records, uid_lookup, uid_sort

Places = npt.NDArray[np.int64]
Values = npt.NDArray[np.float64]
POOL_RECORDS = "index/pool.npy"


@dataclass
class Outcome:
    """Groups and their ends, arrays of n nodes: of each the one that it is dropped for (itself where it stays), the
    next on the way there, how many steps that way has, and the edge that ties it. ``first``: the kept one of the
    group. ``dropped``: places of the nodes that are dropped."""

    table: NodeTable
    components: Places
    old: npt.NDArray[np.bool_]
    able: npt.NDArray[np.bool_]
    first: Places
    kept: Places
    to: Places
    steps: Places
    ties: Edges
    dropped: Places


def _hashed_components(forest: Forest) -> Places:
    """Components by bytes and hashes alone: the lightest forest without its heaviest edges is the lightest of those."""
    edges = forest.edges
    by_hash = Forest(forest.nodes)
    by_hash.add(edges[read_edges(edges).method != METHODS.index(SEMANTIC)])
    return by_hash.components()


def outcome_of(
    forest: Forest,
    table: NodeTable,
    old: npt.NDArray[np.bool_],
    able: npt.NDArray[np.bool_],
    values: Values,
    limits: Limits,
    chains: bool,
) -> Outcome:
    components = forest.components()
    first = choose_kept(components, old, values, able)
    links = trace(forest, first)
    nodes, edges = np.arange(len(first)), np.concatenate([forest.edges, np.zeros(1, RECORD_DTYPE)])
    ties = edges[links.edge]
    kept, to, steps = first, links.to, links.steps
    if chains:
        kept = np.where((able | old)[first] & ~old, first, nodes)
    else:
        by_hash = _hashed_components(forest)

        def weigh(centre: Places, other: Places) -> Weights:
            near = direct_weights(table.signed, limits, centre, other)
            # what only embeddings tie to the kept one hangs on it by the chain
            hanging = (centre == first[centre]) & (by_hash[centre] != by_hash[other])
            return np.where(hanging, links_weight[other], near)

        links_weight = np.ascontiguousarray(ties["f0"])
        kept, weight = stars(components, old, values, able, weigh)
        direct = np.flatnonzero(by_hash[kept] == by_hash)
        ties["f0"][direct], to, steps = weight[direct], to.copy(), steps.copy()
        to[direct], steps[direct] = kept[direct], 1
    return Outcome(table, components, old, able, first, kept, to, steps, ties, np.flatnonzero(kept != nodes))


def keep_repeats(out: Path, outcome: Outcome) -> int:
    """Lets the samples stay whose uid another sample of the pool has that stays; how many they are."""
    table, dropped = outcome.table, outcome.dropped
    named = dropped[table.has_uid[dropped]]
    uids = np.ascontiguousarray(table.uid[named])
    in_pool = uid_lookup(open_records(out / POOL_RECORDS), uids, threads=1)[1]
    among = uid_lookup(uid_sort(uids, threads=1), uids, threads=1)[1]
    staying = named[among < in_pool]
    outcome.dropped = np.setdiff1d(dropped, staying)
    return len(staying)
