"""The core's fastText: every answer is that of fastText's own library, whatever the model and the text."""

from __future__ import annotations

import importlib
import random
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from dcfast._core import filters as core_filters
from dcfast.errors import CorruptDataError
from dcfast.filters import language
from dcfast.storage.arrow import text_buffers
from filter_reference import ODD_CAPTIONS
from language_models import MadeModel

fasttext = importlib.import_module("fasttext")
SPACES = [" ", "  ", "\t", "\r", "\v", "\f", "\0", "\u00a0", "\u3000", "\u200b", "\x85"]
WORDS = [
    "a",
    "the",
    "two",
    "dogs",
    "Straße",
    "犬",
    "в",
    "étés",
    "</s>",
    "__label__en",
    "__label__",
    "<",
    ">",
    "👩‍👩‍👧",
    "x" * 70,
]
LABELS = [(b"__label__" + bytes([letter]), 900 - 7 * n) for n, letter in enumerate(b"abcdefghijk")]


def library_answers(path: Path, captions: list[str]) -> list[str | None]:
    predict = fasttext.load_model(str(path)).predict
    return [(predict(caption, 1)[0] or (None,))[0] for caption in captions]


def core_answers(path: Path, captions: list[str], labels: list[str], threads: int = 1) -> list[str | None]:
    model = core_filters.LanguageModel(bytes(path))
    names: dict[int, str | None] = {model.find_label(label): label for label in labels}
    names[-1] = None
    data, offsets = text_buffers(pa.array(captions, pa.large_string()))
    return [names[number] for number in model.predict_offsets64(data, offsets, threads).tolist()]


def random_text(draw: random.Random) -> str:
    kind = draw.randrange(5)
    if kind == 0:
        return "".join(
            chr(draw.choice((draw.randrange(0x20, 0x300), draw.randrange(0x3040, 0x30FF))))
            for _ in range(draw.randrange(30))
        )
    if kind == 1:
        return "".join(draw.choice("ab é犬\t\0") for _ in range(draw.randrange(12)))
    return draw.choice(SPACES).join(draw.choice(WORDS) for _ in range(draw.randrange(9)))


def all_labels() -> list[str]:
    """Of lid.176: the file lists them behind its words."""
    content = language.find_model().read_bytes()
    found = [part.split(b"\0")[0].decode() for part in content.split(b"__label__")[1:]]
    return [f"__label__{name}" for name in found]


def captions_of(real_data: Path) -> list[str]:
    table = pq.read_table(real_data / "img2dataset/test_files/test_10000.parquet", columns=["TEXT"])
    return [text.replace("\n", " ") for text in table["TEXT"].to_pylist() if text is not None]


def changed(text: str, draw: random.Random) -> str:
    words = text.split()
    kind = draw.randrange(6)
    if kind == 0:
        return text[: draw.randrange(1 + len(text))]
    if kind == 1:
        return draw.choice(SPACES).join(words)
    if kind == 2:
        draw.shuffle(words)
        return " ".join(words)
    if kind == 3:
        return text.upper()
    at = draw.randrange(1 + len(text))
    return text[:at] + chr(draw.randrange(1, 0xD000)).replace("\n", " ") + text[at:]


def test_lid176_on_odd_and_random_texts() -> None:
    draw = random.Random(5)
    texts = [caption.replace("\n", " ") for caption in ODD_CAPTIONS]
    texts += ["", "\0", " ", "</s>", "</s> dogs", "dogs </s>", "word " * 5_000, "x" * 30_000]
    texts += [random_text(draw) for _ in range(3_000)]
    path = language.find_model()
    labels = all_labels()
    assert len(labels) == 176
    expected = library_answers(path, texts)
    assert core_answers(path, texts, labels) == expected
    assert core_answers(path, texts, labels, threads=3) == expected
    assert len(set(expected)) > 40


def test_lid176_on_real_captions(real_data: Path) -> None:
    draw = random.Random(6)
    real = captions_of(real_data)
    texts = real + [changed(text, draw) for text in real]
    path = language.find_model()
    assert core_answers(path, texts, all_labels()) == library_answers(path, texts)


