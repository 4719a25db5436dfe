"""Shards behind a URL as files for a while: their pictures where they lie, and nothing of a shard that has changed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import dcfast
import numpy as np
import pytest
from dcfast.errors import CorruptDataError
from dcfast.index import fetched
from dcfast.index.fetched import near_shards
from dcfast.index.segments import Segment
from dcfast.storage.http import RemoteOptions
from object_server import ObjectServer, serve_objects
from pool_builder import PoolBuilder, Sample

pytest.importorskip("aiohttp", reason="shards behind URLs need dcfast[remote]")

QUICK = RemoteOptions(retries=1, backoff_s=0.001, timeout_s=20)


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ObjectServer]:
    monkeypatch.setenv("TMPDIR", str(tmp_path / "temporary"))
    monkeypatch.setattr("tempfile.tempdir", None)
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(fetched, "PATIENT", QUICK)
    monkeypatch.setattr(fetched, "_RANGE", 1000)
    drawn = np.random.default_rng(0)
    samples = [Sample(n, jpg=drawn.bytes(300 * n), txt=b"t" * 5000) for n in range(9)]
    samples.append(Sample(9, without=("jpg",)))
    PoolBuilder(tmp_path / "pool", [samples[:5], samples[5:]]).write()
    with serve_objects(tmp_path / "pool") as state:
        yield state


def test_pictures_lie_where_they_did(server: ObjectServer, tmp_path: Path) -> None:
    dcfast.refresh_index(tmp_path / "index", server.url("/shards"), remote=QUICK)
    segments = [Segment.open(path) for path in sorted((tmp_path / "index").glob("*.dcx"))]
    server.forget()
    for segment in segments:
        shard, offset, size = segment.image_places()
        with near_shards(segment, server.url("/shards")) as paths:
            for place, begin, count in zip(shard.tolist(), offset.tolist(), size.tolist(), strict=True):
                if place >= 0:
                    whole = (tmp_path / "pool/shards" / segment.shard_names[place]).read_bytes()
                    near = Path(paths[place]).read_bytes()
                    assert len(near) == len(whole)
                    assert near[begin : begin + count] == whole[begin : begin + count]
    assert list((tmp_path / "temporary").iterdir()) == []
    assert 0 < server.sent < sum(path.stat().st_size for path in (tmp_path / "pool/shards").iterdir())
    with near_shards(segments[0], str(tmp_path / "pool/shards")) as paths:
        assert paths == [str(tmp_path / "pool/shards" / name) for name in segments[0].shard_names]


def test_a_shard_that_changed_is_refused(server: ObjectServer, tmp_path: Path) -> None:
    dcfast.refresh_index(tmp_path / "index", server.url("/shards"), remote=QUICK)
    segment = Segment.open(min((tmp_path / "index").glob("*.dcx")))
    server.tags[f"/shards/{segment.shard_names[0]}"] = '"anew"'
    with (
        pytest.raises(CorruptDataError, match="the shard has changed since it was indexed"),
        near_shards(segment, server.url("/shards")),
    ):
        raise AssertionError("nothing of it is handed on")
    assert list((tmp_path / "temporary").iterdir()) == []
