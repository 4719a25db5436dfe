"""Loose pictures with captions beside them (``a.jpg`` and ``a.txt`` or ``a.json``) or in tables, into shards.

First a list of the pairs is written, a line each, which pieces of work are cut from; so no more of a folder is held in
memory than the names of its largest folder.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np

from dcfast.engine.piece import piece
from dcfast.errors import CorruptDataError, PoolError
from dcfast.importing.account import Account
from dcfast.importing.fields import CAPTIONS, URLS, captions_of, text_of
from dcfast.importing.found import LEADS_OUT, Found, extension, folders_inside, leads_out
from dcfast.importing.samples import MOST_JSON_BYTES, MOST_PICTURE_BYTES, Pair, Written, first_captions, write_pairs
from dcfast.importing.tables import columns_named, read_rows
from dcfast.index.segments import IMAGE_EXTS
from dcfast.models.captions import MAX_CAPTION_BYTES
from dcfast.storage.atomic import atomic_path
from dcfast.storage.inputs import read_input
from dcfast.storage.json_files import parse_json
from dcfast.storage.lines import MOST_LINE_BYTES, iterate_lines
from dcfast.storage.temporary import temporary_folder
from dcfast.uids.files import save_records, uid_records
from dcfast.uids.sets import merge_runs, open_records, record_sort

LISTING = "state/import/listing.jsonl"
MOST_SHARD_BYTES = 3_000_000_000
"""Of pictures in a shard, where there is more than one."""
_MERGE_BYTES = 64 << 20
_NAMES_AT_ONCE = 1 << 20


class Chunk(NamedTuple):
    """The lines of the listing that become a shard: their bytes, how many, and a hash of them."""

    begin: int
    end: int
    pairs: int
    digest: str


class _Fields(NamedTuple):
    """What is known of a picture when it is listed; of one with a ``txt`` beside it nothing is, but by the worker."""

    captions: list[str]
    url: str
    uid: str


_State = tuple[int, int]
"""Size and time of a file."""


class _Listing:
    """Writes lines and cuts them: a line is a picture with captions, each of which becomes a sample of its own."""

    def __init__(self, path: Path, shard_size: int) -> None:
        self.file, self.shard_size = open(path, "wb"), shard_size  # noqa: SIM115 (closed by ``done``)
        self.chunks: list[Chunk] = []
        self.begin = self.at = self.pairs = self.bytes = 0
        self.digest = hashlib.sha256()

    def add_picture(
        self, path: str, beside: str, fields: _Fields | None, states: list[_State | None], size: int
    ) -> bool:
        """Adds a picture of ``size`` bytes: a line, or several where shards end among its captions.

        Returns:
            False: not added, since it is more than a line that is read again; captions and links may be longer.
        """
        whole = _line(path, beside, fields, states)
        if len(whole) > MOST_LINE_BYTES:
            return False
        size += len(whole)  # a link stands in each sample
        if fields is None:
            self._room(size)
            self._write(whole, 1, size)
            return True
        left = fields.captions
        while left:
            room = self._room(size)
            part, left = left[:room], left[room:]
            alone = len(part) == len(fields.captions)
            data = whole if alone else _line(path, beside, fields._replace(captions=part), states)
            self._write(data, len(part), size)
        return True

    def _room(self, size: int) -> int:
        """How many more samples of some bytes the shard takes, one at least; begins another where it is full."""
        room = min(self.shard_size - self.pairs, (MOST_SHARD_BYTES - self.bytes) // size)
        if room < 1 and self.pairs:
            self.cut()
            room = min(self.shard_size, MOST_SHARD_BYTES // size)
        return max(room, 1)

    def _write(self, data: bytes, samples: int, size: int) -> None:
        self.file.write(data)
        self.digest.update(data)
        self.at += len(data)
        self.pairs += samples
        self.bytes += samples * size

    def cut(self) -> None:
        if self.pairs:
            self.chunks.append(Chunk(self.begin, self.at, self.pairs, self.digest.hexdigest()))
        self.begin, self.pairs, self.bytes, self.digest = self.at, 0, 0, hashlib.sha256()

    def done(self) -> list[Chunk]:
        self.cut()
        self.file.close()
        return self.chunks


def _line(path: str, beside: str, fields: _Fields | None, states: list[_State | None]) -> bytes:
    return json.dumps([path, beside, fields, states], ensure_ascii=False).encode("utf-8", "replace") + b"\n"


def list_pictures(
    found: Found, out: Path, shard_size: int, image_column: str, text_column: str, account: Account
) -> list[Chunk]:
    """Writes the listing of all pairs; returns the chunks of it that become shards.

    Tables count where there are usable ones: then a picture that no row names is passed over. Else captions are those
    beside the pictures.

    Raises:
        PoolError: there are tables, none of which has the columns, and no caption beside any picture.
    Memory: the names of a folder; with tables, 64 MiB.   Cost: a few stats a picture; without ``txt`` its json is read.
    """
    odd: list[str] = []
    with atomic_path(out / LISTING) as temporary:
        listing = _Listing(temporary, shard_size)
        if found.tables or found.parquet:
            odd = _list_tables(found, listing, image_column, text_column, account)
        if not listing.at:
            _list_beside(found, listing, text_column, account)
        chunks = listing.done()
    for problem in odd:
        account.add(f"tables without the columns that are needed: {problem}", "")
    if not chunks:
        why = "; ".join(account.record.lines) or "no caption was found"
        raise PoolError(
            f"{found.root}: none of its {found.pictures:,} pictures has a caption. Put a.txt or a.json beside "
            "a.jpg, or name the columns of a table (csv, tsv, jsonl, parquet) of file names and captions "
            f"(--image-column, --text-column). Passed over: {why}"
        )
    return chunks


def _list_beside(found: Found, listing: _Listing, text_column: str, account: Account) -> None:
    for folder, names in folders_inside(found.root, account, again=True):
        there = set(names)
        for name in names:
            if extension(name) not in IMAGE_EXTS:
                continue
            path, stem = os.path.join(folder, name), name.rpartition(".")[0]
            side = next((stem + end for end in (".txt", ".json") if stem + end in there), None)
            if side is None:
                account.add("pictures without a caption beside them", path)
                continue
            beside = os.path.join(folder, side)
            states = [_state(os.path.join(found.root, p)) for p in (path, beside, os.path.join(folder, stem + ".json"))]
            if states[0] is None or states[1] is None:
                account.add("pictures that cannot be read", path)
                continue
            fields = None
            if side.endswith(".json"):  # which may have many captions
                with _counted(path, account):
                    fields = _beside(found.root, path, beside, text_column)
                if fields is None:
                    continue
                if not fields.captions:
                    account.add("pictures without a caption", path)
                fields = fields._replace(captions=first_captions(fields.captions, path, account))
            listing.add_picture(path, beside, fields, states, states[0][0])


@contextmanager
def _counted(path: str, account: Account) -> Iterator[None]:
    """Counts a picture that cannot be read, or what is beside it."""
    try:
        yield
    except CorruptDataError:
        account.add(f"pictures of more than {MOST_PICTURE_BYTES:,} bytes, or captions that are too long", path)
    except OSError as error:
        account.add(f"pictures that cannot be read ({error.strerror})", path)


def _state(path: str) -> _State | None:
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_size, status.st_mtime_ns


def _list_tables(found: Found, listing: _Listing, image_column: str, text_column: str, account: Account) -> list[str]:
    """Lists the rows of all tables; returns what is wrong with those that have not the columns."""
    columns = columns_named(image_column, text_column, CAPTIONS)
    odd: list[str] = []
    outside: list[str] = []
    with temporary_folder("dcfast-import-") as folder:
        named = _Named(folder)
        for table in sorted([*found.tables, *found.parquet]):
            path = os.path.join(found.root, table)
            if leads_out(found.root, table):
                outside.append(table)
                continue
            try:
                for row in read_rows(path, columns, account):
                    place = resolved(found.root, os.path.dirname(table), row.file)
                    where = f"{table}, row {row.number}"
                    state = None if place is None else _state(os.path.join(found.root, place))
                    if place is None:
                        account.add("rows of tables whose file leads out of the folder", where)
                    elif state is None:
                        account.add("rows of tables whose picture is not there", f"{where}: {row.file}")
                    elif not row.values:
                        account.add("rows of tables without a caption", where)
                        named.add(place)
                    else:
                        named.add(place)
                        captions = first_captions(row.values, f"{where}: {row.file}", account)
                        fields = _Fields(captions, text_of(row.others, URLS), row.others.get("uid", ""))
                        if not listing.add_picture(place, "", fields, [state], state[0]):
                            account.add(f"rows of tables of more than {MOST_LINE_BYTES:,} bytes", where)
            except (PoolError, CorruptDataError) as error:
                odd.append(str(error))
            except OSError as error:
                account.add("tables that cannot be read", f"{table}: {error.strerror}")
        if listing.at:
            for table in outside:  # else they are told with the rest
                account.add(LEADS_OUT, table)
            account.add("pictures that no row of a table names", "", found.pictures - named.count())
    return odd


def resolved(root: str, folder: str, name: str) -> str | None:
    """Where the file that a table names lies, relative to the root: beside the table, else below the root.

    None where the name is empty, or leads out of the root, by ``..`` or by links.
    """
    if not name or "\0" in name:
        return None
    places = [os.path.join(folder, name), name]
    if os.path.isabs(name):
        places = [os.path.relpath(os.path.normpath(name), root)]
    inside = [place for p in places if not (place := os.path.normpath(p)).startswith("..") and not os.path.isabs(place)]
    there = (place for place in inside if os.path.isfile(os.path.join(root, place)))
    chosen = next(there, inside[0] if inside else None)
    return None if chosen is None or leads_out(root, chosen) else chosen


class _Named:
    """How many different files are named: hashes on disk, sorted and merged."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.names, self.runs = folder, set[bytes](), list[Path]()

    def add(self, name: str) -> None:
        self.names.add(hashlib.sha256(name.encode("utf-8", "surrogateescape")).digest()[:16])
        if len(self.names) >= _NAMES_AT_ONCE:
            self._spill()

    def _spill(self) -> None:
        uids = np.frombuffer(b"".join(self.names), "u8,u8")
        self.names = set()
        self.runs.append(self.folder / f"{len(self.runs)}.npy")
        save_records(self.runs[-1], record_sort(uid_records(uids, np.zeros(len(uids), np.uint64)), threads=1))

    def count(self) -> int:
        if not self.runs:
            return len(self.names)
        self._spill()
        merge_runs(self.runs, self.folder / "all.npy", memory_bytes=_MERGE_BYTES)
        records, total = open_records(self.folder / "all.npy"), 0
        for begin in range(0, len(records), _NAMES_AT_ONCE):
            block = records[begin : begin + _NAMES_AT_ONCE + 1]
            same = (block["f0"][1:] == block["f0"][:-1]) & (block["f1"][1:] == block["f1"][:-1])
            total += min(len(block), _NAMES_AT_ONCE) - int(same.sum())
        return total


