"""Pairs to shards: a tar of pictures, json and captions, and the metadata of any shard, read from the shard itself."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

from dcfast.access.reader import PoolReader
from dcfast.errors import RunError
from dcfast.importing.account import Account, PassedOver
from dcfast.importing.fields import URLS, captions_of, text_of, uid_of
from dcfast.index.build import index_tars
from dcfast.index.segments import IMAGE_EXTS, SampleFlag, Segment
from dcfast.models.captions import MAX_CAPTION_BYTES
from dcfast.resharding.files import flat_json
from dcfast.storage.atomic import atomic_path
from dcfast.storage.hashing import hash_bytes
from dcfast.storage.json_files import parse_json
from dcfast.storage.records import Count, Record
from dcfast.world.files import write_tar

if TYPE_CHECKING:
    from dcfast.storage.json_files import Json

MOST_PICTURE_BYTES = 256 << 20
"""No picture of more is decoded (docs/limits.md)."""
MOST_JSON_BYTES = 1 << 20
"""Of a sample's json that is read."""
MOST_CAPTIONS = 64
"""Of a picture in a row, or beside it: each is a sample, with a copy of the picture."""
_READ_TOGETHER = 32 << 20
_ROWS_TOGETHER = 65_536
_SIGNS = (
    *((b"\xff\xd8\xff", "jpg"), (b"\x89PNG\r\n\x1a\n", "png"), (b"GIF8", "gif"), (b"BM", "bmp")),
    *((b"II*\0", "tif"), (b"MM\0*", "tif"), (b"\0\0\0\x0cjP  ", "jp2"), (b"\0\0\1\0", "ico")),
)


class Pair(NamedTuple):
    """A picture and its captions, on their way into a shard.

    Attributes:
        name: the same for every import of the same files: the path of the picture, or of its file with the row.
        ext: of the picture; empty: told by its bytes.
        uid: as it was given; empty: made (``dcfast.importing.fields.uid_of``).
    """

    name: str
    data: bytes
    captions: list[str]
    ext: str = ""
    url: str = ""
    uid: str = ""


class Written(Record):
    """Of some shards: ``samples`` in them, ``listed`` in their metadata, what was passed over."""

    samples: Count = 0
    linked: Count = 0
    rewritten: Count = 0
    copied: Count = 0
    metadata_linked: Count = 0
    passed: PassedOver = PassedOver()


def picture_ext(name: str, data: bytes) -> str:
    """The extension of a picture: that of its name where it is one, else by the first bytes; empty where unknown."""
    given = name.rpartition(".")[2].lower()
    if given in IMAGE_EXTS:
        return given
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "webp"
    if data[4:12] in (b"ftypavif", b"ftypavis"):
        return "avif"
    return next((ext for sign, ext in _SIGNS if data.startswith(sign)), "")


def own_file(root: Path, folder: str, name: str) -> Path:
    """Where a file of a pool is written; RunError where the folder is a link, which may lead to files of somebody's."""
    if (root / folder).is_symlink():
        raise RunError(
            f"{root / folder} is a link; expected a folder of the pool's own: remove the link, and try again"
        )
    return root / folder / name


def first_captions(captions: list[str], name: str, account: Account) -> list[str]:
    """The captions of a picture that become samples; those beyond ``MOST_CAPTIONS`` are counted."""
    beyond = f"captions beyond the first {MOST_CAPTIONS} of a picture or row"
    account.add(beyond, name, len(captions) - MOST_CAPTIONS)
    return captions[:MOST_CAPTIONS]


def write_pairs(root: Path, number: int, pairs: Iterable[Pair], uid_from: str, account: Account) -> int:
    """Writes the shard of a number, ``shards/NNNNNNNN.tar``, and its metadata; returns the samples in it.

    A sample a caption. The bytes follow from the pairs. Memory: a picture, and the captions and links of a shard.
    """
    name = f"{number:08d}"
    tar = own_file(root, "shards", f"{name}.tar")
    write_tar(tar, _members(pairs, number, uid_from, account), mtime=None)
    segment = index_tars([tar], threads=1, uid_from=uid_from).segment
    write_metadata(segment, own_file(root, "metadata", f"{name}.parquet"), uid_from)
    return segment.num_samples


def _members(pairs: Iterable[Pair], number: int, uid_from: str, account: Account) -> Iterator[tuple[str, bytes]]:
    row = 0
    for pair in pairs:
        ext = pair.ext or picture_ext(pair.name, pair.data)
        captions = [text for text in pair.captions if len(text.encode("utf-8", "replace")) <= MAX_CAPTION_BYTES]
        account.add(f"captions of more than {MAX_CAPTION_BYTES:,} bytes", pair.name, len(pair.captions) - len(captions))
        if not pair.data:
            account.add("pictures without a byte", pair.name)
        elif len(pair.data) > MOST_PICTURE_BYTES:
            account.add(f"pictures of more than {MOST_PICTURE_BYTES:,} bytes", pair.name)
        elif not ext:
            account.add("pictures of no kind that is known, by their first bytes", pair.name)
        elif not pair.captions:
            account.add("pictures without a caption", pair.name)
        else:
            for caption in captions:
                key = f"{number:05d}{row:06d}"
                row += 1
                yield f"{key}.{ext}", pair.data
                yield f"{key}.json", flat_json(_json_of(pair, caption, key, uid_from))
                yield f"{key}.txt", caption.encode("utf-8", "replace")


