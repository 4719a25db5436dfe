"""A pool from the net: metadata from the hub, then the images of its URLs, in the layout of img2dataset.

``dcfast acquire``; docs/acquire.md. ``pool`` is all of it: ``lists`` takes the lists of URLs, ``plan`` says which rows
are in which shard, ``shard`` is the work of one, ``retry`` what is fetched again, ``summary`` what became of the rows.
Within a shard ``fetching`` asks in the order of ``turns``, by ``web``, and ``spool`` holds what came until ``files``
writes it.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from dcfast.acquire.options import AcquireOptions, ImageOptions, WebOptions
from dcfast.acquire.summary import AcquireSummary

__all__ = ["AcquireOptions", "AcquireSummary", "ImageOptions", "WebOptions", "acquire_pool"]

if TYPE_CHECKING:
    from dcfast.acquire.pool import acquire_pool


if not TYPE_CHECKING:  # which would take every name for one of these

    def __getattr__(name: str) -> object:
        # what needs no image, an option say, is there without dcfast[acquire]
        if name == "acquire_pool":
            return importlib.import_module("dcfast.acquire.pool").acquire_pool
        raise AttributeError(f"module 'dcfast.acquire' has no attribute {name!r}")
