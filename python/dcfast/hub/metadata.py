"""DataComp's metadata: the parquet files of a scale, and on request the npz with its embeddings, as a pool has them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from dcfast.errors import did_you_mean
from dcfast.hub.fetch import Fetched, fetch_repo

SCALES = ("small", "medium", "large", "xlarge", "datacomp_1b")
"""Those that DataComp publishes: its pools, and the subset of xlarge that is called DataComp-1B."""
OWNER = "mlfoundations"


def metadata_repo(scale: str) -> str:
    """The dataset of a scale's metadata.   ValueError: there is none of this name."""
    if scale not in SCALES:
        raise ValueError(f"scale must be one of {', '.join(SCALES)}; got {scale!r}{did_you_mean(scale, SCALES)}")
    return f"{OWNER}/{scale}" if scale == "datacomp_1b" else f"{OWNER}/datacomp_{scale}"


def fetch_metadata(
    scale: str,
    out: Path,
    *,
    npz: bool = False,
    lock: Path,
    update_lock: bool = False,
    say: Callable[[str], None] = lambda line: None,
) -> Fetched:
    """Fetches the metadata of one of DataComp's pools to ``out/metadata``, where a run looks for it.

    Args:
        scale: small, medium, large, xlarge, or datacomp_1b.
        out: the pool.
        npz: the embeddings, too: 25 times the bytes.
        lock, update_lock, say: as for ``fetch_repo``; so are the errors and what happens after a kill.
    A folder that another download left unfinished is compared with what the hub tells and completed. Sizes by
    DataComp's own account: 3 GB at small, ten times as much at each larger scale; with npz 75 GB at small.
    Example: ``fetch_metadata("small", Path("pool"), lock=Path("pool/hub.lock.json"))``
    """
    repo = metadata_repo(scale)
    below = "*/" if scale == "xlarge" else ""  # in folders part_0 to part_7, which the pool does without
    kinds = ["parquet", "npz"] if npz else ["parquet"]
    return fetch_repo(
        repo,
        Path(out) / "metadata",
        patterns=[f"{below}*.{kind}" for kind in kinds],
        required=[f"*.{kind}" for kind in kinds],
        lock=lock,
        update_lock=update_lock,
        flatten=scale == "xlarge",
        say=say,
    )
