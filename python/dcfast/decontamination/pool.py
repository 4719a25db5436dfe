"""A pool compared with signature files, step by step: resumable, in bounded memory, whatever the pool's size.

Writes into ``out``: ``contaminated.npy``, ``contamination.parquet`` (as a run does), ``decontamination.json``, and for
later calls with other thresholds or files ``index/``, ``signatures/`` and ``descriptors/``: no picture is decoded
twice.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from dcfast.decontamination.choice import DescriptorChoice, DescriptorUse, unused_notes
from dcfast.decontamination.matching import (
    MatchedRows,
    counted_hits,
    match_segment,
    merge_contaminated,
    uid_run,
)
from dcfast.decontamination.options import DecontaminateOptions
from dcfast.decontamination.published import HITS, Published, find_published, list_published, published_files
from dcfast.decontamination.signing import (
    SignedSegment,
    describe_segment,
    descriptor_path,
    segments_of,
    sign_segment,
)
from dcfast.dedup.evidence import CONTENT, PERCEPTUAL, PERCEPTUAL_256
from dcfast.dedup.signature_file import SignedSet
from dcfast.engine import LocalEngine
from dcfast.engine.piece import Piece
from dcfast.engine.progress import Progress
from dcfast.engine.steps import Steps
from dcfast.errors import PoolError, RunError
from dcfast.index.pool import Pool, check_name, list_parquet, metadata_folder, pool_uid_rule, refuse_url, shard_folder
from dcfast.models.descriptors import ISC_NAME, parse_descriptor
from dcfast.models.devices import gpu_share
from dcfast.rundir.layout import EVIDENCE_TABLE, segment_path, signature_path
from dcfast.rundir.tables import combine_parts, part_path
from dcfast.storage.atomic import remove_leftovers, write_json
from dcfast.storage.listing import is_temporary_name, list_pool_tars
from dcfast.storage.lock import locked
from dcfast.storage.paths import LOCK_NAME, absolute, check_writable, make_directory, not_left_empty
from dcfast.storage.records import Count, Record, plain, read_record

CLAIM = "state/decontamination.json"
"""Says that a directory is one of this command's."""
_MOST_NOTES = 20


class _Claim(Record):
    """Name and absolute path of the pool; a directory of an earlier release tells no path."""

    pool: str
    root: str = ""


class Decontaminated(Record):
    """What was found; in ``decontamination.json``.

    ``samples``, ``pictures``, ``flat``, ``status`` are of the pool, zero where it has no shards.   ``contaminated``:
    samples (without shards: rows of metadata) that are evaluation pictures, ``uids`` theirs, ``content`` those of equal
    bytes.   ``hits``: set -> method -> samples.
    """

    samples: Count
    pictures: Count
    flat: Count
    status: dict[str, Count]
    contaminated: Count
    content: Count
    uids: Count
    evidence_rows: Count
    hits: dict[str, dict[str, Count]]
    sets: list[SignedSet]
    max_distance: int | None
    max_distance_256: int | None
    descriptors: list[DescriptorUse]
    notes: list[str]


def decontaminate_pool(options: DecontaminateOptions, progress: type[Progress] = Progress) -> Decontaminated:
    """Compares a pool with signature files; a killed call goes on where it was.

    Raises:
        PoolError: no pool; no signature file, or one of another version or model; sets that are named twice.
        RunError: ``out`` is something else's or of another pool, or another process is at work there.
        CheckpointError, CorruptDataError, ValueError: models, weights and options; named.
    Memory: ``dcfast.decontamination.matching`` and ``signing``, in each process.
    """
    refuse_url(options.pool)
    root = Path(absolute(options.pool))  # pieces take a relative path as one below their directory
    against = [absolute(path) for path in options.against]
    pool = _open_pool(root)
    rule = pool_uid_rule(root, options.uid_from)
    models = DescriptorChoice(options, against)
    published = ISC_NAME in set(models.scores) - set(models.texts) and bool(published_files(pool.metadata))
    _check_methods(pool, options, models, published=published)
    out = Path(absolute(options.out))
    check_writable(out, "--out")
    busy = f"--out {out}: another process is at work there; wait for it, or choose another --out"
    with not_left_empty(out), locked(make_directory(out, "--out") / LOCK_NAME, busy):
        _claim(out, pool)
        with LocalEngine(options.workers) as engine:
            return _Comparison(out, options, pool, rule, against, models, Steps(out, engine, progress)).found()


