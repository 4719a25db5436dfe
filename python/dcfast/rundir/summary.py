"""The base of what stages record."""

from __future__ import annotations

from typing import ClassVar

from dcfast.storage.records import Record

__all__ = ["Summary"]


class Summary(Record):
    """What a stage recorded, in ``state/<stage>.json``."""

    stage: ClassVar[str] = ""
