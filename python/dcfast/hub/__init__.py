"""Hugging Face's hub: files of its repositories, fetched whole or not at all and held to a lock file; other assets.

``fetch`` fetches files of a repository by a ``plan`` and moves them into a ``folder`` when they are whole;
``repository`` asks the hub, ``transfer`` makes the requests, ``hashes`` are compared, ``lock_file`` is what later
fetches obey. ``metadata`` is DataComp's. ``asset_table`` lists what filters read and others publish, ``assets`` fetches
it. docs/acquire.md, docs/assets.md.
"""

from __future__ import annotations

from dcfast.hub.fetch import Fetched, fetch_repo
from dcfast.hub.folder import verify_folder
from dcfast.hub.lock_file import LOCK_FILE, HubLock, LockedFile, LockedRepo, read_lock

__all__ = ["LOCK_FILE", "Fetched", "HubLock", "LockedFile", "LockedRepo", "fetch_repo", "read_lock", "verify_folder"]
