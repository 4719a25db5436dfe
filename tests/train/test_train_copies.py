"""Checkpoints and results in another place, too: copied as they are saved, and fetched from where there are none."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
from dcfast.errors import CheckpointError, RunError
from dcfast.storage import mirror as mirror_module
from dcfast.storage.http import RemoteOptions
from dcfast.storage.mirror import Mirror
from dcfast.train import TrainSource, session
from dcfast.train.session import train
from train_builder import build_pool, small

ALL, STEPS = re.compile(r"(log\.jsonl|checkpoints/\w+\.pt)"), re.compile(r"checkpoints/step_\d+\.pt")


@pytest.fixture
def store() -> Iterator[Any]:
    """An object store in memory."""
    memory = fsspec.filesystem("memory")
    yield memory
    if memory.exists("/dcfast-copy"):
        memory.rm("/dcfast-copy", recursive=True)


def there(store: Any, url: str) -> dict[str, bytes]:
    place = "/" + url.split("://", 1)[-1].strip("/")
    return {path.removeprefix(f"{place}/"): store.cat_file(path) for path in store.find(place)}


def here(folder: Path) -> dict[str, bytes]:
    names = [path for path in folder.rglob("*") if path.suffix in (".pt", ".json", ".jsonl")]
    left_out = ("identity.json", "sources", "progress.json", "manifest.json")
    found = {path.relative_to(folder).as_posix(): path.read_bytes() for path in names}
    return {name: data for name, data in found.items() if name.split("/")[0] not in left_out}


class Ended(Exception):  # noqa: N818
    pass


@pytest.mark.parametrize("kind", ["memory", "folder"])
def test_a_training_goes_on_from_its_copies(tmp_path: Path, store: Any, kind: str) -> None:
    source = TrainSource(shards=str(build_pool(tmp_path / "pool", 40)))
    whole = train(small(tmp_path / "whole", source, save_every_steps=1))
    url = "memory://dcfast-copy/run" if kind == "memory" else str(tmp_path / "copies")

    def stop(step: int) -> None:
        if step == 5:
            raise Ended

    with pytest.raises(Ended):
        train(small(tmp_path / "a", source, save_every_steps=1, copy_to=url), on_step=stop)
    copied = there(store, url) if kind == "memory" else here(tmp_path / "copies")
    assert {"checkpoints/epoch_1.pt", "log.jsonl"} <= set(copied)
    steps: list[int] = []
    summary = train(small(tmp_path / "b", source, save_every_steps=1, copy_to=url), on_step=steps.append)
    assert steps[0] >= 4  # on another machine, from the copy
    assert summary.checkpoint_sha256 == whole.checkpoint_sha256
    copied = there(store, url) if kind == "memory" else here(tmp_path / "copies")
    expected = here(tmp_path / "b" / "train")
    assert {"summary.json", "checkpoints/epoch_2.pt", "log.jsonl"} <= set(expected)
    assert {name: data for name, data in expected.items() if name in copied} == copied
    if kind == "memory":
        with pytest.raises(CheckpointError, match="of another training"):
            train(small(tmp_path / "c", source, seed=9, copy_to=url))


def test_a_place_that_cannot_be_written_is_said_before_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mirror_module, "_PATIENT", RemoteOptions(retries=0))
    (tmp_path / "file").write_bytes(b"")
    for url in (str(tmp_path / "file" / "below"), "http://127.0.0.1:9/run"):
        with pytest.raises(RunError, match=r"copy_to .* nothing can be written there"):
            train(small(tmp_path / "out", TrainSource(shards=str(tmp_path / "pool")), copy_to=url))
    with pytest.raises(ValueError, match="names a program"):
        small(tmp_path / "out", TrainSource(shards="a"), copy_to="pipe:tee x")


def test_what_has_gone_here_goes_there_and_no_more(tmp_path: Path, store: Any) -> None:
    folder, url = tmp_path / "train", "memory://dcfast-copy/x"
    (folder / "checkpoints").mkdir(parents=True)
    store.pipe("/dcfast-copy/x/checkpoints/step_1.pt", b"somebody's")
    mirror = Mirror(folder, url, ALL, STEPS)
    saved = ("checkpoints/step_2.pt", "checkpoints/epoch_1.pt", "log.jsonl")
    for name in (*saved, "other.txt", "checkpoints/.tmp-1-abcdef01-x.pt"):
        (folder / name).write_bytes(name.encode())
    mirror.update()
    mirror.close()
    assert set(there(store, url)) == {
        *("checkpoints/step_1.pt", "checkpoints/step_2.pt", "checkpoints/epoch_1.pt", "log.jsonl")
    }
    (folder / "checkpoints/step_2.pt").unlink()
    (folder / "checkpoints/epoch_1.pt").unlink()
    mirror.update()
    mirror.close()
    assert set(there(store, url)) == {"checkpoints/step_1.pt", "checkpoints/epoch_1.pt", "log.jsonl"}


def test_a_store_that_fails_is_asked_again_and_said_once(
    tmp_path: Path, store: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(mirror_module, "_PATIENT", RemoteOptions(retries=1, backoff_s=0.001))
    (tmp_path / "log.jsonl").write_bytes(b"a")
    mirror = Mirror(tmp_path, "memory://dcfast-copy/y", ALL, STEPS)
    write = type(store).pipe_file
    monkeypatch.setattr(type(store), "pipe_file", lambda *a, **k: (_ for _ in ()).throw(OSError(5, "away")))
    with caplog.at_level(logging.WARNING, "dcfast"):
        for _ in range(2):
            mirror.update()
            with pytest.raises(RunError, match="not all could be copied there"):
                mirror.close()
    assert len([r for r in caplog.records if "cannot be copied" in r.getMessage()]) == 1
    monkeypatch.setattr(type(store), "pipe_file", write)
    mirror.update()
    mirror.close()
    assert there(store, "memory://dcfast-copy/y") == {"log.jsonl": b"a"}


def test_copies_that_were_fetched_in_part_are_fetched_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, url = TrainSource(shards=str(build_pool(tmp_path / "pool", 40))), str(tmp_path / "copies")
    whole = train(small(tmp_path / "a", source, copy_to=url))
    fetched = here(tmp_path / "copies")
    restore = Mirror.restore

    def killed(self: Mirror) -> list[str]:
        restore(self)
        (tmp_path / "b" / "train" / "log.jsonl").unlink()
        raise Ended

    monkeypatch.setattr(Mirror, "restore", killed)
    with pytest.raises(Ended):
        train(small(tmp_path / "b", source, copy_to=url))
    assert "log.jsonl" not in here(tmp_path / "b" / "train")
    monkeypatch.setattr(Mirror, "restore", restore)
    assert train(small(tmp_path / "b", source, copy_to=url)).checkpoint_sha256 == whole.checkpoint_sha256
    assert here(tmp_path / "b" / "train")["log.jsonl"] == fetched["log.jsonl"]


def test_what_is_here_in_shards_is_not_overwritten(tmp_path: Path) -> None:
    out, copies = tmp_path / "out", tmp_path / "copies"
    (out / "train" / "checkpoints" / "step_4.sharded").mkdir(parents=True)
    (out / "train" / "log.jsonl").write_bytes(b"newer")
    copies.mkdir()
    (copies / "log.jsonl").write_bytes(b"older")
    settings = small(out, TrainSource(shards="none"), copy_to=str(copies))
    assert len(session._mirrors(settings, out / "train")) == 1
    assert (out / "train" / "log.jsonl").read_bytes() == b"newer"
    assert not (out / "train" / "fetching").exists()


def test_shards_of_checkpoints_are_copied_before_their_record(tmp_path: Path, store: Any) -> None:
    folder, written = tmp_path / "train", list[str]()
    for name in ("step_2.sharded", "step_4.sharded", ".tmp-1-abcdef01-step_6.sharded"):
        (folder / "checkpoints" / name).mkdir(parents=True)
        for file in ("checkpoint.json", "shard-00001-model-00001-of-00001.safetensors"):
            (folder / "checkpoints" / name / file).write_bytes(file.encode())
    mirror = Mirror(folder, "memory://dcfast-copy/z", session._COPIED, session._PASSING)
    put = mirror._put
    mirror._put = lambda name, data: (written.append(name), put(name, data))[1]  # type: ignore[method-assign]
    mirror.update()
    mirror.close()
    assert len(written) == 4
    assert [name.endswith("checkpoint.json") for name in written] == [False, False, True, True]
    for file in (folder / "checkpoints" / "step_2.sharded").iterdir():
        file.unlink()
    mirror.update()
    mirror.close()
    assert {name.split("/")[1] for name in there(store, mirror.url)} == {"step_4.sharded"}
    for number in ("_4", "_2"):
        again = Mirror(tmp_path / number, mirror.url, session._COPIED, session._PASSING)
        assert len(again.restore()) == 2
