"""Stage ``features``: CLIP embeddings and scores of the pool, as DataComp's columns and npz files.

Pieces by index segment embed every pair whose picture decodes (``dcfast.features.embed``); pieces by metadata file
then write ``features/metadata/{stem}.parquet`` and ``.npz`` (``dcfast.features.metadata``), which the filter reads
instead of the pool's own. Memory: a batch of pairs and what is read ahead of it, and the model, in each worker.
Disk: the embeddings twice (in the order of the shards, and of the metadata), 4 bytes a dimension, pair and copy.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from dcfast.engine.piece import Nothing, piece
from dcfast.features.embed import SegmentCounts, embed_segment
from dcfast.features.files import ARRAYS, segment_file, sibling_npz, status_path
from dcfast.features.metadata import Filled, FilledRows, SegmentColumns, write_features
from dcfast.features.spec import TEACHER, FeatureModel, feature_models
from dcfast.index.segments import Segment
from dcfast.models.clip import load_model, needs_quick_gelu, require_model
from dcfast.models.devices import borrowed_device, gpu_share
from dcfast.rundir.layout import FEATURE_METADATA, segment_path
from dcfast.rundir.run_dir import Run
from dcfast.rundir.summaries import FeatureModelSummary, FeaturesSummary
from dcfast.stages.runner import Do
from dcfast.stages.signatures import refuse_stale
from dcfast.stages.teacher import TEACHER_FILE, teacher_model
from dcfast.storage.atomic import write_json
from dcfast.storage.records import Count, Record, plain, widened
from dcfast.uids.sets import open_records

if TYPE_CHECKING:
    from dcfast.models.clip import ClipModel

READY = "features/features.json"
"""Written when all segments are embedded: stands for all of them among a piece's inputs."""


class ModelSource(Record, omit_defaults=True):
    """Where a feature model is loaded from.

    Attributes:
        key: of its files.
        pretrained: a tag, or a path, relative to the run directory where it is ``in_run``.
        activation: what older embeddings had from the name alone: they are made anew.
    """

    key: str
    name: str
    pretrained: str | None
    in_run: bool
    activation: str | None = None


class EmbeddedModel(Record):
    name: str
    content_hash: str | None
    dim: Count


class Embedded(SegmentCounts):
    """The same, and the models that embedded the segment."""

    models: dict[str, EmbeddedModel]


def model_source(model: FeatureModel) -> tuple[ModelSource, tuple[str, ...]]:
    """A model as an argument of a piece, and the files that the piece depends on for it."""
    if model.is_teacher:
        return ModelSource(model.key, teacher_model(), TEACHER_FILE, True), (TEACHER_FILE,)
    file = model.file
    place = model.pretrained if file is None else os.path.abspath(file)
    inputs = () if file is None else (str(place),)
    quick = file is None and model.pretrained is not None and needs_quick_gelu(model.name, model.pretrained)
    return ModelSource(model.key, model.name, place, False, "quickgelu" if quick else None), inputs


@lru_cache(maxsize=4)
def _load(name: str, pretrained: str | None, device: str, fingerprint: str) -> ClipModel:
    del fingerprint  # part of the cache's key only
    return load_model(name, pretrained, device=device)


def load_feature_model(root: Path, source: ModelSource, device: str) -> ClipModel:
    """Loaded once a process and version of its file."""
    place = source.pretrained
    if source.in_run and place is not None:
        place = str(root / place)
    return _load(source.name, place, device, _mark(place))


@lru_cache(maxsize=16)
def _check(name: str, pretrained: str | None, fingerprint: str) -> None:
    del fingerprint  # part of the cache's key only
    if pretrained is not None and os.path.isfile(pretrained):
        load_model(name, pretrained)  # the whole file is read, once: better now than after days of indexing
    else:
        require_model(name, pretrained)


def check_features(run: Run) -> None:
    """Looks for what is wrong with the models that are asked for, before any work.

    Raises:
        ValueError: an unknown prefix, model or tag; the nearest are suggested.
        CheckpointError, CorruptDataError: a checkpoint of another architecture, or cut off.
        MissingDependencyError: weights or a tokenizer that are not here and cannot be fetched.
    """
    for model in feature_models(run.features):
        if not model.is_teacher:
            _check(model.name, model.pretrained, _mark(model.pretrained))


