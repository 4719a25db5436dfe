"""Reshard: a subset of a pool as new shards in DataComp's layout, byte for byte the same for any workers.

``reshard`` does it in one call, ``python -m dcfast.resharder`` from the shell with the
arguments of DataComp's resharder.py. The pieces are there for a run on many workers: ``make_plan`` once,
``write_output_shards`` for any ranges of output shards in any order, ``finish_reshard`` once.

Importing this package imports nothing: a short reshard is over before NumPy would have been imported.
"""

from __future__ import annotations

import importlib

TYPE_CHECKING = False
if TYPE_CHECKING:
    from dcfast.resharding.output import check_free_space as check_free_space
    from dcfast.resharding.output import finish_reshard as finish_reshard
    from dcfast.resharding.plan import ReshardPlan as ReshardPlan
    from dcfast.resharding.plan import make_plan as make_plan
    from dcfast.resharding.run import reshard as reshard
    from dcfast.resharding.verify import verify_output_shards as verify_output_shards
    from dcfast.resharding.write import write_output_shards as write_output_shards

_LAZY = {
    "ReshardPlan": "dcfast.resharding.plan",
    "check_free_space": "dcfast.resharding.output",
    "finish_reshard": "dcfast.resharding.output",
    "make_plan": "dcfast.resharding.plan",
    "reshard": "dcfast.resharding.run",
    "verify_output_shards": "dcfast.resharding.verify",
    "write_output_shards": "dcfast.resharding.write",
}
__all__ = [
    "ReshardPlan",
    "check_free_space",
    "finish_reshard",
    "make_plan",
    "reshard",
    "verify_output_shards",
    "write_output_shards",
]


if not TYPE_CHECKING:  # which would take every name for one of these

    def __getattr__(name: str) -> object:
        if name not in _LAZY:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(importlib.import_module(_LAZY[name]), name)
