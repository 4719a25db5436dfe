"""CLIP models by open_clip (``clip``), and the devices that they compute on (``devices``)."""

from __future__ import annotations

from dcfast.models.clip import ClipModel, create_model, load_model, load_tokenizer, model_names

__all__ = ["ClipModel", "create_model", "load_model", "load_tokenizer", "model_names"]
