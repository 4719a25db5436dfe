"""Descriptors by the image tower of a CLIP model, or by another model of ``dcfast.models.descriptors``."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from dcfast.dedup.calibration.methods import Describe, Vectors
from dcfast.models.descriptors import DescriptorSpec, describe, load_descriptor, parse_descriptor
from dcfast.models.devices import resolve_device


def describer(model: str, device: str) -> tuple[Describe, str]:
    """What makes descriptors of encoded pictures, and its name with the hash of the weights.

    Args:
        model: as ``parse_descriptor`` takes it; NAME alone: initial weights of seed 0.
    Raises:
        As ``dcfast.models.descriptors.load_descriptor`` and ``resolve_device``.
    """
    spec = parse_descriptor(model) if ":" in model else DescriptorSpec(model, None)
    loaded = load_descriptor(spec, device=resolve_device(device))

    def described(encoded: Sequence[bytes]) -> Vectors:
        return describe(loaded, [partial(bytes, data) for data in encoded])

    return described, f"{loaded.name}, {loaded.sha256[:16]}"
