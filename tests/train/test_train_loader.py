"""The loader's threads: pixels and tokens by the core where it can, bounded work ahead, errors, and their end."""

from __future__ import annotations

import gc
import json
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from dcfast.access.reader import PoolReader
from dcfast.images.crops import PillowRule
from dcfast.models.clip import load_tokenizer
from dcfast.train import TrainSource, loader, pixels, session, train
from dcfast.train.batch import Batch, Room
from dcfast.train.batches import BatchMaker
from dcfast.train.loader import ChunksAhead, iterate_batches
from dcfast.train.pixels import LoaderEnded
from dcfast.train.source import prepare_source
from dcfast.uids.sets import uid_format
from pool_builder import picture, uid_of
from test_train_batches import jpeg, same, spec_of
from train_builder import MODEL, build_pool, caption, small

CAPTIONS = {
    2: "Fish &amp; chips",
    3: "caf\xe9 \u2013 \u201cquoted\u201d",
    4: "it's 10\tO'Clock\r\n",
    5: "",
    6: "x" * 300,
}
ODD = {
    11: {"jpg": picture(11, (80, 60), "PNG")},
    12: {"jpg": jpeg((90, 70), "CMYK")},
    13: {"jpg": jpeg((90, 70))[:-400]},
    14: {"jpg": picture(14, (64, 48), "WEBP")},
    15: {"jpg": jpeg((90, 70), "L")},
    16: {"jpg": picture(16, (64, 48), "BMP")},
    17: {"jpg": jpeg((600, 1100))},  # that is reduced
}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """24 samples with JPEGs, but for those of ODD and CAPTIONS."""
    root = tmp_path_factory.mktemp("loader")
    plain = {n: {"jpg": jpeg((70 + n, 100 - n))} for n in range(24)}
    broken = {n: plain[n] | ODD.get(n, {}) | ({"caption": CAPTIONS[n]} if n in CAPTIONS else {}) for n in range(24)}
    return prepare_source(TrainSource(shards=str(build_pool(root, 24, broken=broken))), root / "work", 0)


def whole(files: Any, **options: Any) -> Any:
    return spec_of(files, **{"global_batch": 24, "resample": False, "block": 24, "window": 1, **options})


def all_by_pillow(monkeypatch: pytest.MonkeyPatch) -> None:
    rule = PillowRule(True, "another Pillow")
    monkeypatch.setattr(pixels, "pillow_rule", lambda: rule)
    monkeypatch.setattr(session, "pillow_rule", lambda: rule)


