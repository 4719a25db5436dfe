"""What the benches must show: each bar is a ratio of medians of one comparison, or a peak of memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

Row = dict[str, Any]
Value = float | None
Sense = Literal["least", "most"]
Wanted = tuple[float | None, float | None]


@dataclass(frozen=True)
class Bar:
    """median(over) / median(under) of the rows of ``op``; with sense "least" it must be ``bar`` or more.

    ``measured`` may be "peak_bytes": then it is a ratio of peaks of memory. A peak by itself names its provider in
    ``over`` and leaves ``under`` empty: megabytes. ``ours`` and ``peer`` are the providers whose times the table of the
    README shows, ``floor`` the one that does only what must be done.
    """

    name: str
    bench: str
    work: str
    op: str
    over: str
    under: str
    sense: Sense
    bar: float | None
    stretch: float | None
    floor: str = ""
    measured: str = "median_s"

    @property
    def ours(self) -> str:
        return self.under if self.under.startswith("dcfast") and not self.over.startswith("dcfast") else self.over

    @property
    def peer(self) -> str:
        return self.over if self.ours == self.under else self.under

    @property
    def unit(self) -> str:
        return "x" if self.under else " MB"

    @property
    def wanted(self) -> str:
        return self._text(self.bar)

    @property
    def stretch_wanted(self) -> str:
        return self._text(self.stretch)

    def _text(self, value: float | None) -> str:
        return "none" if value is None else f"{'>=' if self.sense == 'least' else '<='} {value:g}{self.unit}"

    def is_met(self, value: float) -> bool:
        if self.bar is None:
            return True
        return value >= self.bar if self.sense == "least" else value <= self.bar


DALI = "DALI wds2idx"
DCFAST_NUMBERS = "dcfast, by random numbers"
BASELINES = "DataComp baselines.py"
DATACOMP = "DataComp resharder.py"
FAISS = "faiss IndexFlatIP"
FAISS_BINARY = "faiss IndexBinaryFlat"
FAISS_L2 = "faiss IndexFlatL2 and sums"
CHECKPOINTED = "dcfast, a checkpoint being written"
DECODE_FLOOR = "floor: libjpeg decodes grey"
RGB_FLOOR = "floor: libjpeg decodes RGB"
FASTTEXT = "fastText's predict alone"
GNU_TAR = "GNU tar -tv"
IMG2DATASET = "img2dataset"
IMAGEHASH = "imagehash.phash"
README_WAY = "DataComp's README way"
LOCAL = "dcfast, local files"
FAR = "dcfast, object server, 20 ms"
WANTED = "what is wanted"
IN_ORDER = "dcfast, in order, pages dropped"
SHUFFLED = "dcfast, shuffled, pages dropped"
WEBDATASET = "webdataset, skipping"
WEBDATASET_ORDER = "webdataset, in order"
WEBDATASET_SHUFFLED = "webdataset, shuffled"
TORCH_LOGITS = "the formula in torch, with logits"
MODEL_ALONE = "the model alone, on tensors"
MEMORY_READ = "floor: read of memory"
OPEN_CLIP = "open_clip, eager"
OPEN_CLIP_LOADER = "open_clip's loader"
TORCHVISION_LOADER = "webdataset + torchvision v2"
LOADER_FLOOR = "floor: the core's crops alone"
ARROW_FLOOR = "floor: Arrow reads uids, writes a table"
GCLD3_FLOOR = "floor: gcld3 of the rows that need it"
PREAD_FLOOR = "floor: one pread a member"
PRODUCT_FLOOR = "floor: BLAS product alone"
PILLOW_THEN_MODEL = "Pillow, then the model"
TRAFFIC_FLOOR = "floor: read and write"


def _index(name: str, work: str, over: str, under: str, sense: Sense, wanted: Wanted, floor: str = "") -> Bar:
    return Bar(name, "bench_tar_index", work, "tar_index", over, under, sense, *wanted, floor=floor)


def _uids(name: str, work: str, peer: str, wanted: Wanted, floor: str) -> Bar:
    op = name.removesuffix("_vs_numpy").removesuffix("_vs_datacomp")
    return Bar(name, "bench_uid_set", work, op, peer, "dcfast", "least", *wanted, floor=floor)


def _dataset(name: str, op: str, peer: str, bar: float, under: str = "dcfast") -> Bar:
    work = f"a pool by DataLoader, {'by random numbers' if under != 'dcfast' else op.removeprefix('dataset_')}"
    return Bar(name, "bench_pool_dataset", work, op, peer, under, sense="least", bar=bar, stretch=None)


def _decode(quality: int) -> tuple[Bar, ...]:
    op = f"decode_q{quality}"
    work = f"JPEG of 512 pixels, quality {quality}, to a crop of 224"
    sides = (
        Bar(f"{op}_vs_floor", "bench_decode", work, op, "dcfast", RGB_FLOOR, "most", 1.7, 1.5, RGB_FLOOR),
        Bar(f"{op}_vs_pillow", "bench_decode", work, op, "Pillow", "dcfast", "least", 2, None, RGB_FLOOR),
    )
    threads = ("dcfast", "dcfast, 2 threads", "least", 1.9, None)
    return (*sides, Bar(f"{op}_threads", "bench_decode", f"{work}, one thread and two", f"{op}_threads", *threads))


def _remote() -> tuple[Bar, ...]:
    """Rates of the one beside the other, so times the other way round; and bytes."""
    name, work = "bench_remote", "30% of a pool, decoded"
    sent = ("remote_bytes", FAR, WANTED, "most", 1.05, None, "", "peak_bytes")
    return (
        Bar("object_server_vs_local", name, f"{work}, by ranges", "object_server", LOCAL, FAR, "least", 0.8, 0.9),
        Bar("object_server_bytes", name, f"{work}, bytes", *sent),
        Bar(
            "shuffled_uids_vs_in_order", name, f"{work}, shuffled", "shuffled_uids", IN_ORDER, SHUFFLED, "least", 0.9, 1
        ),
    )


def _features(name: str, model: str) -> tuple[Bar, Bar]:
    op, work = f"features_{name}", f"features of a segment by {model}"
    alone = Bar(f"{op}_vs_model", "bench_features", work, op, MODEL_ALONE, "dcfast", "least", 0.9, 0.95)
    return alone, Bar(f"{op}_vs_pillow", "bench_features", work, op, PILLOW_THEN_MODEL, "dcfast", "least", None, None)


def _acquire(name: str, work: str, under: str) -> Bar:
    return Bar(name, "bench_acquire", work, "acquire", IMG2DATASET, under, sense="least", bar=1.5, stretch=None)


def _filters(name: str, rows: str, bar: float, floor: str = "") -> tuple[Bar, Bar]:
    """Seconds and memory of a filter, beside DataComp's; image_based_10k is image_based with 10,000 clusters."""
    op, work = f"filter_{name}", f"{name}, {rows} rows"
    faster = Bar(
        f"{op}_vs_datacomp",
        "bench_filters",
        f"stage filter: {work}",
        op,
        BASELINES,
        "dcfast",
        "least",
        bar,
        None,
        floor,
    )
    least = ("dcfast", BASELINES, "most", 1, None, "", "peak_bytes")
    return faster, Bar(f"{op}_memory_vs_datacomp", "bench_filters", f"its memory: {work}", f"{op}_memory", *least)


