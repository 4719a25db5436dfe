"""What lies where in a run directory: names, paths and schemas that stages, reports and branches share."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import TYPE_CHECKING

from dcfast.rundir.stage_table import STAGE_TABLE

if TYPE_CHECKING:
    import pyarrow as pa

PLUGIN_FOLDER, PLUGIN_PREFIX = "plugins", "plugin-"
"""Where the stages of plugins write, a folder each, and what their names begin with in ``state/``."""
OWN_FOLDERS = (
    "state",
    "compare",
    PLUGIN_FOLDER,
    *(folder for stage in STAGE_TABLE.values() for folder in stage.folders),
)
"""What a run writes below its directory, besides files: nothing else in there is ever removed."""

RANKS = "ranks"
"""Folder in ``state/`` of a run that many processes do: their signs of life."""

FEATURE_METADATA = "features/metadata"
"""Where the features stage leaves the metadata with its columns, and the npz files beside it."""

MERGE_BYTES = 256 << 20
"""Memory of a merge of sorted runs."""


def segment_path(number: int) -> str:
    """The index of a run of shards."""
    return f"index/segment-{number:05d}.dcx"


EVIDENCE_TABLE = "contamination"
"""The table of pool images that are evaluation images."""


OLDER = "older"
"""Folder of the older pools that a pool is compared with: a run directory each."""


def _sample_fields() -> list[tuple[str, pa.DataType]]:
    """Which sample of the pool a row is of."""
    import pyarrow as pa

    return [("shard", pa.string()), ("row", pa.uint32()), ("key", pa.string()), ("uid", pa.string())]


def signature_path(number: int) -> str:
    """Signature records of one segment's images, in its order (``dcfast.dedup.records``)."""
    return f"signatures/pool-{number:05d}.npy"


def evalset_signature_path(number: int) -> str:
    """The signature file of one evaluation set (``dcfast.dedup.signature_file``)."""
    return f"signatures/eval-{number:03d}.parquet"


def mask_path(number: int, metadata: str) -> str:
    """(n,) uint8 of a metadata file: what is known of each row and the clusters of the number-th cluster set."""
    return f"filter/clusters/{number}/{Path(metadata).stem}.npy"


def score_name(key: str) -> str:
    """The name of a score source of the filter, by its key, in folders and steps: its term and a hash."""
    return f"{key.partition('(')[0]}-{hashlib.sha256(key.encode('utf-8', 'surrogateescape')).hexdigest()[:12]}"


def score_path(key: str, metadata: str) -> str:
    """(n,) floats of a metadata file: each row's score in the source of that key, NaN for none.

    They stay where another filter takes the place of theirs: one that asks for the source again finds them.
    """
    return f"filter/scores/{score_name(key)}/{Path(metadata).stem}.npy"


OUTSIDE, INSIDE, UNASKED = range(3)
"""Its values: in another cluster, in one of the target's, not asked because the rest of the filter drops the row."""


OUTCOMES = "filter/outcomes.npy"
"""Sorted records of every metadata row: uid, and outcome code << CODE_SHIFT | row in the piece's metadata."""
CODE_SHIFT = 48
"""Of a record's payload: a row that passes (code 0) sorts before one of the same uid that does not."""
METADATA_SUBSET = "subset_metadata.npy"
"""The sorted uids of all metadata rows that pass the filter, a uid as often as rows do."""

ACQUIRE = "acquire"
"""Folder of ``--acquire``: the pool that it makes where no other place is given, and the run that chose its images."""
CHOICE = f"{ACQUIRE}/choice"
"""The latter."""


_CHOSEN = re.compile(rf'uids\("(?:[^"\\]|\\.)*/{CHOICE}/{re.escape(METADATA_SUBSET)}"\)')


def filter_as_asked(expression: str | None, chosen_by: str) -> str | None:
    """The filter that a run with ``--acquire`` was asked for: what metadata decided before the download, and the rest.

    Args:
        expression: the run's own.   chosen_by: what the images of its pool were chosen by.
    Returns:
        None for any other run.
    """
    match = _CHOSEN.search(expression or "") if chosen_by else None
    if match is None or expression is None:
        return None
    before, after = expression[: match.start()], expression[match.end() :]
    return f"{before}({chosen_by}){after}" if before or after else chosen_by


ORACLE_PATH = "state/filter/oracle.npy"
"""The uids of the built-in world's clean pairs."""

FATES = ("kept", "dropped", "quarantined", "missing", "unlisted")
KEPT, DROPPED, QUARANTINED, MISSING, UNLISTED = range(5)


def fate_schema() -> pa.Schema:
    """Columns of ``fates.parquet``; ``quarantine.parquet`` has the same less ``fate``."""
    import pyarrow as pa

    return pa.schema([*_sample_fields(), ("fate", pa.string()), ("reason", pa.string())])


def outcome_run(number: int) -> str:
    """Sorted records (uid, code and row) of one piece of the metadata."""
    return f"state/filter/outcomes/{number:05d}.npy"


def malformed_path(number: int) -> str:
    """The metadata rows of one piece whose uid is malformed: file, row, uid."""
    return f"state/filter/malformed/{number:05d}.parquet"


def excluded_path(number: int) -> str:
    """Records (uid, row id) of quarantined samples whose uid the filter keeps: reshard must pass over them."""
    return f"state/filter/excluded/{number:05d}.npy"


def kept_run(number: int) -> str:
    """The sorted uids that one piece of the samples keeps."""
    return f"state/filter/kept/{number:05d}.npy"


PLAN = "reshard"
"""Folder of the plan; its markers lie in state/reshard like those of every stage."""

PLAN_ARRAYS = tuple(f"{PLAN}/{name}.npy" for name in ("cuts", "repeats", "exclude"))
"""With the subset and the index, they decide what stands where in the new shards."""

PLAN_FILES = (*PLAN_ARRAYS, f"{PLAN}/plan.json")
