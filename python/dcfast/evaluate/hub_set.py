"""Reads an evaluation set of Hugging Face's hub: retrieval pairs and WinoGAViL's riddles, of Arrow caches and parquet.

The columns are those of ``nlphuji``'s sets: ``image`` and ``caption``; or ``cue``, ``candidates``, ``associations`` and
``candidate_images``. A picture is its bytes, or, as the loading scripts of before 2024 left it, the path of a file that
was extracted below ``hf_cache/downloads``; the path counts from there, wherever the folder has been moved. No path that
leads out of the cache is followed. Memory: the texts, and 30 bytes a picture.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from functools import cache, cached_property, partial
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar, get_type_hints

import msgspec
import numpy as np

from dcfast.errors import CorruptDataError, EvalsetError
from dcfast.evaluate.hub import CACHE, INFO, SPLIT, hub_files, missing_parts
from dcfast.evaluate.opened import EvalSet, Riddle
from dcfast.evaluate.pictures import TO_THE_END, Batch, FilePictures, Ints, Pictures, batches_of
from dcfast.evaluate.tasks import DEFAULT_METRICS, EvalTask
from dcfast.images.costs import BadImage
from dcfast.models.captions import MAX_CAPTION_BYTES
from dcfast.storage.arrow import ArrowStream, binary_spans
from dcfast.storage.json_files import read_json
from dcfast.storage.parquet import Kind, ParquetFile
from dcfast.storage.records import Record, replaced

if TYPE_CHECKING:
    import pyarrow as pa

KIND = Kind("evaluation set", "download the set again", CorruptDataError)
PICTURES = {"retrieval": "image", "association": "candidate_images"}
_EXTRACTED = "/downloads/extracted/"


class Pair(Record):
    """The texts of a row of retrieval; anything in it may be null."""

    caption: str | list[str | None] | None


class RiddleRow(Record):
    """The texts of a row of riddles."""

    cue: str | None
    candidates: list[str | None] | None
    associations: list[str | None] | None


Row = TypeVar("Row", Pair, RiddleRow)


def _is_text(kind: pa.DataType) -> bool:
    return str(kind) in ("string", "large_string")


def _is_picture(kind: pa.DataType) -> bool:
    if not str(kind).startswith("struct<"):
        return False
    inner = {field.name: field.type for field in kind}
    return str(inner.get("bytes")) in ("binary", "large_binary") and ("path" not in inner or _is_text(inner["path"]))


def _is_list(kind: pa.DataType, of: Callable[[pa.DataType], bool]) -> bool:
    return str(kind).startswith(("list<", "large_list<")) and of(kind.value_type)


COLUMNS: dict[str, dict[str, tuple[str, Callable[[pa.DataType], bool]]]] = {
    "retrieval": {
        "image": ("pictures (a struct of bytes and path)", _is_picture),
        "caption": ("a text or a list of texts", lambda kind: _is_text(kind) or _is_list(kind, _is_text)),
    },
    "association": {
        "cue": ("a text", _is_text),
        "candidates": ("a list of texts", partial(_is_list, of=_is_text)),
        "associations": ("a list of texts", partial(_is_list, of=_is_text)),
        "candidate_images": ("a list of pictures (structs of bytes and path)", partial(_is_list, of=_is_picture)),
    },
}


def _schema(file: Path) -> pa.Schema:
    if file.suffix == ".arrow":
        return ArrowStream(file).schema
    with ParquetFile(file, KIND) as opened:
        return opened.schema


def check_hub_set(task: EvalTask, folder: Path) -> _Opened:
    """A set whose files are all there and have the columns, by all that can be known without reading a row;
    EvalsetError names the file, and what was expected of it."""
    files = hub_files(folder)
    if missing := missing_parts(files):
        raise EvalsetError(f"{folder}: {missing}; download the set again")
    schemas = [_schema(file) for file in files]
    kind = task.kind or ("association" if PICTURES["association"] in schemas[0].names else "retrieval")
    if kind not in COLUMNS:
        raise EvalsetError(
            f"{folder}: a set of kind {kind} is read from test/*.tar alone; its files are {files[0].name}"
        )
    for file, schema in zip(files, schemas, strict=True):
        for name, (words, holds) in COLUMNS[kind].items():
            if schema.names.count(name) != 1 or not holds(schema.field(name).type):
                got = schema.field(name).type if schema.names.count(name) == 1 else f"columns {', '.join(schema.names)}"
                raise EvalsetError(f"{file}: expected one column {name}, {words}; got {str(got)[:200]}")
    return _Opened(folder, kind, files)


def hub_set_files(folder: Path) -> list[str]:
    """Every file that the set's scores depend on, extracted pictures among them."""
    opened = check_hub_set(EvalTask(""), folder)
    for stream in map(ArrowStream, (file for file in opened.files if file.suffix == ".arrow")):
        for batch in stream.batches():
            opened.add_pictures(stream, batch.column(PICTURES[opened.kind]))
    info = folder / INFO
    return [*map(str, opened.files), *([str(info)] if info.is_file() else []), *opened.extracted]