def _json_of(pair: Pair, caption: str, key: str, uid_from: str) -> dict[str, str]:
    caption = caption.encode("utf-8", "replace").decode()  # halves of characters are no text
    uid = uid_of(pair.uid, pair.name, caption)
    if uid_from == "url" and pair.url:
        uid = hash_bytes(pair.url.encode("utf-8", "replace"))
    fields = {"caption": caption, "key": key, "source": pair.name, "uid": uid, "url": pair.url}
    return {name: value for name, value in fields.items() if value}


def sample_texts(segment: Segment, first: int = 0) -> Iterator[tuple[dict[str, Json], str | None, bool]]:
    """(json, caption in ``txt`` or None, whether its json could not be read) of each sample of a segment.

    What is longer than a bound counts as absent. Memory: ``_READ_TOGETHER`` bytes and a sample.
    """
    most = {"json": MOST_JSON_BYTES, "txt": MAX_CAPTION_BYTES}
    rows = np.arange(first, segment.num_samples)
    with PoolReader(None, [segment], verify=False) as reader:
        for at in range(0, len(rows), _ROWS_TOGETHER):
            part = rows[at : at + _ROWS_TOGETHER]
            located = reader.locate(part, list(most), numbering="sample", missing_members="none").cut(
                MOST_JSON_BYTES + 1
            )
            for members in located.batches(_READ_TOGETHER):
                for sample in reader.read_located(members, threads=1):
                    text, raw = sample.get("txt"), sample.get("json")
                    caption = None
                    if text is not None and len(text) <= MAX_CAPTION_BYTES:
                        caption = bytes(text).decode("utf-8", "replace").strip()
                    fields = {} if raw is None or len(raw) > MOST_JSON_BYTES else _parsed(bytes(raw))
                    yield fields or {}, caption, fields is None


def _parsed(data: bytes) -> dict[str, Json] | None:
    try:
        value = parse_json(data, any_number=True)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def write_metadata(segment: Segment, path: Path, uid_from: str, text_column: str = "") -> None:
    """Writes what a shard says of its samples as metadata: key, text, url, original size; by the rule json their uids.

    Args:
        segment: the index of one shard, made with the rule ``uid_from``.
    Sizes are those of the json (``original_width``), else of the picture's header; null where neither is known.
    Memory: 65,536 rows, of at most 32 MiB of texts.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    texts = [("key", pa.string()), ("text", pa.string()), ("url", pa.string())]
    sizes = [("original_width", pa.int64()), ("original_height", pa.int64())]
    schema = pa.schema([*([("uid", pa.string())] if uid_from == "json" else []), *texts, *sizes])
    uids, keys = segment.uid_hex(), segment.keys()
    usable = usable_samples(segment)
    rows: list[dict[str, object]] = []
    held = 0
    with atomic_path(path) as temporary, pq.ParquetWriter(temporary, schema, compression="zstd") as writer:
        for i, (fields, caption, _) in enumerate(sample_texts(segment)):
            if usable[i]:
                text = caption if caption else next(iter(captions_of(fields, text_column)), None)
                row = {"key": keys[i].as_py(), "text": text, "url": text_of(fields, URLS) or None}
                held += sum(len(value) for value in row.values() if value)
                rows.append(row | {"uid": uids[i].as_py()} | _size_of(fields, segment, i))
            if len(rows) == _ROWS_TOGETHER or held > _READ_TOGETHER:
                writer.write_table(pa.Table.from_pylist(rows, schema=schema))
                rows.clear()
                held = 0
        if rows:
            writer.write_table(pa.Table.from_pylist(rows, schema=schema))


def usable_samples(segment: Segment) -> npt.NDArray[np.bool_]:
    """(n,) bool: samples with a picture that are not cut off."""
    flags = np.asarray(segment.flags)
    usable: npt.NDArray[np.bool_] = (flags & int(SampleFlag.NO_IMAGE | SampleFlag.CUT)) == 0
    return usable


def _size_of(fields: dict[str, Json], segment: Segment, i: int) -> dict[str, object]:
    given = fields.get("original_width"), fields.get("original_height")
    header = int(segment.width[i]), int(segment.height[i])
    whole = all(isinstance(side, int) and not isinstance(side, bool) and 0 < side < 1 << 31 for side in given)
    width, height = given if whole else header
    return {"original_width": width or None, "original_height": height or None}
