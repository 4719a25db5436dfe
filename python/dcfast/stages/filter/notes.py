"""What the filter stage says in words: rows without a uid, uids that match nothing, uids that repeat."""

from __future__ import annotations

from dcfast.rundir.layout import FATES, MISSING

MalformedRow = tuple[str, int, str | None]
"""File, row and uid."""

__all__ = ["MalformedRow", "malformed_notes", "malformed_row", "repeated_notes", "unmatched_notes"]


def malformed_row(file: str, row: int, uid: str | None, uid_from: str) -> str:
    """What is wrong with a row of the metadata whose uid is none."""
    if uid_from != "json":
        return f"metadata {file}, row {row}, has no {uid_from}"
    return f"uid {uid!r} of metadata {file}, row {row}, is not 32 hex digits"


def malformed_notes(
    first: MalformedRow | None, rows: int, malformed: int, uid_from: str, *, metadata_only: bool = False
) -> list[str]:
    """That metadata rows have no uid, so that their samples have no row.

    Args:
        first: file, row and uid of the first of the ``malformed`` among the ``rows``, where it is known.
        metadata_only: there are no samples yet, and no tables of them.
    """
    if not malformed or malformed == rows:  # where it is all, unmatched_notes says so
        return []
    named = f" (the first: {malformed_row(*first, uid_from)})" if first else ""
    lost = f"{malformed:,} of {rows:,} metadata rows have no uid that can be read{named}: they are"
    if metadata_only:
        return [f"{lost} in no subset, whatever the filter says of them"]
    return [f"{lost} quarantined, and their samples unlisted (quarantine.parquet, fates.parquet)"]


def unmatched_notes(fates: dict[str, int], rows: int, malformed: int, uid_from: str) -> list[str]:
    """Why nothing is kept, where no uid of the metadata is a sample's: the counts and the commonest cause.

    Args:
        fates: of all samples and metadata rows, as a summary has them.
        rows: of the metadata; ``malformed`` of them have no uid that is one.
    """
    missing = fates[FATES[MISSING]]
    samples = sum(fates.values()) - missing - malformed
    if not rows or not samples or missing < rows - malformed:
        return []
    what = "uid of 32 hex digits" if uid_from == "json" else f"{uid_from} to make a uid of"
    if malformed == rows:
        why = f"no row has a {what} (quarantine.parquet)"
    elif uid_from == "key":
        why = (
            "--uid-from key makes them of SHARD.tar/KEY, as in 00000.tar/000000000: metadata files must have the names "
            "of their shards (00000.parquet of 00000.tar), and their column key the names of the samples in them"
        )
    else:
        field = "uid" if uid_from == "json" else uid_from
        why = f"the metadata may be another pool's; compare its column {field} with the samples' json"
    some = f" ({malformed:,} rows have no {what})" if 0 < malformed < rows else ""
    return [f"none of the {rows:,} metadata rows{some} is of one of the {samples:,} samples, so none is kept: {why}"]


def repeated_notes(rows: int, samples: int, uid_from: str) -> list[str]:
    """That rows of one url cannot be told apart, where uids are made of urls; those of json are meant to be unique.

    Args:
        rows, samples: that repeat one before.
    """
    if uid_from != "url" or not (rows or samples):
        return []
    return [
        f"{rows:,} metadata rows and {samples:,} samples repeat a url that stood before, and so share its uid: all "
        "samples of a url are kept where any of its rows passes the filter (--uid-from key tells them apart)"
    ]
