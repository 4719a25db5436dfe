"""A run directory of as many samples as one wants, as the stages of a run would have left it, without their work.

Every file that the report, ``dcfast why`` and ``dcfast inspect`` read is there, whole and consistent, from a rule:
sample i has the uid ``uids_of(i)``, the outcome ``fate_of(i)``, and stands in row ``i % SHARD_ROWS`` of shard
``i // SHARD_ROWS``. Shards are links to one tar, metadata files beyond the first ``METADATA_FILES`` are links to those:
what is read of them is real, and the disk is spared. Memory: some millions of rows. Disk: about 190 bytes a sample.

    python tests/helpers/simulated_run.py FOLDER SAMPLES
"""

from __future__ import annotations

import io
import json
import os
import struct
import sys
import tarfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from dcfast.dedup.evidence import evidence_schema
from dcfast.dedup.records import SIGNATURE_DTYPE
from dcfast.index.build import write_segment
from dcfast.index.pool import MAX_SEGMENTS, group_files
from dcfast.rundir import summaries
from dcfast.rundir.layout import (
    CODE_SHIFT,
    EVIDENCE_TABLE,
    METADATA_SUBSET,
    OUTCOMES,
    fate_schema,
    outcome_run,
    segment_path,
    signature_path,
)
from dcfast.rundir.run_dir import group_segments
from dcfast.rundir.settings import Settings
from dcfast.rundir.tables import combine, part_path, table_writer
from dcfast.storage.npz import save_array, write_npy
from dcfast.storage.records import plain
from dcfast.uids.files import RECORD_DTYPE, UID_DTYPE, uid_records
from dcfast.uids.sets import record_sort, uid_format
from pool_builder import evalset, picture

