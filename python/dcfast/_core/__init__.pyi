"""
The compiled core of dcfast. Use the functions of the package, which check their arguments.
"""

from __future__ import annotations

from . import access, hashing, images, index, reshard, similarity, uids

__all__: list[str] = ["access", "hashing", "images", "index", "reshard", "similarity", "uids", "version"]
version: str
