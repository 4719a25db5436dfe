"""Captions of any length for open_clip's byte-pair tokenizer, which takes minutes for a word of a megabyte.

It merges pairs over a whole word, in time that grows with the square of its length, and over the whole caption, of
which a model sees 77 tokens. Here it stops where the model does. It keeps every word it has met, too: here it forgets.
"""

from __future__ import annotations

from typing import Any

__all__ = ["read_as_far_as_the_model"]

_REMEMBERED_WORDS = 1 << 18
_BEYOND = 512
"""Bytes of a word that are looked at behind the last that a token can reach: a merge depends on its neighbours."""


class _Remembered(dict[str, str]):
    """The words met so far, with a bound: then they are forgotten."""

    def __setitem__(self, word: str, parts: str) -> None:
        if len(self) >= _REMEMBERED_WORDS:
            self.clear()
        super().__setitem__(word, parts)


def read_as_far_as_the_model(tokenizer: Any) -> Any:
    """Makes an open_clip ``SimpleTokenizer`` read as much of a caption as its context holds; the tokens stay the same.

    Other tokenizers, and those that choose words from the whole caption, are returned as they are.
    Memory: 262,144 words.   Cost: at most 0.5 s for the longest word; cleaning takes 0.5 us a byte.
    """
    from open_clip.tokenizer import SimpleTokenizer

    if not isinstance(tokenizer, SimpleTokenizer) or tokenizer.reduction_fn is not None:
        return tokenizer
    context = int(tokenizer.context_length or 77)
    longest = max(map(len, tokenizer.encoder))  # of a token, in bytes

    def encode(text: str) -> list[int]:
        tokens: list[int] = []
        for match in tokenizer.pat.finditer(tokenizer.clean_fn(text)):
            if len(tokens) >= context:
                break  # the rest is cut off
            seen = (context - len(tokens)) * longest + _BEYOND
            word = "".join(tokenizer.byte_encoder[b] for b in match[0][:seen].encode("utf-8")[:seen])
            tokens += [tokenizer.encoder[part] for part in tokenizer.bpe(word).split(" ")]
        return tokens

    tokenizer.cache = _Remembered(tokenizer.cache)
    tokenizer.encode = encode
    return tokenizer