def _open_pool(root: Path) -> Pool:
    """The files of a pool, which may lack shards or metadata."""
    if not root.is_dir():
        raise PoolError(f"pool {root}: no such directory; give one with shards/*.tar")
    tars, tables = list_pool_tars(root), metadata_folder(root)
    tars.check()
    metadata = [str(tables / name) for name in list_parquet(tables)]
    if not tars.names and not metadata:
        raise PoolError(f"pool {root}: no .tar and no .parquet in it{tars.hint}; give a directory with shards/*.tar")
    for name in (*tars.names, *metadata):
        check_name(name, f"pool {root}")
    return Pool(root, shard_folder(root), tars.names, metadata, tars.notes)


def _check_methods(pool: Pool, options: DecontaminateOptions, models: DescriptorChoice, *, published: bool) -> None:
    """PoolError where there is nothing to compare by."""
    if not pool.shards and not published:
        raise PoolError(
            f"pool {pool.root} has no shards, and no descriptors were published with its metadata that a "
            "signature file has as well; give a pool with shards/*.tar, or signatures with ISC's descriptors"
        )
    if models.texts and not pool.shards:
        raise PoolError(f"--descriptors: pool {pool.root} has no shards whose pictures a model describes; leave it out")
    models.check_sets(options, shards=bool(pool.shards), published=published)


def _claim(out: Path, pool: Pool) -> None:
    """RunError where a directory is another's; else it is this command's, and what a killed one left is removed."""
    if not (out / CLAIM).exists():
        others = sorted(path.name for path in out.iterdir() if path.name != LOCK_NAME and not _is_unclaimed(path))
        if others:
            raise RunError(f"--out {out} is not empty ({', '.join(others[:5])}); choose another directory")
    else:
        claim = read_record(out / CLAIM, _Claim)
        if claim.root != str(pool.root):
            raise RunError(
                f"--out {out} has what was found in pool {claim.root or claim.pool}; this one is {pool.root}: choose "
                "another --out, or remove this one"
            )
    for name in ("index", "signatures", "descriptors", "state"):
        remove_leftovers(out / name)
    remove_leftovers(out, below=False)
    write_json(out / CLAIM, plain(_Claim(pool.root.name, str(pool.root))))


def _is_unclaimed(path: Path) -> bool:
    """Whether it is what a call leaves that was killed while it claimed a directory."""
    return path.name == "state" and path.is_dir() and all(is_temporary_name(entry.name) for entry in path.iterdir())


