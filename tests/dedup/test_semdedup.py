"""SemDeDup against its definition, written out; both orders; several eps in one pass; what it refuses."""

from __future__ import annotations

import numpy as np
import pytest
from dcfast.dedup import semdedup as module
from dcfast.dedup.semdedup import semdedup


def clustered(seed: int, count: int = 300, dtype: str = "float32") -> np.ndarray:
    rng = np.random.default_rng(seed)
    centers = rng.standard_normal((12, 24))
    return (centers[rng.integers(0, 12, count)] + 0.3 * rng.standard_normal((count, 24))).astype(dtype)


def by_the_book(x: np.ndarray, cluster: np.ndarray, near: np.ndarray, eps: float, hard: bool) -> np.ndarray:
    unit = x.astype(np.float64)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    kept = np.ones(len(x), bool)
    for c in np.unique(cluster):
        items = sorted(np.flatnonzero(cluster == c), key=lambda i: (near[i] if hard else -near[i], i))
        for place, item in enumerate(items):
            cosines = (unit[items[:place]] @ unit[item]).astype(np.float32)
            kept[item] = not (cosines > np.float32(1 - eps)).any()
    return kept


@pytest.mark.parametrize("keep", ["hard", "easy"])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("rows", [1 << 16, 20])
def test_definition(keep: str, dtype: str, rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "GROUP_ROWS", rows)
    x = clustered(1, dtype=dtype)
    several = [0.02, 0.1, 0.2, 0.5]
    found = semdedup([x[:110], x[110:]], 9, several, seed=3, keep=keep)
    for eps, kept in zip(several, found.kept, strict=True):
        expected = by_the_book(x, found.cluster, found.near, eps, keep == "hard")
        assert np.array_equal(kept, expected)
        assert np.array_equal(kept, semdedup(x, 9, eps, seed=3, keep=keep).kept[0])
    assert 0 < found.kept[-1].sum() < found.kept[0].sum()


def test_a_dropped_item_drops_others() -> None:
    """A chain: each is near the one before alone. All but the first go, where groups by links to the kept keep more."""
    angle = np.array([0.0, 0.3, 0.6, 0.9])
    x = np.stack([np.cos(angle), np.sin(angle)], axis=1).astype(np.float32)
    kept = semdedup(x, 1, 1 - np.cos(0.35)).kept[0]
    assert kept.sum() == 2  # the two ends are the farthest from the centroid, and not near each other


def test_equal_items_leave_the_first() -> None:
    x = np.repeat(clustered(2, 5), 4, axis=0)
    assert semdedup(x, 5, 0.001).kept[0].tolist() == [True, False, False, False] * 5
    assert semdedup(x[:1], 1, 0.5).kept.tolist() == [[True]]
    assert semdedup(np.empty((0, 8), np.float32), 1, [0.5, 0.1]).kept.shape == (2, 0)


def test_refused() -> None:
    x = clustered(3, 20)
    with pytest.raises(ValueError, match="eps must be 0 to 2"):
        semdedup(x, 2, -0.1)
    with pytest.raises(ValueError, match="eps must be 0 to 2"):
        semdedup(x, 2, [0.1, float("nan")])
    with pytest.raises(ValueError, match="keep must be one of hard, easy"):
        semdedup(x, 2, 0.1, keep="random")
    with pytest.raises(ValueError, match="clusters must be 1 to the number of points"):
        semdedup(x, 21, 0.1)
    with pytest.raises(TypeError, match="embeddings must be floats"):
        semdedup(np.ones((3, 3), np.int64), 1, 0.1)
    for bad in (0.0, np.nan, np.inf):
        spoilt = x.copy()
        spoilt[13] = bad
        with pytest.raises(ValueError, match="row 13 is zero or no finite numbers"):
            semdedup([spoilt[:5], spoilt[5:]], 2, 0.1)
