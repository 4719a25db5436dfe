"""A run that kept nothing, or lost more than half of its pool before the filter: a sentence on why, and what to do."""

from __future__ import annotations

from dcfast.rundir.layout import FATES
from dcfast.rundir.summaries import FilterSummary
from dcfast.stages.filter.notes import unmatched_notes

NO_SAMPLE = "metadata rows without a sample"
NO_METADATA = "no metadata row has this uid"
_NO_UID = "make uids of what is there: --uid-from url or key, in another --out, or by dcfast import (docs/import.md)"
_ADVICE = (
    # what a reason begins with -> what to do
    ("no caption", "a caption must be KEY.txt beside KEY.jpg: dcfast import makes it of one that stands in the json"),
    ("no picture", "pictures must be KEY.jpg, .png, .webp, ...: dcfast import says what the shards hold instead"),
    ("no json", _NO_UID),
    ("json", _NO_UID),
    ("uid", _NO_UID),
    ("url", "--uid-from key needs no url"),
    ("picture:", "quarantine.parquet names each: download the shards again, or leave them out"),
    ("the shard is damaged", "download the shards again: quarantine.parquet names them"),
    (
        NO_SAMPLE,
        "either the pictures could not be downloaded (links rot), then all is well; or shards are missing, or the "
        "metadata is another pool's: compare its uids with those of the shards, or let dcfast import write it anew",
    ),
    (NO_METADATA, "the metadata is not of these shards, or some files of it are missing: dcfast import makes it"),
    ("metadata rows without a uid", _NO_UID),
)
SHOWN_REASONS = 5
"""Of those for which samples are not kept; the report has all."""
_OF_FILTER = "the filter dropped them: try another --filter, or no_filter"


def commonest_reasons(chosen: FilterSummary, *, before_filter: bool = False) -> list[tuple[str, int]]:
    """(reason, samples and metadata rows), the commonest first; ``before_filter``: without those of the filter."""
    reasons = {**chosen.reasons, NO_SAMPLE: max(0, chosen.fates.get("missing", 0) - chosen.unasked)}
    reasons["metadata rows without a uid"] = chosen.malformed_uids
    if not chosen.fates:  # there are no shards yet
        reasons |= {why: n for why, n in chosen.metadata_outcomes.items() if why}
    if before_filter:
        reasons = {why: n for why, n in reasons.items() if why not in chosen.metadata_outcomes}
    return sorted(((why, n) for why, n in reasons.items() if n), key=lambda item: (-item[1], item[0]))


def dropped_most(chosen: FilterSummary) -> str:
    """The rule that dropped the most of the samples that came to the filter; empty where none dropped any."""
    rules = [(count, why) for why, count in chosen.reasons.items() if why in chosen.metadata_outcomes and count]
    if not rules:
        return ""
    count, why = max(rules, key=lambda rule: (rule[0], rule[1]))
    asked = chosen.fates.get("kept", 0) + chosen.fates.get("dropped", 0)
    return f"{why!r} dropped the most, {count:,} of the {asked:,} samples that came to the filter"


def outcome_lines(chosen: FilterSummary) -> list[str]:
    """What the filter did, as a run says it at its end: the rows that pass, the fates, the commonest reasons."""
    rows = chosen.metadata_outcomes.get("kept", 0) if chosen.sampled else chosen.subset_metadata
    passing = f"{rows:,} of {chosen.metadata_rows:,} metadata rows pass the filter"
    passing += f" and are drawn, in {chosen.subset_metadata:,} copies" if chosen.sampled else ""
    lines = [f"{passing} (subset_metadata.npy)"]
    if chosen.fates:
        lines.append("fates: " + ", ".join(f"{chosen.fates[name]:,} {name}" for name in FATES if name in chosen.fates))
        if chosen.repeated_in_pool and chosen.fates.get("kept"):
            repeated = f"samples that have the uid of one before them: {chosen.repeated_in_pool:,}"
            lines.append(
                f"{repeated}; all samples of a uid are kept where a metadata row of it passes, so that more "
                "samples may be kept than rows pass"
            )
    if common := commonest_reasons(chosen)[:SHOWN_REASONS]:
        reasons = "; ".join(f"{why} ({count:,})" for why, count in common)
        lines.append(f"not kept, the commonest reasons: {reasons}")
    return lines


def advice_on(reason: str) -> str:
    """What to do where samples are lost for a reason."""
    return next((todo for begin, todo in _ADVICE if reason.startswith(begin)), _OF_FILTER)


def loss_warning(chosen: FilterSummary, uid_from: str = "json") -> str:
    """The warning; empty where something was kept, and half of the samples and metadata rows came to the filter.

    Args:
        uid_from: the run's rule of uids.
    """
    fates = chosen.fates
    total = sum(fates.values()) if fates else chosen.metadata_rows
    lost = sum(fates.get(name, 0) for name in ("quarantined", "missing", "unlisted"))
    lost, total = max(0, lost - chosen.unasked), max(1, total - chosen.unasked)
    kept = fates.get("kept", 0) if fates else chosen.subset_metadata or 0
    before = 2 * lost > total
    if not before and kept:
        return ""
    alien = unmatched_notes(fates, chosen.metadata_rows, chosen.malformed_uids, uid_from) if fates else []
    if alien:
        return f"{alien[0]}. {advice_on(NO_METADATA).capitalize()}"
    begin = f"{lost:,} of {total:,} samples and metadata rows were lost before the filter"
    if not kept:
        begin = f"nothing was kept of {total:,} samples and metadata rows"
        begin += f", {lost:,} of them lost before the filter" if lost else ""
    common = commonest_reasons(chosen, before_filter=before)
    if not common:
        return f"{begin}: the pool is empty"
    why, count = common[0]
    return f"{begin}; the commonest reason: {why} ({count:,}). What to do: {advice_on(why)}"
