"""Descriptors of pictures, by which edited copies are found: models that make unit vectors, and their names.

``isc:FILE``    ISC's ``isc_ft_v107`` (Yokoo, "Contrastive Learning with Large Memory Bank and Negative Embedding
                Subtraction for Accurate Copy Detection", 2021), which DataComp used: timm's tf_efficientnetv2_m, its
                last features averaged (GeM with p = 1), a linear layer to 256 without bias, BatchNorm, unit length.
``sscd:FILE``   SSCD's published TorchScript (Pizzi et al., "A Self-Supervised Descriptor for Image Copy Detection",
                2022). Such a file is a program, and is run only where that was asked for.
``NAME:TAG``    the image tower of any CLIP model (``dcfast.models.load_model``).

Each may end in ``@SHA256``, of the file of weights, which is then checked before anything of it is read.
"""

from __future__ import annotations

import argparse
import os
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np
import numpy.typing as npt

from dcfast.errors import CheckpointError, CorruptDataError, first_line
from dcfast.images.costs import BadImage
from dcfast.images.decode import check_resized, decode_image, quiet
from dcfast.models.checkpoint import load_weights, read_checkpoint
from dcfast.models.clip import ClipModel, load_model
from dcfast.models.devices import one_thread
from dcfast.process.libraries import require_library
from dcfast.process.read_ahead import read_ahead
from dcfast.storage.hashing import sha256_file
from dcfast.storage.inputs import check_input

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image
    from torch import Tensor

ISC, SSCD = "isc", "sscd"
ISC_NAME = "isc_ft_v107"
ISC_DIM = 256
ISC_THRESHOLD = 0.604169
"""DataComp's: a picture whose best inner product with an evaluation picture is as high is dropped."""
SSCD_THRESHOLD = 0.75
"""Of SSCD's authors: 90% precision on DISC."""
MOST_DIM = 8192
BATCH = 32
"""Pictures a forward pass."""
_ISC_FEATURES = 512
"""Of the backbone's last stage."""
_ISC_SIDE, _SSCD_SIDE = 512, 320
_HALF = (0.5, 0.5, 0.5)
_IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_GEM_LEAST = 1e-6
_WEIGHTS = (".pt", ".pth", ".bin", ".safetensors")
"""Ends of files of weights: no tag ends so."""
_HEX = frozenset("0123456789abcdef")

Descriptors = npt.NDArray[np.float32]
"""(n, d) unit vectors; a row of zeros where there is no descriptor."""


@dataclass(frozen=True)
class DescriptorSpec:
    """A model as it was asked for.

    Attributes:
        kind: ``isc``, ``sscd``, or the name of a CLIP model.
        weights: a file; of a CLIP model also a tag, or None where the name brings its own.
        sha256: that the file must have; empty: any.
    """

    kind: str
    weights: str | None
    sha256: str = ""

    @property
    def name(self) -> str:
        """By which descriptors of this kind are known; which weights made them, their SHA-256 says."""
        if self.kind == ISC:
            return ISC_NAME
        stem = Path(self.weights or "").name.partition(".")[0]
        return self.kind if self.kind != SSCD else stem if stem.startswith(SSCD) else f"{SSCD}_{stem}"

    @property
    def file(self) -> str | None:
        """The weights as a file, where they are one."""
        return os.path.abspath(self.weights) if self.weights is not None and os.path.isfile(self.weights) else None


@dataclass(frozen=True)
class DescriptorModel:
    """A model that makes descriptors, ready to use.

    Attributes:
        sha256: of its weights, 64 hex characters.   dim: width of a descriptor.
        preprocess: PIL picture -> float32 (3, height, width).
        encode: (n, 3, height, width) on the model's device -> (n, dim) float32, of unit length.
    """

    name: str
    sha256: str
    dim: int
    preprocess: Callable[[Image], Tensor]
    encode: Callable[[Tensor], Tensor]
    device: str


def usual_threshold(name: str) -> float | None:
    """The inner product from which descriptors of a model are of one picture; None where nobody has said one."""
    if name == ISC_NAME:
        return ISC_THRESHOLD
    return SSCD_THRESHOLD if name.startswith(SSCD) else None