@pytest.mark.parametrize("decoder", ["pil", "pil_reduced"])
def test_the_core_and_pillow_make_the_same_batches(files: Any, decoder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for spec in (whole(files, decoder=decoder), whole(files, decoder=decoder, crop_scale=0.3)):
        by_core = BatchMaker(spec).make(1)
        with monkeypatch.context() as patch:
            all_by_pillow(patch)
            by_pillow = BatchMaker(spec).make(1)
        same(by_core, by_pillow)
        assert by_pillow.by_pillow.total() == 24 + len(by_pillow.replaced)
        # the damaged JPEG is none to Pillow either: the WebP behind it takes its place
        expected = Counter({"JPEG": 1, "damaged JPEG": 1, "PNG": 1, "WEBP": 2, "others": 1})
        assert +(by_core.by_pillow - expected) == +(expected - by_core.by_pillow) == Counter()
        assert len(by_core.replaced) == 1


def test_a_picture_of_another_size_than_indexed_gets_its_own_window(
    files: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = BatchMaker(whole(files)).make(0)
    for size in (0, 33, 0xFFFFFFFF):  # unknown, wrong, and more than any picture has
        monkeypatch.setattr(PoolReader, "picture_sizes", lambda _, rows, s=size: np.full((len(rows), 2), s, np.uint32))
        batch = BatchMaker(whole(files)).make(0)
        same(batch, expected)
        assert batch.by_pillow["JPEG of another size than indexed"] > 15


def test_captions_of_any_kind_have_open_clips_tokens(files: Any) -> None:
    batch = BatchMaker(whole(files)).make(0)
    number = {uid_of(n): n for n in range(24)}
    seen = [number[uid] for uid in uid_format(batch.uids, as_list=True)]
    wanted = load_tokenizer(MODEL)([CAPTIONS.get(n, caption(n)) for n in seen])
    assert set(CAPTIONS) < set(seen)
    assert torch.equal(batch.tokens, wanted)


def test_chunks_lie_in_the_memory_of_their_batch(files: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loader, "CHUNK", 5)
    rooms: list[Room] = []
    room = BatchMaker.room

    def noted(self: BatchMaker, n: int, **options: Any) -> Room:
        rooms.append(room(self, n, **options))
        return rooms[-1]

    monkeypatch.setattr(BatchMaker, "room", noted)
    batches = list(iterate_batches(whole(files), 0, 3, 2))
    assert len(rooms) == 3
    assert [b.images.data_ptr() for b in batches] == [r.images.data_ptr() for r in rooms]
    assert [b.tokens.data_ptr() for b in batches] == [r.tokens.data_ptr() for r in rooms]
    assert all(b.images.is_contiguous(memory_format=torch.channels_last) and len(b.images) == 24 for b in batches)


def test_pillow_that_differs_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: Any) -> None:
    source = TrainSource(shards=str(build_pool(tmp_path / "pool", 20)))
    short = {"samples_seen": 16, "checkpoints": 1}
    plain = train(small(tmp_path / "plain", source, overrides=short))
    assert plain.notes == []
    all_by_pillow(monkeypatch)
    summary = train(small(tmp_path / "out", source, overrides=short, workers=2))
    assert summary.notes == ["Pillow decoded all pictures, several times slower: another Pillow"]
    assert "Pillow decodes all pictures, several times slower: another Pillow" in caplog.text
    assert summary.checkpoint_sha256 == plain.checkpoint_sha256
    timing = json.loads((tmp_path / "out/train/timing.json").read_bytes())
    assert sum(timing["decoded_by_pillow"].values()) == 16


def chunk(number: int) -> Batch:
    return cast(Batch, number)


@pytest.mark.parametrize(("threads", "ahead"), [(1, 0), (1, 3), (3, 5)])
def test_no_more_is_made_than_may_be_ahead(threads: int, ahead: int) -> None:
    begun: list[int] = []

    def make(number: int) -> Batch:
        begun.append(number)
        return chunk(number)

    def settled(taken: int) -> int:
        deadline = time.monotonic() + 5
        while len(begun) < min(20, taken + ahead) and time.monotonic() < deadline:
            time.sleep(0.001)
        time.sleep(0.02)
        return len(begun)

    chunks = ChunksAhead(make, 20, threads, ahead, threading.Event())
    assert settled(0) == ahead
    for taken, number in enumerate(chunks):
        assert number == taken
        assert settled(taken + 1) == min(20, taken + 1 + ahead)
    assert sorted(begun) == list(range(20))
    assert list(chunks) == []


def test_an_error_comes_in_its_place_and_again() -> None:
    def make(number: int) -> Batch:
        if number == 2:
            raise OSError("gone")
        time.sleep(0.02)
        return chunk(number)

    chunks = ChunksAhead(make, 9, 3, 6, threading.Event())
    assert [next(chunks), next(chunks)] == [0, 1]
    for _ in range(2):
        with pytest.raises(OSError, match="gone"):
            next(chunks)


def alive() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith(("dcfast-loader", "dcfast-feed"))]


def test_a_thread_that_hangs_holds_up_no_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loader, "_LAST_CHUNK_SECONDS", 0.2)
    answered, ended = threading.Event(), threading.Event()

    def make(number: int) -> Batch:
        answered.wait(60)
        return chunk(number)

    chunks = ChunksAhead(make, 9, 2, 4, ended)
    began = time.monotonic()
    chunks.close()
    assert 0.2 <= time.monotonic() - began < 5
    assert ended.is_set()
    assert list(chunks) == []
    answered.set()


def test_threads_end_with_a_loader_that_is_closed_forgotten_or_used_up(files: Any) -> None:
    before = len(alive())
    for how in ("closed", "forgotten", "used up"):
        feed = iterate_batches(whole(files), 0, 30, 2)
        next(feed)
        if how == "closed":
            feed.close()
            assert list(feed) == []
        if how == "used up":
            assert len(list(feed)) == 29
        del feed
        gc.collect()
        deadline = time.monotonic() + 10
        while len(alive()) > before and time.monotonic() < deadline:
            time.sleep(0.01)
        assert len(alive()) == before, how


def test_a_maker_hears_that_it_is_to_end(files: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for patched in (False, True):
        if patched:
            all_by_pillow(monkeypatch)
        maker = BatchMaker(whole(files))
        maker.ended.set()
        with pytest.raises(LoaderEnded):
            maker.make(0)


AT_WORK = """
import sys, threading
import numpy as np
from dcfast._core import images
from dcfast.train.loader import ChunksAhead
data = open(sys.argv[1], "rb").read()
def make(number):
    one = np.ones(1, np.int64)
    images.crop_resize(data, 0 * one, len(data) * one, np.array([[0, 0, 2000, 2000]], np.int32),
                       np.array([[2000, 2000]], np.int32), np.empty((1, 224, 224, 3), np.uint8), 0 * one, 1, False)
    return number
chunks = ChunksAhead(make, 100_000, 4, 90_000, threading.Event())
assert next(chunks) == 0
sys.exit(3)
"""


def test_a_process_ends_in_order_while_its_threads_are_at_work(tmp_path: Path) -> None:
    """Nobody closes the loader: a thread that came back from the core into a Python that is gone would abort."""
    path = tmp_path / "large.jpg"
    path.write_bytes(jpeg((2000, 2000)))
    done = subprocess.run([sys.executable, "-c", AT_WORK, str(path)], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (3, "")
