"""Ranks: who says which one this is, what must be the same on all, and what they say when they are not."""

from __future__ import annotations

import os
import re
import signal
import socket
import sys
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from dcfast.errors import RunError
from dcfast.run import run
from dcfast.rundir.training_summary import TrainingSummary
from dcfast.storage.records import read_record
from dcfast.train import TrainSource, launch, meeting, train
from dcfast.train.address import first_node, meeting_address
from dcfast.train.place import Place, alone, place_of
from dcfast.train.ranks import Ranks, code_version, lost_peer
from dcfast.train.settings import differences
from rank_processes import started, wait_for_step
from train_builder import build_pool, small

pytestmark = pytest.mark.xdist_group("ranks")


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> TrainSource:
    return TrainSource(shards=str(build_pool(tmp_path_factory.mktemp("pool"), 60)))


TORCHRUN = {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1"}
SLURM = {"SLURM_PROCID": "4", "SLURM_NTASKS": "6", "SLURM_LOCALID": "0"}


@pytest.mark.parametrize(
    ("environment", "place"),
    [
        ({}, Place()),
        (TORCHRUN, Place(1, 2, 1, "torchrun")),
        (SLURM, Place(4, 6, 0, "Slurm")),
        # torchrun within a task of Slurm
        ({**SLURM, **TORCHRUN, "TORCHELASTIC_RUN_ID": "none"}, Place(1, 2, 1, "torchrun")),
        # ranks that each task of Slurm has started, as many as its node has GPUs
        ({**SLURM, "RANK": "5", "WORLD_SIZE": "12"}, Place(5, 12, None, "torchrun")),
        ({**SLURM, "RANK": "4", "WORLD_SIZE": "6"}, Place(4, 6, None, "torchrun")),
        # a batch script of a job with six tasks is one process, a step of it may have fewer tasks
        ({**SLURM, "SLURM_JOB_ID": "7"}, Place()),
        ({**SLURM, "SLURM_JOB_ID": "7", "SLURM_STEP_ID": "0"}, Place(4, 6, 0, "Slurm")),
        ({**SLURM, "SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": "5", "SLURM_JOB_ID": "7"}, Place(4, 5, 0, "Slurm")),
        ({"OMPI_COMM_WORLD_RANK": "3", "OMPI_COMM_WORLD_SIZE": "4", "OMPI_COMM_WORLD_LOCAL_RANK": "1"},
         Place(3, 4, 1, "Open MPI")),
        ({"PMI_RANK": "0", "PMI_SIZE": "2"}, Place(0, 2, None, "MPI")),
        # how many of them share this machine
        ({**TORCHRUN, "LOCAL_WORLD_SIZE": "2"}, Place(1, 2, 1, "torchrun", 2)),
        ({"OMPI_COMM_WORLD_RANK": "3", "OMPI_COMM_WORLD_SIZE": "4", "OMPI_COMM_WORLD_LOCAL_RANK": "1",
          "OMPI_COMM_WORLD_LOCAL_SIZE": "2"}, Place(3, 4, 1, "Open MPI", 2)),
        ({"PMI_RANK": "1", "PMI_SIZE": "4", "MPI_LOCALRANKID": "1", "MPI_LOCALNRANKS": "4"}, Place(1, 4, 1, "MPI", 4)),
        ({**SLURM, "SLURM_NODEID": "2", "SLURM_TASKS_PER_NODE": "2(x2),1,1"}, Place(4, 6, 0, "Slurm", 1)),
        ({**SLURM, "SLURM_NODEID": "1", "SLURM_TASKS_PER_NODE": "5(x2)", "SLURM_STEP_TASKS_PER_NODE": "3(x2)"},
         Place(4, 6, 0, "Slurm", 3)),
        ({**SLURM, "SLURM_TASKS_PER_NODE": "3(x2)"}, Place(4, 6, 0, "Slurm")),  # of which node?
        ({**SLURM, "SLURM_NODEID": "7", "SLURM_TASKS_PER_NODE": "3(x2)"}, Place(4, 6, 0, "Slurm")),
        ({**SLURM, "SLURM_NODEID": "0", "SLURM_TASKS_PER_NODE": "many"}, Place(4, 6, 0, "Slurm")),
        ({**SLURM, "SLURM_NODEID": "0", "SLURM_TASKS_PER_NODE": "8"}, Place(4, 6, 0, "Slurm")),  # of the whole job
        # mpirun within a job of Slurm: its daemon is a step of one task
        ({"OMPI_COMM_WORLD_RANK": "9", "OMPI_COMM_WORLD_SIZE": "16", "OMPI_COMM_WORLD_LOCAL_RANK": "1",
          "SLURM_PROCID": "0", "SLURM_STEP_ID": "1", "SLURM_STEP_NUM_TASKS": "1"}, Place(9, 16, 1, "Open MPI")),
        ({"WORLD_SIZE": "1"}, Place(started_by="torchrun")),
        ({"MV2_COMM_WORLD_RANK": "3", "MV2_COMM_WORLD_SIZE": "4", "MV2_COMM_WORLD_LOCAL_RANK": "1",
          "MV2_COMM_WORLD_LOCAL_SIZE": "2", "SLURM_PROCID": "1", "SLURM_NTASKS": "2"}, Place(3, 4, 1, "MVAPICH2", 2)),
        # a rank of 0 says of no other one
        ({"RANK": "0", "LOCAL_RANK": "0"}, Place()),
        ({"RANK": "0", "WORLD_SIZE": "1", "LOCAL_WORLD_SIZE": "1"}, Place(started_by="torchrun")),
        ({"LOCAL_RANK": "-1"}, Place()),  # as some programs say that there is one process
        ({"RANK": "4", **SLURM}, Place(4, 6, 0, "Slurm")),  # another starter says how many
        ({"SLURM_JOB_ID": "7", "SLURM_PROCID": "0", "SLURM_NNODES": "2"}, Place()),
    ],
)  # fmt: skip
def test_the_place_of_a_process(environment: dict[str, str], place: Place) -> None:
    assert place_of(environment) == place


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"WORLD_SIZE": "two"}, "WORLD_SIZE must be a whole number; got 'two'"),
        ({"WORLD_SIZE": "2"}, "WORLD_SIZE says 2 ranks, but RANK is not set"),
        ({"WORLD_SIZE": "2", "RANK": "2"}, "RANK=2 does not fit WORLD_SIZE=2; expected 0 to 1"),
        ({"SLURM_NTASKS": "2", "SLURM_PROCID": "x"}, "SLURM_PROCID must be a whole number"),
        ({"RANK": "1", "WORLD_SIZE": "1"}, "RANK=1 does not fit WORLD_SIZE=1; expected 0 to 0"),
        ({"RANK": "1"}, "^RANK=1 says that there are other ranks, but WORLD_SIZE is not set: it would train alone"),
        ({"RANK": "0", "LOCAL_WORLD_SIZE": "2"}, "^LOCAL_WORLD_SIZE=2 says .*, but WORLD_SIZE is not set"),
        ({"LOCAL_RANK": "1"}, "^LOCAL_RANK=1 says .*, but WORLD_SIZE is not set"),
        ({"SLURM_JOB_ID": "7", "SLURM_STEP_ID": "0", "SLURM_PROCID": "1"},
         "^SLURM_PROCID=1 says .*, but SLURM_STEP_NUM_TASKS or SLURM_NTASKS is not set"),
        ({"OMPI_COMM_WORLD_RANK": "1"}, "^OMPI_COMM_WORLD_RANK=1 says .*, but OMPI_COMM_WORLD_SIZE is not set"),
        # a daemon of one task, which starts them
        ({"OMPI_COMM_WORLD_RANK": "1", "SLURM_PROCID": "0", "SLURM_STEP_ID": "1", "SLURM_STEP_NUM_TASKS": "1"},
         "^OMPI_COMM_WORLD_RANK=1 says"),
        ({"MV2_COMM_WORLD_RANK": "1"}, "^MV2_COMM_WORLD_RANK=1 says .*, but MV2_COMM_WORLD_SIZE is not set"),
        ({"PMI_RANK": "1"}, "^PMI_RANK=1 says .*, but PMI_SIZE is not set"),
        ({"PMIX_RANK": "1"}, "^PMIX_RANK=1 says .*, but how many there are is not set"),
        ({"RANK": "one"}, "RANK must be a whole number; got 'one'"),
        # two that start ranks, and do not agree
        ({**TORCHRUN, **SLURM, "SLURM_PROCID": "0", "SLURM_NTASKS": "2"},
         "^RANK=1 and Slurm's SLURM_PROCID=0 disagree about which rank this is: unset RANK"),
        ({**TORCHRUN, **SLURM, "SLURM_NTASKS": "3", "SLURM_PROCID": "1"},
         "^WORLD_SIZE=2 and Slurm's SLURM_NTASKS=3 disagree"),
        ({**TORCHRUN, "OMPI_COMM_WORLD_RANK": "0", "OMPI_COMM_WORLD_SIZE": "2"},
         "^RANK=1 and Open MPI's OMPI_COMM_WORLD_RANK=0 disagree"),
    ],
)  # fmt: skip
def test_variables_that_make_no_sense(environment: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        place_of(environment)


@pytest.mark.parametrize(
    ("nodes", "first"),
    [
        ("n1", "n1"),
        ("n[1-2]", "n1"),
        ("gpu-[07-10,12],login", "gpu-07"),
        ("rack[02-03]n[1,4],x", "rack02n1"),
        ("a,b[1-2]", "a"),
        ("tux[0009-0011].cluster.org", "tux0009.cluster.org"),
        ("", ""),
    ],
)
def test_the_first_of_slurms_nodes(nodes: str, first: str) -> None:
    assert first_node(nodes) == first


def test_where_slurms_ranks_meet() -> None:
    job = {"SLURM_JOB_ID": "1234", "SLURM_JOB_NODELIST": "n[3-4]", "SLURM_STEP_ID": "2"}
    names = "SLURM_JOB_NODELIST and SLURM_JOB_ID"
    assert meeting_address(job) == ("n3", str(20_000 + 8640), names)
    assert meeting_address({**job, "SLURM_STEP_NODELIST": "n4"})[0] == "n4"
    given = {"MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "29500"}
    assert meeting_address({**job, **given}) == ("10.0.0.1", "29500", "MASTER_ADDR and MASTER_PORT")
    for name in given:
        with pytest.raises(ValueError, match=f"^{name}$"):
            meeting_address({**given, name: ""})


def test_slurms_ranks_must_divide_the_batch(
    source: TrainSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"SLURM_PROCID": "0", "SLURM_NTASKS": "3", "SLURM_LOCALID": "0"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=r"batch 8 does not divide among 3 ranks .* that do: 1, 2, 4, 8\. Start one"):
        train(small(tmp_path, source))
    monkeypatch.setenv("SLURM_NTASKS", "2")
    with pytest.raises(ValueError, match="Slurm started 2 ranks, but not where they meet: set MASTER_ADDR"):
        train(small(tmp_path, source))


def test_a_rank_that_works_for_all_counts_as_the_only_one(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in TORCHRUN.items():
        monkeypatch.setenv(name, value)
    with alone():
        assert place_of() == Place()
        with alone(False):
            assert place_of().size == 2
        assert place_of() == Place()
    assert place_of().rank == 1


def test_a_rank_without_a_number_of_ranks_does_nothing(
    source: TrainSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PMI_RANK", "1")
    for start in (lambda: run(tmp_path / "out"), lambda: launch(small(tmp_path / "out", source))):
        with pytest.raises(ValueError, match="PMI_RANK=1 says that there are other ranks, but PMI_SIZE is not set"):
            start()
    assert not (tmp_path / "out").exists()


def test_differences_of_nested_records() -> None:
    first = {"a": 1, "b": {"c": [1, 2], "d": 3}}
    assert differences(first, {"a": 1, "b": {"c": [1, 2], "d": 3}}) == []
    assert differences(first, {"a": 2, "b": {"c": [1, 3]}}) == [
        ("a", 1, 2),
        ("b.c", [1, 2], [1, 3]),
        ("b.d", 3, None),
    ]
    assert code_version() == code_version()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"seed": 1}, "differ in settings.seed: 0 on rank 0, 1 on rank 1"),
        pytest.param(
            {"save_every_steps": 3},
            "differ in settings.save_every_steps: None on rank 0, 3 on rank 1",
            marks=pytest.mark.soak,
        ),
        ({"overrides": {"global_batch": 16}}, "differ in settings.overrides.global_batch: 8 on rank 0, 16 on rank 1"),
    ],
)
def test_ranks_with_other_settings_end_at_once(
    source: TrainSource, tmp_path: Path, change: dict[str, Any], said: str
) -> None:
    settings = small(tmp_path / "out", source)
    if "overrides" in change:
        change = {"overrides": {**settings.overrides, **change["overrides"]}}
    with started(tmp_path / "ranks", settings, replace(settings, **change)) as ranks:
        assert ranks.statuses() == [1, 1]
        assert said in ranks.said(0)
        assert ranks.said(0).count("\n") == 1
        assert ranks.said(1) == ""  # one line for all
    assert not (tmp_path / "out" / "train").exists()