class _Comparison:
    """The steps over one pool."""

    def __init__(
        self,
        out: Path,
        options: DecontaminateOptions,
        pool: Pool,
        rule: str,
        against: list[str],
        models: DescriptorChoice,
        do: Steps,
    ) -> None:
        self._out, self._options, self._pool, self._rule = out, options, pool, rule
        self._against, self._models, self._do = against, models, do
        self._segments = segments_of(pool.shards)

    def found(self) -> Decontaminated:
        """Does all steps, and writes what was found."""
        signed = self._do(self._signing(number, names) for number, names in enumerate(self._segments))
        uses = [self._describe(name, text) for name, text in self._models.texts.items()]
        published = self._find_published()
        uses += [
            DescriptorUse(
                name, self._models.infos[name].sha256, "published", self._models.scores[name], published.described
            )
            for name in published.files
        ]
        matched = self._match(published)
        runs = [uid_run(number) for number in range(len(matched))]
        merge = merge_contaminated.piece("decontaminate/merge", "uids", inputs=runs, outputs=["contaminated.npy"])
        (merged,) = self._do([merge(runs=runs)])
        rows = sum(one.rows for one in matched)
        self._do([combine_parts("decontaminate/merge", EVIDENCE_TABLE, len(matched), rows)])
        result = self._summary(signed, matched, merged.uids, uses, published)
        write_json(self._out / "decontamination.json", plain(result))
        return result

    def _inputs(self, names: list[str]) -> list[str]:
        return [self._pool.shard_path(name) for name in names]

    def _signing(self, number: int, names: list[str]) -> Piece[SignedSegment]:
        made = sign_segment.piece(
            "decontaminate/sign",
            f"{number:05d}",
            inputs=self._inputs(names),
            outputs=[segment_path(number), signature_path(number)],
            weight=self._pool.bytes_of(names),
        )
        return made(number=number, shards=names, shard_dir=str(self._pool.shard_dir), uid_from=self._rule)

    def _describe(self, name: str, text: str) -> DescriptorUse:
        options, info = self._options, self._models.infos[name]
        file = parse_descriptor(text).file
        made = self._do(
            describe_segment.piece(
                "decontaminate/describe",
                f"{name.replace('/', '-')}-{number:05d}",
                inputs=[segment_path(number), *self._inputs(names), *([] if file is None else [file])],
                outputs=[descriptor_path(name, number)],
                weight=self._pool.bytes_of(names),
                gpus=gpu_share(options.device),
            )(
                number=number,
                shards=names,
                shard_dir=str(self._pool.shard_dir),
                descriptor=text,
                sha256=info.sha256,
                device=options.device,
                run_torchscript=options.run_torchscript,
            )
            for number, names in enumerate(self._segments)
        )
        described = sum(one.described for one in made)
        return DescriptorUse(name, info.sha256, "computed", self._models.scores[name], described)

    def _find_published(self) -> Published:
        options, models = self._options, self._models
        if not options.published:
            return Published({}, 0, [])
        scores = {name: least for name, least in models.scores.items() if name not in models.texts}
        return find_published(self._out, self._do, self._pool.metadata, self._rule, self._against, scores)

    def _match(self, published: Published) -> list[MatchedRows]:
        options, against = self._options, self._against
        if not self._segments:
            (name,) = published.files
            listed = list_published.piece(
                "decontaminate/match",
                "published",
                inputs=[HITS, *against],
                outputs=[part_path(EVIDENCE_TABLE, 0), uid_run(0)],
            )
            return self._do([listed(against=against, name=name)])
        methods, names = options.methods, self._models.texts
        return self._do(
            match_segment.piece(
                "decontaminate/match",
                f"{number:05d}",
                inputs=[
                    segment_path(number),
                    signature_path(number),
                    *against,
                    *(descriptor_path(name, number) for name in names),
                    *published.files.values(),
                ],
                outputs=[part_path(EVIDENCE_TABLE, number), uid_run(number)],
            )(
                number=number,
                against=against,
                bits=options.max_distance if PERCEPTUAL in methods else None,
                bits256=options.max_distance_256 if PERCEPTUAL_256 in methods else None,
                scores=self._models.scores,
                described={name: descriptor_path(name, number) for name in names},
                published=published.files,
                content=CONTENT in methods,
                turned=options.turned,
            )
            for number in range(len(self._segments))
        )

    def _summary(
        self,
        signed: list[SignedSegment],
        matched: list[MatchedRows],
        uids: int,
        uses: list[DescriptorUse],
        published: Published,
    ) -> Decontaminated:
        options, models = self._options, self._models
        notes = [note for one in signed for note in one.notes]
        notes += [
            f"evaluation set {one.name}: {file} {message}; what it hides was not compared: contamination may be missed"
            for one in models.sets
            for file, message in one.damage
        ]
        undescribed = sum((Counter(one.undescribed) for one in matched), Counter[str]())
        notes += [
            f"{count:,} readable pictures have no descriptor of {name}; they were compared by their hashes alone"
            for name, count in sorted(undescribed.items())
            if count
        ]
        notes += published.notes
        if "descriptor" in options.methods:
            notes += unused_notes(models.headers, {use.name for use in uses})
        return Decontaminated(
            samples=sum(one.samples for one in signed),
            pictures=sum(one.pictures for one in signed),
            flat=sum(one.flat for one in signed),
            status=dict(sum((Counter(one.status) for one in signed), Counter[str]())),
            contaminated=sum(one.samples for one in matched),
            content=sum(one.content for one in matched),
            uids=uids,
            evidence_rows=sum(one.rows for one in matched),
            hits=counted_hits(matched),
            sets=models.sets,
            max_distance=options.max_distance if PERCEPTUAL in options.methods else None,
            max_distance_256=options.max_distance_256 if PERCEPTUAL_256 in options.methods else None,
            descriptors=uses,
            notes=_first([*self._pool.notes, *notes]),
        )


def _first(notes: list[str]) -> list[str]:
    more = len(notes) - _MOST_NOTES
    return notes[:_MOST_NOTES] + ([f"{more:,} more notes"] if more > 0 else [])