def _loader(quality: int) -> tuple[Bar, ...]:
    """CPU time an image, beside the peers'."""
    work, op = f"training loader, 512-pixel JPEG q{quality}, CPU time", f"loader_uint8_q{quality}"
    return tuple(
        Bar(f"{op}_vs_{name}", "bench_loader", work, op, peer, "dcfast", "least", bar, stretch, LOADER_FLOOR)
        for name, peer, bar, stretch in (
            ("open_clip", OPEN_CLIP_LOADER, 3, 4),
            ("torchvision", TORCHVISION_LOADER, 1.7, 2.2),
        )
    )


def _loss(cell: str, bar: float, stretch: float) -> Bar:
    name, work = f"clip_loss_{cell}", f"CLIP loss and gradients, {cell} of 48 cells"
    return Bar(f"{name}_vs_open_clip", "bench_loss", work, name, OPEN_CLIP, "dcfast", "least", bar, stretch)


def _hamming(op: str, work: str, bar: float | None, stretch: float | None) -> Bar:
    return Bar(f"{op}_vs_faiss", "bench_hamming", work, op, FAISS_BINARY, "dcfast", "least", bar, stretch)


def _similarity(label: str) -> tuple[Bar, ...]:
    """Exact searches beside faiss; 3x and 4x are asked for where there is AMX, 1x and 1.3x of AVX2 on both sides."""
    shape = f"{'100k' if label == '512' else '20k'} x 50k x {label.replace('_', ', ')}"
    work = {"topk_1": "best of inner products", "topk_10": "ten best", "join": "all pairs from 0.6"}
    return tuple(
        Bar(
            f"{op}_{label}_vs_faiss",
            "bench_similarity",
            f"{what}, {shape}",
            f"{op}_{label}",
            FAISS,
            "dcfast",
            "least",
            1,
            1.3,
            PRODUCT_FLOOR,
        )
        for op, what in work.items()
    )


