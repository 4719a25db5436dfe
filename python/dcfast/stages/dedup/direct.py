"""Part of stage ``dedup``: whether two samples are alike themselves, by bytes and hashes, whatever chain they are in.

The forest of a group has only its lightest edges: that two samples have none says nothing of them.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from dcfast.dedup.edges import APART, CONTENT, NARROW, WIDE, Weights, weights
from dcfast.images.signatures import FLAT_QUALITY, VARIANTS, hash_variants
from dcfast.storage.records import Record

_AT_ONCE = 1 << 16
"""Pairs that are looked at together."""


class Limits(Record):
    """What makes two samples alike: the methods, the bits that hashes may differ in, turned and mirrored pictures."""

    methods: list[str]
    bits: int
    bits256: int
    variants: bool


def direct_weights(
    signed: npt.NDArray[np.void], limits: Limits, a: npt.NDArray[np.int64], b: npt.NDArray[np.int64]
) -> Weights:
    """(n,) of pairs of signature records, by their places: the strongest evidence that ties them; APART for none.

    Cost: a comparison of two hashes each, of eight with variants. Memory: 8 bytes a pair, and 64 MB.
    """
    result = np.full(len(a), APART)
    for begin in range(0, len(a), _AT_ONCE):
        part = slice(begin, begin + _AT_ONCE)
        for some in _ties(signed[a[part]], signed[b[part]], limits):
            np.minimum(result[part], some, out=result[part])
    return result


def _ties(x: npt.NDArray[np.void], y: npt.NDArray[np.void], limits: Limits) -> Sequence[Weights]:
    readable = (x["status"] == 0) & (y["status"] == 0)
    found = []
    if CONTENT in limits.methods:
        same = (x["h0"] == y["h0"]) & (x["h1"] == y["h1"])
        found.append(weights(CONTENT, readable & same, np.zeros(len(x), np.int64)))
    if WIDE in limits.methods:
        structured = readable & (x["quality"] >= FLAT_QUALITY) & (y["quality"] >= FLAT_QUALITY)
        # a copy is aligned, which a column of one record need not be
        own, forms = x["phash256"].copy(), len(VARIANTS) if limits.variants else 1
        turned = hash_variants(own) if limits.variants else own[:, None]
        for variant in range(forms):
            bits = np.bitwise_count(turned[:, variant] ^ y["phash256"]).sum(axis=1, dtype=np.int64)
            found.append(weights(WIDE, structured & (bits <= limits.bits256), bits, variant))
    if NARROW in limits.methods:
        bits = np.bitwise_count(x["phash"] ^ y["phash"]).astype(np.int64)
        structured = readable & (x["flat"] == 0) & (y["flat"] == 0)
        found.append(weights(NARROW, structured & (bits <= limits.bits), bits))
    return found
