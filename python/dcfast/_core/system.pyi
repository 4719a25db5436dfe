"""
Mapped files.
"""

from __future__ import annotations

__all__: list[str] = ["MappedFile", "guard_maps", "refuse_lost_maps"]

class MappedFile:
    """
    A whole file mapped, read-only: a buffer. See dcfast.storage.mapped for one that is cut meanwhile.
    """

    def __init__(self, path: bytes | str) -> None: ...
    def __len__(self) -> int: ...

def guard_maps() -> None:
    """
    Takes SIGBUS for the maps again, where a library has taken it since.
    """

def refuse_lost_maps() -> None:
    """
    CorruptDataError where a file that is mapped was cut meanwhile.
    """
