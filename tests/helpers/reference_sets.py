"""Twelve of DataComp's evaluation sets in small and a CLIP model, both out of numbers: what golden scores are made on.

``python tests/helpers/reference_sets.py DIR`` writes them; the reference's own evaluation of ``DIR/sets`` by
``DIR/model`` (name and file ``reference-tiny``) is ``tests/evaluate/reference_scores.json``.
"""

from __future__ import annotations

import io
import json
import sys
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from evalset_builder import npy, write_set
from PIL import Image

MODEL = "reference-tiny"
CONFIG = {
    "embed_dim": 32,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 64, "head_width": 32, "patch_size": 8},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2},
}
WORDS = (
    "river",
    "bridge",
    "lamp",
    "violin",
    "tiger",
    "bread",
    "castle",
    "ladder",
    "wheel",
    "garden",
    "mirror",
    "shell",
)
PICTURES = 24


def _rng(name: str) -> np.random.Generator:
    return np.random.default_rng(zlib.crc32(name.encode()))


def picture(name: str) -> bytes:
    """A PNG of coloured blocks, of a size of its own."""
    rng = _rng(name)
    blocks = rng.integers(0, 256, (*rng.integers(1, 6, 2), 3))
    pixels = np.kron(blocks, np.ones((*rng.integers(5, 15, 2), 1))).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def _samples(task: str, labels: Sequence[int] | None = None, metadata: Any = None) -> list[dict[str, bytes]]:
    rows = []
    for i in range(PICTURES):
        row = {f"s{i:03d}.png": picture(f"{task} {i}")}
        if labels is not None:
            row[f"s{i:03d}.cls"] = str(labels[i]).encode()
        if metadata is not None:
            row[f"s{i:03d}.npy"] = npy(np.array(metadata[i], np.int64))
        rows.append(row)
    return rows


def write_sets(home: Path) -> None:
    """The sets, as ``wds_*_test`` directories."""
    templates = ["a photo of a {c}.", "the {c} in a drawing"]

    def labelled(task: str, classes: Sequence[str], fields: Any = None) -> None:
        rng = _rng(task)
        labels = rng.integers(0, len(classes), PICTURES).tolist()
        metadata = None if fields is None else [fields(rng, i, label) for i, label in enumerate(labels)]
        folder = task.removeprefix("fairness/").replace("/", "-")
        write_set(home, folder, _samples(task, labels, metadata), classes, templates, shard_size=10)

    labelled("cifar10", WORDS[:10])
    labelled("vtab/caltech101", WORDS)
    labelled("vtab/clevr_closest_object_distance", ["touching", "close", "beside", "", "far", "very far"])
    labelled("wilds/iwildcam", WORDS[:7], lambda rng, i, y: [*rng.integers(0, 9, 8), y])
    labelled("wilds/camelyon17", WORDS[:2], lambda rng, i, y: [2, rng.integers(20, 24), y])
    regions = (0, 1, 2, 5)  # 5 is "Other": two pictures, both of which the model gets wrong; none is in 4
    labelled(
        "wilds/fmow", WORDS[:3], lambda rng, i, y: [3 if i < 2 else regions[rng.integers(0, 4)], rng.integers(0, 3), y]
    )
    labelled("fairness/dollar_street", WORDS, lambda rng, i, y: [rng.integers(0, 4), 0, 0])
    labelled("fairness/geode", WORDS[:3], lambda rng, i, y: [rng.choice([0, 2, 3]), 0])
    _write_faces(home, "fairface", 7)
    _write_faces(home, "utkface", 5)
    rng = _rng("retrieval")
    rows = _samples("retrieval")
    for i, row in enumerate(rows):
        captions = [" ".join(rng.choice(WORDS, 4)) for _ in range(int(rng.integers(1, 6)))]
        row[f"s{i:03d}.txt"] = "\n".join(captions).encode()
    write_set(home, "retrieval-flickr_1k_test_image_text_retrieval", rows, dataset_type="retrieval")
    write_set(home, "misc-winogavil", _samples("riddles"), riddles=json.dumps(riddles()))


def riddles() -> list[dict[str, Any]]:
    rng, found = _rng("riddles"), []
    for _ in range(40):
        size = int(rng.choice([5, 6, 10, 12]))
        keys = [f"s{i:03d}" for i in rng.choice(PICTURES, size, replace=False)]
        right = keys[: int(rng.integers(1, 5))]
        found.append({"cue": str(rng.choice(["Arrow", *WORDS])), "candidates": sorted(keys), "associations": right})
    return found


def _write_faces(home: Path, task: str, races: int) -> None:
    rng, names = _rng(task), [f"{word} thing" for word in WORDS]
    tables = {"race": names[:races], "gender": names[:2], "age": names[3:12], "toxic": [*names, *WORDS[:9]]}
    classes = [f"{name}:{one}" for name, values in tables.items() for one in values]
    templates = [f"{name}:{text}" for name in tables for text in ("a photo of a {c}", "this is a {c}")]
    race = rng.integers(0, races, PICTURES)
    metadata = [[rng.integers(0, 9), rng.integers(0, 2), one, int(one != 1)] for one in race]
    labels = [0] * PICTURES if task == "utkface" else None
    write_set(home, task, _samples(task, labels, metadata), classes, templates)


def write_model(folder: Path) -> Path:
    """Configurations for ``open_clip.add_model_config`` and for ``local-dir:``, and the file of weights."""
    import open_clip

    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{MODEL}.json").write_text(json.dumps(CONFIG))
    local = folder / "local"
    local.mkdir(exist_ok=True)
    mean, std = open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD
    (local / "open_clip_config.json").write_text(
        json.dumps({"model_cfg": CONFIG, "preprocess_cfg": {"mean": mean, "std": std}})
    )
    weights = {}
    for name, value in open_clip.CLIP(**CONFIG).state_dict().items():
        if value.dim() < 2:
            weights[name] = torch.ones_like(value) if "ln_" in name and "weight" in name else torch.zeros_like(value)
        else:
            scale = 1.0 if "embedding" in name else 2.0 / np.sqrt(value[0].numel())
            weights[name] = torch.from_numpy(_rng(name).standard_normal(tuple(value.shape)).astype(np.float32) * scale)
    weights["logit_scale"] = torch.tensor(2.66)
    weights = {name: value.to(torch.float32) for name, value in weights.items()}
    torch.save({"epoch": 1, "name": "reference", "state_dict": weights}, folder / f"{MODEL}.pt")
    return folder / f"{MODEL}.pt"


if __name__ == "__main__":
    write_sets(Path(sys.argv[1]) / "sets")
    write_model(Path(sys.argv[1]) / "model")
