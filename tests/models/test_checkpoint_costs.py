"""What a checkpoint may cost: no more memory than it has bytes, whatever its header, its pickle or its archive say."""

from __future__ import annotations

import io
import pickle
import re
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from dcfast.errors import CheckpointError, CorruptDataError
from dcfast.models import checkpoint_costs
from dcfast.models.checkpoint import read_checkpoint

torch = pytest.importorskip("torch")

ADVICE = ("weights_only", "add_safe_globals", "torch.load", "trust the source")


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value)) + value.encode()


def number(value: int) -> bytes:
    return b"\x8a\x08" + struct.pack("<q", value)


def named(module: str, name: str) -> bytes:
    return f"c{module}\n{name}\n".encode()


def pickled(value: bytes) -> bytes:
    """A dictionary with one value, made by these opcodes."""
    return b"\x80\x02}" + text("state") + value + b"s."


def tensor(stored: int, shape: int, stride: int = 1) -> bytes:
    storage = b"(" + text("storage") + named("torch", "FloatStorage") + text("0") + text("cpu") + number(stored) + b"tQ"
    sizes = b"(" + number(shape) + b"t(" + number(stride) + b"t\x89" + named("collections", "OrderedDict") + b")R"
    return named("torch._utils", "_rebuild_tensor_v2") + b"(" + storage + b"K\0" + sizes + b"tR"


def archive(
    value: bytes, data: bytes = bytes(16), method: int = zipfile.ZIP_STORED, name_of_pickle: str = "data.pkl"
) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as made:
        for name, content in ((name_of_pickle, pickled(value)), ("byteorder", b"little"), ("data/0", data)):
            made.writestr(f"archive/{name}", content)
        made.writestr("archive/version", "3\n")
    return out.getvalue()


def doubled(times: int) -> bytes:
    value = named("_codecs", "encode") + text("aaaa") + text("latin1") + b"\x86R"
    for _ in range(times):
        value = named("_codecs", "encode") + value + text("hex") + b"\x86R"
    return value


def old(value: bytes) -> bytes:
    """In the format before zip archives."""
    machine = {"protocol_version": 1001, "little_endian": True, "type_sizes": {"short": 2, "int": 4, "long": 4}}
    begin = b"".join(pickle.dumps(part, 2) for part in (0x1950A86A20F9469CFC6C, 1001, machine))
    return begin + pickled(value) + pickle.dumps([], 2)


def calls(module: str, name: str, given: bytes) -> bytes:
    return named(module, name) + b"(" + given + b"tR"


def doubled_tuple(times: int) -> bytes:
    """A tuple of twice a tuple of twice, and so on."""
    return b"K\1" + b"q\1h\1\x86" * times


def two_pickles(name: str) -> bytes:
    out = io.BytesIO(archive(tensor(4, 4)))
    with zipfile.ZipFile(out, "a") as made:
        made.writestr(f"archive/{name}", pickled(b"K\1"))
    return out.getvalue()


def two_directories() -> bytes:
    """One that ends where it must, and another of the same length where it is said to begin."""
    shown, hidden = archive(tensor(4, 4)), archive(named("__builtin__", "bytearray") + number(1) + b"\x85R", bytes(999))
    end, place = shown.index(b"PK\x05\x06"), shown.index(b"PK\x01\x02")
    directory = bytearray(shown[place:end])
    other = hidden[hidden.index(b"PK\x01\x02") : hidden.index(b"PK\x05\x06")]
    assert len(other) == len(directory)
    # zipfile adds to the places of members how far the directory is from where it is said to be
    before = hidden[: hidden.index(b"PK\x01\x02")] + other
    apart = len(other) + place
    for found in re.finditer(b"PK\x01\x02", bytes(directory)):
        (at,) = struct.unpack_from("<L", directory, found.start() + 42)
        struct.pack_into("<L", directory, found.start() + 42, at + len(before) - apart)
    last = bytearray(shown[end:])
    struct.pack_into("<L", last, 16, len(before) - len(other))
    return before + shown[:place] + bytes(directory) + bytes(last)


def overlapping() -> bytes:
    """Two entries of the directory for one member."""
    data = bytearray(archive(tensor(4, 4), bytes(4096)))
    entry = data.index(b"PK\x01\x02", data.index(b"archive/version"))
    at = data.index(b"archive/data/0", entry) - 46
    first = bytes(data[at : at + 46 + len("archive/data/0")])
    second = first.replace(b"archive/data/0", b"archive/data/1")
    end = data.index(b"PK\x05\x06")
    data[end:end] = second
    end += len(second)
    counts = struct.unpack_from("<HHL", data, end + 8)
    struct.pack_into("<HHL", data, end + 8, counts[0] + 1, counts[1] + 1, counts[2] + len(second))
    return bytes(data)


