"""
Most likely labels of texts by fastText models.
"""

from __future__ import annotations

import typing

import numpy
import numpy.typing

__all__: list[str] = ["LanguageModel", "draw_copies"]

class LanguageModel:
    """
    A fastText model of languages: hierarchical softmax, dense or pruned and quantised.
    """

    def __init__(self, path: bytes) -> None: ...
    def find_label(self, name: bytes | str) -> int:
        """
        The number of a label, -1 where there is none of that name.
        """

    def predict_offsets32(
        self,
        data: numpy.typing.NDArray[numpy.uint8],
        offsets: numpy.typing.NDArray[numpy.int32],
        threads: typing.SupportsIndex,
    ) -> numpy.typing.NDArray[numpy.int32]:
        """
        The number of the most likely label of each text, -1 for none.
        """

    def predict_offsets64(
        self,
        data: numpy.typing.NDArray[numpy.uint8],
        offsets: numpy.typing.NDArray[numpy.int64],
        threads: typing.SupportsIndex,
    ) -> numpy.typing.NDArray[numpy.int32]:
        """
        The number of the most likely label of each text, -1 for none.
        """

def draw_copies(
    scores: numpy.typing.NDArray[numpy.float64],
    total: typing.SupportsIndex,
    *,
    penalty: typing.SupportsFloat | typing.SupportsIndex,
    most_copies: typing.SupportsIndex,
    draw: typing.SupportsIndex,
    seed: typing.SupportsIndex,
) -> numpy.typing.NDArray[numpy.uint32]:
    """
    How often each row is drawn by its score: see csrc/core/filters/score_sampling.hpp.
    """
