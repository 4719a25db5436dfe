"""Where a search runs: on the CPU, or on one GPU or several. Nothing here imports torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

from dcfast.similarity.operands import Rows

Devices: TypeAlias = "str | Sequence[str] | None"
"""None: where the tensors are. "cpu"; "cuda", all visible GPUs; "cuda:1"; or a list, which share the queries."""


def placed(device: Devices, *sides: Rows) -> tuple[str, ...]:
    """The GPUs of a search; none for the CPU.

    Raises:
        ValueError: the sides are on two GPUs, or on another one than is asked for; no such GPU.
        TypeError: ``device`` is neither text nor a list of texts.
    """
    on = sorted({rows.device for rows in sides} - {"cpu"})
    if len(on) > 1:
        raise ValueError(f"the sides are on {' and '.join(on)}: give both on one GPU")
    given = [device] if isinstance(device, str) else device or []
    asked = [name for name in given if isinstance(name, str)] if isinstance(given, Sequence) else []
    if device is not None and (not asked or len(asked) != len(given)):
        raise TypeError(f"device must be a name such as 'cuda', or a list of names; got {device!r}: give names")
    if on:
        if asked not in ([], ["cuda"], on):
            raise ValueError(
                f"a side is on {on[0]} and device is {device!r}: leave device out, or give that of the side"
            )
        return (on[0],)
    if asked in ([], ["cpu"]):
        return ()
    return _visible(asked)


def _visible(asked: list[str]) -> tuple[str, ...]:
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    every = [f"cuda:{i}" for i in range(count)]
    named = every if asked == ["cuda"] else asked
    missing = [name for name in named if name not in every]
    if missing or not named or len(set(named)) != len(named):
        raise ValueError(
            f"device is {', '.join(asked)}; this machine has {', '.join(every) or 'no CUDA device'}: give each of them "
            "once, or leave device out to use the CPU"
        )
    return tuple(named)
