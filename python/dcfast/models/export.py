"""A checkpoint as a folder that open_clip loads by itself: ``dcfast export``.

``open_clip.create_model_and_transforms("local-dir:DIR")`` and ``open_clip.get_tokenizer("local-dir:DIR")`` need no
dcfast then. The folder holds the configuration, the weights as safetensors, and, where the model has a shorter
vocabulary than CLIP, its merges.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from dcfast.errors import RunError
from dcfast.models.checkpoint import load_weights, read_checkpoint
from dcfast.models.clip import create_model, load_tokenizer, model_config, shortened_merges
from dcfast.models.folder import CONFIG
from dcfast.process.command import run_command
from dcfast.process.exit_codes import DONE
from dcfast.process.options import add_options, given_options, made_of, option
from dcfast.process.parser import ArgumentParser
from dcfast.process.terminal import log_printably, say
from dcfast.storage.atomic import atomic_path, write_bytes, write_json
from dcfast.storage.listing import is_temporary_name
from dcfast.storage.paths import absolute, make_directory, not_left_empty, path_argument

if TYPE_CHECKING:
    from open_clip import CLIP

WEIGHTS = "open_clip_model.safetensors"
"""The first name that open_clip looks for in a folder."""
MERGES = "bpe_simple_vocab.txt.gz"


@dataclass(frozen=True)
class ExportOptions:
    """A checkpoint, and the folder that it becomes."""

    checkpoint: str = option(
        "", "a .pt or .safetensors file, as train/checkpoints/epoch_5.pt of a run", flags=("checkpoint",),
        parse=path_argument, required=True,
    )  # fmt: skip
    out: str = option("", "the folder, new or empty", metavar="DIR", parse=path_argument, required=True)
    model: str | None = option(
        None, "an open_clip model, or dcfast-tiny", usual="the one that dcfast trained, which its checkpoints name"
    )


def export_model(checkpoint: str, out: str, model: str | None = None) -> str:
    """Writes a checkpoint as a folder for open_clip; returns the name of the model.

    Args:
        checkpoint: as ``load_model`` takes it.
        out: new or empty. The configuration is written last: without it a folder is no model.
        model: an open_clip model or ``dcfast-tiny``; None where the checkpoint is of dcfast's training.
    Raises:
        ValueError: the checkpoint does not say which model it is of; a tokenizer that is not CLIP's.
        RunError: ``out`` holds something already.   Others: ``load_model``.
    Memory: twice the weights.
    """
    from open_clip.tokenizer import SimpleTokenizer

    content = read_checkpoint(checkpoint)
    trained = content.get("name") if "dcfast" in content else None
    name = model or (trained if isinstance(trained, str) else None)
    if name is None:
        raise ValueError(f"checkpoint {checkpoint} does not say which model it is of; give --model NAME")
    clip = create_model(name, seed=0)
    if not isinstance(load_tokenizer(name), SimpleTokenizer):
        raise ValueError(f"model {name} has a tokenizer of transformers; export knows CLIP's alone")
    load_weights(clip, content, checkpoint, name)
    folder = make_directory(out, "--out")
    others = [p.name for p in folder.iterdir() if p.name not in (WEIGHTS, MERGES) and not is_temporary_name(p.name)]
    if others:
        raise RunError(f"--out {out} is not empty ({others[0]}); choose another folder, or remove it")
    _write_weights(clip, folder / WEIGHTS)
    write_json(folder / CONFIG, {"model_cfg": _own_config(name, folder), "preprocess_cfg": clip.visual.preprocess_cfg})
    return name


def _own_config(name: str, folder: Path) -> dict[str, object]:
    """The model's configuration as open_clip alone understands it; writes the merges of a short vocabulary."""
    config = model_config(name)
    text = config["text_cfg"]
    kwargs = dict(text.get("tokenizer_kwargs") or {})
    merges = kwargs.pop("bpe_merges", None)
    if merges is not None:
        write_bytes(folder / MERGES, shortened_merges(merges))
        # open_clip opens it as it stands, from any working directory
        kwargs["bpe_path"] = absolute(folder / MERGES)
        config = {**config, "text_cfg": {**text, "tokenizer_kwargs": kwargs}}
    return config


def _write_weights(clip: CLIP, path: Path) -> None:
    from safetensors.torch import save_file

    state = {key: value.contiguous() for key, value in clip.state_dict().items()}
    with atomic_path(path) as temporary:
        save_file(state, temporary, metadata={"format": "pt"})


def parser() -> ArgumentParser:
    """The command line of ``dcfast export``."""
    p = ArgumentParser(prog="dcfast export", description="A checkpoint as a folder that open_clip loads by itself.")
    add_options(p, ExportOptions)
    return p


def main(argv: Sequence[str] | None = None) -> int:
    """Entry of ``dcfast export``; returns the exit status."""
    args = parser().parse_args(argv)
    return run_command(lambda: _main(args), "stopped; the same command writes it")


def _main(arguments: argparse.Namespace) -> int:
    log_printably()
    args = made_of(ExportOptions, given_options(arguments, ExportOptions))
    with not_left_empty(args.out):
        name = export_model(args.checkpoint, args.out, args.model)
    say(f'{name}: open_clip.create_model_and_transforms("local-dir:{args.out}"), and model.eval() to embed')
    if (Path(args.out) / MERGES).exists():
        say(
            f'where the folder is moved: open_clip.get_tokenizer("local-dir:DIR", bpe_path="DIR/{MERGES}"), '
            "or export again"
        )
    return DONE


if __name__ == "__main__":
    sys.exit(main())
