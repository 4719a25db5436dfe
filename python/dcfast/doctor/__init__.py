"""``dcfast doctor``: versions, what works on this machine, and how to get what does not."""

from __future__ import annotations

from dcfast.doctor.checks import Row
from dcfast.doctor.command import collect, main

__all__ = ["Row", "collect", "main"]
