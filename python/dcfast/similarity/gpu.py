"""``topk``, ``join``, ``assign`` and their kin on GPUs: the same answers as on the CPU, to the bit.

Queries go through in blocks. Of several GPUs each takes a share of the blocks and has the database for itself; two
threads a GPU, one of which reads and uploads while the other computes. Results come in the order of the blocks.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from dcfast.process.read_ahead import read_ahead
from dcfast.similarity.gpu_screen import screen_for
from dcfast.similarity.gpu_search import DeviceSearch
from dcfast.similarity.gpu_upload import Part, load_part
from dcfast.similarity.operands import Metric, Progress, Rows

if TYPE_CHECKING:
    from dcfast.similarity.database import Database

BLOCK = {"cuda": 1 << 17, "cpu": 1 << 12}
"""Query rows at a time."""
_RESULTS = 1 << 26  # numbers that the results of a block have at most

R = TypeVar("R")


def in_order(work: Callable[[int], R], count: int, devices: int) -> Iterator[R]:
    """``work(number)`` of 0 to count - 1, in order; two threads a device where there is more than one piece of work."""
    threads = 2 * devices if count > 1 else 1
    return read_ahead(work, range(count), threads=threads, ahead=threads - 1, name="dcfast-gpu")


def _stream(device: torch.device) -> torch.cuda.Stream | None:
    """The caller's stream on a device, on which other threads will work: so they wait for what the caller began."""
    return torch.cuda.current_stream(device) if device.type == "cuda" else None


def _working_on(stream: torch.cuda.Stream | None) -> AbstractContextManager[object]:
    return nullcontext() if stream is None else torch.cuda.stream(stream)


