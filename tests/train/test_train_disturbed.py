"""Training disturbed: signals, deaths, a damaged store, too many bad samples. What the same command makes afterwards
equals a training that nobody disturbed."""

from __future__ import annotations

import os
import random
import re
import resource
import shutil
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from dcfast.errors import RunError
from dcfast.process.signals import Stopped
from dcfast.storage.lock import locked
from dcfast.train import TrainSettings, TrainSource, control, loop, train
from dcfast.train.batches import BatchMaker
from dcfast.train.heartbeat import Heartbeat
from dcfast.train.source import OpenSource
from rank_processes import Ranks, log_lines, started, wait_for_step
from train_builder import build_pool, small

pytestmark = pytest.mark.xdist_group("ranks")  # they share the process that the ranks are forked from

FAULTS = int(os.environ.get("DCFAST_FAULTS", "1"))
"""Faults drawn at random; ``make soak`` asks for more."""
LONG = {"samples_seen": 8 * 80, "checkpoints": 2}
END = "epoch_2.pt"


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> TrainSource:
    return TrainSource(shards=str(build_pool(tmp_path_factory.mktemp("pool"), 60)))


def checkpoint(out: Path, name: str = END) -> bytes:
    return (out / "train" / "checkpoints" / name).read_bytes()


def same_training(a: Path, b: Path) -> bool:
    """Checkpoint and summary byte for byte, and the losses of all steps."""
    losses = [[(line["step"], line["loss"], line["samples_seen"]) for line in log_lines(out)] for out in (a, b)]
    summaries = [(out / "train" / "summary.json").read_bytes() for out in (a, b)]
    return checkpoint(a) == checkpoint(b) and summaries[0] == summaries[1] and losses[0] == losses[1]


# --- one process ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def whole(source: TrainSource, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A training of one process that nothing disturbs."""
    out = tmp_path_factory.mktemp("whole")
    train(small(out, source, overrides=LONG))
    return out


@pytest.mark.parametrize(
    "number", [signal.SIGTERM, *(pytest.param(n, marks=pytest.mark.soak) for n in (signal.SIGUSR1, signal.SIGHUP))]
)
def test_a_signal_saves_a_checkpoint(source: TrainSource, whole: Path, tmp_path: Path, number: int) -> None:
    settings = small(tmp_path / "out", source, overrides=LONG)
    with started(tmp_path / "ranks", settings) as ranks:
        wait_for_step(tmp_path / "out", 20)
        ranks.send(0, number)
        assert ranks.statuses() == [128 + number]
        assert ranks.said(0).splitlines()[-1] == "stopped; the same command goes on from the latest checkpoint"
    [saved] = [path.stem for path in (tmp_path / "out" / "train" / "checkpoints").iterdir()]
    assert saved.startswith("step_")
    assert int(saved[5:]) >= 20
    assert log_lines(tmp_path / "out")[-1]["step"] == int(saved[5:])  # nothing was lost
    train(settings)
    assert same_training(tmp_path / "out", whole)


def test_checkpoints_by_the_clock_change_nothing(source: TrainSource, tmp_path: Path) -> None:
    saved: list[set[str]] = []
    folder = tmp_path / "often" / "train" / "checkpoints"
    often = small(tmp_path / "often", source, save_every_minutes=1e-9)
    train(often, on_step=lambda step: saved.append({path.name for path in folder.glob("*.pt")}))
    # one after every step, written while the next one is taken; the last two are kept
    assert saved[3] in ({"step_1.pt", "step_2.pt"}, {"step_1.pt", "step_2.pt", "step_3.pt"}, {"step_2.pt", "step_3.pt"})
    train(small(tmp_path / "never", source, save_every_minutes=0))
    assert {p.name for p in (tmp_path / "never" / "train" / "checkpoints").iterdir()} == {"epoch_1.pt", END}
    assert checkpoint(tmp_path / "often") == checkpoint(tmp_path / "never")


def test_two_trainings_never_write_to_one_directory(source: TrainSource, tmp_path: Path) -> None:
    folder = tmp_path / "out" / "train"
    folder.mkdir(parents=True)
    (folder / ".tmp-1-0a1b2c3d-writer").write_text("")
    with locked(folder / ".lock", "busy"), pytest.raises(RunError, match="another training is at work there; wait"):
        train(small(tmp_path / "out", source))
    assert (folder / ".tmp-1-0a1b2c3d-writer").exists()
    train(small(tmp_path / "out", source))
    assert not (folder / ".tmp-1-0a1b2c3d-writer").exists()


