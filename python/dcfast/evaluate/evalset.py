"""One evaluation set on disk: its pictures by offset, its labels, captions, metadata and riddles, all checked.

Everything but the pictures is read when the set is opened, so that what is wrong with a set is known before any model
has done any work. Memory: about 150 bytes a picture, and the captions.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from dcfast.access.reader import PoolReader
from dcfast.errors import EvalsetError, did_you_mean
from dcfast.evaluate.folders import COUNT_FILE, count_remark, list_set_tars
from dcfast.evaluate.hub import hub_files
from dcfast.evaluate.hub_set import check_hub_set, hub_set_files, read_hub_set
from dcfast.evaluate.opened import EvalSet, Riddle
from dcfast.evaluate.pictures import FilePictures
from dcfast.evaluate.tasks import DEFAULT_METRICS, EvalTask
from dcfast.index.build import index_tars
from dcfast.models.captions import MAX_CAPTION_BYTES
from dcfast.storage.inputs import open_input
from dcfast.storage.lines import read_lines, split_lines
from dcfast.storage.npz import parse_array
from dcfast.storage.records import Record, read_record, replaced

if TYPE_CHECKING:
    from dcfast.index.build import TarIndex
    from dcfast.index.segments import Segment


CLASS_FILE = "classnames.txt"
TEMPLATE_FILE = "zeroshot_classification_templates.txt"
TYPE_FILE = "dataset_type.txt"
RIDDLE_FILE = "riddles.json"
SMALL_FILES = (CLASS_FILE, TEMPLATE_FILE, TYPE_FILE, RIDDLE_FILE, f"test/{COUNT_FILE}")
PLACEHOLDER = "{c}"
MAX_LABEL_BYTES = 64
MAX_LABEL = 1_000_000
_MAX_VECTOR_BYTES = 1 << 16
_READ_TOGETHER = 64 << 20  # bytes of members
MOST_PROMPTS = 4_000_000
"""Class names times templates of a set, each a text for the model; ImageNet-21k with CLIP's 80 has 1,747,280."""
MOST_PROMPT_CHARACTERS = 16_384


def _lines(path: Path, what: str) -> tuple[list[str], list[int]]:
    """The lines that are not blank, stripped, and the numbers of those that are, but for the last."""
    try:
        lines = [line.strip() for line in read_lines(path)]
    except FileNotFoundError:
        raise EvalsetError(f"{path.parent}: it has no {path.name}; {what}") from None
    except UnicodeDecodeError as error:
        raise EvalsetError(f"{path} is not UTF-8 (byte {error.start}); save it as UTF-8") from None
    while lines and not lines[-1]:
        lines.pop()
    if not lines:
        raise EvalsetError(f"{path} is empty; {what}")
    return [line for line in lines if line], [number for number, line in enumerate(lines, 1) if not line]


def class_names(folder: Path) -> tuple[list[str], list[str], list[str]]:
    """Class names, templates, and what is odd about them, in words; EvalsetError names the file and the line.

    A blank line is no class, as for CLIP_benchmark 1.4.0: what follows it has a lower number, and CLEVR's last label
    (the published list has an empty name) is never right. The published scores of that set are of this kind.
    """
    classes, blank = _lines(folder / CLASS_FILE, "expected one class name a line, in the order of the labels")
    remarks = [f"{CLASS_FILE}, line {number} is blank, so those behind it count one less" for number in blank]
    templates, _ = _lines(folder / TEMPLATE_FILE, f"expected one prompt a line, with {PLACEHOLDER} for the class name")
    for number, template in enumerate(templates, start=1):
        if PLACEHOLDER not in template:
            raise EvalsetError(f"{folder / TEMPLATE_FILE}, line {number} has no {PLACEHOLDER}: {template[:80]!r}")
    if (count := len(classes) * len(templates)) > MOST_PROMPTS:
        raise EvalsetError(
            f"{folder}: {len(classes):,} class names with {len(templates):,} templates are {count:,} prompts; expected "
            f"at most {MOST_PROMPTS:,}: shorten {CLASS_FILE} or {TEMPLATE_FILE}"
        )
    name = max(map(len, classes))
    longest = max(len(template) + template.count(PLACEHOLDER) * name for template in templates)
    if longest > MOST_PROMPT_CHARACTERS:
        raise EvalsetError(
            f"{folder}: a prompt of {longest:,} characters; expected at most {MOST_PROMPT_CHARACTERS:,}: shorten the "
            f"longest line of {CLASS_FILE} or {TEMPLATE_FILE}"
        )
    return classes, templates, remarks