def _memory(name: str, bench: str, work: str) -> Bar:
    return Bar(name, bench, work, name.removesuffix("_mb"), "dcfast", "", "most", 300, None)


BARS: tuple[Bar, ...] = (
    _index("tar_index_vs_dali", "index, no uid, 1 thread", DALI, "dcfast", "least", (15, 18), PREAD_FLOOR),
    _index("tar_index_vs_gnu_tar", "index, no uid, 1 thread", GNU_TAR, "dcfast", "least", (4, None), PREAD_FLOOR),
    _index("tar_index_vs_pread_floor", "index, no uid, beside its floor", "dcfast", PREAD_FLOOR, "most", (None, 1.2)),
    _index("tar_index_uid_vs_no_uid", "index with uid, beside none", "dcfast, with uid", "dcfast", "most", (2, 1.3)),
    _memory("memory_index_mb", "bench_tar_index", "memory to index 800 shards"),
    _uids("uid_sort_vs_numpy", "sort 10M uids", "np.sort", (20, 30), "floor: count and scatter"),
    _uids("uid_isin_vs_numpy", "which of 1M uids are in 10M", "np.isin", (100, 400), "floor: merge of sorted"),
    _uids("uid_parse_list_vs_datacomp", "parse 1M uids of a list", README_WAY, (20, 40), TRAFFIC_FLOOR),
    _uids("uid_parse_arrow_vs_datacomp", "parse 1M uids of an Arrow buffer", README_WAY, (100, 300), TRAFFIC_FLOOR),
    Bar(
        name="reshard_shell_vs_datacomp",
        bench="bench_reshard",
        work="reshard 30%, whole process",
        op="reshard_shell",
        over=DATACOMP,
        under="dcfast",
        sense="least",
        bar=15,
        stretch=25,
    ),
    Bar(
        name="reshard_vs_cp",
        bench="bench_reshard",
        work="reshard 30% in process, no fsync",
        op="reshard",
        over="dcfast",
        under="cp of the output",
        sense="most",
        bar=1.8,
        stretch=1.2,
        floor="floor: pread and write",
    ),
    _memory("memory_reshard_mb", "bench_reshard", "memory to reshard 800 shards"),
    Bar(
        name="hash_members_vs_memory",
        bench="bench_hashing",
        work="XXH3-128 of members in memory, 1 thread",
        op="hash_members",
        over=MEMORY_READ,
        under="dcfast",
        sense="least",
        bar=0.8,
        stretch=0.95,
        floor=MEMORY_READ,
    ),
    Bar(
        name="phash_vs_imagehash",
        bench="bench_phash",
        work="perceptual hash of JPEGs, 1 thread",
        op="phash",
        over=IMAGEHASH,
        under="dcfast",
        sense="least",
        bar=3.5,
        stretch=None,
        floor=DECODE_FLOOR,
    ),
    *_decode(85),
    *_decode(95),
    *_features("tiny", "the teacher's model"),
    *_features("vit_b_32", "ViT-B-32"),
    _features("gpu", "ViT-B-32 on a GPU")[0],
    Bar(
        name="step_while_saving_vs_alone",
        bench="bench_checkpoint",
        work="the slowest training step, a checkpoint being written",
        op="checkpointed_step",
        over=CHECKPOINTED,
        under="dcfast",
        sense="most",
        bar=1.1,
        stretch=None,
    ),
    Bar(
        name="random_read_vs_webdataset",
        bench="bench_random_access",
        work="read 30% in random order, all bytes hashed",
        op="random_read",
        over=WEBDATASET,
        under="dcfast",
        sense="least",
        bar=5,
        stretch=10,
        floor="floor: one pread a sample",
    ),
    _dataset("dataset_shuffled_vs_webdataset", "dataset_shuffled", WEBDATASET_SHUFFLED, 2),
    _dataset("dataset_by_numbers_vs_webdataset", "dataset_shuffled", WEBDATASET_SHUFFLED, 2, DCFAST_NUMBERS),
    _dataset("dataset_ordered_vs_webdataset", "dataset_ordered", WEBDATASET_ORDER, 1),
    *_remote(),
    *(
        Bar(
            f"dedup_{name}_mb",
            "bench_dedup",
            f"memory of dedup, 1M signatures, {bits} bits",
            f"dedup_{name}",
            "dcfast",
            "",
            "most",
            2000,
            None,
        )
        for name, bits in (("perceptual256", 256), ("perceptual", 64))
    ),
    *_filters("no_filter", "3M", 12, ARROW_FLOOR),
    *_filters("clip_score", "3M", 12, ARROW_FLOOR),
    *_filters("laion2b", "3M", 6, GCLD3_FLOOR),
    Bar(
        name="filter_basic_filter_vs_fasttext",
        bench="bench_filters",
        work="stage filter: basic_filter, 3M rows",
        op="filter_basic_filter",
        over="dcfast",
        under=FASTTEXT,
        sense="most",
        bar=1.25,
        stretch=None,
    ),
    _filters("basic_filter", "3M", 0)[1],
    *_filters("image_based", "310k", 4),
    *_filters("image_based_10k", "310k", 3),
    *_filters("image_based_100k", "310k", 3),
    *_filters("image_based_intersect_clip_score", "310k", 4),
    _loss("worst", 1.6, 1.9),
    _loss("median", 1.9, 2.2),
    Bar(
        name="clip_loss_memory_mb",
        bench="bench_loss",
        work="memory of CLIP loss and gradients, N=4096",
        op="clip_loss_memory",
        over="dcfast",
        under="",
        sense="most",
        bar=41.9,
        stretch=None,
    ),
    _hamming("hamming_join", "hashes at most 8 bits apart, 1M x 100k", 12, 40),
    _hamming("hamming_join_crowded", "the same, skewed, 1% of them one hash", 12, 40),
    _hamming("hamming_join_256", "256 bits, at most 31 apart, 100k x 100k", None, None),
    Bar(
        name="kmeans_iteration_vs_faiss",
        bench="bench_kmeans",
        work="one iteration of k-means, 100k x 512, 1,000 centroids",
        op="kmeans_iteration",
        over=FAISS_L2,
        under="dcfast",
        sense="least",
        bar=2,
        stretch=3,
        floor=PRODUCT_FLOOR,
    ),
    *(bar for label in ("512", "256", "768", "1024", "512_fp16") for bar in _similarity(label)),
    Bar(
        name="s_cliploss_vs_torch",
        bench="bench_scores",
        work="s_cliploss, 131,072 pairs x 768, one shuffle",
        op="s_cliploss",
        over=TORCH_LOGITS,
        under="dcfast",
        sense="least",
        bar=2,
        stretch=3,
    ),
    _acquire("acquire_vs_img2dataset", "images of the net into shards, one core", "dcfast"),
    _acquire("acquire_exact_vs_img2dataset", "the same, pixel for pixel img2dataset's", "dcfast, exact"),
    *_loader(85),
    *_loader(95),
)


def row_of(rows: Sequence[Row], op: str, provider: str) -> Row | None:
    """The newest row of a provider in an op; rows are in the order they were written."""
    return next((row for row in reversed(rows) if row["op"] == op and row["provider"] == provider), None)


def latest_comparison(rows: Sequence[Row], op: str) -> list[Row]:
    """The rows of the last comparison of an op: those that share its date."""
    of_op = [row for row in rows if row["op"] == op]
    return [row for row in of_op if row["date_utc"] == of_op[-1]["date_utc"]] if of_op else []


def measure(bar: Bar, rows: Sequence[Row]) -> Value:
    """The bar's value in the last comparison; None where a side was absent."""
    compared = latest_comparison(rows, bar.op)
    over = row_of(compared, bar.op, bar.over)
    if not bar.under:
        return None if over is None or over.get("peak_bytes") is None else round(over["peak_bytes"] / 1e6, 1)
    return ratio(over, row_of(compared, bar.op, bar.under), bar.measured)


def ratio(over: Row | None, under: Row | None, measured: str = "median_s") -> Value:
    values = [row.get(measured) if row is not None else None for row in (over, under)]
    if values[0] is None or values[1] is None:
        return None
    return float(f"{values[0] / values[1]:.4g}")
