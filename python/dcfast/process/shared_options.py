"""Options that several commands have, each written once."""

from __future__ import annotations

from dcfast.process.options import Option

MOST_SEED = (1 << 63) - 1

DECODER = Option("of training; dali: whole batches", choices=("pil", "pil_reduced", "dali"))
DEVICE = Option("of models; auto: a GPU if there is one", choices=("auto", "cpu", "cuda"))
LOSS = Option("dcfast's fused loss, or open_clip's, the same function", choices=("dcfast", "open_clip"))
PRECISION = Option(
    "of evaluation: auto (as DataComp's: amp on a GPU, fp32 on the CPU), amp, fp32, or fp16 or bf16 weights "
    "(docs/evaluation.md)",
    choices=("auto", "amp", "fp32", "fp16", "bf16"),
)
SEED = Option("of everything drawn: the built-in world, initial weights, order and crops", least=0, most=MOST_SEED)
UID_FROM = Option(
    "uids of a pool: json (of the samples' json and of the metadata), or, for pools without uids, url or key: hashes "
    "of the url, or of shard name and key (docs/formats.md)",
    metavar="RULE",
    choices=("json", "url", "key"),
)
