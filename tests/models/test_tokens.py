"""Tokens by the core: those of open_clip's own tokenizer, for the captions that the core says it does."""

from __future__ import annotations

import string
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch
from dcfast.models.clip import load_tokenizer
from dcfast.models.tokens import CoreTokenizer, core_tokenizer, tokenize
from hypothesis import given
from hypothesis import strategies as st
from open_clip.tokenizer import HFTokenizer, SimpleTokenizer

THEIRS = SimpleTokenizer()
CORE = core_tokenizer(THEIRS)
assert CORE is not None
PLAIN = "".join(c for c in string.printable if c not in "&\x0b\x0c")


def encoded(captions: list[str], core: CoreTokenizer = CORE, threads: int = 1) -> tuple[Any, Any]:
    data = [caption.encode("utf-8", "surrogatepass") for caption in captions]
    size = np.array([len(d) for d in data], np.int64)
    return core.encode(b"".join(data), np.cumsum(size) - size, size, threads=threads)


def check(captions: list[str], *, most_left: float) -> None:
    """What the core does is what open_clip does; it leaves at most such a share to others."""
    tokens, done = encoded(captions)
    assert 1 - done.mean() <= most_left
    wanted = THEIRS(captions).numpy()
    wrong = np.flatnonzero(done & (tokens != wanted).any(1))
    assert not len(wrong), (captions[wrong[0]], tokens[wrong[0]], wanted[wrong[0]])


def of_characters(count: int, seed: int) -> list[str]:
    rng = np.random.default_rng(seed)
    letters, lengths = np.frombuffer(PLAIN.encode(), np.uint8), rng.integers(0, 90, count)
    return [rng.choice(letters, n).tobytes().decode() for n in lengths]


def of_words(count: int, seed: int) -> list[str]:
    """Captions of words of the vocabulary, whole, cut, and joined, with what stands between words."""
    rng = np.random.default_rng(seed)
    words = [w.removesuffix("</w>") for w in THEIRS.encoder if w.isascii() and not w.startswith(("<start", "<end"))]
    between = [" ", " ", " ", "", "-", "'", "'s ", ", ", "\n", " 12", "'LL", "...", "_"]
    captions = []
    for n in rng.integers(1, 14, count):
        parts = [words[i][: rng.integers(1, 20)] for i in rng.integers(0, len(words), n)]
        upper = rng.random() < 0.2
        caption = "".join(p + between[i] for p, i in zip(parts, rng.integers(0, len(between), n), strict=True))
        captions.append((caption.upper() if upper else caption).replace("&", "+"))
    return captions


def test_random_captions_have_open_clips_tokens() -> None:
    check(of_characters(4000, 1), most_left=0)
    check(of_words(8000, 2), most_left=0)


@pytest.mark.long
def test_hundreds_of_thousands_of_captions_have_open_clips_tokens() -> None:
    for seed in range(10):
        check(of_characters(10_000, 10 + seed), most_left=0)
        check(of_words(30_000, 30 + seed), most_left=0)
        THEIRS.cache = {t: t for t in ("<start_of_text>", "<end_of_text>")}


@given(st.lists(st.text(st.characters(max_codepoint=0x180), max_size=40), min_size=1, max_size=4))
def test_any_captions_are_right_or_left(captions: list[str]) -> None:
    check(captions, most_left=1)


def test_every_character_alone_and_between_others() -> None:
    """Left to others is exactly what is not printable ASCII, tab or line end, and '&'."""
    captions = [text.replace("?", chr(c)) for c in range(256) for text in ("?", "a?b", "? x", "a?\n?b", "'?", "?s")]
    check(captions, most_left=1)
    _, done = encoded([chr(c) for c in range(256)])
    assert {chr(c) for c in np.flatnonzero(done)} == set(PLAIN)


@pytest.mark.parametrize(
    "caption", ["<start_of_text>", "a <END_of_text> b", "x" * 257, "a &amp; b", "caf\xe9", "\x1b[1m", "\ufeffa"]
)
def test_what_is_left_to_open_clip(caption: str) -> None:
    _, done = encoded(["a dog", caption, "a cat"])
    assert done.tolist() == [True, False, True]


def test_long_captions() -> None:
    long = [
        "word " * 20_000,
        "a\n" * 9000,
        "\n \n" * 9000 + "dog",
        "x" * 256,
        ("y" * 250 + " ") * 40,
        "!" * 256,
        "1" * 999,
    ]
    check(long, most_left=0)
    check(["a dog " * 50 + "z" * 300], most_left=0)  # behind the context no word is looked at


def test_a_shortened_vocabulary_and_another_context() -> None:
    tokenizer = load_tokenizer("dcfast-tiny")
    core = core_tokenizer(tokenizer)
    assert core is not None
    assert core.context != 77
    captions = of_words(2000, 5) + of_characters(500, 6)
    tokens, done = encoded(captions, core)
    assert done.all()
    assert np.array_equal(tokens, tokenizer(captions).numpy())


def test_any_number_of_threads_gives_the_same() -> None:
    captions = of_words(1000, 7)
    wanted, _ = encoded(captions)
    for threads in (0, 2, 5):
        tokens, done = encoded(captions, threads=threads)
        assert done.all()
        assert np.array_equal(tokens, wanted)
    with ThreadPoolExecutor(4) as pool:
        assert all(np.array_equal(tokens, wanted) for tokens, _ in pool.map(lambda _: encoded(captions), range(8)))


def test_other_tokenizers_are_not_for_the_core() -> None:
    assert core_tokenizer(SimpleTokenizer(clean="whitespace")) is None
    assert core_tokenizer(SimpleTokenizer(reduction_mask="simple")) is None
    assert core_tokenizer(SimpleTokenizer(additional_special_tokens=["<more>"])) is None
    assert core_tokenizer(HFTokenizer.__new__(HFTokenizer)) is None

    class Other(SimpleTokenizer):  # type: ignore[misc]  # open_clip is not typed
        pass

    assert core_tokenizer(Other()) is None
    different = SimpleTokenizer()
    encode = different.encode
    different.encode = lambda text: encode(text)[::-1]
    assert core_tokenizer(different) is None, "it is compared"


def test_captions_beyond_the_data_are_refused() -> None:
    one = np.array([1], np.int64)
    for begin, size in ((0, 4), (4, 0), (-1, 1), (0, -1)):
        with pytest.raises(ValueError, match="caption 0 is beyond the data"):
            CORE.encode(b"abc", one * begin, one * size)
    with pytest.raises(ValueError, match="one length"):
        CORE.encode(b"abc", np.zeros(2, np.int64), one)
    tokens, done = CORE.encode(b"", np.zeros(0, np.int64), np.zeros(0, np.int64))
    assert (tokens.shape, done.shape) == ((0, 77), (0,))


def test_texts_of_every_kind_by_the_core_and_by_open_clip() -> None:
    tokenizer = load_tokenizer("ViT-B-32")
    texts = ["a dog", "", "ein Vögelchen &amp; ein Ast", "x" * 300, "\ud800 broken", "a dog"]
    assert torch.equal(tokenize(tokenizer, texts), tokenizer(texts))
    assert tokenize(tokenizer, []).shape == (0, 77)
