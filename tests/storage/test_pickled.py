"""What travels by pickle: read by the same version alone, and files only as they were."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import pytest
from dcfast.errors import CorruptDataError, PoolError
from dcfast.storage import pickled


class Traveller:
    def __init__(self, *state: Any) -> None:
        self.state = state

    def __reduce__(self) -> Any:
        return pickled.reduced("Traveller", Traveller, *self.state)


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_the_same_version_alone_reads_a_pickle(protocol: int, monkeypatch: pytest.MonkeyPatch) -> None:
    own = pickle.dumps(Traveller(1, "a"), protocol)
    assert pickle.loads(own).state == (1, "a")
    version = pickled.core_version
    monkeypatch.setattr(pickled, "core_version", "0.0.9")
    other = pickle.dumps(Traveller(1, "a"), protocol)
    monkeypatch.setattr(pickled, "core_version", version)
    with pytest.raises(CorruptDataError, match=rf"^Traveller: pickled by dcfast 0\.0\.9, and this .* has {version};"):
        pickle.loads(other)


def test_a_file_is_as_it_was_or_refused(tmp_path: Path) -> None:
    file = tmp_path / "f"
    assert pickled.file_state(file) is None
    file.write_bytes(b"abc")
    state = pickled.file_state(file)
    pickled.check_state(file, state)
    os.utime(file, ns=(1, 1))
    with pytest.raises(PoolError, match=r"f: it has changed since .* expected 3 bytes of \d+ ns, got 3 bytes of 1 ns"):
        pickled.check_state(file, state)
    file.unlink()
    for expected in (state, None):
        with pytest.raises(PoolError, match=r"f: it has changed since .*, got no file"):
            pickled.check_state(file, expected)
