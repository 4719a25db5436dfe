"""Descriptors by the picture tower of an open_clip model."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from dcfast.dedup.calibration.methods import Describe, Vectors
from dcfast.images.costs import BadImage
from dcfast.images.decode import check_resized, decode_image
from dcfast.models import load_model
from dcfast.models.devices import resolve_device


def describer(model: str, device: str) -> tuple[Describe, str]:
    """What makes descriptors of encoded pictures, and its name with the hash of the weights.

    Args:
        model: ``NAME:PRETRAINED``, a tag of open_clip or a checkpoint file; NAME alone: initial weights of seed 0.
    Raises:
        As ``dcfast.models.load_model`` and ``resolve_device``.
    """
    import torch

    name, _, pretrained = model.partition(":") if not model.startswith(("hf-hub:", "local-dir:")) else (model, "", "")
    place = resolve_device(device)
    clip = load_model(name, pretrained or None, device=place)

    def describe(encoded: Sequence[bytes]) -> Vectors:
        vectors = np.zeros((len(encoded), clip.embed_dim), np.float32)
        tensors, rows = [], []
        for row, data in enumerate(encoded):
            try:
                image = decode_image(data)
                check_resized(image, clip.image_size)
                tensors.append(clip.preprocess(image))
            except BadImage:
                continue  # zeros, which match nothing
            rows.append(row)
        if tensors:
            with torch.inference_mode():
                features = clip.model.encode_image(torch.stack(tensors).to(place))  # type: ignore[operator]
                vectors[rows] = torch.nn.functional.normalize(features.float(), dim=1).cpu().numpy()
        return vectors

    return describe, f"{clip.name}, {clip.source}, {clip.content_hash[:16]}"
