"""Stage ``dedup``: groups of copies in the pool, and between it and older ones; which of each are dropped, and why.

``pools`` numbers the samples of all pools and brings the older ones so far that their pictures are hashed; ``pairs``
finds the pairs, a block of samples with another in each piece; ``settle`` makes groups of them. Writes
``duplicates.npy`` (sorted uids of the samples that are dropped) and ``duplicates.parquet`` (the evidence for each).
Memory, whatever the pool: two blocks of 2^21 samples (or 2^18 embeddings, mapped) and 300 MB in each worker while pairs
are found, and 500 bytes a sample that is alike another in the end. Disk: 48 bytes a sample for the contents, 24 bytes
an edge, of which each two blocks have at most one a sample; for semantic the embeddings once more.
"""

from __future__ import annotations

from dcfast.rundir.run_dir import Run
from dcfast.rundir.summaries import DedupSummary
from dcfast.stages.dedup.pairs import find_pairs
from dcfast.stages.dedup.pools import number_pools
from dcfast.stages.dedup.settle import settle
from dcfast.stages.runner import Do

__all__ = ["steps"]


def steps(run: Run, do: Do) -> DedupSummary:
    """The older pools, the pairs of each method, the groups."""
    pools = number_pools(run, do)
    found = find_pairs(run, do, pools)
    return settle(run, do, pools, found)
