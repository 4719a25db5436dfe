"""The order of training and of shuffled datasets: a pure function of the seed and the sample's number."""

from __future__ import annotations

import math

import numpy as np
import pytest
from dcfast.access.counter import draw, stream_key, uniform
from dcfast.access.order import Order

GOLDEN_STREAM = [17454042800205077828, 16471136054832859475, 1685390412504476555, 8404954423618075501]


def test_the_numbers_of_a_stream_never_change() -> None:
    """What a training sees follows from these."""
    key = stream_key(7, 1, 2)
    assert [key, *draw(key, [0, 1, 1 << 40]).tolist()] == GOLDEN_STREAM
    assert stream_key(7, 1) != stream_key(7, 2) != stream_key(8, 2)


def test_uniform_numbers_are_uniform() -> None:
    values = uniform(stream_key(0, 9), np.arange(40_000))
    assert values.min() >= 0
    assert values.max() < 1
    counts, _ = np.histogram(values, bins=20, range=(0, 1))
    assert abs(counts - 2000).max() < 5 * math.sqrt(2000)


@pytest.mark.parametrize("resample", [True, False])
def test_a_sample_is_the_same_whoever_asks(resample: bool) -> None:
    order = Order([100, 37], seed=3, resample=resample, block=8, window=4)
    whole = order.placement(np.arange(500)).positions()
    alone = [int(Order([100, 37], seed=3, resample=resample, block=8, window=4).placement([g]).positions()[0])
             for g in range(0, 500, 7)]  # fmt: skip
    assert alone == whole[::7].tolist()
    backwards = order.placement(np.arange(499, -1, -1)).positions()
    assert backwards[::-1].tolist() == whole.tolist()
    assert Order([100, 37], seed=4, resample=resample, block=8, window=4).placement(
        np.arange(500)
    ).positions().tolist() != (whole.tolist())


@pytest.mark.parametrize("count", [1, 2, 7, 8, 9, 31, 32, 33, 97, 257])
def test_without_replacement_each_position_comes_once_a_pass(count: int) -> None:
    order = Order([count], seed=1, resample=False, block=8, window=4)
    passes = order.placement(np.arange(3 * count)).positions().reshape(3, count)
    for one in passes:
        assert sorted(one.tolist()) == list(range(count))
    if count > 30:
        assert passes[0].tolist() != passes[1].tolist()


def test_a_window_holds_whole_blocks_of_neighbours_and_mixes_them() -> None:
    order = Order([1000], seed=5, block=8, window=4)
    window = order.placement(np.arange(32)).positions()
    assert window.tolist() != sorted(window.tolist())
    starts = order.placement(np.arange(32)).start
    for start in set(starts.tolist()):
        block = sorted(((window[starts == start] - start) % 1000).tolist())
        assert block == list(range(8)) * (len(block) // 8)


def test_with_replacement_every_position_is_as_likely() -> None:
    order = Order([101], seed=2, block=8, window=8)
    n = 101 * 400
    counts = np.bincount(order.placement(np.arange(n)).positions(), minlength=101)
    # blocks of 8 come together, so the spread is that of n / 8 draws of 8
    assert abs(counts - 400).max() < 6 * math.sqrt(400 * 8)


def test_weights_are_of_samples_not_of_sources() -> None:
    order = Order([100, 300], seed=2, weights=[3.0, 1.0], block=4, window=8)
    source = order.source_of(order.placement(np.arange(40_000)).positions())
    assert abs(float((source == 0).mean()) - 0.5) < 0.03
    even = Order([100, 300], seed=2, block=4, window=8)
    assert abs(float((even.source_of(even.placement(np.arange(40_000)).positions()) == 0).mean()) - 0.25) < 0.03


def test_replacements_are_the_next_of_the_block_then_those_behind_it() -> None:
    order = Order([50, 40], seed=0, block=8, window=2)
    places = order.placement(np.arange(16))
    for i in range(16):
        tried = [int(places.positions(k)[i]) for k in range(60)]
        base, size, start = (int(getattr(places, name)[i]) for name in ("base", "size", "start"))
        block = [base + (start + k) % size for k in range(8)]
        assert sorted(tried[:8]) == sorted(block)
        assert tried[1] == block[(block.index(tried[0]) + 1) % 8]
        assert set(tried[:size]) == set(range(base, base + size))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"counts": []}, "at least 1 sample"),
        ({"counts": [3, 0]}, "at least 1 sample"),
        ({"counts": [3], "block": 0}, "block and window must be at least 1"),
        ({"counts": [3, 4], "weights": [1.0]}, "2 positive numbers"),
        ({"counts": [3, 4], "weights": [1.0, -1.0]}, "2 positive numbers"),
        ({"counts": [3, 4], "weights": [1.0, 2.0], "resample": False}, "need resample"),
    ],
)
def test_bad_orders(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Order(**{"seed": 0, **arguments})
