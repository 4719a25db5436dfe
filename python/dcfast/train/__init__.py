"""Training of CLIP by a frozen recipe, from new shards or straight from the indexed pool and a subset.

``train(TrainSettings(...))`` in Python, ``python -m dcfast.train`` in a shell (also under torchrun).
"""

from __future__ import annotations

from dcfast.train.launch import launch
from dcfast.train.session import train
from dcfast.train.settings import TrainSettings, TrainSource, parse_sources
from dcfast.train.source_files import write_positions

__all__ = ["TrainSettings", "TrainSource", "launch", "parse_sources", "train", "write_positions"]
