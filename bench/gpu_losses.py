"""The contrastive losses that the GPU bench compares, and the float64 reference that judges them all."""

from __future__ import annotations

import importlib
import importlib.util
import sys
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize


@dataclass(frozen=True)
class Batch:
    """Features in the dtype that is compared, and the logit scale (a leaf in float32)."""

    image: Tensor
    text: Tensor
    scale: Tensor

    @property
    def shape(self) -> str:
        return f"N={self.image.shape[0]} D={self.image.shape[1]}"

    @property
    def dtype(self) -> str:
        return str(self.image.dtype).removeprefix("torch.")


@dataclass(frozen=True)
class Answer:
    """Loss and gradients."""

    loss: Tensor
    image: Tensor
    text: Tensor
    scale: Tensor

    def finite(self) -> bool:
        return all(bool(torch.isfinite(x).all()) for x in (self.loss, self.image, self.text, self.scale))


Loss = Callable[[Tensor, Tensor, Tensor], Tensor]


def make_batch(
    n: int,
    d: int,
    dtype: torch.dtype,
    device: torch.device,
    *,
    scale: float = 14.2857,
    like: float = 0.2,
    seed: int = 0,
) -> Batch:
    """Random unit features; ``like`` is how much of its image a text has (0.2: the start of training)."""
    generator = torch.Generator(device=device).manual_seed(seed)

    def random() -> Tensor:
        return normalize(torch.randn(n, d, generator=generator, device=device), dim=1)

    image = random()
    text = normalize(like * image + (1 - like) * random(), dim=1)
    leaves = [x.to(dtype).requires_grad_() for x in (image, text)]
    return Batch(*leaves, torch.tensor(scale, device=device, requires_grad=True))


def step(loss: Loss, batch: Batch) -> Answer:
    """Forward and backward; gradients are fresh tensors."""
    value = loss(batch.image, batch.text, batch.scale)
    grads = torch.autograd.grad(value, (batch.image, batch.text, batch.scale))
    return Answer(value.detach(), *grads)


def clip_reference(batch: Batch, rows: int = 1024) -> Answer:
    """float64, some rows at a time: 8 N^2 D operations and rows x N x 8 bytes, at any batch size."""
    image, text = batch.image.detach().double(), batch.text.detach().double()
    n, s = len(image), batch.scale.detach().double()
    row_lse = torch.empty(n, dtype=torch.float64, device=image.device)
    col_lse = torch.full_like(row_lse, -torch.inf)
    parts = [slice(i, min(i + rows, n)) for i in range(0, n, rows)]
    for part in parts:
        z = s * (image[part] @ text.t())
        row_lse[part] = z.logsumexp(1)
        col_lse = torch.logaddexp(col_lse, z.logsumexp(0))
    positive = s * (image * text).sum(1)
    loss = ((row_lse - positive).mean() + (col_lse - positive).mean()) / 2
    d_image, d_text = torch.empty_like(image), torch.zeros_like(text)
    for part in parts:
        z = s * (image[part] @ text.t())
        g = (z - row_lse[part, None]).exp() + (z - col_lse[None]).exp()
        g.diagonal(part.start).sub_(2)
        d_image[part] = g @ text
        d_text.addmm_(g.t(), image[part])
    d_scale = (image * d_image).sum() / (2 * n)
    return Answer(loss, d_image * s / (2 * n), d_text * s / (2 * n), d_scale)


def naive_clip(image: Tensor, text: Tensor, scale: Tensor) -> Tensor:
    """Two cross entropies of the stored matrix of logits, in the features' own dtype; for small batches."""
    logits = scale.to(image.dtype) * image @ text.t()
    labels = torch.arange(len(image), device=image.device)
    loss = (cross_entropy(logits, labels) + cross_entropy(logits.t(), labels)) / 2
    return loss.float()


def siglip_reference(batch: Batch, bias: float) -> Answer:
    """float64 autograd; for small batches."""
    image, text, s = (x.detach().double().requires_grad_() for x in (batch.image, batch.text, batch.scale))
    sign = 2 * torch.eye(len(image), dtype=torch.float64, device=image.device) - 1
    loss = -torch.nn.functional.logsigmoid(sign * (s * image @ text.t() + bias)).sum() / len(image)
    return Answer(loss.detach(), *torch.autograd.grad(loss, (image, text, s)))


