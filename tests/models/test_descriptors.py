"""Models of descriptors: loaders with random weights of the published keys, and what is refused."""

from __future__ import annotations

import argparse
import hashlib
import io
import pickle
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dcfast.errors import CheckpointError, CorruptDataError
from dcfast.images.costs import BadImage
from dcfast.models.checkpoint import read_checkpoint
from dcfast.models.clip import create_model
from dcfast.models.descriptors import (
    ISC_THRESHOLD,
    SSCD_THRESHOLD,
    DescriptorModel,
    check_descriptor,
    describe,
    isc_network,
    load_descriptor,
    parse_descriptor,
    usual_threshold,
)
from pool_builder import picture

torch = pytest.importorskip("torch")


def readers(count: int, **kind: Any) -> list[Any]:
    return [lambda n=n: picture(n, **kind) for n in range(count)]


@pytest.fixture(scope="module")
def isc_weights(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A file like the published one: the weights behind a wrapper's prefix, and the options of its training."""
    path = tmp_path_factory.mktemp("isc") / "isc_ft_v107.pth.tar"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        network = isc_network()
        for module in network.backbone.modules():
            if isinstance(module, torch.nn.BatchNorm2d):  # as drawn, rounding grows from layer to layer without end
                torch.nn.init.constant_(module.weight, 0.3)
                torch.nn.init.normal_(module.bias, std=0.3)
        state = {f"module.{name}": value for name, value in network.state_dict().items()}
    options = argparse.Namespace(arch="tf_efficientnetv2_m_in21ft1k", lr=0.1, gem_eval_p=1.0, sizes=[1, 2])
    torch.save({"epoch": 9, "arch": options.arch, "state_dict": state, "args": options}, path)
    yield path
    path.unlink()


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.long
@pytest.mark.slow
def test_isc_is_the_network_of_its_authors(isc_weights: Path) -> None:
    """Against the construction written out by hand: squashed to 512, features averaged, projected, normalised."""
    import timm
    from PIL import Image

    model = load_descriptor(parse_descriptor(f"isc:{isc_weights}@{sha256(isc_weights)}"))
    assert (model.name, model.sha256, model.dim) == ("isc_ft_v107", sha256(isc_weights), 256)
    made = describe(model, readers(2))
    state = {
        k.removeprefix("module."): v
        for k, v in read_checkpoint(isc_weights, also=(argparse.Namespace,))["state_dict"].items()
    }
    backbone = timm.create_model("tf_efficientnetv2_m", features_only=True, pretrained=False).eval()
    backbone.load_state_dict({k.removeprefix("backbone."): v for k, v in state.items() if k.startswith("backbone.")})
    for row in range(2):
        image = Image.open(io.BytesIO(picture(row))).convert("RGB").resize((512, 512), Image.Resampling.BILINEAR)
        pixels = torch.from_numpy(np.asarray(image, np.float32).transpose(2, 0, 1).copy()) / 255 * 2 - 1
        with torch.inference_mode():
            features = torch.clamp(backbone(pixels[None])[-1], min=1e-6)
            pooled = torch.nn.functional.avg_pool2d(features, features.shape[-2:]).flatten(1)
            projected = pooled @ state["fc.weight"].T
            normed = torch.nn.functional.batch_norm(
                projected, state["bn.running_mean"], state["bn.running_var"], state["bn.weight"], state["bn.bias"]
            )
            expected = torch.nn.functional.normalize(normed)[0].numpy()
        assert np.abs(made[row] - expected).max() < 2e-5
    assert abs(float((made[0] ** 2).sum()) - 1) < 1e-5


@pytest.mark.slow
def test_isc_weights_that_are_not_whole_are_refused(isc_weights: Path, tmp_path: Path) -> None:
    with pytest.raises(CorruptDataError, match=r"has SHA-256 [0-9a-f]{64}; expected 0{64}: download it again"):
        load_descriptor(parse_descriptor(f"isc:{isc_weights}@{'0' * 64}"))
    (tmp_path / "cut").write_bytes(isc_weights.read_bytes()[:1_000_000])
    with pytest.raises(CorruptDataError, match=r"checkpoint .*cut .*cut off"):
        load_descriptor(parse_descriptor(f"isc:{tmp_path / 'cut'}"))
    with pytest.raises(CorruptDataError, match=r"Namespace"):  # nobody else lets that class in
        read_checkpoint(isc_weights)
    torch.save({"state_dict": {"fc.weight": torch.zeros(2, 2)}}, tmp_path / "other")
    with pytest.raises(
        CheckpointError, match=r"is of another architecture than isc_ft_v107: 1 parameters differ in shape"
    ):
        load_descriptor(parse_descriptor(f"isc:{tmp_path / 'other'}"))


class Stranger:
    pass


class Runs:
    def __reduce__(self) -> Any:
        return exec, ("raise SystemExit('it ran')",)


class Filled(argparse.Namespace):
    def __reduce__(self) -> Any:
        return argparse.Namespace, (), {"__class__": Stranger}


@pytest.mark.parametrize("value", [Stranger(), Runs(), {"a": Runs()}], ids=["class", "code", "code within"])
def test_no_other_class_may_be_in_a_file_of_weights(value: Any, tmp_path: Path) -> None:
    path = tmp_path / "weights"
    torch.save({"state_dict": {"a": torch.zeros(1)}, "args": value}, path)
    with pytest.raises(CorruptDataError, match=r"cannot be read as weights alone|which dcfast never loads"):
        read_checkpoint(path, also=(argparse.Namespace,))


def test_a_namespace_may_hold_anything_plain_and_no_class(tmp_path: Path) -> None:
    path = tmp_path / "weights"
    torch.save({"args": argparse.Namespace(a=[1, {"b": 2.5}], c=argparse.Namespace(d="e"))}, path)
    assert read_checkpoint(path, also=(argparse.Namespace,))["args"].c.d == "e"
    torch.save({"args": argparse.Namespace(a=Runs())}, path)
    with pytest.raises(CorruptDataError):
        read_checkpoint(path, also=(argparse.Namespace,))
    assert pickle.loads(pickle.dumps(Filled()))  # it is what it says
    torch.save({"args": Filled()}, path)
    with pytest.raises(CorruptDataError):
        read_checkpoint(path, also=(argparse.Namespace,))


def torchscript(path: Path, module: Any) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.trace(module, torch.zeros(1, 3, 320, 320)), str(path))
    return path


