"""Samples that stand in for others, which cannot be used: what is recorded of them, and how many there may be."""

from __future__ import annotations

import math
from pathlib import Path

from dcfast.storage.json_files import parse_json
from dcfast.storage.lines import iterate_lines

__all__ = ["allowed", "recorded"]

_DEVIATIONS = 3


def allowed(share: float, seen: int, window: int) -> int:
    """How many of ``seen`` samples may be replaced, where ``share`` of each window may, and less than one is left over.

    Of a part of a window it is a share of so few that chance moves it: up to three standard deviations more are no
    sign of anything, as long as the whole window may have as many. With 1%: 40 of 4,096, 3 of 80; with 0% none.
    """
    rest = seen % window
    chance = _DEVIATIONS * math.sqrt(share * (1 - share) * rest)
    return int(share * (seen - rest) + min(share * rest + chance, share * window))


def recorded(folder: Path, first: int, end: int) -> dict[tuple[int, int], str]:
    """(step, slot) -> reason of each sample replaced from step ``first`` on and before ``end``, of all ranks."""
    found = {}
    for path in sorted(folder.glob("replaced-*.jsonl")):
        for line in iterate_lines(path, "ascii", "replace"):
            try:
                record = parse_json(line)
                if first <= record["step"] < end:
                    found[record["step"], record["slot"]] = str(record["reason"])
            except (ValueError, KeyError, TypeError):
                continue  # half of one, as a killed process may leave it
    return found