@pytest.mark.parametrize("fault", ["cut", "written"])
def test_a_damaged_store_is_no_bad_sample(source: TrainSource, whole: Path, tmp_path: Path, fault: str) -> None:
    pool = tmp_path / "pool"
    shutil.copytree(str(source.shards), pool)
    shard = sorted(pool.rglob("*.tar"))[1]
    data, times = shard.read_bytes(), (shard.stat().st_atime_ns, shard.stat().st_mtime_ns)

    def damage(step: int) -> None:
        if step == 20:
            if fault == "cut":
                os.truncate(shard, 1024)
            else:
                shard.write_bytes(data[::-1])
                os.utime(shard, ns=(times[0], times[1] + 1))

    settings = small(tmp_path / "out", TrainSource(shards=str(pool)), overrides=LONG, save_every_steps=15)
    with pytest.raises(RunError, match=r"a shard cannot be read as it was indexed \(.*00000001\.tar") as info:
        train(settings, on_step=damage)
    assert str(info.value).endswith("the same command goes on from the latest checkpoint")
    assert not list((tmp_path / "out" / "train").glob("replaced-*"))
    shard.write_bytes(data)
    os.utime(shard, ns=times)
    train(settings)
    assert checkpoint(tmp_path / "out") == checkpoint(whole)


def test_a_shard_that_is_removed_while_it_is_open_is_read_on(source: TrainSource, tmp_path: Path) -> None:
    pool = tmp_path / "pool"
    shutil.copytree(str(source.shards), pool, copy_function=shutil.copy2)
    settings = small(tmp_path / "out", TrainSource(shards=str(pool)))

    def remove(step: int) -> None:
        if step == 5:
            shutil.rmtree(pool)

    train(settings, on_step=remove)
    train(small(tmp_path / "whole", source))
    assert checkpoint(tmp_path / "out") == checkpoint(tmp_path / "whole")


def _small_files() -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, resource.RLIM_INFINITY))
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)


def test_a_full_disk_is_named(source: TrainSource, tmp_path: Path) -> None:
    with started(tmp_path / "ranks", small(tmp_path / "out", source), prepare=_small_files) as ranks:
        [status] = ranks.statuses()
        said = ranks.said(0)
    assert status not in (0, None)
    assert "free some space, and run the same command again to resume" in said
    assert "epoch_1.pt" in said
    assert "Traceback" not in said
    assert not list((tmp_path / "out" / "train").glob("checkpoints/*"))


def test_a_checkpoint_of_an_older_version_has_its_replaced_samples_counted(tmp_path: Path) -> None:
    broken = {n: {"jpg": b"no picture"} for n in range(0, 60, 5)}
    source = TrainSource(shards=str(build_pool(tmp_path / "pool", 60, broken=broken)))
    settings = small(tmp_path / "out", source, max_replaced=0.5)
    expected = train(settings).replaced
    assert expected > 0
    last = tmp_path / "out" / "train" / "checkpoints" / END
    content = torch.load(last, weights_only=True)
    del content["dcfast"]["replaced"], content["dcfast"]["ranks"]
    torch.save(content, last)
    assert train(settings).replaced == expected


def _hang(self: Any, rows: Any, samples: Any = None) -> Any:
    time.sleep(600)


_read = OpenSource.read


def _marker(pool: Path, rank: int | str) -> Path:
    """Where it is there, the disk answers this rank no more."""
    return next(pool.rglob("*.tar")).parent / f"hang-{rank}"


def _hang_when_told() -> None:
    def read(self: OpenSource, rows: Any, samples: Any = None) -> Any:
        hangs = (Path(self.files.shards_dir) / f"hang-{os.environ['RANK']}").exists()
        return _hang(self, rows) if hangs else _read(self, rows, samples)

    OpenSource.read = read  # type: ignore[method-assign]


# --- two ranks ------------------------------------------------------------------------------------------------------


@dataclass
class _World:
    """A training on two ranks with its own copy of the pool, and what it makes undisturbed."""

    folder: Path
    settings: TrainSettings

    @property
    def out(self) -> Path:
        return Path(self.settings.out)

    def start(self) -> Ranks:
        ranks = [self.settings, replace(self.settings, workers=2)]
        return Ranks(self.folder / "ranks", ranks, _hang_when_told)


def _world(folder: Path, source: TrainSource, rank_timeout: float = 6.0) -> _World:
    shutil.copytree(str(source.shards), folder / "pool", copy_function=shutil.copy2)
    pool = TrainSource(shards=str(folder / "pool"))
    options = {"save_every_steps": 15, "rank_timeout": rank_timeout, "workers": 1}
    return _World(folder, small(folder / "out", pool, overrides=LONG, **options))


@pytest.fixture(scope="module")
def undisturbed(source: TrainSource, tmp_path_factory: pytest.TempPathFactory) -> Path:
    world = _world(tmp_path_factory.mktemp("undisturbed"), source)
    ranks = world.start()
    assert ranks.statuses() == [0, 0], ranks.said(0)
    return world.out


