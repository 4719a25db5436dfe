"""``dcfast status RUN``: how far a run is, told from its directory alone.

``facts`` reads it, ``page`` shows it, ``command`` is the command. Nothing here writes to a run directory.
"""

from __future__ import annotations

from dcfast.status.facts import RunStatus, StageStatus, read_status

__all__ = ["RunStatus", "StageStatus", "read_status"]
