"""Options that several commands have, each written once."""

from __future__ import annotations

import argparse
import os
from dataclasses import replace

from dcfast.process.options import Option

MOST_SEED = (1 << 63) - 1


def check_assumed(assume_gpu: bool, dry_run: bool) -> None:
    """ValueError where work that is to be done here is told of a GPU elsewhere."""
    if assume_gpu and not dry_run:
        raise ValueError("--assume-gpu is of a plan alone: add --dry-run, or leave --assume-gpu out")


def _names(text: str) -> list[str]:
    """``"b, a,b"`` as a sorted list of names, each once."""
    names = sorted({name.strip() for name in text.split(",")} - {""})
    if not names:
        raise argparse.ArgumentTypeError(f"expected names with commas between; got {text!r}")
    return names


ASSUME_GPU = Option("with --dry-run, on a machine without a GPU (a login node): the plan is for one that has a GPU")
CACHE_DIR = Option(
    "of training: keeps there what is read of URLs, for all processes of a node: a folder on a local disk",
    metavar="DIR",
    parse=os.path.expanduser,
)
CACHE_SIZE = Option("most that --cache-dir takes, in GB", metavar="GB", least=0.001, most=1e9)
CAPTION_FROM = Option(
    "captions that are trained on: txt, json:FIELD, or parquet:PATH:COLUMN by uid; of several, and of lists, one is "
    "drawn a sample; filters, features and duplicates go by txt and the metadata all the same",
    metavar="PLACE",
    usual="txt",
    gather=list,
)
CAPTION_WEIGHTS = Option(
    "how often each of --caption-from is drawn", metavar="W", usual="alike", parse=float, gather=list
)
COMPILE = Option(
    "compile the model (torch.compile), which takes minutes before the first step; the same but for rounding"
)
COPY_TO = Option(
    "a URL (s3://...) or folder that checkpoints and results of training are copied to as they are saved, and fetched "
    "from where --out has none",
    metavar="URL",
)
DECODER = Option("of training; dali: whole batches", choices=("pil", "pil_reduced", "dali"))
DEVICE = Option("of models; auto: a GPU if there is one", choices=("auto", "cpu", "cuda"))
EVAL_LIMIT = Option(
    "pictures of each evaluation set, spread over it (of WinoGAViL riddles): a look, and no score of DataComp's; "
    "prompts stay as many (ImageNet: 80,000): on a processor begin with --sets of few classes",
    least=1,
    usual="all of them",
)
EVAL_SETS = Option(
    "evaluation sets to score, by their keys or the NAME of wds_NAME_test", metavar="A,B", usual="all", parse=_names
)
SOME_SETS = Option(
    "these evaluation sets alone, by their keys or the NAME of wds_NAME_test", metavar="A,B", usual="all", parse=_names
)
EVALUATE_EVERY = Option(
    "score every N-th checkpoint of the recipe by a process beside the training", usual="never", least=1
)
EVALUATE_SETS = replace(SOME_SETS, help=f"with --evaluate-every: {SOME_SETS.help}")
FSDP = Option(
    "spread each parameter over the ranks (FSDP2), for models that do not fit on one GPU with gradients and optimizer; "
    "changes no result but by rounding"
)
LOSS = Option("dcfast's fused loss, or open_clip's, the same function", choices=("dcfast", "open_clip"))
PRECISION = Option(
    "of evaluation: auto (as DataComp's: amp on a GPU, fp32 on the CPU), amp, fp32, or fp16 or bf16 weights "
    "(docs/evaluation.md)",
    choices=("auto", "amp", "fp32", "fp16", "bf16"),
)
REPORT_TO = Option(
    "tell the steps to these as well: tensorboard, wandb (needs its own login, or WANDB_MODE=offline), trackio",
    metavar="A,B",
    usual="none",
    parse=_names,
)
SAMPLES_SEEN = Option("of training, instead of the recipe's: marked as non-standard", least=1, most=MOST_SEED)
SEED = Option("of everything drawn: the built-in world, initial weights, order and crops", least=0, most=MOST_SEED)
UID_FROM = Option(
    "uids of a pool: json (of the samples' json and of the metadata), or, for pools without uids, url or key: hashes "
    "of the url, or of shard name and key (docs/formats.md)",
    metavar="RULE",
    choices=("json", "url", "key"),
)
