"""An evaluation set of one's own, in the layout that evaluation reads: of class folders, a table, or captions.

``dcfast evalsets import FOLDER --out EVALSETS``; docs/import.md. The set is made beside its place and renamed, so that
it is there whole or not at all.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from dcfast.errors import CorruptDataError, EvalsetError, PoolError, RunError
from dcfast.evaluate.evalset import CLASS_FILE, PLACEHOLDER, TEMPLATE_FILE, TYPE_FILE, check_evalset
from dcfast.evaluate.folders import COUNT_FILE
from dcfast.evaluate.place_set import sets_home
from dcfast.evaluate.tasks import EvalTask, datacomp_tasks, own_tasks
from dcfast.importing.account import Account, PassedOver
from dcfast.importing.fields import CAPTIONS, LABELS
from dcfast.importing.found import LEADS_OUT, LINKED_FOLDER, TABLE_EXTS, extension, folders_inside, leads_out
from dcfast.importing.pictures import resolved
from dcfast.importing.samples import MOST_PICTURE_BYTES, picture_ext
from dcfast.importing.tables import columns_named, read_rows
from dcfast.index.pool import check_name
from dcfast.index.segments import IMAGE_EXTS
from dcfast.process.options import option
from dcfast.storage.atomic import write_bytes
from dcfast.storage.inputs import read_input
from dcfast.storage.json_files import read_json
from dcfast.storage.lines import read_lines, split_lines
from dcfast.storage.paths import path_argument
from dcfast.storage.records import Count, Record
from dcfast.storage.whole_folder import whole_folder
from dcfast.world.files import write_tar

TEMPLATES = (f"a photo of a {PLACEHOLDER}.", f"a photo of the {PLACEHOLDER}.", f"{PLACEHOLDER}")
"""Prompts of a set that brings none."""
SPLITS = ("test", "val", "validation", "valid", "dev", "train", "training")
"""Names of folders that are parts of a set and no classes, in the order in which one is chosen."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
_NUMBERED = re.compile(r"^\d+[._ -]+(?=\S)")
_WORDNET = re.compile(r"n\d{8}")
_SHARD_PICTURES = 10_000
_MOST_TEXT_BYTES = 1 << 20


@dataclass(frozen=True)
class EvalsetOptions:
    """What becomes an evaluation set, and how."""

    folder: str = option(
        "",
        "a folder of class folders (as torchvision's ImageFolder), one of pictures with captions beside them, or a "
        "table (csv, tsv, jsonl, parquet) or a folder with one: of files and labels, or of files and captions",
        flags=("folder",),
        parse=path_argument,
        required=True,
    )
    out: str = option(
        "", "holds the evaluation sets (--evalsets of a run)", metavar="EVALSETS", parse=path_argument, required=True
    )
    name: str = option("", "of the set", usual="that of the folder")
    kind: str = option(
        "auto",
        "auto: classification where there are classes or labels",
        choices=("auto", "classification", "retrieval"),
    )
    split: str = option("", "which of test, val, train, ... below the folder", usual="test, else val, else train")
    classes: str | None = option(
        None,
        "class names: a line each, in the order of the folders' names or of the labels' numbers; or JSON, folder or "
        "label -> name",
        metavar="FILE",
        usual="those of the folders or labels, _ as a blank",
        parse=path_argument,
    )
    templates: str | None = option(
        None,
        f"prompts, a line each, {PLACEHOLDER} for the class name",
        metavar="FILE",
        usual="; ".join(TEMPLATES),
        parse=path_argument,
    )
    text_column: str = option(
        "", "column of the labels or captions", usual="the first of the usual names that is there"
    )
    image_column: str = option("", "column of the file names", usual="the first of the usual names that is there")
    overwrite: bool = option(False, "replace a set of this name")


class EvalsetReport(Record):
    """``classes`` is 0 of a retrieval set."""

    name: str
    kind: str
    pictures: Count
    classes: Count
    passed: PassedOver
    notes: list[str] = []


@dataclass
class _Set:
    """What was found: pictures relative to ``root`` with a label or captions; labels as they stand."""

    root: str
    kind: str
    pictures: list[tuple[str, str, list[str]]]  # path, label, captions
    notes: list[str]


