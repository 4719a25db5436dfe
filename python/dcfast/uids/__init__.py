"""uids: arrays of 128 bits, their text, sorted sets, and the files they are in.

``sets`` holds the operations, ``files`` the sorted records that are larger than memory.
"""

from __future__ import annotations

from dcfast.uids.sets import (
    RECORD_DTYPE,
    UID_DTYPE,
    MergeReport,
    external_sort,
    load_subset,
    merge_runs,
    open_records,
    record_sort,
    save_records,
    save_subset,
    uid_difference,
    uid_format,
    uid_intersect,
    uid_isin,
    uid_lookup,
    uid_multiplicity,
    uid_parse,
    uid_sort,
    uid_union,
    uid_unique,
)

__all__ = [
    "RECORD_DTYPE",
    "UID_DTYPE",
    "MergeReport",
    "external_sort",
    "load_subset",
    "merge_runs",
    "open_records",
    "record_sort",
    "save_records",
    "save_subset",
    "uid_difference",
    "uid_format",
    "uid_intersect",
    "uid_isin",
    "uid_lookup",
    "uid_multiplicity",
    "uid_parse",
    "uid_sort",
    "uid_union",
    "uid_unique",
]
