"""
Mapped files.
"""

from __future__ import annotations

import typing

__all__: list[str] = ["MappedFile", "count_lost_maps", "guard_maps", "refuse_lost_maps", "refuse_maps_lost_since"]

class MappedFile:
    """
    A whole file mapped, read-only: a buffer. See dcfast.storage.mapped for one that is cut meanwhile.
    """

    def __init__(self, path: bytes | str) -> None: ...
    def __len__(self) -> int: ...

def count_lost_maps() -> int:
    """
    How many mapped files were cut so far while they were mapped.
    """

def guard_maps() -> None:
    """
    Takes SIGBUS for the maps again, where a library has taken it since.
    """

def refuse_lost_maps() -> None:
    """
    CorruptDataError where a file that is mapped was cut meanwhile.
    """

def refuse_maps_lost_since(count: typing.SupportsIndex) -> None:
    """
    CorruptDataError where a mapped file was cut since count_lost_maps() was count, whether its map is there or not.
    """