class Means(torch.nn.Module):  # type: ignore[misc, name-defined]
    """Four numbers of each colour."""

    def forward(self, pictures: Any) -> Any:
        return torch.nn.functional.adaptive_avg_pool2d(pictures, 2).flatten(1)


def test_sscd_is_run_only_by_leave(tmp_path: Path) -> None:
    path = torchscript(tmp_path / "sscd_disc_mixup.torchscript.pt", Means())
    spec = parse_descriptor(f"sscd:{path}")
    with pytest.raises(
        CheckpointError, match=r"TorchScript, a program of whoever wrote it, .*give --run-torchscript if"
    ):
        load_descriptor(spec)
    model = load_descriptor(spec, run_torchscript=True)
    assert (model.name, model.sha256, model.dim) == ("sscd_disc_mixup", sha256(path), 12)
    made = describe(model, readers(40), threads=2)
    assert np.allclose(np.linalg.norm(made, axis=1), 1, atol=1e-6)
    scores = made @ made.T
    assert np.abs(describe(model, readers(40)) - made).max() == 0
    smaller = describe(model, readers(40, size=(60, 50)))
    assert ((smaller * made).sum(axis=1) > np.sort(scores, axis=1)[:, -2] - 0.02).mean() > 0.9


@pytest.mark.parametrize(
    ("content", "problem"),
    [(b"", "no TorchScript"), (b"PK\x03\x04 and no more", "no TorchScript"), (b"text" * 99, "no TorchScript")],
)
def test_sscd_files_that_are_none_are_refused(content: bytes, problem: str, tmp_path: Path) -> None:
    (tmp_path / "sscd.pt").write_bytes(content)
    with pytest.raises(CorruptDataError, match=problem):
        load_descriptor(parse_descriptor(f"sscd:{tmp_path / 'sscd.pt'}"), run_torchscript=True)


