"""s-CLIPLoss, NormSim and VAS against their formulas in float64, written from the papers."""

from __future__ import annotations

import numpy as np
import pytest
from dcfast.filters.pair_scores import gram_matrix, norm_from_gram, s_cliploss, usable_rows
from dcfast.similarity import row_max

T = 0.01


def unit(rows: np.ndarray) -> np.ndarray:
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float16)


def embeddings(n: int, d: int = 48, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    shared = rng.normal(size=(n, d))
    return tuple(unit(0.5 * rng.normal(size=d) + 0.5 * shared + rng.normal(size=(n, d))) for _ in range(2))  # type: ignore[return-value]


def formula(image: np.ndarray, text: np.ndarray, order: np.ndarray, t: float, batch: int) -> np.ndarray:
    """arXiv 2405.19547, equation of negCLIPLoss, of one division of the rows into batches."""
    scores = np.full(len(image), np.nan)
    for begin in range(0, len(order), batch):
        rows = order[begin : begin + batch]
        others = np.concatenate([rows, order[: batch - len(rows)]]) if begin else rows
        f, g = image[others].astype(np.float64), text[others].astype(np.float64)
        z = f @ g.T / t
        by_row, by_column = np.logaddexp.reduce(z, axis=1), np.logaddexp.reduce(z, axis=0)
        value = t * np.diag(z) - t / 2 * (by_row + by_column)
        scores[rows] = value[: len(rows)]
    return scores[order]


@pytest.mark.parametrize(("n", "batch"), [(512, 128), (500, 128), (129, 128), (128, 128), (60, 128), (1, 8)])
@pytest.mark.parametrize("t", [0.01, 0.07])
def test_s_cliploss_is_the_formula(n: int, batch: int, t: float) -> None:
    image, text = embeddings(n)
    order = np.random.default_rng(1).permutation(n)
    got = s_cliploss(image, text, order, temperature=t, batch=batch)
    expected = formula(image, text, order, t, batch)
    spread = max(float(expected.std()), 1e-3)
    assert np.abs(got - expected).max() < 1e-4 * spread + 1e-6
    assert (got <= 1e-9).all()


def test_the_best_by_s_cliploss_are_those_of_the_formula() -> None:
    image, text = embeddings(3000, 512)
    order = np.random.default_rng(2).permutation(3000)
    got, expected = s_cliploss(image, text, order, batch=1500), formula(image, text, order, T, 1500)
    error = np.abs(got - expected)
    assert error.max() < 1e-4 * np.ptp(expected)
    assert np.sqrt(np.square(error).mean()) < 1e-4 * expected.std()
    limit = np.sort(expected)[-900]
    sure = np.abs(expected - limit) > error.max()
    assert np.array_equal((got >= np.sort(got)[-900])[sure], (expected >= limit)[sure])
    assert sure.sum() > 2900


def test_rows_that_are_left_out_of_the_order_are_never_read() -> None:
    image, text = embeddings(100)
    image[7], text[9] = np.nan, np.inf
    order = np.setdiff1d(np.arange(100), [7, 9])
    expected = formula(np.nan_to_num(image), np.nan_to_num(text, posinf=0), order, T, 98)
    assert np.abs(s_cliploss(image, text, order) - expected).max() < 1e-5


def test_on_torchs_path_too() -> None:
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        from dcfast.loss.torch_backend import clip_forward, clip_log_sums

        image, text = embeddings(200)
        stats = clip_forward(torch.from_numpy(image).float(), torch.from_numpy(text).float(), torch.tensor(1 / T))
        z = image.astype(np.float64) @ text.astype(np.float64).T / T
        assert np.allclose(clip_log_sums(stats.rows).numpy(), np.logaddexp.reduce(z, axis=1), rtol=1e-5)
        assert np.allclose(clip_log_sums(stats.cols).numpy(), np.logaddexp.reduce(z, axis=0), rtol=1e-5)
        return
    image, text = embeddings(3000)
    order = np.random.default_rng(5).permutation(3000)
    got = s_cliploss(image, text, order, batch=1024, device="cuda")
    assert np.abs(got - formula(image, text, order, T, 1024)).max() < 1e-5


def test_normsim_and_vas_are_their_formulas() -> None:
    image, target = embeddings(300, 32)
    products = image.astype(np.float64) @ target.astype(np.float64).T
    gram, count = gram_matrix(target[begin : begin + 64] for begin in range(0, 300, 64))
    assert count == 300
    two = np.linalg.norm(products, ord=2, axis=1)
    got = norm_from_gram(image, gram)
    assert np.abs(got - two).max() < 1e-9
    assert np.allclose(np.square(got) / count, np.square(products).mean(axis=1))
    infinite = row_max(image, target, absolute=True)
    assert np.abs(infinite - np.abs(products).max(axis=1)).max() < 1e-6


def test_usable_rows() -> None:
    rows = np.array([[1, 0], [0, 0], [np.nan, 1], [np.inf, 0], [0, -2]], np.float16)
    assert usable_rows(rows).tolist() == [True, False, False, False, True]
