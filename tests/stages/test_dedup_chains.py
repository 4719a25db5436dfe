"""Which copies of a group are dropped: those near the kept one, and never the last sample of a picture."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from dcfast.dedup.edges import WIDE, read_edges
from dcfast.dedup.groups import Forest
from dcfast.dedup.pairs import Hashed, hash_edges
from dcfast.dedup.records import SIGNATURE_DTYPE
from dcfast.run.dedup_command import DedupOptions, dedup_pool
from dcfast.stages.dedup.direct import Limits, direct_weights
from dcfast.stages.dedup.nodes import NodeTable
from dcfast.stages.dedup.outcome import Outcome, outcome_of
from dcfast.uids.files import UID_DTYPE
from pool_builder import PoolBuilder, Sample, picture
from test_dedup import dropped, evidence

LIMITS = Limits([WIDE], 4, 31, variants=False)


def settled(
    hashes: np.ndarray, *, chains: bool = False, old: np.ndarray | None = None, able: np.ndarray | None = None
) -> tuple[Outcome, np.ndarray]:
    """The outcome for samples of these 256-bit hashes, and their distances."""
    bits = np.bitwise_count(hashes[:, None] ^ hashes[None]).sum(axis=2, dtype=np.int64)
    edges = hash_edges(Hashed(hashes, np.arange(len(hashes))), None, LIMITS.bits256)
    nodes = np.flatnonzero((bits <= 31).sum(axis=1) > 1)
    forest, count = Forest(nodes), len(nodes)
    forest.add(edges)
    signed = np.zeros(count, SIGNATURE_DTYPE)
    signed["quality"], signed["phash256"] = 255, hashes[nodes]
    no_text, yes = pa.nulls(count, pa.string()), np.ones(count, bool)
    zeros = np.zeros(count, np.int64)
    table = NodeTable(zeros, np.zeros(count, UID_DTYPE), yes, signed, zeros.astype(np.uint32), no_text, no_text)
    old = np.zeros(count, bool) if old is None else old[nodes]
    able = yes if able is None else able[nodes]
    return outcome_of(forest, table, old, able, np.zeros(count), LIMITS, chains), bits[np.ix_(nodes, nodes)]


def chain(length: int, step: int = 20) -> np.ndarray:
    """Hashes, each ``step`` bits from the one before and farther from all others."""
    ones = np.zeros((length, 256), np.uint8)
    for number in range(length):
        ones[number, : number * step] = 1
    return np.packbits(ones, axis=1).view(np.uint64)


def test_a_chain_is_not_eaten_whole() -> None:
    outcome, bits = settled(chain(8))
    assert outcome.kept.tolist() == [0, 0, 2, 2, 4, 4, 6, 6]
    assert set(outcome.steps[outcome.dropped].tolist()) == {1}
    ties = read_edges(outcome.ties[outcome.dropped])
    assert ties.distance.tolist() == bits[outcome.dropped, outcome.kept[outcome.dropped]].tolist() == [20] * 4
    whole, _ = settled(chain(8), chains=True)
    assert whole.kept.tolist() == [0] * 8
    assert whole.steps.max() == 7


def test_near_ones_are_dropped_whatever_the_forest_holds() -> None:
    """All within 30 bits of the first, whose forest is a chain of steps of 10."""
    outcome, _ = settled(chain(4, step=10))
    assert outcome.kept.tolist() == [0] * 4
    assert read_edges(outcome.ties[outcome.dropped]).distance.tolist() == [10, 20, 30]


@pytest.mark.parametrize("seed", range(3))
def test_stars_are_the_greedy_ones(seed: int) -> None:
    """In the order of keeping, each that is not dropped drops those near it: by a loop that says so."""
    rng = np.random.default_rng(seed)
    base = rng.integers(0, 2, (6, 256))
    ones = base[rng.integers(0, 6, 300)] ^ (rng.random((300, 256)) < rng.uniform(0, 0.14, (300, 1)))
    hashes = np.packbits(ones.astype(np.uint8), axis=1).view(np.uint64)
    old, able = np.arange(300) < 60, rng.random(300) < 0.8
    outcome, bits = settled(hashes, old=old, able=able)
    old, able = outcome.old, outcome.able
    kept = np.arange(len(old))
    order = [*np.flatnonzero(old), *np.flatnonzero(~old & able)]  # the others drop nobody
    for place, centre in enumerate(order):
        if kept[centre] == centre:
            done = np.isin(kept, order[:place]) | np.isin(np.arange(len(old)), order[: place + 1])
            kept[(bits[centre] <= 31) & ~old & ~done] = centre
    assert outcome.kept.tolist() == kept.tolist()
    assert 0 < len(outcome.dropped) < len(kept)


def test_turned_pictures_are_near() -> None:
    from dcfast.images.signatures import hash_variants

    signed = np.zeros(2, SIGNATURE_DTYPE)
    own = np.random.default_rng(0).integers(0, 2**64, 4, dtype=np.uint64)
    signed["quality"], signed["phash256"] = 255, [own, hash_variants(own)[3]]
    pair = np.array([0]), np.array([1])
    assert direct_weights(signed, LIMITS, *pair)[0] == np.uint64(2**64 - 1)
    tie = direct_weights(signed, Limits([WIDE], 4, 31, variants=True), *pair)
    edge = np.zeros(1, "u8,u8,u8")
    edge["f0"] = tie
    assert (read_edges(edge).variant[0], read_edges(edge).distance[0]) == (3, 0)


def test_the_kept_one_can_be_kept(tmp_path: Path) -> None:
    """A sample that no metadata row lists, or without a uid, gives way to one that a filter can keep."""
    copy = picture(0)
    shard = [Sample(0, listed=False), Sample(1, jpg=copy, info={}, listed=False), Sample(2, jpg=copy), Sample(3)]
    others = [Sample(4, listed=False), Sample(5, jpg=picture(4), listed=False)]
    pool = PoolBuilder(tmp_path / "pool", [shard, others]).write()
    summary = dedup_pool(DedupOptions(pool=str(pool), out=str(tmp_path / "out"), workers=1, keep="first"))
    assert dropped(tmp_path / "out") == [0]
    assert [row["kept_key"] for row in evidence(tmp_path / "out")] == ["000000002"] * 2
    assert any("1 copies stay because no sample of their group has a uid" in note for note in summary.notes)


def test_a_repeated_uid_of_another_picture_stays(tmp_path: Path) -> None:
    """To drop the copy by its uid would drop the other sample, which is none."""
    pool = PoolBuilder(tmp_path / "pool", [[Sample(0), Sample(1, jpg=picture(0))], [Sample(1, listed=False)]]).write()
    summary = dedup_pool(DedupOptions(pool=str(pool), out=str(tmp_path / "out"), workers=1, keep="first"))
    assert dropped(tmp_path / "out") == []
    assert summary.repeats == 1
    assert any("(a repeated uid)" in note for note in summary.notes)
