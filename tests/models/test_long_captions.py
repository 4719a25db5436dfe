"""Captions of any length: the tokens that the model sees are those of open_clip's own tokenizer."""

from __future__ import annotations

import html
import string

import numpy as np
import pytest
import torch
from dcfast.models import long_captions
from dcfast.models.clip import load_tokenizer
from hypothesis import given
from hypothesis import strategies as st
from open_clip.tokenizer import SimpleTokenizer

THEIRS = SimpleTokenizer()
OURS = long_captions.read_as_far_as_the_model(SimpleTokenizer())


def letters(count: int, alphabet: str = string.ascii_lowercase, seed: int = 0) -> str:
    return "".join(np.random.default_rng(seed).choice(list(alphabet), count))


@pytest.mark.parametrize(
    "caption",
    [
        "",
        "a photo of a dog",
        letters(4000),
        "a " * 2000 + "dog",
        "a" * 5000,
        "ab" * 2500,
        " " * 10_000 + "a dog behind blanks",
        html.escape(html.escape("<&>" * 400)) + " dog",
        letters(3000, "éüñ漢字語"),
        letters(3000, "!?.,-_"),
        letters(3000, "0123456789"),
        " ".join(letters(60, seed=n) for n in range(60)),
        "a dog " + letters(4000, seed=1),
    ],
)
def test_long_captions_have_open_clips_tokens(caption: str) -> None:
    assert torch.equal(OURS([caption]), THEIRS([caption]))
    assert torch.equal(OURS([caption], 32), THEIRS([caption], 32))


@given(st.lists(st.text(max_size=300), max_size=3))
def test_any_captions_have_open_clips_tokens(captions: list[str]) -> None:
    assert torch.equal(OURS(captions), THEIRS(captions))


def test_a_megabyte_is_read_as_far_as_the_model() -> None:
    tokens = load_tokenizer("dcfast-tiny")([letters(10**6), "a dog"])
    assert tokens.shape[0] == 2
    assert len(long_captions._Remembered(OURS.cache)) < 100_000


def test_the_words_that_are_remembered_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(long_captions, "_REMEMBERED_WORDS", 50)
    ours = long_captions.read_as_far_as_the_model(SimpleTokenizer())
    words = [letters(5, seed=n) for n in range(200)]
    assert torch.equal(ours(words), THEIRS(words))
    assert len(ours.cache) <= 50


def test_other_tokenizers_are_left_alone() -> None:
    chosen = SimpleTokenizer(reduction_mask="simple")
    assert long_captions.read_as_far_as_the_model(chosen) is chosen
    assert "encode" not in vars(chosen)
    assert long_captions.read_as_far_as_the_model(len) is len