def many_tensors() -> bytes:
    head = b"{" + b",".join(b'"a%d":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}' % i for i in range(90_000)) + b"}"
    return struct.pack("<Q", len(head)) + head


SIX = b'{"dtype":"F32","shape":[2],"data_offsets":[0,8]}'
REFUSED: dict[str, tuple[str, Callable[[], bytes], str]] = {
    "a deflated archive": ("c.pt", lambda: archive(tensor(1 << 22, 1 << 22), bytes(1 << 24), 8), "is compressed"),
    "members that overlap": ("c.pt", overlapping, "its members overlap"),
    "something behind the archive": ("c.pt", lambda: archive(tensor(4, 4)) + bytes(30), "directory does not end"),
    "a bytearray of 3 GB": (
        "c.pt",
        lambda: archive(named("__builtin__", "bytearray") + number(3 << 30) + b"\x85R"),
        "it makes a bytearray",
    ),
    "the same, by a name that torch finds": (
        "c.pt",
        lambda: archive(named("__builtin__", "bytearray") + number(3 << 30) + b"\x85R", name_of_pickle="DATA.pKl"),
        "it makes a bytearray",
    ),
    "two directories": ("c.pt", two_directories, "two directories"),
    "two pickles": ("c.pt", lambda: two_pickles("DATA.PKL"), "two members of one name"),
    "the same, in the old format": (
        "c.pt",
        lambda: old(named("__builtin__", "bytearray") + number(3 << 30) + b"\x85R"),
        "it makes a bytearray",
    ),
    "a string doubled 30 times": ("c.pt", lambda: archive(doubled(30)), "it encodes by 'hex'"),
    "the same, in the old format too": ("c.pt", lambda: old(doubled(30)), "it encodes by 'hex'"),
    "a storage longer than its record": ("c.pt", lambda: archive(tensor(1 << 22, 4)), "does not match expected size"),
    "a view beyond its storage": ("c.pt", lambda: archive(tensor(4, 1 << 20)), "cannot be read"),
    "an array of NumPy that is not there": (
        "c.pt",
        lambda: archive(named("numpy", "ndarray") + b"(" + number(1 << 22) + b"t\x85R"),
        "it calls numpy.ndarray",
    ),
    "an array of NumPy without its numbers": (
        "c.pt",
        lambda: archive(
            named("numpy._core.multiarray", "_reconstruct")
            + b"("
            + named("numpy", "ndarray")
            + b"("
            + number(1 << 33)
            + b"t"
            + text("b")
            + b"tR"
        ),
        "an array of 8,589,934,592 numbers that are not there",
    ),
    "a number of NumPy of 2 GB": (
        "c.pt",
        lambda: archive(
            calls(
                "numpy._core.multiarray",
                "scalar",
                calls("numpy", "dtype", text("V2000000000") + b"\x89\x88") + text(""),
            )
        ),
        "a number of 2,000,000,000 bytes, of which 0",
    ),
    "a number that is repeated, of another type": (
        "c.pt",
        lambda: archive(
            calls(
                *("torch._utils", "_rebuild_device_tensor_from_cpu_tensor"),
                tensor(4, 1 << 20, 0) + named("torch", "float64") + text("cpu") + b"\x89",
            )
        ),
        "it calls torch._utils._rebuild_device_tensor_from_cpu_tensor",
    ),
    "a number that is repeated 2^40 times": (
        "c.pt",
        lambda: archive(tensor(4, 1 << 40, 0)),
        "1,099,511,627,776 numbers",
    ),
    "a set of what a tensor gives": (
        "c.pt",
        lambda: archive(calls("__builtin__", "set", tensor(4, 1 << 20, 0))),
        "it calls __builtin__.set of what",
    ),
    "an empty tensor of any size": (
        "c.pt",
        lambda: archive(calls("torch", "FloatTensor", number(1 << 30))),
        "FloatTensor",
    ),
    "a key that takes hours": (
        "c.pt",
        lambda: archive(b"}" + doubled_tuple(60) + b"K\0s"),
        r"would make [\d,]{20,} bytes",
    ),
    "the same, in the old format, too": (
        "c.pt",
        lambda: old(b"}" + doubled_tuple(60) + b"K\0s"),
        r"would make [\d,]{20,}",
    ),
    "one string encoded 1,000 times": (
        "c.pt",
        lambda: archive(
            b"(" + text("a" * 200_000) + b"q\1" + calls("_codecs", "encode", b"h\1" + text("latin1")) * 1000 + b"l"
        ),
        "would make",
    ),
    "another object": ("c.pt", lambda: archive(named("posix", "system") + text("true") + b"\x85R"), "posix.system"),
    "a header of 1 TB": ("c.safetensors", lambda: struct.pack("<Q", 1 << 40) + b"{}", "a header of 1,099,511,627,776"),
    "a header of 90,000 tensors": ("c.safetensors", many_tensors, r"a header of 5,[\d,]+ bytes"),
    "tensors that overlap": (
        "c.safetensors",
        lambda: (lambda head: struct.pack("<Q", len(head)) + head + bytes(8))(b'{"a":' + SIX + b',"b":' + SIX + b"}"),
        "invalid offset",
    ),
    "a header that is cut": ("c.safetensors", lambda: struct.pack("<Q", 1000) + b"{}", "cannot be read"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_would_take_more_than_its_bytes_is_named(name: str, tmp_path: Path) -> None:
    file, make, words = REFUSED[name]
    path = tmp_path / file
    path.write_bytes(make())
    with pytest.raises(CorruptDataError, match=words) as refused:
        read_checkpoint(path)
    message = str(refused.value)
    assert str(path) in message
    assert message.isprintable()
    assert not [advice for advice in ADVICE if advice in message]


@pytest.mark.parametrize("zipped", [True, False])
def test_what_torch_writes_is_read(zipped: bool, tmp_path: Path) -> None:
    content = {
        "state_dict": {f"layer{i}.weight": torch.ones(3, i + 1) for i in range(200)},
        "best": np.float64(0.5),
        "curve": np.arange(5.0),
        "text": "utf-16",
    }
    torch.save(content, tmp_path / "c.pt", _use_new_zipfile_serialization=zipped)
    read = read_checkpoint(tmp_path / "c.pt")
    assert read["state_dict"]["layer7.weight"].shape == (3, 8)
    assert read["curve"].tolist() == [0, 1, 2, 3, 4]


def test_pickles_have_a_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.save({"state_dict": {"a" * 1000: torch.ones(1)}}, tmp_path / "c.pt")
    read_checkpoint(tmp_path / "c.pt")
    monkeypatch.setattr(checkpoint_costs, "MAX_PICKLE_BYTES", 500)
    with pytest.raises(CorruptDataError, match=r"c\.pt is not read: a pickle of 1,\d+ bytes; at most 500"):
        read_checkpoint(tmp_path / "c.pt")


def test_no_flipped_bit_is_read_as_another_number(tmp_path: Path) -> None:
    """Torch itself reads most of them. What lies between the members, or says times, may be anything."""
    path = tmp_path / "c.pt"
    content = {"state_dict": {"a": torch.arange(50.0), "b": torch.ones(3)}, "epoch": 3}
    torch.save(content, path)
    whole = path.read_bytes()
    tensors = whole.index(content["state_dict"]["a"].numpy().tobytes())
    directory = whole.index(b"PK\x01\x02")
    bits = [*range(8 * tensors, 8 * (tensors + 200), 97), *range(8 * directory, 8 * len(whole), 5)]
    refused = 0
    for bit in bits:
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        try:
            read = read_checkpoint(path)
        except (CorruptDataError, CheckpointError) as error:
            refused += 1
            assert str(path) in str(error)  # noqa: PT017 (it need not be raised)
            assert bit >= 8 * directory or "data/0' is damaged: Bad CRC-32" in str(error)  # noqa: PT017
        else:
            assert bit >= 8 * directory
            assert str(read) == str(content)
    assert refused > len(bits) / 2


def test_a_member_without_a_crc_is_read(tmp_path: Path) -> None:
    before = torch.serialization.get_crc32_options()
    try:
        torch.serialization.set_crc32_options(False)
        torch.save({"state_dict": {"a": torch.arange(50.0)}}, tmp_path / "c.pt")
    finally:
        torch.serialization.set_crc32_options(before)
    assert zipfile.ZipFile(tmp_path / "c.pt").testzip() is not None
    assert read_checkpoint(tmp_path / "c.pt")["state_dict"]["a"].tolist() == list(range(50))


def test_a_member_called_a_directory_is_damaged(tmp_path: Path) -> None:
    """Torch takes nothing from it, and makes a tensor of whatever lies in memory."""
    data = archive(tensor(4, 4))
    entry = data.index(b"archive/data/0", data.index(b"PK\x01\x02")) - 46
    (tmp_path / "c.pt").write_bytes(data[: entry + 38] + b"\x10" + data[entry + 39 :])
    with pytest.raises(
        CorruptDataError, match=r"c\.pt .* member 'archive/data/0' is damaged: it says that it is a dir"
    ):
        read_checkpoint(tmp_path / "c.pt")