def import_evalset(options: EvalsetOptions) -> EvalsetReport:
    """Makes an evaluation set; what is odd is counted and said at once.

    Raises:
        EvalsetError: nothing of the kind is there, class names or templates do not fit; says what was expected.
        RunError: there is a set of this name.   ValueError: a name that is none, or one of DataComp's tasks.
        OSError: a file cannot be read or written.   CorruptDataError: captions, names or a table are beyond a bound.
    Memory: 150 bytes a picture, its captions; one picture.   Cost: each picture is read once.
    """
    home, source = Path(options.out), os.path.abspath(options.folder)
    name = options.name or re.sub(r"[^A-Za-z0-9_.-]+", "_", Path(source).stem).strip("._-")
    target = home / f"wds_{name}_test"
    _check_name(name, home, target)
    account = Account()
    found = _find(source, options, account)
    if not found.pictures:
        why = "; ".join(account.record.lines) or "there are no pictures"
        raise EvalsetError(f"{source}: nothing for an evaluation set. Passed over: {why}. {_EXPECTED}")
    names, labels = _classes(found, options)
    templates = list(TEMPLATES) if options.templates is None else _lines(options.templates)
    with sets_home(options.out):
        if target.exists() and not options.overwrite:
            raise RunError(f"{target} is there already; choose another --name, or --overwrite to replace it")
        with whole_folder(target) as staging:
            pictures = _write(staging, found, labels, account)
            if found.kind == "classification":
                write_bytes(staging / CLASS_FILE, "".join(f"{text}\n" for text in names).encode())
                write_bytes(staging / TEMPLATE_FILE, "".join(f"{text}\n" for text in templates).encode())
            write_bytes(staging / TYPE_FILE, f"{found.kind}\n".encode())
            check_evalset(EvalTask(name, name, target.name), staging)
    return EvalsetReport(name, found.kind, pictures, len(names), account.record, found.notes)


_EXPECTED = (
    "Expected class folders with pictures (CLASS/a.jpg), a table with columns of files and labels (file_name, label) "
    "or captions (file_name, caption), or a.txt beside a.jpg with a caption a line"
)


def _check_name(name: str, home: Path, target: Path) -> None:
    if not _NAME.fullmatch(name):
        raise ValueError(
            f"--name must be letters, digits, dots, - and _, and begin with one of the first two; got {name!r}"
        )
    if target.name in {task.directory for task in datacomp_tasks()}:
        raise ValueError(
            f"--name {name} is that of DataComp's task {target.name}: its score would count as the benchmark's; choose "
            "another name"
        )
    if target.name in {task.directory for task in own_tasks(home)}:
        raise ValueError(f"--name {name}: the tasks.json of {home} describes {target.name}; choose another name")


def _find(source: str, options: EvalsetOptions, account: Account) -> _Set:
    """What there is: a table; class folders; captions beside pictures."""
    if os.path.isfile(source):
        return _of_table(os.path.dirname(source), [os.path.basename(source)], options, account)
    if not os.path.isdir(source):
        raise EvalsetError(f"{source}: no such file or directory. {_EXPECTED}")
    root, notes = _split_of(source, options.split, account)
    linked = Account()
    there = _entries(root, linked)
    classes = [name for name, is_folder in there if is_folder]
    tables = [name for name, is_folder in there if not is_folder and extension(name) in (*TABLE_EXTS, "parquet")]
    if tables:
        found = _of_table(root, tables, options, account)
    elif options.kind != "retrieval" and classes and (of_folders := _of_folders(root, classes, account)).pictures:
        found = of_folders
    else:
        found, linked = _of_captions(root, account), Account()  # it counts them itself
    account.take([linked.record])
    found.notes = notes + found.notes
    return found


def _entries(root: str, account: Account) -> list[tuple[str, bool]]:
    """(name, whether it is a folder) of what lies in a folder, sorted; links to folders, and out of it, are counted."""
    there = []
    with os.scandir(root) as entries:
        for entry in sorted(entries, key=lambda entry: entry.name):
            if entry.name.startswith("."):
                continue
            if entry.is_symlink() and entry.is_dir():
                account.add(LINKED_FOLDER, entry.name)
            elif leads_out(root, entry.name):
                account.add(LEADS_OUT, entry.name)
            else:
                there.append((entry.name, entry.is_dir()))
    return there


