"""DALI's decoder: close to Pillow's pixels, the same samples whoever decodes, pictures it must not get, failures."""

from __future__ import annotations

import dataclasses
import io
import json
import struct
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from dcfast.access.reader import PoolReader
from dcfast.errors import MissingDependencyError
from dcfast.storage.records import plain
from dcfast.train import batches, dali, train
from dcfast.train.batch import Encoded
from dcfast.train.batches import BatchMaker
from dcfast.train.dali import DaliDecoder, plain_jpeg
from dcfast.train.loader import iterate_batches
from dcfast.train.source import prepare_source
from pool_builder import picture
from test_train_batches import jpeg, same, spec_of
from train_builder import both_sources, build_pool, small

# importing DALI warns of what it uses itself
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """40 samples, one whose picture is none, one that is cut off, one grey, one PNG."""
    root = tmp_path_factory.mktemp("dali")
    odd = {
        11: {"jpg": b"no picture"},
        12: {"jpg": jpeg((90, 70))[:-400]},
        13: {"jpg": jpeg((90, 70), "L")},
        14: {"jpg": picture(14, (80, 60), "PNG")},
        15: {"jpg": jpeg((70, 90), "CMYK")},
    }
    source = both_sources(root, 45, list(range(3, 43)), broken=odd)[1]
    return prepare_source(source, root / "work", 0)


@pytest.mark.parametrize("workers", [0, 2])
def test_the_same_samples_and_nearly_the_same_pixels(files: Any, workers: int) -> None:
    spec = spec_of(files, global_batch=20, decoder="dali", crop_scale=0.6)
    found = list(iterate_batches(spec, 0, 6, workers))
    wanted = list(iterate_batches(spec.decoded_by("pil"), 0, 6, 0))
    assert sum(len(b.replaced) for b in wanted) > 0
    for a, b in zip(found, wanted, strict=True):
        assert a.encoded is None
        difference = (a.images.float() - b.images.float()).abs()
        assert 0 < difference.mean() < 0.5
        assert difference.max() <= 8
        same(dataclasses.replace(a, images=b.images), b)


def test_any_number_of_workers_gives_the_same_pixels(files: Any) -> None:
    spec = spec_of(files, global_batch=12, accumulation=2, decoder="dali")
    for a, b in zip(iterate_batches(spec, 1, 4, 0), iterate_batches(spec, 1, 4, 2), strict=True):
        same(a, b)


def test_only_plain_jpegs_wait_for_dali(files: Any) -> None:
    batch = BatchMaker(spec_of(files, global_batch=40, resample=False, window=1, block=1, decoder="dali")).make(0)
    assert batch.encoded is not None
    # PNG and CMYK by Pillow; the places of the two that are broken were given to others
    assert len(batch.images) == 2
    assert len(batch.encoded.indices) == 38
    again = dict(zip(batch.encoded.indices.tolist(), batch.encoded.pictures(), strict=True))
    assert all(bytes(data[:2]) == b"\xff\xd8" for data in again.values())


def with_segment(data: bytes, marker: int, payload: bytes) -> bytes:
    return data[:2] + struct.pack(">BBH", 0xFF, marker, len(payload) + 2) + payload + data[2:]


def test_what_counts_as_a_plain_jpeg() -> None:
    def of(data: bytes) -> Any:
        return plain_jpeg(memoryview(data))

    def saved(**options: Any) -> bytes:
        from PIL import Image

        buffer = io.BytesIO()
        Image.new("RGB", (31, 17), (200, 10, 60)).save(buffer, "JPEG", **options)
        return buffer.getvalue()

    good = jpeg((90, 70))
    assert of(good) == of(jpeg((90, 70), "L")) == (90, 70)
    assert of(saved(progressive=True)) == of(saved(comment=b"x" * 60_000)) == (31, 17)
    assert of(good + b"\0" * 20) == (90, 70)
    assert of(with_segment(good, 0xE1, b"\xff\xc0\0\x11\x08\0\1\0\1" * 20)) == (90, 70)  # a thumbnail's frame
    assert of(good[:2] + b"\xff\xff" + good[2:]) == (90, 70)  # fill bytes
    assert of(with_segment(good, 0xEE, b"Adobe\0\x64\0\0\0\0\1")) == (90, 70)
    assert of(with_segment(good, 0xEE, b"Adobe\0\x64\0\0\0\0\0")) is None
    scan = good.index(b"\xff\xda")
    late = struct.pack(">BBH", 0xFF, 0xEE, 14) + b"Adobe\0\x64\0\0\0\0\0"
    assert of(good[:scan] + late + good[scan:]) is None, "behind the frame header it holds as well"
    again = good[good.index(b"\xff\xc0") :][:19]
    assert of(good[:scan] + again + good[scan:]) is None, "two frame headers"
    assert of(b"\xff\xd8" + b"\xff" * 2_000_000 + b"\xd9") is None
    assert of(saved(keep_rgb=True)) is None
    assert of(jpeg((90, 70), "CMYK")) is None
    assert of(good[:-100]) is None
    assert of(picture(3, (80, 60), "PNG")) is None
    frame = good.index(b"\xff\xc0")
    for at, value in ((1, 0xC3), (1, 0xC9), (4, 12), (5, 0), (9, 2)):
        changed = bytearray(good)
        changed[frame + at] = value
        if at == 5:
            changed[frame + 6] = 0
        assert of(bytes(changed)) is None
    huge = bytearray(good)
    huge[frame + 5 : frame + 9] = b"\xff\xff\xff\xff"
    assert of(bytes(huge)) is None
    for length in range(len(good)):
        plain_jpeg(memoryview(good[:length]))  # never an exception
    assert of(b"") is None


