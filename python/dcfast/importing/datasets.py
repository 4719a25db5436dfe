"""Datasets of Hugging Face on disk: Arrow of ``save_to_disk``, and parquet with a column of pictures, into shards."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from dcfast.engine.piece import piece
from dcfast.errors import CorruptDataError, DcfastError, PoolError
from dcfast.importing.account import Account
from dcfast.importing.fields import CAPTIONS, PICTURES, URLS, captions_in, first_of, is_captions, texts
from dcfast.importing.pictures import resolved
from dcfast.importing.samples import MOST_PICTURE_BYTES, Pair, Written, first_captions, write_pairs
from dcfast.storage.arrow import ArrowStream
from dcfast.storage.inputs import read_input
from dcfast.storage.parquet import Kind, ParquetFile

if TYPE_CHECKING:
    import pyarrow as pa

_FILE = Kind("dataset", "download it again", PoolError)


class Part(NamedTuple):
    """Rows of a file, from ``begin`` to before ``end``, that become a shard; the names of its columns."""

    file: str
    begin: int
    end: int
    image: str
    caption: str


def _image_kind(kind: pa.DataType) -> bool:
    """Whether a column of this type holds pictures: bytes, or the library's struct of bytes and path."""
    import pyarrow as pa

    if pa.types.is_struct(kind):
        at = kind.get_field_index("bytes")  # -1 where there are several, too
        kind = kind.field(at).type if at >= 0 else kind
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def image_column(schema: pa.Schema, chosen: str = "") -> str:
    """The column of pictures: the one that is chosen, else a struct of bytes and path, else bytes of a usual name."""
    import pyarrow as pa

    once = Counter(schema.names)
    fitting = [field for field in schema if _image_kind(field.type) and once[field.name] == 1]
    names = [field.name for field in fitting]
    if chosen:
        return chosen if chosen in names else ""
    structs = [field.name for field in fitting if pa.types.is_struct(field.type)]
    return first_of(PICTURES, structs) or (structs[0] if structs else first_of(PICTURES, names))


def caption_column(schema: pa.Schema, chosen: str = "") -> str:
    """The column of captions: the one that is chosen, else the first of the usual names that holds texts."""
    once = Counter(schema.names)
    names = [field.name for field in schema if is_captions(field.type) and once[field.name] == 1]
    if chosen:
        return chosen if chosen in names else ""
    return first_of(CAPTIONS, names)


def has_pictures(path: str, chosen: str = "") -> bool:
    """Whether a parquet file has a column of pictures; False where it cannot be read."""
    with suppress(DcfastError, OSError), ParquetFile(path, _FILE) as file:
        return bool(image_column(file.schema, chosen))
    return False


def plan_parts(
    root: str, files: Sequence[str], image: str, caption: str, shard_size: int, account: Account
) -> list[Part]:
    """Cuts files into shards, of at most ``shard_size`` rows each; one that cannot be read is passed over, and said.

    Raises:
        PoolError: no file has pictures and captions; says of each which columns it has.
    Cost: of parquet the footers, of Arrow one look at each message.
    """
    parts: list[Part] = []
    odd: list[str] = []
    for name in files:
        path = os.path.join(root, name)
        try:
            schema, rows, damage = _shape(path)
        except (DcfastError, OSError) as error:
            account.add("files that cannot be read", f"{name}: {error}")
            continue
        pictures, captions = image_column(schema, image), caption_column(schema, caption)
        if not (pictures and captions):
            what = "pictures" if not pictures else "captions"
            account.add(f"files without a column of {what}", name)
            odd.append(f"{name} has no column of {what} ({', '.join(map(str, schema))[:300]})")
            continue
        if damage:
            account.add("files that cannot be read to their end", f"{name}, behind row {rows:,}: {damage}")
        starts = range(0, rows, shard_size)
        parts += [Part(name, begin, min(begin + shard_size, rows), pictures, captions) for begin in starts]
    if not parts:
        why = "; ".join(odd[:5]) or "; ".join(account.record.lines) or "they have no rows"
        raise PoolError(
            f"{root}: none of its {len(files):,} files has rows with pictures and captions: {why}. Name the columns by "
            "--image-column and --text-column; pictures with labels alone make an evaluation set (dcfast evalsets "
            "import)"
        )
    return parts