def _shards(folder: Path) -> list[str]:
    listing = list_set_tars(folder)
    if not listing.names:
        todo = f"download the set again, or remove the directory{listing.hint}"
        raise EvalsetError(f"{folder}: it holds no test/*.tar; {todo}")
    return [os.path.abspath(folder / "test" / name) for name in listing.names]


def _data_files(folder: Path) -> list[str]:
    return hub_set_files(folder) if hub_files(folder) else _shards(folder)


def _stated_kind(task: EvalTask, folder: Path) -> str:
    """The kind by the table or the directory's own files; empty where only the members can tell."""
    if task.kind:
        return task.kind
    if (folder / TYPE_FILE).exists():
        expected = f"expected one of {', '.join(DEFAULT_METRICS)}"
        stated = _lines(folder / TYPE_FILE, expected)[0][0]
        if stated not in DEFAULT_METRICS:
            hint = did_you_mean(stated[:80], DEFAULT_METRICS)
            raise EvalsetError(f"{folder / TYPE_FILE}: {expected}; got {stated[:80]!r}{hint}")
        return stated
    if (folder / CLASS_FILE).exists():
        return "classification"
    return "association" if (folder / RIDDLE_FILE).exists() else ""


def check_evalset(task: EvalTask, folder: Path) -> None:
    """What can be known without reading a shard: tars, class names, templates, riddles are there and well-formed."""
    if hub_files(folder):
        check_hub_set(task, folder)  # reads no row
        return
    _shards(folder)
    kind = _stated_kind(task, folder)
    if kind in ("classification", "wilds", "fairness", "fairness_multilabel"):
        class_names(folder)
    if kind == "association":
        _raw_riddles(folder)


def evalset_files(folder: Path) -> list[str]:
    """Every file of a set that its scores depend on, tars first."""
    return [*_data_files(folder), *(str(folder / name) for name in SMALL_FILES if (folder / name).is_file())]


def set_fingerprint(task: EvalTask, folder: Path) -> str:
    """SHA-256 of how the set is scored, its small files' content, and names, sizes and times of its other files."""
    digest = hashlib.sha256(repr(task).encode("utf-8", "surrogateescape"))
    for name in SMALL_FILES:
        path = folder / name
        digest.update(name.encode() + b"\0")
        if path.is_file():
            with open_input(path) as small:
                while block := small.read(1 << 20):
                    digest.update(block)
        else:
            digest.update(b"absent")
        digest.update(b"\0")
    for file in _data_files(folder):
        status = os.stat(file)
        digest.update(f"{os.path.basename(file)}\0{status.st_size}\0{status.st_mtime_ns}\0".encode())
    return digest.hexdigest()


def _damage(index: TarIndex, folder: Path, tars: list[str]) -> list[str]:
    names = [os.path.basename(tar) for tar in tars]
    notes = [
        f"{names[loss.shard]}{' is damaged at' if loss.archive else ','} byte {loss.offset}: {loss.message}"
        for loss in index.segment.losses
    ]
    return notes + [f"{COUNT_FILE} {remark}" for remark in count_remark(folder / "test", len(tars))]


