"""Batches: the same from shards and index, for any number of workers and ranks; bad samples are replaced."""

from __future__ import annotations

import dataclasses
import traceback
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from dcfast import uid_format
from dcfast.errors import CorruptDataError, PoolError, SubsetError
from dcfast.images.costs import BadImage
from dcfast.models.captions import MAX_CAPTION_BYTES
from dcfast.models.clip import load_tokenizer
from dcfast.train import TrainSource, loader
from dcfast.train import source as source_module
from dcfast.train.batch import Batch, BatchSpec
from dcfast.train.batches import BatchMaker
from dcfast.train.decode import DECODERS, PilDecoder, open_decoder
from dcfast.train.loader import iterate_batches
from dcfast.train.replaced import Replacement
from dcfast.train.source import OpenSource, prepare_source
from pool_builder import picture, uid_of
from tar_reference import make_tar
from train_builder import MODEL, both_sources, build_pool, caption, small, subset_file


def spec_of(
    *files: Any, weights: tuple[float, ...] = (), world_size: int = 1, rank: int = 0, **options: Any
) -> BatchSpec:
    recipe = {"global_batch": 12, "crop_scale": 0.9}
    recipe |= {name: options.pop(name) for name in recipe if name in options}
    sources = [TrainSource(shards=f.name, weight=w) for f, w in zip(files, weights or (1.0,) * len(files), strict=True)]
    settings = small(Path("out"), *sources, overrides=recipe, **{"seed": 5, "block": 4, "window": 4, **options})
    return BatchSpec(settings, files, 64, world_size, rank)


def same(a: Batch, b: Batch) -> None:
    assert torch.equal(a.images, b.images)
    assert torch.equal(a.tokens, b.tokens)
    for name in ("uids", "windows", "positions"):
        assert getattr(a, name).tolist() == getattr(b, name).tolist()
    assert a.replaced == b.replaced


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any]:
    """Shards and index of the same 40 samples, some twice, one of them twice in the pool as well."""
    root = tmp_path_factory.mktemp("sources")
    numbers = sorted([*range(3, 41), 7, 7])
    sources = both_sources(root, 47, numbers, broken={20: {"jpg": b"no picture"}, 21: {"txt": b"\xff\xfe"}})
    return prepare_source(sources[0], root / "work", 0), prepare_source(sources[1], root / "work", 1)


def test_shards_and_index_give_identical_batches(prepared: tuple[Any, Any]) -> None:
    shards, index = prepared
    assert shards.count == index.count == 40
    assert OpenSource(shards).fingerprint() == OpenSource(index).fingerprint()
    for resample in (True, False):
        a, b = (BatchMaker(spec_of(files, resample=resample)) for files in prepared)
        for step in range(8):
            same(a.make(step), b.make(step))


def test_a_batch_is_what_the_order_and_the_pool_say(prepared: tuple[Any, Any]) -> None:
    """Uids, captions and pixels against open_clip's own transform of the member's bytes."""
    from PIL import Image
    from torchvision.transforms.functional import resized_crop

    maker = BatchMaker(spec_of(prepared[1]))
    batch = maker.make(3)
    numbers = {uid_of(n): n for n in range(47)}
    tokenizer = load_tokenizer(MODEL)
    for i, uid in enumerate(uid_format(batch.uids, as_list=True)):
        number = numbers[uid]
        assert batch.tokens[i].tolist() == tokenizer([caption(number)])[0].tolist()
        import io

        with Image.open(io.BytesIO(picture(number))) as image:
            left, top, wide, tall = batch.windows[i].tolist()
            expected = resized_crop(image, top, left, tall, wide, [64, 64], interpolation=Image.Resampling.BICUBIC)
        assert np.array_equal(batch.images[i].permute(1, 2, 0).numpy(), np.asarray(expected.convert("RGB")))


def test_any_number_of_workers_gives_the_same_batches(prepared: tuple[Any, Any]) -> None:
    spec = spec_of(prepared[0], accumulation=2)
    alone = list(iterate_batches(spec, 2, 5, 0))
    assert len(alone) == 6
    for one, other in zip(alone, iterate_batches(spec, 2, 5, 2), strict=True):
        same(one, other)


