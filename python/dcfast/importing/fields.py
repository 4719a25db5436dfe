"""What columns and keys are called by those who publish pairs: captions, links, files, pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from dcfast.storage.hashing import hash_bytes
from dcfast.uids.sets import uid_format, uid_parse

if TYPE_CHECKING:
    import pyarrow as pa

CAPTIONS = (
    *("text", "caption", "captions", "TEXT", "alt_text", "alt", "sentence", "sentences", "description"),
    *("prompt", "title", "raw", "comment", "txt"),
)
URLS = ("url", "URL", "image_url")
FILES = (
    *("file_name", "filename", "file", "filepath", "file_path", "path", "image_path", "img_path", "image", "img"),
    *("image_file", "image_name", "picture", "name"),
)
LABELS = ("label", "class", "category", "cls", "target", "class_name", "labels", "fine_label")
PICTURES = ("image", "img", "jpg", "jpeg", "png", "webp", "picture", "photo", "image_bytes", "bytes", "pixel_values")
"""Names in the order in which they are looked for; the first that is there counts."""


def first_of(names: Sequence[str], given: Sequence[str]) -> str:
    """The first of some names that is among those given, in any case of letters; empty where none is."""
    lower = {name.strip().lower(): name for name in reversed(given)}
    exact = next((name for name in names if name in given), "")
    return exact or next((lower[name.lower()] for name in names if name.lower() in lower), "")


def captions_in(value: object) -> list[str]:
    """The captions that a field holds, a text or a list of texts, stripped; without empty ones."""
    values = value if isinstance(value, list) else [value]
    return [text.strip() for text in values if isinstance(text, str) and text.strip()]


def captions_of(fields: Mapping[str, object], chosen: str = "") -> list[str]:
    """The captions of a sample's json: those of the field that is ``chosen``, else of the first of ``CAPTIONS``."""
    for name in (chosen,) if chosen else CAPTIONS:
        if found := captions_in(fields.get(name)):
            return found
    return []


def text_of(fields: Mapping[str, object], names: Sequence[str]) -> str:
    """The first text among some fields; empty where there is none."""
    return next((value for name in names if isinstance(value := fields.get(name), str) and value), "")


def texts(column: pa.Array) -> list[str | list[str] | None]:
    """A column of texts, or of lists of them, as Python's; bytes that are not UTF-8 become U+FFFD. Of others None."""
    import pyarrow as pa

    kind = column.type
    if pa.types.is_dictionary(kind):
        return texts(column.dictionary_decode())
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        if not _is_text(kind.value_type):
            return [None] * len(column)
        lists: list[str | list[str] | None] = []
        for row in range(len(column)):
            values = column[row].values
            lists.append(None if values is None else [text for text in texts(values) if isinstance(text, str)])
        return lists
    if not _is_text(kind):
        return [None] * len(column)
    data = column.cast(pa.large_binary()).to_pylist()
    return [None if value is None else value.decode("utf-8", "replace") for value in data]


def _is_text(kind: pa.DataType) -> bool:
    import pyarrow as pa

    return any(
        test(kind)
        for test in (pa.types.is_string, pa.types.is_large_string, pa.types.is_binary, pa.types.is_large_binary)
    )


def is_captions(kind: pa.DataType) -> bool:
    """Whether a column of this type can hold captions: texts, or lists of them."""
    import pyarrow as pa

    if pa.types.is_dictionary(kind):
        return is_captions(kind.value_type)
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        return bool(pa.types.is_string(kind.value_type) or pa.types.is_large_string(kind.value_type))
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def uid_of(given: str, name: str, caption: str) -> str:
    """The uid of a pair that is written into shards: the one it was given where that is a uid, else XXH3-128 of its
    name, a line feed and its caption, in UTF-8 (docs/import.md)."""
    if given:
        uids, valid = uid_parse([given], errors="mask")
        if bool(np.asarray(valid)[0]):
            return str(uid_format(uids, as_list=True, threads=1)[0])
    return hash_bytes(f"{name}\n{caption}".encode("utf-8", "surrogateescape"))