def _batches(path: Path, columns: tuple[str, ...]) -> Iterator[tuple[ArrowStream | None, pa.RecordBatch]]:
    """The batches of a file; of a stream all columns, which take no memory, and the stream that they lie in."""
    if path.suffix == ".arrow":
        stream = ArrowStream(path)
        for batch in stream.batches():
            yield stream, batch
        return
    with ParquetFile(path, KIND) as file:
        for batch in file.batches(columns):
            yield None, batch


def _flat(pictures: pa.Array) -> tuple[pa.Array, Ints | None]:
    """The structs of a column of pictures, and how many each row has where it is a list."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if pa.types.is_struct(pictures.type):
        return pictures, None
    return pictures.flatten(), np.asarray(pc.fill_null(pc.list_value_length(pictures), 0)).astype(np.int64)


@dataclass
class _Opened:
    """What has been read of a set so far.

    Attributes:
        streams: Arrow files, in order.
        extracted: file of a picture -> its number, in order.
        places: of the pictures of each batch (file, or -2 - number of an extracted one; offset; size).
        paths: of each picture, as its row says.
        lengths: pictures of each row, batch by batch; of a list column alone.
    """

    folder: Path
    kind: str
    files: list[Path]
    streams: list[str] = field(default_factory=list)
    extracted: dict[str, int] = field(default_factory=dict)
    places: list[tuple[Ints, Ints, Ints]] = field(default_factory=list)
    paths: list[str | None] = field(default_factory=list)
    lengths: list[Ints] = field(default_factory=list)

    @cached_property
    def find_extracted(self) -> Callable[[str], str | None]:
        """``_extracted`` in the cache that the set lies in, or in its own folder; a path may come in many riddles."""
        home = next((parent for parent in self.folder.parents if parent.name == CACHE), self.folder)
        return cache(partial(_extracted, os.path.realpath(home)))

    def rows(self, kind: type[Row]) -> list[Row]:
        """The texts of all rows; where the pictures of Arrow files lie is taken down on the way."""
        rows: list[Row] = []
        columns = tuple(get_type_hints(kind))
        for file in self.files:
            for stream, batch in _batches(file, columns):
                try:
                    rows += [msgspec.convert(row, kind) for row in batch.select(columns).to_pylist()]
                except UnicodeDecodeError as error:
                    raise CorruptDataError(f"{file}: a text is not UTF-8 ({error})", path=str(file)) from None
                if stream is not None:
                    self.add_pictures(stream, batch.column(PICTURES[self.kind]))
        if not rows:
            raise EvalsetError(f"{self.folder}: nothing in it can be scored as {self.kind} (it has no rows)")
        return rows

    def add_pictures(self, stream: ArrowStream, column: pa.Array) -> None:
        import pyarrow.compute as pc

        pictures, lengths = _flat(column)
        if lengths is not None:
            self.lengths.append(lengths)
        if not self.streams or self.streams[-1] != stream.path:
            self.streams.append(stream.path)
        named = pictures.type.get_field_index("path") >= 0
        paths = pc.struct_field(pictures, "path").to_pylist() if named else [None] * len(pictures)
        offset, size = binary_spans(stream, pc.struct_field(pictures, "bytes"))
        file = np.where(size >= 0, len(self.streams) - 1, -1)
        for row in np.flatnonzero(size < 0).tolist():
            place = None if (path := paths[row]) is None else self.find_extracted(path)
            if place is not None:
                file[row] = -2 - self.extracted.setdefault(place, len(self.extracted))
                offset[row], size[row] = 0, TO_THE_END
        self.places.append((file, offset, size))
        self.paths += paths

    def take_lengths(self, lengths: list[int]) -> None:
        """How many pictures each row has by its candidates; EvalsetError where the pictures are not as many."""
        if self.lengths and not np.array_equal(np.concatenate(self.lengths), lengths):
            raise EvalsetError(f"{self.folder}: a row has not as many candidate_images as candidates")
        self.lengths = self.lengths or [np.array(lengths, np.int64)]

    def pictures(self, total: int) -> Pictures:
        def key(number: int) -> str:
            path = self.paths[number] if number < len(self.paths) else None
            return os.path.basename(path) if path else f"row {number}"

        if self.files[0].suffix != ".arrow":
            lengths = np.concatenate(self.lengths) if self.lengths else None
            return ParquetPictures(self.files, PICTURES[self.kind], key, total, lengths)
        file, offset, size = map(np.concatenate, zip(*self.places, strict=True))
        extracted = file <= -2
        file[extracted] = len(self.streams) - 2 - file[extracted]

        def why(number: int) -> str:
            path = self.paths[number]
            where = f"{CACHE}/downloads/extracted"
            return "no picture" if path is None else f"its file {os.path.basename(path)} is not in {where}"

        return FilePictures([*self.streams, *self.extracted], key, file, offset, size, why)


def _extracted(home: str, stored: str) -> str | None:
    """The file that a cache means by a path, or None: it is not there, or not within the cache."""
    _, mark, tail = f"/{stored}".rpartition(_EXTRACTED)
    for tried in ([os.path.join(home, _EXTRACTED.strip("/"), tail)] if mark else []) + [stored]:
        try:
            place = os.path.realpath(tried)
            if place.startswith(home + os.sep) and os.path.isfile(place):
                return place
        except ValueError:  # a NUL, which no name has
            continue
    return None


@dataclass(frozen=True)
class ParquetPictures:
    """Pictures in a column of parquet files, unpacked batch by batch. Memory: a batch, and the pictures in work."""

    files: list[Path]
    column: str
    key: Callable[[int], str]
    total: int
    lengths: Ints | None
    """Of an association set: pictures of each row."""

    def read(self, numbers: Ints, size: int) -> closing[Generator[Batch, None, None]]:
        """See ``dcfast.evaluate.pictures.Pictures``."""
        return closing(self._batches(numbers, size))

    def _batches(self, numbers: Ints, size: int) -> Generator[Batch, None, None]:
        pictures = self._chosen(numbers)
        for places in batches_of(len(numbers), size):
            yield places, list(islice(pictures, len(places)))
        next(pictures, None)  # what follows the last one is read, too, and counted

    def _chosen(self, numbers: Ints) -> Generator[Callable[[], bytes], None, None]:
        import pyarrow as pa
        import pyarrow.compute as pc

        seen = rows = 0
        for file in self.files:
            for _, batch in _batches(file, (self.column,)):
                pictures, lengths = _flat(batch.column(self.column))
                expected = lengths if self.lengths is None else self.lengths[rows : rows + len(batch)]
                if lengths is not None and expected is not None and not np.array_equal(lengths, expected):
                    raise CorruptDataError(f"{file}: a row has not as many {self.column} as candidates", path=str(file))
                first, end = np.searchsorted(numbers, [seen, seen + len(pictures)])
                chosen = pc.struct_field(pictures.take(pa.array(numbers[first:end] - seen)), "bytes")
                yield from [partial(_given, data) for data in chosen.to_pylist()]
                seen += len(pictures)
                rows += len(batch)
        if seen != self.total:
            raise CorruptDataError(f"{self.files[0].parent}: {self.total} pictures were expected; got {seen}")


def _given(data: bytes | None) -> bytes:
    if data is None:
        raise BadImage("broken", "no picture")
    return data


def read_hub_set(task: EvalTask, folder: Path) -> EvalSet:
    """Reads a set, pictures aside.

    Raises:
        EvalsetError: columns that lack or are of another type, riddles that make no sense, nothing to score.
        CorruptDataError: a damaged file.   OSError: it cannot be read.
    """
    opened = check_hub_set(task, folder)
    task = replaced(task, kind=opened.kind, main_metric=task.main_metric or DEFAULT_METRICS[opened.kind])
    evalset = (_riddles if opened.kind == "association" else _pairs)(task, opened)
    evalset.check_not_empty()
    return evalset


def _damage(folder: Path, rows: int) -> list[str]:
    """What the cache says of itself beside what is there."""
    try:
        stated = read_json(folder / INFO)["splits"][SPLIT]["num_examples"]
    except (OSError, ValueError, KeyError, TypeError):  # the hub's own files have none
        return []
    return [] if stated == rows else [f"{INFO} says {str(stated)[:40]} rows, but there are {rows}"]


def captions_of(given: str | list[str | None] | None) -> list[str]:
    return [given] if isinstance(given, str) else [text for text in given or [] if text is not None]


def _pairs(task: EvalTask, opened: _Opened) -> EvalSet:
    captions = [captions_of(row.caption) for row in opened.rows(Pair)]
    long = np.array([any(len(line.encode()) > MAX_CAPTION_BYTES for line in lines) for lines in captions], dtype=bool)
    absent = np.array([not lines for lines in captions], dtype=bool)
    notes = _damage(opened.folder, len(captions))
    evalset = EvalSet(task, opened.folder, opened.pictures(len(captions)), np.arange(len(captions)), notes=notes)
    evalset.keep(~long, f"with captions of more than {MAX_CAPTION_BYTES:,} bytes")
    evalset.keep(~absent[~long], "without a caption")
    evalset.captions = [captions[row] for row in evalset.rows.tolist()]
    return evalset


def _riddles(task: EvalTask, opened: _Opened) -> EvalSet:
    """Pictures of one name are one picture, as the set's own script makes them: each is embedded once."""
    riddles = []
    for place, row in enumerate(opened.rows(RiddleRow)):
        names, right = row.candidates or [], row.associations or []
        if not row.cue or not right or None in names or not set(right) <= set(names):
            raise EvalsetError(
                f"{opened.folder}, row {place}: expected a cue, candidates and associations among them; got "
                f"{str(row)[:200]}"
            )
        riddles.append((row.cue, names, right))
    lengths = [len(names) for _, names, _ in riddles]
    opened.take_lengths(lengths)
    first: dict[str | None, int] = {}  # name of a candidate -> the number of its first picture
    for number, name in enumerate(chain.from_iterable(names for _, names, _ in riddles)):
        first.setdefault(name, number)
    rows = np.array(sorted(first.values()), dtype=np.int64)
    row_of = {name: int(np.searchsorted(rows, number)) for name, number in first.items()}
    return EvalSet(
        task,
        opened.folder,
        opened.pictures(sum(lengths)),
        rows,
        riddles=[
            Riddle(cue, tuple(row_of[name] for name in names), frozenset(row_of[name] for name in right))
            for cue, names, right in riddles
        ],
        notes=_damage(opened.folder, len(riddles)),
    )