def _split_of(source: str, chosen: str, account: Account) -> tuple[str, list[str]]:
    """The folder that is taken, and which are not: ``test`` and the like are parts of a set."""
    linked = Account()
    below = [name for name, is_folder in _entries(source, linked) if is_folder]
    if chosen:
        if chosen not in below:
            raise EvalsetError(f"{source}: no folder {chosen!r} (--split); it has {', '.join(below[:20]) or 'none'}")
        return os.path.join(source, chosen), []
    if not below or not all(name.lower() in SPLITS for name in below):
        return source, []
    taken = min(below, key=lambda name: SPLITS.index(name.lower()))
    others = ", ".join(name for name in below if name != taken)
    account.take([linked.record])
    note = f"{taken} is taken" + (f", and not {others} (--split)" if others else "")
    return os.path.join(source, taken), [note]


def _of_folders(root: str, classes: Sequence[str], account: Account) -> _Set:
    pictures: list[tuple[str, str, list[str]]] = []
    for label in classes:
        check_name(label, root)
        before = len(pictures)
        for folder, names in folders_inside(root, account, label):
            for name in names:
                path = os.path.join(folder, name)
                if extension(name) in IMAGE_EXTS:
                    pictures.append((path, label, []))
                else:
                    account.add("files that are no pictures", path)
        if len(pictures) == before:
            account.add("class folders without a picture; their class stays", label)
            pictures.append(("", label, []))
    loose = [name for name in os.listdir(root) if extension(name) in IMAGE_EXTS]
    account.add("pictures outside of the class folders", *((min(loose), len(loose)) if loose else ("", 0)))
    return _Set(root, "classification", pictures if any(path for path, *_ in pictures) else [], [])


def _of_captions(root: str, account: Account) -> _Set:
    pictures: list[tuple[str, str, list[str]]] = []
    for folder, names in folders_inside(root, account):
        there = set(names)
        for name in names:
            if extension(name) not in IMAGE_EXTS:
                continue
            path, side = os.path.join(folder, name), f"{name.rpartition('.')[0]}.txt"
            if side not in there:
                account.add("pictures without a class folder, and without a.txt beside them", path)
                continue
            text = read_input(os.path.join(root, folder, side), _MOST_TEXT_BYTES).decode("utf-8-sig", "replace")
            if captions := [line.strip() for line in split_lines(text) if line.strip()]:
                pictures.append((path, "", captions))
            else:
                account.add("pictures without a caption", path)
    return _Set(root, "retrieval", pictures, [])


def _of_table(root: str, tables: Sequence[str], options: EvalsetOptions, account: Account) -> _Set:
    """Rows of files and labels, or else of files and captions; pictures of several rows have several captions."""
    odd: list[str] = []
    for kind, names in (("classification", LABELS), ("retrieval", CAPTIONS)):
        if options.kind not in ("auto", kind):
            continue
        columns = columns_named(options.image_column, options.text_column, names)
        captions: dict[str, list[str]] = {}
        for table in tables:
            try:
                for row in read_rows(os.path.join(root, table), columns, account):
                    place = resolved(root, "", row.file)
                    where = f"{table}, row {row.number}: {row.file}"
                    if place is None:
                        account.add("rows whose picture leads out of the folder", where)
                    elif not os.path.isfile(os.path.join(root, place)):
                        account.add("rows whose picture is not there", where)
                    elif not row.values:
                        account.add(f"rows without a {'label' if kind == 'classification' else 'caption'}", where)
                    elif kind == "classification" and place in captions:
                        account.add("rows that name a picture again", where)
                    else:
                        captions.setdefault(place, []).extend(row.values)
            except PoolError as error:
                odd.append(str(error))
        if captions:
            is_label = kind == "classification"
            return _Set(
                root, kind, [(p, t[0] if is_label else "", [] if is_label else t) for p, t in captions.items()], []
            )
    for problem in odd:
        account.add(f"tables without the columns that are needed: {problem}")
    return _Set(root, "classification", [], [])


def _lines(path: str) -> list[str]:
    try:
        return [line.strip() for line in read_lines(path) if line.strip()]
    except UnicodeDecodeError as error:
        raise EvalsetError(f"{path} is not UTF-8 (byte {error.start}); save it as UTF-8") from None


