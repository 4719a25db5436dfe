"""The signatures of evaluation sets: of one as a file (``sign_set``), of some as one file that stands for them.

``dcfast evalsets sign SETS --out FILE``. Each set is a piece of work in a folder beside the file, so that a killed
command goes on; the folder is removed when the file is whole.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from dcfast.dedup.records import SIGNATURE_DTYPE, sign_encoded, sign_images
from dcfast.dedup.signature_file import DescriptorInfo, Rows, SignatureFile, SignedSet, signature_writer
from dcfast.engine import LocalEngine
from dcfast.engine.piece import piece
from dcfast.engine.progress import Progress
from dcfast.engine.steps import Steps
from dcfast.errors import CorruptDataError, EvalsetError
from dcfast.evaluate.evalset import open_evalset
from dcfast.evaluate.evaluation import BAD_SET
from dcfast.evaluate.folders import COUNT_FILE, count_remark, set_name
from dcfast.evaluate.hub import is_hub_file
from dcfast.evaluate.pictures import FilePictures, Pictures
from dcfast.evaluate.sign_descriptors import sign_descriptors
from dcfast.evaluate.tasks import EvalTask, compared_sets
from dcfast.index.build import write_segment
from dcfast.index.segments import Segment
from dcfast.models.descriptors import DescriptorModel, check_descriptor, describe, load_descriptor, parse_descriptor
from dcfast.models.devices import borrowed_device
from dcfast.process.options import option
from dcfast.process.shared_options import DEVICE
from dcfast.storage.atomic import remove_leftovers
from dcfast.storage.lock import locked
from dcfast.storage.paths import LOCK_NAME, absolute, check_writable, make_directory, path_argument

if TYPE_CHECKING:
    import pyarrow as pa

HELD = 256
"""Pictures of a set that are held at a time, as they are encoded."""
MAX_NOTED = 100
"""Damages of an evaluation set that its summary names."""


@dataclass
class _Opened:
    """A set's pictures: shard and key of each, how they are read, and their signature records."""

    shard: pa.Array
    key: pa.Array
    records: npt.NDArray[np.void]
    pictures: Pictures
    rows: npt.NDArray[np.int64]
    damage: list[tuple[str, str]]


def sign_set(
    name: str,
    files: Sequence[str],
    out: Path,
    index: Path,
    *,
    strict: bool = False,
    models: Sequence[DescriptorModel] = (),
    threads: int = 1,
) -> SignedSet:
    """Writes the signatures of one evaluation set as a signature file, and returns what it tells of the set.

    Args:
        files: of the set, as ``compared_sets`` lists them: tars, or a set of the hub.
        index: where the index of its tars is written.
        strict: damage is an error (CorruptDataError).
        models: whose descriptors are made; threads: that decode for them.
    Memory: the records of the set, 100 bytes a picture, and its descriptors; 256 encoded pictures of a hub's set.
    """
    opened = _open_hub_set(name, files) if is_hub_file(files[0]) else _open_tars(files, index)
    if strict and opened.damage:
        file, message = opened.damage[0]
        raise CorruptDataError(f"evaluation set {name}, {file}: {message} (--strict)", path=file)
    infos = [DescriptorInfo(model.name, model.sha256, model.dim) for model in models]
    vectors = [np.zeros((len(opened.records), model.dim), np.float32) for model in models]
    if models:
        with opened.pictures.read(opened.rows, HELD) as batches:
            for places, readers in batches:
                for model, made in zip(models, vectors, strict=True):
                    made[places] = describe(model, readers, threads=threads)
    rows = Rows(np.zeros(len(opened.records), np.int64), opened.shard, opened.key, opened.records, vectors)
    with signature_writer(out, infos) as writer:
        return writer.add_set(name, [rows], opened.damage[:MAX_NOTED])


def _open_tars(tars: Sequence[str], index: Path) -> _Opened:
    import pyarrow as pa

    names = [Path(path).name for path in tars]
    write_segment(list(zip(tars, names, strict=True)), index)
    segment = Segment.open(index)
    counts = np.diff(np.asarray(segment.shard_sample_begin)).astype(np.int64)
    shards = pa.array(names, pa.string()).take(pa.array(np.repeat(np.arange(len(counts)), counts)))
    pictures = FilePictures(tars, segment.key, *segment.image_places())
    rows = np.arange(segment.num_samples)
    return _Opened(shards, segment.keys(), sign_images(segment, tars), pictures, rows, _damage(segment, tars))


def _open_hub_set(name: str, files: Sequence[str]) -> _Opened:
    import pyarrow as pa

    first = Path(files[0]).name
    try:
        evalset = open_evalset(EvalTask("", name, ""), Path(files[0]).parent)
        with evalset.pictures.read(evalset.rows, HELD) as batches:
            parts = [sign_encoded(readers) for _, readers in batches]
        keys = [evalset.key(row) for row in range(len(evalset.rows))]
    except BAD_SET as error:
        nothing = FilePictures([], str, *np.zeros((3, 0), np.int64))
        damage, texts = [(first, f"cannot be read: {error}")], pa.array([], pa.string())
        return _Opened(texts, texts, np.zeros(0, SIGNATURE_DTYPE), nothing, np.zeros(0, np.int64), damage)
    records = np.concatenate([np.zeros(0, SIGNATURE_DTYPE), *parts])
    shards = pa.array([first] * len(keys), pa.string())
    damage = [(first, note) for note in evalset.notes]
    return _Opened(shards, pa.array(keys, pa.string()), records, evalset.pictures, evalset.rows, damage)