@pytest.mark.parametrize("workers", [0, 1])
def test_the_training_own_random_numbers_are_left_alone(prepared: tuple[Any, Any], workers: int) -> None:
    """A resumed training opens a loader where an uninterrupted one goes on: what the model draws must not differ."""
    before = torch.get_rng_state()
    assert len(list(iterate_batches(spec_of(prepared[1]), 0, 2, workers))) == 2
    assert torch.equal(torch.get_rng_state(), before)


def test_a_large_batch_is_put_together_from_chunks(prepared: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    spec = spec_of(prepared[0])
    expected = list(iterate_batches(spec, 0, 3, 0))
    for chunk in (1, 5, 11, 12, 13):
        monkeypatch.setattr(loader, "CHUNK", chunk)
        for one, other in zip(expected, iterate_batches(spec, 0, 3, 0), strict=True):
            same(one, other)


def test_what_a_worker_raises_reaches_the_training_as_it_is(tmp_path: Path) -> None:
    pool = build_pool(tmp_path, 6, shards=1, broken={n: {"jpg": b"broken"} for n in range(6)})
    files = prepare_source(TrainSource(shards=str(pool)), tmp_path / "work", 0)
    said = []
    for workers in (0, 1):
        with pytest.raises(CorruptDataError, match=r"^step 0: no usable sample was found") as info:
            list(iterate_batches(spec_of(files, global_batch=2), 0, 1, workers))
        assert "\n" not in str(info.value)
        said.append(str(info.value))
    assert said[0] == said[1]
    assert "in make" in "".join(traceback.format_tb(info.tb)), "where it came from is not lost"


def test_ranks_and_micro_batches_share_out_the_global_batch(prepared: tuple[Any, Any]) -> None:
    whole = BatchMaker(spec_of(prepared[0])).make(4)
    parts = []
    for micro in range(2):
        for rank in range(3):
            maker = BatchMaker(spec_of(prepared[0], world_size=3, rank=rank, accumulation=2))
            parts.append(maker.make(4, micro))
    assert torch.equal(torch.cat([p.images for p in parts]), whole.images)
    assert np.concatenate([p.uids for p in parts]).tolist() == whole.uids.tolist()


def test_bad_samples_are_replaced_by_the_next_of_their_block_and_recorded(prepared: tuple[Any, Any]) -> None:
    maker = BatchMaker(spec_of(prepared[1], resample=False))
    seen: list[Replacement] = []
    for step in range(10):  # three passes
        batch = maker.make(step)
        seen += batch.replaced
        planned = maker.planned(step, maker.slots(0))
        for record in batch.replaced:
            slot = record.slot
            assert record.step == step
            assert int(planned.positions()[slot]) in (
                record.position,
                record.position - 1,
                record.position + 3,
            )
            assert int(batch.positions[slot]) != record.position
        assert not {uid_of(20), uid_of(21)} & set(uid_format(batch.uids, as_list=True))
    assert {r.uid for r in seen} == {uid_of(20), uid_of(21)}
    reasons = {r.uid: r.reason for r in seen}
    assert "not a picture" in reasons[uid_of(20)]
    assert reasons[uid_of(21)] == "the caption is not UTF-8"


def test_samples_without_picture_or_caption_are_replaced(tmp_path: Path) -> None:
    pool = build_pool(tmp_path, 8, shards=1, broken={1: {"without": ("jpg",)}, 5: {"without": ("txt",)}})
    files = prepare_source(TrainSource(shards=str(pool)), tmp_path / "work", 0)
    batch = BatchMaker(spec_of(files, global_batch=8, resample=False)).make(0)
    assert {(r.uid, r.reason) for r in batch.replaced} == {
        (uid_of(1), "no picture"),
        (uid_of(5), "no caption (txt)"),
    }


def test_a_caption_without_an_end_costs_what_a_model_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = b"a red dog " * 100_000
    source = both_sources(tmp_path, 6, [*range(6)], broken={2: {"txt": text}})[0]
    prepared = prepare_source(source, tmp_path / "work", 0)
    [raw] = OpenSource(prepared).read(OpenSource(prepared).rows(np.arange(6)))
    read = raw.captions.size.tolist()
    assert read[2] == max(read) == MAX_CAPTION_BYTES + 1
    monkeypatch.setattr(source_module, "_READ_TOGETHER", 1)  # each sample by itself
    assert [raw.captions.size.tolist() for raw in OpenSource(prepared).read(np.arange(6, dtype=np.uint64))] == [
        [size] for size in read
    ]
    maker = BatchMaker(spec_of(prepared, global_batch=6, block=6, window=1, resample=False))
    batch = maker.make(0)
    assert batch.replaced == []
    expected = load_tokenizer(MODEL)([text.decode()])[0]
    assert (batch.tokens == expected).all(1).sum() == 1
    assert all(len(known) < 100 for known in maker._captions._known)


def test_as_much_is_read_as_the_samples_have(tmp_path: Path) -> None:
    """A pool may have an extension for each sample, or many pictures in one: of these the first in the tar counts."""
    names = [name for i in range(300) for name in (f"k{i}.{i}.jpg", f"k{i}.txt")]
    names += ["many.txt", *(f"many.{i}.png" for i in reversed(range(50)))]
    make_tar(tmp_path / "00000000.tar", [(name, name.encode()) for name in names])
    source = OpenSource(prepare_source(TrainSource(shards=str(tmp_path)), tmp_path / "work", 0))
    rows = source.rows(np.array([300, 7, 8]))
    assert source._members(rows).ext.shape == (6,)
    [raw] = source.read(rows)
    read = [(bytes(raw.picture(i) or b""), bytes(raw.caption(i) or b"")) for i in range(3)]
    assert read == [(b"many.49.png", b"many.txt"), (b"k7.7.jpg", b"k7.txt"), (b"k8.8.jpg", b"k8.txt")]


def test_a_source_in_which_nothing_can_be_used_is_an_error(tmp_path: Path) -> None:
    pool = build_pool(tmp_path, 6, shards=1, broken={n: {"jpg": b"broken"} for n in range(6)})
    files = prepare_source(TrainSource(shards=str(pool)), tmp_path / "work", 0)
    with pytest.raises(CorruptDataError, match=r"no usable sample was found .* 14 of them said: not a picture"):
        BatchMaker(spec_of(files, global_batch=2)).make(0)


def test_a_header_that_lies_about_the_size_moves_only_the_window(tmp_path: Path) -> None:
    """The window is drawn anew for the decoded size."""
    calls = []

    def window(width: int, height: int) -> tuple[int, int, int, int]:
        calls.append((width, height))
        return 0, 0, width, height

    assert PilDecoder()(memoryview(picture(1, (40, 30))), window, 16).shape == (16, 16, 3)
    assert calls == [(40, 30)]


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "CMYK", "1"])
def test_pictures_of_other_modes_become_rgb_as_in_open_clip(mode: str) -> None:
    import io

    from open_clip.transform import PreprocessCfg, image_transform_v2
    from PIL import Image

    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(0, 256, (50, 70, 3), dtype=np.uint8)).convert(mode)
    buffer = io.BytesIO()
    image.save(buffer, "TIFF")
    transform = image_transform_v2(PreprocessCfg(size=32), is_train=True, aug_cfg={"scale": (0.9, 1.0)})
    transform.transforms[0].get_params = lambda *_: (3, 5, 40, 44)
    expected = transform(Image.open(io.BytesIO(buffer.getvalue())))
    pixels = PilDecoder()(memoryview(buffer.getvalue()), lambda w, h: (5, 3, 44, 40), 32)
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (PreprocessCfg().mean, PreprocessCfg().std))
    ours = torch.from_numpy(pixels.transpose(2, 0, 1).copy()).float().div_(255).sub_(mean).div_(std)
    assert torch.equal(ours, expected)