def _classes(found: _Set, options: EvalsetOptions) -> tuple[list[str], dict[str, int]]:
    """The class names, and label as it stands -> number. EvalsetError where a file of names does not fit."""
    if found.kind == "retrieval":
        return [], {}
    given = sorted({label for _, label, _ in found.pictures})
    numbers = all(label.isdecimal() and label.isascii() and len(label) < 8 for label in given)
    if options.classes is None:
        if numbers:
            given = sorted(given, key=int)
            found.notes.append("the classes are called by numbers, of which no model knows anything: --classes FILE")
        elif all(_WORDNET.fullmatch(label) for label in given):
            found.notes.append("the classes are called by ids of WordNet, which no model knows: --classes FILE")
        names = [" ".join(label.replace("_", " ").split()) or label for label in given]
        if len({_NUMBERED.sub("", name) for name in names}) == len(names) and all(map(_NUMBERED.match, names)):
            names = [_NUMBERED.sub("", name) for name in names]
        return names, {label: number for number, label in enumerate(given)}
    return _named_classes(given, numbers, options.classes)


def _named_classes(given: list[str], numbers: bool, path: str) -> tuple[list[str], dict[str, int]]:
    if extension(path) == "json":
        names = read_json(path)
        if not isinstance(names, dict) or not all(isinstance(name, str) and name.strip() for name in names.values()):
            raise EvalsetError(f"{path}: expected an object, label -> name, in which no name is empty")
        if missing := [label for label in given if label not in names]:
            raise EvalsetError(f"{path}: no name for the class {missing[0]!r}; it has {', '.join(sorted(names)[:20])}")
        # a label that no picture has keeps its number, where labels are numbers
        labels = sorted(names, key=lambda label: (int(label) if numbers and label.isdecimal() else 0, label))
        return [" ".join(names[label].split()) for label in labels], {label: n for n, label in enumerate(labels)}
    listed = _lines(path)
    if numbers:
        beyond = [label for label in given if int(label) >= len(listed)]
        if beyond:
            raise EvalsetError(
                f"{path} has {len(listed):,} names, but there is a label {beyond[0]} (they count from 0)"
            )
        return listed, {label: int(label) for label in given}
    if set(given) <= set(listed):
        return listed, {label: listed.index(label) for label in given}
    if len(listed) != len(given):
        raise EvalsetError(f"{path}: expected a name for each of the {len(given):,} classes; got {len(listed):,}")
    return listed, {label: number for number, label in enumerate(given)}


def _write(staging: Path, found: _Set, labels: dict[str, int], account: Account) -> int:
    """Writes ``test/N.tar`` and how many there are; returns the pictures in them."""
    counted = [0]

    def members(part: Sequence[tuple[str, str, list[str]]]) -> Iterator[tuple[str, bytes]]:
        for path, label, captions in part:
            data = _bytes_of(found.root, path, account)
            if data is None:
                continue
            key = f"s{counted[0]:07d}"
            counted[0] += 1
            yield f"{key}.{picture_ext(path, data)}", data
            if captions:
                yield f"{key}.txt", "\n".join(" ".join(text.split()) for text in captions).encode("utf-8", "replace")
            else:
                yield f"{key}.cls", str(labels[label]).encode()

    pictures = [picture for picture in found.pictures if picture[0]]
    starts = range(0, len(pictures), _SHARD_PICTURES)
    for number, begin in enumerate(starts):
        # with the time of writing: by it a set's scores are told from those of another of its name
        write_tar(staging / "test" / f"{number}.tar", members(pictures[begin : begin + _SHARD_PICTURES]), mtime=None)
    write_bytes(staging / "test" / COUNT_FILE, str(len(starts)).encode())
    if not counted[0]:
        raise EvalsetError(f"{found.root}: no picture of it can be read: {'; '.join(account.record.lines)}")
    return counted[0]


def _bytes_of(root: str, path: str, account: Account) -> bytes | None:
    try:
        data = read_input(os.path.join(root, path), MOST_PICTURE_BYTES)
    except CorruptDataError:
        account.add(f"pictures of more than {MOST_PICTURE_BYTES:,} bytes", path)
        return None
    except OSError as error:
        account.add(f"pictures that cannot be read ({error.strerror})", path)
        return None
    if not data or not picture_ext(path, data):
        account.add("pictures without a byte, or of no kind that is known", path)
        return None
    return data
