"""Stage ``filter``: thresholds, the outcome of every metadata row, the fate of every sample, and the subset.

``outcomes`` is the stage; ``fates`` assigns fates, ``subsets`` writes the subset files, ``clusters`` and ``centroids``
serve image_based, ``leaked`` counts kept copies of evaluation images.
"""

from __future__ import annotations

from dcfast.stages.filter.outcomes import steps

__all__ = ["steps"]