@piece()
def write_pictures(out: Path, number: int, root: str, chunk: Chunk, uid_from: str, text_column: str) -> Written:
    """Piece: a shard of the pictures that some lines of the listing name. Memory: a picture, and its captions."""
    account = Account()
    samples = write_pairs(out, number, _pairs(out, root, chunk, text_column, account), uid_from, account)
    return Written(samples=samples, passed=account.record)


def _pairs(out: Path, root: str, chunk: Chunk, text_column: str, account: Account) -> Iterator[Pair]:
    for line in iterate_lines(out / LISTING, begin=chunk.begin, end=chunk.end):
        path, beside, fields, _ = parse_json(line)
        pair: Pair | None = None
        with _counted(path, account):
            captions, url, uid = fields or _beside(root, path, beside, text_column)
            pair = Pair(path, read_input(os.path.join(root, path), MOST_PICTURE_BYTES), captions, url=url, uid=uid)
        if pair:
            yield pair


def _beside(root: str, path: str, beside: str, text_column: str) -> _Fields:
    """Captions, url and uid of the files beside a picture: ``a.txt``, else the json; of ``a.json`` url and uid, too."""
    found: dict[str, object] = {}
    name = os.path.splitext(path)[0] + ".json"
    side = os.path.join(root, name)
    if os.path.isfile(side) and not leads_out(root, name):
        try:
            value = parse_json(read_input(side, MOST_JSON_BYTES), any_number=True)
            found = value if isinstance(value, dict) else {}
        except ValueError:  # what it says is not needed where there is a txt; without a caption the picture is counted
            found = {}
    captions = captions_of(found, text_column)
    if beside.endswith(".txt"):
        text = read_input(os.path.join(root, beside), MAX_CAPTION_BYTES).decode("utf-8-sig", "replace").strip()
        captions = [text] if text else []
    return _Fields(captions, text_of(found, URLS), text_of(found, ("uid",)))