def errors(found: Answer, wanted: Answer) -> dict[str, float]:
    """Relative l2 errors (absolute where the wanted value is 0; the scale's beside 1e-2 at least: its terms cancel)."""
    out = {}
    for name in ("loss", "image", "text", "scale"):
        value, right = getattr(found, name).double(), getattr(wanted, name).double()
        norm = float(right.norm())
        floor = 1e-2 if name == "scale" else 0.0
        out[name] = float((value - right).norm()) / (max(norm, floor) or 1.0)
    return out


# --- providers ------------------------------------------------------------------------------------------------


def dcfast_clip() -> Loss:
    """Ours."""
    from dcfast.loss.functional import clip_loss

    return clip_loss


def open_clip_module(wheels: Path | None) -> object | None:
    """open_clip's module of losses: installed, or read from a wheel (it needs torch alone)."""
    try:
        return importlib.import_module("open_clip.loss")
    except ImportError:
        path = None if wheels is None else wheels / "open_clip" / "loss.py"
        if path is None or not path.exists():
            return None
        spec = importlib.util.spec_from_file_location("open_clip_loss", path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module


def open_clip_clip(wheels: Path | None) -> Loss | None:
    """open_clip's ClipLoss for features of half precision, as under autocast in its own training."""
    module = open_clip_module(wheels)
    if module is None:
        return None
    loss = module.ClipLoss()  # type: ignore[attr-defined]

    def call(image: Tensor, text: Tensor, scale: Tensor) -> Tensor:
        half = image.dtype in (torch.bfloat16, torch.float16)
        with torch.autocast(image.device.type, dtype=image.dtype if half else torch.bfloat16, enabled=half):
            value: Tensor = loss(image, text, scale)
        return value

    return call


def inf_cl_clip() -> Loss | None:
    """Inf-CL's tiled loss, both directions; it computes in float32 (TF32) and wants D in multiples of 256."""
    try:
        from inf_cl import cal_flash_loss
    except ImportError:
        return None
    except Exception as error:  # whatever a peer dislikes in this torch or Triton is no reason to stop
        print(f"  Inf-CL is there, but cannot be imported: {type(error).__name__}: {error}", flush=True)
        return None

    def call(image: Tensor, text: Tensor, scale: Tensor) -> Tensor:
        by_row, by_col = cal_flash_loss(image, text, None, scale), cal_flash_loss(text, image, None, scale)
        value: Tensor = (by_row.mean() + by_col.mean()) / 2
        return value

    return call


def cce_clip(filter_eps: str | None) -> Loss | None:
    """cut-cross-entropy with texts as the classifier of images, and images as that of texts."""
    try:
        from cut_cross_entropy import linear_cross_entropy
    except ImportError:
        return None
    except Exception as error:  # whatever a peer dislikes in this torch or Triton is no reason to stop
        print(f"  cut-cross-entropy is there, but cannot be imported: {type(error).__name__}: {error}", flush=True)
        return None

    def call(image: Tensor, text: Tensor, scale: Tensor) -> Tensor:
        target = torch.arange(len(image), device=image.device)
        scaled, other = (image * scale).to(image.dtype), (text * scale).to(text.dtype)
        by_row = linear_cross_entropy(scaled, text, target, filter_eps=filter_eps)
        by_col = linear_cross_entropy(other, image, target, filter_eps=filter_eps)
        value: Tensor = (by_row + by_col) / 2
        return value

    return call


def unpack_wheels(directory: str | None, out: Path) -> Path | None:
    """Unpacks the wheels of a directory and puts them at the end of the path; None without a directory."""
    if directory is None:
        return None
    target = out / "wheels"
    target.mkdir(parents=True, exist_ok=True)
    found = sorted(Path(directory).glob("*.whl"))
    if not found:
        raise FileNotFoundError(f"--wheels {directory}: no *.whl in it")
    for wheel in found:
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(target)
    sys.path.append(str(target))
    return target
