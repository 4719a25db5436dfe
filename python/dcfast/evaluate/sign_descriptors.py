"""A signature file of descriptors alone, of pictures that nobody has: DataComp's ``eval_dedup_embeddings.pt``.

It holds ISC's descriptors of DataComp's evaluation pictures, (n, 256), with which DataComp compared its pools. Which
picture a row is, it does not say: evidence names the file and the row.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from dcfast.dedup.records import ABSENT, SIGNATURE_DTYPE
from dcfast.dedup.signature_file import DescriptorInfo, Rows, SignedSet, signature_writer
from dcfast.dedup.thresholds import LENGTH_TOLERANCE
from dcfast.errors import EvalsetError
from dcfast.models.checkpoint import read_tensor
from dcfast.models.descriptors import ISC_DIM, ISC_NAME
from dcfast.storage.npz import load_array

_BATCH = 65_536


def sign_descriptors(file: Path, out: Path) -> SignedSet:
    """Writes ISC's descriptors of a file (``.npy``, or a tensor as ``torch.save`` writes it) as a set of its name.

    Raises:
        EvalsetError: other numbers or another shape; a row that is not finite, or not of length 1.
        CorruptDataError: cut off or damaged.   OSError: it cannot be read.
    Memory: the file, once.
    """
    array: npt.NDArray[np.generic] = load_array(file) if file.suffix == ".npy" else read_tensor(file)
    if array.ndim != 2 or array.shape[1] != ISC_DIM or array.dtype.kind != "f":
        raise EvalsetError(
            f"{file} holds {array.dtype} of shape {array.shape}; expected ISC's descriptors, floats of shape "
            f"(n, {ISC_DIM}): give that file, or a directory of evaluation sets"
        )
    vectors = array.astype(np.float32)
    bad = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
    if len(bad):
        raise EvalsetError(f"{file}: row {bad[0]} is not finite; leave such rows out")
    length = np.sqrt(np.einsum("ij,ij->i", vectors, vectors, dtype=np.float64))
    off = np.flatnonzero((np.abs(length - 1) > LENGTH_TOLERANCE) & (length > 0))
    if len(off):
        raise EvalsetError(f"{file}: row {off[0]} has length {length[off[0]]:.3g}, not 1; divide rows by their lengths")

    with signature_writer(out, [DescriptorInfo(ISC_NAME, "", ISC_DIM)]) as writer:
        starts = range(0, len(vectors), _BATCH)
        return writer.add_set(file.stem, [_rows(file.name, vectors, start) for start in starts])


def _rows(name: str, vectors: npt.NDArray[np.float32], start: int) -> Rows:
    import pyarrow as pa

    block = vectors[start : start + _BATCH]
    records = np.zeros(len(block), SIGNATURE_DTYPE)
    records["status"] = ABSENT
    keys = pa.array([f"row {row}" for row in range(start, start + len(block))], pa.string())
    return Rows(np.zeros(len(block), np.int64), pa.array([name] * len(block), pa.string()), keys, records, [block])
