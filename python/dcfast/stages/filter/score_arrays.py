"""Part of stage ``filter``: scores of one's own in NumPy files, by uid or in the order of the metadata's rows.

By uid: an npz with arrays ``uid`` and the scores, or an npy of records of two u8 (the uid) and a float. By row: a
folder with an npy, or an npz, of the name of each metadata file.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from dcfast.engine.piece import piece
from dcfast.errors import PoolError
from dcfast.filters.rules import Numbers
from dcfast.filters.score_sources import ScoreFile
from dcfast.index.metadata import count_metadata_rows
from dcfast.index.pool import list_parquet
from dcfast.rundir.layout import score_name, score_path
from dcfast.rundir.run_dir import Run
from dcfast.stages.filter.score_columns import ScoreColumns, Scored, scored_of
from dcfast.stages.runner import Do
from dcfast.storage.npz import Array, iterate_npz, load_array, npz_arrays, save_array
from dcfast.storage.paths import absolute
from dcfast.uids.files import uid_records
from dcfast.uids.sets import UID_DTYPE, uid_parse

SUFFIXES = (".npz", ".npy")
_ROWS_AT_ONCE = 65_536


def is_array_file(path: str) -> bool:
    return path.lower().endswith(SUFFIXES)


def is_by_row(file: ScoreFile) -> bool:
    """Whether a score file is a folder of NumPy files, in the order of the metadata's rows.

    PoolError: there are parquet files in it too, so that one kind would be left out.
    """
    root = absolute(file.path)
    if not os.path.isdir(root):
        return False
    arrays, tables = sorted(filter(is_array_file, os.listdir(root))), list_parquet(root)
    if arrays and tables:
        raise PoolError(
            f"score folder {root} has NumPy files ({arrays[0]}) and parquet files ({tables[0]}): expected one kind; "
            "give a folder with one of them, or name one file (a column of the metadata is column(NAME))"
        )
    return bool(arrays)


def _refuse(path: str, column: str, found: str) -> PoolError:
    what = f"arrays 'uid' and {column!r} of one length" if path.lower().endswith(".npz") else "records"
    return PoolError(
        f"score file {path}: expected {what}, uids as two u8 or 32 hex digits, scores as floats; got "
        f"{found}; write it so, or name the scores by column=NAME"
    )


def _npz_shapes(path: str, column: str) -> tuple[Array, Array]:
    arrays = npz_arrays(path)
    missing = [name for name in ("uid", column) if name not in arrays]
    if missing:
        raise _refuse(path, column, f"the arrays {', '.join(arrays) or 'none'}")
    uid, score = arrays["uid"], arrays[column]
    is_uid = uid.dtype == UID_DTYPE or uid.dtype.kind in "SU"
    if len(uid.shape) != 1 or uid.shape != score.shape or not is_uid or score.dtype.kind != "f":
        raise _refuse(path, column, f"{uid.dtype} of shape {uid.shape} and {score.dtype} of shape {score.shape}")
    return uid, score


def _npy_records(path: str, column: str) -> tuple[npt.NDArray[np.void], str]:
    """The records of an npy, mapped, and the field of their scores."""
    array = load_array(path, mmap=True)
    fields = dict(array.dtype.fields or {})
    names = list(fields)
    field = column if column in fields else names[2] if len(names) == 3 else ""
    kinds = [fields[name][0] for name in names]
    if array.ndim != 1 or not field or kinds[:2] != [np.dtype("<u8")] * 2 or fields[field][0].kind != "f":
        raise _refuse(path, column, f"{array.dtype} of shape {array.shape}")
    return array, field


def array_facts(path: str, column: str) -> tuple[int, np.dtype[np.generic]]:
    """Rows and dtype of the scores of an npz or npy.   PoolError, CorruptDataError: it is none of scores."""
    if path.lower().endswith(".npz"):
        _, score = _npz_shapes(path, column)
        return score.shape[0], score.dtype
    array, field = _npy_records(path, column)
    return len(array), array.dtype[field]


def array_batches(path: str, column: str) -> Iterator[npt.NDArray[np.void]]:
    """Records of uid and score (its bits as float64), in the order of the file; PoolError where a uid is none."""
    at = 0
    for uids, valid, scores in _batches(path, column):
        if not valid.all():
            row = at + int(np.flatnonzero(~valid)[0])
            raise PoolError(f"score file {path}, row {row}: expected a uid of 32 hex digits; write it so")
        yield uid_records(uids, scores.astype(np.float64).view(np.uint64))
        at += len(uids)


def _batches(path: str, column: str) -> Iterator[tuple[npt.NDArray[np.void], npt.NDArray[np.bool_], Numbers]]:
    if path.lower().endswith(".npz"):
        pairs = zip(iterate_npz(path, "uid", _ROWS_AT_ONCE), iterate_npz(path, column, _ROWS_AT_ONCE), strict=True)
        for uids, scores in pairs:
            if uids.dtype == UID_DTYPE:
                yield uids, np.ones(len(uids), np.bool_), scores
            else:
                yield *uid_parse(uids, errors="mask", threads=1), scores
        return
    array, field = _npy_records(path, column)
    high, low = (array.dtype.names or ())[:2]
    for begin in range(0, len(array), _ROWS_AT_ONCE):
        part = array[begin : begin + _ROWS_AT_ONCE]
        uids = np.empty(len(part), UID_DTYPE)
        uids["f0"], uids["f1"] = part[high], part[low]
        yield uids, np.ones(len(part), np.bool_), part[field]


def _row_file(folder: str, metadata: str) -> str:
    """The NumPy file of a metadata file's scores. PoolError: there is none, or there are two."""
    paths = [os.path.join(folder, Path(metadata).stem + suffix) for suffix in SUFFIXES]
    found = [path for path in paths if os.path.isfile(path)]
    if not found:
        raise PoolError(
            f"score folder {folder} has no {Path(metadata).stem}.npy or .npz, the scores of the rows of "
            f"{Path(metadata).name}: it is of another pool; write one a metadata file"
        )
    if len(found) > 1:
        names = " and ".join(map(os.path.basename, found))
        raise PoolError(f"score folder {folder}: expected one of {names}; remove one")
    return found[0]


