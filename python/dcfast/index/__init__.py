"""The index of a pool: which sample lies where.

``pool`` lists a pool's files, ``build`` indexes shards, ``segments`` opens what was built, ``rows`` says what a row is,
``pool_index`` finds the rows of a uid, ``refresh`` brings an index up to date.
"""

from __future__ import annotations

from dcfast.index.build import TarIndex, index_tars, write_segment
from dcfast.index.pool import Pool
from dcfast.index.pool_index import PoolIndex
from dcfast.index.refresh import refresh_index
from dcfast.index.segments import MemberKind, SampleFlag, Segment
from dcfast.storage.http import RemoteOptions

__all__ = [
    "MemberKind",
    "Pool",
    "PoolIndex",
    "RemoteOptions",
    "SampleFlag",
    "Segment",
    "TarIndex",
    "index_tars",
    "refresh_index",
    "write_segment",
]