@dataclass
class Search:
    """One search: queries against a database on some devices.

    Args:
        devices: torch's names; "cpu" is one, for tests.
        skips: invalid query rows match nothing.
    """

    queries: Rows
    database: Database
    devices: tuple[str, ...]
    skips: bool
    progress: Progress | None = None

    def __post_init__(self) -> None:
        if self.database.rows.count > 0xFFFFFFFF:
            raise ValueError(
                f"{self.database.rows.name} has {self.database.rows.count} rows, and a GPU search takes 2^32 - 1: "
                "search in parts of it"
            )
        self._on = [self._device_search(torch.device(name)) for name in self.devices]
        self._streams = [_stream(on.device) for on in self._on]
        self._locks = [threading.Lock() for _ in self._on]

    def _device_search(self, device: torch.device) -> DeviceSearch:
        skips = self.database.skips or self.skips
        key = str(device), skips
        if key not in self.database.on_devices:
            self.database.on_devices[key] = DeviceSearch(
                device, self.database.rows, self.database.metric, skips, screen_for(device)
            )
        found = self.database.on_devices[key]
        assert isinstance(found, DeviceSearch)
        return found

    def blocks(self, work: Callable[[DeviceSearch, Part, int, int], R], each: int = 1) -> Iterator[R]:
        """``work(search, valid rows, begin, end)`` of each block of queries, in order.

        Args:
            each: numbers in a row's result.
        """
        rows = max(1, min(BLOCK[torch.device(self.devices[0]).type], _RESULTS // each))
        begins = range(0, self.queries.count, rows)

        def one(number: int) -> R:
            which = number % len(self._on)
            search, begin = self._on[which], begins[number]
            end = min(self.queries.count, begin + rows)
            with torch.inference_mode(), _working_on(self._streams[which]):
                part = load_part(self.queries, begin, end, search.device, search.metric, self.skips)
                with self._locks[which]:
                    return work(search, part, begin, end)

        for number, result in enumerate(in_order(one, len(begins), len(self._on))):
            yield result
            if self.progress is not None:
                end = min(self.queries.count, begins[number] + rows)
                self.progress(end * self.database.rows.count, self.queries.count * self.database.rows.count)

    def out(self, tensor: Tensor) -> Tensor:
        """A result where it is wanted: on the GPU of the queries, else on the CPU."""
        return tensor if self.queries.device != "cpu" else tensor.cpu()

    def finished(self, parts: list[Tensor], empty: Tensor) -> npt.NDArray[np.generic]:
        """All blocks together, as the kind of array that the queries are."""
        joined = torch.cat(parts) if parts else empty.to(self.queries.device)
        return joined if self.queries.is_torch else joined.numpy()  # type: ignore[return-value]

    def whole(self, part: Part, begin: int, end: int, values: Tensor, worst: float) -> Tensor:
        """Results of valid rows among those of all rows of a block."""
        if len(part.index) == end - begin:
            return self.out(values)
        out = torch.full((end - begin, *values.shape[1:]), worst, dtype=values.dtype, device=values.device)
        out[part.index - begin] = values
        return self.out(out)


def _worst(search: Search) -> float:
    return float("inf") if search.database.metric == "l2" else float("-inf")


def topk(search: Search, k: int, exclude_self: bool) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    """(scores, indices), each (n, k); arguments are checked.   Memory: 2^26 results, beside the database's."""

    def one(on: DeviceSearch, part: Part, begin: int, end: int) -> tuple[Tensor, Tensor]:
        score, index = on.topk(part, search.queries.kind, k, exclude_self)
        return search.whole(part, begin, end, score, _worst(search)), search.whole(part, begin, end, index, -1)

    parts = list(search.blocks(one, k))
    scores = search.finished([p[0] for p in parts], torch.empty(0, k))
    return scores, search.finished([p[1] for p in parts], torch.empty(0, k, dtype=torch.int64))  # type: ignore[return-value]


def assign(search: Search) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    """(indices, scores), each (n,)."""

    def one(on: DeviceSearch, part: Part, begin: int, end: int) -> tuple[Tensor, Tensor]:
        score, index = on.best(part, search.queries.kind)
        return search.whole(part, begin, end, score, _worst(search)), search.whole(part, begin, end, index, -1)

    parts = list(search.blocks(one))
    indices = search.finished([p[1] for p in parts], torch.empty(0, dtype=torch.int64))
    return indices, search.finished([p[0] for p in parts], torch.empty(0))  # type: ignore[return-value]


def row_max(search: Search, absolute: bool, exclude_self: bool) -> npt.NDArray[np.float32]:
    """(n,) best scores; ``absolute``: the largest magnitudes, in twice the time."""

    def high(on: DeviceSearch, part: Part) -> Tensor:
        if exclude_self:
            return on.topk(part, search.queries.kind, 1, True)[0][:, 0]
        return on.best(part, search.queries.kind)[0]

    def one(on: DeviceSearch, part: Part, begin: int, end: int) -> Tensor:
        found = high(on, part)
        if absolute:
            # -128 has no opposite among int8
            values = part.values.half() if part.values.dtype == torch.int8 else part.values
            found = torch.maximum(found, high(on, Part(-values, part.index)))
        return search.whole(part, begin, end, found, _worst(search))

    return search.finished(list(search.blocks(one)), torch.empty(0))  # type: ignore[return-value]


def any_above(search: Search, threshold: float, exclude_self: bool) -> npt.NDArray[np.bool_]:
    """(n,) bool; ``threshold`` is a float32."""
    lower = search.database.metric == "l2"
    best = row_max(search, False, exclude_self)
    return best <= threshold if lower else best >= threshold


def join(
    search: Search, threshold: float, exclude_self: bool, max_pairs: int, same: bool
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    """(ia, ib, scores), sorted.

    Args:
        threshold: a float32.
        same: both sides are one array and pairs of a row with itself are left out: each pair is scored once.
    Raises:
        ValueError: more than ``max_pairs``, with the count so far.
    """
    lock = threading.Lock()
    count = 0

    def one(on: DeviceSearch, part: Part, begin: int, end: int) -> list[Tensor]:
        nonlocal count
        pieces: list[tuple[Tensor, Tensor, Tensor]] = []
        for ia, ib, scores in on.pairs(part, search.queries.kind, threshold, exclude_self, same):
            with lock:
                count += len(ia) * (1 + same)
                if count > max_pairs:
                    raise ValueError(
                        f"more than max_pairs={max_pairs} pairs reach the threshold {threshold:g} ({count} with the "
                        f"rows {begin} to {end} of {search.queries.count}): use a stricter threshold, raise max_pairs, "
                        "or join parts of a"
                    )
            pieces.append((ia, ib, scores))
        joined = [torch.cat(field) for field in zip(*pieces, strict=True)] if pieces else _no_pairs(on.device)
        return [search.out(field) for field in _sorted(*joined)]

    parts = list(search.blocks(one)) or [_no_pairs(torch.device(search.queries.device))]
    ia, ib, scores = (torch.cat(field) for field in zip(*parts, strict=True))
    if same:
        ia, ib, scores = _sorted(torch.cat((ia, ib)), torch.cat((ib, ia)), torch.cat((scores, scores)))
    return tuple(search.finished([field], field) for field in (ia, ib, scores))  # type: ignore[return-value]


def group_join(
    x: Rows, offsets: npt.NDArray[np.int64], threshold: float, metric: Metric, max_pairs: int, skips: bool,
    devices: tuple[str, ...], progress: Progress | None,
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.float32]]:  # fmt: skip
    """(ia, ib, scores) of pairs ia < ib of one group, sorted. Small groups are joined together and told apart after it.

    Args:
        offsets: (g + 1,) where groups begin, and the end; checked.
        threshold: a float32.
    Raises:
        ValueError: more than ``max_pairs``, with the count so far.
    """
    bounds = _batches(offsets)
    places = [torch.device(name) for name in devices]
    screens, streams = [screen_for(place) for place in places], [_stream(place) for place in places]

    def one(number: int) -> list[Tensor]:
        which, (begin, end) = number % len(places), bounds[number]
        place = places[which]
        with torch.inference_mode(), _working_on(streams[which]):
            part = load_part(x, begin, end, place, metric, skips)
            rows = replace(x, source=part.values, count=len(part.values), device=str(place))
            on = DeviceSearch(place, rows, metric, skips, screens[which])
            starts = torch.from_numpy(offsets).to(place)
            here = Part(part.values, torch.arange(len(part.values), device=place))
            pieces = [_no_pairs(place)]
            for ia, ib, scores in on.pairs(here, x.kind, threshold, True, True):
                ia, ib = part.index[ia], part.index[ib]
                one_group = torch.searchsorted(starts, ia, right=True) == torch.searchsorted(starts, ib, right=True)
                pieces.append([ia[one_group], ib[one_group], scores[one_group]])
            found = _sorted(*(torch.cat(field) for field in zip(*pieces, strict=True)))
            return [field if x.device != "cpu" else field.cpu() for field in found]

    parts, count = [_no_pairs(torch.device(x.device))], 0
    for number, found in enumerate(in_order(one, len(bounds), len(places))):
        count += len(found[0])
        if count > max_pairs:
            raise ValueError(
                f"more than max_pairs={max_pairs} pairs reach the threshold {threshold:g} ({count} up to row "
                f"{bounds[number][1]}): use a stricter threshold, raise max_pairs, or join fewer groups at a time"
            )
        parts.append(found)
        if progress is not None:
            progress(bounds[number][1], x.count)
    joined = [torch.cat(field) for field in zip(*parts, strict=True)]
    return tuple(field if x.is_torch else field.numpy() for field in joined)  # type: ignore[return-value]


def _batches(offsets: npt.NDArray[np.int64]) -> list[tuple[int, int]]:
    """Rows of neighbouring groups, 8,192 rows at most but for a larger group; groups of one row make no pair."""
    out: list[tuple[int, int]] = []
    for begin, end in zip(offsets[:-1].tolist(), offsets[1:].tolist(), strict=True):
        if end - begin < 2:
            continue
        if out and out[-1][1] == begin and end - out[-1][0] <= 8192:
            out[-1] = out[-1][0], end
        else:
            out.append((begin, end))
    return out


def same_rows(a: Rows, b: Rows) -> bool:
    """Whether the two are one array, or views of the same memory: judged by address, not by value."""
    if a.source is b.source:
        return True
    if (
        not a.in_memory
        or not b.in_memory
        or (a.count, a.width, a.kind, a.device) != (b.count, b.width, b.kind, b.device)
    ):
        return False
    if isinstance(a.source, Tensor) and isinstance(b.source, Tensor):
        return a.source.data_ptr() == b.source.data_ptr() and a.source.stride() == b.source.stride()
    if isinstance(a.source, np.ndarray) and isinstance(b.source, np.ndarray):
        return a.source.ctypes.data == b.source.ctypes.data and a.source.strides == b.source.strides
    return False


def _no_pairs(device: torch.device) -> list[Tensor]:
    return [torch.empty(0, dtype=dtype, device=device) for dtype in (torch.int64, torch.int64, torch.float32)]


def _sorted(ia: Tensor, ib: Tensor, scores: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    order = (ia << 32 | ib).argsort() if not len(ia) or int(ia.max()) < 2**31 else _long_order(ia, ib)
    return ia[order], ib[order], scores[order]


def _long_order(ia: Tensor, ib: Tensor) -> Tensor:
    order = ib.argsort(stable=True)
    return order[ia[order].argsort(stable=True)]