def parse_descriptor(text: str) -> DescriptorSpec:
    """``isc:FILE``, ``sscd:FILE`` or ``NAME:TAG``, each perhaps with ``@SHA256``; ValueError says what is wrong."""
    given, at, digest = text.rpartition("@")
    if at and len(digest) == 64 and set(digest.lower()) <= _HEX:
        text = given
    else:
        digest = ""
    if text.startswith(("local-dir:", "hf-hub:")):
        return DescriptorSpec(text, None, digest.lower())
    kind, colon, weights = text.partition(":")
    if not kind or not colon or not weights:
        raise ValueError(
            f"a descriptor must be isc:FILE, sscd:FILE or NAME:TAG of a CLIP model (ViT-B-32:openai); got {text!r}: "
            "give one of these"
        )
    if kind in (ISC, SSCD):
        weights = os.path.abspath(os.path.expanduser(weights))
    return DescriptorSpec(kind, weights, digest.lower())


def check_descriptor(spec: DescriptorSpec, *, run_torchscript: bool = False) -> None:
    """Raises what ``load_descriptor`` would of a missing file or library, or a program that may not run; reads none."""
    if spec.kind not in (ISC, SSCD):
        weights = spec.weights or ""
        if (os.sep in weights or weights.endswith(_WEIGHTS)) and not os.path.exists(weights):
            raise FileNotFoundError(f"descriptor {spec.kind}: {weights}: no such file; give its file, or a tag")
        return
    require_library("torch", f"descriptor {spec.name}")
    if spec.kind == ISC:
        require_library("timm", f"descriptor {ISC_NAME}", "pip install timm")
    try:
        check_input(str(spec.weights))
    except FileNotFoundError:
        raise FileNotFoundError(
            f"descriptor {spec.kind}: {spec.weights}: no such file; give the file of weights that was downloaded"
        ) from None
    if spec.kind == SSCD and not run_torchscript:
        raise CheckpointError(
            f"descriptor {spec.kind}: {spec.weights} is TorchScript, a program of whoever wrote it, and loading it "
            "runs it; give --run-torchscript if you trust where it comes from (and @SHA256 behind its name)"
        )


def _checked_sha256(spec: DescriptorSpec) -> str:
    """The SHA-256 of a file of weights; CorruptDataError where it is not the one that was asked for."""
    found = sha256_file(str(spec.weights))
    if spec.sha256 and found != spec.sha256:
        raise CorruptDataError(
            f"descriptor {spec.kind}: {spec.weights} has SHA-256 {found}; expected {spec.sha256}: download it again",
            path=str(spec.weights),
        )
    return found


def load_descriptor(spec: DescriptorSpec, *, device: str = "cpu", run_torchscript: bool = False) -> DescriptorModel:
    """A model that makes descriptors.

    Args:
        run_torchscript: SSCD's files are programs; without it they are refused.
    Raises:
        CheckpointError: weights of another architecture; TorchScript without leave.
        CorruptDataError: another SHA-256 than was asked for; a file cut off or damaged.
        FileNotFoundError, MissingDependencyError, ValueError: see ``check_descriptor`` and ``load_model``.
    Memory: the weights, twice while they load.
    """
    check_descriptor(spec, run_torchscript=run_torchscript)
    if spec.kind == ISC:
        return _load_isc(spec, device)
    if spec.kind == SSCD:
        return _load_sscd(spec, device)
    if spec.file is not None:
        _checked_sha256(spec)
    clip = load_model(spec.kind, spec.weights, device=device)
    if spec.sha256 and clip.content_hash != spec.sha256:
        raise CorruptDataError(
            f"descriptor {spec.kind}: its weights have SHA-256 {clip.content_hash}; expected {spec.sha256}: name others"
        )
    encoder = cast("Callable[[Tensor], Tensor]", clip.model.encode_image)
    preprocess = partial(_as_clip, clip)
    return DescriptorModel(spec.name, clip.content_hash, clip.embed_dim, preprocess, partial(_unit, encoder), device)


def _as_clip(clip: ClipModel, image: Image) -> Tensor:
    check_resized(image, clip.image_size)
    return clip.preprocess(image)


def _unit(encoder: Callable[[Tensor], Tensor], pictures: Tensor) -> Tensor:
    import torch

    return torch.nn.functional.normalize(encoder(pictures).float(), dim=1)


