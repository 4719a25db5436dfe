"""Whether this machine computes in the recipe's precision by instructions of its own: a word, never another result."""

from __future__ import annotations

import logging
import multiprocessing
from functools import cache
from pathlib import Path

from dcfast.storage.lines import read_lines

_LOG = logging.getLogger("dcfast.train")
BF16_PRECISIONS = ("amp_bf16", "bf16", "pure_bf16")
BF16_FLAGS = frozenset({"avx512_bf16", "amx_bf16", "bf16"})
"""Of /proc/cpuinfo: x86 with AVX-512 or AMX, and Arm."""
CPUINFO = Path("/proc/cpuinfo")


def cpu_lacks_bf16(cpuinfo: Path = CPUINFO) -> bool:
    """True where the processor is known to have no instructions for bf16; False also where it cannot be told."""
    try:
        lines = read_lines(cpuinfo, "ascii", "replace")
    except OSError:
        return False
    for line in lines:
        name, colon, words = line.partition(":")
        if colon and name.strip() in ("flags", "Features"):
            return BF16_FLAGS.isdisjoint(words.split())
    return False


def warn_of_slow_precision(precision: str, device: str) -> None:
    """One line, once a process, where a training on the CPU will be slow for want of bf16 instructions.

    The result is that of the recipe all the same: the precision is not changed by what machine it is.
    """
    if device == "cpu" and precision in BF16_PRECISIONS and cpu_lacks_bf16():
        _say(precision)


@cache
def _say(precision: str) -> None:
    if multiprocessing.parent_process() is not None:
        return  # a comparison run beside its run, which says it
    _LOG.warning(
        "precision %s is slow on this processor: it has no bf16 instructions (AVX-512 BF16 or AMX). Use a GPU or a "
        "processor that has them; python -m dcfast.train can also take --set precision=fp32, another recipe",
        precision,
    )