SHARD_ROWS = 10_000
METADATA_FILES = 64
BLOCK = 1 << 21
FILTER = "basic_filter & clip_score(l14, fraction=0.3) & ~contaminated"
L14, B32 = "clip_l14_similarity_score", "clip_b32_similarity_score"
THRESHOLD = 0.2440948486328125
REASONS = (
    "kept",
    "basic_filter: words",
    "basic_filter: size",
    "clip_score(l14, fraction=0.3)",
    "contaminated",
    "picture: broken",
)
KEPT, WORDS, SIZE, SCORE, COPY, BROKEN = range(6)
_HEADER, _SECTION = struct.Struct("<8sIIQQQQQQ"), struct.Struct("<24sQQQ")
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Simulation:
    """A pool of n samples in pool order, in shards of ``shard_rows``."""

    samples: int
    shard_rows: int = SHARD_ROWS

    @property
    def shards(self) -> int:
        return -(-self.samples // self.shard_rows)

    @property
    def step(self) -> int:
        """By which the rank of a sample among the sorted uids goes on: prime to the number of samples."""
        step = int(self.samples * 0.618) | 1
        while np.gcd(step, self.samples) != 1:
            step += 2
        return step

    def uids_of(self, samples: Ints) -> npt.NDArray[np.void]:
        """Distinct, and spread over all 128 bits; their order is that of ``rank_of``."""
        rank = (samples * self.step % self.samples).astype(np.uint64)
        return self._of_rank(rank)

    def _of_rank(self, rank: npt.NDArray[np.uint64]) -> npt.NDArray[np.void]:
        uids = np.empty(len(rank), UID_DTYPE)
        width = np.uint64((1 << 64) // self.samples)
        with np.errstate(over="ignore"):
            mixed = (rank ^ (rank >> np.uint64(7))) * np.uint64(0x9E3779B97F4A7C15)
        uids["f0"], uids["f1"] = rank * width + mixed % width, mixed
        return uids

    def of_rank(self, begin: int, end: int) -> tuple[npt.NDArray[np.void], Ints]:
        """The uids of these ranks, sorted, and the samples that have them."""
        rank = np.arange(begin, end, dtype=np.int64)
        inverse = pow(self.step, -1, self.samples)
        # the product of two numbers below 2^31 fits; larger pools would need more
        return self._of_rank(rank.astype(np.uint64)), rank * inverse % self.samples

    def kind_of(self, samples: Ints) -> npt.NDArray[np.uint8]:
        """A number of ``REASONS``: three in ten are kept, one in a thousand is broken."""
        with np.errstate(over="ignore"):
            mixed = samples.astype(np.uint64) * np.uint64(0xD6E8FEB86659FD93)
        draw = (mixed >> np.uint64(33)) % np.uint64(1000)
        return np.searchsorted(np.array([300, 420, 640, 990, 999]), draw, side="right").astype(np.uint8)

    def code_of(self, samples: Ints) -> npt.NDArray[np.uint64]:
        """What the filter said of the metadata row: of a broken picture it knows nothing."""
        kinds = self.kind_of(samples).astype(np.uint64)
        # the reasons of the filter's expression, in its order
        codes = np.array([0, 1, 3, 6, 7, 0], np.uint64)
        return codes[kinds]


def _tar(path: Path, rows: int) -> None:
    """A tar of small pictures with captions: each picture has some kilobytes, as a thumbnail has."""
    from PIL import Image

    rng = np.random.default_rng(1)
    pictures = []
    for _ in range(16):
        coarse = rng.integers(0, 256, (9, 12, 3), dtype=np.uint8)
        out = io.BytesIO()
        Image.fromarray(coarse).resize((256, 192), Image.Resampling.BICUBIC).save(out, "JPEG", quality=88)
        pictures.append(out.getvalue())
    with tarfile.open(path, "w") as tar:
        for row in range(rows):
            caption = f"a picture of number {row} with some clouds, taken in the evening"
            for ext, data in (
                ("jpg", pictures[row % 16]),
                ("json", b'{"uid": "' + b"0" * 32 + b'"}'),
                ("txt", caption),
            ):
                entry = tarfile.TarInfo(f"{row:09d}.{ext}")
                payload = data.encode() if isinstance(data, str) else data
                entry.size = len(payload)
                tar.addfile(entry, io.BytesIO(payload))


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # a file has so many names, and no more
        os.symlink(source, target)


class _Template:
    """The index segment of some equal shards, in which names and uids are exchanged."""

    def __init__(self, tar: Path, shards: int, folder: Path) -> None:
        place = folder / "template.dcx"
        write_segment([(tar, f"{n:08d}.tar") for n in range(shards)], place)
        self.data = bytearray(place.read_bytes())
        place.unlink()
        self.sections = {}
        for number in range(_HEADER.unpack_from(self.data)[2]):
            name, offset, size, _ = _SECTION.unpack_from(self.data, _HEADER.size + number * _SECTION.size)
            self.sections[name.rstrip(b"\0").decode()] = (offset, size)

    def write(self, path: Path, names: list[str], uids: npt.NDArray[np.void]) -> None:
        for section, content in (("shard_names", "".join(names).encode()), ("uid", uids.tobytes())):
            offset, size = self.sections[section]
            assert len(content) == size
            self.data[offset : offset + size] = content
        path.write_bytes(self.data)


def _index(out: Path, tar: Path, simulation: Simulation) -> list[tuple[int, int]]:
    """The segments and ``index.json``; (first shard, shards) of each."""
    (out / "index").mkdir(parents=True)
    names = [f"{n:08d}.tar" for n in range(simulation.shards)]
    layout = [(first, len(group)) for first, group in group_files(names, MAX_SEGMENTS)]
    templates: dict[int, _Template] = {}
    for number, (first, count) in enumerate(layout):
        if count not in templates:
            templates[count] = _Template(tar, count, out)
        samples = np.arange(first * simulation.shard_rows, (first + count) * simulation.shard_rows)
        uids = simulation.uids_of(samples)
        templates[count].write(out / segment_path(number), names[first : first + count], uids)
        signatures = np.zeros(len(samples), SIGNATURE_DTYPE)
        signatures["width"], signatures["height"] = 256, 192
        signatures["h0"], signatures["h1"] = uids["f1"], uids["f0"]
        signatures["phash"] = uids["f0"] ^ uids["f1"]
        save_array(out / signature_path(number), signatures, sync=False)
    (out / "index/index.json").write_text(json.dumps({"shards": len(names), "segments": layout}))
    return layout


def _sorted_files(out: Path, simulation: Simulation, piece_rows: int) -> dict[str, int]:
    """``pool.npy``, ``filter/outcomes.npy`` and the subsets, in blocks of sorted uids; rows of the subsets."""
    n, rows = simulation.samples, simulation.shard_rows
    blocks = [(begin, min(begin + BLOCK, n)) for begin in range(0, n, BLOCK)]
    (out / "filter").mkdir(exist_ok=True)

    def pool(begin: int, end: int) -> npt.NDArray[np.void]:
        uids, samples = simulation.of_rank(begin, end)
        row_ids = (samples // rows).astype(np.uint64) << np.uint64(32) | (samples % rows).astype(np.uint64)
        return uid_records(uids, row_ids)

    def outcomes(begin: int, end: int) -> npt.NDArray[np.void]:
        uids, samples = simulation.of_rank(begin, end)
        in_piece = (samples % piece_rows).astype(np.uint64)
        return uid_records(uids, simulation.code_of(samples) << np.uint64(CODE_SHIFT) | in_piece)

    def kept(begin: int, end: int) -> npt.NDArray[np.void]:
        uids, samples = simulation.of_rank(begin, end)
        return uids[simulation.kind_of(samples) == KEPT]

    def passing(begin: int, end: int) -> npt.NDArray[np.void]:
        uids, samples = simulation.of_rank(begin, end)
        return uids[simulation.code_of(samples) == 0]

    def copies(begin: int, end: int) -> npt.NDArray[np.void]:
        uids, samples = simulation.of_rank(begin, end)
        return uids[simulation.kind_of(samples) == COPY]

    write_npy(out / "index/pool.npy", (n,), RECORD_DTYPE, (pool(*block) for block in blocks))
    write_npy(out / OUTCOMES, (n,), RECORD_DTYPE, (outcomes(*block) for block in blocks))
    counts = {}
    for name, part in (("subset.npy", kept), (METADATA_SUBSET, passing), ("contaminated.npy", copies)):
        counts[name] = sum(len(part(*block)) for block in blocks)
        write_npy(out / name, (counts[name],), UID_DTYPE, (part(*block) for block in blocks))
    return counts


def _metadata(pool: Path, simulation: Simulation) -> None:
    """A file a shard; beyond the first, links."""
    (pool / "metadata").mkdir(parents=True)
    rng = np.random.default_rng(2)
    for shard in range(simulation.shards):
        path = pool / "metadata" / f"{shard:08d}.parquet"
        if shard >= METADATA_FILES:
            _link(pool / "metadata" / f"{shard % METADATA_FILES:08d}.parquet", path)
            continue
        samples = np.arange(shard * simulation.shard_rows, (shard + 1) * simulation.shard_rows)
        kinds = simulation.kind_of(samples)
        score = np.where(kinds == SCORE, 0.1, 0.3) + rng.random(len(samples)) * 0.05
        table = {
            "uid": pa.array(uid_format(simulation.uids_of(samples), threads=1)),
            "text": ["two words" if kind == WORDS else f"the picture of number {i}" for i, kind in enumerate(kinds)],
            "url": [f"https://example.org/{i}.jpg" for i in samples],
            "original_width": np.where(kinds == SIZE, 100, 640),
            "original_height": np.full(len(samples), 480),
            L14: score.astype(np.float32),
            B32: (score - 0.02).astype(np.float32),
        }
        pq.write_table(pa.table(table), path)


def _runs(out: Path, simulation: Simulation, files: int) -> None:
    """The sorted outcomes of each piece of the metadata."""
    groups = group_files([str(n) for n in range(files)])
    (out / "state/filter/outcomes").mkdir(parents=True)
    for number, (first, group) in enumerate(groups):
        samples = np.arange(first * simulation.shard_rows, (first + len(group)) * simulation.shard_rows)
        in_piece = np.arange(len(samples), dtype=np.uint64)
        payload = simulation.code_of(samples) << np.uint64(CODE_SHIFT) | in_piece
        save_array(
            out / outcome_run(number), record_sort(uid_records(simulation.uids_of(samples), payload)), sync=False
        )


def _tables(out: Path, simulation: Simulation, layout: list[tuple[int, int]]) -> dict[str, int]:
    """Fates, quarantine and evidence with their parts; rows of each kind of sample."""
    rows, texts = simulation.shard_rows, pa.array(REASONS)
    groups = group_segments([count for _, count in layout])
    counts = np.zeros(len(REASONS), np.int64)
    for part, group in enumerate(groups):
        begin = layout[group[0]][0] * rows
        end = (layout[group[-1]][0] + layout[group[-1]][1]) * rows
        samples = np.arange(begin, end)
        kinds = simulation.kind_of(samples)
        counts += np.bincount(kinds, minlength=len(REASONS))
        shards = pa.array([f"{n:08d}.tar" for n in range(begin // rows, end // rows)])
        keys = pa.array([f"{n:09d}" for n in range(rows)])
        fate = np.where(kinds == KEPT, 0, np.where(kinds == BROKEN, 2, 1))
        table = pa.table(
            {
                "shard": shards.take(pa.array(samples // rows - begin // rows)),
                "row": pa.array((samples % rows).astype(np.uint32)),
                "key": keys.take(pa.array(samples % rows)),
                "uid": pa.array(uid_format(simulation.uids_of(samples), threads=1)),
                "fate": pa.array(["kept", "dropped", "quarantined"]).take(pa.array(fate)),
                "reason": texts.take(pa.array(kinds, mask=kinds == KEPT)),
            },
            schema=fate_schema(),
        )
        _write(out / part_path("fates", part), table)
        broken = table.filter(pa.array(kinds == BROKEN))
        _write(out / part_path("quarantine", part), broken.drop_columns(["fate"]))
    hits = 0
    for number, (first, count) in enumerate(layout):
        samples = np.arange(first * rows, (first + count) * rows)
        samples = samples[simulation.kind_of(samples) == COPY]
        hits += len(samples)
        _write(out / part_path(EVIDENCE_TABLE, number), _evidence(simulation, samples))
    for name, number, size in (
        ("fates", len(groups), simulation.samples),
        ("quarantine", len(groups), int(counts[BROKEN])),
        (EVIDENCE_TABLE, len(layout), hits),
    ):
        combine(out, table=name, parts=[part_path(name, n) for n in range(number)], rows=size)
    return dict(zip(REASONS, counts.tolist(), strict=True))


def _write(path: Path, table: pa.Table) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with table_writer(path, table.schema) as writer:
        writer.write_table(table)


def _evidence(simulation: Simulation, samples: Ints) -> pa.Table:
    rows, n = simulation.shard_rows, len(samples)
    return pa.table(
        {
            "shard": [f"{shard:08d}.tar" for shard in samples // rows],
            "row": (samples % rows).astype(np.uint32),
            "key": [f"{row:09d}" for row in samples % rows],
            "uid": pa.array(uid_format(simulation.uids_of(samples), threads=1)),
            "evalset": [f"set-{sample % 38}" for sample in samples],
            "evalset_shard": ["0.tar"] * n,
            "evalset_key": [f"s{sample % 50_000:07d}" for sample in samples],
            "method": ["content" if sample % 3 == 0 else "perceptual" for sample in samples],
            "distance": np.where(samples % 3 == 0, 0, samples % 9).astype(np.uint8),
            "score": pa.nulls(n, pa.float32()),
        },
        schema=evidence_schema(),
    )


def _summaries(out: Path, simulation: Simulation, kinds: dict[str, int], rows: dict[str, int]) -> None:
    n, kept, broken = simulation.samples, kinds["kept"], kinds["picture: broken"]
    fates = {"kept": kept, "dropped": n - kept - broken, "quarantined": broken, "missing": 0, "unlisted": 0}
    copies = kinds["contaminated"]
    recorded = [
        summaries.IndexSummary(n, simulation.shards, 3 * n, 9_000 * n, n, segments=1, rows_with_uid=n),
        summaries.SignaturesSummary(
            True, n, 0, {"ok": n}, [summaries.ComparedSet(f"set-{i}", 50_000) for i in range(38)]
        ),
        summaries.DecontaminateSummary(True, rows["contaminated.npy"], copies, copies // 3, 0, copies, 8),
        summaries.FilterSummary(
            FILTER,
            fates,
            rows["subset.npy"],
            {f"{L14}:0.3": repr(THRESHOLD)},
            {"expression": FILTER},
            metadata_rows=n,
            metadata_outcomes={"kept": rows[METADATA_SUBSET], **{r: kinds[r] for r in REASONS[1:BROKEN]}},
            subset_metadata=rows[METADATA_SUBSET],
            reasons={r: kinds[r] for r in REASONS[1:]},
        ),
        summaries.ReshardSummary(simulation.shards, kept),
        summaries.VerifySummary(True),
    ]
    for summary in recorded:
        (out / "state" / f"{summary.stage}.json").write_text(json.dumps(plain(summary)))
    times = [{"step": f"{s.stage}/all", "seconds": 60.0, "pieces": 100} for s in recorded]
    (out / "state/timings.jsonl").write_text("".join(json.dumps(line) + "\n" for line in times))


def simulate(folder: Path, samples: int, shard_rows: int = SHARD_ROWS) -> tuple[Path, Settings, Simulation]:
    """Writes ``FOLDER/pool`` and ``FOLDER/run``; ``samples`` is rounded up to whole shards."""
    simulation = Simulation(-(-samples // shard_rows) * shard_rows, shard_rows)
    pool, out = folder / "pool", folder / "run"
    (pool / "shards").mkdir(parents=True)
    tar = folder / "shard.tar"
    _tar(tar, shard_rows)
    for shard in range(simulation.shards):
        _link(tar, pool / "shards" / f"{shard:08d}.tar")
    _metadata(pool, simulation)
    for name in ("signatures", "state"):
        (out / name).mkdir(parents=True)
    settings = Settings(scale="medium", pool=str(pool), filter=FILTER, train=False, evalsets=str(folder / "evalsets"))
    evalset(folder / "evalsets", "set-0", {"s0": picture(1)})
    (out / "state/settings.json").write_text(json.dumps(asdict(settings)))
    layout = _index(out, tar, simulation)
    groups = group_files([str(n) for n in range(simulation.shards)])
    rows: dict[str, Any] = _sorted_files(out, simulation, len(groups[0][1]) * shard_rows)
    _runs(out, simulation, simulation.shards)
    _summaries(out, simulation, _tables(out, simulation, layout), rows)
    return out, settings, simulation


if __name__ == "__main__":
    made, _, _ = simulate(Path(sys.argv[1]), int(sys.argv[2]))
    print(made)
