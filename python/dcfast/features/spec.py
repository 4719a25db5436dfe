"""Which models make which columns: DataComp's prefixes, models by name and weights, the run's own teacher."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from dcfast.process.options import one_of

PREFIXES = ("b32", "l14")
"""DataComp's: ``clip_b32_similarity_score``, ``b32_img``, ``b32_txt``, and the same of l14."""
TEACHER = "teacher"
_SCHEMAS = ("hf-hub:", "local-dir:")


@dataclass(frozen=True)
class FeatureModel:
    """One model and the column prefixes that it fills.

    Attributes:
        prefixes: sorted; the first names the model's files.
        name: of the architecture, or ``teacher``.
        pretrained: a tag of open_clip, a file, or None (of ``teacher``, or part of the name).
    """

    prefixes: tuple[str, ...]
    name: str
    pretrained: str | None

    @property
    def key(self) -> str:
        return self.prefixes[0]

    @property
    def is_teacher(self) -> bool:
        return self.name == TEACHER

    @property
    def file(self) -> Path | None:
        """The weights as a file, where they are one."""
        return Path(self.pretrained) if self.pretrained is not None and os.path.isfile(self.pretrained) else None


def parse_model(text: str) -> tuple[str, str | None]:
    """``NAME:PRETRAINED`` (a tag of open_clip or a checkpoint file), or ``teacher``: (name, pretrained).

    ``hf-hub:ORG/REPO`` and ``local-dir:DIR`` are names that bring their weights along.

    Raises:
        ValueError: neither.
    """
    if text == TEACHER:
        return TEACHER, None
    if text.startswith(_SCHEMAS) and len(text.partition(":")[2]):
        return text, None
    name, colon, pretrained = text.partition(":")
    if not name or not colon or not pretrained:
        raise ValueError(
            f"a feature model must be NAME:PRETRAINED (ViT-B-32:openai, ViT-L-14:weights.pt) or {TEACHER}; got {text!r}"
        )
    return name, pretrained


def feature_models(features: Mapping[str, str]) -> list[FeatureModel]:
    """The models of prefix -> model text, each once however many prefixes it fills, in the order of the prefixes.

    Raises:
        ValueError: an unknown prefix, or no model.
    """
    prefixes_of: dict[tuple[str, str | None], list[str]] = {}
    for prefix in sorted(features):
        one_of("features: the prefix", prefix, PREFIXES)
        prefixes_of.setdefault(parse_model(features[prefix]), []).append(prefix)
    return [FeatureModel(tuple(prefixes), name, pretrained) for (name, pretrained), prefixes in prefixes_of.items()]