@pytest.mark.parametrize("keep", [0, 10, 300, -2])
def test_broken_pictures_say_why(keep: int) -> None:
    with pytest.raises(BadImage, match=r"(?i)truncated|not a picture"):
        PilDecoder()(memoryview(picture(3)[: keep or 0]), lambda w, h: (0, 0, w, h), 16)


def test_several_sources_by_weight(tmp_path: Path) -> None:
    files = [
        prepare_source(TrainSource(shards=str(build_pool(tmp_path / name, 10, shards=1))), tmp_path / "work", i)
        for i, name in enumerate("ab")
    ]
    maker = BatchMaker(spec_of(*files, weights=(9.0, 1.0), global_batch=20))
    positions = np.concatenate([maker.planned(s, maker.slots(0)).positions() for s in range(200)])
    assert 0.85 < float((positions < 10).mean()) < 0.95
    both = BatchMaker(spec_of(*files, resample=False, global_batch=20)).make(0)
    assert sorted(both.positions.tolist()) == list(range(20))


def test_sources_that_cannot_be_trained_on(tmp_path: Path) -> None:
    pool = build_pool(tmp_path / "pool", 6)
    work = tmp_path / "work"
    with pytest.raises(PoolError, match="no such directory"):
        prepare_source(TrainSource(shards=str(tmp_path / "nowhere")), work, 0)
    (tmp_path / "empty").mkdir()
    with pytest.raises(PoolError, match=r"no \.tar file"):
        prepare_source(TrainSource(shards=str(tmp_path / "empty")), work, 0)
    with pytest.raises(PoolError, match="no index segments"):
        prepare_source(TrainSource(index=str(tmp_path / "empty"), shards_dir="x", subset="y"), work, 0)
    sources = both_sources(tmp_path / "both", 6, [])
    with pytest.raises(SubsetError, match="the subset is empty"):
        prepare_source(sources[1], work, 0)
    unknown = subset_file(tmp_path / "unknown.npy", [100, 101])
    with pytest.raises(SubsetError, match="none of its samples is in the pool"):
        prepare_source(dataclasses.replace(sources[1], subset=str(unknown)), work, 0)
    tar = pool / "shards" / "00000001.tar"
    tar.write_bytes(tar.read_bytes()[:3000])
    with pytest.raises(CorruptDataError, match=r"00000001\.tar is damaged at byte"):
        prepare_source(TrainSource(shards=str(pool)), work, 0)