def test_what_no_picture_is_to_blame_for_is_an_error(files: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    batch = BatchMaker(spec_of(files, global_batch=12, decoder="dali")).make(0)

    def out_of_memory(*_: object) -> None:
        raise torch.OutOfMemoryError("no memory")

    def no_pipeline(*_: object) -> None:
        raise RuntimeError("driver too old")

    def never() -> Any:
        raise AssertionError("Pillow was asked")

    monkeypatch.setattr(DaliDecoder, "_decode", out_of_memory)
    with pytest.raises(torch.OutOfMemoryError, match="no memory"):
        DaliDecoder(64).finish(batch, never)
    monkeypatch.setattr(dali, "_build", no_pipeline)
    with pytest.raises(RuntimeError, match="driver too old"):
        DaliDecoder(64).finish(batch, never)


def test_refusals_are_said_ever_less_often(files: Any, caplog: pytest.LogCaptureFixture) -> None:
    maker, decoder = BatchMaker(spec_of(files, global_batch=12, decoder="dali")), DaliDecoder(64)
    for _ in range(5):
        batch = maker.make(0)
        decoder.finish(dataclasses.replace(batch, windows=batch.windows + 10_000), partial(maker.make, 0))
    said = [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]
    assert [text.split(" batches")[0] for text in said] == [f"DALI refused {n}" for n in (1, 2, 4)]


def test_a_batch_that_dali_refuses_is_made_by_pillow(files: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A window that reaches beyond the picture is an error in DALI; the pipeline must live again afterwards."""
    spec = spec_of(files, global_batch=12, decoder="dali")
    wanted = [BatchMaker(spec.decoded_by("pil")).make(step) for step in range(2)]
    decoder = DaliDecoder(spec.image_size)
    maker = BatchMaker(spec)
    bad = maker.make(0)
    assert bad.encoded is not None
    bad.windows = bad.windows + 10_000
    same(decoder.finish(bad, lambda: wanted[0]), wanted[0])
    assert decoder.redone == 1
    good = decoder.finish(maker.make(1), lambda: wanted[0])
    assert decoder.redone == 1
    assert good.uids.tolist() == wanted[1].uids.tolist()
    assert 0 < (good.images.float() - wanted[1].images.float()).abs().max() <= 8
    # the loader's own way there: garbage that passes for a plain JPEG
    monkeypatch.setattr(batches, "plain_jpeg", lambda data: None if data[:2] == b"no" else (64, 64))
    monkeypatch.setattr(PoolReader, "picture_sizes", lambda _, rows: np.full((len(rows), 2), 64, np.uint32))
    monkeypatch.setattr(Encoded, "pictures", lambda self: [np.zeros(50, np.uint8)] * len(self.indices))
    again = list(iterate_batches(spec, 0, 2, 0))
    for step, (a, b) in enumerate(zip(again, wanted, strict=True)):
        same(a, b)
        assert [(r.step, r.samples) for r in a.refused] == [(step, 12)]
        assert a.refused[0].reason


def test_a_batch_without_pictures_for_dali(tmp_path: Path) -> None:
    source = both_sources(
        tmp_path, 12, list(range(12)), broken={i: {"jpg": picture(i, (80, 60), "PNG")} for i in range(12)}
    )
    spec = spec_of(prepare_source(source[0], tmp_path / "work", 0), global_batch=4, decoder="dali")
    pillow = iterate_batches(spec.decoded_by("pil"), 0, 2, 0)
    for a, b in zip(iterate_batches(spec, 0, 2, 0), pillow, strict=True):
        same(a, b)


def test_a_training_with_dali(tmp_path: Path) -> None:
    source = both_sources(tmp_path, 40, list(range(40)))[1]
    short = {"samples_seen": 16, "checkpoints": 1}
    summary = train(small(tmp_path / "out", source, overrides=short, decoder="dali"))
    assert summary.recipe["decoder"] == "dali"
    assert summary.decoder_difference is not None
    assert summary.decoder_difference.samples == 8
    assert 0 < summary.decoder_difference.mean < 0.5
    assert summary.decoder_difference.largest <= 8
    assert summary.versions["nvidia-dali"].startswith("2.")
    timing = json.loads((tmp_path / "out/train/timing.json").read_bytes())
    assert (timing["dali_refused_batches"], timing["dali_refused_samples"]) == (0, 0)


def test_refusals_are_counted_beside_the_times_over_all_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped behind a checkpoint: what is read once more counts once, and the summary knows nothing of refusals."""
    source = both_sources(tmp_path, 40, list(range(40)))[1]
    options: dict[str, Any] = {"overrides": {"samples_seen": 32, "checkpoints": 2}, "decoder": "dali", "workers": 0}
    steps = 4  # of 8 samples; the first checkpoint is after two

    def odd_ones_refused(self: DaliDecoder, encoded: Encoded, windows: Any) -> torch.Tensor:
        if odd_ones.pop(0):
            raise RuntimeError("refused for the test")
        return decode(self, encoded, windows)

    def stop(step: int) -> None:
        if step == steps - 1:
            raise KeyboardInterrupt

    decode = DaliDecoder._decode
    monkeypatch.setattr(DaliDecoder, "_decode", odd_ones_refused)
    odd_ones = [True, False, True, True]
    with pytest.raises(KeyboardInterrupt):
        train(small(tmp_path / "out", source, **options), on_step=stop)
    folder = tmp_path / "out/train"
    noted = [json.loads(line) for line in (folder / "refused-00000.jsonl").read_text().splitlines()]
    assert [(r["step"], r["samples"], r["reason"]) for r in noted] == [
        (s, 8, "refused for the test") for s in (0, 2, 3)
    ]
    odd_ones = [False, True, False, False, False]  # steps 2 and 3, then the comparison with Pillow
    summary = train(small(tmp_path / "out", source, **options))
    noted = [json.loads(line) for line in (folder / "refused-00000.jsonl").read_text().splitlines()]
    assert [r["step"] for r in noted] == [0, 3]
    timing = json.loads((folder / "timing.json").read_bytes())
    assert (timing["dali_refused_batches"], timing["dali_refused_samples"]) == (2, 16)
    assert "refused" not in json.dumps(plain(summary))


def test_without_dali_the_error_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "nvidia.dali", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'dcfast\[dali-cuda13\]'"):
        dali.require_dali()
    source = both_sources(tmp_path, 12, list(range(12)))[1]
    with pytest.raises(MissingDependencyError, match="decoder 'dali'"):
        train(small(tmp_path / "out", source, decoder="dali"))
    assert not (tmp_path / "out" / "train").exists()


def test_encoded_pictures_cross_as_one_tensor() -> None:
    pictures = {5: b"abc", 2: b"", 9: b"defg"}
    encoded = Encoded.of(pictures)
    assert encoded.indices.tolist() == [2, 5, 9]
    assert [bytes(p) for p in encoded.pictures()] == [b"", b"abc", b"defg"]
    assert encoded.data.dtype == torch.uint8


def test_a_run_takes_the_decoder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without DALI nothing begins."""
    from dcfast.run.checks import check_settings
    from dcfast.run.workflow import main
    from dcfast.rundir.settings import Settings

    settings = Settings(pool=str(tmp_path), filter="no_filter", compare="none", decoder="dali")
    check_settings(settings)
    monkeypatch.setitem(sys.modules, "nvidia.dali", None)
    with pytest.raises(MissingDependencyError, match="decoder 'dali' needs NVIDIA DALI"):
        check_settings(settings)
    check_settings(dataclasses.replace(settings, train=False))
    assert main(["--decoder", "dali", "--out", str(tmp_path / "run"), "--quiet"]) == 1
    assert not (tmp_path / "run").exists()


def test_the_training_stage_of_a_run_decodes_with_it(tmp_path: Path) -> None:
    from dcfast.run.workflow import run
    from dcfast.rundir.settings import Settings

    pool = build_pool(tmp_path / "pool", 140)
    settings = Settings(
        pool=str(pool), filter="no_filter", compare="none", decoder="dali", samples_seen=128, device="cpu"
    )
    summaries = run(tmp_path / "run", settings, last="train")
    assert summaries["train"].recipe["decoder"] == "dali"
    assert 0 < summaries["train"].decoder_difference.mean < 0.5
