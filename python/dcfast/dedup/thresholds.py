"""From which distance on two pictures are taken for one: the defaults of every command that compares pictures.

They come from ``dcfast calibrate`` on real photographs; docs/calibration.md has its tables.
"""

from __future__ import annotations

MAX_DISTANCE = 8
"""Bits of 64 that may differ. In pools of billions many such hits are chance: see ``MAX_DISTANCE_256``."""
DUPLICATE_DISTANCE = 4
"""The same between pictures of one pool, which makes more pairs: billions of samples against themselves."""
MAX_DISTANCE_256 = 31
"""Bits of 256 that may differ, of a picture as it is or turned and mirrored."""