def test_shards_are_indexed_anew_when_they_change(tmp_path: Path) -> None:
    pool = build_pool(tmp_path / "a", 6, shards=1)
    other = build_pool(tmp_path / "b", 8, shards=1)
    source, work = TrainSource(shards=str(pool)), tmp_path / "work"
    assert prepare_source(source, work, 0).count == 6
    before = (work / "shards-00.dcx").stat().st_mtime_ns
    assert prepare_source(source, work, 0).count == 6
    assert (work / "shards-00.dcx").stat().st_mtime_ns == before
    (pool / "shards" / "00000000.tar").write_bytes((other / "shards" / "00000000.tar").read_bytes())
    assert prepare_source(source, work, 0).count == 8
    (work / "shards-00.dcx").write_bytes(b"damaged")
    assert prepare_source(source, work, 0).count == 8


def jpeg(size: tuple[int, int], mode: str = "RGB") -> bytes:
    import io

    from PIL import Image

    rng = np.random.default_rng(5)
    small = Image.fromarray(rng.integers(0, 256, (9, 11, 3), dtype=np.uint8))
    buffer = io.BytesIO()
    small.resize(size, Image.Resampling.BICUBIC).convert(mode).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("size", [(256, 300), (511, 517), (1024, 640)])
def test_the_reduced_decoder_is_close_to_the_whole_one(size: tuple[int, int], mode: str) -> None:
    data = memoryview(jpeg(size, mode))

    def window(width: int, height: int) -> tuple[int, int, int, int]:
        assert (width, height) == size
        return 11, 7, width - 20, height - 9

    whole, reduced = (open_decoder(name)(data, window, 32).astype(int) for name in ("pil", "pil_reduced"))
    assert 0 < np.abs(whole - reduced).max() <= 12
    assert np.abs(whole - reduced).mean() < 1.0


def test_the_reduced_decoder_leaves_small_and_other_pictures_alone() -> None:
    for data in (jpeg((127, 200)), picture(3, (640, 480), "PNG")):
        whole, reduced = (
            open_decoder(name)(memoryview(data), lambda w, h: (1, 2, w - 3, h - 4), 32)
            for name in ("pil", "pil_reduced")
        )
        assert np.array_equal(whole, reduced)


def test_decoders_by_name() -> None:
    assert isinstance(open_decoder("pil"), PilDecoder)
    with pytest.raises(ValueError, match=f"decoder must be one of {', '.join(DECODERS)}; got 'opencv'"):
        open_decoder("opencv")
