"""Samples that stand in for others, which cannot be used: what is recorded of them, and how many there may be."""

from __future__ import annotations

import math
from pathlib import Path

from dcfast.storage.json_files import parse_json
from dcfast.storage.lines import iterate_lines
from dcfast.storage.records import Count, Record, as_record

__all__ = ["Refusal", "Replacement", "allowed", "replacement_reasons"]

_DEVIATIONS = 3


class Replacement(Record):
    """A line of ``replaced-RANK.jsonl``: a sample that was to be taken and cannot be used.

    Attributes:
        slot: its place in the global batch.   position: in the canonical order of the sources.
    """

    step: Count
    slot: Count
    position: Count
    uid: str
    reason: str


class Refusal(Record):
    """A line of ``refused-RANK.jsonl``: samples that DALI refused and Pillow decoded."""

    samples: Count
    reason: str
    step: Count


def allowed(share: float, seen: int, window: int) -> int:
    """How many of ``seen`` samples may be replaced, where ``share`` of each window may, and less than one is left over.

    Of a part of a window it is a share of so few that chance moves it: up to three standard deviations more are no
    sign of anything, as long as the whole window may have as many. With 1%: 40 of 4,096, 3 of 80; with 0% none.
    """
    rest = seen % window
    chance = _DEVIATIONS * math.sqrt(share * (1 - share) * rest)
    return int(share * (seen - rest) + min(share * rest + chance, share * window))


def replacement_reasons(folder: Path, first: int, end: int) -> dict[tuple[int, int], str]:
    """(step, slot) -> reason of each sample replaced from step ``first`` on and before ``end``, of all ranks."""
    reasons = {}
    for path in sorted(folder.glob("replaced-*.jsonl")):
        for line in iterate_lines(path, "ascii", "replace"):
            try:
                record = as_record(parse_json(line), Replacement, str(path))
            except ValueError:
                continue  # half of one, as a killed process may leave it
            if first <= record.step < end:
                reasons[record.step, record.slot] = record.reason
    return reasons