def _signal(number: int) -> Callable[[_World, Ranks, random.Random], None]:
    def send(world: _World, ranks: Ranks, draw: random.Random) -> None:
        ranks.send(draw.randrange(2), number)

    return send


def _stop_disk(world: _World, ranks: Ranks, draw: random.Random) -> None:
    _marker(world.folder / "pool", draw.randrange(2)).write_text("")


def _cut_shard(world: _World, ranks: Ranks, draw: random.Random) -> None:
    os.truncate(draw.choice(sorted((world.folder / "pool").rglob("*.tar"))), 512)


def _remove_shard(world: _World, ranks: Ranks, draw: random.Random) -> None:
    draw.choice(sorted((world.folder / "pool").rglob("*.tar"))).unlink()


DISTURBANCES = {
    "kill": (_signal(signal.SIGKILL), None),
    "stop": (_signal(signal.SIGSTOP), "has given no sign of life for 6 s"),
    "term": (_signal(signal.SIGTERM), "stopped; the same command"),
    "usr1": (_signal(signal.SIGUSR1), "stopped; the same command"),
    "cut": (_cut_shard, "a shard cannot be read as it was indexed"),
    "gone": (_remove_shard, "a shard cannot be read as it was indexed"),
    "hang": (_stop_disk, "its loader was stopped or hangs, or the disk does not answer"),
}


def _disturb(world: _World, source: TrainSource, name: str, draw: random.Random) -> None:
    """One fault at a random moment; then the damage is mended, and the same command ends."""
    fault, message = DISTURBANCES[name]
    ranks = world.start()
    try:
        wait_for_step(world.out, draw.randrange(3, 60))
        time.sleep(draw.random() / 10)
        fault(world, ranks, draw)
        stopped = name == "stop"
        statuses = ranks.statuses(20, enough=1 if stopped else 2)
        said = "".join(ranks.said(rank) for rank in range(2))
        if statuses != [0, 0]:  # too late to disturb, or the shards were open
            assert 0 not in statuses, (name, statuses, said)
            assert sum(status is None for status in statuses) <= stopped, (name, statuses, said)
            assert "Traceback" not in said, (name, said)
            assert message is None or message in said, (name, statuses, said)
    finally:
        ranks.kill()
    for rank in range(2):
        _marker(world.folder / "pool", rank).unlink(missing_ok=True)
    for shard in Path(str(source.shards)).rglob("*.tar"):
        shutil.copy2(shard, world.folder / "pool" / shard.relative_to(str(source.shards)))


@pytest.mark.parametrize("number", range(FAULTS))
def test_a_random_fault_and_the_same_command_again(
    source: TrainSource, undisturbed: Path, tmp_path: Path, number: int
) -> None:
    draw = random.Random(number)
    name = (
        list(DISTURBANCES)[number % len(DISTURBANCES)] if number < len(DISTURBANCES) else draw.choice([*DISTURBANCES])
    )
    world = _world(tmp_path, source)
    _disturb(world, source, name, draw)
    ranks = world.start()
    try:
        assert ranks.statuses() == [0, 0], (name, ranks.said(0), ranks.said(1))
    finally:
        ranks.kill()
    assert same_training(world.out, undisturbed), name


def _short_limits() -> None:
    _hang_when_told()
    control.POLL_SECONDS = loop.POLL_SECONDS = 0.1


@pytest.mark.soak
@pytest.mark.parametrize("rank", [0, 1])
def test_a_loader_that_hangs_ends_all_ranks_with_a_word(source: TrainSource, tmp_path: Path, rank: int) -> None:
    world = _world(tmp_path, source, rank_timeout=2.0)
    with started(tmp_path / "ranks", world.settings, world.settings, prepare=_short_limits) as ranks:
        wait_for_step(world.out, 20)
        _marker(world.folder / "pool", rank).write_text("")
        assert ranks.statuses(20) == [1, 1]
        said = ranks.said(0).splitlines()
        assert re.search(rf"train: rank {rank} waits for training samples since \d+ s \(step \d\d\)", said[-2])
        assert re.fullmatch(
            rf"error: step \d\d: rank {rank} has waited for training samples for \d+ s and none came: its loader was "
            r"stopped or hangs, or the disk does not answer\. Training ended; the same command goes on from the latest "
            r"checkpoint",
            said[-1],
        )
        assert ranks.said(1) == ""


