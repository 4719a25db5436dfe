"""Stage features on one segment, beside its model alone on the same batches in memory: processor time of all threads.

The pictures are JPEGs of 500 x 375 pixels, drawn, or those of DCFAST_REAL_DATA's pool. The stage reads the shard,
decodes, tokenizes, embeds and writes its files; the model alone has tensors of pictures and tokens. The stage's
embeddings must be those of the model alone, whose pictures open_clip's transform made one by one with Pillow. The
teacher is so small that decoding takes about as long; ViT-B-32 with weights of a seed is of the kind that DataComp
computes features with. Where there is a GPU, the stage is timed on it as well, by the clock.
"""

from __future__ import annotations

import io
import shutil
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bench import harness
from bench.bars import MODEL_ALONE, PILLOW_THEN_MODEL, Value
from bench.bench_phash import drawn_pictures, real_pictures
from bench.harness import Absent, Side, Timed, WrongAnswerError, require_equal

if TYPE_CHECKING:
    from dcfast.index.segments import Segment
    from dcfast.models.clip import ClipModel

MODELS = (("tiny", "dcfast-tiny", 512, 8), ("vit_b_32", "ViT-B-32", 24, 2))
"""Operation, model, pairs, and pairs of a quick run."""
ON_GPU = ("gpu", "ViT-B-32", 8192, 512)
NEAR = 2e-3
"""Of the GPU's half precision: the most by which unit embeddings differ from those of the same batches."""
Answer = dict[str, Any]


@dataclass(frozen=True)
class Work:
    """A shard, its index and what is in it, and the model to embed it."""

    folder: Path
    segment: Segment
    pictures: list[bytes]
    captions: list[str]
    clip: ClipModel
    device: str


def work_of(folder: Path, model: str, count: int, device: str) -> Work:
    from dcfast.images.costs import BadImage
    from dcfast.images.decode import decode_image
    from dcfast.index.build import write_segment
    from dcfast.index.segments import Segment
    from dcfast.models.clip import load_model

    pictures: list[bytes] = []
    given = real_pictures(2 * count) or drawn_pictures(min(count, 64))
    for data in given:
        try:
            decode_image(data)
        except BadImage:  # the pool has some
            continue
        pictures.append(data)
    pictures = [pictures[i % len(pictures)] for i in range(count)]
    captions = [f"picture {i} of a red house near the old bridge, in the morning" for i in range(count)]
    with tarfile.open(folder / "0.tar", "w") as shard:
        for i in range(count):
            for ext, content in (("jpg", pictures[i]), ("txt", captions[i].encode())):
                member = tarfile.TarInfo(f"{i:06d}.{ext}")
                member.size = len(content)
                shard.addfile(member, io.BytesIO(content))
    write_segment([(folder / "0.tar", "0.tar")], folder / "0.dcx")
    clip = load_model(model, device=device)
    return Work(folder, Segment.open(folder / "0.dcx"), pictures, captions, clip, device)


def by_processor(run: Callable[[], Answer]) -> Timed:
    """What all threads of this process took."""
    began = time.process_time()
    answer = run()
    return Timed(time.process_time() - began, answer)


def stage(work: Work) -> Answer:
    from dcfast.features.embed import embed_segment
    from dcfast.features.files import segment_file

    out = work.folder / "run"
    shutil.rmtree(out, ignore_errors=True)
    (out / segment_file(0, "status")).parent.mkdir(parents=True)
    embed_segment(work.segment, work.folder, [("l14", work.clip)], out, 0, device=work.device)
    return {what: np.load(out / segment_file(0, what, "l14")) for what in ("img", "txt", "score")}


def tensors_of(work: Work) -> list[tuple[Any, Any]]:
    """Pictures and tokens in batches as the stage has them, by open_clip's transform."""
    import torch
    from dcfast.features.embed import BATCH
    from dcfast.images.decode import load_image

    batches = []
    for begin in range(0, len(work.pictures), BATCH):
        part = slice(begin, begin + BATCH)
        pixels = torch.stack([work.clip.preprocess(load_image(data)) for data in work.pictures[part]])
        batches.append((pixels.to(work.device), work.clip.tokenizer(work.captions[part]).to(work.device)))
    return batches


def model_alone(work: Work, batches: Sequence[tuple[Any, Any]]) -> Answer:
    from dcfast.features.embed import encode
    from dcfast.models.devices import one_thread

    parts: dict[str, list[Any]] = {"img": [], "txt": [], "score": []}
    with one_thread(work.device):
        for pixels, tokens in batches:
            image = encode(work.clip.model.encode_image, pixels, work.device)
            text = encode(work.clip.model.encode_text, tokens, work.device)
            parts["img"].append(image.cpu().numpy().astype(np.float16))
            parts["txt"].append(text.cpu().numpy().astype(np.float16))
            parts["score"].append((image * text).sum(dim=1).cpu().numpy())
    return {what: np.concatenate(part) for what, part in parts.items()}


def check(provider: str, expected: Answer, answer: Answer) -> None:
    for what, values in expected.items():
        require_equal(provider, what, answer[what].ravel(), values.ravel())


def near(provider: str, expected: Answer, answer: Answer) -> None:
    for what, values in expected.items():
        most = float(np.abs(answer[what].astype(np.float32) - values.astype(np.float32)).max())
        if not most <= NEAR:
            raise WrongAnswerError(f"{provider}: {what} differs by {most:g} from the model alone")


def time_gpu(bench: harness.Bench) -> None:
    op, model, count, quick = ON_GPU
    count = quick if bench.options.quick else count
    shape, op = f"{count} pairs through {model} on one GPU, by the clock", f"features_{op}"
    import torch

    if not torch.cuda.is_available():
        sides = [Absent(name, "no GPU") for name in ("dcfast", MODEL_ALONE)]
        bench.compare(op, sides, shape=shape, dtype="float16")
        return
    with tempfile.TemporaryDirectory(prefix="dcfast-bench-features-") as folder:
        work = work_of(Path(folder), model, count, "cuda:0")
        batches = tensors_of(work)
        expected = model_alone(work, batches)
        runs = {"dcfast": partial(stage, work), MODEL_ALONE: partial(model_alone, work, batches)}
        bench.compare(
            op,
            [Side(name, run, partial(near, name, expected)) for name, run in runs.items()],
            shape=shape,
            dtype="float16",
        )


def time_model(bench: harness.Bench, op: str, model: str, count: int) -> None:
    with tempfile.TemporaryDirectory(prefix="dcfast-bench-features-") as folder:
        work = work_of(Path(folder), model, count, "cpu")
        batches = tensors_of(work)
        expected = model_alone(work, batches)
        sides: dict[str, Callable[[], Answer]] = {
            "dcfast": partial(stage, work),
            MODEL_ALONE: partial(model_alone, work, batches),
            PILLOW_THEN_MODEL: lambda: model_alone(work, tensors_of(work)),
        }
        bench.compare(
            f"features_{op}",
            [Side(name, partial(by_processor, run), partial(check, name, expected)) for name, run in sides.items()],
            shape=f"{count} pairs, {sum(map(len, work.pictures)) / 1e6:.1f} MB of JPEGs, through {model}",
            dtype="float32",
            rounds=3,
        )


def main(argv: Sequence[str] | None = None) -> dict[str, Value]:
    options = harness.parse_options("bench_features", argv, __doc__)
    bench = harness.Bench("bench_features", options)
    for op, model, count, quick in MODELS:
        time_model(bench, op, model, quick if options.quick else count)
    time_gpu(bench)
    return bench.finish()


if __name__ == "__main__":
    main()
    sys.exit(0)
