"""A slow, obvious version of the features: one picture and one caption at a time, through open_clip's own calls."""

from __future__ import annotations

import io
import tarfile
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

MODEL = "dcfast-tiny"


@cache
def clip(checkpoint: str | None = None) -> Any:
    import torch
    from dcfast.models.clip import load_model

    torch.set_num_threads(1)  # a picture at a time: more threads only wait for each other
    return load_model(MODEL, checkpoint)


def save_checkpoint(path: Path, seed: int = 5) -> Path:
    """An untrained model's weights as a checkpoint file."""
    from dcfast.models.clip import create_model
    from safetensors.torch import save_file

    save_file({k: v.contiguous() for k, v in create_model(MODEL, seed=seed).state_dict().items()}, path)
    return path


def embed_one(model: Any, picture: bytes | None, caption: str | None) -> tuple[Any, Any, float]:
    """(image embedding, text embedding, score) of one pair, zeros and NaN for what is not there."""
    import torch
    from PIL import Image

    image = text = np.zeros(model.embed_dim)
    with torch.no_grad():
        if caption is not None:
            text = _unit(model.model.encode_text(model.tokenizer([caption])))
        if picture is not None:
            try:
                tensor = model.preprocess(Image.open(io.BytesIO(picture)))
                image = _unit(model.model.encode_image(tensor[None]))
            except OSError:
                pass
    both = image.any() and text.any()
    return image, text, float(image @ text) if both else float("nan")


def _unit(features: Any) -> Any:
    vector = features[0].double().numpy()
    return vector / np.linalg.norm(vector)


def pool_samples(pool: Path) -> dict[str, dict[str, bytes]]:
    """uid -> members of the first sample that has it, of a pool written by ``pool_builder``."""
    import json

    found: dict[str, dict[str, bytes]] = {}
    for shard in sorted((pool / "shards").glob("*.tar")):
        keyed: dict[str, dict[str, bytes]] = {}
        with tarfile.open(shard) as tar:
            for member in tar:
                key, _, ext = member.name.partition(".")
                file = tar.extractfile(member)
                assert file is not None
                keyed.setdefault(key, {})[ext] = file.read()
        for members in keyed.values():
            if "json" in members:
                found.setdefault(json.loads(members["json"])["uid"], members)
    return found
