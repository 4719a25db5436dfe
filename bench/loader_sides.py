"""One side of the loader's bench in a process of its own: ``python bench/loader_sides.py REQUEST``, JSON in, JSON out.

A side makes batches of 224-pixel uint8 pictures, (n, 3, 224, 224), and int64 tokens; ``float32`` asks for pictures that
are normalised, as open_clip's own loader gives them. The reply has the seconds from the start of the loader to its
first batch, to its last one, and the CPU seconds of this process and of all that it started; imports are left out.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Iterator
from typing import Any

SIDE = 224
MODEL = "ViT-B-32"
SHUFFLED = 1000  # samples in webdataset's buffer


def cpu_seconds() -> float:
    """Of this process, its threads, and its children that have ended."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(u.ru_utime + u.ru_stime for u in used)


def dcfast_batches(request: dict[str, Any]) -> Iterator[tuple[Any, Any]]:
    from pathlib import Path

    from dcfast.train import TrainSettings, TrainSource
    from dcfast.train.batch import BatchSpec
    from dcfast.train.loader import iterate_batches
    from dcfast.train.source import prepare_source

    batch = request["batch"]
    source = TrainSource(shards=request["shards_dir"])
    overrides = {"model": MODEL, "global_batch": batch, "samples_seen": 1 << 30, "crop_scale": 0.9}
    settings = TrainSettings(
        out=request["work"], sources=(source,), overrides=overrides, resample=False, seed=request["seed"]
    )
    spec = BatchSpec(settings, (prepare_source(source, Path(request["work"]), 0),), SIDE)
    feed = iterate_batches(spec, 0, request["batches"], request["workers"])
    for made in feed:
        images = made.images
        if request["form"] == "float32":  # as the training does it on its device
            images = images.float().div_(255).sub_(_normal(0)).div_(_normal(1))
        yield images, made.tokens


def _normal(which: int) -> Any:
    import torch
    from open_clip.constants import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD

    return torch.tensor((OPENAI_DATASET_MEAN, OPENAI_DATASET_STD)[which]).view(1, 3, 1, 1)


def open_clip_batches(request: dict[str, Any]) -> Iterator[tuple[Any, Any]]:
    """By open_clip's own loader, with its transform; for uint8 without the last steps of it."""
    from argparse import Namespace

    import open_clip
    from open_clip.transform import PreprocessCfg, image_transform_v2
    from open_clip_train.data import get_wds_dataset
    from torchvision.transforms import Compose, PILToTensor

    transform = image_transform_v2(PreprocessCfg(size=SIDE), is_train=True, aug_cfg={"scale": (0.9, 1.0)})
    if request["form"] == "uint8":
        transform = Compose([*transform.transforms[:2], PILToTensor()])
    arguments = Namespace(
        train_data=request["shards"],
        train_num_samples=request["batch"] * request["batches"],
        dataset_resampled=True,
        train_data_upsampling_factors=None,
        workers=request["workers"],
        batch_size=request["batch"],
        world_size=1,
        seed=request["seed"],
    )
    tokenizer = open_clip.get_tokenizer(MODEL)
    yield from get_wds_dataset(arguments, transform, is_train=True, tokenizer=tokenizer).dataloader


def torchvision_batches(request: dict[str, Any]) -> Iterator[tuple[Any, Any]]:
    """By webdataset with torchvision's own JPEG decoder and its second transforms, on uint8 tensors."""
    import open_clip
    import torch
    import webdataset
    from torch.utils.data import DataLoader
    from torchvision.io import ImageReadMode, decode_jpeg
    from torchvision.transforms import v2

    torch.set_num_threads(1)
    crop = v2.RandomResizedCrop(SIDE, scale=(0.9, 1.0), interpolation=v2.InterpolationMode.BICUBIC, antialias=True)
    tokenizer = open_clip.get_tokenizer(MODEL)

    def sample(members: dict[str, bytes]) -> tuple[Any, Any]:
        data = torch.frombuffer(bytearray(members["jpg"]), dtype=torch.uint8)
        return crop(decode_jpeg(data, mode=ImageReadMode.RGB)), tokenizer(members["txt"].decode())[0]

    dataset = webdataset.WebDataset(request["shards"].split("::"), resampled=True)
    dataset = dataset.shuffle(SHUFFLED).map(sample).batched(request["batch"], partial=False)
    # as many batches as are asked for, and no work beyond
    dataset = dataset.with_epoch(request["batches"] // request["workers"])
    yield from DataLoader(dataset, batch_size=None, num_workers=request["workers"])


SIDES = {"dcfast": dcfast_batches, "open_clip": open_clip_batches, "torchvision": torchvision_batches}


def run(request: dict[str, Any]) -> dict[str, Any]:
    """Makes ``batches`` batches, and looks at the form of each."""
    import torch

    wanted = {"uint8": torch.uint8, "float32": torch.float32}[request["form"]]
    before, began, first, count = cpu_seconds(), time.perf_counter(), 0.0, 0
    for images, tokens in SIDES[request["side"]](request):
        first = first or time.perf_counter() - began
        if images.shape[1:] != (3, SIDE, SIDE) or images.dtype != wanted or tokens.shape != (len(images), 77):
            raise SystemExit(f"{request['side']}: {images.dtype} {tuple(images.shape)}, tokens {tuple(tokens.shape)}")
        count += len(images)
    seconds = time.perf_counter() - began  # all have ended by themselves: their CPU time counts
    return {"images": count, "first_s": first, "seconds": seconds, "cpu_s": cpu_seconds() - before}


if __name__ == "__main__":
    asked = json.loads(sys.argv[1])
    sys.path[:0] = asked["paths"]
    # what a training has loaded by then, on all sides
    import open_clip  # noqa: F401
    import open_clip_train.data  # noqa: F401
    import torch  # noqa: F401

    print(json.dumps(run(asked)))
