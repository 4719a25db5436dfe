"""``floors.c`` as Python functions; ``load`` compiles it, and says why where that cannot be done."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

_SOURCE = Path(__file__).with_name("floors.c")
_FAILED = 2**64 - 1

U64 = npt.NDArray[np.uint64]


class Floors:
    """The compiled floors. Each releases the GIL."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self._library = library
        pointer, size = ctypes.c_void_p, ctypes.c_size_t
        signatures = {
            "sum_words": (ctypes.c_uint64, [pointer, size]),
            "pread_ranges": (ctypes.c_uint64, [ctypes.c_char_p, pointer, pointer, size, ctypes.c_int, pointer]),
            "copy_ranges": (ctypes.c_uint64, [pointer, pointer, pointer, pointer, size, ctypes.c_char_p]),
            "count_and_scatter": (None, [pointer, pointer, size]),
            "merge_sorted": (ctypes.c_uint64, [pointer, size, pointer, size]),
            "fold_text": (None, [pointer, size, pointer]),
        }
        for name, (result, arguments) in signatures.items():
            function = getattr(library, name)
            function.restype, function.argtypes = result, arguments

    def sum_words(self, words: U64) -> int:
        return int(self._library.sum_words(words.ctypes.data, len(words)))

    def pread_ranges(self, path: str, offset: U64, size: U64, *, touch: bool) -> int:
        """Bytes read."""
        total = ctypes.c_uint64()
        read = self._library.pread_ranges(
            os.fsencode(path), offset.ctypes.data, size.ctypes.data, len(size), int(touch), ctypes.byref(total)
        )
        return _checked(read, path)

    def pread_shards(self, shards: Sequence[tuple[str, U64, U64]], *, touch: bool, threads: int = 1) -> int:
        """``pread_ranges`` of each (path, offset, size), shard by shard."""
        if threads == 1:
            return sum(self.pread_ranges(*shard, touch=touch) for shard in shards)
        with ThreadPoolExecutor(threads) as pool:
            return sum(pool.map(lambda shard: self.pread_ranges(*shard, touch=touch), shards))

    def copy_ranges(self, paths: Sequence[str], file: npt.NDArray[np.uint32], offset: U64, size: U64, out: str) -> int:
        """Bytes copied."""
        names = (ctypes.c_char_p * len(paths))(*[os.fsencode(path) for path in paths])
        copied = self._library.copy_ranges(
            names, file.ctypes.data, offset.ctypes.data, size.ctypes.data, len(size), os.fsencode(out)
        )
        return _checked(copied, out)

    def count_and_scatter(self, uids: npt.NDArray[Any], out: npt.NDArray[Any]) -> npt.NDArray[Any]:
        self._library.count_and_scatter(uids.ctypes.data, out.ctypes.data, len(uids))
        return out

    def merge_sorted(self, hay: npt.NDArray[Any], needles: npt.NDArray[Any]) -> int:
        """How many of the needles are in the hay."""
        return int(self._library.merge_sorted(hay.ctypes.data, len(hay), needles.ctypes.data, len(needles)))

    def fold_text(self, text: npt.NDArray[np.uint8], out: U64) -> U64:
        """Every two words of text, by xor."""
        self._library.fold_text(text.ctypes.data, len(text) // 32, out.ctypes.data)
        return out


def _checked(count: int, path: str) -> int:
    if count == _FAILED:
        raise OSError(f"floor: reading or writing {path} failed")
    return count


def load(directory: Path) -> Floors | str:
    """The floors, compiled into directory; or why there are none."""
    names = (os.environ.get("CC", ""), "cc", "gcc", "clang")
    compiler = next((found for name in names if (found := shutil.which(name))), None)
    if compiler is None:
        return "no C compiler (cc)"
    library = directory / "floors.so"
    command = [compiler, "-O3", "-std=gnu11", "-shared", "-fPIC", "-o", str(library), str(_SOURCE)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        return f"{compiler} failed: {done.stderr.strip()[-200:]}"
    return Floors(ctypes.CDLL(str(library)))
