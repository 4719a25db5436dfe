"""Checkpoint files as people have them: of wrapped models, with NumPy's numbers, as TorchScript, with odd names."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from dcfast.errors import CheckpointError, CorruptDataError
from dcfast.models.checkpoint import load_weights, read_checkpoint
from dcfast.models.clip import create_model, load_model, weights_hash


@pytest.fixture(scope="module")
def model() -> Any:
    return create_model("dcfast-tiny", seed=2)


WRAPPED = [
    "module.",
    "_orig_mod.",
    "module._orig_mod.",
    "_orig_mod.module.",
    "module.module._orig_mod.module.",
    "_fsdp_wrapped_module.",
    "_orig_mod._fsdp_wrapped_module.module.",
]


@pytest.mark.parametrize("prefix", WRAPPED)
def test_prefixes_of_wrappers_are_taken_off(prefix: str, model: Any) -> None:
    state = {prefix + name: value for name, value in model.state_dict().items()}
    other = create_model("dcfast-tiny", seed=3)
    load_weights(other, {"state_dict": state}, "c.pt", "dcfast-tiny")
    assert weights_hash(other) == weights_hash(model)


def test_parts_of_a_model_may_be_wrapped_by_themselves(model: Any) -> None:
    state = {}
    for name, value in model.state_dict().items():
        first, dot, rest = name.partition(".")
        state[f"module.{first}._orig_mod._checkpoint_wrapped_module.{rest}" if dot else f"module.{name}"] = value
    other = create_model("dcfast-tiny", seed=3)
    load_weights(other, state, "c.pt", "dcfast-tiny")
    assert weights_hash(other) == weights_hash(model)
    # two models in one file: which one is meant is not ours to say
    twice = {**state, **{f"_orig_mod.{name}": value for name, value in state.items()}}
    with pytest.raises(CheckpointError, match="twice, once with and once without the prefix of a wrapper"):
        load_weights(other, twice, "c.pt", "dcfast-tiny")


def test_numbers_and_arrays_of_numpy_are_read_beside_tensors(model: Any, tmp_path: Path) -> None:
    beside = {
        "best": np.float64(0.25),
        "epoch": np.int64(7),
        "half": np.float16(1.5),
        "done": np.bool_(True),
        "rng": np.arange(6, dtype=np.uint32).reshape(2, 3),
    }
    state = {**model.state_dict(), "logit_scale": np.float32(model.logit_scale.item())}
    torch.save({**beside, "state_dict": state}, tmp_path / "c.pt")
    content = read_checkpoint(tmp_path / "c.pt")
    for name, value in beside.items():
        assert np.array_equal(content[name], value), name
        assert content[name].dtype == value.dtype
    clip = load_model("dcfast-tiny", str(tmp_path / "c.pt"))
    assert weights_hash(clip.model) == weights_hash(model)


def test_names_of_an_older_numpy_are_known(tmp_path: Path) -> None:
    torch.save({"best": np.float64(0.25)}, tmp_path / "new.pt")
    torch.save({"best": np.float64(0.25)}, tmp_path / "old.pt", pickle_module=_Older)
    assert b"numpy.core.multiarray" in _pickle_of(tmp_path / "old.pt")
    assert read_checkpoint(tmp_path / "old.pt") == read_checkpoint(tmp_path / "new.pt") == {"best": np.float64(0.25)}


class _Older:
    """A pickle as NumPy 1 wrote it."""

    class Pickler(pickle._Pickler):  # type: ignore[name-defined]
        def save_global(self, obj: Any, name: str | None = None) -> None:
            if getattr(obj, "__module__", "") == "numpy._core.multiarray":
                self.write(pickle.GLOBAL + f"numpy.core.multiarray\n{obj.__name__}\n".encode())
                self.memoize(obj)
            else:
                super().save_global(obj, name)

        dispatch = {**pickle._Pickler.dispatch}  # type: ignore[attr-defined]

    Unpickler = pickle.Unpickler


def _pickle_of(path: Path) -> bytes:
    import zipfile

    with zipfile.ZipFile(path) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith("data.pkl")]
        return archive.read(name)


def test_arrays_of_python_objects_are_not_read(tmp_path: Path) -> None:
    torch.save({"x": np.array([{"a": 1}], dtype=object)}, tmp_path / "c.pt")
    with pytest.raises(CorruptDataError, match="holds other Python objects, which dcfast never loads"):
        read_checkpoint(tmp_path / "c.pt")


class Stranger:
    pass


def test_messages_hold_no_escape_codes(tmp_path: Path) -> None:
    torch.save({"state_dict": {}, "who": Stranger()}, tmp_path / "c.pt")
    with pytest.raises(CorruptDataError, match=r"c\.pt cannot be read as weights alone") as raised:
        read_checkpoint(tmp_path / "c.pt")
    assert str(raised.value).isprintable()


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_a_torchscript_archive_is_called_that(tmp_path: Path) -> None:
    torch.jit.save(torch.jit.script(torch.nn.Linear(3, 3)), str(tmp_path / "ViT-L-14.pt"))
    with pytest.raises(CheckpointError, match=r"ViT-L-14\.pt is a TorchScript archive, .*torch\.jit\.load"):
        load_model("dcfast-tiny", str(tmp_path / "ViT-L-14.pt"))


def test_openais_weights_need_their_activation(model: Any) -> None:
    sizes = {name: torch.tensor(7) for name in ("input_resolution", "context_length", "vocab_size")}
    state = {**model.state_dict(), **sizes}
    other = create_model("dcfast-tiny", seed=3)
    with pytest.raises(CheckpointError, match=r"trained with QuickGELU; .*Name the architecture dcfast-tiny-quick"):
        load_weights(other, state, "c.pt", "dcfast-tiny")
    load_weights(other, state, "c.pt", "dcfast-tiny-quickgelu")
    assert weights_hash(other) == weights_hash(model)


@pytest.mark.parametrize("key", ["state_dict", "model", "module", "model_state_dict"])
def test_weights_under_the_names_of_other_trainers(key: str, model: Any) -> None:
    state = {f"_forward_module.{name}": value for name, value in model.state_dict().items()}
    other = create_model("dcfast-tiny", seed=3)
    load_weights(other, {key: state, "epoch": 3}, "c.pt", "dcfast-tiny")
    assert weights_hash(other) == weights_hash(model)


@pytest.mark.parametrize("prefix", ["model.", "clip.", "_orig_mod.model.", "module.net.clip."])
def test_a_model_that_was_a_part_of_what_was_trained(prefix: str, model: Any) -> None:
    state = {prefix + name: value for name, value in model.state_dict().items()}
    beside = {"n_averaged": torch.tensor(3), "loss.weight": torch.ones(2)}
    other = create_model("dcfast-tiny", seed=3)
    load_weights(other, {"state_dict": {**state, **beside}}, "c.pt", "dcfast-tiny")
    assert weights_hash(other) == weights_hash(model)
    two = {**state, **{f"ema.{name}": value for name, value in state.items()}}
    with pytest.raises(CheckpointError, match=r"holds several models \(.*, ema\..*\); save the weights of one"):
        load_weights(other, two, "c.pt", "dcfast-tiny")
    with pytest.raises(CheckpointError, match=r"are unknown to the model: more; name its own$"):
        load_weights(other, {**state, f"{prefix}more": torch.ones(2)}, "c.pt", "dcfast-tiny")


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "is a pointer of git-lfs"),
        (b"\n<!DOCTYPE html><html>", "is a web page"),
        (b"\x10" + bytes(7) + b'{"__metadata__"', "has the bytes of safetensors; name it c.safetensors"),
    ],
)
def test_what_lies_there_in_place_of_a_checkpoint(data: bytes, said: str, tmp_path: Path) -> None:
    (tmp_path / "c.bin").write_bytes(data)
    with pytest.raises(CorruptDataError, match=said):
        read_checkpoint(tmp_path / "c.bin")


OTHER_TYPES: dict[str, Any] = {
    "int8": lambda v: v.to(torch.int8),
    "bool": lambda v: v > 0,
    "complex64": lambda v: v.to(torch.complex64),
    "float8_e4m3fn": lambda v: v.to(torch.float8_e4m3fn),
    "quantized": lambda v: torch.quantize_per_tensor(v, 0.1, 0, torch.qint8),
    "sparse_coo": lambda v: v.to_sparse(),
    "sparse_csr": lambda v: v.to_sparse_csr(),
    "a shape without numbers": lambda v: v.to("meta"),
}


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize("kind", OTHER_TYPES)
def test_numbers_of_another_type_are_not_cast(kind: str, model: Any) -> None:
    state = dict(model.state_dict())
    name = next(key for key, value in state.items() if value.dim() == 2 and value.is_floating_point())
    other = create_model("dcfast-tiny", seed=3)
    before = weights_hash(other)
    with pytest.raises(CheckpointError, match=rf"c\.pt has other numbers than .*: {name} is .*{kind}.* there, float32"):
        load_weights(other, {**state, name: OTHER_TYPES[kind](state[name])}, "c.pt", "dcfast-tiny")
    assert weights_hash(other) == before
    for whole in (torch.float16, torch.bfloat16, torch.float64):
        load_weights(other, {key: v.to(whole) if v.is_floating_point() else v for key, v in state.items()}, "c.pt", "x")


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")
def test_a_scale_of_another_kind_is_told_too(model: Any) -> None:
    state = dict(model.state_dict())
    state["logit_scale"] = state["logit_scale"].to_sparse()
    with pytest.raises(CheckpointError, match="logit_scale is sparse_coo"):
        load_weights(create_model("dcfast-tiny", seed=3), state, "c.pt", "dcfast-tiny")
