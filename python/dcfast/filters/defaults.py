"""The filter that runs when none is given: DataComp's basic filter, the best 30% by CLIP score, no contamination."""

from __future__ import annotations

from collections.abc import Iterable

from dcfast.filters.compiled import compile_filter
from dcfast.filters.term import CONTAMINATED, FEATURES_OPTIONS, SCORES

_TERMS = ("basic_filter", "clip_score(l14, fraction=0.3)")
DEFAULT_FILTER = f"{' & '.join(_TERMS)} & ~{CONTAMINATED}"


def default_filter(columns: Iterable[str], contaminated_available: bool) -> tuple[str, list[str]]:
    """The default expression, or what is left of it for this metadata.

    Args:
        columns: names of the columns that every metadata file has.
        contaminated_available: whether contaminated uids are known (evaluation sets were given).
    Returns:
        The expression, and a sentence for each term that was left out; no_filter when nothing is left.
    Example: ``expression, left_out = default_filter(["text"], contaminated_available=True)``
    """
    have = set(columns)
    kept, notes = [], []
    for term in _TERMS:
        missing = [name for name in compile_filter(term).column_names if name not in have]
        if missing:
            plural = "s" if len(missing) > 1 else ""
            options = [FEATURES_OPTIONS[prefix] for prefix, name in SCORES.items() if name in missing]
            made = f" ({' '.join(options)} computes it)" if options else ""
            notes.append(f"{term} is left out of the default filter: no column{plural} {', '.join(missing)}{made}")
        else:
            kept.append(term)
    if contaminated_available:
        kept.append(f"~{CONTAMINATED}")
    else:
        notes.append(f"~{CONTAMINATED} is left out of the default filter: no evaluation sets to compare with")
    return (" & ".join(kept) or "no_filter"), notes