def test_a_program_that_makes_no_vectors_is_refused(tmp_path: Path) -> None:
    path = torchscript(tmp_path / "sscd.pt", torch.nn.Identity())
    with pytest.raises(CheckpointError, match=r"makes no descriptor of a picture .*give one of SSCD's files"):
        load_descriptor(parse_descriptor(f"sscd:{path}"), run_torchscript=True)


def test_any_clip_tower(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    clip = create_model("dcfast-tiny", seed=3)
    save_file({k: v.contiguous() for k, v in clip.state_dict().items()}, tmp_path / "tiny.safetensors")
    digest = sha256(tmp_path / "tiny.safetensors")
    model = load_descriptor(parse_descriptor(f"dcfast-tiny:{tmp_path / 'tiny.safetensors'}@{digest.upper()}"))
    assert (model.name, model.sha256) == ("dcfast-tiny", digest)
    assert np.allclose(np.linalg.norm(describe(model, readers(3)), axis=1), 1, atol=1e-6)
    with pytest.raises(CorruptDataError, match=r"expected 1{64}"):
        load_descriptor(parse_descriptor(f"dcfast-tiny:{tmp_path / 'tiny.safetensors'}@{'1' * 64}"))


def test_what_has_no_picture_has_no_descriptor() -> None:
    def gone() -> bytes:
        raise BadImage("broken", "nothing there")

    def model_of(picture: Any) -> Any:
        means = picture.mean(dim=(2, 3))
        return torch.where(means > 0.9, torch.nan, means)

    def preprocess(image: Any) -> Any:
        return torch.from_numpy(np.asarray(image, np.float32).transpose(2, 0, 1).copy()) / 255

    model = DescriptorModel("means", "", 3, preprocess, model_of, "cpu")
    white = io.BytesIO()
    from PIL import Image

    Image.new("RGB", (96, 80), (255, 255, 255)).save(white, "PNG")
    made = describe(model, [readers(1)[0], gone, lambda: b"no picture", lambda: b"", lambda: white.getvalue()] * 10)
    assert made.any(axis=1).tolist() == [True, False, False, False, False] * 10


@pytest.mark.parametrize("text", ["", "isc", "isc:", ":weights", "ViT-B-32"])
def test_words_that_name_no_model(text: str) -> None:
    with pytest.raises(ValueError, match=r"a descriptor must be isc:FILE, sscd:FILE or NAME:TAG .*give one of these"):
        parse_descriptor(text)


def test_names_and_thresholds(tmp_path: Path) -> None:
    assert parse_descriptor("isc:w.tar").name == "isc_ft_v107"
    assert parse_descriptor("sscd:/a/sscd_imagenet_mixup.torchscript.pt").name == "sscd_imagenet_mixup"
    assert parse_descriptor("sscd:mine.pt").name == "sscd_mine"
    assert parse_descriptor("ViT-B-32:openai").name == "ViT-B-32"
    assert parse_descriptor("hf-hub:a/b@c").weights is None
    assert usual_threshold("isc_ft_v107") == ISC_THRESHOLD == 0.604169
    assert usual_threshold("sscd_imagenet_mixup") == SSCD_THRESHOLD
    assert usual_threshold("ViT-B-32") is None
    with pytest.raises(FileNotFoundError, match=r"descriptor isc: .*nothing: no such file; give the file of weights"):
        check_descriptor(parse_descriptor(f"isc:{tmp_path}/nothing"))
