"""uids: arrays of 128 bits, their text, sorted sets, and the files they are in.

``sets`` holds the operations, ``files`` the sorted records that are larger than memory; what is public stands in
``sets.__all__``.
"""

from __future__ import annotations

from dcfast.uids.sets import *  # noqa: F403
from dcfast.uids.sets import __all__ as __all__
