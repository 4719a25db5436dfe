"""Scores of embeddings: s-CLIPLoss of one shuffle beside its formula in torch, whose matrix of logits is in memory.

The embeddings are like CLIP's: of unit length in float16, those of a side with half of their length in common, those
of a pair a little more. Both sides get the same permutation, and rows that are a multiple of the batch. What is checked
before anything is timed: the scores of ``CHECKED`` rows of each batch against float64, within 1e-4 of their standard
deviation. 1,048,576 pairs (--million) are timed once, without the peer.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import numpy.typing as npt

from bench import harness
from bench.bars import TORCH_LOGITS, Value
from bench.harness import Side, WrongAnswerError

BATCH, ROWS, WIDTH, T = 32_768, 131_072, 768, 0.01
CHECKED = 256
MOST_ERROR = 1e-4
Floats = npt.NDArray[np.float16]
Scores = npt.NDArray[np.float64]
Places = npt.NDArray[np.int64]


def embeddings(rows: int, width: int) -> tuple[Floats, Floats]:
    """Pairs like those of OpenAI's CLIP: cosines of pairs about 0.25, of others about 0.15."""
    rng = np.random.Generator(np.random.SFC64(rows))
    common = rng.standard_normal((3, width), np.float32)
    sides = [np.empty((rows, width), np.float16) for _ in range(2)]
    for begin in range(0, rows, 8192):
        count = min(8192, rows - begin)
        shared = rng.standard_normal((count, width), np.float32)
        for own, side in zip(common, sides, strict=False):
            part = 0.9 * own + 0.45 * common[2] + 0.45 * shared + rng.standard_normal((count, width), np.float32)
            side[begin : begin + count] = part / np.linalg.norm(part, axis=1, keepdims=True)
    return sides[0], sides[1]


def formula_in_torch(image: Floats, text: Floats, order: Places, batch: int, threads: int) -> Scores:
    """The formula as one writes it: the logits of a batch, and logsumexp of their rows and columns."""
    import torch

    torch.set_num_threads(threads)
    scores = np.empty(len(order))
    with torch.inference_mode():
        for begin in range(0, len(order), batch):
            rows = order[begin : begin + batch]
            x, y = (torch.from_numpy(side[rows]).float() for side in (image, text))
            logits = x @ y.T / T
            own = logits.diagonal() - (torch.logsumexp(logits, 1) + torch.logsumexp(logits, 0)) / 2
            scores[begin : begin + batch] = T * own.numpy()
            del logits
    return scores


def exact(image: Floats, text: Floats, order: Places, batch: int) -> tuple[Places, Scores]:
    """Places in ``order`` that are checked, and their scores in float64."""
    places, scores = [], []
    for begin in range(0, len(order), batch):
        rows = order[begin : begin + batch]
        some = np.linspace(0, len(rows) - 1, min(CHECKED, len(rows))).astype(int)
        x, y = image[rows].astype(np.float64), text[rows].astype(np.float64)
        by_row = np.logaddexp.reduce(x[some] @ y.T / T, axis=1)
        by_column = np.logaddexp.reduce(y[some] @ x.T / T, axis=1)
        own = np.einsum("nd,nd->n", x[some], y[some])
        places.append(begin + some)
        scores.append(own - T / 2 * (by_row + by_column))
    return np.concatenate(places), np.concatenate(scores)


def checked(provider: str, expected: tuple[Places, Scores]) -> Callable[[Scores], None]:
    """Raises WrongAnswerError where scores are off by more than MOST_ERROR of their spread."""
    places, scores = expected

    def check(got: Scores) -> None:
        error = float(np.abs(got[places] - scores).max() / scores.std())
        print(f"  {provider}: largest error {error:.1e} of the scores' standard deviation", flush=True)
        if not error < MOST_ERROR:
            raise WrongAnswerError(f"{provider}: scores are off by {error:.2e} of their standard deviation")

    return check


def main(argv: Sequence[str] | None = None) -> dict[str, Value]:
    own = argparse.ArgumentParser(add_help=False)
    own.add_argument("--million", action="store_true", help="also time 1,048,576 pairs, without the peer")
    mine, rest = own.parse_known_args(argv)
    options = harness.parse_options("bench_scores", rest, __doc__)
    import torch  # before the peer's only run, which is timed
    from dcfast.filters.pair_scores import s_cliploss

    torch.ones(64, 64) @ torch.ones(64, 64)
    bench = harness.Bench("bench_scores", options)
    rows, batch = (2048, 512) if options.quick else (ROWS, BATCH)
    image, text = embeddings(rows, WIDTH)
    order = np.random.default_rng(1).permutation(rows)
    expected = exact(image, text, order, batch)
    ours = partial(s_cliploss, image, text, order, temperature=T, batch=batch, threads=options.threads)
    theirs = partial(formula_in_torch, image, text, order, batch, options.threads)
    shape = f"{rows} pairs x {WIDTH}, batches of {batch}"
    sides = [
        Side("dcfast", ours, checked("dcfast", expected), threads=options.threads),
        Side(TORCH_LOGITS, theirs, checked(TORCH_LOGITS, expected), threads=options.threads, once=True),
    ]
    bench.compare("s_cliploss", sides, shape=shape, dtype="float16", rounds=1, touched=[image, text])
    if mine.million and not options.quick:
        image, text = embeddings(1 << 20, WIDTH)
        order = np.random.default_rng(2).permutation(len(image))
        run = partial(s_cliploss, image, text, order, temperature=T, threads=options.threads)
        alone = Side("dcfast", run, lambda _: None, threads=options.threads, once=True)
        bench.compare("s_cliploss_million", [alone], shape=f"{len(image)} pairs x {WIDTH}", dtype="float16")
    return bench.finish()


if __name__ == "__main__":
    main(sys.argv[1:])
