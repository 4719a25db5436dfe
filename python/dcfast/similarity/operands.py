"""What a search takes: rows of embeddings as NumPy arrays, memmaps, torch tensors, DLPack, or blocks that are read.

``as_rows`` looks at no value and copies nothing; ``Rows.read`` brings a slice as a NumPy array. bfloat16 travels as its
16 bits (uint16), with ``kind`` to say so.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, NoReturn, Protocol, TypeAlias, TypedDict, TypeVar, cast, runtime_checkable

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import torch

Metric = Literal["ip", "cos", "l2"]
Invalid = Literal["raise", "skip"]
Kind = Literal["float32", "float16", "bfloat16", "int8"]
Progress: TypeAlias = Callable[[int, int], None]
"""Called with (scores done, scores in all) after each pair of blocks, on the calling thread."""

Devices: TypeAlias = "str | torch.device | Sequence[str | torch.device] | None"
"""None: where the tensors are. "cpu"; "cuda", all visible GPUs; "cuda:1"; or a list, which share the queries."""

KINDS: tuple[Kind, ...] = ("float32", "float16", "bfloat16", "int8")
ITEM_SIZE: dict[Kind, int] = {"float32": 4, "float16": 2, "bfloat16": 2, "int8": 1}


_DLPACK_CUDA = 2  # its number of CUDA devices


@runtime_checkable
class Blocks(Protocol):
    """Rows that are read by slices: an open file, a column of many files."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def dtype(self) -> object: ...

    def __getitem__(self, rows: slice, /) -> object: ...


@runtime_checkable
class SupportsDLPack(Protocol):
    """An array of another library."""

    def __dlpack__(self) -> object: ...

    def __dlpack_device__(self) -> tuple[int, int]: ...


ArrayLike: TypeAlias = npt.NDArray[np.generic] | Blocks
"""Rows whose results are NumPy arrays; those of tensors are tensors."""
RowsLike: TypeAlias = "ArrayLike | torch.Tensor"

Bools: TypeAlias = npt.NDArray[np.bool_]
Floats: TypeAlias = npt.NDArray[np.float32]
Integers: TypeAlias = npt.NDArray[np.int64]
F = TypeVar("F")
I = TypeVar("I")  # noqa: E741  (integers, as F are floats)


class SearchOptions(TypedDict, total=False):
    """Keywords that all searches take, for the overloads that tell their results; see ``dcfast.topk``."""

    metric: Metric | None
    invalid: Invalid
    device: Devices
    threads: int | None
    progress: Progress | None


@dataclass(frozen=True)
class Rows:
    """(count, width) rows.

    Attributes:
        name: of the argument, for messages.
        kind: what a number of it is.
        in_memory: reading costs no file access beyond a memmap's.
        is_torch: results go back as tensors.
        device: "cpu", or the GPU that the rows are on.
    """

    name: str
    source: object
    count: int
    width: int
    kind: Kind
    in_memory: bool
    is_torch: bool
    device: str = "cpu"

    @property
    def row_bytes(self) -> int:
        return self.width * ITEM_SIZE[self.kind]

    def read(self, begin: int, end: int) -> npt.NDArray[np.generic]:
        """Rows [begin, end) as an array with contiguous rows, in this machine's byte order; bfloat16 as uint16.

        Raises:
            ValueError: blocks gave another shape or dtype than they said.
        """
        part = cast(Blocks, self.source)[begin:end] if not self.in_memory else self.source[begin:end]  # type: ignore[index]
        if not self.in_memory:
            got = as_rows(part, self.name)
            if (got.count, got.width, got.kind) != (end - begin, self.width, self.kind):
                raise ValueError(
                    f"{self.name}[{begin}:{end}] gave {got.kind} of shape ({got.count}, {got.width}); expected "
                    f"{self.kind} of ({end - begin}, {self.width}): make shape and dtype say what slices give"
                )
            part = got.source
        array = np.asarray(part)
        array = array.astype(array.dtype.newbyteorder("="), copy=False)
        if (array.shape[1] > 1 and array.strides[1] != array.itemsize) or not array.flags.aligned:
            array = np.array(array, order="C")  # a copy even where one row is contiguous, but not aligned
        return array


def _kind(dtype: object, name: str) -> Kind:
    text = np.dtype(dtype).name if isinstance(dtype, type | np.dtype) else str(dtype).removeprefix("torch.")
    if text not in KINDS:
        raise TypeError(
            f"{name} must be float32, float16, bfloat16 or int8; got {text}: convert it, for example to float32"
        )
    return text