def open_evalset(task: EvalTask, folder: Path, *, threads: int = 1) -> EvalSet:
    """Indexes and reads a set, pictures aside: of shards, or of the hub (``dcfast.evaluate.hub``).

    Raises:
        EvalsetError: no tars, no class names, labels that are no numbers, bad metadata or riddles, nothing to score;
            with the directory, the sample and what was expected.
    """
    fingerprint = set_fingerprint(task, folder)
    if hub_files(folder):
        evalset = read_hub_set(task, folder)
        evalset.fingerprint = fingerprint
        return evalset
    tars = _shards(folder)
    index = index_tars(tars, threads=threads)
    segment = index.segment
    extensions = {segment.exts_lower[number] for number in np.unique(segment.member_ext())}
    kind = _stated_kind(task, folder) or ("classification" if "cls" in extensions else "retrieval")
    task = replaced(task, kind=kind, main_metric=task.main_metric or DEFAULT_METRICS.get(kind, ""))
    pictures = FilePictures(tars, segment.key, *segment.image_places())
    evalset = EvalSet(task, folder, pictures, np.arange(segment.num_samples), fingerprint=fingerprint)
    evalset.keep(pictures.file >= 0, "without a picture")
    evalset.notes = _damage(index, folder, tars)
    evalset.remarks = list_set_tars(folder).notes
    if kind == "retrieval":
        _read_captions(evalset, segment)
    elif kind == "association":
        evalset.riddles = _riddles(evalset)
    else:
        _read_labels(evalset, segment, needs_labels=kind != "fairness_multilabel")
    evalset.check_not_empty()
    return evalset


def _members(evalset: EvalSet, segment: Segment, extension: str, most: int) -> Iterator[memoryview | None]:
    """The members of an extension by row; of one that is longer than ``most`` bytes, one byte more than that."""
    with PoolReader(None, [segment], verify=False) as reader:
        located = reader.locate(evalset.rows, extension, numbering="sample", missing_members="none").cut(most + 1)
        for members in located.batches(_READ_TOGETHER):
            yield from reader.read_located(members, single=True, threads=1)


def _read_labels(evalset: EvalSet, segment: Segment, *, needs_labels: bool) -> None:
    evalset.classes, evalset.templates, odd = class_names(evalset.folder)
    evalset.remarks += odd
    if needs_labels:
        members = _members(evalset, segment, "cls", MAX_LABEL_BYTES)
        labels = [_label(evalset, row, member) for row, member in enumerate(members)]
        evalset.keep(np.array([label is not None for label in labels], dtype=bool), "without a label")
        evalset.labels = np.array([label for label in labels if label is not None], dtype=np.int64)
        # a label that no class has is a wrong answer, as for CLIP_benchmark
        beyond = np.flatnonzero(evalset.labels >= len(evalset.classes))
        if len(beyond):
            first = int(beyond[0])
            evalset.remarks.append(
                f"{len(beyond):,} of {len(evalset.labels):,} samples have a label that {CLASS_FILE} has no class for "
                f"({evalset.key(first)} has {evalset.labels[first]}; its {len(evalset.classes)} classes are 0 to "
                f"{len(evalset.classes) - 1}): every answer to them is wrong"
            )
    if evalset.task.group_field or not needs_labels:
        _read_metadata(evalset, segment)


def _label(evalset: EvalSet, row: int, member: memoryview | None) -> int | None:
    if member is None:
        return None
    text = bytes(member[:MAX_LABEL_BYTES]).decode("ascii", "replace").strip()
    if not re.fullmatch(r"-?[0-9]{1,18}", text):
        raise EvalsetError(
            f"{evalset.folder}: the cls of sample {evalset.key(row)} must be a number; got {text[:40]!r}"
        )
    if not 0 <= int(text) <= MAX_LABEL:
        raise EvalsetError(
            f"{evalset.folder}: sample {evalset.key(row)} has label {text}; expected the number of a class, from 0 "
            f"({CLASS_FILE} names {len(evalset.classes)})"
        )
    return int(text)


