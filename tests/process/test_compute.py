"""Threads and devices as every operation takes them, and old names of keywords."""

from __future__ import annotations

import subprocess
import sys

import dcfast
import numpy as np
import pytest
from dcfast.process.compute import MAX_THREADS, device_name, thread_count
from dcfast.process.renamed import Renamed, takes_old_names


def test_thread_counts() -> None:
    assert [thread_count(n) for n in (None, 1, np.int64(7), MAX_THREADS)] == [0, 1, 7, MAX_THREADS]


@pytest.mark.parametrize("wrong", [-1, MAX_THREADS + 1, 10**30, True, False, 1.5, 1.0, "2", [1], np.bool_(True)])
def test_other_thread_counts(wrong: object) -> None:
    with pytest.raises(ValueError, match=rf"^workers must be None or a whole number from 1 to {MAX_THREADS}; got"):
        thread_count(wrong, "workers")


def test_no_threads_are_all_cores_for_a_release() -> None:
    said = r"^threads=0 is threads=None now: all cores; the old form goes with a later release$"
    for zero in (0, np.int64(0)):
        with pytest.warns(DeprecationWarning, match=said) as caught:
            assert thread_count(zero) == 0
        assert caught[0].filename == __file__
    with pytest.warns(DeprecationWarning, match=said) as caught:  # behind a decorator and a function of dcfast, too
        dcfast.read_members(dcfast.index_tars([]), [], threads=0)
    assert {warning.filename for warning in caught} == {__file__}


def test_devices() -> None:
    torch = pytest.importorskip("torch")
    given = ["cpu", "cpu:0", "cuda", "cuda:3", torch.device("cpu"), torch.device("cuda", 2), "meta"]
    assert [device_name(device) for device in given] == ["cpu", "cpu", "cuda", "cuda:3", "cpu", "cuda:2", "meta"]


@pytest.mark.parametrize(
    ("wrong", "error"),
    [("gpu", ValueError), ("", ValueError), ("cuda:", ValueError), ("cuda:-1", ValueError), (0, TypeError),
     (None, TypeError), (b"cpu", TypeError)],
)  # fmt: skip
def test_other_devices(wrong: object, error: type[Exception]) -> None:
    pytest.importorskip("torch")
    with pytest.raises(error, match=r"^device must be .*; got"):
        device_name(wrong)  # type: ignore[arg-type]


def test_a_device_by_its_name_needs_no_torch() -> None:
    code = "import sys; from dcfast.process import compute; compute.device_name('cuda'); print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"


@takes_old_names(Renamed("mode", "missing", {"error": "raise"}), Renamed("missing", "absent", {"none": "skip"}))
def function(*, missing: str = "skip", absent: str = "raise") -> tuple[str, str]:
    return missing, absent


def test_old_names_go_on() -> None:
    assert function(missing="raise") == ("raise", "raise")
    with pytest.warns(DeprecationWarning, match=r"^function: mode='error' is missing='raise' now; ") as caught:
        assert function(mode="error") == ("raise", "raise")  # type: ignore[call-arg]
    assert caught[0].filename == __file__  # of who calls
    with pytest.warns(DeprecationWarning, match=r"^function: missing='none' is absent='skip' now; "):
        assert function(missing="none") == ("skip", "skip")
    with pytest.warns(DeprecationWarning, match="is missing="):  # what has no hash is no value that was renamed
        assert function(mode=["raise"]) == (["raise"], "raise")  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="mode is an old name of missing; pass missing alone"):
        function(mode="error", missing="raise")  # type: ignore[call-arg]
