"""
The compiled core of dcfast. Use the functions of the package, which check their arguments.
"""

from __future__ import annotations

from . import access, filters, hashing, images, index, reshard, similarity, system, uids

__all__: list[str] = [
    "access",
    "filters",
    "hashing",
    "images",
    "index",
    "reshard",
    "similarity",
    "system",
    "uids",
    "version",
]
version: str
