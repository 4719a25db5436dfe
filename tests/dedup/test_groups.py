"""Edges and groups: the lightest forest against Kruskal's, the kept one by each rule, the way from the others to it."""

from __future__ import annotations

import numpy as np
import pytest
from dcfast.dedup import groups
from dcfast.dedup.edges import make_edges, no_edges, read_edges
from dcfast.dedup.groups import Forest, choose_kept, lightest, nodes_of, trace
from dcfast.dedup.options import METHODS
from dcfast.uids.sets import record_sort
from hypothesis import given
from hypothesis import strategies as st

PAIRS = st.lists(st.tuples(st.integers(0, 25), st.integers(0, 25), st.integers(0, 4)), max_size=80)


def edges_of(pairs: list[tuple[int, int, int]], method: str = "perceptual") -> np.ndarray:
    a, b, distance = np.array(pairs, np.int64).reshape(-1, 3).T
    return make_edges(method, a, b, distance)


def kruskal(edges: np.ndarray) -> list[tuple[int, int, int]]:
    """The lightest forest, by the book."""
    parent: dict[int, int] = {}

    def root(x: int) -> int:
        while parent.setdefault(x, x) != x:
            x = parent[x]
        return x

    chosen = []
    for weight, a, b in sorted(edges.tolist()):
        if root(a) != root(b):
            parent[root(a)] = root(b)
            chosen.append((weight, a, b))
    return chosen


@given(PAIRS)
def test_lightest_forest_is_kruskals(pairs: list[tuple[int, int, int]]) -> None:
    edges = edges_of(pairs)
    assert lightest(edges).tolist() == kruskal(edges)


@given(PAIRS, st.integers(1, 7), st.integers(1, 5))
def test_any_parts_give_the_same_forest(pairs: list[tuple[int, int, int]], part: int, cut: int) -> None:
    """Of forests of parts, in parts of any size."""
    edges = edges_of(pairs)
    parts = [lightest(edges[i::cut]) for i in range(cut)]
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(groups, "PART", part)
        assert lightest(record_sort(np.concatenate(parts))).tolist() == kruskal(edges)


@given(PAIRS, st.randoms(use_true_random=False))
def test_kept_and_the_way_to_it(pairs: list[tuple[int, int, int]], random: object) -> None:
    edges = edges_of(pairs)
    forest = Forest(nodes_of([edges]))
    forest.add(edges)
    components = forest.components()
    value = np.array([random.choice([1.0, 2.0, float("nan")]) for _ in forest.nodes])  # type: ignore[attr-defined]
    old = forest.nodes < 5
    kept = choose_kept(components, old, value)
    links = trace(forest, kept)
    for place in range(len(forest.nodes)):
        group = np.flatnonzero(components == components[place])
        assert components[place] == group[0]
        best = min(group, key=lambda i: (not old[i], -value[i] if value[i] == value[i] else np.inf, i))
        assert kept[place] == best
        at, steps = place, 0
        while at != best:
            edge = forest.edges[links.edge[at]]
            ends = {int(edge["f1"]), int(edge["f2"])}
            assert ends == {int(forest.nodes[at]), int(forest.nodes[links.to[at]])}
            at, steps = int(links.to[at]), steps + 1
        assert steps == links.steps[place]
    assert (links.steps >= 0).all()


def test_nothing() -> None:
    forest = Forest(nodes_of([no_edges()]))
    forest.add(no_edges())
    empty = forest.components()
    links = trace(forest, choose_kept(empty, np.zeros(0, bool), np.zeros(0)))
    assert (len(empty), len(forest.edges), len(links.to)) == (0, 0, 0)


def test_a_long_chain() -> None:
    """Every sample is a copy of the one before: one group, and the steps say how far each is from the kept one."""
    number = np.arange(3000)
    edges = make_edges("perceptual", number[:-1], number[1:], np.full(2999, 4))
    forest = Forest(nodes_of([edges]))
    forest.add(edges)
    links = trace(forest, choose_kept(forest.components(), np.zeros(3000, bool), np.zeros(3000)))
    assert links.steps.tolist() == number.tolist()


def test_edges_say_what_they_were_made_of() -> None:
    score = np.array([1.0, -1.0, 0.0, -0.0, 0.95, np.nextafter(np.float32(0.95), np.float32(1))], np.float32)
    edges = make_edges("semantic", np.arange(6), np.arange(6) + 10, score)
    assert read_edges(edges).score.tolist() == sorted(score.tolist(), reverse=True)  # the best first
    wide = read_edges(make_edges("perceptual256", np.array([5, 7]), np.array([2, 7]), np.array([200, 0]), variant=3))
    assert (wide.distance.tolist(), wide.variant.tolist()) == ([200], [3])  # a sample is no copy of itself
    assert METHODS[wide.method[0]] == "perceptual256"
    assert np.isnan(wide.score).all()


def test_stronger_evidence_comes_first() -> None:
    pair = np.array([1]), np.array([2])
    made = [make_edges(name, *pair, np.array([0.99 if name == "semantic" else 3])) for name in reversed(METHODS)]
    edges = record_sort(np.concatenate(made))
    assert [METHODS[i] for i in read_edges(edges).method] == list(METHODS)
    assert read_edges(lightest(edges)).method.tolist() == [0]