def _damage(segment: Segment, tars: Sequence[str]) -> list[tuple[str, str]]:
    """(file, message) of what may hide pictures: they would be missing from the comparison."""
    damage = [
        (segment.shard_names[at.shard], f"{'damaged at ' if at.archive else ''}byte {at.offset}: {at.message}")
        for at in segment.losses
    ]
    return damage + [(COUNT_FILE, remark) for remark in count_remark(Path(tars[0]).parent, len(tars))]


@dataclass(frozen=True)
class SignOptions:
    """Which evaluation sets are signed, into which file, and how."""

    folder: str = option(
        "",
        "holds the evaluation sets (wds_*_test); or a file of ISC's descriptors alone, (n, 256): npy, or DataComp's "
        "eval_dedup_embeddings.pt",
        flags=("folder",),
        metavar="SETS",
        parse=path_argument,
        required=True,
    )
    out: str = option("", "the signature file that is written", metavar="FILE", parse=path_argument, required=True)
    sets: list[str] | None = option(
        None, "of these sets alone, the NAMEs of wds_NAME_test", metavar="NAME", usual="all", gather=list
    )
    descriptors: list[str] | None = option(
        None,
        "models whose descriptors are made as well: isc:FILE, sscd:FILE, NAME:TAG of a CLIP model, each perhaps with "
        "@SHA256 (docs/decontaminate.md)",
        metavar="MODEL",
        usual="none",
        gather=list,
    )
    run_torchscript: bool = option(False, "run the program that a file of SSCD is: you trust where it comes from")
    device: str = option("auto", DEVICE)
    workers: int = option(1, "processes; sets are signed side by side", least=1, most=4096)
    strict: bool = option(False, "damage of a set is an error")


@piece()
def sign_piece(
    out: Path,
    number: int,
    name: str,
    files: Sequence[str],
    descriptors: Sequence[str],
    device: str,
    run_torchscript: bool,
    strict: bool,
) -> SignedSet:
    """Piece: the signatures of one evaluation set."""
    with borrowed_device(device if descriptors else "cpu") as place:
        specs = [parse_descriptor(text) for text in descriptors]
        models = [load_descriptor(spec, device=place, run_torchscript=run_torchscript) for spec in specs]
        threads = 1 if place == "cpu" else min(8, os.cpu_count() or 1)
        part, index = out / _part(number), out / f"{number:05d}.dcx"
        return sign_set(name, files, part, index, strict=strict, models=models, threads=threads)


def _part(number: int) -> str:
    return f"{number:05d}.parquet"


def sign_evalsets(options: SignOptions, progress: type[Progress] = Progress) -> list[SignedSet]:
    """Writes the signature file of evaluation sets; a killed call goes on where it was, set by set.

    Raises:
        PoolError: no evaluation sets there.   EvalsetError: none of a name that was asked for.
        Others: ``load_descriptor``.   RunError: another process writes this file.
    Memory: that of ``sign_set`` in each process; the file itself is made of them a set at a time.
    """
    if os.path.isfile(options.folder):
        if options.sets or options.descriptors:
            raise ValueError(f"{options.folder} is descriptors alone: leave out --sets and --descriptors, or give sets")
        check_writable(options.out, "--out")
        return [sign_descriptors(Path(options.folder), Path(options.out))]
    sets = _chosen_sets(options)
    descriptors = list(options.descriptors or [])
    specs = [parse_descriptor(text) for text in descriptors]
    names = [spec.name for spec in specs]
    if twice := [name for name in names if names.count(name) > 1]:
        raise ValueError(f"--descriptors: two models have the name {twice[0]}: give one of them")
    for spec in specs:
        check_descriptor(spec, run_torchscript=options.run_torchscript)
    check_writable(options.out, "--out")
    work = make_directory(f"{absolute(options.out)}.parts", "--out")
    with locked(work / LOCK_NAME, f"{options.out}: another process signs sets into this file; wait for it"):
        remove_leftovers(work)
        pieces = [
            sign_piece.piece(
                "sign",
                f"{number:05d}",
                inputs=[*files, *(spec.file for spec in specs if spec.file is not None)],
                outputs=[_part(number)],
                weight=sum(map(os.path.getsize, files)),
            )(
                number=number,
                name=name,
                files=files,
                descriptors=descriptors,
                device=options.device,
                run_torchscript=options.run_torchscript,
                strict=options.strict,
            )
            for number, (name, files) in enumerate(sets)
        ]
        with LocalEngine(options.workers) as engine:
            Steps(work, engine, progress)(pieces)
        signed = _join_parts([work / _part(number) for number in range(len(sets))], Path(options.out))
    shutil.rmtree(work)
    return signed


def _chosen_sets(options: SignOptions) -> list[tuple[str, list[str]]]:
    sets = compared_sets(Path(absolute(options.folder)))  # pieces take a relative path as one below their directory
    if options.sets is None:
        return sets
    wanted, known = {set_name(name) for name in options.sets}, {name for name, _ in sets}
    if missing := sorted(wanted - known):
        raise EvalsetError(
            f"--sets: {options.folder} has no evaluation set {missing[0]!r}; give of {', '.join(sorted(known))}"
        )
    return [(name, files) for name, files in sets if name in wanted]


def _join_parts(parts: Sequence[Path], out: Path) -> list[SignedSet]:
    """Writes signature files of one set each, with descriptors of the same models, as one file."""
    with SignatureFile(parts[0]) as first:
        infos = first.header.descriptors
    signed = []
    with signature_writer(out, infos) as writer:
        for part in parts:
            with SignatureFile(part) as file:
                (one,) = file.header.sets
                signed.append(writer.add_set(one.name, file.batches(), one.damage))
    return signed
