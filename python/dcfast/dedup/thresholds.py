"""From which distance on two pictures are taken for one: the defaults of every command that compares pictures.

They come from ``dcfast calibrate`` on real photographs; docs/calibration.md has its tables.
"""

from __future__ import annotations

MAX_DISTANCE = 8
"""Bits of 64 that may differ. In pools of billions many such pairs are chance: decontamination has 256 bits confirm
them (``CONFIRMING_DISTANCE_256``)."""
CONFIRMING_DISTANCE_256 = 64
"""Bits of 256 in which a pair may differ at most that 64 bits call alike.

Unrelated pictures of the real pool and five evaluation sets (8 million pairs) differ in 68 bits or more, half of them
in 128 or more; near copies in that pool in 18 at most, PDQ's edits in 14. Crops and captions that 64 bits find lie
between."""
UNCONFIRMED_DISTANCE = 4
"""Bits of 64 that may differ where 256 bits cannot confirm: one of the two pictures is flat by them.

Of smooth pictures, shrunk and saved again, 194 of 200 are as near. Of the real pool's pictures 2 of 1,936 are
flat so and not by 64 bits."""
DUPLICATE_DISTANCE = 4
"""As ``MAX_DISTANCE``, between pictures of one pool, which makes more pairs: billions of samples against themselves."""
MAX_DISTANCE_256 = 31
"""Bits of 256 that may differ, of a picture as it is or turned and mirrored."""
LENGTH_TOLERANCE = 1e-2
"""By how much the length of a descriptor may differ from 1: half floats are off by less."""
