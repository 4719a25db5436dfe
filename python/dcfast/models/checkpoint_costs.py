"""What a checkpoint may cost: its header, compression and pickle are looked at before torch or safetensors read it.

Read by them it takes no more memory than the file has bytes. What would make more of it is refused: compressed or
overlapping members, objects that are made in any size from a number (``bytearray``), codecs that double a string. So
is a member of a zip archive whose CRC-32 does not fit: torch does not look at it, and a flipped bit would be a weight.
"""

from __future__ import annotations

import codecs
import io
import pickletools
import re
from pathlib import Path
from typing import IO

from dcfast.errors import first_line
from dcfast.models.checkpoint_pickle import check_pickle
from dcfast.storage.inputs import open_input
from dcfast.storage.zip_directory import check_contents, check_stored, open_zip

MAX_HEADER_BYTES = 4 << 20
"""Of safetensors: 30,000 tensors. Its library takes 100 MB, and 27 seconds over as much."""
MAX_PICKLE_BYTES = 32 << 20
"""Of a checkpoint of torch, without its tensors."""
_GROWING_CODECS = ("hex", "base64", "quopri", "uu")
"""Of bytes to more bytes, any number of times; all others are for strings, once."""
_PIECE = 1 << 24
_PICKLES = 5  # of torch's format before zip: a number, a version, the machine, the content, the names of storages
_ADVICE = re.compile(r"weights.only|torch\.load|torch\.serialization|pickle_module", re.IGNORECASE)
_NAMED = re.compile(r"(?:GLOBAL|global:?|class:?) ([A-Za-z_][\w.]*\.[\w.]+)")


def check_costs(path: Path, also: frozenset[str] = frozenset(), most_pickle: int | None = None) -> None:
    """ValueError says what of a checkpoint would cost more than its bytes; zipfile.BadZipFile; OSError.

    Args:
        also: names of classes that it may make beside what checkpoints hold.
        most_pickle: bytes in place of ``MAX_PICKLE_BYTES``: an array of NumPy lies within the pickle.
    """
    with open_input(path) as file:
        begin = file.read(8)
    if path.suffix == ".safetensors":
        size = int.from_bytes(begin, "little")
        if size > MAX_HEADER_BYTES:
            raise ValueError(f"a header of {size:,} bytes; at most {MAX_HEADER_BYTES:,} are read")
    elif begin[:4] == b"PK\x03\x04":  # as torch tells them
        _check_zip(path, also, MAX_PICKLE_BYTES if most_pickle is None else most_pickle)
    else:
        _check_old(path, also)


def _check_zip(path: Path, also: frozenset[str], most_pickle: int) -> None:
    with open_zip(path) as archive:
        check_stored(path, archive)
        check_contents(archive)
        for info in archive.infolist():
            if ".pkl" in info.orig_filename.lower():  # torch finds names in any case
                if info.file_size > most_pickle:
                    raise ValueError(f"a pickle of {info.file_size:,} bytes; at most {most_pickle:,} are read")
                data = archive.read(info)
                _refuse_builders(data)
                if b"_codecs" in data:
                    _check_codecs([io.BytesIO(data)])
                check_pickle(io.BytesIO(data), also)


def _check_old(path: Path, also: frozenset[str]) -> None:
    """Torch's format before zip archives: pickles, and behind them the tensors."""
    encodes, last = False, b""
    with open_input(path) as file:
        while piece := file.read(_PIECE):
            _refuse_builders(last + piece)
            encodes |= b"_codecs" in last + piece
            last = piece[-16:]
        if encodes:
            file.seek(0)
            _check_codecs([file] * _PICKLES)
        file.seek(0)
        for _ in range(_PICKLES):
            check_pickle(file, also)


def _refuse_builders(data: bytes) -> None:
    if b"bytearray" in data:
        raise ValueError("it makes a bytearray, which may be of any size")


def _check_codecs(files: list[IO[bytes]]) -> None:
    """ValueError where a pickle that encodes, as those of NumPy's arrays do, names a codec by which bytes grow."""
    strings = {given for file in files for _, given, _ in pickletools.genops(file) if isinstance(given, str)}
    for name in strings:
        try:
            codec = codecs.lookup(name).name
        except (LookupError, ValueError):
            continue
        if codec in _GROWING_CODECS:
            raise ValueError(f"it encodes by {name[:40]!r}, which may make more of a string")


def error_text(error: Exception) -> str:
    """The first line of an error of torch's, less its advice to load the file without any check."""
    text = str(error)
    if _ADVICE.search(text):
        named = _NAMED.search(text)
        return f"it names {named[1]}" if named else "its pickle is damaged, or of another kind"
    return first_line(error)[:200]