def isc_network(weights: str | None = None) -> torch.nn.Module:
    """ISC's network in eval mode, on the CPU; with the weights of a file, or those that torch draws.

    The published file holds the namespace of its training's options beside the weights: that one class may be in it,
    its content is not looked at, and no code of the file is run.
    """
    import timm
    import torch

    class Network(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.backbone = timm.create_model("tf_efficientnetv2_m", features_only=True, pretrained=False)
            self.fc = torch.nn.Linear(_ISC_FEATURES, ISC_DIM, bias=False)
            self.bn = torch.nn.BatchNorm1d(ISC_DIM)

        def forward(self, pictures: Tensor) -> Tensor:
            # GeM: the mean of what is above a least value, for p = 1
            pooled = self.backbone(pictures)[-1].clamp(min=_GEM_LEAST).mean(dim=(2, 3))
            result: Tensor = self.bn(self.fc(pooled))
            return result

    network = Network()
    if weights is not None:
        load_weights(network, read_checkpoint(weights, also=(argparse.Namespace,)), weights, ISC_NAME)
    return network.eval()


def _load_isc(spec: DescriptorSpec, device: str) -> DescriptorModel:
    digest = _checked_sha256(spec)
    network = isc_network(spec.weights).to(device)
    preprocess = partial(_squashed, side=_ISC_SIDE, mean=_HALF, std=_HALF)
    return DescriptorModel(ISC_NAME, digest, ISC_DIM, preprocess, partial(_unit, network), device)


def _load_sscd(spec: DescriptorSpec, device: str) -> DescriptorModel:
    import torch

    digest, path = _checked_sha256(spec), str(spec.weights)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch would have people export anew; these files are as they are
            program = torch.jit.load(path, map_location=device).eval()  # type: ignore[no-untyped-call]
        with torch.inference_mode():
            made = program(torch.zeros((1, 3, _SSCD_SIDE, _SSCD_SIDE), device=device))
    except (RuntimeError, ValueError, TypeError) as error:
        raise CorruptDataError(
            f"descriptor {spec.kind}: {path} is no TorchScript that takes pictures ({first_line(error)[:160]}); "
            "download it again",
            path=path,
        ) from error
    if not isinstance(made, torch.Tensor) or made.ndim != 2 or not 1 <= made.shape[1] <= MOST_DIM:
        raise CheckpointError(
            f"descriptor {spec.kind}: {path} makes no descriptor of a picture (expected (n, d) numbers, d at most "
            f"{MOST_DIM:,}); give one of SSCD's files"
        )
    preprocess = partial(_squashed, side=_SSCD_SIDE, mean=_IMAGENET[0], std=_IMAGENET[1])
    return DescriptorModel(spec.name, digest, int(made.shape[1]), preprocess, partial(_unit, program), device)


def _squashed(image: Image, *, side: int, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """(3, side, side) float32: squashed to a square, bilinear and antialiased as Pillow does it, mean and std taken."""
    import torch
    from PIL.Image import Resampling

    pixels = np.asarray(image.convert("RGB").resize((side, side), Resampling.BILINEAR), np.float32) / 255
    scaled = (pixels - np.asarray(mean, np.float32)) / np.asarray(std, np.float32)
    return torch.from_numpy(np.ascontiguousarray(scaled.transpose(2, 0, 1), np.float32))


def describe(model: DescriptorModel, pictures: Sequence[Callable[[], bytes]], *, threads: int = 1) -> Descriptors:
    """The descriptors of encoded pictures.

    Args:
        pictures: each gives the bytes of one; BadImage where there are none.
        threads: that decode; on the CPU the model computes in one, so that its bits are the same everywhere.
    Returns:
        (n, dim) float32; zeros for what has no picture, does not decode, or of which the model makes no finite numbers.
    Memory: two batches of 32 decoded pictures as the model takes them, and a decoded picture a thread.
    """
    import torch

    def prepared(encoded: Callable[[], bytes]) -> Tensor | None:
        try:
            return model.preprocess(decode_image(encoded()))
        except BadImage:
            return None

    result = np.zeros((len(pictures), model.dim), np.float32)
    with quiet, one_thread(model.device), torch.inference_mode():
        decoded = read_ahead(prepared, pictures, threads=threads, ahead=BATCH, name="dcfast-decode")
        rows: list[int] = []
        batch: list[Tensor] = []

        def compute() -> None:
            made = model.encode(torch.stack(batch).to(model.device)).cpu().numpy()
            made[~np.isfinite(made).all(axis=1)] = 0
            result[rows] = made
            rows.clear()
            batch.clear()

        for row, picture in enumerate(decoded):
            if picture is not None:
                rows.append(row)
                batch.append(picture)
            if len(batch) == BATCH:
                compute()
        if batch:
            compute()
    return result
