"""Groups of copies: connected components over pairs of all methods, the one that is kept of each, and why.

Of all pairs only the lightest forest is needed (the minimum spanning forest, whose edges are the strongest evidence
that holds the groups together): it has fewer edges than samples, it is one and the same in whatever parts and order
the pairs come, and its path from a dropped sample to the kept one is the evidence. Pieces that find pairs reduce theirs
to a forest (``lightest``); their forests lie on disk as sorted runs, are merged by weight (``dcfast.uids.merge_runs``),
and ``Forest`` takes them a part at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from dcfast.dedup.edges import APART, Edges, no_edges

Nodes = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]
PART = 1 << 20
"""Edges that are looked at together."""


class Forest:
    """The lightest forest of a graph whose edges come in the order of their weights, a part at a time.

    Args:
        nodes: (n,) int64, sorted: all that an edge may have at its ends.
    Memory: 24 bytes a node, 24 bytes an edge of the forest, and 60 bytes an edge of the part that is added.
    """

    def __init__(self, nodes: Nodes) -> None:
        self.nodes = nodes
        self._label = np.arange(len(nodes))
        self._edges: list[Edges] = []

    def add(self, edges: Edges) -> None:
        """Takes edges that are sorted and none of which is lighter than those before. Cost: a few sorts' time.

        Each round joins every tree with the tree at the other end of its lightest edge (Boruvka), so that the number
        of trees halves; of equal edges the earlier counts as lighter, so that no circle can close.
        """
        for begin in range(0, len(edges), PART):
            part = edges[begin : begin + PART]
            ends = [np.searchsorted(self.nodes, part[name].astype(np.int64)) for name in ("f1", "f2")]
            chosen = []
            live = np.arange(len(part))
            while len(live):
                u, v = (self._label[end[live]] for end in ends)
                apart = u != v
                live, u, v = live[apart], u[apart], v[apart]
                if len(live):
                    chosen.append(self._join(live, u, v))
            if chosen:
                self._edges.append(part[np.sort(np.concatenate(chosen))])

    def _join(self, live: Nodes, u: Nodes, v: Nodes) -> Nodes:
        """One round over edges ``live``, in order, between trees u and v: the edges that join trees."""
        count = len(self.nodes)
        lightest = np.full(count, -1)
        place = np.arange(len(live))
        for end in (u, v):
            first = np.full(count, len(live))
            first[end[::-1]] = place[::-1]  # of an index that repeats the last assignment stays
            better = (first < len(live)) & ((lightest < 0) | (first < lightest))
            lightest[better] = first[better]
        trees = np.flatnonzero(lightest >= 0)
        edge = lightest[trees]
        parent = np.arange(count)
        parent[trees] = u[edge] + v[edge] - trees  # the tree at the other end
        mutual = (parent[parent[trees]] == trees) & (trees < parent[trees])
        parent[trees[mutual]] = trees[mutual]
        while not np.array_equal(grand := parent[parent], parent):
            parent = grand
        self._label = parent[self._label]
        joining: Nodes = live[np.unique(edge)]
        return joining

    @property
    def edges(self) -> Edges:
        """The forest, in the order of weights."""
        return np.concatenate([no_edges(), *self._edges])

    def components(self) -> Nodes:
        """(n,) int64 of each node: the place in ``nodes`` of the first node of its group."""
        first = np.full(len(self.nodes), len(self.nodes))
        place = np.arange(len(self.nodes))
        first[self._label[::-1]] = place[::-1]
        return first[self._label]


def lightest(edges: Edges) -> Edges:
    """The lightest forest of sorted edges, sorted. Memory: 24 bytes a node, and what ``Forest.add`` takes."""
    forest = Forest(nodes_of([edges]))
    forest.add(edges)
    return forest.edges


def nodes_of(parts: Iterable[Edges]) -> Nodes:
    """The distinct nodes of edges, sorted. Memory: twice the result, and a part."""
    nodes = np.empty(0, np.int64)
    for part in parts:
        for begin in range(0, len(part), PART):
            some = part[begin : begin + PART]
            ends = np.concatenate([some["f1"], some["f2"]]).astype(np.int64)
            nodes = np.union1d(nodes, ends)
    return nodes


def _keep_order(components: Nodes, old: Flags, value: npt.NDArray[np.float64], able: Flags | None) -> Nodes:
    """The nodes group by group, each in the order in which one would be kept."""
    falling = np.where(np.isnan(value), np.inf, -value)
    unable = np.zeros(len(value), np.bool_) if able is None else ~able
    order: Nodes = np.lexsort((np.arange(len(value)), falling, unable, ~old, components))
    return order


def _heads(components: Nodes) -> Flags:
    """(n,) of nodes in groups: which are the first of theirs."""
    first = np.ones(len(components), np.bool_)
    first[1:] = components[1:] != components[:-1]
    return first


def choose_kept(components: Nodes, old: Flags, value: npt.NDArray[np.float64], able: Flags | None = None) -> Nodes:
    """(n,) int64 of each node: the place of the one of its group that is kept.

    An old sample, where the group has one; then one that is able to be kept; then the highest value; NaN is below all;
    then the first.

    Args:
        components: of ``Forest.components``.   old: (n,) in a pool that is not thinned.   value: (n,).
        able: (n,) what a filter could keep; None: all.
    """
    order = _keep_order(components, old, value, able)
    first = _heads(components[order])
    kept = np.empty(len(order), np.int64)
    kept[components[order[first]]] = order[first]
    result: Nodes = kept[components]
    return result


def stars(
    components: Nodes,
    old: Flags,
    value: npt.NDArray[np.float64],
    able: Flags,
    weigh: Callable[[Nodes, Nodes], npt.NDArray[np.uint64]],
) -> tuple[Nodes, npt.NDArray[np.uint64]]:
    """(n,) the node for which each is dropped, itself where it stays; and the weight of the edge between the two.

    In the order of ``choose_kept`` each node that has not been dropped drops those of its group that are alike to it
    itself; old nodes are never dropped, and those that are not ``able`` drop nobody.

    Args:
        weigh: of pairs of places (centre, other) the weights of their edges, APART where they are not alike.
    Cost: a group of m nodes, c of which stay, has at most m x c pairs. Memory: 80 bytes a node, and what weigh takes.
    """
    centre, weight = np.arange(len(value)), np.full(len(value), APART)
    able = able | old
    alive = _keep_order(components, old, value, able)
    while len(alive):
        first = _heads(components[alive])
        begin = np.flatnonzero(first)
        group = np.cumsum(first) - 1
        # nobody is left to be dropped, or nobody for whom
        live = (np.logical_or.reduceat(~old[alive], begin) & able[alive[begin]])[group]
        other, head = alive[~first & live], alive[begin][group[~first & live]]
        asked = np.flatnonzero(~old[other])
        ties = np.full(len(other), APART)
        ties[asked] = weigh(head[asked], other[asked])
        near = ties != APART
        centre[other[near]], weight[other[near]] = head[near], ties[near]
        alive = other[~near]
    return centre, weight


class Links(NamedTuple):
    """How nodes hang on the kept one of their group, arrays of shape (n,).

    Attributes:
        to: the next node on the way to the kept one; -1 of the kept one itself.
        edge: the edge to it, an index into the forest's edges; -1 of the kept one.
        steps: edges between the node and the kept one: above 1 they are copies of copies, which need not be alike.
    """

    to: Nodes
    edge: Nodes
    steps: Nodes


def trace(forest: Forest, kept: Nodes) -> Links:
    """The way of each node to the kept one of its group (``choose_kept``). Memory: 80 bytes a node."""
    edges, count = forest.edges, len(forest.nodes)
    ends = [np.searchsorted(forest.nodes, edges[name].astype(np.int64)) for name in ("f1", "f2")]
    source, target = np.concatenate(ends), np.concatenate(ends[::-1])
    order = np.argsort(source, kind="stable")
    target, number = target[order], order % max(len(edges), 1)
    begin = np.searchsorted(source[order], np.arange(count + 1))
    to, edge, steps = np.full((3, count), -1)
    front = np.unique(kept)
    steps[front] = 0
    while len(front):
        many = begin[front + 1] - begin[front]
        sender = np.repeat(front, many)
        at = np.arange(len(sender)) - np.repeat(np.cumsum(many) - many, many) + np.repeat(begin[front], many)
        fresh = steps[target[at]] < 0
        sender, at = sender[fresh], at[fresh]
        front = target[at]
        to[front], edge[front], steps[front] = sender, number[at], steps[sender] + 1
    return Links(to, edge, steps)