def _check_rows(path: str, column: str, rows: int) -> None:
    """By the headers alone: a file of a few kilobytes may grow to gigabytes. PoolError: they are not a float a row."""
    if path.endswith(".npz"):
        arrays = npz_arrays(path)
        if column not in arrays:
            raise PoolError(
                f"score file {path} has no array {column!r} ({', '.join(arrays) or 'none'}); name the scores by "
                "column=NAME"
            )
        array = arrays[column]
    else:
        mapped = load_array(path, mmap=True)
        array = Array(mapped.shape, mapped.dtype)
    if array.shape != (rows,) or array.dtype.kind != "f":
        raise PoolError(
            f"score file {path}: expected floats, one for each of the {rows:,} rows of the metadata of its name; got "
            f"{array.dtype} of shape {array.shape}; it is of another pool: write it for this one"
        )


def _row_scores(path: str, column: str, rows: int) -> Numbers:
    _check_rows(path, column, rows)
    if not path.endswith(".npz"):
        return load_array(path)
    return np.concatenate([np.empty(0, np.float16), *iterate_npz(path, column)])


def check_by_row(run: Run, file: ScoreFile) -> None:
    """PoolError where a metadata file has no scores, or others than one a row, by all headers, before any work."""
    for metadata in run.pool.metadata:
        _check_rows(_row_file(absolute(file.path), metadata), file.column, count_metadata_rows(metadata))


@piece(native=True)
def copy_by_row(out: Path, key: str, files: Sequence[str], folder: str, column: str) -> Scored:
    """Piece: the scores of some metadata files, float64, from NumPy files of their names."""
    done = []
    for path in files:
        rows = count_metadata_rows(str(out / path))
        scores = _row_scores(_row_file(folder, path), column, rows).astype(np.float64)
        save_array(out / score_path(key, path), scores)
        done.append(scored_of(scores))
    return Scored.sum(done)


def make_by_row(run: Run, do: Do, file: ScoreFile) -> ScoreColumns:
    """The columns of a score file whose rows are those of the metadata."""
    folder = absolute(file.path)
    stats = do(
        copy_by_row.piece(
            f"filter/scores-{score_name(file.key)}",
            f"{group:05d}",
            inputs=[*files, *(_row_file(folder, path) for path in files)],
            outputs=[score_path(file.key, path) for path in files],
        )(key=file.key, files=files, folder=folder, column=file.column)
        for group, (_, files) in enumerate(run.metadata_groups())
    )
    return ScoreColumns.of(file, "float64", stats)
