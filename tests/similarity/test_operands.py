"""Rows as they come: byte orders, strides, DLPack, subclasses of tensors, thresholds without an end."""

from __future__ import annotations

import dcfast
import numpy as np
import pytest
import torch
from dcfast._core import similarity as core_similarity
from dcfast.similarity.operands import as_rows
from similarity_oracle import clustered


class Slices:
    """Blocks that say one dtype and give another byte order."""

    def __init__(self, array: np.ndarray, dtype: object) -> None:
        self.array, self.shape, self.dtype = array, array.shape, dtype

    def __getitem__(self, rows: slice) -> np.ndarray:
        return self.array[rows]


class Exported:
    """What knows nothing but DLPack."""

    def __init__(self, tensor: torch.Tensor) -> None:
        self.tensor = tensor

    def __dlpack__(self, **options: object) -> object:
        return self.tensor.__dlpack__(**options)

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.tensor.__dlpack_device__()


class Tagged(torch.Tensor):
    pass


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_another_byte_order(dtype: str) -> None:
    a, b = clustered(20, 8, 1).astype(dtype), clustered(30, 8, 2).astype(dtype)
    swapped = b.astype(b.dtype.newbyteorder(">"))
    expected = dcfast.topk(a, b, 3)
    for database in (swapped, Slices(swapped, dtype), Slices(swapped, swapped.dtype), dcfast.Database(swapped)):
        found = dcfast.topk(a.astype(a.dtype.newbyteorder(">")), database, 3)
        assert np.array_equal(found.indices, expected.indices)
        assert np.array_equal(found.scores, expected.scores)
    with pytest.raises(ValueError, match="byte order"):
        core_similarity.PackedDatabase(swapped, dtype, 1)


def test_strides_that_step_over_nothing() -> None:
    x = clustered(9, 3, 1)
    record = np.zeros(1, np.dtype([("tag", "u1"), ("row", "f4", 3)]))
    record["row"] = x[:1]
    assert dcfast.topk(record["row"], x, 1).indices.tolist() == dcfast.topk(x[:1], x, 1).indices.tolist()
    odd = np.lib.stride_tricks.as_strided(x[:1], (1, 3), (7, 4))
    assert dcfast.topk(odd, x, 1).indices.tolist() == dcfast.topk(x[:1], x, 1).indices.tolist()
    assert len(dcfast.join(np.asfortranarray(x)[:0], x, 0.5).ia) == 0
    assert len(dcfast.join(x, np.asfortranarray(x)[:0], 0.5).ia) == 0


def test_bfloat16_by_dlpack() -> None:
    x = torch.from_numpy(clustered(20, 8, 1)).bfloat16()
    expected = dcfast.topk(x, x, 3)
    found = dcfast.topk(Exported(x), Exported(x), 3)
    assert isinstance(found.indices, np.ndarray)
    assert np.array_equal(found.indices, expected.indices.numpy())
    with pytest.raises(TypeError, match="queries must be float32"):
        dcfast.topk(Exported(x.double()), x, 1)
    with pytest.raises(TypeError, match="queries"):
        dcfast.topk(Exported(x.to(torch.float8_e5m2)), x, 1)


def test_subclasses_of_tensors() -> None:
    x = torch.from_numpy(clustered(20, 8, 1))
    for given in (torch.nn.Parameter(x), x.as_subclass(Tagged)):
        found = dcfast.topk(given, given, 1)
        assert type(found.indices) is torch.Tensor
        assert torch.equal(found.indices, dcfast.topk(x, x, 1).indices)
        assert as_rows(given, "x").is_torch


def test_thresholds_without_an_end() -> None:
    x = clustered(20, 8, 1)
    for metric in ("ip", "cos", "l2"):
        all_of_them, none = (np.inf, -np.inf) if metric == "l2" else (-np.inf, np.inf)
        assert len(dcfast.join(x, x, all_of_them, metric=metric).ia) == 400
        assert len(dcfast.join(x, x, none, metric=metric).ia) == 0
        assert not dcfast.any_above(x, x, none, metric=metric).any()
    long = np.array([[1e30], [1.0]], np.float32)
    assert dcfast.join(long, long, np.inf).ia.tolist() == [0]
    assert dcfast.any_above(long, long, np.inf).tolist() == [True, False]


def test_what_is_prepared_is_counted_as_it_lies() -> None:
    narrow = dcfast.Database(np.lib.stride_tricks.as_strided(np.zeros(1, np.int8), (30_000_000, 1), (0, 1)))
    assert not narrow.is_kept  # 100 bytes a row: 3 GB
