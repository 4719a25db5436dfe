"""Scores of embeddings as their authors define them: s-CLIPLoss, NormSim and VAS, of arrays that may be mapped files.

Sources: s-CLIPLoss and NormSim, Wang et al. 2024 (arXiv 2405.19547, there first called negCLIPLoss); VAS, Wang et al.
2024 (arXiv 2402.02055). All take the embeddings as they are given, which are unit vectors in DataComp's npz.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import numpy.typing as npt

from dcfast.similarity.log_sums import LogSums, log_sums

BATCH = 32_768
"""Pairs that a pair is measured against."""
Floats = npt.NDArray[np.floating]
Mask = npt.NDArray[np.bool_]


def usable_rows(block: Floats) -> Mask:
    """(n,) bool: rows that are an embedding: all finite, and not all zero."""
    usable: Mask = np.isfinite(block).all(axis=1) & (block != 0).any(axis=1)
    return usable


def _batches(order: npt.NDArray[np.int64], batch: int) -> Iterator[tuple[npt.NDArray[np.int64], int]]:
    """The rows of each batch, and how many of them, the first, get their score from it; all get one once.

    The last batch is filled up from the beginning of the order; where all rows are fewer than a batch they are one.
    """
    for begin in range(0, len(order), batch):
        rows = order[begin : begin + batch]
        more = order[: min(batch, len(order)) - len(rows)] if begin else order[:0]
        yield np.concatenate([rows, more]), len(rows)


def s_cliploss(
    image: Floats,
    text: Floats,
    order: npt.NDArray[np.int64],
    *,
    temperature: float = 0.01,
    batch: int = BATCH,
    threads: int | None = None,
    device: str = "cpu",
) -> npt.NDArray[np.float64]:
    """s-CLIPLoss of one shuffle: x_i . y_i - (t / 2) (log sum_j exp(x_i . y_j / t) + log sum_j exp(x_j . y_i / t)).

    Higher is better; it is at most 0. j goes over the pairs of a batch, i included.

    Args:
        image, text: (n, d) float16 or float32, row i of both a pair; may be mapped. Rows in ``order`` are finite.
        order: (m,) different rows, in the order in which batches are cut.
        temperature: t; 0.01 for OpenAI's CLIP, 0.07 for a public DFN.
        device: "cpu", or as torch names a GPU, where it is float32 in torch.
    Returns:
        (m,) float64, in the order of ``order``; within 1e-5 of the formula in float64.
    Raises:
        TypeError, ValueError: see ``dcfast.similarity.log_sums``.
    Cost: batch * d products a pair: 6 s a batch of 32,768 x 768 on two cores with AVX2.
    Memory: some 16 bytes an element of a batch: 0.4 GB for 768 dimensions; the matrix of logits is never there.
    """
    scores = np.empty(len(order))
    at = 0
    for rows, scored in _batches(np.asarray(order, np.int64), batch):
        # in the order of the file: the sums do not depend on it but for rounding
        by_place = np.argsort(rows)
        sums = _sums(image[rows[by_place]], text[rows[by_place]], 1 / temperature, threads, device)
        values = temperature * (sums.diagonal - (sums.rows + sums.columns) / 2)
        placed = np.empty(len(rows))
        placed[by_place] = values
        scores[at : at + scored] = placed[:scored]
        at += scored
    return scores


def _sums(image: Floats, text: Floats, scale: float, threads: int | None, device: str) -> LogSums:
    if device == "cpu":
        return log_sums(image, text, scale, threads=threads)
    import torch

    from dcfast.loss.torch_backend.forward import clip_forward, clip_log_sums

    with torch.inference_mode():
        x, y = (torch.from_numpy(np.ascontiguousarray(side, np.float32)).to(device) for side in (image, text))
        stats = clip_forward(x, y, torch.tensor(scale, device=device))
        own = (x.double() * y.double()).sum(dim=1) * scale
        parts = (clip_log_sums(stats.rows), clip_log_sums(stats.cols), own)
        return LogSums(*(part.double().cpu().numpy() for part in parts))


def gram_matrix(blocks: Iterable[Floats]) -> tuple[npt.NDArray[np.float64], int]:
    """(d, d) float64, the sum of z z^T over target embeddings, and how many these are; blocks of (n_i, d).

    Cost: 2 d^2 operations a row.   Memory: 8 d^2 bytes, and a block in float64.
    """
    gram, count = np.zeros((0, 0)), 0
    for block in blocks:
        wide = np.asarray(block, np.float64)
        gram = wide.T @ wide if not count else gram + wide.T @ wide
        count += len(block)
    return gram, count


def norm_from_gram(image: Floats, gram: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """NormSim_2: (n,) float64, the 2-norm of (x . z) over the target's z, sqrt(x^T G x).   Cost: 2 d^2 a row."""
    wide = np.asarray(image, np.float64)
    squares: npt.NDArray[np.float64] = np.einsum("nd,nd->n", wide @ gram, wide)
    return np.sqrt(np.maximum(squares, 0.0))