def _mark(path: str | None) -> str:
    if path is None or not os.path.isfile(path):
        return ""
    status = os.stat(path)
    return f"{status.st_size} {status.st_mtime_ns}"


@piece(version=2)
def embed(out: Path, number: int, shard_dir: str, models: Sequence[ModelSource], device: str) -> Embedded:
    """Piece: the embeddings of one segment's pairs. Version 2: 16-bit grey is its upper 8 bits."""
    segment = Segment.open(out / segment_path(number))
    refuse_stale(segment, shard_dir)
    with borrowed_device(device) as borrowed:
        loaded = [(model.key, load_feature_model(out, model, borrowed)) for model in models]
        stats = embed_segment(segment, shard_dir, loaded, out, number, device=borrowed)
    made = {key: EmbeddedModel(model.name, model.content_hash, model.embed_dim) for key, model in loaded}
    return widened(stats, Embedded, models=made)


@piece()
def declare_ready(out: Path, about: Sequence[FeatureModelSummary]) -> Nothing:
    """Piece: ``features/features.json``, which says what was made of which model."""
    write_json(out / READY, plain(about))
    return Nothing()


@piece()
def write_group(
    out: Path,
    files: Sequence[str],
    first_shards: Sequence[int],
    models: Sequence[Filled],
    uid_from: str = "json",
) -> FilledRows:
    """Piece: the metadata files of one group with their feature columns."""
    columns = SegmentColumns(out, list(first_shards))
    records = open_records(out / "index/pool.npy")
    rows, with_sample, scored = 0, 0, Counter[str]()
    for path in files:
        target = out / FEATURE_METADATA / Path(path).name
        stats = write_features(out / path, target, columns, records, models, uid_from)
        rows, with_sample = rows + stats.rows, with_sample + stats.found
        scored.update(stats.scored)
    return FilledRows(rows, with_sample, dict(scored))


def steps(run: Run, do: Do) -> FeaturesSummary:
    """Embeddings by segment, then metadata files with their columns."""
    pool, device = run.pool, run.settings.device
    models = feature_models(run.features)
    sources = [model_source(m) for m in models]
    weights = [name for _, inputs in sources for name in inputs]
    embedded = do(
        embed.piece(
            "features/embed",
            f"{number:05d}",
            inputs=[segment_path(number), *map(pool.shard_input, names), *weights],
            outputs=[
                segment_file(number, "begin"),
                status_path(number),
                *(segment_file(number, what, m.key) for m in models for what in ARRAYS),
            ],
            weight=pool.bytes_of(names),
            gpus=gpu_share(device),
        )(number=number, shard_dir=str(pool.shard_dir), models=[m for m, _ in sources], device=device)
        for number, (_, names) in enumerate(pool.segments())
    )
    made = embedded[0].models
    about = [
        FeatureModelSummary(m.key, list(m.prefixes), made[m.key].name, made[m.key].content_hash, made[m.key].dim)
        for m in models
    ]
    statuses = [status_path(number) for number in range(len(pool.segments()))]
    do.one(declare_ready.piece("features/ready", "ready", inputs=statuses, outputs=[READY])(about=about))
    wrote = do(
        write_group.piece(
            "features/metadata",
            f"{number:05d}",
            inputs=[READY, "index/pool.npy", *names, *filter(os.path.isfile, map(sibling_npz, names))],
            outputs=[f"{FEATURE_METADATA}/{Path(n).stem}{end}" for n in names for end in (".parquet", ".npz")],
            weight=sum(os.path.getsize(run.out / n) for n in names),
        )(
            files=names,
            first_shards=[first for first, _ in pool.segments()],
            models=[Filled(m.key, m.prefixes, m.dim) for m in about],
            uid_from=run.settings.uid_from,
        )
        for number, (_, names) in enumerate(pool.metadata_groups())
    )
    return FeaturesSummary(
        models=about,
        by_teacher=sorted(p for m in models if m.name == TEACHER for p in m.prefixes),
        samples=sum(s.samples for s in embedded),
        status=sum((Counter(s.status) for s in embedded), Counter[str]()),
        rows=sum(s.rows for s in wrote),
        rows_found=sum(s.found for s in wrote),
        scored=sum((Counter(s.scored) for s in wrote), Counter[str]()),
    )
