"""Where a search runs: on the CPU, or on one GPU or several. Nothing here imports torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from dcfast.process.compute import device_name
from dcfast.similarity.operands import Devices, Rows


def placed(device: Devices, *sides: Rows) -> tuple[str, ...]:
    """The GPUs of a search; none for the CPU.

    Raises:
        ValueError: the sides are on two GPUs, or on another one than is asked for; no such GPU.
        TypeError: ``device`` is neither a device nor a list of devices.
    """
    on = sorted({rows.device for rows in sides} - {"cpu"})
    if len(on) > 1:
        raise ValueError(f"the sides are on {' and '.join(on)}: give both on one GPU")
    several = isinstance(device, Sequence) and not isinstance(device, str | bytes)
    given = list(cast("Sequence[str]", device)) if several else [cast(str, device)]
    asked = [] if device is None else [device_name(one) for one in given]
    if device is not None and not asked:
        raise TypeError(f"device must be a device or a list of them; got {device!r}: name one, or leave it out")
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
