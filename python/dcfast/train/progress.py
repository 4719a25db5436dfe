"""Where a training stands, as its checkpoints say it."""

from __future__ import annotations

import msgspec

from dcfast.storage.records import Count, Record
from dcfast.train.settings import Identity


class RankCount(msgspec.Struct, frozen=True, array_like=True):
    """From which step on a training was on how many ranks; a list in the checkpoint."""

    first_step: Count
    ranks: Count
    accumulation: Count


class Progress(Record, kw_only=True):
    """Where a training stands.

    Attributes:
        step: steps done.
        samples_seen: counted as they were taken, over all ranks.
        replaced: of these, how many stand in for one that could not be used; -1 = not counted, by an older version.
        ranks: the numbers of ranks it went on with, in order; empty by an older version.
    """

    step: Count
    samples_seen: Count
    replaced: int = -1
    identity: Identity
    ranks: list[RankCount] = []