@pytest.mark.soak
def test_a_signal_while_a_rank_waits_for_its_loader_saves(
    source: TrainSource, undisturbed: Path, tmp_path: Path
) -> None:
    world = _world(tmp_path, source, rank_timeout=60.0)
    marker = _marker(world.folder / "pool", 1)
    with started(tmp_path / "ranks", world.settings, world.settings, prepare=_hang_when_told) as ranks:
        wait_for_step(world.out, 20)
        marker.write_text("")
        time.sleep(1.0)  # rank 1 has used up what was made ahead
        ranks.send(0, signal.SIGTERM)
        assert ranks.statuses(20) == [143, 143]
        assert ranks.said(0).splitlines()[-1] == "stopped; the same command goes on from the latest checkpoint"
    marker.unlink()
    steps = {path.stem for path in (world.out / "train" / "checkpoints").glob("step_*.pt")}
    assert f"step_{log_lines(world.out)[-1]['step']}" in steps  # the last finished step
    with started(tmp_path / "ranks", world.settings, world.settings) as ranks:
        assert ranks.statuses() == [0, 0], ranks.said(0)
    assert same_training(world.out, undisturbed)


_read = OpenSource.read


def _hang_later(self: OpenSource, rows: Any, samples: Any = None) -> Any:
    _hang_later.reads += 1  # type: ignore[attr-defined]
    return _hang(self, rows) if _hang_later.reads > 10 else _read(self, rows, samples)  # type: ignore[attr-defined]


def _hang_in_the_11th_read() -> None:
    _short_limits()
    _hang_later.reads = 0  # type: ignore[attr-defined]
    OpenSource.read = _hang_later  # type: ignore[method-assign]


@pytest.mark.parametrize(
    ("workers", "signalled"), [(0, True), (0, False), (1, True), pytest.param(1, False, marks=pytest.mark.soak)]
)
def test_a_disk_that_never_answers(source: TrainSource, tmp_path: Path, workers: int, signalled: bool) -> None:
    """One rank, that reads when it is asked or ahead; what was done is kept where a signal asks for the end."""
    settings = small(tmp_path / "out", source, overrides=LONG, workers=workers, rank_timeout=60 if signalled else 1.0)
    with started(tmp_path / "ranks", settings, prepare=_hang_in_the_11th_read) as ranks:
        wait_for_step(tmp_path / "out", 10)
        if signalled:
            time.sleep(0.3)
            ranks.send(0, signal.SIGUSR1)
        assert ranks.statuses(20) == [138 if signalled else 1]
        said = ranks.said(0)
    saved = [path.stem for path in (tmp_path / "out" / "train").glob("checkpoints/*")]
    assert saved == (["step_10"] if signalled else [])
    assert signalled or "step 11: the training has waited for training samples for 1 s and none came: its" in said


def test_a_signal_within_a_step_saves_the_one_before(
    source: TrainSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second micro-batch does not come: batch statistics that the first one changed are put back."""
    overrides = {"model": "dcfast-tiny", "samples_seen": 64}
    settings = small(tmp_path / "out", source, overrides=overrides, accumulation=2)
    make, waiting, ended = BatchMaker.make, threading.Event(), threading.Event()

    def make_later(self: BatchMaker, step: int, micro: int = 0, *rest: Any) -> Any:
        if (step, micro) == (3, 1) and not ended.is_set():
            waiting.set()
            ended.wait(60)
        return make(self, step, micro, *rest)

    def stop() -> None:
        waiting.wait(60)
        assert signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(BatchMaker, "make", make_later)
    stopper = threading.Thread(target=stop)
    before = signal.signal(signal.SIGTERM, signal.SIG_DFL)  # Ray leaves its own in a process that has used it
    stopper.start()
    try:
        with pytest.raises(Stopped):
            train(settings)
    finally:
        signal.signal(signal.SIGTERM, before)
    ended.set()
    stopper.join()
    assert [path.stem for path in (tmp_path / "out" / "train").glob("checkpoints/*")] == ["step_3"]
    assert train(settings).samples_seen == 64
    train(small(tmp_path / "whole", source, overrides=overrides, accumulation=2))
    assert same_training(tmp_path / "out", tmp_path / "whole")


# --- signs of life --------------------------------------------------------------------------------------------------


def test_a_heartbeat_notices_the_rank_that_stops(tmp_path: Path) -> None:
    gone: list[tuple[int, int]] = []
    beats = [
        Heartbeat(tmp_path, "now", rank, 3, 0.4, lambda other, rank=rank: gone.append((rank, other)))  # type: ignore[misc]
        for rank in range(3)
    ]
    (tmp_path / "rank-00002").write_text("before 7")  # left by a killed training: no sign of this one
    beats[0].start()
    beats[1].start()
    time.sleep(1.0)
    assert gone == []  # rank 2 has not begun
    beats[2].start()
    time.sleep(0.3)
    beats[1].stop()  # in order
    time.sleep(0.7)
    assert gone == []
    beats[2]._ended.set()  # without a word
    time.sleep(0.8)
    assert set(gone) == {(0, 2)}
    for beat in beats:
        beat.stop()
    assert not list(tmp_path.iterdir())