def made(number: int) -> MadeModel:
    """Models of all kinds that are read: rows as floats, quantised, pruned; few and many labels; odd n-grams."""
    draw = random.Random(number)
    vocabulary = [b"</s>", *(word.encode() for word in draw.sample(WORDS, 6) if not word.startswith(("_", "</")))]
    labels = LABELS[: draw.choice((1, 2, 3, 7, 11))]
    if draw.random() < 0.3:
        labels = [(name, 5) for name, _ in labels]  # all as common: which are joined first is the rule's
    kept = None
    dsub = draw.choice((0, 0, 1, 2, 3))
    dim = draw.choice((1, 5, 16))
    if dsub and draw.random() < 0.7:
        buckets = draw.sample(range(97), 40)
        kept = list(zip(buckets, draw.sample(range(40), 40), strict=True))
    return MadeModel(
        vocabulary[draw.randrange(2) :],
        labels,
        dim=dim,
        minn=draw.choice((0, 1, 2, 3)),
        maxn=draw.choice((0, 2, 4, 6)),
        dsub=min(dsub, dim),
        norms=draw.random() < 0.5,
        kept=kept,
        seed=number,
        scale=draw.choice((0.1, 1.0, 8.0)),
    )


@pytest.mark.parametrize("number", range(60))
def test_made_models(number: int, tmp_path: Path) -> None:
    draw = random.Random(1_000 + number)
    texts = ["", "</s>", "two dogs", *(random_text(draw) for _ in range(150))]
    model = made(number)
    path = tmp_path / "made.bin"
    path.write_bytes(model.to_bytes())
    labels = [name.decode() for name, _ in model.labels]
    assert core_answers(path, texts, labels) == library_answers(path, texts)


def test_of_equal_labels_fasttexts_choice_wins(tmp_path: Path) -> None:
    model = MadeModel([b"</s>"], LABELS, output=np.zeros((len(LABELS), 5), np.float32))
    path = tmp_path / "ties.bin"
    path.write_bytes(model.to_bytes())
    texts = ["", "a b", "two dogs"]
    answers = core_answers(path, texts, [name.decode() for name, _ in LABELS])
    assert answers == library_answers(path, texts)


@pytest.mark.parametrize("change", [{"loss": 3}, {"word_ngrams": 2}])
def test_models_of_another_kind_are_the_librarys(
    change: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "other.bin"
    path.write_bytes(MadeModel([b"</s>", b"dogs"], [(b"__label__en", 9), (b"__label__de", 5)], **change).to_bytes())
    with pytest.raises(ValueError, match="is not read by dcfast's own code") as error:
        core_filters.LanguageModel(bytes(path))
    assert not isinstance(error.value, CorruptDataError)
    texts = ["dogs", "two", "zwei Hunde am Strand"]
    expected = [answer == "__label__en" for answer in library_answers(path, texts)]
    monkeypatch.setenv("DCFAST_LID_MODEL", str(path))
    assert language.is_english(texts).tolist() == expected


def test_damaged_models_are_refused_or_read(tmp_path: Path) -> None:
    """Of every cut, and of flipped bits, comes an error or an answer, as quickly."""
    draw = random.Random(3)
    path = tmp_path / "damaged.bin"
    for number in (1, 8):
        whole = made(number).to_bytes()
        for size in range(0, len(whole), 1 + len(whole) // 200):
            path.write_bytes(whole[:size])
            with pytest.raises(CorruptDataError):
                core_filters.LanguageModel(bytes(path))
        for _ in range(300):
            flipped = bytearray(whole)
            flipped[draw.randrange(300)] ^= 1 << draw.randrange(8)
            path.write_bytes(flipped)
            try:
                model = core_filters.LanguageModel(bytes(path))
            except ValueError:
                continue
            data, offsets = text_buffers(pa.array(["two dogs", "", "Straße 犬"]))
            model.predict_offsets32(data, offsets, 1)


def test_no_label_for_english(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "none.bin"
    path.write_bytes(MadeModel([], LABELS, maxn=0).to_bytes())
    monkeypatch.setenv("DCFAST_LID_MODEL", str(path))
    assert language.is_english(["two dogs", ""]).tolist() == [False, False]


def test_slices_and_kinds_of_columns() -> None:
    texts = ["a dog on the beach", "ein Hund am Strand", "a dog on the beach in summer", ""]
    expected = language.is_english(texts).tolist()
    assert expected[:3] == [True, False, True]
    for kind in (pa.string(), pa.large_string()):
        column = pa.array(["x", *texts, "y"], kind)[1:-1]
        assert language.is_english(column).tolist() == expected
    assert language.is_english(pa.array([], pa.string())).tolist() == []