def as_rows(values: object, name: str) -> Rows:
    """A look at an argument.

    Raises:
        TypeError: no array, tensor or blocks; another dtype; on a device that is no CUDA device.
        ValueError: not two-dimensional, no columns.
    """
    classes = type(values).__mro__  # of a Parameter or another subclass, too
    is_torch = any(c.__module__.partition(".")[0] == "torch" for c in classes) and hasattr(values, "untyped_storage")
    in_memory = True
    if is_torch:
        tensor = cast("torch.Tensor", values)
        if tensor.device.type == "cuda":
            kind = _kind(tensor.dtype, name)
            return replace(_of(name, tensor.detach(), tuple(tensor.shape), kind, True, True), device=str(tensor.device))
        kind, source = _from_torch(tensor, name)
    elif isinstance(values, np.ndarray):
        kind, source = _kind(values.dtype.name, name), values
    elif isinstance(values, SupportsDLPack):
        if values.__dlpack_device__()[0] == _DLPACK_CUDA:
            import torch

            return as_rows(torch.utils.dlpack.from_dlpack(values), name)
        kind, source = _from_dlpack(values, name)
    elif isinstance(values, Blocks):
        return _of(name, values, tuple(values.shape), _kind(values.dtype, name), False, False)
    else:
        raise TypeError(
            f"{name} must be an array, tensor or blocks with shape, dtype and slices; got {type(values).__name__}: "
            "pass numpy.asarray(..., numpy.float32)"
        )
    array = source.view(np.uint16) if kind == "bfloat16" and source.dtype.itemsize == 2 else source
    return _of(name, array, array.shape, kind, in_memory, is_torch)


def _of(name: str, source: object, shape: tuple[int, ...], kind: Kind, in_memory: bool, is_torch: bool) -> Rows:
    if len(shape) != 2 or shape[1] < 1:
        raise ValueError(
            f"{name} must have shape (rows, width) with a width of at least 1; got {tuple(shape)}: reshape it"
        )
    return Rows(name, source, int(shape[0]), int(shape[1]), kind, in_memory, is_torch)


def _from_torch(tensor: torch.Tensor, name: str) -> tuple[Kind, npt.NDArray[np.generic]]:
    import torch

    kind = _kind(tensor.dtype, name)
    if tensor.device.type != "cpu":
        raise TypeError(f"{name} is on {tensor.device}; pass {name}.cpu(), or give it on a CUDA device")
    tensor = tensor.detach().as_subclass(torch.Tensor)
    return kind, (tensor.view(torch.uint16) if kind == "bfloat16" else tensor).numpy()


def _from_dlpack(values: SupportsDLPack, name: str) -> tuple[Kind, npt.NDArray[np.generic]]:
    try:
        source = np.from_dlpack(values)  # type: ignore[arg-type]
    except (RuntimeError, BufferError, TypeError) as unknown:  # bfloat16 is none of NumPy's
        try:
            import torch

            return _from_torch(torch.utils.dlpack.from_dlpack(values), name)
        except (ImportError, RuntimeError, BufferError) as error:
            raise TypeError(
                f"{name} cannot be read by DLPack ({unknown}): give a NumPy array or a torch tensor of float32, "
                "float16, bfloat16 or int8"
            ) from error
    return _kind(source.dtype.name, name), source


def check_sides(a: Rows, b: Rows) -> None:
    """Raises ValueError where the two are not of one width."""
    if a.width != b.width:
        raise ValueError(
            f"{a.name} has {a.width} columns and {b.name} {b.width}; give embeddings of one model to both sides"
        )


def refuse_row(name: str, row: int, *, finite: bool) -> NoReturn:
    """Raises the ValueError of a row that cannot be searched with."""
    what = "zero" if finite else "not finite"
    raise ValueError(
        f"{name} row {row} is {what}: leave such rows out, or pass invalid='skip' so that they match nothing"
    )


def check_metric(metric: object) -> Metric:
    if metric not in ("ip", "cos", "l2"):
        raise ValueError(f"metric must be 'ip', 'cos' or 'l2'; got {metric!r}: use one of these")
    return metric


def check_invalid(invalid: object) -> bool:
    """Whether rows that are not finite are skipped."""
    if invalid not in ("raise", "skip"):
        raise ValueError(f"invalid must be 'raise' or 'skip'; got {invalid!r}: use one of these")
    return invalid == "skip"


def restore(array: npt.NDArray[np.generic], *, as_torch: bool) -> npt.NDArray[np.generic]:
    """A result as the kind of array that was given: NumPy, or torch sharing its memory."""
    if not as_torch:
        return array
    import torch

    return torch.from_numpy(array)  # type: ignore[return-value]