def _shape(path: str) -> tuple[pa.Schema, int, str]:
    """Schema, rows that can be read, and what is wrong behind them."""
    if path.endswith(".parquet"):
        with ParquetFile(path, _FILE) as file:
            return file.schema, file.num_rows, ""
    stream, rows = ArrowStream(path), 0
    try:
        for batch in stream.batches():
            rows += len(batch)
    except CorruptDataError as error:
        return stream.schema, rows, str(error)
    return stream.schema, rows, ""


@piece()
def write_part(out: Path, number: int, root: str, part: Part, uid_from: str) -> Written:
    """Piece: a shard of some rows of a file. Memory: a batch (of parquet 128 MiB; Arrow is mapped), a picture."""
    account = Account()
    samples = write_pairs(out, number, _pairs(root, part, account), uid_from, account)
    return Written(samples=samples, passed=account.record)


def _batches(path: str, part: Part, account: Account) -> Iterator[tuple[int, pa.RecordBatch]]:
    """(number of the first row, batch) of those that hold rows of a part."""
    row = 0
    try:
        if not path.endswith(".parquet"):
            for batch in ArrowStream(path).batches():
                if row >= part.end:
                    return
                yield row, batch
                row += len(batch)
            return
        with ParquetFile(path, _FILE) as file:
            groups: list[int] = []
            begin = 0
            for number, rows in enumerate(file.group_rows):
                if begin < part.end and begin + rows > part.begin:
                    row = begin if not groups else row
                    groups.append(number)
                begin += rows
            wanted = [n for n in dict.fromkeys([part.image, part.caption, *URLS, "uid"]) if n in file.schema.names]
            for batch in file.batches(wanted, groups=groups):
                yield row, batch
                row += len(batch)
    except DcfastError as error:
        account.add("rows of files that cannot be read to their end", f"{part.file}: {error}", max(1, part.end - row))


def _pairs(root: str, part: Part, account: Account) -> Iterator[Pair]:
    folder = os.path.dirname(part.file)
    for first, batch in _batches(os.path.join(root, part.file), part, account):
        begin, end = max(part.begin - first, 0), min(part.end - first, len(batch))
        if begin >= end:
            continue
        rows = batch.slice(begin, end - begin)
        captions = texts(rows.column(part.caption))
        more = {name: texts(rows.column(name)) for name in (*URLS, "uid") if rows.schema.names.count(name) == 1}
        images = rows.column(part.image)
        for i in range(len(rows)):
            name = f"{part.file}/{first + begin + i}"
            data, file = _picture(images, i)
            if data is None and file:
                data = _from_file(root, folder, file, name, account)
                if data is None:
                    continue
            given = {key: str(values[i] or "") for key, values in more.items()}
            url = next((given[key] for key in URLS if given.get(key)), "")
            yield Pair(
                name,
                data or b"",
                first_captions(captions_in(captions[i]), name, account),
                "",
                url,
                given.get("uid", ""),
            )


def _picture(images: pa.Array, row: int) -> tuple[bytes | None, str]:
    """The bytes of a picture, and the path that stands for them where there are none."""
    import pyarrow as pa

    if not pa.types.is_struct(images.type):
        return images[row].as_py(), ""
    if not images[row].is_valid:
        return None, ""
    data = images.field("bytes")[row].as_py()
    at = images.type.get_field_index("path")
    path = texts(images.field(at).slice(row, 1))[0] if data is None and at >= 0 else None
    return data, path if isinstance(path, str) else ""


def _from_file(root: str, folder: str, file: str, name: str, account: Account) -> bytes | None:
    place = resolved(root, folder, file)
    if place is None:
        account.add("rows whose picture is a file outside of the folder", f"{name}: {file}")
        return None
    try:
        return read_input(os.path.join(root, place), MOST_PICTURE_BYTES)
    except CorruptDataError:
        account.add(f"pictures of more than {MOST_PICTURE_BYTES:,} bytes", f"{name}: {file}")
    except OSError as error:
        account.add(f"rows whose picture is a file that cannot be read ({error.strerror})", f"{name}: {file}")
    return None