def test_workers_and_threads_may_differ(source: TrainSource, tmp_path: Path) -> None:
    settings = small(tmp_path / "out", source, overrides={"samples_seen": 16, "checkpoints": 1})
    with started(tmp_path / "ranks", settings, replace(settings, workers=1, threads=2)) as ranks:
        assert ranks.statuses() == [0, 0]


def test_another_number_of_ranks_goes_on_and_is_noted(source: TrainSource, tmp_path: Path) -> None:
    def stop(step: int) -> None:
        if step == 6:
            raise InterruptedError

    settings = small(tmp_path / "out", source)
    with pytest.raises(InterruptedError):
        train(settings, on_step=stop)
    with started(tmp_path / "ranks", settings, settings) as ranks:
        assert ranks.statuses() == [0, 0]
        assert "from then on on 2" in ranks.said(0)
    summary = train(settings)
    noted = "steps up to 4 on 1 ranks with 1 micro-batches, from then on on 2 with 1: the samples are those"
    assert any(note.startswith(noted) for note in summary.notes)
    assert summary.samples_seen == 64


@pytest.mark.soak
def test_a_rank_that_is_killed_is_named(
    source: TrainSource, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = small(tmp_path / "out", source, overrides={"samples_seen": 8000, "checkpoints": 1})

    def kill_rank_1() -> None:
        wait_for_step(tmp_path / "out", 2)
        for entry in Path("/proc").iterdir():
            try:
                environment = (entry / "environ").read_bytes()
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except (OSError, ValueError):
                continue
            if parent == os.getpid() and b"\0RANK=1\0" in environment:
                os.kill(int(entry.name), signal.SIGKILL)

    killer = threading.Thread(target=kill_rank_1)
    killer.start()
    with pytest.raises(RunError, match=r"training on 2 processes failed: rank 1 was killed by SIGKILL \(by hand, or"):
        launch(settings, processes=2)
    killer.join()
    assert "Traceback" not in capfd.readouterr().err


@pytest.mark.soak
def test_two_ranks_that_are_launched_give_the_summary(
    source: TrainSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "none0")  # a cluster's; ranks of one machine stay on loopback
    launched = launch(small(tmp_path, source, overrides={"samples_seen": 16, "checkpoints": 1}), processes=2)
    assert launched == read_record(tmp_path / "train" / "summary.json", TrainingSummary)
    assert launched.world_size == 2
    assert not (tmp_path / "train" / "settings.json").exists()


def test_a_rank_that_fails_is_an_error(source: TrainSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(RunError, match=r"training on 2 processes failed: rank 0 ended with status 1; its"):
        launch(small(tmp_path, source), processes=2)


# --- ranks that meet ------------------------------------------------------------------------------------------------


def _meet_soon() -> None:
    meeting.MEET_SECONDS = 2.0


def _at_address(size: int) -> dict[str, str]:
    """Meet at an address as torchrun's and Slurm's ranks do, not by a file."""
    return {"DCFAST_MEETING": "", "MASTER_ADDR": "127.0.0.1", "WORLD_SIZE": str(size)}


def _free_port() -> dict[str, str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return {"MASTER_PORT": str(probe.getsockname()[1])}


@pytest.mark.parametrize("by_address", [True, False])
@pytest.mark.parametrize("sizes", [(2, 3), (3, 2)])
def test_ranks_that_were_told_different_numbers(
    source: TrainSource, tmp_path: Path, sizes: tuple[int, int], by_address: bool
) -> None:
    settings = small(tmp_path / "out", source, overrides={"global_batch": 12})
    port = _free_port()
    told = [_at_address(size) | port if by_address else {"WORLD_SIZE": str(size)} for size in sizes]
    with started(tmp_path / "ranks", settings, settings, told=told) as ranks:
        assert ranks.statuses(30) == [1, 1]
        said = f"error: rank 0 was told that there are {sizes[0]} ranks, rank 1 that there are {sizes[1]}. Start all of"
        assert [ranks.said(rank).startswith(said) for rank in range(2)] == [True, True], ranks.said(0) + ranks.said(1)
        assert ranks.said(0).count("\n") == 1
    assert not (tmp_path / "out" / "train" / "log.jsonl").exists()


def test_too_few_ranks(source: TrainSource, tmp_path: Path) -> None:
    settings = small(tmp_path / "out", source)
    told = [_at_address(4) | _free_port()] * 2
    with started(tmp_path / "ranks", settings, settings, told=told, prepare=_meet_soon) as ranks:
        assert ranks.statuses(30) == [1, 1]
        for rank in range(2):
            said = (
                "error: of 4 ranks 2 came to 127.0.0.1:\\d+ within 2 s; not there: rank 2, 3. Were they started, with"
            )
            assert re.match(said, ranks.said(rank).splitlines()[-1])


def test_a_rank_without_the_first(source: TrainSource, tmp_path: Path) -> None:
    settings = small(tmp_path / "out", source)
    told = [{"RANK": "1"} | _at_address(2) | _free_port()]
    with started(tmp_path / "ranks", settings, told=told, prepare=_meet_soon) as ranks:
        assert ranks.statuses(30) == [1]
        assert re.match(
            r"error: rank 1 of 2 has no connection to rank 0 at 127.0.0.1:\d+, for which it waits 2 s \(.*\)\. Was",
            ranks.said(0).splitlines()[-1],
        )


def test_a_port_that_is_taken(source: TrainSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as taken:
        taken.bind(("", 0))
        taken.listen()
        variables = {**TORCHRUN, "RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(taken.getsockname()[1])}
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        with pytest.raises(RunError, match=r"rank 0 cannot be met at 127.0.0.1:\d+ \(.*\)\. Is MASTER_ADDR this"):
            train(small(tmp_path, source))


def test_ranks_meet_at_the_address_that_is_given_and_at_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"MASTER_ADDR": "127.0.0.1", **_free_port()}.items():
        monkeypatch.setenv(name, value)
    port = int(os.environ["MASTER_PORT"])
    store = meeting._open_store(None, 0, 2)
    store.set("here", "yes")
    listening = [
        line.split()[1]
        for table in ("tcp", "tcp6")
        for line in Path("/proc/net", table).read_text().splitlines()
        if line.split()[3] == "0A" and line.split()[1].endswith(f":{port:04X}")
    ]
    assert listening == [f"0100007F:{port:04X}"]
    with pytest.raises(RuntimeError, match="assign requested address"):
        meeting._listen("192.0.2.1", port)  # of the addresses for examples


def test_a_name_that_means_this_machine_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """As Debian's /etc/hosts has it."""
    found = socket.getaddrinfo
    monkeypatch.setattr(socket, "getaddrinfo", lambda host, *rest, **how: found("127.0.1.1", *rest, **how))
    monkeypatch.setenv("SLURM_STEP_NUM_NODES", "2")
    with pytest.raises(RuntimeError, match=r"^n1 is 127\.0\.1\.1 here, where no other machine reaches it: export M"):
        meeting._listen("n1", 0)
    monkeypatch.setenv("SLURM_STEP_NUM_NODES", "1")
    os.close(meeting._listen("n1", 0))


def test_a_port_that_is_none(source: TrainSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {**TORCHRUN, "RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "x"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match="MASTER_PORT must be a number from 0 to 65535; got 'x'"):
        train(small(tmp_path, source))


def test_ranks_at_an_address_that_lose_one_say_so_in_a_sentence(source: TrainSource, tmp_path: Path) -> None:
    """Nobody of ours started them: what torch says of it is a page."""
    settings = small(tmp_path / "out", source, overrides={"samples_seen": 8000, "checkpoints": 1})
    told = [_at_address(2) | _free_port()] * 2
    with started(tmp_path / "ranks", settings, settings, told=told) as ranks:
        wait_for_step(tmp_path / "out", 2)
        ranks.send(1, signal.SIGKILL)
        assert ranks.statuses(30) == [1, -signal.SIGKILL]
        assert ranks.said(0).splitlines()[-1] == (
            "error: rank 0: another rank has gone; what happened is in its own message. The same command goes on from "
            "the latest checkpoint"
        )
        assert "gloo" not in ranks.said(0)


def test_a_checkpoint_of_another_training_is_refused_once(source: TrainSource, tmp_path: Path) -> None:
    settings = small(tmp_path / "out", source)
    train(settings)
    other = replace(settings, seed=1)
    with started(tmp_path / "ranks", other, other) as ranks:
        assert ranks.statuses() == [1, 1]
        assert "is of another training (seed: 0 there, 1 now)" in ranks.said(0)
        assert ranks.said(1) == ""


def test_an_error_of_one_rank_is_that_of_all() -> None:
    class Two(Ranks):
        """Rank 0 of two; the other one has failed."""

        def gather(self, value: Any) -> list[Any]:
            return [value, RunError("on rank 1")]

    with pytest.raises(RunError, match="on rank 1"), Two(0, 2).together():
        pass
    with pytest.raises(OSError, match="mine"), Two(0, 2).together():
        raise OSError("mine")


def test_two_ranks_on_one_gpu_are_refused() -> None:
    class Three(Ranks):
        """One of three, whose GPUs are known."""

        def gather(self, value: Any) -> list[Any]:
            return [["a", "gpu-1"], ["b", "gpu-1"], value]

    Three(2, 3).check_gpus(["a", "gpu-2"])
    Three(2, 3).check_gpus(["a", ""])
    with pytest.raises(RunError, match="ranks 0 and 2 would both train on one GPU of a: start as many ranks"):
        Three(2, 3).check_gpus(["a", "gpu-1"])


def test_numbers_of_processes_that_make_no_sense(source: TrainSource, tmp_path: Path) -> None:
    for count, message in ((0, "processes must be at least 1"), (-1, "at least 1; got -1"), (3, "ranks that do: 1, 2")):
        with pytest.raises(ValueError, match=message):
            launch(small(tmp_path / "out", source), processes=count)
    assert not (tmp_path / "out").exists()


def test_an_error_of_our_own_is_no_lost_rank() -> None:
    two = Ranks(0, 2)
    assert lost_peer(RuntimeError("[gloo/transport/tcp/pair.cc] Connection closed by peer"), two)
    assert not lost_peer(RunError("a shard of /data/igloo cannot be read"), two)
    assert not lost_peer(RuntimeError("gloo"), Ranks())
