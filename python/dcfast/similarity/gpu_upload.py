"""Rows on their way to a device: through pinned memory on a stream of their own, checked there."""

from __future__ import annotations

import threading
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from dcfast.similarity.gpu_operands import DTYPES, valid_rows
from dcfast.similarity.operands import Metric, Rows, refuse_row

_own = threading.local()  # pinned memory and streams of a thread: two threads a device make a double buffer


@dataclass(frozen=True)
class Part:
    """Valid rows (n, d) as given, and where they stand in all rows, (n,) int64."""

    values: Tensor
    index: Tensor


def load_part(rows: Rows, begin: int, end: int, device: torch.device, metric: Metric, skips: bool) -> Part:
    """Rows [begin, end) on a device, those that are not valid left out; the copy has arrived.

    Raises:
        ValueError: a row that is not finite (or zero, for "cos"), by its number, unless it is to be skipped.
    """
    values = _on_device(rows, begin, end, device)
    index = torch.arange(begin, end, device=device)
    valid = valid_rows(values, metric)
    if bool(valid.all()):
        return Part(values, index)
    if not skips:
        row = int((~valid).nonzero()[0, 0])
        refuse_row(rows.name, begin + row, finite=bool(torch.isfinite(values[row].double()).all()))
    return Part(values[valid], index[valid])


def _on_device(rows: Rows, begin: int, end: int, device: torch.device) -> Tensor:
    if isinstance(rows.source, Tensor):  # on a GPU already
        return rows.source[begin:end].detach().to(device)
    array = rows.read(begin, end)
    dtype = torch.uint16 if rows.kind == "bfloat16" else DTYPES[rows.kind]
    if device.type != "cuda":
        return torch.from_numpy(np.array(array)).view(DTYPES[rows.kind])
    staging = _pinned(array.nbytes).view(dtype)[: array.size].view(array.shape)
    np.copyto(staging.numpy(), array)
    stream = _stream(device)
    with torch.cuda.stream(stream):
        values = torch.empty(array.shape, dtype=dtype, device=device)
        values.copy_(staging, non_blocking=True)
    stream.synchronize()  # this thread alone waits: another one computes meanwhile
    values.record_stream(torch.cuda.current_stream(device))
    return values.view(DTYPES[rows.kind])


def _pinned(size: int) -> Tensor:
    held: Tensor | None = getattr(_own, "buffer", None)
    if held is None or held.numel() < size:
        _own.buffer = held = torch.empty(max(size, 1), dtype=torch.uint8, pin_memory=True)
    return held[:size]


def _stream(device: torch.device) -> torch.cuda.Stream:
    streams: dict[torch.device, torch.cuda.Stream] = _own.__dict__.setdefault("streams", {})
    if device not in streams:
        streams[device] = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    return streams[device]
