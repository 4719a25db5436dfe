"""Captions of any length: the tokens that the model sees are those of open_clip's own tokenizer."""

from __future__ import annotations

import html
import string

import numpy as np
import pytest
import torch
from dcfast.models import captions
from dcfast.models.clip import load_tokenizer
from hypothesis import given
from hypothesis import strategies as st
from open_clip.tokenizer import SimpleTokenizer

THEIRS = SimpleTokenizer()
OURS = captions.read_as_far_as_the_model(SimpleTokenizer())


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
        "\n".join(letters(50, seed=n) for n in range(99)),
        "dog\n" + letters(5000, "\n \r\0") + "cat",
        letters(9000, "\n\0 &\ufeff\x85\u2028") + "cat",
        letters(3000) + "\n&amp;" + letters(9000, "\n&am#p;10"),
        "x<\n" * 30 + "&amp;lt;\n" * 2000,
        "\xc3\n" * 3000 + "\xa9",
    ],
)
def test_captions_have_open_clips_tokens(caption: str) -> None:
    assert torch.equal(OURS([caption]), THEIRS([caption]))
    assert torch.equal(OURS([caption], 32), THEIRS([caption], 32))


@given(st.lists(st.text(max_size=300), max_size=3))
def test_any_captions_have_open_clips_tokens(captions: list[str]) -> None:
    assert torch.equal(OURS(captions), THEIRS(captions))


def test_a_megabyte_is_read_as_far_as_the_model() -> None:
    tokens = load_tokenizer("dcfast-tiny")([letters(10**6), "a dog"])
    assert tokens.shape[0] == 2
    assert len(captions._WordCache(OURS.cache)) < 100_000


@pytest.mark.parametrize("line", ["\n", " \n", "\ufeff\n", "\x1b[m\n", "\r\n", "&#x000a;", "\u2028", "a\n", "&amp;"])
def test_what_is_cleaned_of_megabytes_is_bounded(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    cleaned: list[str] = []

    def clean(text: str) -> str:
        cleaned.append(text)
        return str(THEIRS.clean_fn(text))

    monkeypatch.setattr(OURS, "clean_fn", clean)
    tokens = OURS([line * (4_000_000 // len(line))])
    assert torch.equal(tokens, THEIRS([line * 200]))
    assert sum(map(len, cleaned)) < 2 * captions.MAX_CAPTION_BYTES
    assert sum(text.count("\n") for text in cleaned) < 2 * captions._MAX_LINES


def test_the_words_that_are_remembered_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(captions, "_CACHED_WORDS", 50)
    ours = captions.read_as_far_as_the_model(SimpleTokenizer())
    words = [letters(5, seed=n) for n in range(200)]
    assert torch.equal(ours(words), THEIRS(words))
    assert len(ours.cache) <= 50


def test_other_tokenizers_are_given_a_beginning() -> None:
    theirs = captions.read_as_far_as_the_model(lambda texts: [len(t) for t in texts])
    assert theirs(["a" * 9000, "dog"]) == [2048, 3]
    assert theirs("a dog") == [5]


@pytest.mark.parametrize("letter", ["a", "\xe9", "\u6f22", "\U0001f408"])
def test_a_caption_is_cut_between_characters(letter: str) -> None:
    for before in range(4):
        text = "x" * before + letter * 70_000
        said = captions.read_caption(text.encode(), "strict")
        assert text.startswith(said)
        assert 0 <= captions.MAX_CAPTION_BYTES - len(said.encode()) < 4
    assert captions.read_caption(b"caf\xe9") == "caf\ufffd"
    assert captions.read_caption(memoryview(letter.encode())) == letter
    with pytest.raises(UnicodeDecodeError):
        captions.read_caption(b"caf\xe9" * 20_000, "strict")
