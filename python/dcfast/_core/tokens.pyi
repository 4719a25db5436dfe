"""
Tokens of captions.
"""

from __future__ import annotations

import typing

import numpy
import numpy.typing
import typing_extensions

__all__: list[str] = ["BytePairs"]

class BytePairs:
    """
    A tokenizer by byte pairs, of captions that need no mending.
    """

    def __init__(
        self,
        first: numpy.typing.NDArray[numpy.int32],
        second: numpy.typing.NDArray[numpy.int32],
        merged: numpy.typing.NDArray[numpy.int32],
        inner: numpy.typing.NDArray[numpy.int32],
        last: numpy.typing.NDArray[numpy.int32],
        start: typing.SupportsIndex,
        end: typing.SupportsIndex,
    ) -> None: ...
    def encode(
        self,
        data: typing_extensions.Buffer,
        begin: numpy.typing.NDArray[numpy.int64],
        size: numpy.typing.NDArray[numpy.int64],
        context: typing.SupportsIndex,
        threads: typing.SupportsIndex,
    ) -> tuple[numpy.typing.NDArray[numpy.int64], numpy.typing.NDArray[numpy.bool_]]:
        """
        (tokens, one row of `context` after the other; whether each caption is one that is done here).
        """