def _read_metadata(evalset: EvalSet, segment: Segment) -> None:
    fields = len(evalset.task.metadata_fields)
    vectors: dict[int, npt.NDArray[np.generic]] = {}
    for row, member in enumerate(_members(evalset, segment, "npy", _MAX_VECTOR_BYTES)):
        if member is None:
            continue
        try:
            vector = parse_array(member)
        except ValueError as error:
            raise EvalsetError(
                f"{evalset.folder}: the npy of sample {evalset.key(row)} cannot be read: {error}"
            ) from None
        if vector.shape != (fields,) or vector.dtype.kind not in "iuf":
            raise EvalsetError(
                f"{evalset.folder}: the npy of sample {evalset.key(row)} must hold {fields} numbers "
                f"({', '.join(evalset.task.metadata_fields)}); got {vector.dtype} of shape {vector.shape}"
            )
        vectors[row] = vector
    evalset.keep(np.isin(np.arange(len(evalset.rows)), list(vectors)), "without metadata")
    evalset.metadata = np.stack(list(vectors.values())) if vectors else None


def _read_captions(evalset: EvalSet, segment: Segment) -> None:
    captions: list[list[str]] = []
    endless = np.zeros(len(evalset.rows), bool)
    for row, member in enumerate(_members(evalset, segment, "txt", MAX_CAPTION_BYTES)):
        endless[row] = member is not None and len(member) > MAX_CAPTION_BYTES
        text = "" if member is None or endless[row] else bytes(member).decode("utf-8", "replace")
        captions.append([line.strip() for line in split_lines(text) if line.strip()])
    evalset.keep(~endless, f"with captions of more than {MAX_CAPTION_BYTES:,} bytes")
    evalset.keep(np.array([bool(lines) for lines in captions], dtype=bool)[~endless], "without a caption")
    evalset.captions = [lines for lines in captions if lines]


MOST_RIDDLE_BYTES = 64 << 20


class _RiddleKeys(Record):
    """A riddle as its file has it: keys of pictures."""

    cue: str
    candidates: list[str]
    associations: list[str]


def _raw_riddles(folder: Path) -> list[_RiddleKeys]:
    path = folder / RIDDLE_FILE
    try:
        riddles = read_record(path, list[_RiddleKeys], most=MOST_RIDDLE_BYTES, names=False)
    except FileNotFoundError:
        raise EvalsetError(
            f"{folder}: it has no {RIDDLE_FILE}; expected a list of cue, candidates, associations"
        ) from None
    except ValueError as error:
        raise EvalsetError(str(error)) from None
    if not riddles:
        raise EvalsetError(f"{path}: expected a list of riddles, at least one")
    for number, riddle in enumerate(riddles):
        repeats = any(len(set(keys)) < len(keys) for keys in (riddle.candidates, riddle.associations))
        if repeats or not riddle.cue.strip() or not set() < set(riddle.associations) <= set(riddle.candidates):
            raise EvalsetError(
                f"{path}, riddle {number}: expected a cue, candidates (different keys) and associations among them"
            )
    return riddles


def _riddles(evalset: EvalSet) -> list[Riddle]:
    row_of: dict[str, int] = {}
    for row in range(len(evalset.rows)):
        if row_of.setdefault(evalset.key(row), row) != row:
            raise EvalsetError(f"{evalset.folder}: two pictures have the key {evalset.key(row)}; riddles need it once")
    riddles = []
    for number, riddle in enumerate(_raw_riddles(evalset.folder)):
        unknown = [key for key in riddle.candidates if key not in row_of]
        if unknown:
            raise EvalsetError(
                f"{evalset.folder / RIDDLE_FILE}, riddle {number}: no picture in test/*.tar has the key {unknown[0]!r}"
            )
        rows = tuple(row_of[key] for key in riddle.candidates)
        riddles.append(Riddle(riddle.cue.strip(), rows, frozenset(row_of[key] for key in riddle.associations)))
    return riddles
