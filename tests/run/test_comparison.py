"""The comparison run beside a run: both are stopped at once."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from dcfast.engine import LocalEngine
from dcfast.engine.progress import Silent
from dcfast.process.signals import Stopped, postponed
from dcfast.run import comparison
from dcfast.rundir.run_dir import Run
from dcfast.rundir.settings import Settings


def _train(base: str, *rest: Any) -> dict[str, Any]:
    """In place of the branch: a training that saves when it is asked to end."""
    with postponed() as asked:
        (Path(base) / "begun").touch()
        while asked() is None:
            time.sleep(0.02)
        (Path(base) / "saved").touch()
    return {}


def _wait_for(path: Path) -> None:
    deadline = time.monotonic() + 60
    while not path.exists():
        assert time.monotonic() < deadline, path
        time.sleep(0.02)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_both_trainings_hear_a_signal_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    monkeypatch.setattr(comparison, "_beside", _train)
    other = comparison.Comparison(
        Run(tmp_path, Settings(device="cpu")), "train", LocalEngine(2), overwrite=False, show=Silent, say=print
    )

    def train_both() -> None:
        with other:
            other.start()
            _wait_for(tmp_path / "begun")
            with postponed():
                assert signal.getsignal(number) is not signal.SIG_DFL
                os.kill(os.getpid(), number)
                _wait_for(tmp_path / "saved")  # while this one is still at it

    with pytest.raises(Stopped):
        train_both()
